//! The rows of one sequence: a pool and a row table for each layer.
//!
//! A layer's table is a permutation of its slots. Its first `rows` entries are the live rows in order of
//! position, the others are free: a new row takes the entry after the last live one, and dropping rows moves
//! their slots behind the live ones. So the host needs to know only how many rows live, never which.

use crate::Result;
use crate::gpu::{Gpu, Recorder, Tensor};
use crate::kernels::kv_row::{Heads, KvBits, KvRows};

/// How K and V rows are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Bits of a key's values.
    pub k: KvBits,
    /// Bits of a value's values.
    pub v: KvBits,
}

impl Format {
    /// f16 rows for both.
    pub const F16: Self = Self { k: KvBits::Sixteen, v: KvBits::Sixteen };

    /// Bytes of one token in one layer.
    pub fn bytes_per_token(self, heads: Heads) -> u64 {
        (heads.kv * (self.k.bytes_per_row(heads.dim) + self.v.bytes_per_row(heads.dim))) as u64
    }
}

/// Rows that a layer's pool grows by at least; small enough that a pyramid's tip stays small.
const GRAIN: usize = 16;

/// The cache of one sequence.
#[derive(Debug)]
pub struct Cache {
    gpu: Gpu,
    heads: Heads,
    format: Format,
    sets: usize,
    layers: Vec<KvRows>,
    rows: Vec<usize>,
}

impl Cache {
    /// An empty cache; `per_head` gives every KV head a table of its own.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] when rows of this head dimension cannot have such a format.
    pub fn new(gpu: &Gpu, layers: usize, heads: Heads, format: Format, per_head: bool) -> Result<Self> {
        let sets = if per_head { heads.kv } else { 1 };
        let pool = |_| KvRows::new(gpu, heads, format.k, format.v, GRAIN, sets);
        let pools = (0..layers).map(pool).collect::<Result<_>>()?;
        Ok(Self { gpu: gpu.clone(), heads, format, sets, layers: pools, rows: vec![0; layers] })
    }

    /// Makes room for `more` rows beyond the live ones, layer by layer, and records the move of the live ones
    /// into larger pools where that takes any. True when it did.
    ///
    /// # Errors
    /// As [`Cache::new`].
    pub fn reserve(&mut self, rec: &mut Recorder, more: &[usize]) -> Result<bool> {
        let mut grown = false;
        for ((pool, &rows), &more) in self.layers.iter_mut().zip(&self.rows).zip(more) {
            let need = rows + more;
            if need > pool.capacity {
                let capacity = need.next_multiple_of(GRAIN);
                let larger =
                    KvRows::new(&self.gpu, self.heads, self.format.k, self.format.v, capacity, self.sets)?;
                if rows > 0 {
                    move_rows(rec, pool, &larger);
                }
                *pool = larger;
                grown = true;
            }
        }
        Ok(grown)
    }

    /// One layer's pool and table.
    pub fn layer(&self, layer: usize) -> &KvRows {
        &self.layers[layer]
    }

    /// Live rows of each layer.
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// Says that a layer now has `rows` live rows.
    pub fn set_rows(&mut self, layer: usize, rows: usize) {
        debug_assert!(rows <= self.layers[layer].capacity, "layer {layer}: {rows} rows exceed the pool");
        self.rows[layer] = rows;
    }

    /// Exchanges a layer's rows for those that another cache of the same shape has of it.
    pub fn swap_layer(&mut self, other: &mut Self, layer: usize) {
        std::mem::swap(&mut self.layers[layer], &mut other.layers[layer]);
        std::mem::swap(&mut self.rows[layer], &mut other.rows[layer]);
    }

    /// Forgets every row; the pools stay.
    pub fn clear(&mut self) {
        self.rows.fill(0);
    }

    /// Forgets the newest `count` rows of every layer.
    pub fn truncate(&mut self, count: usize) {
        self.rows.iter_mut().for_each(|rows| *rows = rows.saturating_sub(count));
    }

    /// Bytes of the live rows, their scales included.
    pub fn live_bytes(&self) -> u64 {
        let rows: usize = self.rows.iter().sum();
        rows as u64 * self.format.bytes_per_token(self.heads)
    }

    /// Bytes that a full f16 cache of `tokens` tokens takes in a model of this shape.
    pub fn full_f16_bytes(&self, tokens: usize) -> u64 {
        tokens as u64 * self.layers.len() as u64 * Format::F16.bytes_per_token(self.heads)
    }
}

fn move_rows(rec: &mut Recorder, from: &KvRows, to: &KvRows) {
    let mut copy = |from: &Tensor<u32>, to: &Tensor<u32>, words: usize| {
        if words > 0 {
            rec.copy(from, 0, to, 0, words);
        }
    };
    let per_slot = |words: usize| from.capacity * from.heads.kv * words;
    let dim = from.heads.dim;
    copy(&from.k_words, &to.k_words, per_slot(from.k_bits.words_per_row(dim)));
    copy(&from.v_words, &to.v_words, per_slot(from.v_bits.words_per_row(dim)));
    copy(&from.k_scales, &to.k_scales, per_slot(from.k_bits.scales_per_row(dim)));
    copy(&from.v_scales, &to.v_scales, per_slot(from.v_bits.scales_per_row(dim)));
    // Each set's regions are as long as the capacity; the new slots behind the old ones are already listed.
    for region in 0..4 * from.sets {
        rec.copy(&from.book, region * from.capacity, &to.book, region * to.capacity, from.capacity);
    }
}
