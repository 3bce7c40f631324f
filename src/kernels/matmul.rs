//! Products of a matrix with many rows: the prefill, and a decode step of several sequences.

use super::activations::Values;
use super::matmul_join::{self, matmul_join};
use super::matmul_lanes::Tile;
use super::matrix::{Epilogue, Matrix, RowFormat};
use super::part::{Part, layout};
use super::product::Params;
use super::{matmul_few, matmul_groups, matmul_matrix, matvec_groups};
use crate::Result;
use crate::gpu::{Family, Recorder, ShaderKey, Tensor, Tuning};

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

impl Rows {
    /// The rows that a product with `count` of them is made for.
    pub(super) fn most(self, count: usize) -> usize {
        match self {
            Self::Block => count,
            Self::Batch { most } => most,
        }
    }
}

/// The most rows of a batch that matrix-vector products take from matrix units. On an H200 those take 16 rows in less time
/// than packed dot products take four.
pub(super) const MOST_OF_VECTORS: usize = 2;

/// True where rows of this kind are multiplied on matrix units, which read halves.
pub fn reads_halves(tuning: Tuning, rows: Rows) -> bool {
    let vectors = matches!(rows, Rows::Batch { most } if most <= MOST_OF_VECTORS);
    tuning.family == Family::Groups && tuning.matrix_units && !vectors
}

/// Values that [`matmul`] needs room for beside its outputs, for at most `most` rows of this kind.
pub fn slices_len(tuning: Tuning, most: usize, rows: Rows) -> usize {
    let len = || matmul_matrix::slices_len(most).max(matmul_few::slices_len(most));
    if reads_halves(tuning, rows) { len() } else { 0 }
}

/// The dispatch of one part's product.
pub(super) struct Choice {
    /// The kernel, but for the format of the weights and the epilogue.
    pub key: ShaderKey,
    pub grid: [u32; 3],
    /// Slices of the columns that are multiplied each for itself, and the steps of one.
    pub slices: usize,
    pub slice: usize,
}

impl Choice {
    fn whole(key: ShaderKey, grid: [u32; 3]) -> Self {
        Self { key, grid, slices: 1, slice: 0 }
    }

    /// The variants of the kernel and of the one that adds its slices, if there are several.
    pub(super) fn keys(
        &self,
        part: &Part,
        epilogue: Epilogue,
        halves: bool,
    ) -> (ShaderKey, Option<ShaderKey>) {
        let end = |key| epilogue.variant(key).flag("HALVES", halves);
        let key = part.variant(self.key.clone());
        if self.slices > 1 { (key, Some(end(matmul_join::key(self.slices)))) } else { (end(key), None) }
    }
}

/// Every shader variant of both families, but those of `matvec_groups`, which `matvec` lists.
pub fn variants() -> Vec<ShaderKey> {
    let mut all = Vec::new();
    for format in RowFormat::ALL {
        let mut keys = vec![matmul_groups::key()];
        for subgroups in [false, true] {
            let tiles = Tile::all(format, subgroups).map(|tile| tile.key(subgroups));
            keys.extend(
                tiles.flat_map(|key| [false, true].map(|textures| layout(key.clone(), true, textures))),
            );
        }
        all.extend(keys.iter().flat_map(|key| ends(&format.variant(key.clone()))));
        let units = matmul_matrix::keys(format).into_iter().chain(matmul_few::keys(format));
        let units = units.map(|key| format.variant(key));
        all.extend(units.flat_map(|key| ends(&key).into_iter().chain([gated_halves(&key)])));
    }
    all.extend(matmul_join::keys().iter().flat_map(|key| ends(key).into_iter().chain([gated_halves(key)])));
    all
}

fn ends(key: &ShaderKey) -> [ShaderKey; 3] {
    Epilogue::ALL.map(|epilogue| epilogue.variant(key.clone()))
}

/// The one end that is stored in halves: what it gives is read by a product alone.
fn gated_halves(key: &ShaderKey) -> ShaderKey {
    Epilogue::SwiGlu.variant(key.clone()).flag("HALVES", true)
}

/// Records `out = x Wᵀ` for `count` input rows, ended by `epilogue`. `x` is `[count, cols]`, `out` is
/// `[count, epilogue.outputs(rows)]`. Halves are read and written by matrix units alone (see [`reads_halves`]), and
/// written with [`Epilogue::SwiGlu`] alone, where all parts have a multiple of four rows. `slices` has room for
/// [`slices_len`] values, which are overwritten.
#[expect(clippy::too_many_arguments, reason = "an operation, its operands and how many rows of them")]
pub fn matmul<'a>(
    rec: &mut Recorder,
    matrix: &Matrix,
    x: impl Into<Values<'a>>,
    count: usize,
    rows: Rows,
    epilogue: Epilogue,
    out: impl Into<Values<'a>>,
    slices: &Tensor<f32>,
) -> Result<()> {
    let (tuning, x, out) = (rec.gpu().tuning(), x.into(), out.into());
    if !reads_halves(tuning, rows) || epilogue != Epilogue::SwiGlu {
        out.single()?;
    }
    if !reads_halves(tuning, rows) {
        x.single()?;
    }
    let choose = |part: &Part| choose(tuning, part, (count, matrix.cols()), rows, !x.halves);
    record(rec, matrix, x, count, epilogue, out, slices, choose)
}

