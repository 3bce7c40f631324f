//! The running score of generated rows: what each decode query pays to them, as two sums per row.
//!
//! Generated rows are thinned in blocks of `E` consecutive columns, once `R + 1` queries have followed a block's
//! last column. A row's score is the mean of its attention from exactly those queries, with weights that grow
//! linearly from 1 to ω. Two sums carry it, whatever `R` and ω are, so no attention row is ever stored:
//!
//! ```text
//! A = Σ_t a_t      B = Σ_t (t − first) · a_t      score ∝ A + (ω − 1)/R · B       t over queries after the block
//!
//! column    S−1 S  S+1 … S+E−2 | S+E−1 …           the last prompt column opens block 0, since the first
//!           '---- block 0 ---'   '- block 1        query of the decode is the one at column S
//! first query that counts   ^ S+E−1
//! ```
//!
//! A row's sums must be zero when it is written; prompt rows before column S − 1 never get any.

use super::check::{Check, Noise};
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor};

const SHADER: Shader = Shader { stem: "accumulate", text: include_str!("../../shaders/accumulate.wgsl") };

/// Where a query stands among the generated blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Positions before generation, S.
    pub prompt: u32,
    /// Columns per block, E; at least 1.
    pub block: u32,
    /// The current query's position.
    pub position: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    heads: u32,
    stride: u32,
    capacity: u32,
    first: u32,
    count: u32,
    prompt: u32,
    block: u32,
    position: u32,
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// Records `A += a` and `B += age · a` for the live rows `first..count` of a row book with one table, where `a`
/// is the head-mean attention of the query at `window.position`.
///
/// `logits` is `[heads, stride]`: the query's scaled logits by table index; `lse` is `[heads]`. Rows before
/// `first` are the prompt's, which never qualify.
#[expect(clippy::too_many_arguments, reason = "the operands of one sum and the extents of two of them")]
pub fn accumulate(
    rec: &mut Recorder,
    logits: &Tensor<f32>,
    stride: usize,
    lse: &Tensor<f32>,
    heads: usize,
    book: &Tensor<u32>,
    capacity: usize,
    first: usize,
    count: usize,
    window: Window,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
    let params = Params {
        heads: heads as u32,
        stride: stride as u32,
        capacity: capacity as u32,
        first: first as u32,
        count: count as u32,
        prompt: window.prompt,
        block: window.block,
        position: window.position,
    };
    let grid = [count.saturating_sub(first).div_ceil(64) as u32, 1, 1];
    rec.dispatch(&kernel, &params, &[logits.bind(), lse.bind(), book.bind()], grid)
}

/// The CPU twin, on the words of a row book with one table.
pub fn twin(logits: &[f32], lse: &[f32], book: &mut [u32], rows: std::ops::Range<usize>, window: Window) {
    let (capacity, stride) = (book.len() / 4, logits.len() / lse.len());
    for i in rows {
        let slot = book[i] as usize;
        let column = i64::from(book[capacity + slot]) - i64::from(window.prompt) + 1;
        let last = column.div_euclid(i64::from(window.block)) * i64::from(window.block)
            + i64::from(window.block)
            - 2;
        let age = i64::from(window.position) - i64::from(window.prompt) - last - 1;
        if column < 0 || age < 0 {
            continue;
        }
        let paid = lse.iter().enumerate().map(|(head, norm)| (logits[head * stride + i] - norm).exp());
        let attention = paid.sum::<f32>() / lse.len() as f32;
        let mut add = |region: usize, value: f32| {
            let word = &mut book[region * capacity + slot];
            *word = (f32::from_bits(*word) + value).to_bits();
        };
        add(2, attention);
        add(3, age as f32 * attention);
    }
}

async fn check(gpu: &Gpu, rows: std::ops::Range<usize>, heads: usize, window: Window) -> Result<Check> {
    let mut noise = Noise::new(5);
    let (capacity, stride) = (rows.end + 6, rows.end + 3);
    let logits = noise.values(heads * stride);
    let lse = noise.values(heads);
    // Slots in reverse, and consecutive positions that end with the query's own.
    let mut book: Vec<u32> = (0..capacity as u32).rev().collect();
    let live = rows.end as u32;
    let position = |slot: u32| (window.position + 1 + capacity as u32).saturating_sub(live + slot);
    book.extend((0..capacity as u32).map(position));
    book.extend((0..2 * capacity).map(|_| noise.value().to_bits()));
    let device_logits = gpu.tensor_with(Class::Scratch, "logits", &logits);
    let device_lse = gpu.tensor_with(Class::Scratch, "lse", &lse);
    let device_book = gpu.tensor_with(Class::Scratch, "book", &book);
    let mut rec = Recorder::new(gpu);
    let (first, count) = (rows.start, rows.end);
    accumulate(
        &mut rec,
        &device_logits,
        stride,
        &device_lse,
        heads,
        &device_book,
        capacity,
        first,
        count,
        window,
    )?;
    let got = rec.read(&device_book, 2 * capacity, 2 * capacity);
    rec.submit();
    twin(&logits, &lse, &mut book, rows.clone(), window);
    let sums = |words: &[u32]| words.iter().map(|&w| f32::from_bits(w)).collect::<Vec<f32>>();
    let label = format!("accumulate rows {rows:?}, {heads} heads, {window:?}");
    Ok(Check::compare(label, &sums(&got.await?), &sums(&book[2 * capacity..]), 1e-5))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    Ok(vec![
        check(gpu, 0..131, 3, Window { prompt: 100, block: 8, position: 150 }).await?,
        check(gpu, 20..77, 5, Window { prompt: 40, block: 5, position: 99 }).await?,
    ])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn agrees_with_its_twin(
            prompt in 1u32..60,
            steps in 0u32..150,
            heads in 1usize..6,
            block in 1u32..20,
            first in 0usize..40,
        ) {
            let window = Window { prompt, block, position: prompt + steps };
            let count = (prompt + steps + 1) as usize;
            let rows = first.min(count)..count;
            assert_passed(pollster::block_on(check(&gpu(), rows, heads, window)).map(|c| vec![c]));
        }
    }
}
