//! Products of a matrix with many rows: the prefill.

use super::check::{Check, Noise, poisoned};
use super::matrix::{Epilogue, Matrix, RowFormat};
use super::{matmul_groups, matmul_lanes, matvec};
use crate::Result;
use crate::gpu::{Binding, Class, Family, Gpu, Recorder, ShaderKey, Tensor, Tuning};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    cols: u32,
    first: u32,
    stride: u32,
    count: u32,
}

/// Every shader variant of both families.
pub fn variants() -> Vec<ShaderKey> {
    let mut all = Vec::new();
    for base in [matmul_lanes::key(), matmul_groups::key()] {
        for format in RowFormat::ALL {
            all.extend(Epilogue::ALL.map(|epilogue| epilogue.variant(format.variant(base.clone()))));
        }
    }
    all
}

/// Records `out = x Wᵀ` for `count` input rows, ended by `epilogue`. `x` is `[count, cols]`, `out` is
/// `[count, epilogue.outputs(rows)]`.
pub fn matmul(
    rec: &mut Recorder,
    matrix: &Matrix,
    x: Binding<'_>,
    count: usize,
    epilogue: Epilogue,
    out: &Tensor<f32>,
) -> Result<()> {
    let Tuning { family, .. } = rec.gpu().tuning();
    for part in matrix.parts() {
        let (base, grid) = match family {
            Family::Lanes => (matmul_lanes::key(), matmul_lanes::grid(part.rows, count)),
            Family::Groups => (matmul_groups::key(), matmul_groups::grid(part.rows, count)),
        };
        let kernel = rec.gpu().kernel(&epilogue.variant(part.format.variant(base)))?;
        let params = Params {
            rows: part.rows as u32,
            cols: matrix.cols() as u32,
            first: epilogue.outputs(part.first_row) as u32,
            stride: epilogue.outputs(matrix.rows()) as u32,
            count: count as u32,
        };
        rec.dispatch(&kernel, &params, &[part.words.bind(), part.scales.bind(), x, out.bind()], grid)?;
    }
    Ok(())
}

async fn check(
    gpu: &Gpu,
    (format, epilogue): (RowFormat, Epilogue),
    rows: [usize; 2],
    cols: usize,
    count: usize,
) -> Result<Check> {
    let mut noise = Noise::new(6);
    let rows = rows.map(|r| if epilogue == Epilogue::SwiGlu { r.next_multiple_of(2) } else { r });
    let (matrix, parts) = matvec::sample(gpu, &mut noise, format, rows, cols);
    let x = noise.values(count * cols);
    let outputs = epilogue.outputs(matrix.rows());
    let mut want = vec![f32::NAN; count * outputs];
    if epilogue == Epilogue::Add {
        want = noise.values(count * outputs);
    }
    let device_x = gpu.tensor_with(Class::Scratch, "x", &x);
    let out = poisoned(gpu, count * outputs);
    gpu.write(&out, 0, &want);
    let mut rec = Recorder::new(gpu);
    matmul(&mut rec, &matrix, device_x.bind(), count, epilogue, &out)?;
    let got = rec.read(&out, 0, count * outputs);
    rec.submit();
    // Each row is a matrix-vector product, whose twin is this kernel's too.
    for (x, want) in x.chunks_exact(cols).zip(want.chunks_exact_mut(outputs)) {
        let (first, second) = want.split_at_mut(epilogue.outputs(rows[0]));
        matvec::twin(&parts[0], x, epilogue, first);
        matvec::twin(&parts[1], x, epilogue, second);
    }
    let label = format!("matmul {format:?} {epilogue:?} {count} rows by {rows:?}x{cols}");
    Ok(Check::compare(label, &got.await?, &want, 1e-5))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    Ok(vec![
        check(gpu, (RowFormat::Q4, Epilogue::SwiGlu), [138, 6], 576, 21).await?,
        check(gpu, (RowFormat::Q4, Epilogue::Add), [67, 3], 192, 65).await?,
        check(gpu, (RowFormat::Q8, Epilogue::Store), [131, 1], 96, 7).await?,
        check(gpu, (RowFormat::F16, Epilogue::Store), [5, 9], 104, 33).await?,
    ])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, families};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn agrees_with_its_twin(
            format in 0usize..3, epilogue in 0usize..3,
            rows in 1usize..150, more in 1usize..20, groups in 1usize..12, count in 1usize..80,
        ) {
            let variant = (RowFormat::ALL[format], Epilogue::ALL[epilogue]);
            for gpu in families() {
                let check = check(&gpu, variant, [rows, more], 32 * groups, count);
                assert_passed(pollster::block_on(check).map(|c| vec![c]));
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
