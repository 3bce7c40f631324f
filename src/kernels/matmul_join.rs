//! The end of a product whose columns were multiplied in slices ([`super::matmul_matrix`],
//! [`super::matmul_few`]): adds them in their order.

use super::activations::Values;
use crate::Result;
use crate::gpu::{Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "matmul_join", text: include_str!("../../shaders/matmul_join.wgsl") };

/// The most slices.
pub(super) const MOST: usize = 8;

uniform! {
    pub(super) struct Params {
        pub rows: u32,
        pub first: u32,
        pub stride: u32,
        pub count: u32,
    }
}

/// The variant that adds so many slices.
pub(super) fn key(slices: usize) -> ShaderKey {
    ShaderKey::new(SHADER).with("SLICES", slices as u32)
}

/// Every number of slices.
pub(super) fn keys() -> Vec<ShaderKey> {
    (1..).map(|i| 1 << i).take_while(|&slices| slices <= MOST).map(key).collect()
}

/// Records the end of a product whose slices `[slices, count, rows]` were multiplied.
pub(super) fn matmul_join(
    rec: &mut Recorder,
    key: &ShaderKey,
    params: Params,
    outputs: usize,
    slices: &Tensor<f32>,
    out: Values<'_>,
) -> Result<()> {
    let kernel = rec.gpu().kernel(key)?;
    let lanes = if out.halves { outputs / 2 } else { outputs };
    let grid = [lanes.div_ceil(128) as u32, params.count, 1];
    rec.dispatch(&kernel, &params, &[slices.bind(), out.binding], grid)
}
