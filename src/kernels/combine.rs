//! Joins the scores that several terms give the same rows.

use super::check::{Check, Noise, poisoned};
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "combine", text: include_str!("../../shaders/combine.wgsl") };

/// What a row scores altogether.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combine {
    /// The largest of what the terms give it; they must be of one unit.
    Max,
    /// The sum of what they give it, each as a multiple of its own mean over the rows of the set.
    Sum,
}

uniform! {
    struct Params {
        columns: u32,
        forced: u32,
        joined: u32,
        weight: f32,
    }
}

fn key(how: Combine) -> ShaderKey {
    ShaderKey::new(SHADER).flag("SUM", how == Combine::Sum)
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![key(Combine::Max), key(Combine::Sum)]
}

/// Records what `term`, `[sets, columns]` and not negative, adds to `out` of the same shape with `weight`; when
/// not `joined`, it is the first term and what `out` holds does not count.
///
/// The first `forced` columns get `f32::MAX`, so that no selection drops them, and count in no mean.
#[expect(clippy::too_many_arguments, reason = "two tensors, their shape, and what to do")]
pub fn combine(
    rec: &mut Recorder,
    term: &Tensor<f32>,
    sets: usize,
    columns: usize,
    forced: usize,
    how: Combine,
    weight: f32,
    joined: bool,
    out: &Tensor<f32>,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&key(how))?;
    let params = Params { columns: columns as u32, forced: forced as u32, joined: u32::from(joined), weight };
    let grid = [columns.div_ceil(256) as u32, sets as u32, 1];
    rec.dispatch(&kernel, &params, &[term.bind(), out.bind()], grid)
}

/// The CPU twin, over one set; `before` is what `out` held when terms are joined.
pub fn twin(term: &[f32], forced: usize, how: Combine, weight: f32, before: Option<&[f32]>) -> Vec<f32> {
    let scored = term.get(forced..).unwrap_or(&[]);
    let mean = scored.iter().map(|&x| f64::from(x)).sum::<f64>() / scored.len().max(1) as f64;
    let unit = match how {
        Combine::Max => 1.0,
        Combine::Sum if mean > 0.0 => 1.0 / mean,
        Combine::Sum => 0.0,
    };
    let score = |column: usize| {
        if column < forced {
            return f32::MAX;
        }
        let own = (f64::from(weight) * unit * f64::from(term[column])) as f32;
        match (before, how) {
            (None, _) => own,
            (Some(before), Combine::Max) => own.max(before[column]),
            (Some(before), Combine::Sum) => own + before[column],
        }
    };
    (0..term.len()).map(score).collect()
}

/// One drawn case of the kernel's operands.
#[derive(Debug, Clone, Copy)]
struct Case {
    sets: usize,
    columns: usize,
    forced: usize,
    how: Combine,
    weight: f32,
    joined: bool,
}

impl Case {
    async fn check(self, gpu: &Gpu) -> Result<Check> {
        let Self { sets, columns, forced, how, weight, joined } = self;
        let mut noise = Noise::new(43);
        let mut draw = || -> Vec<f32> {
            let mut values: Vec<f32> = noise.values(sets * columns).iter().map(|v| v.abs()).collect();
            // As `score` leaves them: forced columns must count in no mean.
            values.chunks_mut(columns).for_each(|set| set[..forced.min(columns)].fill(f32::MAX));
            values
        };
        let (mut term, before) = (draw(), draw());
        // A set whose rows got nothing has no mean to divide by.
        term[(sets - 1) * columns..].fill(0.0);
        let device_term = gpu.tensor_with(Class::Scratch, "term", &term);
        let out = match joined {
            true => gpu.tensor_with(Class::Scratch, "out", &before),
            false => poisoned(gpu, sets * columns),
        };
        let mut rec = Recorder::new(gpu);
        combine(&mut rec, &device_term, sets, columns, forced, how, weight, joined, &out)?;
        let got = rec.read(&out, 0, out.len());
        rec.submit();
        // Infinity is compared exactly and, unlike f32::MAX, does not set the scale of the error.
        let exact = |v: Vec<f32>| v.into_iter().map(|x| if x == f32::MAX { f32::INFINITY } else { x });
        let want = term
            .chunks(columns)
            .zip(before.chunks(columns))
            .flat_map(|(term, before)| twin(term, forced, how, weight, joined.then_some(before)));
        let (got, want) = (exact(got.await?).collect::<Vec<_>>(), exact(want.collect()).collect::<Vec<_>>());
        Ok(Check::compare(format!("combine {self:?}"), &got, &want, 2e-6))
    }
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let max = Case { sets: 3, columns: 131, forced: 4, how: Combine::Max, weight: 0.5, joined: true };
    let sum = Case { sets: 2, columns: 570, forced: 4, how: Combine::Sum, weight: 0.5, joined: true };
    let first = Case { sets: 2, columns: 3, forced: 4, how: Combine::Sum, weight: 1.0, joined: false };
    Ok(vec![max.check(gpu).await?, sum.check(gpu).await?, first.check(gpu).await?])
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
            columns in 1usize..700,
            forced in 0usize..6,
            sum: bool,
            weight in 0.1f32..3.0,
            joined: bool,
        ) {
            let how = if sum { Combine::Sum } else { Combine::Max };
            let case = Case { sets, columns, forced, how, weight, joined };
            assert_passed(pollster::block_on(case.check(&gpu())).map(|c| vec![c]));
        }
    }
}
