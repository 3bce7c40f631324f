//! [`super::matmul`] for GPUs: tiles of 64 by 64 outputs through shared memory.

use crate::gpu::{Shader, ShaderKey};

const SHADER: Shader =
    Shader { stem: "matmul_groups", text: include_str!("../../shaders/matmul_groups.wgsl") };

const TILE: usize = 64;

pub(super) fn key() -> ShaderKey {
    ShaderKey::new(SHADER)
}

pub(super) fn grid(rows: usize, count: usize) -> [u32; 3] {
    [rows.div_ceil(TILE) as u32, count.div_ceil(TILE) as u32, 1]
}
