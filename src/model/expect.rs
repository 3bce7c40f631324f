//! The attention that a block's rows can expect of queries to come, without a second pass over those that were.

use super::Model;
use super::prefill::Block;
use super::scratch::PrefillScratch;
use crate::Result;
use crate::gpu::Recorder;
use crate::kernels::expected_logits::expected_logits;
use crate::kernels::expected_score::expected_score;
use crate::kernels::moments::moments;
use crate::kernels::rope_ahead::{Ahead, rope_ahead};
use crate::kernels::score::ScoreShape;

/// Positions ahead that are averaged over, as published.
const STEPS: usize = 512;

impl Model {
    /// Scores every row that is not protected, to `s.term`. The first `forced` rows count as sinks; their queries
    /// are unlike all others and stay out of the distribution, unless there are no others.
    pub(super) fn expect(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        block: &Block,
        shape: ScoreShape,
        prefix: usize,
        forced: usize,
    ) -> Result<()> {
        let (rows, heads) = (block.rows(), (shape.query_heads, shape.dim));
        let (count, columns) = (rows.enter, rows.enter - rows.protected);
        let ahead = Ahead { from: block.end(), steps: STEPS };
        let positions = s.positions[block.side].bind();
        let first = if forced < count { forced } else { 0 };
        // What attention left has been multiplied already, so that its memory can hold queries, and then logits.
        rope_ahead(rec, &s.q, positions, heads, &self.rope(), ahead, count, &s.attended)?;
        moments(rec, &s.attended, heads, first, count, &s.moments)?;
        expected_logits(rec, &s.k, &s.moments, shape, self.attention_scale(), prefix, count, &s.attended)?;
        expected_score(rec, &s.attended, &s.v, shape, prefix, count, forced, columns, &s.term)
    }
}
