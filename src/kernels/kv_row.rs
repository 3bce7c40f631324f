//! Rows of the KV cache: their widths, their packing and one layer's tensors.
//!
//! A row is one token's key or value of one KV head, `head_dim` numbers, in 16, 8 or 4 bits. Quantised rows
//! carry one (scale, minimum) per group of 32 values, `value = scale * code + minimum`:
//!
//! ```text
//!  16 bits   word w │ f16 of value 2w+1 │ f16 of value 2w │
//!   8 bits   word w │ 4w+3 │ 4w+2 │ 4w+1 │ 4w │
//!   4 bits   word w │ 8w+7 8w+3 │ 8w+6 8w+2 │ 8w+5 8w+1 │ 8w+4 8w │      (high and low nibble of each byte)
//!   scale of a group │ f16 minimum │ f16 scale │
//!
//!   words  [slot][KV head][words of a row]      scales [slot][KV head][groups of a row]
//!   book   [set][region][capacity]   region 0: slot of the i-th live row, a permutation of all slots
//!                                           1: position, by slot        2, 3: accumulators A and B, by slot
//! ```
//!
//! A row of 4 bits is stored after an orthonormal Hadamard transform, which spreads an outlier over its whole
//! block so that it no longer sets the step of its group alone. Dot products survive it, so queries are
//! transformed as well and nothing is transformed back but the output of attention.

use half::f16;

use crate::gpu::{Class, Gpu, Tensor};
use crate::{Error, Result};

/// The smallest step of a group, the smallest normal half: devices may flush smaller ones to zero.
const SMALLEST_STEP: f32 = 6.103_515_6e-5;

/// Bits per value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvBits {
    /// Half floats.
    Sixteen,
    /// Groups of 32 bytes.
    Eight,
    /// Groups of 32 nibbles of the Hadamard-transformed row.
    Four,
}

impl KvBits {
    /// Every width.
    pub const ALL: [Self; 3] = [Self::Sixteen, Self::Eight, Self::Four];

    /// The number itself.
    pub fn bits(self) -> u32 {
        match self {
            Self::Sixteen => 16,
            Self::Eight => 8,
            Self::Four => 4,
        }
    }

    /// Words of a row without its scales.
    pub fn words_per_row(self, head_dim: usize) -> usize {
        head_dim * self.bits() as usize / 32
    }

    /// Packed (scale, minimum) pairs of a row; halves have none.
    pub fn scales_per_row(self, head_dim: usize) -> usize {
        if self == Self::Sixteen { 0 } else { head_dim / 32 }
    }

    /// Bytes of a row with its scales.
    pub fn bytes_per_row(self, head_dim: usize) -> usize {
        4 * (self.words_per_row(head_dim) + self.scales_per_row(head_dim))
    }

    /// True when rows are stored Hadamard-transformed.
    pub fn rotated(self) -> bool {
        self == Self::Four
    }

    /// Values that `head_dim` must be a multiple of.
    fn multiple(self) -> usize {
        if self == Self::Sixteen { 8 } else { 32 }
    }
}

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

/// One layer's cache: packed rows in slots, and the book that says which slots live and in what order.
#[derive(Debug, Clone)]
pub struct KvRows {
    /// Width of the keys.
    pub k_bits: KvBits,
    /// Width of the values.
    pub v_bits: KvBits,
    /// Keys, `[capacity][KV head][words of a row]`.
    pub k_words: Tensor<u32>,
    /// Scales of the keys, `[capacity][KV head][groups of a row]`.
    pub k_scales: Tensor<u32>,
    /// Values, as the keys.
    pub v_words: Tensor<u32>,
    /// Scales of the values, as those of the keys.
    pub v_scales: Tensor<u32>,
    /// `sets` tables of four regions of `capacity` words.
    pub book: Tensor<u32>,
    /// Slots.
    pub capacity: usize,
    /// Tables: 1 when all KV heads keep the same rows, else one per KV head.
    pub sets: usize,
    /// The layer's heads.
    pub heads: Heads,
}

