//! Where the tensors of KV rows come from: buffers of their own, or ranges of buffers that many sequences share, so
//! that one dispatch serves them all.
//!
//! A dispatch serves rows of one format, so rows of each format have buffers of their own: among tensors of other sizes
//! those of one format would end up in different buffers.

use std::sync::{Arc, Mutex, PoisonError};

use super::kv_row::Format;
use crate::gpu::{Arena, Class, Gpu, Tensor};

const CENTRE: &str = "centre of the keys";

/// What a tensor of KV rows holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Packed keys.
    Keys,
    /// Packed values.
    Values,
    /// Their steps.
    Steps,
    /// Row tables.
    Book,
}

impl Part {
    const ALL: [Self; 4] = [Self::Keys, Self::Values, Self::Steps, Self::Book];

    fn label(self) -> &'static str {
        ["k words", "v words", "steps", "row book"][self as usize]
    }
}

/// A source of tensors for KV rows. What they hold at first is not defined.
pub trait KvMemory {
    /// The device.
    fn gpu(&self) -> &Gpu;
    /// A tensor of `len` words, for rows of this format.
    fn words(&self, format: Format, part: Part, len: usize) -> Tensor<u32>;
    /// A tensor of `len` values, to store keys relative to.
    fn centre(&self, len: usize) -> Tensor<f32>;
}

impl KvMemory for Gpu {
    fn gpu(&self) -> &Gpu {
        self
    }

    fn words(&self, _: Format, part: Part, len: usize) -> Tensor<u32> {
        self.tensor(Class::Kv, part.label(), len)
    }

    fn centre(&self, len: usize) -> Tensor<f32> {
        self.tensor(Class::Kv, CENTRE, len)
    }
}

/// Buffers that the rows of many sequences lie in: those of one layer. Clones share them.
#[derive(Debug, Clone)]
pub struct KvArena {
    gpu: Gpu,
    arenas: Arc<Mutex<Arenas>>,
    /// Sequences that a new buffer is made for.
    expect: usize,
}

#[derive(Debug)]
struct Arenas {
    /// Of each format that there was so far, in the order of [`Part::ALL`].
    words: Vec<(Format, [Arena<u32>; 4])>,
    centre: Arena<f32>,
}

impl KvArena {
    /// An arena whose buffers are made for `expect` sequences like the first one.
    pub fn new(gpu: &Gpu, expect: usize) -> Self {
        let arenas = Arenas { words: Vec::new(), centre: Arena::new(gpu, Class::Kv, CENTRE) };
        Self { gpu: gpu.clone(), arenas: Arc::new(Mutex::new(arenas)), expect }
    }
}

impl KvMemory for KvArena {
    fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    fn words(&self, format: Format, part: Part, len: usize) -> Tensor<u32> {
        let mut arenas = self.arenas.lock().unwrap_or_else(PoisonError::into_inner);
        let place = arenas.words.iter().position(|(own, _)| *own == format).unwrap_or_else(|| {
            let arenas_of = |part: Part| Arena::new(&self.gpu, Class::Kv, part.label());
            arenas.words.push((format, Part::ALL.map(arenas_of)));
            arenas.words.len() - 1
        });
        arenas.words[place].1[part as usize].tensor(len, self.expect)
    }

    fn centre(&self, len: usize) -> Tensor<f32> {
        self.arenas.lock().unwrap_or_else(PoisonError::into_inner).centre.tensor(len, self.expect)
    }
}
