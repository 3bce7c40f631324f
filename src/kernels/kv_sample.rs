//! Caches filled and read by the CPU, for the checks of kernels that read or write them.

use super::check::{Check, Noise};
use super::kv_code::{decode_row, encode_row, hadamard};
use super::kv_memory::KvMemory;
use super::kv_row::{Basis, Format, Heads, KvRows};
use crate::Result;
use crate::gpu::{Gpu, Recorder, Tensor};

/// An empty cache whose centre and tables are noise.
pub(super) fn shuffled(
    memory: &dyn KvMemory,
    noise: &mut Noise,
    heads: Heads,
    format: Format,
    capacity: usize,
    sets: usize,
) -> Result<(KvRows, Vec<f32>, Vec<u32>)> {
    let (basis, gpu) = (Basis::new(memory, heads, &[format]), memory.gpu());
    let centre = noise.values(basis.centre.len());
    gpu.write(&basis.centre, 0, &centre);
    let rows = KvRows::new(memory, heads, format, &basis, capacity, sets)?;
    let tables = shuffled_tables(noise, &rows);
    gpu.write(&rows.book, 0, &tables);
    Ok((rows, centre, tables))
}

/// Tables whose slots are shuffled, each in its own way.
fn shuffled_tables(noise: &mut Noise, rows: &KvRows) -> Vec<u32> {
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

/// A cache with rows of noise in shuffled slots, and what they unpack to.
pub(super) struct Sample {
    pub rows: KvRows,
    /// Keys in table order, `[count][G * hd]`.
    pub k: Vec<f32>,
    /// Values in table order.
    pub v: Vec<f32>,
    tables: Vec<u32>,
}

impl Sample {
    pub fn new(
        memory: &dyn KvMemory,
        noise: &mut Noise,
        heads: Heads,
        format: Format,
        (capacity, count): (usize, usize),
        sets: usize,
    ) -> Result<Self> {
        let gpu = memory.gpu();
        let (rows, centre, tables) = shuffled(memory, noise, heads, format, capacity, sets)?;
        let (mut k, mut v) = (Vec::new(), Vec::new());
        let mut put = |words: &Tensor<u32>, at: usize, bits, rotated: bool| {
            let (packed, step) = encode_row(&noise.values(heads.dim), bits);
            gpu.write(words, at * packed.len(), &packed);
            let mut row = decode_row(&packed, step, bits);
            if rotated {
                hadamard(&mut row);
            }
            (row, step)
        };
        for r in 0..count {
            for head in 0..heads.kv {
                let slot = tables[head % sets * 4 * capacity + r] as usize;
                let at = slot * heads.kv + head;
                let (mut key, k_step) = put(&rows.k_words, at, format.k, rows.basis.k_rotated);
                let (value, v_step) = put(&rows.v_words, at, format.v, rows.basis.v_rotated);
                if rows.basis.k_rotated {
                    let centre = &centre[head * heads.dim..][..heads.dim];
                    key.iter_mut().zip(centre).for_each(|(x, c)| *x += c);
                }
                if format.quantised() {
                    gpu.write(&rows.steps, at, &[pair(k_step, v_step)]);
                }
                k.extend(key);
                v.extend(value);
            }
        }
        Ok(Self { rows, k, v, tables })
    }

    /// Gives every slot noise to be added to its logits; returns it in table order, `[count][G]`.
    pub fn merge(&mut self, gpu: &Gpu, noise: &mut Noise) -> Vec<f32> {
        let KvRows { heads, capacity, sets, .. } = self.rows;
        self.rows.merged = true;
        let biases: Vec<Vec<f32>> = (0..sets).map(|_| noise.values(capacity)).collect();
        for (set, biases) in biases.iter().enumerate() {
            gpu.write(&self.rows.book, (4 * set + 3) * capacity, bytemuck::cast_slice::<f32, u32>(biases));
        }
        let count = self.k.len() / heads.kv_width();
        let of =
            |r: usize, head: usize| biases[head % sets][self.tables[head % sets * 4 * capacity + r] as usize];
        (0..count)
            .flat_map(|r| (0..heads.kv).map(move |head| (r, head)))
            .map(|(r, head)| of(r, head))
            .collect()
    }
}

fn pair(low: f32, high: f32) -> u32 {
    let half = |x: f32| u32::from(half::f16::from_f32(x).to_bits());
    half(low) | half(high) << 16
}

/// Compares row books: tables and positions exactly, sums as the numbers that they are.
pub(super) fn compare_books(label: &str, got: &[u32], want: &[u32], capacity: usize) -> Vec<Check> {
    let half = |words: &[u32], second: usize| -> Vec<u32> {
        words.chunks_exact(2 * capacity).skip(second).step_by(2).flatten().copied().collect()
    };
    let sums = |words: &[u32]| half(words, 1).into_iter().map(f32::from_bits).collect::<Vec<f32>>();
    vec![
        Check::compare(format!("{label}, sums"), &sums(got), &sums(want), 1e-5),
        Check::equal(format!("{label}, tables"), &half(got, 0), &half(want, 0)),
    ]
}

/// Everything that a cache stores, read back.
pub(super) struct Stored {
    rows: KvRows,
    words: [Vec<u32>; 2],
    steps: Vec<u32>,
    pub book: Vec<u32>,
}

impl Stored {
    /// Submits what was recorded and reads what it left.
    pub async fn read(rec: &mut Recorder, rows: &KvRows) -> Result<Self> {
        let tensors = [&rows.k_words, &rows.v_words, &rows.steps, &rows.book];
        // A tensor of no values still holds 16 bytes, but there is nothing to read.
        let reads: Vec<_> = tensors.map(|t| (!t.is_empty()).then(|| rec.read(t, 0, t.len()))).into();
        rec.submit();
        let mut got = Vec::new();
        for read in reads {
            got.push(if let Some(pending) = read { pending.await? } else { Vec::new() });
        }
        let [k, v, steps, book] = <[Vec<u32>; 4]>::try_from(got).unwrap_or_default();
        Ok(Self { rows: rows.clone(), words: [k, v], steps, book })
    }

    /// Compares a stored key (or value) with what `row` packs to: both decoded, since devices round halves and
    /// codes their own way, and within a step, for one code that fell on the other side.
    pub fn check(
        &self,
        label: &str,
        values: bool,
        (slot, head): (usize, usize),
        row: &[f32],
        centre: &[f32],
    ) -> Check {
        let Format { k, v } = self.rows.format;
        let (bits, rotated) =
            if values { (v, self.rows.basis.v_rotated) } else { (k, self.rows.basis.k_rotated) };
        let mut row = row.to_vec();
        if rotated {
            if !values {
                let own = &centre[head * self.rows.heads.dim..];
                row.iter_mut().zip(own).for_each(|(x, c)| *x -= c);
            }
            hadamard(&mut row);
        }
        let (twin, step) = encode_row(&row, bits);
        let at = slot * self.rows.heads.kv + head;
        let got = &self.words[usize::from(values)][at * twin.len()..][..twin.len()];
        let half = |bits: u32| half::f16::from_bits(bits as u16).to_f32();
        let got_step = match bits.quantised() {
            true => half(self.steps[at] >> (16 * u32::from(values))),
            false => 1.0,
        };
        let tolerance = if bits.quantised() { step.max(2e-3) * 1.02 } else { 2e-3 };
        Check::compare(label, &decode_row(got, got_step, bits), &decode_row(&twin, step, bits), tolerance)
    }
}
