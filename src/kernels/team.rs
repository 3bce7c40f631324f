//! Kernels that handle whole KV rows (`shaders/shared/kv_row.wgsl`): a lane or a workgroup holds a row.

use crate::gpu::{Family, Shader, ShaderKey};

/// Lanes of a workgroup of the kernels that handle whole rows.
fn team_lanes(family: Family) -> u32 {
    match family {
        Family::Lanes => 8,
        Family::Groups => 32,
    }
}

/// A kernel that handles whole rows (`shaders/shared/kv_row.wgsl`): a lane per row, or a workgroup per row.
pub(super) fn team_key(shader: Shader, family: Family, head_dim: usize) -> ShaderKey {
    ShaderKey::new(shader)
        .with("HEAD_DIM", head_dim as u32)
        .with("LANES", team_lanes(family))
        .flag("TEAMS", family == Family::Groups)
}

/// The workgroups that such a kernel needs for `rows` rows.
pub(super) fn team_groups(family: Family, rows: usize) -> u32 {
    match family {
        Family::Lanes => (rows as u32).div_ceil(team_lanes(family)),
        Family::Groups => rows as u32,
    }
}
