//! [`super::matmul`] for a few rows on GPUs with cooperative matrices, where memory bounds a product and what counts is how
//! much of the weights is under way: the subgroups of a workgroup share its columns, and each loads ahead.
//! [`super::units`] lets a device use it only where it computes what the twin does.

use super::matmul::{Choice, Rows};
use super::matmul_check::{Case, check_chosen};
use super::matmul_join;
use super::matrix::{Epilogue, RowFormat};
use super::part::Part;
use super::units::demand;
use crate::Result;
use crate::gpu::{Gpu, Shader, ShaderKey};

const SHADER: Shader = Shader { stem: STEM, text: include_str!("../../shaders/matmul_few.wgsl") };
pub(super) const STEM: &str = "matmul_few";

/// The most rows of x: more have no room in registers beside the weights that are loaded ahead.
const MOST: usize = 32;

/// The outputs of a workgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    /// Rows of x.
    inputs: usize,
    /// Weight rows.
    rows: usize,
    /// Subgroups, which share the columns.
    teams: usize,
    /// Bytes of a weight row that a subgroup reads in a step.
    bytes: usize,
}

/// With so many workgroups of wide tiles a device is busy. An H200 has 132 multiprocessors.
const MANY: usize = 400;
/// The most workgroups that slices make of too few.
const ENOUGH: usize = 132;
/// The fewest steps that a subgroup has of a slice.
const FEWEST_STEPS: usize = 2;

impl Tile {
    /// For so many rows of x, by 64 weight rows: the fewest values of x that are read beside the weights.
    fn wide(count: usize) -> Self {
        let inputs = 16 * count.div_ceil(16);
        Self { inputs, rows: 64, teams: inputs / 8, bytes: 64 }
    }

    /// For so many rows of x, by 32 weight rows.
    fn narrow(count: usize) -> Self {
        Self { inputs: 16 * count.div_ceil(16), rows: 32, teams: 8, bytes: 64 }
    }

    /// The tile for a part's product with at most `most` rows of x.
    fn of(part: &Part, most: usize) -> Self {
        let wide = Self::wide(most);
        if part.rows.div_ceil(wide.rows) >= MANY { wide } else { Self::narrow(most) }
    }

    /// Columns of a subgroup's step.
    fn step(self, format: RowFormat) -> usize {
        8 * self.bytes / format.bits() as usize
    }

    fn key(self, shader: Shader, format: RowFormat) -> ShaderKey {
        ShaderKey::new(shader)
            .with("TALL", (self.inputs / 16) as u32)
            .with("PAIRS", (self.rows / 32) as u32)
            .with("TEAMS", self.teams as u32)
            .with("DEEP", (self.step(format) / 16) as u32)
            // A lane reads 16 bytes at a time.
            .with("W_LOADS", (self.bytes / 32) as u32)
    }

    /// The slices that keep a device busy with few weight rows.
    fn slices(self, rows: usize, steps: usize) -> usize {
        let workgroups = rows.div_ceil(self.rows);
        let mut slices = 1;
        while slices < matmul_join::MOST
            && 2 * slices * workgroups <= ENOUGH
            && 2 * slices * self.teams * FEWEST_STEPS <= steps
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
        let slice = cols.div_ceil(self.step(part.format)).div_ceil(slices);
        Choice { key, grid: [tiles[0], tiles[1], slices as u32], slices, slice }
    }
}

/// True for products that this kernel is for.
pub(super) fn suits(format: RowFormat, most: usize) -> bool {
    format != RowFormat::F16 && most <= MOST
}

/// Values that the slices of a product with at most so many rows of x can take.
pub(super) fn slices_len(most: usize) -> usize {
    most.min(MOST) * ENOUGH * Tile::narrow(1).rows
}

/// The dispatch of a part's product with `count` of at most `most` rows of x.
pub(super) fn choose(part: &Part, (count, most): (usize, usize), cols: usize, single: bool) -> Choice {
    let tile = Tile::of(part, most);
    let slices = tile.slices(part.rows, cols.div_ceil(tile.step(part.format)));
    tile.choice(SHADER, part, (count, cols), slices, single)
}

/// Every variant of the tiles, but for formats of weights and epilogues.
pub(super) fn keys(format: RowFormat) -> Vec<ShaderKey> {
    let counts = [16, MOST].into_iter().filter(|&count| suits(format, count));
    let tiles = counts.flat_map(|count| [Tile::wide(count), Tile::narrow(count)]);
    let keys = tiles.map(|tile| tile.key(SHADER, format));
    keys.flat_map(|key| [false, true].map(|single| key.clone().flag("SINGLE", single))).collect()
}

