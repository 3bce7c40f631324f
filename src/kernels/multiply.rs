//! Multiplies and adds in registers and reads nothing: the yardstick for the arithmetic that a kernel can reach.

use super::check::{Check, poisoned};
use super::grid::lines;
use crate::Result;
use crate::gpu::{Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "multiply", text: include_str!("../../shaders/multiply.wgsl") };

/// Lanes of a workgroup.
const LANES: usize = 64;
/// Values that a lane steps side by side: enough to hide how long one step takes.
const CHAINS: usize = 12;
/// Steps of each value in a round.
const STEPS: usize = 8;

uniform! {
    struct Params {
        count: u32,
        rounds: u32,
        factor: f32,
        addend: f32,
    }
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// Multiplications and additions that `count` lanes carry out in `rounds` rounds.
pub fn operations(count: usize, rounds: u32) -> u64 {
    2 * (CHAINS * STEPS * count) as u64 * u64::from(rounds)
}

/// Records `rounds` rounds for every value of `out`, each step `x = x * factor + addend`.
pub fn multiply(rec: &mut Recorder, out: &Tensor<f32>, rounds: u32, factor: f32, addend: f32) -> Result<()> {
    let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
    let params = Params { count: out.len() as u32, rounds, factor, addend };
    rec.dispatch(&kernel, &params, &[out.bind()], lines(out.len().div_ceil(LANES)))
}

/// The CPU twin: output `i`.
pub fn twin(i: usize, rounds: u32, factor: f32, addend: f32) -> f32 {
    let (factor, addend) = (f64::from(factor), f64::from(addend));
    let step = |x: f64, _| x * factor + addend;
    let value = |chain: usize| (0..STEPS * rounds as usize).fold((i % LANES + chain) as f64, step);
    (0..CHAINS).map(value).sum::<f64>() as f32
}

async fn check(gpu: &Gpu, count: usize, rounds: u32) -> Result<Check> {
    // So near to one that every step of a few rounds shows.
    let (factor, addend) = (0.992, -0.25);
    let out = poisoned(gpu, count);
    let mut rec = Recorder::new(gpu);
    multiply(&mut rec, &out, rounds, factor, addend)?;
    let got = rec.read(&out, 0, count);
    rec.submit();
    let want: Vec<f32> = (0..count).map(|i| twin(i, rounds, factor, addend)).collect();
    Ok(Check::compare(format!("multiply {rounds} rounds of {count}"), &got.await?, &want, 1e-5))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    Ok(vec![check(gpu, 1, 1).await?, check(gpu, 1003, 5).await?])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;

    #[test]
    fn agrees_with_its_twin() {
        assert_passed(pollster::block_on(checks(&gpu())));
    }

    #[test]
    fn a_round_left_out_is_seen() {
        let [few, many] = [4, 5].map(|rounds| twin(77, rounds, 0.992, -0.25));
        assert!((few - many).abs() / many.abs() > 1e-3, "{few} and {many}");
    }
}
