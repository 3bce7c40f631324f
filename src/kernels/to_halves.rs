//! Copies of values in halves, for kernels on matrix units.

use std::ops::Range;

use super::activations::unpacked;
use super::check::{Check, Noise};
use super::grid::lines;
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "to_halves", text: include_str!("../../shaders/to_halves.wgsl") };

uniform! {
    struct Params {
        first: u32,
        eights: u32,
    }
}

/// The only shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// Records the copy of these values of `x`, from one multiple of 8 to another, to their places in `out`, two to a word as
/// [`super::activations`] has them.
pub fn to_halves(rec: &mut Recorder, x: &Tensor<f32>, out: &Tensor<u32>, values: Range<usize>) -> Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    let (first, eights) = (values.start / 8, values.len() / 8);
    let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
    let params = Params { first: first as u32, eights: eights as u32 };
    rec.dispatch(&kernel, &params, &[x.bind(), out.bind()], lines(eights.div_ceil(64)))
}

async fn check(gpu: &Gpu, eights: usize) -> Result<Vec<Check>> {
    let mut values = Noise::new(31).values(8 * eights);
    values[1] = 1e6;
    let x = gpu.tensor_with(Class::Scratch, "x", &values);
    // Words of NaN.
    let out = gpu.tensor_with(Class::Scratch, "halves", &vec![u32::MAX; 4 * eights]);
    let mut rec = Recorder::new(gpu);
    // In two parts, the later one first.
    let cut = 8 * (eights / 3);
    to_halves(&mut rec, &x, &out, cut..values.len())?;
    to_halves(&mut rec, &x, &out, 0..cut)?;
    let got = rec.read(&out, 0, out.len());
    rec.submit();
    let got = unpacked(&got.await?);
    let label = format!("to_halves {eights} by 8");
    // A device may round either way.
    let rest = |values: &[f32]| [&values[..1], &values[2..]].concat();
    Ok(vec![
        Check::compare(label.clone(), &rest(&got), &rest(&values), 1e-3),
        Check::equal(label + ", cut off", &[got[1].to_bits()], &[65504_f32.to_bits()]),
    ])
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    check(gpu, 70).await
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn agrees_with_its_layout(eights in 1usize..300) {
            assert_passed(pollster::block_on(check(&gpu(), eights)));
        }
    }
}
