//! Which rows of a block live: scored, pooled, selected and gathered on the device, as many as the plan says.

use super::Model;
use super::prefill::{Block, chunks};
use super::scratch::{INTO, MAIN, ON, PrefillScratch, TAIL};
use super::tally::{Tallies, Tally};
use crate::Result;
use crate::gpu::Recorder;
use crate::kernels::combine::combine;
use crate::kernels::fill::{Fill, fill};
use crate::kernels::gather::gather;
use crate::kernels::pool::pool;
use crate::kernels::score::{Measure, ScoreShape};
use crate::kernels::select::select;
use crate::kv::TierRows;
use crate::kv::policy::{Scorer, Scoring};

impl Block {
    /// How the next layer's rows are ranked, if any are to be told apart.
    pub(super) fn scoring(&self) -> Option<&Scoring> {
        self.plan.scoring.as_ref().filter(|_| self.rows().drops())
    }

    /// True when the rows are listed that the next layer's tiers gain; all of them stay otherwise.
    pub(super) fn lists(&self, gains: TierRows) -> bool {
        self.scoring().is_some() && (self.rows().retain < self.rows().enter || gains.tail > 0)
    }

    /// How often rows are ranked, and whether for each KV head.
    pub(super) fn rankings(&self, gains: TierRows) -> impl Iterator<Item = bool> + use<> {
        // A hidden row goes on for all heads or for none, whether or not they rank rows together.
        let goes_on = self.rows().propagate < self.rows().enter;
        let listed = self.lists(gains) && (self.per_head || !goes_on);
        goes_on.then_some(false).into_iter().chain(listed.then_some(self.per_head))
    }

    /// What a term of the ranking is told of the rows that are not protected.
    pub(super) fn received(&self, measure: Measure, per_head: bool) -> Tally {
        Tally { measure, per_head, forced: self.sinks(), columns: self.rows().enter - self.rows().protected }
    }
}

impl Model {
    /// Ranks the block's rows if any are to be told apart, and lists those that each tier gains (`index[MAIN]` and
    /// `index[TAIL]`) and those that propagate (`index[ON]`).
    pub(super) fn choose(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        block: &Block,
        gains: TierRows,
        tallies: &Tallies,
        prefix: usize,
    ) -> Result<()> {
        let rows = block.rows();
        let Some(scoring) = block.scoring() else { return Ok(()) };
        let (columns, protected) = (rows.enter - rows.protected, rows.protected);
        let mut rankings = block.rankings(gains);
        let mut rank = |rec: &mut Recorder| match rankings.next() {
            Some(per_head) => self.rank(rec, s, block, scoring, tallies, prefix, per_head),
            None => Ok(()),
        };
        if rows.propagate < rows.enter {
            rank(rec)?;
            select(rec, &s.scores, 1, columns, 0..rows.propagate - protected, protected, &s.index[ON])?;
        }
        if block.lists(gains) {
            // Where hidden rows go on by the same scores, these are there.
            rank(rec)?;
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
        Ok(())
    }

    /// Scores every row that is not protected, by what the scoring's terms give it, for all heads or for each.
    #[expect(clippy::too_many_arguments, reason = "a block and how its rows are ranked")]
    fn rank(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        block: &Block,
        scoring: &Scoring,
        tallies: &Tallies,
        prefix: usize,
        per_head: bool,
    ) -> Result<()> {
        if scoring.terms.is_empty() {
            return fill(rec, &s.scores, Fill::Constant(0));
        }
        let columns = block.rows().enter - block.rows().protected;
        let shape = ScoreShape::new(self.config.heads, per_head);
        let forced = block.sinks();
        for (i, term) in scoring.terms.iter().enumerate() {
            let mut term_scores = match term.scorer {
                Scorer::Received(measure) => tallies.sums(s, block.received(measure, per_head))?,
                Scorer::Expected => {
                    self.expect(rec, s, block, shape, prefix, forced)?;
                    &s.term
                }
            };
            if let Some(pooling) = term.pooling {
                pool(rec, term_scores, shape.sets(), columns, forced, pooling, &s.spread)?;
                term_scores = &s.spread;
            }
            let (how, weight, joined) = (scoring.combine, term.weight, i > 0);
            combine(rec, term_scores, shape.sets(), columns, forced, how, weight, joined, &s.scores)?;
        }
        Ok(())
    }

    /// Moves the hidden rows that go on, and their positions, to the first places.
    pub(super) fn propagate(&self, rec: &mut Recorder, s: &PrefillScratch, block: &Block) -> Result<()> {
        let (enter, count, width) = (block.rows().enter, block.rows().propagate, self.config.width);
        // A row's place is never after its own, so that a chunk overwrites none that a later one reads.
        for (first, count) in chunks(0, count) {
            let index = s.index[ON].view(first, count);
            gather(rec, s.hidden.bind(), (enter, width), index.bind(), count, s.qkv.bind())?;
            rec.copy(&s.qkv, 0, &s.hidden, first * width, count * width);
        }
        // Rows have been merged by now.
        let moved = &s.index[INTO];
        gather(rec, s.positions.bind(), (enter, 1), s.index[ON].bind(), count, moved.bind())?;
        rec.copy(moved, 0, &s.positions, 0, count);
        Ok(())
    }
}
