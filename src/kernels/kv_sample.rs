//! Caches filled by the CPU, for the checks of kernels that read or write them.

use super::check::Noise;
use super::kv_row::{KvBits, KvRows, decode_row, encode_row};
use crate::gpu::{Gpu, Tensor};

/// A cache with rows of noise in shuffled slots, and what they decode to, for checks.
pub(super) struct Sample {
    pub rows: KvRows,
    /// Keys in table order, `[count][G * hd]`.
    pub k: Vec<f32>,
    /// Values in table order.
    pub v: Vec<f32>,
}

impl Sample {
    pub fn new(gpu: &Gpu, noise: &mut Noise, rows: KvRows, count: usize) -> Self {
        let tables = shuffled_tables(noise, &rows);
        gpu.write(&rows.book, 0, &tables);
        let k = pack(gpu, noise, &rows, &tables, count, rows.k_bits, (&rows.k_words, &rows.k_scales));
        let v = pack(gpu, noise, &rows, &tables, count, rows.v_bits, (&rows.v_words, &rows.v_scales));
        Self { rows, k, v }
    }
}

/// Tables whose slots are shuffled, each in its own way.
pub(super) fn shuffled_tables(noise: &mut Noise, rows: &KvRows) -> Vec<u32> {
    let mut tables = Vec::new();
    for _ in 0..rows.sets {
        let mut slots: Vec<u32> = (0..rows.capacity as u32).collect();
        for i in (1..slots.len()).rev() {
            slots.swap(i, noise.below(i as u32 + 1) as usize);
        }
        tables.extend(slots);
        tables.extend(std::iter::repeat_n(7, 3 * rows.capacity));
    }
    tables
}

/// Packs rows of noise into the slots of `tables` and returns what they decode to.
fn pack(
    gpu: &Gpu,
    noise: &mut Noise,
    rows: &KvRows,
    tables: &[u32],
    count: usize,
    bits: KvBits,
    (words, scales): (&Tensor<u32>, &Tensor<u32>),
) -> Vec<f32> {
    let (dim, heads) = (rows.heads.dim, rows.heads.kv);
    let mut decoded = Vec::new();
    for r in 0..count {
        for head in 0..heads {
            let slot = tables[head % rows.sets * 4 * rows.capacity + r] as usize;
            let (row_words, row_scales) = encode_row(&noise.values(dim), bits);
            let at = slot * heads + head;
            gpu.write(words, at * row_words.len(), &row_words);
            if !row_scales.is_empty() {
                gpu.write(scales, at * row_scales.len(), &row_scales);
            }
            decoded.extend(decode_row(&row_words, &row_scales, bits));
        }
    }
    decoded
}
