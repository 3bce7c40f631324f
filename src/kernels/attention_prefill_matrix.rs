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
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::super::check::testing::{assert_passed, gpu};
    use super::super::fragments::Fragments;
    use super::*;
    use crate::gpu::{Family, Tuning};

    fn emulated() -> Shader {
        static EMULATED: LazyLock<Shader> = LazyLock::new(|| {
            let fragments = Fragments {
                left: ("weights", "WEIGHTS"),
                right: ("tile", "PITCH"),
                sums: ("strips", "SCORES"),
                quads: true,
                unknown: Some("params.heads"),
                also: &[("diagnostic(off, derivative_uniformity);", "")],
            };
            fragments.emulated(SHADER)
        });
        *EMULATED
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