/// Compares two small products with the twin, once their shaders are known to compile: by a wide tile and a narrow one, with
/// both formats and both kinds of x and outputs.
pub(super) async fn computes_rightly(gpu: &Gpu) -> Result<()> {
    let case = |format, epilogue, count, cols, single| Case {
        format,
        epilogue,
        rows: [268, 8],
        cols,
        count,
        kind: Rows::Batch { most: count },
        single,
    };
    let products = [
        (case(RowFormat::Q4, Epilogue::SwiGlu, 13, 1120, false), Tile::wide(13)),
        (case(RowFormat::Q8, Epilogue::Add, 29, 1120, true), Tile::narrow(29)),
    ];
    for (case, tile) in products {
        let choose = |part: &Part| tile.choice(SHADER, part, (case.count, case.cols), 1, case.single);
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
                left: ("tile", "PITCH"),
                right: ("tile", "PITCH"),
                sums: ("strips", "LINE"),
                quads: false,
                unknown: None,
                also: &[
                    ("alias Two = vec2<f16>", "alias Two = vec2<f32>"),
                    ("return Four(a, b);", "return Four(pack2x16float(a), pack2x16float(b));"),
                ],
            };
            fragments.emulated(SHADER)
        });
        *EMULATED
    }

    const fn tile(inputs: usize, rows: usize, teams: usize, bytes: usize) -> Tile {
        Tile { inputs, rows, teams, bytes }
    }

    /// Formats, tiles, slices, ends, and whether x is f32. The tiles are like those of the kernel, in less of everything: a
    /// software adapter compiles whole ones for minutes.
    const VARIANTS: [(RowFormat, Tile, usize, Epilogue, bool); 7] = [
        (RowFormat::Q4, tile(16, 32, 3, 32), 1, Epilogue::Store, false),
        (RowFormat::Q4, tile(16, 32, 3, 32), 1, Epilogue::SwiGlu, false),
        (RowFormat::Q4, tile(32, 32, 2, 32), 1, Epilogue::Add, true),
        (RowFormat::Q8, tile(32, 32, 3, 32), 1, Epilogue::SwiGlu, true),
        (RowFormat::Q8, tile(16, 32, 2, 64), 1, Epilogue::Add, false),
        (RowFormat::Q8, tile(16, 64, 2, 32), 1, Epilogue::SwiGlu, false),
        (RowFormat::Q8, tile(16, 32, 3, 32), 4, Epilogue::Add, false),
    ];

    fn groups() -> Tuning {
        Tuning { family: Family::Groups, matrix_units: true, ..gpu().tuning() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn all_but_the_units_agrees_with_the_twin(
            variant in prop::sample::select(VARIANTS.to_vec()),
            rows in 1usize..150, more in 1usize..20, groups_of_columns in 1usize..40, count in 1usize..40,
        ) {
            let (format, tile, slices, epilogue, single) = variant;
            let cols = 32 * groups_of_columns;
            // Halves are stored by twos.
            let rows = [4 * rows.div_ceil(4), 4 * more.div_ceil(4)].map(|even| if single { even - 1 } else { even });
            let case = Case { format, epilogue, rows, cols, count, kind: Rows::Block, single };
            let choose = |part: &Part| tile.choice(emulated(), part, (count, cols), slices, single);
            // Software adapters keep weights in another layout.
            let gpu = gpu().with_tuning(groups());
            let check = check_chosen(&gpu, case, choose);
            assert_passed(pollster::block_on(check).map(|check| vec![check]));
        }
    }

    /// The bits of the outputs of the last of `count` rows, whose others differ with `count`.
    fn last_row(tile: Tile, slices: usize, format: RowFormat, count: usize) -> Vec<u32> {
        let (gpu, cols) = (gpu().with_tuning(groups()), 672);
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
        for (format, tile, slices, ..) in [VARIANTS[0], VARIANTS[6]] {
            let alone = last_row(tile, slices, format, 1);
            for count in [2, 7, 16, 31] {
                assert_eq!(last_row(tile, slices, format, count), alone, "{format:?}, {count} rows");
            }
        }
    }

    #[test]
    fn slices_fill_a_device_with_few_tiles_and_have_room() {
        let narrow = Tile::narrow(16);
        for (rows, cols, slices) in [
            (6144, 4096, 1),
            (4096, 14336, 1),
            (2048, 8192, 2),
            (1024, 8192, 4),
            (512, 2048, 1),
            (960, 4096, 2),
        ] {
            let steps = cols / narrow.step(RowFormat::Q4);
            assert_eq!(narrow.slices(rows, steps), slices, "{rows} x {cols}");
        }
        for rows in 1..5000 {
            let slices = narrow.slices(rows, 1 << 20);
            assert!(slices == 1 || slices * rows <= slices_len(1), "{rows}");
        }
    }

    #[test]
    fn a_shader_that_the_device_refuses_leaves_no_fault() {
        let gpu = gpu();
        if gpu.has_matrix_units() {
            return;
        }
        assert!(pollster::block_on(computes_rightly(&gpu.with_tuning(groups()))).is_err());
        gpu.check().expect("no fault");
    }
}
