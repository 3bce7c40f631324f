//! [`super::matmul`] for GPUs with cooperative matrices: their units multiply halves and sum in f32. Not yet run on
//! hardware; [`prove`] lets a device use it only where it computes what the twin does.

use super::matmul::{self, Rows};
use super::matrix::{Epilogue, RowFormat};
use crate::Result;
use crate::gpu::{Family, Gpu, Shader, ShaderKey, TuningSource};

const SHADER: Shader = Shader { stem: STEM, text: include_str!("../../shaders/matmul_matrix.wgsl") };
pub(super) const STEM: &str = "matmul_matrix";

/// The largest error beside the twin: a half has eleven bits.
pub(super) const TOLERANCE: f32 = 2e-3;

const ROWS: usize = 64;

/// The input rows of a workgroup, which the kind of the product decides alone.
pub(super) fn columns(rows: Rows) -> usize {
    match rows {
        Rows::Block => 64,
        Rows::Batch { .. } => 32,
    }
}

pub(super) fn key(columns: usize) -> ShaderKey {
    ShaderKey::new(SHADER).flag("WIDE", columns == 64)
}

pub(super) fn grid(rows: usize, count: usize, columns: usize) -> [u32; 3] {
    [rows.div_ceil(ROWS) as u32, count.div_ceil(columns) as u32, 1]
}

/// The same device, tuned to its matrix units if it has any and this kernel computes on them what its twin does. What
/// goes wrong with that leaves the tuning as it is, and so does a tuning that the caller made.
pub async fn prove(gpu: &Gpu) -> Gpu {
    let chosen = gpu.tuning_source() == TuningSource::Caller || gpu.tuning().family != Family::Groups;
    if chosen || gpu.tuning().matrix_units || !gpu.has_matrix_units() {
        return gpu.clone();
    }
    let tuned = gpu.tuned_to_matrix_units();
    let proven = computes_rightly(&tuned).await.is_ok_and(|right| right);
    if proven { tuned } else { gpu.clone() }
}

/// Compares one small product of each width with the twin, once their shaders are known to compile.
async fn computes_rightly(gpu: &Gpu) -> Result<bool> {
    let products = [
        (Rows::Block, (RowFormat::Q4, Epilogue::SwiGlu), 70, 512),
        (Rows::Batch { most: 40 }, (RowFormat::F16, Epilogue::Add), 37, 520),
    ];
    for (kind, (format, epilogue), count, cols) in products {
        gpu.try_kernel(&epilogue.variant(format.variant(key(columns(kind))))).await?;
        let check = matmul::check(gpu, (format, epilogue), [266, 6], cols, count, kind).await?;
        if !check.passed() {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::check::testing::{assert_passed, gpu};
    use super::super::part::Part;
    use super::*;
    use crate::gpu::Tuning;

    /// Fragments as WebGPU's own language can have them: a lane holds eight neighbouring sums, and operands are read
    /// where the tiles have them, left ones by rows and right ones by columns.
    const FRAGMENTS: &str = "
        var<private> lane_of_team: u32;
        fn multiply_add(a: u32, b: u32, sums: array<f32, 8>) -> array<f32, 8> {
            var next = sums;
            for (var i = 0u; i < 8u; i++) {
                let row = (8u * lane_of_team + i) / 16u;
                let column = (8u * lane_of_team + i) % 16u;
                for (var k = 0u; k < 4u; k++) {
                    next[i] += dot(tile_x[a + row * PITCH + k], tile_w[b + column * PITCH + k]);
                }
            }
            return next;
        }
        fn keep(sums: array<f32, 8>, at: u32) {
            for (var i = 0u; i < 8u; i++) {
                let element = 8u * lane_of_team + i;
                products[at + element / 16u * ROWS + element % 16u] = sums[i];
            }
        }
        @compute";

    /// The kernel with its fragments and its halves replaced by what any device has.
    fn emulated() -> Shader {
        let mut text = SHADER.text.to_owned();
        for (from, to) in [
            ("enable f16;", ""),
            ("enable wgpu_cooperative_matrix;", ""),
            (
                "    @builtin(subgroup_id) team: u32,\n) {",
                ") {\nlet team = lane / 32u;\nlane_of_team = lane % 32u;",
            ),
            ("coopLoadT<coop_mat16x16<f16, A>>(&tile_x[", "u32("),
            ("coopLoad<coop_mat16x16<f16, B>>(&tile_w[", "u32("),
            ("], PITCH)", ")"),
            ("coop_mat16x16<f32, C>()", "array<f32, 8>()"),
            ("coopMultiplyAdd(", "multiply_add("),
            ("coopStoreT(", "keep("),
            ("&products[", "u32("),
            ("], ROWS)", "))"),
            ("f16>", "f32>"),
            ("@compute", FRAGMENTS),
        ] {
            assert!(text.contains(from), "the shader has no `{from}`");
            text = text.replace(from, to);
        }
        Shader { stem: "matmul_fragments", text: text.leak() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn all_but_the_units_agrees_with_the_twin(
            format in 0usize..3, epilogue in 0usize..3, wide: bool,
            rows in 1usize..150, more in 1usize..20, chunks in 1usize..12, count in 1usize..80,
        ) {
            static SHADER: std::sync::OnceLock<Shader> = std::sync::OnceLock::new();
            let shader = *SHADER.get_or_init(emulated);
            let (format, epilogue) = (RowFormat::ALL[format], Epilogue::ALL[epilogue]);
            let cols = if format == RowFormat::F16 { 8 * chunks } else { 32 * chunks };
            let kind = if wide { Rows::Block } else { Rows::Batch { most: 80 } };
            // Software adapters keep weights in another layout.
            let (gpu, columns) = (gpu().with_tuning(groups()), columns(kind));
            let choose = |part: &Part| {
                (ShaderKey::new(shader).flag("WIDE", columns == 64), grid(part.rows, count, columns))
            };
            let check =
                matmul::check_chosen(&gpu, (format, epilogue), [rows, more], cols, count, kind, choose);
            assert_passed(pollster::block_on(check).map(|check| vec![check]));
        }
    }

    fn groups() -> Tuning {
        Tuning { family: Family::Groups, ..gpu().tuning() }
    }

    #[test]
    fn a_device_without_units_keeps_its_tuning() {
        let gpu = gpu();
        if gpu.has_matrix_units() {
            return;
        }
        for gpu in [gpu.with_tuning(groups()), gpu] {
            assert_eq!(pollster::block_on(prove(&gpu)).tuning(), gpu.tuning());
        }
    }

    #[test]
    fn a_shader_that_the_device_refuses_leaves_no_fault() {
        let gpu = gpu();
        if gpu.has_matrix_units() {
            return;
        }
        let key = Epilogue::Store.variant(RowFormat::Q4.variant(key(64)));
        for _ in 0..2 {
            assert!(pollster::block_on(gpu.try_kernel(&key)).is_err());
        }
        gpu.check().expect("no fault");
        assert!(!pollster::block_on(computes_rightly(&gpu.tuned_to_matrix_units())).unwrap_or(false));
        gpu.check().expect("no fault");
    }
}
