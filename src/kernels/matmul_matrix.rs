//! [`super::matmul`] for GPUs with cooperative matrices: their units multiply halves and sum in f32. [`super::units`]
//! lets a device use them only where they compute what the twin does.
//!
//! One shader serves all shapes, but for a few rows where [`super::matmul_few`] does: a workgroup has a `Tile` of the outputs,
//! and where there are too few tiles to keep a device busy, the columns are multiplied in slices, which `matmul_join` adds in
//! their order.

use super::matmul::{Choice, Rows};
use super::matmul_check::{Case, check_chosen};
use super::matmul_join;
use super::matrix::{Epilogue, RowFormat};
use super::part::Part;
use super::units::demand;
use crate::Result;
use crate::gpu::{Gpu, Shader, ShaderKey};

const SHADER: Shader = Shader { stem: STEM, text: include_str!("../../shaders/matmul_matrix.wgsl") };
pub(super) const STEM: &str = "matmul_matrix";

/// The largest error beside the twin: a half has eleven bits.
pub(super) const TOLERANCE: f32 = 2e-3;

/// The outputs of a workgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    /// Rows of x.
    inputs: usize,
    /// Weight rows.
    rows: usize,
    /// Columns that are staged at a time.
    step: usize,
    /// Fragments of a subgroup, along the rows of x and along the weight rows.
    own: [usize; 2],
}

/// The most rows of x that are multiplied in slices of the columns.
const FEW: usize = 64;
/// With so many workgroups a device is busy without slices, or with smaller tiles. An H200 has 132 multiprocessors.
const MANY: usize = 400;
const ENOUGH: usize = 96;
/// The fewest steps of a slice.
const FEWEST_STEPS: usize = 4;

impl Tile {
    const LARGE: Self = Self { inputs: 128, rows: 128, step: 64, own: [4, 2] };
    const SMALL: Self = Self { inputs: 64, rows: 64, step: 64, own: [2, 2] };

    /// For at most 16 rows of x, or 32.
    fn flat(inputs: usize) -> Self {
        Self { inputs, rows: 64, step: 64, own: [inputs / 16, 1] }
    }

    /// The tile for a part's product with at most `most` rows of x.
    fn of(part: &Part, most: usize) -> Self {
        let large = most.div_ceil(Self::LARGE.inputs) * part.rows.div_ceil(Self::LARGE.rows);
        match most {
            0..=16 => Self::flat(16),
            17..=32 => Self::flat(32),
            65.. if large >= ENOUGH => Self::LARGE,
            _ => Self::SMALL,
        }
    }

    fn lanes(self) -> usize {
        32 * self.inputs / (16 * self.own[0]) * (self.rows / (16 * self.own[1]))
    }

    fn key(self, shader: Shader, format: RowFormat) -> ShaderKey {
        // Each lane loads 16 bytes at a time.
        let loads = |rows: usize, bits: usize| {
            let bits = rows * self.step * bits;
            debug_assert!(bits.is_multiple_of(128 * self.lanes()), "{self:?} leaves lanes without a load");
            bits / (128 * self.lanes())
        };
        let defines = [
            ("INPUTS", self.inputs),
            ("ROWS", self.rows),
            ("STEP", self.step),
            ("TALL", self.own[0]),
            ("WIDE", self.own[1]),
            ("DEEP", self.step / 16),
            ("X_LOADS", loads(self.inputs, 16)),
            ("W_LOADS", loads(self.rows, format.bits() as usize)),
        ];
        defines.into_iter().fold(ShaderKey::new(shader), |key, (name, value)| key.with(name, value as u32))
    }

    /// The slices that keep a device busy with a few rows of x.
    fn slices(self, rows: usize, cols: usize) -> usize {
        let (workgroups, steps) = (rows.div_ceil(self.rows), cols.div_ceil(self.step));
        let mut slices = 1;
        while slices < matmul_join::MOST
            && 2 * slices * workgroups <= MANY
            && 2 * slices * FEWEST_STEPS <= steps
        {
            slices *= 2;
        }
        slices
    }