/// [`matmul`] by kernels of any choice.
#[expect(clippy::too_many_arguments, reason = "an operation, its operands and how many rows of them")]
pub(super) fn record(
    rec: &mut Recorder,
    matrix: &Matrix,
    x: Values<'_>,
    count: usize,
    epilogue: Epilogue,
    out: Values<'_>,
    slices: &Tensor<f32>,
    choose: impl Fn(&Part) -> Choice,
) -> Result<()> {
    for part in matrix.parts() {
        let choice = choose(part);
        let (key, join) = choice.keys(part, epilogue, out.halves);
        let kernel = rec.gpu().kernel(&key)?;
        let mut params = Params { slice: choice.slice as u32, ..Params::new(matrix, part, count, epilogue) };
        let Params { rows, first, stride, count, .. } = params;
        let mut to = out.binding;
        if join.is_some() {
            (params.first, params.stride, to) = (0, rows, slices.bind());
        }
        rec.dispatch(&kernel, &params, &[part.words.bind(), part.scales.bind(), x.binding, to], choice.grid)?;
        if let Some(key) = join {
            let params = matmul_join::Params { rows, first, stride, count };
            matmul_join(rec, &key, params, epilogue.outputs(part.rows), slices, out)?;
        }
    }
    Ok(())
}

/// The kernel and its grid. Tiles of one kernel agree in every bit, kernels and slices do not: what the `count` of a batch
/// chooses is a tile.
pub(super) fn choose(
    tuning: Tuning,
    part: &Part,
    (count, cols): (usize, usize),
    rows: Rows,
    single: bool,
) -> Choice {
    let Tuning { family, subgroups, .. } = tuning;
    match (family, rows) {
        (Family::Lanes, _) => {
            let tile = Tile::of(part.format, subgroups, count);
            Choice::whole(tile.key(subgroups), tile.grid(part.rows, count))
        }
        (Family::Groups, _) if reads_halves(tuning, rows) => {
            let counts = (count, rows.most(count));
            if tuning.matrix_few && matmul_few::suits(part.format, counts.1) {
                matmul_few::choose(part, counts, cols, single)
            } else {
                matmul_matrix::choose(part, counts, cols, single)
            }
        }
        (Family::Groups, Rows::Batch { most }) if most <= matvec_groups::MOST => {
            let columns = matvec_groups::columns(count);
            Choice::whole(matvec_groups::key(subgroups, columns), matvec_groups::grid(part.rows, count))
        }
        (Family::Groups, _) => Choice::whole(matmul_groups::key(), matmul_groups::grid(part.rows, count)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::activations::Activations;
    use super::super::check::Noise;
    use super::super::check::testing::{assert_passed, families};
    use super::super::matmul_check::{Case, check, checks};
    use super::super::matvec;
    use super::*;
    use crate::gpu::{Class, Gpu};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn agrees_with_its_twin(
            format in 0usize..3, epilogue in 0usize..3, most in 0usize..20,
            rows in 1usize..150, more in 1usize..20, groups in 1usize..12, count in 1usize..80,
        ) {
            let (kind, count) =
                if most == 0 { (Rows::Block, count) } else { (Rows::Batch { most }, count.min(most)) };
            let (format, epilogue) = (RowFormat::ALL[format], Epilogue::ALL[epilogue]);
            let case = Case { format, epilogue, rows: [rows, more], cols: 32 * groups, count, kind, single: true };
            for gpu in families() {
                assert_passed(pollster::block_on(check(&gpu, case)).map(|c| vec![c]));
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
        let rows = Rows::Batch { most };
        let slices = gpu.tensor(Class::Scratch, "slices", slices_len(gpu.tuning(), most, rows));
        let mut rec = Recorder::new(gpu);
        matmul(&mut rec, &matrix, &x, count, rows, epilogue, &out, &slices).expect("it is recorded");
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
        let units = Tuning { family: Family::Groups, matrix_units: true, ..gpu.tuning() };
        let (matrix, _) =
            matvec::sample(&gpu, &mut Noise::new(1), RowFormat::Q4, [130, 1], 2048).expect("a matrix");
        for (matrix_few, few) in [(true, "matmul_few"), (false, "matmul_matrix")] {
            let tuning = Tuning { matrix_few, ..units };
            let chosen = |count, rows| choose(tuning, &matrix.parts()[0], (count, 2048), rows, false);
            for (most, stem) in
                [(3, few), (16, few), (32, few), (33, "matmul_matrix"), (200, "matmul_matrix")]
            {
                let whole = chosen(most, Rows::Batch { most });
                assert_eq!(whole.key.stem(), stem, "{most} rows");
                for count in 1..=most {
                    let part = chosen(count, Rows::Batch { most });
                    assert_eq!(
                        (part.key, part.slices, part.slice),
                        (whole.key.clone(), whole.slices, whole.slice)
                    );
                }
            }
            assert_eq!(chosen(2, Rows::Batch { most: 2 }).key.stem(), "matvec_groups");
        }
    }

    #[test]
    fn halves_are_refused_where_no_kernel_reads_them() {
        let gpu = super::super::check::testing::gpu();
        let (matrix, _) =
            matvec::sample(&gpu, &mut Noise::new(1), RowFormat::Q4, [2, 2], 32).expect("a matrix");
        let out = gpu.tensor::<f32>(Class::Scratch, "out", 4);
        let x = Activations::Halves(gpu.tensor(Class::Scratch, "x", 16));
        let mut rec = Recorder::new(&gpu);
        let refused = matmul(&mut rec, &matrix, &x, 1, Rows::Block, Epilogue::Store, &out, &out);
        assert!(matches!(refused, Err(crate::Error::Unsupported { .. })));
    }

    #[test]
    fn checks_pass_in_every_family() {
        for gpu in families() {
            assert_passed(pollster::block_on(checks(&gpu)));
        }
    }
}
