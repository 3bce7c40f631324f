//! Prefill attention without barriers, for software adapters: a lane keeps a few queries and their sums in registers, and
//! its workgroup reads each key at an address that all its lanes share.

use super::attention_prefill::Choice;
use super::kv_row::Heads;
use crate::gpu::{Shader, ShaderKey};

const SHADER: Shader = Shader {
    stem: "attention_prefill_lanes",
    text: include_str!("../../shaders/attention_prefill_lanes.wgsl"),
};

const LANES: usize = 8;

/// Queries of a lane. A software adapter pays for each lane of a load, so a lane takes as many as compile in a few seconds.
fn tile(head_dim: usize) -> usize {
    (256 / head_dim.max(1)).clamp(1, 4)
}

fn key(subgroups: bool, head_dim: usize) -> ShaderKey {
    ShaderKey::new(SHADER)
        .with("HEAD_DIM", head_dim as u32)
        .with("LANES", LANES as u32)
        .with("TILE", tile(head_dim) as u32)
        .flag("SUBGROUPS", subgroups)
}

/// The dispatch of `count` queries.
pub(super) fn choose(subgroups: bool, heads: Heads, count: usize) -> Choice {
    let queries = LANES * tile(heads.dim);
    Choice { key: key(subgroups, heads.dim), grid: [count.div_ceil(queries) as u32, heads.query as u32, 1] }
}

/// With and without subgroups on heads of 64 and 80, and biases.
pub fn variants() -> Vec<ShaderKey> {
    let plain = [key(false, 64), key(false, 80), key(true, 64), key(true, 80)];
    let biased = [false, true].map(|subgroups| key(subgroups, 64).flag("BIASED", true));
    plain.into_iter().chain(biased).collect()
}
