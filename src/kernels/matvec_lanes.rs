//! [`super::matvec`] for software adapters: a few output rows to a lane.

use super::grid::lines;
use super::matvec::grow;
use super::part::layout;
use crate::gpu::{Shader, ShaderKey};

const SHADER: Shader = Shader { stem: "matvec_lanes", text: include_str!("../../shaders/matvec_lanes.wgsl") };

/// Rows of a lane: what it loads of the input serves all of them.
const ROWS: u32 = 8;

pub(super) fn key(subgroups: bool) -> ShaderKey {
    ShaderKey::new(SHADER).with("ROWS", ROWS).flag("SUBGROUPS", subgroups)
}

pub(super) fn variants() -> Vec<ShaderKey> {
    let each = [(false, false), (false, true), (true, false), (true, true)].into_iter();
    each.flat_map(|(subgroups, textures)| grow(&layout(key(subgroups), true, textures))).collect()
}

pub(super) fn grid(rows: usize) -> [u32; 3] {
    lines(rows.div_ceil(8 * ROWS as usize))
}