impl KvRows {
    /// An empty cache of `capacity` slots (at least one) whose tables list the slots in order.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when `heads.dim` does not suit a width, [`Error::Invalid`] when `sets` is neither 1
    /// nor the number of KV heads.
    pub fn new(
        gpu: &Gpu,
        heads: Heads,
        k_bits: KvBits,
        v_bits: KvBits,
        capacity: usize,
        sets: usize,
    ) -> Result<Self> {
        let multiple = k_bits.multiple().max(v_bits.multiple());
        if heads.dim == 0 || !heads.dim.is_multiple_of(multiple) {
            return Err(Error::Unsupported {
                need: format!(
                    "KV rows of {} and {} bits on heads of {}",
                    k_bits.bits(),
                    v_bits.bits(),
                    heads.dim
                ),
                have: format!("such rows only for multiples of {multiple}; 16 bits need a multiple of 8"),
            });
        }
        if sets != 1 && sets != heads.kv {
            return Err(Error::Invalid(format!(
                "{sets} row tables for {} KV heads: one or one each",
                heads.kv
            )));
        }
        let capacity = capacity.max(1);
        let tensor = |label, per_row: usize| gpu.tensor(Class::Kv, label, capacity * heads.kv * per_row);
        let slots = (0..capacity as u32).chain(std::iter::repeat_n(0, 3 * capacity));
        let tables: Vec<u32> = (0..sets).flat_map(|_| slots.clone()).collect();
        Ok(Self {
            k_bits,
            v_bits,
            k_words: tensor("k words", k_bits.words_per_row(heads.dim)),
            k_scales: tensor("k scales", k_bits.scales_per_row(heads.dim)),
            v_words: tensor("v words", v_bits.words_per_row(heads.dim)),
            v_scales: tensor("v scales", v_bits.scales_per_row(heads.dim)),
            book: gpu.tensor_with(Class::Kv, "row book", &tables),
            capacity,
            sets,
            heads,
        })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        let tensors = [&self.k_words, &self.k_scales, &self.v_words, &self.v_scales, &self.book];
        tensors.iter().map(|t| t.bytes()).sum()
    }
}

