//! Rows of the KV cache: one layer's tensors, and the book that says which rows live.
//!
//! A row is one token's key or value of one KV head, packed as `kv_code.rs` draws it.
//!
//! ```text
//!   words  [slot][KV head][words of a row]      steps [slot][KV head]   │ f16 of the value │ f16 of the key │
//!   book   [set][region][capacity]   region 0: slot of the i-th live row, a permutation of all slots
//!                                           1: position, by slot        2, 3: accumulators A and B, by slot
//!                                           3, of merged rows: what is added to a row's logits, f32
//! ```

use super::kv_code::KvBits;
use super::kv_memory::{KvMemory, Part};
use crate::gpu::{Binding, ShaderKey, Tensor};
use crate::{Error, Result};

/// The heads of one attention layer; query head `h` reads KV head `h / group()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Heads {
    /// Query heads, a multiple of `kv`.
    pub query: usize,
    /// KV heads.
    pub kv: usize,
    /// Dimensions of a head.
    pub dim: usize,
}

impl Heads {
    /// Query heads per KV head.
    pub fn group(&self) -> usize {
        self.query / self.kv.max(1)
    }

    /// Values of a token's queries.
    pub fn q_width(&self) -> usize {
        self.query * self.dim
    }

    /// Values of a token's keys, and of its values.
    pub fn kv_width(&self) -> usize {
        self.kv * self.dim
    }

    /// Values of a token's queries, keys and values in one row.
    pub fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }
}

/// How K and V rows are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Format {
    /// Bits of a key's values.
    pub k: KvBits,
    /// Bits of a value's values.
    pub v: KvBits,
}

impl Format {
    /// f16 rows for both.
    pub const F16: Self = Self::both(KvBits::Sixteen);

    /// The same width for both.
    pub const fn both(bits: KvBits) -> Self {
        Self { k: bits, v: bits }
    }

    /// True when either has a step.
    pub fn quantised(self) -> bool {
        self.k.quantised() || self.v.quantised()
    }

    /// Words of the steps of a token's row in one KV head.
    pub(crate) fn steps_per_row(self) -> usize {
        usize::from(self.quantised())
    }

    /// Values that a head must be a multiple of to have such rows.
    pub(crate) fn multiple(self) -> usize {
        self.k.multiple().max(self.v.multiple())
    }

    /// Bytes of one token in one layer.
    pub fn bytes_per_token(self, heads: Heads) -> u64 {
        let words = self.k.words_per_row(heads.dim) + self.v.words_per_row(heads.dim) + self.steps_per_row();
        4 * (heads.kv * words) as u64
    }
}

/// The coordinates that the rows of a layer are stored in, the same for all its formats, so that one query and
/// one output serve them all.
///
/// Subtracting one vector from every key changes no attention, and leaves less to quantise.
#[derive(Debug, Clone)]
pub struct Basis {
    /// Keys are Hadamard-transformed.
    pub k_rotated: bool,
    /// Values are.
    pub v_rotated: bool,
    /// What is subtracted from every key before its transform, `[G * hd]`; zeros until the layer's first block
    /// sets it. Read only when `k_rotated`.
    pub centre: Tensor<f32>,
}

impl Basis {
    /// The basis of a layer whose rows have these formats.
    pub fn new(memory: &dyn KvMemory, heads: Heads, formats: &[Format]) -> Self {
        let k_rotated = formats.iter().any(|f| f.k.quantised());
        let v_rotated = formats.iter().any(|f| f.v.quantised());
        let len = if k_rotated { heads.kv_width() } else { 0 };
        Self { k_rotated, v_rotated, centre: zeros(memory, len) }
    }

    /// The same coordinates with a centre of their own, not yet set.
    pub fn renewed(&self, memory: &dyn KvMemory) -> Self {
        Self { centre: zeros(memory, self.centre.len()), ..*self }
    }
}

fn zeros(memory: &dyn KvMemory, len: usize) -> Tensor<f32> {
    let centre = memory.centre(len);
    memory.gpu().write(&centre, 0, &vec![0.0; len]);
    centre
}

/// One layer's rows of one format: packed rows in slots, and the book that says which slots live and in what order.
#[derive(Debug, Clone)]
pub struct KvRows {
    /// Widths of keys and values.
    pub format: Format,
    /// The coordinates that they are stored in.
    pub basis: Basis,
    /// Keys, `[capacity][KV head][words of a row]`.
    pub k_words: Tensor<u32>,
    /// Values, as the keys.
    pub v_words: Tensor<u32>,
    /// Steps of both, `[capacity][KV head]`.
    pub steps: Tensor<u32>,
    /// `sets` tables of four regions of `capacity` words.
    pub book: Tensor<u32>,
    /// Slots.
    pub capacity: usize,
    /// Tables: 1 when all KV heads keep the same rows, else one per KV head.
    pub sets: usize,
    /// The layer's heads.
    pub heads: Heads,
    /// A row may stand for several: what is added to its logits takes the place of accumulator B.
    pub merged: bool,
}