    /// The dispatch of a part's product with `count` rows of `cols` values by such tiles, of a text like the shader's.
    fn choice(
        self,
        shader: Shader,
        part: &Part,
        (count, cols): (usize, usize),
        slices: usize,
        single: bool,
    ) -> Choice {
        let key = self.key(shader, part.format).flag("SINGLE", single);
        let tiles = [count.div_ceil(self.inputs) as u32, part.rows.div_ceil(self.rows) as u32];
        let slice = cols.div_ceil(self.step).div_ceil(slices);
        Choice { key, grid: [tiles[0], tiles[1], slices as u32], slices, slice }
    }
}

/// Values that the slices of a product with at most so many rows of x can take.
pub(super) fn slices_len(most: usize) -> usize {
    // As many as MANY workgroups have outputs.
    most.min(FEW) * MANY * Tile::SMALL.rows
}

/// The dispatch of a part's product with `count` of at most `most` rows of x.
pub(super) fn choose(part: &Part, (count, most): (usize, usize), cols: usize, single: bool) -> Choice {
    let tile = Tile::of(part, most);
    let slices = if most <= FEW { tile.slices(part.rows, cols) } else { 1 };
    tile.choice(SHADER, part, (count, cols), slices, single)
}

/// Every variant of the tiles, but for formats of weights and epilogues.
pub(super) fn keys(format: RowFormat) -> Vec<ShaderKey> {
    let tiles = [Tile::flat(16), Tile::flat(32), Tile::SMALL, Tile::LARGE];
    let keys = tiles.map(|tile| tile.key(SHADER, format));
    keys.into_iter().flat_map(|key| [false, true].map(|single| key.clone().flag("SINGLE", single))).collect()
}

