//! Prefill attention without barriers: a lane keeps a few queries and their sums in registers, and its workgroup reads
//! each key at an address that all its lanes share. For software adapters, and for heads of real GPUs that are too
//! wide for [`super::attention_prefill_groups`].

use crate::gpu::{Family, Shader, ShaderKey};

const SHADER: Shader = Shader {
    stem: "attention_prefill_lanes",
    text: include_str!("../../shaders/attention_prefill_lanes.wgsl"),
};

/// Lanes of a workgroup, and queries of a lane. A software adapter pays for each lane of a load, so there a lane takes
/// more queries, as many as compile in a few seconds.
fn shape(family: Family, head_dim: usize) -> (usize, usize) {
    match family {
        Family::Lanes => (8, (256 / head_dim.max(1)).clamp(1, 4)),
        Family::Groups => (64, 1),
    }
}

pub(super) fn key(family: Family, subgroups: bool, head_dim: usize) -> ShaderKey {
    let (lanes, tile) = shape(family, head_dim);
    ShaderKey::new(SHADER)
        .with("HEAD_DIM", head_dim as u32)
        .with("LANES", lanes as u32)
        .with("TILE", tile as u32)
        .flag("SUBGROUPS", subgroups && family == Family::Lanes)
}

pub(super) fn grid(family: Family, head_dim: usize, heads: usize, count: usize) -> [u32; 3] {
    let (lanes, tile) = shape(family, head_dim);
    [count.div_ceil(lanes * tile) as u32, heads as u32, 1]
}

/// Software adapters with and without subgroups on heads of 64 and 80, real GPUs on heads of 256, and biases.
pub fn variants() -> Vec<ShaderKey> {
    let (lanes, groups) = (Family::Lanes, Family::Groups);
    let plain = [
        key(lanes, false, 64),
        key(lanes, false, 80),
        key(lanes, true, 64),
        key(lanes, true, 80),
        key(groups, false, 256),
    ];
    let biased = [key(lanes, false, 64), key(lanes, true, 64), key(groups, false, 256)];
    plain.into_iter().chain(biased.map(|key| key.flag("BIASED", true))).collect()
}
