//! Which rows of a block live: scored, pooled, selected and gathered on the device, as many as the plan says.

use super::Model;
use super::prefill::Block;
use super::scratch::PrefillScratch;
use crate::Result;
use crate::gpu::Recorder;
use crate::kernels::combine::combine;
use crate::kernels::fill::{Fill, fill};
use crate::kernels::gather::gather;
use crate::kernels::pool::pool;
use crate::kernels::score::{ScoreShape, score};
use crate::kernels::select::select;
use crate::kv::policy::{Scorer, Scoring};

impl Model {
    /// Ranks the block's rows and selects those that the cache retains; `None` when that is all of them.
    /// Leaves the rows that propagate in `index[1]` when they are not the same ones.
    pub(super) fn choose(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        block: &Block,
        prefix: usize,
    ) -> Result<Option<usize>> {
        let rows = block.rows();
        let Some(scoring) = block.plan.scoring.as_ref().filter(|_| rows.drops()) else { return Ok(None) };
        self.rank(rec, s, block, scoring, prefix)?;
        let (columns, protected) = (rows.enter - rows.protected, rows.protected);
        let sets = if block.per_head { self.config.heads.kv } else { 1 };
        let mut pick =
            |keep: usize, out| select(rec, &s.scores, sets, columns, keep - protected, protected, out);
        if rows.retain < rows.enter {
            pick(rows.retain, &s.index[0])?;
        }
        if rows.propagate < rows.enter && rows.propagate != rows.retain {
            pick(rows.propagate, &s.index[1])?;
        }
        Ok((rows.retain < rows.enter).then_some(0))
    }

    /// Scores every row that is not protected, by what the scoring's terms give it.
    fn rank(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        block: &Block,
        scoring: &Scoring,
        prefix: usize,
    ) -> Result<()> {
        if scoring.terms.is_empty() {
            return fill(rec, &s.scores, Fill::Constant(0));
        }
        let (heads, rows, scale) = (self.config.heads, block.rows(), self.attention_scale());
        let columns = rows.enter - rows.protected;
        let shape = ScoreShape {
            query_heads: heads.query,
            kv_heads: heads.kv,
            dim: heads.dim,
            per_head: block.per_head,
        };
        // The first rows of a later block are no sinks: those are in the cache already.
        let forced = if block.start == 0 { scoring.sinks } else { 0 };
        for (i, term) in scoring.terms.iter().enumerate() {
            match term.scorer {
                Scorer::Received(measure) => score(
                    rec, &s.q, &s.lse, &s.k, &s.v, shape, scale, prefix, rows.enter, measure, forced,
                    columns, &s.term,
                )?,
                Scorer::Expected => self.expect(rec, s, block, shape, prefix, forced)?,
            }
            let mut term_scores = &s.term;
            if let Some(pooling) = term.pooling {
                // What attention left has been multiplied already, so that its memory can hold a term's scores.
                pool(rec, &s.term, shape.sets(), columns, forced, pooling, &s.attended)?;
                term_scores = &s.attended;
            }
            let (how, weight, joined) = (scoring.combine, term.weight, i > 0);
            combine(rec, term_scores, shape.sets(), columns, forced, how, weight, joined, &s.scores)?;
        }
        Ok(())
    }

    /// Gathers the hidden rows that go on, and their positions.
    pub(super) fn propagate(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        block: &mut Block,
        retained: Option<usize>,
    ) -> Result<()> {
        let rows = block.rows();
        let same = retained.filter(|_| rows.retain == rows.propagate);
        let index = &s.index[same.unwrap_or(1)];
        let (from, to) = (block.side, 1 - block.side);
        let (count, width) = (rows.propagate, self.config.width);
        gather(rec, s.hidden[from].bind(), (rows.enter, width), index.bind(), count, s.hidden[to].bind())?;
        gather(rec, s.positions[from].bind(), (rows.enter, 1), index.bind(), count, s.positions[to].bind())?;
        block.side = to;
        Ok(())
    }
}
