//! [`super::matvec`] for GPUs: a workgroup per four rows.

use super::grid::lines;
use super::matvec::grow;
use crate::gpu::{Shader, ShaderKey};

const SHADER: Shader =
    Shader { stem: "matvec_groups", text: include_str!("../../shaders/matvec_groups.wgsl") };

pub(super) fn key(subgroups: bool) -> ShaderKey {
    ShaderKey::new(SHADER).flag("SUBGROUPS", subgroups)
}

pub(super) fn variants() -> Vec<ShaderKey> {
    [false, true].into_iter().flat_map(|subgroups| grow(&key(subgroups))).collect()
}

pub(super) fn grid(rows: usize) -> [u32; 3] {
    lines(rows.div_ceil(4))
}
