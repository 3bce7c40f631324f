//! Rows that a block's eviction would drop, merged into the kept rows that they are most like.

use super::Model;
use super::prefill::Block;
use super::scratch::{INTO, MAIN, PrefillScratch, TAIL};
use crate::Result;
use crate::gpu::Recorder;
use crate::kernels::fold::fold;
use crate::kernels::nearest::{self, nearest};
use crate::kernels::score::{Measure, Ramp, ScoreShape, score};
use crate::kv::TierRows;

/// The cosine of two keys above which one may stand for the other. Measured, this lowers the divergence of every window,
/// where 0.6 lowers it further in some and raises it in others, and 0.9 forgoes most of it.
const ALIKE: f32 = 0.8;

/// The last queries that say what a row counts for, at least.
const WITNESSES: usize = 32;

impl Model {
    /// Moves the values of rows that `choose` did not list into those of listed ones, in the block's scratch, and
    /// leaves what is added to the logits of these in `scores`. Neither the first rows nor the last ones take part.
    pub(super) fn merge(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        block: &Block,
        gains: TierRows,
        prefix: usize,
    ) -> Result<()> {
        let (heads, rows) = (self.config.heads, block.rows());
        let per_head = block.per_head;
        let shape = ScoreShape::new(heads, per_head);
        let columns = rows.enter - rows.protected;
        let recent = rows.protected.max(WITNESSES);
        let measure = Measure { recent, ramp: Ramp::FLAT, averaged: true, by_value: false };
        let scale = self.attention_scale();
        score(rec, &s.q, &s.lse, &s.k, &s.v, shape, scale, prefix, rows.enter, measure, 0, columns, &s.term)?;
        let merged = nearest::Block {
            rows: rows.enter,
            prefix,
            sets: shape.sets(),
            width: heads.kv_width(),
            open: block.sinks().min(columns)..columns,
        };
        let kept = [(s.index[MAIN].bind(), gains.main), (s.index[TAIL].bind(), gains.tail)];
        nearest(rec, &s.k, &merged, kept, ALIKE, &s.index[INTO])?;
        fold(rec, &s.term, &s.index[INTO], &merged, &s.v, &s.scores)
    }
}