/// The Hadamard transform of a row in place, orthonormal and its own inverse, in blocks of the largest power of
/// two that divides its length.
pub fn hadamard(row: &mut [f32]) {
    let block = 1 << row.len().trailing_zeros();
    for chunk in row.chunks_exact_mut(block) {
        let mut span = 1;
        while span < block {
            for pair in chunk.chunks_exact_mut(2 * span) {
                let (low, high) = pair.split_at_mut(span);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            span *= 2;
        }
        chunk.iter_mut().for_each(|x| *x /= (block as f32).sqrt());
    }
}

/// Packs a row into its words and scales: the CPU twin of the writing kernels.
pub fn encode_row(row: &[f32], bits: KvBits) -> (Vec<u32>, Vec<u32>) {
    let pair = |low: f32, high: f32| {
        u32::from(f16::from_f32(low).to_bits()) | u32::from(f16::from_f32(high).to_bits()) << 16
    };
    if bits == KvBits::Sixteen {
        return (row.chunks_exact(2).map(|p| pair(p[0], p[1])).collect(), Vec::new());
    }
    let mut row = row.to_vec();
    if bits.rotated() {
        hadamard(&mut row);
    }
    let (mut words, mut scales) = (Vec::new(), Vec::new());
    let top = ((1 << bits.bits()) - 1) as f32;
    for group in row.chunks_exact(32) {
        let low = group.iter().copied().fold(f32::INFINITY, f32::min);
        let high = group.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let scale = pair(((high - low) / top).max(SMALLEST_STEP), low);
        let (step, minimum) = halves(scale);
        let code = |x: &f32| ((x - minimum) / step).round_ties_even().clamp(0.0, top) as u32;
        let codes: Vec<u32> = group.iter().map(code).collect();
        let bytes = |four: &[u32]| four.iter().rev().fold(0, |word, code| word << 8 | code);
        if bits == KvBits::Eight {
            words.extend(codes.chunks_exact(4).map(bytes));
        } else {
            words.extend(codes.chunks_exact(8).map(|c| bytes(&c[..4]) | bytes(&c[4..]) << 4));
        }
        scales.push(scale);
    }
    (words, scales)
}

/// Unpacks a row and transforms it back: the CPU twin of the reading kernels.
pub fn decode_row(words: &[u32], scales: &[u32], bits: KvBits) -> Vec<f32> {
    let bytes = |word: u32| word.to_le_bytes().map(f32::from);
    let codes: Vec<f32> = match bits {
        KvBits::Sixteen => return words.iter().flat_map(|&w| <[f32; 2]>::from(halves(w))).collect(),
        KvBits::Eight => words.iter().flat_map(|&w| bytes(w)).collect(),
        KvBits::Four => {
            words.iter().flat_map(|&w| [w, w >> 4]).flat_map(|w| bytes(w & 0x0F0F_0F0F)).collect()
        }
    };
    let value = |(i, code): (usize, &f32)| {
        let (step, minimum) = halves(scales[i / 32]);
        step * code + minimum
    };
    let mut row: Vec<f32> = codes.iter().enumerate().map(value).collect();
    if bits.rotated() {
        hadamard(&mut row);
    }
    row
}

/// The low and the high half of a word.
fn halves(word: u32) -> (f32, f32) {
    (f16::from_bits(word as u16).to_f32(), f16::from_bits((word >> 16) as u16).to_f32())
}

#[cfg(test)]
mod tests {
    use super::super::check::Noise;
    use super::*;

    #[test]
    fn widths_and_bytes() {
        let widths = KvBits::ALL.map(|b| (b.words_per_row(64), b.scales_per_row(64), b.bytes_per_row(64)));
        assert_eq!(widths, [(32, 0, 128), (16, 2, 72), (8, 2, 40)]);
        assert_eq!(KvBits::Sixteen.words_per_row(80), 40);
    }

    #[test]
    fn packing_follows_the_picture() {
        let ramp: Vec<f32> = (0..32).map(|i| i as f32).collect();
        let (words, scales) = encode_row(&ramp, KvBits::Sixteen);
        assert_eq!((words[1], scales.len()), (0x4200_4000, 0));
        let bytes: Vec<f32> = (0..32).map(|i| if i == 31 { 255.0 } else { i as f32 }).collect();
        let (words, scales) = encode_row(&bytes, KvBits::Eight);
        assert_eq!((words[1], words[7], scales[0]), (0x0706_0504, 0xFF1E_1D1C, 0x0000_3C00));
        let mut nibbles: Vec<f32> = (0..32).map(|i| (i % 16) as f32).collect();
        hadamard(&mut nibbles);
        let (words, _) = encode_row(&nibbles, KvBits::Four);
        assert_eq!(words, [0x7362_5140, 0xFBEA_D9C8, 0x7362_5140, 0xFBEA_D9C8]);
    }

    #[test]
    fn a_row_survives_within_half_a_step() {
        let mut noise = Noise::new(3);
        for (bits, dim) in
            [(KvBits::Sixteen, 80), (KvBits::Eight, 96), (KvBits::Four, 96), (KvBits::Four, 64)]
        {
            let row = noise.values(dim);
            let (words, scales) = encode_row(&row, bits);
            assert_eq!((words.len(), scales.len()), (bits.words_per_row(dim), bits.scales_per_row(dim)));
            let error: f32 =
                row.iter().zip(decode_row(&words, &scales, bits)).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
            let rms = (error / dim as f32).sqrt();
            let limit = [(16, 3e-4), (8, 3e-3), (4, 0.08)].into_iter().find(|l| l.0 == bits.bits());
            assert!(rms < limit.unwrap().1, "{bits:?} {dim}: {rms}");
        }
    }

    #[test]
    fn a_constant_row_keeps_its_value() {
        for bits in KvBits::ALL {
            let (words, scales) = encode_row(&[0.75; 64], bits);
            let decoded = decode_row(&words, &scales, bits);
            assert!(decoded.iter().all(|x| (x - 0.75).abs() < 2e-3), "{bits:?}: {decoded:?}");
        }
    }

    #[test]
    fn hadamard_keeps_dot_products_and_inverts_itself() {
        let mut noise = Noise::new(5);
        for dim in [64, 80, 96] {
            let (a, b) = (noise.values(dim), noise.values(dim));
            let (mut ha, mut hb) = (a.clone(), b.clone());
            hadamard(&mut ha);
            hadamard(&mut hb);
            let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
            assert!((dot(&a, &b) - dot(&ha, &hb)).abs() < 1e-4);
            assert!(ha.iter().zip(&a).any(|(x, y)| (x - y).abs() > 0.1), "the transform did nothing");
            hadamard(&mut ha);
            assert!(ha.iter().zip(&a).all(|(x, y)| (x - y).abs() < 1e-5));
        }
    }
}
