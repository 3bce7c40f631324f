//! Where the rows of a sequence lie: in buffers of its own, or among those of others in one engine.

use std::sync::Arc;

use crate::gpu::Gpu;
use crate::kernels::kv_memory::{KvArena, KvMemory};

/// What a cache takes its pools from.
#[derive(Debug, Clone)]
pub enum Memory {
    /// Buffers of its own.
    Own(Gpu),
    /// For each layer, buffers that the caches of many sequences share, so that one dispatch serves all of them.
    Shared(Arc<[KvArena]>),
}

impl Memory {
    /// Buffers that are made for about `sequences` caches of `layers` layers.
    pub fn shared(gpu: &Gpu, layers: usize, sequences: usize) -> Self {
        Self::Shared((0..layers).map(|_| KvArena::new(gpu, sequences)).collect())
    }

    /// That of one layer.
    pub(super) fn layer(&self, layer: usize) -> &dyn KvMemory {
        match self {
            Self::Own(gpu) => gpu,
            Self::Shared(layers) => &layers[layer],
        }
    }

    /// The device.
    pub(super) fn gpu(&self) -> &Gpu {
        self.layer(0).gpu()
    }
}
