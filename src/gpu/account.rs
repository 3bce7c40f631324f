//! Who holds how many bytes on the device, and how many objects were ever made.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a buffer is for; the memory report is split by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Model weights.
    Weights,
    /// Rows of the KV cache and their tables.
    Kv,
    /// Activations, logits, parameters and staging.
    Scratch,
}

/// Bytes on the device, by [`Class`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Model weights.
    pub weights: u64,
    /// KV cache.
    pub kv: u64,
    /// Everything else.
    pub scratch: u64,
    /// The largest sum of the three so far.
    pub peak: u64,
}

impl Bytes {
    /// All that is held now.
    pub fn total(&self) -> u64 {
        self.weights + self.kv + self.scratch
    }
}

/// How many device objects were created so far; a warm decode step leaves them unchanged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Buffers.
    pub buffers: u64,
    /// Bind groups.
    pub bind_groups: u64,
    /// Pipelines.
    pub pipelines: u64,
    /// Dispatches recorded.
    pub dispatches: u64,
    /// Barriers that wgpu sets between recorded dispatches of one pass.
    pub barriers: u64,
}

/// The books behind [`Bytes`] and [`Counters`].
#[derive(Debug, Default)]
pub(super) struct Account {
    by_class: [AtomicU64; 3],
    total: AtomicU64,
    peak: AtomicU64,
    pub buffers: AtomicU64,
    pub bind_groups: AtomicU64,
    pub pipelines: AtomicU64,
    pub dispatches: AtomicU64,
    pub barriers: AtomicU64,
}

impl Account {
    pub fn add(&self, class: Class, bytes: u64) {
        self.buffers.fetch_add(1, Relaxed);
        self.by_class[class as usize].fetch_add(bytes, Relaxed);
        let now = self.total.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(now, Relaxed);
    }

    pub fn remove(&self, class: Class, bytes: u64) {
        self.by_class[class as usize].fetch_sub(bytes, Relaxed);
        self.total.fetch_sub(bytes, Relaxed);
    }

    /// Forgets the peak, so that the next reading covers only what comes now.
    pub fn reset_peak(&self) {
        self.peak.store(self.total.load(Relaxed), Relaxed);
    }

    pub fn bytes(&self) -> Bytes {
        let class = |c: Class| self.by_class[c as usize].load(Relaxed);
        Bytes {
            weights: class(Class::Weights),
            kv: class(Class::Kv),
            scratch: class(Class::Scratch),
            peak: self.peak.load(Relaxed),
        }
    }

    pub fn counters(&self) -> Counters {
        Counters {
            buffers: self.buffers.load(Relaxed),
            bind_groups: self.bind_groups.load(Relaxed),
            pipelines: self.pipelines.load(Relaxed),
            dispatches: self.dispatches.load(Relaxed),
            barriers: self.barriers.load(Relaxed),
        }
    }
}
