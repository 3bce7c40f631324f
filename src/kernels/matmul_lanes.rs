//! [`super::matmul`] for software adapters: a tile of outputs to a lane.

use crate::gpu::{Shader, ShaderKey};

const SHADER: Shader = Shader { stem: "matmul_lanes", text: include_str!("../../shaders/matmul_lanes.wgsl") };

/// A lane's weight rows and its eights of input rows. A loaded input serves all of the weight rows, so those are
/// more where loading costs more.
fn tile(subgroups: bool) -> (usize, usize) {
    if subgroups { (8, 2) } else { (16, 1) }
}

pub(super) fn key(subgroups: bool) -> ShaderKey {
    let (rows, eights) = tile(subgroups);
    let key = ShaderKey::new(SHADER).with("ROWS", rows as u32).with("EIGHTS", eights as u32);
    key.flag("SUBGROUPS", subgroups)
}

pub(super) fn grid(rows: usize, count: usize, subgroups: bool) -> [u32; 3] {
    let (rows_per_lane, eights) = tile(subgroups);
    [rows.div_ceil(8 * rows_per_lane) as u32, count.div_ceil(8 * eights) as u32, 1]
}
