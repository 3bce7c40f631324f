//! How much attention each row can expect, from the expected logits of every query head.
//!
//! A softmax over the block's rows makes the heads comparable before those of a set are averaged, and keeps every
//! number finite. As in [`super::score`], a row then counts for the length of its value.

use super::check::{Check, Noise, poisoned};
use super::score::ScoreShape;
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader =
    Shader { stem: "expected_score", text: include_str!("../../shaders/expected_score.wgsl") };

uniform! {
    struct Params {
        set_heads: u32,
        group_heads: u32,
        value_stride: u32,
        dim: u32,
        prefix: u32,
        count: u32,
        columns: u32,
        forced: u32,
    }
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// Records the scores of a block's first `columns` rows: the softmax of `logits` (`[query_heads, count]`) over its
/// `count` rows, averaged over the query heads of a set, times the length of the rows' values, which stand in `v`
/// (`[prefix + count, kv_heads * dim]`) from row `prefix` on.
///
/// The first `forced` columns get `f32::MAX`, so that no selection drops them. `out` is `[sets, columns]`.
#[expect(clippy::too_many_arguments, reason = "three tensors and their shape")]
pub fn expected_score(
    rec: &mut Recorder,
    logits: &Tensor<f32>,
    v: &Tensor<f32>,
    shape: ScoreShape,
    prefix: usize,
    count: usize,
    forced: usize,
    columns: usize,
    out: &Tensor<f32>,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
    let params = Params {
        set_heads: (shape.query_heads / shape.sets()) as u32,
        group_heads: (shape.query_heads / shape.kv_heads) as u32,
        value_stride: (shape.kv_heads * shape.dim / 4) as u32,
        dim: (shape.dim / 4) as u32,
        prefix: prefix as u32,
        count: count as u32,
        columns: columns as u32,
        forced: forced as u32,
    };
    let grid = [columns.div_ceil(256) as u32, shape.sets() as u32, 1];
    rec.dispatch(&kernel, &params, &[logits.bind(), v.bind(), out.bind()], grid)
}

/// One drawn case of the kernel's operands, for the twin and the checks.
#[derive(Debug, Clone, Copy)]
struct Case {
    shape: ScoreShape,
    prefix: usize,
    count: usize,
    forced: usize,
    columns: usize,
}

impl Case {
    /// The CPU twin.
    fn twin(&self, logits: &[f32], v: &[f32]) -> Vec<f32> {
        let ScoreShape { query_heads, kv_heads, dim, .. } = self.shape;
        let sets = self.shape.sets();
        let (set_heads, set_values) = (query_heads / sets, kv_heads / sets);
        let share = |head: usize, column: usize| {
            let row = &logits[head * self.count..][..self.count];
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let power = |logit: f32| f64::from(logit - largest).exp();
            power(row[column]) / row.iter().map(|&logit| power(logit)).sum::<f64>()
        };
        let length = |values: &[f32]| values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let score = |set: usize, column: usize| {
            if column < self.forced {
                return f32::MAX;
            }
            let heads = set * set_heads..(set + 1) * set_heads;
            let attention = heads.map(|head| share(head, column)).sum::<f64>() / set_heads as f64;
            let values =
                &v[((self.prefix + column) * kv_heads + set * set_values) * dim..][..set_values * dim];
            let lengths = values.chunks(dim).map(length).sum::<f64>() / set_values as f64;
            (attention * lengths) as f32
        };
        (0..sets * self.columns).map(|at| score(at / self.columns, at % self.columns)).collect()
    }

    async fn check(self, gpu: &Gpu) -> Result<Check> {
        let Self { shape, prefix, count, forced, columns } = self;
        let mut noise = Noise::new(41);
        // Logits whose exponentials overflow alone.
        let logits: Vec<f32> = (0..shape.query_heads * count).map(|_| 300.0 + 6.0 * noise.value()).collect();
        let v = noise.values((prefix + count) * shape.kv_heads * shape.dim);
        let device = |values: &[f32]| gpu.tensor_with(Class::Scratch, "operand", values);
        let (dlogits, dv) = (device(&logits), device(&v));
        let out = poisoned(gpu, shape.sets() * columns);
        let mut rec = Recorder::new(gpu);
        expected_score(&mut rec, &dlogits, &dv, shape, prefix, count, forced, columns, &out)?;
        let got = rec.read(&out, 0, out.len());
        rec.submit();
        // Scores are shares of one, so they are compared in parts of the mean share. Infinity is compared exactly.
        let parts = |v: Vec<f32>| v.into_iter().map(|x| x * count as f32).collect::<Vec<f32>>();
        let (got, want) = (parts(got.await?), parts(self.twin(&logits, &v)));
        Ok(Check::compare(format!("expected_score {self:?}"), &got, &want, 2e-5))
    }
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let shape = ScoreShape { query_heads: 6, kv_heads: 2, dim: 24, per_head: true };
    let each = Case { shape, prefix: 7, count: 331, forced: 4, columns: 299 };
    let shape = ScoreShape { per_head: false, ..shape };
    let shared = Case { shape, prefix: 0, count: 70, forced: 0, columns: 70 };
    Ok(vec![each.check(gpu).await?, shared.check(gpu).await?])
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
            kv_heads in 1usize..4,
            group in 1usize..4,
            dim in 1usize..11,
            per_head: bool,
            prefix in 0usize..90,
            count in 2usize..5000,
            percent in 1usize..=100,
            forced in 0usize..6,
        ) {
            let shape = ScoreShape { query_heads: kv_heads * group, kv_heads, dim: dim * 4, per_head };
            let columns = (count * percent).div_ceil(100);
            let case = Case { shape, prefix, count, forced, columns };
            assert_passed(pollster::block_on(case.check(&gpu())).map(|c| vec![c]));
        }
    }
}
