//! [`super::matvec`] for GPUs: a workgroup per four rows, and a few input rows at once for [`super::matmul`].

use super::grid::lines;
use super::matrix::{Epilogue, RowFormat};
use super::matvec::grow;
use crate::gpu::{Shader, ShaderKey};

const SHADER: Shader =
    Shader { stem: "matvec_groups", text: include_str!("../../shaders/matvec_groups.wgsl") };

/// The most input rows of one workgroup: what its lanes' sums take of the least shared memory.
pub(super) const MOST: usize = 8;

pub(super) fn key(subgroups: bool, columns: usize) -> ShaderKey {
    ShaderKey::new(SHADER).with("COLUMNS", columns as u32).flag("SUBGROUPS", subgroups)
}

/// The input rows of a workgroup that serve `count` best.
pub(super) fn columns(count: usize) -> usize {
    count.next_power_of_two().min(MOST)
}

pub(super) fn variants() -> Vec<ShaderKey> {
    let mut all = Vec::new();
    for subgroups in [false, true] {
        all.extend(grow(&key(subgroups, 1)));
        for columns in [2, 4, MOST] {
            for format in RowFormat::ALL {
                let key = format.variant(key(subgroups, columns));
                all.extend(Epilogue::ALL.map(|epilogue| epilogue.variant(key.clone())));
            }
        }
    }
    all
}

pub(super) fn grid(rows: usize, count: usize) -> [u32; 3] {
    let [x, y, _] = lines(rows.div_ceil(4));
    [x, y, count.div_ceil(columns(count)) as u32]
}
