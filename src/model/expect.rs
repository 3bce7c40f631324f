//! The attention that a block's rows can expect of queries to come, without a second pass over those that were.

use std::ops::Range;

use super::Model;
use super::prefill::Block;
use super::scratch::{CHUNK, PrefillScratch};
use crate::Result;
use crate::gpu::Recorder;
use crate::kernels::expected_logits::expected_logits;
use crate::kernels::expected_score::expected_score;
use crate::kernels::moments::moments;
use crate::kernels::rope_ahead::{Ahead, rope_ahead};
use crate::kernels::score::ScoreShape;

/// Positions ahead that are averaged over, as published.
const STEPS: usize = 512;

/// Which of the two moments tell of the rows up to `end`: chunks take turns.
fn side(end: usize) -> usize {
    (end - 1) / CHUNK % 2
}

impl Model {
    /// Adds the queries of these rows, which are in the scratch, to the distribution. Those of sinks are unlike all others
    /// and stay out of it, unless there are no others. `s.attended` is overwritten.
    pub(super) fn add_queries(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        block: &Block,
        rows: Range<usize>,
    ) -> Result<()> {
        let heads = (self.config.heads.query, self.config.heads.dim);
        let first = if block.sinks() < block.rows().enter { block.sinks() } else { 0 };
        if rows.end <= first {
            return Ok(());
        }
        let ahead = Ahead { from: block.end(), steps: STEPS };
        let positions = s.positions.view(rows.start, rows.len());
        // What attention left has been multiplied already, so that its memory can hold queries.
        rope_ahead(rec, &s.q, positions.bind(), heads, &self.rope(), ahead, rows.len(), &s.attended)?;
        let (now, before) = (side(rows.end), rows.start.saturating_sub(first));
        let earlier = (before > 0).then_some((&s.moments[1 - now], before));
        let skipped = first.saturating_sub(rows.start);
        moments(rec, &s.attended, heads, skipped, rows.len(), earlier, &s.moments[now])
    }

    /// Scores every row that is not protected, to `s.term`. The first `forced` rows count as sinks.
    pub(super) fn expect(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        block: &Block,
        shape: ScoreShape,
        prefix: usize,
        forced: usize,
    ) -> Result<()> {
        let (rows, scale) = (block.rows(), self.attention_scale());
        let (count, columns) = (rows.enter, rows.enter - rows.protected);
        expected_logits(rec, &s.k, &s.moments[side(count)], shape, scale, prefix, count, &s.spread)?;
        expected_score(rec, &s.spread, &s.v, shape, prefix, count, forced, columns, &s.term)
    }
}
