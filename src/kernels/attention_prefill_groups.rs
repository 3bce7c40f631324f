//! Prefill attention for real GPUs: a workgroup per 64 rows, which are the query heads that share a KV head, of one query
//! and then the next. Keys and values go through shared memory, once for all of them.

use super::attention_prefill::Choice;
use super::kv_row::Heads;
use crate::gpu::{Shader, ShaderKey};

const SHADER: Shader = Shader {
    stem: "attention_prefill_groups",
    text: include_str!("../../shaders/attention_prefill_groups.wgsl"),
};

const LANES: usize = 256;
/// Rows of a workgroup.
const ROWS: usize = 64;
/// Lanes side by side along the dimensions of a head.
const COLUMNS: usize = 16;
/// Quads of values that are staged at a time.
const QUADS: usize = 512;

fn key(head_dim: usize) -> ShaderKey {
    // Quads of dimensions of a lane, and keys whose values are staged at a time.
    let wide = (head_dim / 4).div_ceil(COLUMNS).next_power_of_two();
    let step = QUADS / (COLUMNS * wide);
    ShaderKey::new(SHADER)
        .with("HEAD_DIM", head_dim as u32)
        .with("WIDE", wide as u32)
        .with("STEP", step as u32)
        .with("LOADS", (QUADS / LANES) as u32)
}

/// The dispatch of `count` queries.
pub(super) fn choose(heads: Heads, count: usize) -> Choice {
    let rows = count * heads.group();
    Choice { key: key(heads.dim), grid: [rows.div_ceil(ROWS) as u32, heads.kv as u32, 1] }
}

/// Heads of 64, 72, 80, 128 and 256, biases, and outputs in halves.
pub fn variants() -> Vec<ShaderKey> {
    let plain = [64, 72, 80, 128, 256].map(key);
    plain.into_iter().chain(["BIASED", "HALVES"].map(|flag| key(64).flag(flag, true))).collect()
}