/// Compares three small products with the twin, once their shaders are known to compile: by the largest tile, the smallest
/// in slices, and one between. They have each format, each end, and both kinds of x and outputs.
pub(super) async fn computes_rightly(gpu: &Gpu) -> Result<()> {
    let case = |format, epilogue, count, cols, single| Case {
        format,
        epilogue,
        rows: [268, 8],
        cols,
        count,
        kind: Rows::Block,
        single,
    };
    let products = [
        (case(RowFormat::Q4, Epilogue::SwiGlu, 133, 608, false), Tile::LARGE, 1),
        (case(RowFormat::Q8, Epilogue::Add, 70, 160, true), Tile::SMALL, 1),
        (case(RowFormat::F16, Epilogue::Store, 13, 1144, false), Tile::flat(16), 2),
    ];
    for (case, tile, slices) in products {
        let choose = |part: &Part| tile.choice(SHADER, part, (case.count, case.cols), slices, case.single);
        let check = check_chosen(gpu, case, choose).await?;
        demand(&[check])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::super::activations::Activations;
    use super::super::check::Noise;
    use super::super::check::testing::{assert_passed, gpu};
    use super::super::fragments::Fragments;
    use super::super::matmul;
    use super::super::matvec;
    use super::*;
    use crate::gpu::Recorder;
    use crate::gpu::{Class, Family, Tuning};

    fn emulated() -> Shader {
        static EMULATED: LazyLock<Shader> = LazyLock::new(|| {
            let fragments = Fragments {
                left: ("tile_x", "PITCH"),
                right: ("tile_w", "PITCH"),
                sums: ("strips", "LINE"),
                quads: false,
                unknown: None,
                also: &[],
            };
            fragments.emulated(SHADER)
        });
        *EMULATED
    }

    /// The tiles, the largest in less of the shared memory, of which a software adapter has 32 KiB.
    fn tiles(format: RowFormat) -> [Tile; 4] {
        let large = match format {
            RowFormat::Q4 => Tile { rows: 64, ..Tile::LARGE },
            _ => Tile { step: 32, ..Tile::LARGE },
        };
        [large, Tile::SMALL, Tile::flat(16), Tile::flat(32)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn all_but_the_units_agrees_with_the_twin(
            format in 0usize..3, epilogue in 0usize..3, tile in 0usize..4, slices in 0usize..3, single: bool,
            rows in 1usize..150, more in 1usize..20, chunks in 1usize..12, count in 1usize..140,
        ) {
            let (format, epilogue) = (RowFormat::ALL[format], Epilogue::ALL[epilogue]);
            let cols = if format == RowFormat::F16 { 8 * chunks } else { 32 * chunks };
            // Halves are stored by twos.
            let rows = [4 * rows.div_ceil(4), 4 * more.div_ceil(4)].map(|even| if single { even - 1 } else { even });
            let case = Case { format, epilogue, rows, cols, count, kind: Rows::Block, single };
            let choose = |part: &Part| {
                tiles(format)[tile].choice(emulated(), part, (count, cols), 1 << slices, single)
            };
            // Software adapters keep weights in another layout.
            let gpu = gpu().with_tuning(groups());
            let check = check_chosen(&gpu, case, choose);
            assert_passed(pollster::block_on(check).map(|check| vec![check]));
        }
    }

    fn groups() -> Tuning {
        Tuning { family: Family::Groups, matrix_units: true, ..gpu().tuning() }
    }

    /// The bits of the outputs of the last of `count` rows, whose others differ with `count`.
    fn last_row(tile: Tile, slices: usize, format: RowFormat, count: usize) -> Vec<u32> {
        let (gpu, cols) = (gpu().with_tuning(groups()), 288);
        let (matrix, _) = matvec::sample(&gpu, &mut Noise::new(8), format, [76, 4], cols).expect("a matrix");
        let x = [Noise::new(count as u64).values((count - 1) * cols), Noise::new(9).values(cols)].concat();
        let x = Activations::with(&gpu, "x", &x, Rows::Block);
        let [out, sums] =
            [count * 80, slices * count * 80].map(|len| gpu.tensor::<f32>(Class::Scratch, "out", len));
        let mut rec = Recorder::new(&gpu);
        let choose = |part: &Part| tile.choice(emulated(), part, (count, cols), slices, false);
        let (x, to) = ((&x).into(), (&out).into());
        matmul::record(&mut rec, &matrix, x, count, Epilogue::Store, to, &sums, choose)
            .expect("it is recorded");
        let got = rec.read(&out, (count - 1) * 80, 80);
        rec.submit();
        pollster::block_on(got).expect("it is read").into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_company() {
        for (format, inputs, slices) in [(RowFormat::Q4, 16, 2), (RowFormat::F16, 32, 4)] {
            let tile = Tile::flat(inputs);
            let alone = last_row(tile, slices, format, 1);
            for count in [2, 7, 16, 31] {
                assert_eq!(last_row(tile, slices, format, count), alone, "{format:?}, {count} rows");
            }
        }
    }

    #[test]
    fn slices_fill_a_device_with_few_tiles_and_have_room() {
        let q4 = Tile::flat(16);
        for (rows, cols, slices) in [
            (4096, 4096, 4),
            (4096, 14336, 4),
            (6144, 4096, 4),
            (28672, 4096, 1),
            (576, 576, 2),
            (960, 4096, 8),
        ] {
            assert_eq!(q4.slices(rows, cols), slices, "{rows} x {cols}");
        }
        for rows in 1..2000 {
            for tile in [q4, Tile::SMALL] {
                let slices = tile.slices(37 * rows, 1 << 20);
                assert!(slices == 1 || slices * 37 * rows <= slices_len(1), "{rows}");
            }
        }
    }

    #[test]
    fn a_shader_that_the_device_refuses_leaves_no_fault() {
        let gpu = gpu();
        if gpu.has_matrix_units() {
            return;
        }
        let key = Epilogue::Store.variant(RowFormat::Q4.variant(Tile::SMALL.key(SHADER, RowFormat::Q4)));
        for _ in 0..2 {
            assert!(pollster::block_on(gpu.try_kernel(&key)).is_err());
        }
        gpu.check().expect("no fault");
        assert!(pollster::block_on(computes_rightly(&gpu.with_tuning(groups()))).is_err());
        gpu.check().expect("no fault");
    }
}
