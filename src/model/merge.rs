//! Rows that a block's eviction would drop, merged into the kept rows that they are most like.

use super::Model;
use super::prefill::Block;
use super::scratch::{INTO, MAIN, PrefillScratch, TAIL};
use super::tally::{Tallies, Tally};
use crate::Result;
use crate::gpu::Recorder;
use crate::kernels::fold::fold;
use crate::kernels::nearest::{self, nearest};
use crate::kernels::score::{Measure, Ramp, ScoreShape};
use crate::kv::TierRows;

/// The cosine of two keys above which one may stand for the other. Measured, this lowers the divergence of every window,
/// where 0.6 lowers it further in some and raises it in others, and 0.9 forgoes most of it.
const ALIKE: f32 = 0.8;

/// The last queries that say what a row counts for, at least.
const WITNESSES: usize = 32;

impl Block {
    /// What says what a row that is not protected counts for.
    pub(super) fn witnessed(&self) -> Tally {
        let rows = self.rows();
        let recent = rows.protected.max(WITNESSES);
        let measure = Measure { recent, ramp: Ramp::FLAT, averaged: true, by_value: false };
        Tally { measure, per_head: self.per_head, forced: 0, columns: rows.enter - rows.protected }
    }
}

impl Model {
    /// Moves the values of rows that `choose` did not list into those of listed ones, in the block's scratch, and
    /// leaves what is added to the logits of these in `scores`. Neither the first rows nor the last ones take part.
    pub(super) fn merge(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        block: &Block,
        gains: TierRows,
        tallies: &Tallies,
        prefix: usize,
    ) -> Result<()> {
        let (heads, rows) = (self.config.heads, block.rows());
        let shape = ScoreShape::new(heads, block.per_head);
        let columns = rows.enter - rows.protected;
        let merged = nearest::Block {
            rows: rows.enter,
            prefix,
            sets: shape.sets(),
            width: heads.kv_width(),
            open: block.sinks().min(columns)..columns,
        };
        let kept = [(s.index[MAIN].bind(), gains.main), (s.index[TAIL].bind(), gains.tail)];
        nearest(rec, &s.k, &merged, kept, ALIKE, &s.index[INTO])?;
        fold(rec, tallies.sums(s, block.witnessed())?, &s.index[INTO], &merged, &s.v, &s.scores)
    }
}
