//! [`super::matvec`] for software adapters: one lane per output row.

use super::grid::lines;
use super::matvec::grow;
use crate::gpu::{Shader, ShaderKey};

const SHADER: Shader = Shader { stem: "matvec_lanes", text: include_str!("../../shaders/matvec_lanes.wgsl") };

const WORKGROUP: u32 = 16;

pub(super) fn key() -> ShaderKey {
    ShaderKey::new(SHADER).with("WORKGROUP", WORKGROUP)
}

pub(super) fn variants() -> Vec<ShaderKey> {
    grow(&key())
}

/// A lane takes two rows: a gate row and its up row, or else neighbours.
pub(super) fn grid(rows: usize) -> [u32; 3] {
    lines(rows.div_ceil(2).div_ceil(WORKGROUP as usize))
}
