//! What each key row can expect of queries to come, as a logarithm.
//!
//! For queries that are normally distributed with mean `μ` and covariance `Σ`, the mean of `exp(q·k·scale)` has a
//! closed form (Devoto et al., "Expected Attention", arXiv 2510.00636):
//!
//! ```text
//! ln E exp(q·k·scale)  =  μ·k·scale + k·Σk·scale²/2
//! ```

use super::check::{Check, Noise, poisoned};
use super::moments::moments_len;
use super::score::ScoreShape;
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader =
    Shader { stem: "expected_logits", text: include_str!("../../shaders/expected_logits.wgsl") };

/// Key rows of a workgroup, four for each of its lanes.
const ROWS: usize = 128;

uniform! {
    struct Params {
        group_heads: u32,
        key_stride: u32,
        dim: u32,
        prefix: u32,
        count: u32,
        scale: f32,
    }
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// Records the expected logits of `count` rows, whose keys stand in `k` (`[prefix + count, kv_heads * dim]`) from
/// row `prefix` on.
///
/// `moments` are those of the queries at the positions that they will have, `[query_heads, 1 + dim, dim]`, as
/// [`super::moments::moments`] leaves them. `out` is `[query_heads, count]`.
#[expect(clippy::too_many_arguments, reason = "three tensors and their shape")]
pub fn expected_logits(
    rec: &mut Recorder,
    k: &Tensor<f32>,
    moments: &Tensor<f32>,
    shape: ScoreShape,
    scale: f32,
    prefix: usize,
    count: usize,
    out: &Tensor<f32>,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
    let params = Params {
        group_heads: (shape.query_heads / shape.kv_heads) as u32,
        key_stride: (shape.kv_heads * shape.dim / 4) as u32,
        dim: (shape.dim / 4) as u32,
        prefix: prefix as u32,
        count: count as u32,
        scale,
    };
    let grid = [count.div_ceil(ROWS) as u32, shape.query_heads as u32, 1];
    rec.dispatch(&kernel, &params, &[k.bind(), moments.bind(), out.bind()], grid)
}

/// The CPU twin for one key of `dim` values and the moments of one query head, `[1 + dim, dim]`.
pub fn twin(key: &[f32], moments: &[f32], scale: f32) -> f32 {
    let dot = |row: &[f32]| row.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let (mean, covariance) = moments.split_at(key.len());
    let scale = f64::from(scale);
    let spread: f64 = covariance.chunks(key.len()).zip(key).map(|(row, k)| f64::from(*k) * dot(row)).sum();
    (scale * dot(mean) + 0.5 * scale * scale * spread) as f32
}

async fn check(gpu: &Gpu, shape: ScoreShape, prefix: usize, count: usize) -> Result<Check> {
    let ScoreShape { query_heads, kv_heads, dim, .. } = shape;
    let mut noise = Noise::new(37);
    let k: Vec<f32> = noise.values((prefix + count) * kv_heads * dim).iter().map(|v| v * 3.0).collect();
    let mut moments = noise.values(moments_len(query_heads, dim));
    for moments in moments.chunks_mut(moments_len(1, dim)) {
        let covariance = &mut moments[dim..];
        (0..dim * dim).for_each(|at| covariance[at] = covariance[at % dim * dim + at / dim]);
    }
    let device = |values: &[f32]| gpu.tensor_with(Class::Scratch, "operand", values);
    let (dk, dmoments) = (device(&k), device(&moments));
    let out = poisoned(gpu, query_heads * count);
    let scale = (dim as f32).powf(-0.5);
    let mut rec = Recorder::new(gpu);
    expected_logits(&mut rec, &dk, &dmoments, shape, scale, prefix, count, &out)?;
    let got = rec.read(&out, 0, out.len());
    rec.submit();
    let key = |head: usize, row: usize| {
        &k[((prefix + row) * kv_heads + head / (query_heads / kv_heads)) * dim..][..dim]
    };
    let want: Vec<f32> = (0..query_heads * count)
        .map(|at| (at / count, at % count))
        .map(|(head, row)| {
            twin(key(head, row), &moments[moments_len(head, dim)..][..moments_len(1, dim)], scale)
        })
        .collect();
    let label =
        format!("expected_logits {count} rows after {prefix}, {query_heads}/{kv_heads} heads of {dim}");
    Ok(Check::compare(label, &got.await?, &want, 1e-5))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let grouped = ScoreShape { query_heads: 6, kv_heads: 2, dim: 24, per_head: true };
    let alone = ScoreShape { query_heads: 1, kv_heads: 1, dim: 64, per_head: false };
    Ok(vec![check(gpu, grouped, 5, 131).await?, check(gpu, alone, 0, 3).await?])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10))]
        #[test]
        fn agrees_with_its_twin(
            kv_heads in 1usize..4,
            group in 1usize..4,
            dim in 1usize..18,
            prefix in 0usize..40,
            count in 1usize..300,
        ) {
            let shape = ScoreShape { query_heads: kv_heads * group, kv_heads, dim: 4 * dim, per_head: true };
            assert_passed(pollster::block_on(check(&gpu(), shape, prefix, count)).map(|c| vec![c]));
        }
    }
}
