//! Products of a matrix with one row: the decode step.

use super::activations::Values;
use super::check::{Check, Noise, poisoned};
use super::matrix::{Epilogue, Matrix, Norm, RowFormat, quantize, unpack};
use super::part::Part;
use super::product::Params;
use super::{matvec_groups, matvec_lanes, rms_norm};
use crate::Result;
use crate::gpu::{Class, Family, Gpu, Recorder, ShaderKey, Tuning};

/// Every shader variant of both families.
pub fn variants() -> Vec<ShaderKey> {
    matvec_lanes::variants().into_iter().chain(matvec_groups::variants()).collect()
}

/// The variants that `base` grows into: formats, epilogues, with and without normalisation.
pub(super) fn grow(base: &ShaderKey) -> Vec<ShaderKey> {
    let mut all = Vec::new();
    for format in RowFormat::ALL {
        for epilogue in Epilogue::ALL {
            all.extend([false, true].map(|norm| finish(format.variant(base.clone()), epilogue, norm)));
        }
    }
    all
}

fn finish(key: ShaderKey, epilogue: Epilogue, norm: bool) -> ShaderKey {
    epilogue.variant(key).flag("NORM", norm)
}

/// Records `out = W x`, ended by `epilogue`; with a norm, `W (x * weight / rms(x))`, where the sum of squares is
/// part of the same dispatch. `x` is `[cols]`, `out` is `[epilogue.outputs(rows)]`.
pub fn matvec<'a>(
    rec: &mut Recorder,
    matrix: &Matrix,
    x: impl Into<Values<'a>>,
    norm: Option<Norm<'_>>,
    epilogue: Epilogue,
    out: impl Into<Values<'a>>,
) -> Result<()> {
    let (x, out) = (x.into().single()?, out.into().single()?);
    let Tuning { family, subgroups, .. } = rec.gpu().tuning();
    for part in matrix.parts() {
        let (base, grid) = match family {
            Family::Lanes => (matvec_lanes::key(subgroups), matvec_lanes::grid(part.rows)),
            Family::Groups => (matvec_groups::key(subgroups, 1), matvec_groups::grid(part.rows, 1)),
        };
        let kernel = rec.gpu().kernel(&finish(part.variant(base), epilogue, norm.is_some()))?;
        let epsilon = norm.map_or(0.0, |n| n.epsilon);
        let params = Params { epsilon, ..Params::new(matrix, part, 1, epilogue) };
        let mut bindings = vec![part.words.bind(), part.scales.bind(), x, out];
        bindings.extend(norm.map(|n| n.weight.bind()));
        rec.dispatch(&kernel, &params, &bindings, grid)?;
    }
    Ok(())
}

/// The CPU twin for one part: `weights` is `[rows, x.len()]`, `out` holds what the epilogue adds to.
pub fn twin(weights: &[f32], x: &[f32], epilogue: Epilogue, out: &mut [f32]) {
    let product = |row: &[f32]| row.iter().zip(x).map(|(w, v)| f64::from(*w) * f64::from(*v)).sum::<f64>();
    let products: Vec<f64> = weights.chunks_exact(x.len()).map(product).collect();
    let (gate, up) = products.split_at(products.len() / 2);
    for (i, out) in out.iter_mut().enumerate() {
        *out = match epilogue {
            Epilogue::Store => products[i] as f32,
            Epilogue::Add => (f64::from(*out) + products[i]) as f32,
            Epilogue::SwiGlu => (gate[i] / (1.0 + (-gate[i]).exp()) * up[i]) as f32,
        };
    }
}

/// A matrix of noise in two parts of these rows, and for each part its unpacked values.
pub(super) fn sample(
    gpu: &Gpu,
    noise: &mut Noise,
    format: RowFormat,
    rows: [usize; 2],
    cols: usize,
) -> Result<(Matrix, [Vec<f32>; 2])> {
    let mut rec = Recorder::new(gpu);
    let (mut parts, mut values) = (Vec::new(), [Vec::new(), Vec::new()]);
    let mut first_row = 0;
    for (rows, values) in rows.into_iter().zip(&mut values) {
        let (words, scales) = quantize(format, rows, cols, &noise.values(rows * cols));
        *values = unpack(format, rows, cols, &words, &scales);
        let words = gpu.tensor_with(Class::Weights, "words", &words);
        let scales = gpu.tensor_with(Class::Weights, "scales", &scales);
        parts.push(Part::new(&mut rec, first_row, rows, format, words, scales)?);
        first_row += rows;
    }
    Ok((Matrix::new(cols, parts), values))
}

async fn check(
    gpu: &Gpu,
    (format, epilogue, norm): (RowFormat, Epilogue, bool),
    rows: [usize; 2],
    cols: usize,
) -> Result<Check> {
    let mut noise = Noise::new(5);
    let rows = rows.map(|r| if epilogue == Epilogue::SwiGlu { r.next_multiple_of(2) } else { r });
    let (matrix, parts) = sample(gpu, &mut noise, format, rows, cols)?;
    let (x, weight) = (noise.values(cols), noise.values(cols));
    let outputs = epilogue.outputs(matrix.rows());
    let mut want = vec![f32::NAN; outputs];
    if epilogue == Epilogue::Add {
        want = noise.values(outputs);
    }
    let device_x = gpu.tensor_with(Class::Scratch, "x", &x);
    let device_weight = gpu.tensor_with(Class::Scratch, "norm", &weight);
    let out = poisoned(gpu, outputs);
    gpu.write(&out, 0, &want);
    let mut rec = Recorder::new(gpu);
    let norm = norm.then_some(Norm { weight: &device_weight, epsilon: 1e-5 });
    matvec(&mut rec, &matrix, &device_x, norm, epilogue, &out)?;
    let got = rec.read(&out, 0, outputs);
    rec.submit();
    let x = norm.map_or(x.clone(), |n| rms_norm::twin(&x, &weight, n.epsilon));
    let (first, second) = want.split_at_mut(epilogue.outputs(rows[0]));
    twin(&parts[0], &x, epilogue, first);
    twin(&parts[1], &x, epilogue, second);
    let label = format!("matvec {format:?} {epilogue:?} norm {} {rows:?}x{cols}", norm.is_some());
    Ok(Check::compare(label, &got.await?, &want, 1e-5))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    Ok(vec![
        check(gpu, (RowFormat::Q4, Epilogue::SwiGlu, true), [38, 6], 576).await?,
        check(gpu, (RowFormat::Q4, Epilogue::Add, false), [67, 3], 1536).await?,
        check(gpu, (RowFormat::Q8, Epilogue::Store, true), [131, 1], 96).await?,
        check(gpu, (RowFormat::F16, Epilogue::Store, false), [5, 9], 104).await?,
    ])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, families};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10))]
        #[test]
        fn agrees_with_its_twin(
            format in 0usize..3, epilogue in 0usize..3, norm: bool,
            rows in 1usize..150, more in 1usize..20, groups in 1usize..40,
        ) {
            let variant = (RowFormat::ALL[format], Epilogue::ALL[epilogue], norm);
            for gpu in families() {
                assert_passed(pollster::block_on(check(&gpu, variant, [rows, more], 32 * groups)).map(|c| vec![c]));
            }
        }
    }

    #[test]
    fn checks_pass_in_every_family() {
        for gpu in families() {
            assert_passed(pollster::block_on(checks(&gpu)));
        }
    }
}
