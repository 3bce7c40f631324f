//! The mean of a block's keys, which quantised rows are stored relative to.
//!
//! Any vector that is the same for all keys may be subtracted: attention does not change. So a sample of the rows
//! is enough, and the first rows, on which attention rests and whose keys are unlike all others, are left out.

use super::check::{Check, Noise, poisoned};
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "centre", text: include_str!("../../shaders/centre.wgsl") };

/// Rows that are sampled, at most.
const SAMPLE: usize = 256;

uniform! {
    struct Params {
        width: u32,
        first: u32,
        rows: u32,
        stride: u32,
    }
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// Records the mean of rows `first..rows` of `k` (`[>= rows, width]`), or of every n-th of them when they are
/// many, to `out` (`[width]`); zeros when there are none.
pub fn centre(
    rec: &mut Recorder,
    k: &Tensor<f32>,
    width: usize,
    first: usize,
    rows: usize,
    out: &Tensor<f32>,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
    let [width, first, rows, stride] = [width, first, rows, stride(first, rows)].map(|n| n as u32);
    let grid = [width.div_ceil(64), 1, 1];
    rec.dispatch(&kernel, &Params { width, first, rows, stride }, &[k.bind(), out.bind()], grid)
}

fn stride(first: usize, rows: usize) -> usize {
    rows.saturating_sub(first).div_ceil(SAMPLE).max(1)
}

/// The CPU twin.
pub fn twin(k: &[f32], width: usize, first: usize, rows: usize) -> Vec<f32> {
    let sampled: Vec<&[f32]> =
        k.chunks_exact(width).take(rows).skip(first).step_by(stride(first, rows)).collect();
    let mean =
        |column: usize| sampled.iter().map(|row| row[column]).sum::<f32>() / sampled.len().max(1) as f32;
    (0..width).map(mean).collect()
}

async fn check(gpu: &Gpu, width: usize, first: usize, rows: usize) -> Result<Check> {
    let k = Noise::new(43).values((rows + 3) * width);
    let device_k = gpu.tensor_with(Class::Scratch, "k", &k);
    let out = poisoned(gpu, width);
    let mut rec = Recorder::new(gpu);
    centre(&mut rec, &device_k, width, first, rows, &out)?;
    let got = rec.read(&out, 0, width);
    rec.submit();
    let label = format!("centre of rows {first}..{rows} of {width}");
    Ok(Check::compare(label, &got.await?, &twin(&k, width, first, rows), 1e-5))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    Ok(vec![check(gpu, 192, 4, 777).await?, check(gpu, 72, 3, 3).await?])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn agrees_with_its_twin(width in 1usize..200, first in 0usize..6, more in 0usize..1200) {
            let outcome = pollster::block_on(check(&gpu(), width, first, first + more));
            assert_passed(outcome.map(|c| vec![c]));
        }
    }
}
