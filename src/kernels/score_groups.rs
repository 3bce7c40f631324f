//! [`super::score`] for real GPUs: many lanes share a key row's queries.

use crate::gpu::{Shader, ShaderKey};

const SHADER: Shader = Shader { stem: "score_groups", text: include_str!("../../shaders/score_groups.wgsl") };

/// Lanes along the key rows of a workgroup, each with four of them.
const LANES: u32 = 16;

/// Key rows of a workgroup.
pub(super) const ROWS: usize = 4 * LANES as usize;

pub(super) fn key() -> ShaderKey {
    ShaderKey::new(SHADER).with("LANES", LANES).with("SLICES", 16)
}
