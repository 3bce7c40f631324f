//! Which columns to keep: the indices of the largest scores, in order, found without a sort.
//!
//! A radix descent over the scores' bits finds the smallest score that is kept and how many columns with exactly
//! that score are; one scan then writes the kept indices ascending. How many are kept is the host's decision, so
//! nothing has to be read back.

use std::ops::Range;

use super::check::{Check, Noise};
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "select", text: include_str!("../../shaders/select.wgsl") };

uniform! {
    struct Params {
        columns: u32,
        skip: u32,
        keep: u32,
        tail: u32,
    }
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// Records, for each of the `sets` rows of `scores` (`[sets, columns]`), the ascending indices of the scores of
/// these ranks (0 is the largest), followed by `columns..columns + tail`, the protected suffix.
///
/// Ties go to the lowest index; NaN and negative scores count as 0. `ranks.end <= columns`; `out` is
/// `[sets, ranks + tail]`.
pub fn select(
    rec: &mut Recorder,
    scores: &Tensor<f32>,
    sets: usize,
    columns: usize,
    ranks: Range<usize>,
    tail: usize,
    out: &Tensor<u32>,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
    let params = Params {
        columns: columns as u32,
        skip: ranks.start as u32,
        keep: ranks.len() as u32,
        tail: tail as u32,
    };
    rec.dispatch(&kernel, &params, &[scores.bind(), out.bind()], [sets as u32, 1, 1])
}

/// The CPU twin: a stable sort.
pub fn twin(scores: &[f32], columns: usize, ranks: Range<usize>, tail: usize) -> Vec<u32> {
    let rank = |score: f32| if score > 0.0 { score } else { 0.0 };
    let set = |scores: &[f32]| {
        let mut order: Vec<u32> = (0..columns as u32).collect();
        order.sort_by(|&a, &b| rank(scores[b as usize]).total_cmp(&rank(scores[a as usize])));
        let mut order = order[ranks.clone()].to_vec();
        order.sort_unstable();
        order.extend(columns as u32..(columns + tail) as u32);
        order
    };
    scores.chunks(columns).flat_map(set).collect()
}

async fn check(gpu: &Gpu, scores: &[f32], columns: usize, ranks: Range<usize>, tail: usize) -> Result<Check> {
    let sets = scores.len() / columns;
    let device_scores = gpu.tensor_with(Class::Scratch, "scores", scores);
    // Values after the last index must stay as they are.
    let out = gpu.tensor_with(Class::Scratch, "out", &vec![u32::MAX; sets * (ranks.len() + tail) + 1]);
    let mut rec = Recorder::new(gpu);
    select(&mut rec, &device_scores, sets, columns, ranks.clone(), tail, &out)?;
    let got = rec.read(&out, 0, out.len());
    rec.submit();
    let mut want = twin(scores, columns, ranks.clone(), tail);
    want.push(u32::MAX);
    let label = format!("select {ranks:?} of {sets}x{columns}, then {tail}");
    Ok(Check::equal(label, &got.await?, &want))
}

/// Scores of which many are equal when there are few `levels`, and some are 0, NaN, negative or infinite.
fn scores(len: usize, levels: u32, seed: u64) -> Vec<f32> {
    let mut noise = Noise::new(seed);
    let mut score = || match noise.below(40) {
        0 => f32::NAN,
        1 => -noise.value().abs(),
        2 => f32::MAX,
        3 => f32::INFINITY,
        4..8 => 0.0,
        _ => noise.below(levels) as f32 * 1.0e-3,
    };
    (0..len).map(|_| score()).collect()
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    Ok(vec![
        check(gpu, &scores(2 * 777, 50, 1), 777, 4..300, 9).await?,
        check(gpu, &scores(5000, 1 << 20, 2), 5000, 0..4001, 0).await?,
    ])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;
    use proptest::prelude::*;

    fn agree(values: &[f32], columns: usize, ranks: Range<usize>, tail: usize) {
        assert_passed(pollster::block_on(check(&gpu(), values, columns, ranks, tail)).map(|c| vec![c]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn agrees_with_a_stable_sort(
            sets in 1usize..4,
            columns in 1usize..1500,
            percents in (0usize..=100, 0usize..=100),
            tail in 0usize..300,
            level_bits in 0u32..24,
            seed: u64,
        ) {
            let [a, b] = [percents.0, percents.1].map(|percent| columns * percent / 100);
            agree(&scores(sets * columns, 1 << level_bits, seed), columns, a.min(b)..a.max(b), tail);
        }
    }

    #[test]
    fn extremes() {
        let equal = vec![0.5; 700];
        for keep in [0, 1, 255, 256, 257, 699, 700] {
            agree(&equal, 700, 0..keep, 3);
            agree(&equal, 700, keep / 2..keep, 3);
            agree(&scores(700, 1 << 20, 7), 700, 0..keep, 0);
            agree(&vec![0.0; 700], 700, keep..700, 1);
        }
        agree(&[0.25], 1, 0..1, 2);
        agree(&[0.25], 1, 0..0, 2);
        agree(&scores(131_072, 1 << 23, 11), 131_072, 4..100_000, 40);
    }
}
