//! Which rows of a block live: scored, pooled, selected and gathered on the device, as many as the plan says.

use super::Model;
use super::prefill::Block;
use super::scratch::{MAIN, ON, PrefillScratch, TAIL};
use crate::Result;
use crate::gpu::Recorder;
use crate::kernels::combine::combine;
use crate::kernels::fill::{Fill, fill};
use crate::kernels::gather::gather;
use crate::kernels::pool::pool;
use crate::kernels::score::{ScoreShape, score};
use crate::kernels::select::select;
use crate::kv::TierRows;
use crate::kv::policy::{Scorer, Scoring};

impl Model {
    /// Ranks the block's rows if any are to be told apart, and lists those that each tier gains (`index[MAIN]` and
    /// `index[TAIL]`) and those that propagate (`index[ON]`). True when the tiers' rows are listed; all of them
    /// stay otherwise.
    pub(super) fn choose(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        block: &Block,
        gains: TierRows,
        prefix: usize,
    ) -> Result<bool> {
        let rows = block.rows();
        let Some(scoring) = block.plan.scoring.as_ref().filter(|_| rows.drops()) else { return Ok(false) };
        let (columns, protected) = (rows.enter - rows.protected, rows.protected);
        let listed = rows.retain < rows.enter || gains.tail > 0;
        let goes_on = rows.propagate < rows.enter;
        // A hidden row goes on for all heads or for none, whether or not they rank rows together.
        if goes_on {
            self.rank(rec, s, block, scoring, prefix, false)?;
            select(rec, &s.scores, 1, columns, 0..rows.propagate - protected, protected, &s.index[ON])?;
        }
        if listed {
            if block.per_head || !goes_on {
                self.rank(rec, s, block, scoring, prefix, block.per_head)?;
            }
            let sets = if block.per_head { self.config.heads.kv } else { 1 };
            let mut pick = |ranks, protected, list: usize| {
                select(rec, &s.scores, sets, columns, ranks, protected, &s.index[list])
            };
            // The first tokens score highest, so that they hold the first ranks.
            let best = gains.sinks + gains.main - protected;
            pick(gains.sinks..best, protected, MAIN)?;
            if gains.tail > 0 {
                pick(best..best + gains.tail, 0, TAIL)?;
            }
        }
        Ok(listed)
    }

    /// Scores every row that is not protected, by what the scoring's terms give it, for all heads or for each.
    fn rank(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        block: &Block,
        scoring: &Scoring,
        prefix: usize,
        per_head: bool,
    ) -> Result<()> {
        if scoring.terms.is_empty() {
            return fill(rec, &s.scores, Fill::Constant(0));
        }
        let (heads, rows, scale) = (self.config.heads, block.rows(), self.attention_scale());
        let columns = rows.enter - rows.protected;
        let shape = ScoreShape::new(heads, per_head);
        let forced = block.sinks();
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
    pub(super) fn propagate(&self, rec: &mut Recorder, s: &PrefillScratch, block: &mut Block) -> Result<()> {
        let (rows, index) = (block.rows(), &s.index[ON]);
        let (from, to) = (block.side, 1 - block.side);
        let (count, width) = (rows.propagate, self.config.width);
        gather(rec, s.hidden[from].bind(), (rows.enter, width), index.bind(), count, s.hidden[to].bind())?;
        gather(rec, s.positions[from].bind(), (rows.enter, 1), index.bind(), count, s.positions[to].bind())?;
        block.side = to;
        Ok(())
    }
}
