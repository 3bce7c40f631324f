//! [`super::matmul`] for software adapters: a tile of outputs in the registers of one lane.

use crate::gpu::{Shader, ShaderKey};

const SHADER: Shader = Shader { stem: "matmul_lanes", text: include_str!("../../shaders/matmul_lanes.wgsl") };

const WORKGROUP: u32 = 8;
const TILE: u32 = 16;

pub(super) fn key() -> ShaderKey {
    ShaderKey::new(SHADER).with("WORKGROUP", WORKGROUP).with("TILE", TILE)
}

/// Four weight rows to a lane, `TILE` input rows to a workgroup.
pub(super) fn grid(rows: usize, count: usize) -> [u32; 3] {
    [rows.div_ceil(4 * WORKGROUP as usize) as u32, count.div_ceil(TILE as usize) as u32, 1]
}
