//! RMS normalisation of rows.

use super::activations::{Values, unpacked};
use super::check::{Check, Noise, poisoned};
use super::grid::lines;
use crate::Result;
use crate::gpu::{Binding, Class, Family, Gpu, Recorder, Shader, ShaderKey, Tensor, Tuning, uniform};

const SHADER: Shader = Shader { stem: "rms_norm", text: include_str!("../../shaders/rms_norm.wgsl") };

uniform! {
    struct Params {
        rows: u32,
        quads: u32,
        epsilon: f32,
    }
}

fn key(family: Family) -> ShaderKey {
    match family {
        Family::Lanes => ShaderKey::new(SHADER).with("WORKGROUP", 8),
        Family::Groups => ShaderKey::new(SHADER).with("WORKGROUP", 256).with("SHARED", 1),
    }
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![key(Family::Lanes), key(Family::Groups), key(Family::Groups).flag("HALVES", true)]
}

/// Records `out = x * weight / sqrt(mean(x²) + epsilon)` for `rows` rows of `width` values, a multiple of 4.
pub fn rms_norm<'a>(
    rec: &mut Recorder,
    x: Binding<'_>,
    weight: &Tensor<f32>,
    epsilon: f32,
    out: impl Into<Values<'a>>,
    rows: usize,
    width: usize,
) -> Result<()> {
    let Tuning { family, .. } = rec.gpu().tuning();
    let out = out.into();
    let kernel = rec.gpu().kernel(&key(family).flag("HALVES", out.halves))?;
    let params = Params { rows: rows as u32, quads: (width / 4) as u32, epsilon };
    rec.dispatch(&kernel, &params, &[x, weight.bind(), out.binding], lines(rows))
}

/// The CPU twin.
pub fn twin(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let row = |x: &[f32]| {
        let squares: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        let scale = 1.0 / (squares / x.len() as f64 + f64::from(epsilon)).sqrt();
        x.iter().zip(weight).map(|(v, w)| (f64::from(v * w) * scale) as f32).collect::<Vec<_>>()
    };
    x.chunks_exact(weight.len()).flat_map(row).collect()
}

async fn check(gpu: &Gpu, rows: usize, width: usize, halves: bool) -> Result<Check> {
    let mut noise = Noise::new(3);
    let (x, weight) = (noise.values(rows * width), noise.values(width));
    let device_x = gpu.tensor_with(Class::Scratch, "x", &x);
    let device_weight = gpu.tensor_with(Class::Scratch, "weight", &weight);
    let out = poisoned(gpu, rows * width);
    let mut rec = Recorder::new(gpu);
    let to = Values { binding: out.bind(), halves };
    rms_norm(&mut rec, device_x.bind(), &device_weight, 1e-5, to, rows, width)?;
    let got = rec.read(&out, 0, rows * width);
    rec.submit();
    let (mut got, mut tolerance) = (got.await?, 1e-5);
    if halves {
        (got, tolerance) = (unpacked(bytemuck::cast_slice(&got[..rows * width / 2])), 1e-3);
    }
    Ok(Check::compare(format!("rms_norm {rows}x{width}"), &got, &twin(&x, &weight, 1e-5), tolerance))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let halves = gpu.tuning().matrix_units;
    Ok(vec![check(gpu, 1, 64, false).await?, check(gpu, 5, 576, halves).await?])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, families};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn agrees_with_its_twin(rows in 1usize..20, quads in 1usize..300, halves: bool) {
            for gpu in families() {
                let halves = halves && gpu.tuning().family == Family::Groups;
                assert_passed(pollster::block_on(check(&gpu, rows, 4 * quads, halves)).map(|c| vec![c]));
            }
        }
    }
}
