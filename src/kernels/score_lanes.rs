//! [`super::score`] for software adapters: a few key rows to a lane, which walks all queries.

use crate::gpu::{Shader, ShaderKey};

const SHADER: Shader = Shader { stem: "score_lanes", text: include_str!("../../shaders/score_lanes.wgsl") };

/// Key rows of a lane: as many as compile in about a second.
fn tile(head_dim: usize) -> usize {
    (256 / head_dim.max(1)).clamp(1, 4)
}

/// Key rows of a workgroup.
pub(super) fn rows(head_dim: usize) -> usize {
    8 * tile(head_dim)
}

pub(super) fn key(head_dim: usize, subgroups: bool) -> ShaderKey {
    let key = ShaderKey::new(SHADER).with("HEAD_DIM", head_dim as u32).with("TILE", tile(head_dim) as u32);
    key.flag("SUBGROUPS", subgroups)
}
