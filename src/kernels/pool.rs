//! Lends a row the score of its neighbours, so that a selection keeps words and phrases instead of lone tokens.

use super::check::{Check, Noise, poisoned};
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "pool", text: include_str!("../../shaders/pool.wgsl") };

/// What a row takes from the rows around it, over a window of so many rows with the row in its middle: an odd
/// number. Windows end at the first and last row that is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The largest score in the window.
    Max(usize),
    /// The mean score of the window.
    Average(usize),
}

impl Pooling {
    /// Rows on either side.
    fn reach(self) -> usize {
        match self {
            Self::Max(window) | Self::Average(window) => window / 2,
        }
    }
}

uniform! {
    struct Params {
        columns: u32,
        forced: u32,
        reach: u32,
    }
}

fn key(pooling: Pooling) -> ShaderKey {
    ShaderKey::new(SHADER).flag("AVERAGE", matches!(pooling, Pooling::Average(_)))
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![key(Pooling::Max(1)), key(Pooling::Average(1))]
}

/// Records the pooling of `scores`, `[sets, columns]` and not negative, to `out` of the same shape.
///
/// The first `forced` columns get `f32::MAX`, so that no selection drops them, and lend it to no neighbour.
pub fn pool(
    rec: &mut Recorder,
    scores: &Tensor<f32>,
    sets: usize,
    columns: usize,
    forced: usize,
    pooling: Pooling,
    out: &Tensor<f32>,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&key(pooling))?;
    let params = Params { columns: columns as u32, forced: forced as u32, reach: pooling.reach() as u32 };
    let grid = [columns.div_ceil(64) as u32, sets as u32, 1];
    rec.dispatch(&kernel, &params, &[scores.bind(), out.bind()], grid)
}

/// The CPU twin, over one set.
pub fn twin(scores: &[f32], forced: usize, pooling: Pooling) -> Vec<f32> {
    let pooled = |column: usize| {
        if column < forced {
            return f32::MAX;
        }
        let begin = column.saturating_sub(pooling.reach()).max(forced);
        let window = &scores[begin..(column + pooling.reach() + 1).min(scores.len())];
        match pooling {
            Pooling::Max(_) => window.iter().copied().fold(0.0, f32::max),
            Pooling::Average(_) => window.iter().sum::<f32>() / window.len() as f32,
        }
    };
    (0..scores.len()).map(pooled).collect()
}

/// One drawn case of the kernel's operands.
#[derive(Debug, Clone, Copy)]
struct Case {
    sets: usize,
    columns: usize,
    forced: usize,
    pooling: Pooling,
}

impl Case {
    async fn check(self, gpu: &Gpu) -> Result<Check> {
        let Self { sets, columns, forced, pooling } = self;
        let mut scores: Vec<f32> = Noise::new(5).values(sets * columns).iter().map(|v| v.abs()).collect();
        // As `score` leaves them: forced columns must not spread.
        scores.chunks_mut(columns).for_each(|set| set[..forced.min(columns)].fill(f32::MAX));
        let device_scores = gpu.tensor_with(Class::Scratch, "scores", &scores);
        let out = poisoned(gpu, sets * columns);
        let mut rec = Recorder::new(gpu);
        pool(&mut rec, &device_scores, sets, columns, forced, pooling, &out)?;
        let got = rec.read(&out, 0, out.len());
        rec.submit();
        // Infinity is compared exactly and, unlike f32::MAX, does not set the scale of the error.
        let exact = |v: Vec<f32>| v.into_iter().map(|x| if x == f32::MAX { f32::INFINITY } else { x });
        let want = scores.chunks(columns).flat_map(|scores| twin(scores, forced, pooling));
        let (got, want) = (exact(got.await?).collect::<Vec<_>>(), exact(want.collect()).collect::<Vec<_>>());
        Ok(Check::compare(format!("pool {self:?}"), &got, &want, 1e-6))
    }
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let max = Case { sets: 3, columns: 131, forced: 4, pooling: Pooling::Max(7) };
    let average = Case { sets: 1, columns: 70, forced: 0, pooling: Pooling::Average(5) };
    Ok(vec![max.check(gpu).await?, average.check(gpu).await?])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn agrees_with_its_twin(
            sets in 1usize..4,
            columns in 1usize..300,
            forced in 0usize..6,
            reach in 0usize..9,
            average: bool,
        ) {
            let window = 2 * reach + 1;
            let pooling = if average { Pooling::Average(window) } else { Pooling::Max(window) };
            let case = Case { sets, columns, forced, pooling };
            assert_passed(pollster::block_on(case.check(&gpu())).map(|c| vec![c]));
        }
    }

    #[test]
    fn forced_columns_stay_and_do_not_spread() {
        let scores = [f32::MAX, f32::MAX, 0.5, 0.25, 0.0, 0.0, 1.0];
        let pooled = twin(&scores, 2, Pooling::Max(3));
        assert_eq!(pooled, [f32::MAX, f32::MAX, 0.5, 0.5, 0.25, 1.0, 1.0]);
        let pooled = twin(&scores, 2, Pooling::Average(3));
        assert_eq!(pooled[..4], [f32::MAX, f32::MAX, 0.375, 0.25]);
    }
}
