//! The running score of all live rows: what decode queries pay to them, as a sum and a count.
//!
//! ```text
//! A ← fade · A + weight · a      B ← fade · B + weight      a: a query's attention to the row, mean over the heads
//! ```
//!
//! With a fade of 1, A is the sum of what a row received and A / B its mean; with 0 both are the last query's. A
//! weight of n lets one query stand for the n - 1 before it, which were not looked at.

use super::check::{Check, Noise};
use super::kv_row::{Format, Heads, KvRows};
use super::kv_sample::{compare_books, shuffled};
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor};

const SHADER: Shader = Shader { stem: "observe", text: include_str!("../../shaders/observe.wgsl") };

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    heads: u32,
    capacity: u32,
    count: u32,
    fade: f32,
    weight: f32,
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// Records what one query adds to the sums of the first `count` rows of every table of `rows`.
///
/// `logits` is `[query heads, capacity]`, the query's scaled logits by table index; `lse` is `[query heads]`. A
/// table's rows get the mean over the query heads that share it.
pub fn observe(
    rec: &mut Recorder,
    logits: &Tensor<f32>,
    lse: &Tensor<f32>,
    rows: &KvRows,
    count: usize,
    fade: f32,
    weight: f32,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
    let params = Params {
        heads: (rows.heads.query / rows.sets) as u32,
        capacity: rows.capacity as u32,
        count: count as u32,
        fade,
        weight,
    };
    let grid = [count.div_ceil(64) as u32, rows.sets as u32, 1];
    rec.dispatch(&kernel, &params, &[logits.bind(), lse.bind(), rows.book.bind()], grid)
}

/// The CPU twin, on the words of a row book.
pub fn twin(
    logits: &[f32],
    lse: &[f32],
    book: &mut [u32],
    sets: usize,
    count: usize,
    fade: f32,
    weight: f32,
) {
    let (capacity, heads) = (logits.len() / lse.len(), lse.len() / sets);
    for (set, book) in book.chunks_exact_mut(4 * capacity).enumerate() {
        for i in 0..count {
            let own = set * heads..(set + 1) * heads;
            let paid: f32 = own.map(|head| (logits[head * capacity + i] - lse[head]).exp()).sum();
            let slot = book[i] as usize;
            for (region, gain) in [(2, weight * paid / heads as f32), (3, weight)] {
                let word = &mut book[region * capacity + slot];
                *word = (fade * f32::from_bits(*word) + gain).to_bits();
            }
        }
    }
}

async fn check(gpu: &Gpu, heads: Heads, per_head: bool, count: usize, fade: f32) -> Result<Vec<Check>> {
    let (mut noise, capacity, sets) = (Noise::new(31), count + 7, if per_head { heads.kv } else { 1 });
    let (rows, _, mut book) = shuffled(gpu, &mut noise, heads, Format::F16, capacity, sets)?;
    let logits = noise.values(heads.query * capacity);
    let lse = noise.values(heads.query);
    let device_logits = gpu.tensor_with(Class::Scratch, "logits", &logits);
    let device_lse = gpu.tensor_with(Class::Scratch, "lse", &lse);
    let mut rec = Recorder::new(gpu);
    // Twice, so that the second time there is something to fade.
    for weight in [2.5, 3.0] {
        observe(&mut rec, &device_logits, &device_lse, &rows, count, fade, weight)?;
        twin(&logits, &lse, &mut book, sets, count, fade, weight);
    }
    let got = rec.read(&rows.book, 0, rows.book.len());
    rec.submit();
    let label = format!("observe {count} rows, {heads:?}, {sets} sets, fade {fade}");
    Ok(compare_books(&label, &got.await?, &book, capacity))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let heads = Heads { query: 9, kv: 3, dim: 64 };
    let mut out = check(gpu, heads, true, 131, 0.5).await?;
    out.extend(check(gpu, heads, false, 77, 1.0).await?);
    Ok(out)
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
            kv in 1usize..4,
            group in 1usize..4,
            per_head in any::<bool>(),
            count in 1usize..300,
            fade in prop::sample::select(vec![0.0f32, 0.9, 1.0]),
        ) {
            let heads = Heads { query: kv * group, kv, dim: 32 };
            assert_passed(pollster::block_on(check(&gpu(), heads, per_head, count, fade)));
        }
    }
}
