//! [`super::matmul`] for software adapters: a tile of outputs to a lane.

use super::matrix::RowFormat;
use crate::gpu::{Shader, ShaderKey};

const SHADER: Shader = Shader { stem: "matmul_lanes", text: include_str!("../../shaders/matmul_lanes.wgsl") };

/// What a lane computes: `rows` weight rows by `tall * eights` rows of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    rows: usize,
    tall: usize,
    eights: usize,
}

impl Tile {
    /// Every tile for a format, the least first. A load brings eight quads, which must not be more of an input row
    /// than a pack of weights covers.
    pub(super) fn all(format: RowFormat, subgroups: bool) -> impl Iterator<Item = Self> {
        let least = format.bits() as usize / 4;
        // A loaded input serves all of the weight rows, so those are more where loading costs more.
        let rows = move |tall| if subgroups || tall < 8 { 8 } else { 16 };
        let low = [1, 2, 4, 8].into_iter().filter(move |&tall| tall >= least);
        let low = low.map(move |tall| Self { rows: rows(tall), tall, eights: 1 });
        low.chain(subgroups.then_some(Self { rows: 8, tall: 8, eights: 2 }))
    }

    /// The least tile that takes `count` input rows at once, or the largest.
    pub(super) fn of(format: RowFormat, subgroups: bool, count: usize) -> Self {
        let largest = if subgroups { 16 } else { 8 };
        let fits = |tile: &Self| tile.inputs() >= count.min(largest);
        Self::all(format, subgroups).find(fits).unwrap_or_else(|| unreachable!("the largest tile fits"))
    }

    fn inputs(self) -> usize {
        self.tall * self.eights
    }

    pub(super) fn key(self, subgroups: bool) -> ShaderKey {
        let key = ShaderKey::new(SHADER).with("ROWS", self.rows as u32).with("TALL", self.tall as u32);
        key.with("EIGHTS", self.eights as u32).flag("SUBGROUPS", subgroups)
    }

    pub(super) fn grid(self, rows: usize, count: usize) -> [u32; 3] {
        [rows.div_ceil(8 * self.rows) as u32, count.div_ceil(self.inputs()) as u32, 1]
    }
}
