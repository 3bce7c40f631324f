//! The loss of one target per row of logits, for perplexity.

use super::check::{Check, Noise, poisoned};
use crate::Result;
use crate::gpu::{Binding, Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "nll", text: include_str!("../../shaders/nll.wgsl") };

uniform! {
    struct Params {
        vocab: u32,
        at: u32,
    }
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// Records `out[at + i] = ln Σ exp(logits[i]) − logits[i][targets[i]]` for `count` rows: the negative
/// log-likelihood in nats.
///
/// `logits` is `[count, vocab]` f32, `targets` `[count]` u32; a target past the end counts as the last id.
pub fn nll(
    rec: &mut Recorder,
    logits: &Tensor<f32>,
    targets: Binding<'_>,
    count: usize,
    vocab: usize,
    out: &Tensor<f32>,
    at: usize,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
    let params = Params { vocab: vocab as u32, at: at as u32 };
    rec.dispatch(&kernel, &params, &[logits.bind(), targets, out.bind()], [count as u32, 1, 1])
}

/// The CPU twin.
pub fn twin(logits: &[f32], targets: &[u32]) -> Vec<f32> {
    let loss = |(row, &target): (&[f32], &u32)| {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from(x - largest).exp()).sum();
        (sum.ln() + f64::from(largest) - f64::from(row[target as usize])) as f32
    };
    logits.chunks(logits.len() / targets.len()).zip(targets).map(loss).collect()
}

async fn check(gpu: &Gpu, count: usize, vocab: usize, at: usize) -> Result<Check> {
    let mut noise = Noise::new(9);
    let mut logits: Vec<f32> = (0..count * vocab).map(|_| noise.value() * 20.0).collect();
    logits[vocab / 2] = f32::NEG_INFINITY;
    let mut targets: Vec<u32> = (1..count).map(|_| noise.below(vocab as u32)).collect();
    targets.push(vocab as u32 - 1);
    let device_logits = gpu.tensor_with(Class::Scratch, "logits", &logits);
    let device_targets = gpu.tensor_with(Class::Scratch, "targets", &targets);
    let out = poisoned(gpu, at + count);
    let mut rec = Recorder::new(gpu);
    nll(&mut rec, &device_logits, device_targets.bind(), count, vocab, &out, at)?;
    let got = rec.read(&out, 0, at + count);
    rec.submit();
    let mut want = vec![f32::NAN; at];
    want.extend(twin(&logits, &targets));
    Ok(Check::compare(format!("nll {count}x{vocab} at {at}"), &got.await?, &want, 2e-6))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    Ok(vec![check(gpu, 3, 1003, 2).await?, check(gpu, 5, 77, 0).await?])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn agrees_with_its_twin(count in 1usize..9, vocab in 2usize..9000, at in 0usize..5) {
            assert_passed(pollster::block_on(check(&gpu(), count, vocab, at)).map(|c| vec![c]));
        }
    }

    #[test]
    fn a_nan_logit_gives_a_nan_loss() {
        let gpu = gpu();
        let logits = gpu.tensor_with(Class::Scratch, "logits", &[0.0, f32::NAN, 1.0]);
        let targets = gpu.tensor_with(Class::Scratch, "targets", &[2]);
        let out = gpu.tensor(Class::Scratch, "out", 1);
        let mut rec = Recorder::new(&gpu);
        nll(&mut rec, &logits, targets.bind(), 1, 3, &out, 0).unwrap();
        let loss = rec.read(&out, 0, 1);
        rec.submit();
        assert!(pollster::block_on(loss).unwrap()[0].is_nan());
    }
}
