//! Prefill attention for GPUs with cooperative matrices: their units multiply halves and sum in f32. [`super::units`] lets
//! a device use them only where they compute what the twin does.

use super::attention_prefill::{self, Case, Choice};
use super::kv_row::Heads;
use super::units::demand;
use crate::Result;
use crate::gpu::{Gpu, Shader, ShaderKey};

const SHADER: Shader =
    Shader { stem: STEM, text: include_str!("../../shaders/attention_prefill_matrix.wgsl") };
const STEM: &str = "attention_prefill_matrix";

/// The largest error beside the twin: a half has eleven bits, and scores are sums of many products of them.
pub(super) const TOLERANCE: f32 = 5e-3;

const LANES: usize = 128;
/// Rows of a workgroup: query heads that share a KV head, of one query and then of the next.
const ROWS: usize = 64;
/// Keys that are staged at a time.
const KEYS: usize = 32;
/// Dimensions of the heads that this kernel is for. Wider ones have more sums than registers.
const DIMS: [usize; 3] = [64, 96, 128];

/// True for heads that this kernel is for.
pub(super) fn suits(head_dim: usize) -> bool {
    DIMS.contains(&head_dim)
}

fn key(shader: Shader, head_dim: usize) -> ShaderKey {
    ShaderKey::new(shader)
        .with("HEAD_DIM", head_dim as u32)
        .with("PAIRS", (head_dim / 32) as u32)
        .with("LOADS", (KEYS * head_dim / 8 / LANES) as u32)
}

fn chosen(shader: Shader, heads: Heads, count: usize) -> Choice {
    let rows = count * heads.group();
    Choice { key: key(shader, heads.dim), grid: [rows.div_ceil(ROWS) as u32, heads.kv as u32, 1] }
}

/// The dispatch of `count` queries.
pub(super) fn choose(heads: Heads, count: usize) -> Choice {
    chosen(SHADER, heads, count)
}

/// Every width, biases, and outputs in halves.
pub fn variants() -> Vec<ShaderKey> {
    let plain = DIMS.map(|dim| key(SHADER, dim));
    plain.into_iter().chain(["BIASED", "HALVES"].map(|flag| key(SHADER, 128).flag(flag, true))).collect()
}

/// Compares two small blocks with the twin, once their shaders are known to compile: references move, rows and keys are
/// multiples of nothing, and both kinds of outputs are there.
pub(super) async fn computes_rightly(gpu: &Gpu) -> Result<()> {
    let [wide, narrow] = [128, 64].map(|dim| Heads { query: 6, kv: 2, dim });
    let cases = [
        Case { heads: wide, prefix: 75, count: 45, biased: 0, halves: true, on_units: true },
        Case { heads: narrow, prefix: 13, count: 70, biased: 11, halves: false, on_units: true },
    ];
    for case in cases {
        let checks = attention_prefill::check_chosen(gpu, case, choose(case.heads, case.count)).await?;
        demand(&checks)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::check::testing::{assert_passed, gpu};
    use super::*;
    use crate::gpu::{Family, Tuning};

    /// Fragments as WebGPU's own language can have them. A lane holds eight neighbouring sums of a row, and of a left operand
    /// the whole row; a right one is where its elements are, and how far from one to the next along a column and a row. The
    /// compiler must not know the ends of the loops: unrolled, they take minutes to compile.
    const FRAGMENTS: &str = "
        var<private> lane_of_team: u32;
        fn most(end: u32) -> u32 { return min(end, params.heads + end - 1u); }
        fn halves(v: vec4<f32>) -> vec2<u32> { return vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw)); }
        fn singles(v: vec2<u32>) -> vec4<f32> { return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)); }
        fn left(at: u32) -> Left {
            var row = Left();
            for (var i = 0u; i < 4u; i++) { row[i] = singles(weights[at + lane_of_team / 2u * WEIGHTS + i]); }
            return row;
        }
        fn by_columns(at: u32) -> Right { return Right(4u * at, 1u, 4u * PITCH); }
        fn by_rows(at: u32) -> Right { return Right(4u * at, 4u * PITCH, 1u); }
        fn multiply_add(a: Left, b: Right, sums: Sum) -> Sum {
            var next = sums;
            for (var j = 0u; j < most(8u); j++) {
                for (var i = 0u; i < most(16u); i++) {
                    let at = b.x + i * b.y + (8u * (lane_of_team % 2u) + j) * b.z;
                    next[j] += a[i / 4u][i % 4u] * singles(tile[at / 4u])[at % 4u];
                }
            }
            return next;
        }
        fn place(at: u32) -> u32 { return at + lane_of_team / 2u * SCORES + 2u * (lane_of_team % 2u); }
        fn keep(sums: Sum, at: u32) {
            strips[place(at)] = vec4<f32>(sums[0], sums[1], sums[2], sums[3]);
            strips[place(at) + 1u] = vec4<f32>(sums[4], sums[5], sums[6], sums[7]);
        }
        fn fetch(at: u32) -> Sum {
            let low = strips[place(at)];
            let high = strips[place(at) + 1u];
            return Sum(low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w);
        }
        @compute";

    /// The kernel with its fragments and its halves replaced by what any device has.
    fn emulated() -> Shader {
        static TEXT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        let text = TEXT.get_or_init(|| {
            let mut text = SHADER.text.to_owned();
            for (from, to) in [
                ("enable f16;", ""),
                ("enable wgpu_cooperative_matrix;", ""),
                ("diagnostic(off, derivative_uniformity);", ""),
                ("coop_mat16x16<f16, A>", "array<vec4<f32>, 4>"),
                ("coop_mat16x16<f16, B>", "vec3<u32>"),
                ("coop_mat16x16<f32, C>", "array<f32, 8>"),
                (
                    "    @builtin(subgroup_id) team: u32,\n) {",
                    ") {\nlet team = lane / 32u;\nlane_of_team = lane % 32u;",
                ),
                ("vec4<f16>(", "halves("),
                ("vec4<f16>", "vec2<u32>"),
                ("coopLoadT<Left>(&weights[", "left("),
                ("], WEIGHTS)", ")"),
                ("coopLoad<Right>(&tile[", "by_columns("),
                ("coopLoadT<Right>(&tile[", "by_rows("),
                ("], PITCH)", ")"),
                ("coopMultiplyAdd(", "multiply_add("),
                ("coopStoreT(", "keep("),
                (", &strips[", ", "),
                ("coopLoadT<Sum>(&strips[", "fetch("),
                ("], SCORES)", ")"),
                ("@compute", FRAGMENTS),
            ] {
                assert!(text.contains(from), "the shader has no `{from}`");
                text = text.replace(from, to);
            }
            text
        });
        Shader { stem: STEM, text }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn all_but_the_units_agrees_with_the_twin(
            kv in 1usize..3,
            group in 1usize..6,
            dim in prop::sample::select(DIMS.to_vec()),
            prefix in 0usize..100,
            count in 1usize..50,
            biased in 0usize..100,
            halves: bool,
        ) {
            let heads = Heads { query: kv * group, kv, dim };
            let case = Case { heads, prefix, count, biased: biased.min(prefix), halves, on_units: true };
            let gpu = gpu().with_tuning(groups());
            let check = attention_prefill::check_chosen(&gpu, case, chosen(emulated(), heads, count));
            assert_passed(pollster::block_on(check));
        }
    }

    fn groups() -> Tuning {
        Tuning { family: Family::Groups, matrix_attention: true, ..gpu().tuning() }
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
