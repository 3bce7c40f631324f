//! Products of a matrix with many rows: the prefill, and a decode step of several sequences.

use super::check::{Check, Noise, poisoned};
use super::matmul_lanes::Tile;
use super::matrix::{Epilogue, Matrix, RowFormat};
use super::part::{Part, layout};
use super::{matmul_groups, matmul_matrix, matvec, matvec_groups};
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

/// What the rows of a product's input are, which decides the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Neighbours of one prompt.
    Block,
    /// One of each running sequence, of an engine that holds at most `most`. A row's outputs are the same bits
    /// whatever the others are, and however many, up to `most`.
    Batch {
        /// The most rows that a step can have.
        most: usize,
    },
}

/// Every shader variant of both families, but those of `matvec_groups`, which [`matvec`] lists.
pub fn variants() -> Vec<ShaderKey> {
    let mut all = Vec::new();
    for format in RowFormat::ALL {
        let mut keys = vec![matmul_groups::key(), matmul_matrix::key(32), matmul_matrix::key(64)];
        for subgroups in [false, true] {
            let tiles = Tile::all(format, subgroups).map(|tile| tile.key(subgroups));
            keys.extend(
                tiles.flat_map(|key| [false, true].map(|textures| layout(key.clone(), true, textures))),
            );
        }
        for key in keys {
            all.extend(Epilogue::ALL.map(|epilogue| epilogue.variant(format.variant(key.clone()))));
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
    rows: Rows,
    epilogue: Epilogue,
    out: &Tensor<f32>,
) -> Result<()> {
    let tuning = rec.gpu().tuning();
    record(rec, matrix, x, count, epilogue, out, |part| choose(tuning, part, count, rows))
}

/// [`matmul`] by kernels of any choice.
fn record(
    rec: &mut Recorder,
    matrix: &Matrix,
    x: Binding<'_>,
    count: usize,
    epilogue: Epilogue,
    out: &Tensor<f32>,
    choose: impl Fn(&Part) -> (ShaderKey, [u32; 3]),
) -> Result<()> {
    for part in matrix.parts() {
        let (base, grid) = choose(part);
        let kernel = rec.gpu().kernel(&epilogue.variant(part.variant(base)))?;
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

/// The kernel and its grid. Tiles of one kernel agree in every bit, kernels do not: what `count` chooses is a tile.
fn choose(tuning: Tuning, part: &Part, count: usize, rows: Rows) -> (ShaderKey, [u32; 3]) {
    let Tuning { family, subgroups, .. } = tuning;
    match (family, rows) {
        (Family::Lanes, _) => {
            let tile = Tile::of(part.format, subgroups, count);
            (tile.key(subgroups), tile.grid(part.rows, count))
        }
        (Family::Groups, Rows::Batch { most }) if most <= matvec_groups::MOST => {
            let columns = matvec_groups::columns(count);
            (matvec_groups::key(subgroups, columns), matvec_groups::grid(part.rows, count))
        }
        (Family::Groups, _) if on_matrix_units(tuning, rows) => {
            let columns = matmul_matrix::columns(rows);
            (matmul_matrix::key(columns), matmul_matrix::grid(part.rows, count, columns))
        }
        (Family::Groups, _) => (matmul_groups::key(), matmul_groups::grid(part.rows, count)),
    }
}

/// True if [`matmul`] computes such products on matrix units.
pub fn on_matrix_units(tuning: Tuning, rows: Rows) -> bool {
    let few = matches!(rows, Rows::Batch { most } if most <= matvec_groups::MOST);
    tuning.family == Family::Groups && tuning.matrix_units && !few
}

/// Compares a product of two parts with its twin.
pub(super) async fn check(
    gpu: &Gpu,
    variant: (RowFormat, Epilogue),
    rows: [usize; 2],
    cols: usize,
    count: usize,
    kind: Rows,
) -> Result<Check> {
    let tuning = gpu.tuning();
    check_chosen(gpu, variant, rows, cols, count, kind, |part| choose(tuning, part, count, kind)).await
}

/// [`check`] of kernels of any choice.
pub(super) async fn check_chosen(
    gpu: &Gpu,
    (format, epilogue): (RowFormat, Epilogue),
    rows: [usize; 2],
    cols: usize,
    count: usize,
    kind: Rows,
    choose: impl Fn(&Part) -> (ShaderKey, [u32; 3]),
) -> Result<Check> {
    let mut noise = Noise::new(6);
    let rows = rows.map(|r| if epilogue == Epilogue::SwiGlu { r.next_multiple_of(2) } else { r });
    let (matrix, parts) = matvec::sample(gpu, &mut noise, format, rows, cols)?;
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
    record(&mut rec, &matrix, device_x.bind(), count, epilogue, &out, &choose)?;
    let got = rec.read(&out, 0, count * outputs);
    rec.submit();
    // Each row is a matrix-vector product, whose twin is this kernel's too.
    for (x, want) in x.chunks_exact(cols).zip(want.chunks_exact_mut(outputs)) {
        let (first, second) = want.split_at_mut(epilogue.outputs(rows[0]));
        matvec::twin(&parts[0], x, epilogue, first);
        matvec::twin(&parts[1], x, epilogue, second);
    }
    let halves = matrix.parts().iter().any(|part| choose(part).0.stem() == matmul_matrix::STEM);
    let tolerance = if halves { matmul_matrix::TOLERANCE } else { 1e-5 };
    let label = format!("matmul {format:?} {epilogue:?} {count} rows by {rows:?}x{cols}, {kind:?}");
    Ok(Check::compare(label, &got.await?, &want, tolerance))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let few = Rows::Batch { most: 8 };
    Ok(vec![
        check(gpu, (RowFormat::Q4, Epilogue::SwiGlu), [138, 6], 576, 21, Rows::Block).await?,
        check(gpu, (RowFormat::Q4, Epilogue::Add), [67, 3], 192, 65, Rows::Block).await?,
        check(gpu, (RowFormat::Q8, Epilogue::Store), [131, 1], 96, 7, Rows::Block).await?,
        check(gpu, (RowFormat::F16, Epilogue::Store), [5, 9], 104, 33, Rows::Block).await?,
        check(gpu, (RowFormat::Q4, Epilogue::SwiGlu), [138, 6], 576, 3, few).await?,
        check(gpu, (RowFormat::Q8, Epilogue::Add), [131, 1], 96, 2, few).await?,
        check(gpu, (RowFormat::F16, Epilogue::Store), [5, 9], 104, 5, few).await?,
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
            format in 0usize..3, epilogue in 0usize..3, most in 0usize..20,
            rows in 1usize..150, more in 1usize..20, groups in 1usize..12, count in 1usize..80,
        ) {
            let variant = (RowFormat::ALL[format], Epilogue::ALL[epilogue]);
            let (kind, count) =
                if most == 0 { (Rows::Block, count) } else { (Rows::Batch { most }, count.min(most)) };
            for gpu in families() {
                let check = check(&gpu, variant, [rows, more], 32 * groups, count, kind);
                assert_passed(pollster::block_on(check).map(|c| vec![c]));
            }
        }
    }

    /// The bits of the outputs of the last of `count` rows, whose others differ with `count`.
    fn last_row(gpu: &Gpu, (format, epilogue): (RowFormat, Epilogue), count: usize, most: usize) -> Vec<u32> {
        let (matrix, _) = matvec::sample(gpu, &mut Noise::new(8), format, [74, 6], 160).expect("a matrix");
        let outputs = epilogue.outputs(matrix.rows());
        let others = Noise::new(count as u64).values((count - 1) * 160);
        let x = [others, Noise::new(9).values(160)].concat();
        let x = gpu.tensor_with(Class::Scratch, "x", &x);
        let out = gpu.tensor_with(Class::Scratch, "out", &vec![0.5; count * outputs]);
        let mut rec = Recorder::new(gpu);
        matmul(&mut rec, &matrix, x.bind(), count, Rows::Batch { most }, epilogue, &out)
            .expect("it is recorded");
        let got = rec.read(&out, (count - 1) * outputs, outputs);
        rec.submit();
        pollster::block_on(got).expect("it is read").into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn a_row_of_a_batch_has_the_same_bits_in_any_company() {
        for gpu in families() {
            for variant in RowFormat::ALL.into_iter().zip([Epilogue::Store, Epilogue::SwiGlu, Epilogue::Add])
            {
                for most in [8, 17] {
                    let alone = last_row(&gpu, variant, 1, most);
                    for count in 2..=most {
                        let here = last_row(&gpu, variant, count, most);
                        assert_eq!(here, alone, "{variant:?}, {count} of {most}, {:?}", gpu.tuning());
                    }
                }
            }
        }
    }

    #[test]
    fn matrix_units_take_what_vectors_leave_whatever_the_count() {
        let gpu = super::super::check::testing::gpu();
        let tuning = Tuning { family: Family::Groups, matrix_units: true, ..gpu.tuning() };
        let (matrix, _) =
            matvec::sample(&gpu, &mut Noise::new(1), RowFormat::Q4, [130, 1], 32).expect("a matrix");
        let chosen = |count, rows| choose(tuning, &matrix.parts()[0], count, rows);
        for count in 1..=33 {
            let batch = Rows::Batch { most: 33 };
            assert_eq!(chosen(count, batch), (matmul_matrix::key(32), [3, count.div_ceil(32) as u32, 1]));
            assert_eq!(chosen(count, Rows::Block), (matmul_matrix::key(64), [3, 1, 1]));
        }
        assert_eq!(chosen(8, Rows::Batch { most: 8 }).0.stem(), "matvec_groups");
    }

    #[test]
    fn checks_pass_in_every_family() {
        for gpu in families() {
            assert_passed(pollster::block_on(checks(&gpu)));
        }
    }
}
