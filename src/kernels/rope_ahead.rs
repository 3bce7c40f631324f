//! Turns the queries of a block on to where later ones will stand, averaged over the positions that come next.
//!
//! What a query would ask at position `p'` is its own rotation and the `p' − p` steps from there. Turning is
//! linear, so the mean and the covariance of the turned rows are those of unrotated queries under the averaged
//! rotation, and the unrotated ones are never needed.

use super::check::{Check, Noise, poisoned};
use super::rope_split::{Rope, frequencies, rope_key};
use crate::Result;
use crate::gpu::{Binding, Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "rope_ahead", text: include_str!("../../shaders/rope_ahead.wgsl") };

/// The positions ahead: `steps` of them, at least one, from `from` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// The next token's position.
    pub from: usize,
    /// How many positions are averaged.
    pub steps: usize,
}

impl Ahead {
    /// The middle of the run, exact up to 2²³ positions.
    fn middle(self) -> f32 {
        self.from as f32 + 0.5 * (self.steps as f32 - 1.0)
    }
}

uniform! {
    struct Params {
        count: u32,
        heads: u32,
        steps: f32,
        middle: f32,
    }
}

fn key(head_dim: usize) -> ShaderKey {
    ShaderKey::new(SHADER).with("HEAD_DIM", head_dim as u32)
}

/// Both pairings, on heads of 64 that rotate whole and on heads of 96 that rotate a third.
pub fn variants() -> Vec<ShaderKey> {
    let shapes = [(64, 32, false), (64, 32, true), (96, 16, false), (96, 16, true)];
    shapes.map(|(dim, pairs, interleaved)| rope_key(key(dim), pairs, interleaved)).to_vec()
}

/// Records the turning of `count` rows of rotated queries `q` (`[count, heads * dim]`), which stand at
/// `positions`, to `out` of the same shape. `q` bears RoPE's magnitude already, so [`Rope::scale`] is not used.
#[expect(clippy::too_many_arguments, reason = "two tensors, their shape, and the turn")]
pub fn rope_ahead(
    rec: &mut Recorder,
    q: &Tensor<f32>,
    positions: Binding<'_>,
    (heads, dim): (usize, usize),
    rope: &Rope<'_>,
    ahead: Ahead,
    count: usize,
    out: &Tensor<f32>,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&rope.key(key(dim)))?;
    let params = Params {
        count: count as u32,
        heads: heads as u32,
        steps: ahead.steps as f32,
        middle: ahead.middle(),
    };
    let bindings = [q.bind(), positions, rope.frequencies.bind(), out.bind()];
    rec.dispatch(&kernel, &params, &bindings, [(count * dim / 2).div_ceil(64) as u32, 1, 1])
}

/// The CPU twin for one head row: the average, position by position.
pub fn twin(row: &[f32], position: u32, frequencies: &[f32], interleaved: bool, ahead: Ahead) -> Vec<f32> {
    let mut out = row.to_vec();
    for (i, &frequency) in frequencies.iter().enumerate() {
        let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + frequencies.len()) };
        // The angle to the middle is a float, as in every rotation; the steps around it are exact.
        let middle = f64::from((ahead.middle() - position as f32) * frequency);
        let angle =
            |step: usize| middle + f64::from(frequency) * (step as f64 - 0.5 * (ahead.steps as f64 - 1.0));
        let mean = |part: fn(f64) -> f64| {
            (0..ahead.steps).map(|step| part(angle(step))).sum::<f64>() / ahead.steps as f64
        };
        let (cos, sin) = (mean(f64::cos), mean(f64::sin));
        let (x, y) = (f64::from(row[a]), f64::from(row[b]));
        out[a] = (x * cos - y * sin) as f32;
        out[b] = (x * sin + y * cos) as f32;
    }
    out
}

/// One drawn case of the kernel's operands.
#[derive(Debug, Clone, Copy)]
struct Case {
    heads: usize,
    dim: usize,
    pairs: usize,
    interleaved: bool,
    ahead: Ahead,
    count: usize,
}

impl Case {
    async fn check(self, gpu: &Gpu) -> Result<Check> {
        let Self { heads, dim, pairs, interleaved, ahead, count } = self;
        let mut noise = Noise::new(23);
        let q = noise.values(count * heads * dim);
        let positions: Vec<u32> = (0..count).map(|_| noise.below(ahead.from as u32 + 1)).collect();
        let mut frequencies = frequencies(pairs);
        // A pair that never turns.
        frequencies[pairs - 1] = 0.0;
        let row =
            |(i, row): (usize, &[f32])| twin(row, positions[i / heads], &frequencies, interleaved, ahead);
        let want: Vec<f32> = q.chunks(dim).enumerate().flat_map(row).collect();

        let device_q = gpu.tensor_with(Class::Scratch, "q", &q);
        let device_positions = gpu.tensor_with(Class::Scratch, "positions", &positions);
        let device_frequencies = gpu.tensor_with(Class::Scratch, "frequencies", &frequencies);
        let rope = Rope { frequencies: &device_frequencies, interleaved, scale: 1.25 };
        let out = poisoned(gpu, count * heads * dim);
        let mut rec = Recorder::new(gpu);
        rope_ahead(&mut rec, &device_q, device_positions.bind(), (heads, dim), &rope, ahead, count, &out)?;
        let got = rec.read(&out, 0, out.len());
        rec.submit();
        Ok(Check::compare(format!("rope_ahead {self:?}"), &got.await?, &want, 1e-5))
    }
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let ahead = Ahead { from: 1540, steps: 512 };
    let whole = Case { heads: 9, dim: 64, pairs: 32, interleaved: true, ahead, count: 19 };
    let ahead = Ahead { from: 7, steps: 1 };
    let part = Case { heads: 2, dim: 80, pairs: 10, interleaved: false, ahead, count: 3 };
    Ok(vec![whole.check(gpu).await?, part.check(gpu).await?])
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
            heads in 1usize..9,
            (dim, pairs) in prop::sample::select(vec![(64usize, 32usize), (80, 40), (96, 24), (128, 1)]),
            interleaved: bool,
            from in 0usize..9000,
            steps in 1usize..700,
            count in 1usize..40,
        ) {
            let case = Case { heads, dim, pairs, interleaved, ahead: Ahead { from, steps }, count };
            assert_passed(pollster::block_on(case.check(&gpu())).map(|c| vec![c]));
        }
    }
}