impl KvRows {
    /// An empty cache of `capacity` slots (at least one) whose tables list the slots in order.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when `heads.dim` does not suit a width, [`Error::Invalid`] when `sets` is neither 1
    /// nor the number of KV heads.
    pub fn new(
        memory: &dyn KvMemory,
        heads: Heads,
        format: Format,
        basis: &Basis,
        capacity: usize,
        sets: usize,
    ) -> Result<Self> {
        let multiple = format.multiple();
        if heads.dim == 0 || !heads.dim.is_multiple_of(multiple) {
            let (k, v, dim) = (format.k.bits(), format.v.bits(), heads.dim);
            return Err(Error::Unsupported {
                need: format!("KV rows of {k} and {v} bits on heads of {dim}"),
                have: format!("such rows only for multiples of {multiple}; 16 bits need a multiple of 8"),
            });
        }
        if sets != 1 && sets != heads.kv {
            return Err(Error::Invalid(format!(
                "{sets} row tables for {} KV heads: one or one each",
                heads.kv
            )));
        }
        Ok(Self::allocate(memory, heads, format, basis, capacity, sets))
    }

    /// An empty cache like this one, in a basis of the same formats.
    pub fn another(&self, memory: &dyn KvMemory, basis: &Basis, capacity: usize) -> Self {
        let rows = Self::allocate(memory, self.heads, self.format, basis, capacity, self.sets);
        Self { merged: self.merged, ..rows }
    }

    fn allocate(
        memory: &dyn KvMemory,
        heads: Heads,
        format: Format,
        basis: &Basis,
        capacity: usize,
        sets: usize,
    ) -> Self {
        let capacity = capacity.max(1);
        let tensor = |part, per_row: usize| memory.words(format, part, capacity * heads.kv * per_row);
        let slots = (0..capacity as u32).chain(std::iter::repeat_n(0, 3 * capacity));
        let tables: Vec<u32> = (0..sets).flat_map(|_| slots.clone()).collect();
        let book = memory.words(format, Part::Book, tables.len());
        memory.gpu().write(&book, 0, &tables);
        Self {
            format,
            basis: basis.clone(),
            k_words: tensor(Part::Keys, format.k.words_per_row(heads.dim)),
            v_words: tensor(Part::Values, format.v.words_per_row(heads.dim)),
            steps: tensor(Part::Steps, format.steps_per_row()),
            book,
            capacity,
            sets,
            heads,
            merged: false,
        }
    }

    /// True when one dispatch serves both: they have a format, a basis and buffers in common.
    pub(super) fn beside(&self, other: &Self) -> bool {
        let coordinates =
            |rows: &Self| (rows.format, rows.basis.k_rotated, rows.basis.v_rotated, rows.merged);
        coordinates(self) == coordinates(other)
            && self.tensors().into_iter().zip(other.tensors()).all(|(own, others)| own.beside(others))
            && self.basis.centre.beside(&other.basis.centre)
    }

    fn tensors(&self) -> [&Tensor<u32>; 4] {
        [&self.k_words, &self.v_words, &self.steps, &self.book]
    }

    /// The buffers of keys, values, steps and book.
    pub(super) fn buffers(&self) -> [Binding<'_>; 4] {
        self.tensors().map(|tensor| tensor.whole().0)
    }

    /// Where these rows begin in each of them, in words.
    pub(super) fn origins(&self) -> [u32; 4] {
        self.tensors().map(|tensor| tensor.whole().1 as u32)
    }

    /// The tensors whose contents belong to slots, each with its words for one slot.
    pub fn slots(&self) -> [(&Tensor<u32>, usize); 3] {
        let (kv, dim) = (self.heads.kv, self.heads.dim);
        [
            (&self.k_words, kv * self.format.k.words_per_row(dim)),
            (&self.v_words, kv * self.format.v.words_per_row(dim)),
            (&self.steps, kv * self.format.steps_per_row()),
        ]
    }
}

/// What a kernel that packs or unpacks rows of one kind is compiled for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub values: bool,
    pub bits: KvBits,
    pub rotated: bool,
}

impl Kind {
    /// Keys, then values.
    pub fn both(format: Format, basis: &Basis) -> [Self; 2] {
        [
            Self { values: false, bits: format.k, rotated: basis.k_rotated },
            Self { values: true, bits: format.v, rotated: basis.v_rotated },
        ]
    }

    /// Every width of both kinds, and transformed halves.
    pub fn all() -> Vec<Self> {
        let widths = KvBits::ALL.map(|bits| (bits, bits.quantised()));
        let widths = widths.into_iter().chain([(KvBits::Sixteen, true)]);
        widths
            .flat_map(|(bits, rotated)| [false, true].map(|values| Self { values, bits, rotated }))
            .collect()
    }

    pub fn key(self, key: ShaderKey) -> ShaderKey {
        key.with("BITS", self.bits.bits())
            .flag("VALUES", self.values)
            .flag("QUANTISED", self.bits.quantised())
            .flag("ROTATED", self.rotated)
            .flag("CENTRED", self.rotated && !self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_the_steps() {
        let heads = Heads { query: 9, kv: 3, dim: 64 };
        let bytes = KvBits::ALL.map(|bits| Format::both(bits).bytes_per_token(heads));
        assert_eq!(bytes, [3 * 256, 3 * 132, 3 * 68, 3 * 52, 3 * 36]);
        let mixed = Format { k: KvBits::Sixteen, v: KvBits::Four };
        assert_eq!(mixed.bytes_per_token(heads), 3 * (128 + 32 + 4));
    }
}
