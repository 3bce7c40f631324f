//! What the queries of a block say of its rows, added up while they run: when a chunk of rows is through a layer, its
//! queries are gone.

use super::Model;
use super::prefill::Block;
use super::scratch::PrefillScratch;
use crate::gpu::{Recorder, Tensor};
use crate::kernels::score::{Measure, ScoreShape, score};
use crate::kv::TierRows;
use crate::kv::policy::{BlockPlan, Scorer};
use crate::{Error, Result};

/// The attention that each row of a block receives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tally {
    /// From which queries, and for how much each counts.
    pub measure: Measure,
    /// One score for each KV head, instead of one for all.
    pub per_head: bool,
    /// First rows that score highest, whatever they receive.
    pub forced: usize,
    /// Rows that are scored.
    pub columns: usize,
}

/// What one layer adds up.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    list: Vec<Tally>,
    /// The distribution of the queries is wanted too.
    moments: bool,
}

/// Tallies that a layer of a block needs at most.
pub(crate) fn most(plan: &BlockPlan, per_head: bool) -> usize {
    let terms = plan.scoring.iter().flat_map(|scoring| &scoring.terms);
    let received = terms.filter(|term| matches!(term.scorer, Scorer::Received(_))).count();
    // Rows may be ranked for all heads and for each; one more tells what merged rows count for, or seeds running sums.
    received * (1 + usize::from(per_head)) + 1
}

impl Tallies {
    /// What the block's next layer is asked for, when its tiers gain so many rows.
    pub fn of(block: &Block, gains: TierRows, merged: bool) -> Self {
        let mut all = Self::default();
        for (scoring, per_head) in
            block.scoring().into_iter().flat_map(|s| block.rankings(gains).map(move |r| (s, r)))
        {
            for term in &scoring.terms {
                match term.scorer {
                    Scorer::Received(measure) => all.list.push(block.received(measure, per_head)),
                    Scorer::Expected => all.moments = true,
                }
            }
        }
        all.list.extend(merged.then(|| block.witnessed()));
        all.list.extend(block.seeded());
        all
    }

    /// True when queries `..end` of `count` say anything.
    pub fn hear(&self, end: usize, count: usize) -> bool {
        self.moments || self.list.iter().any(|tally| end + tally.measure.recent.min(count) > count)
    }

    /// Where the sums of one of them are.
    pub fn sums<'a>(&self, s: &'a PrefillScratch, tally: Tally) -> Result<&'a Tensor<f32>> {
        let at = self.list.iter().position(|&other| other == tally);
        let lost = || Error::Invalid(format!("{tally:?} is not among what a layer adds up"));
        at.and_then(|at| s.tallies.get(at)).ok_or_else(lost)
    }
}

impl Model {
    /// Adds what `count` queries from row `first` on say, which are the ones in the scratch.
    pub(super) fn add_up(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        block: &Block,
        (first, count): (usize, usize),
        tallies: &Tallies,
        prefix: usize,
    ) -> Result<()> {
        let (enter, scale, queries) = (block.rows().enter, self.attention_scale(), first..first + count);
        for (&Tally { measure, per_head, forced, columns }, out) in tallies.list.iter().zip(&s.tallies) {
            let shape = ScoreShape::new(self.config.heads, per_head);
            score(
                rec,
                &s.q,
                &s.lse,
                &s.k,
                &s.v,
                shape,
                scale,
                prefix,
                enter,
                queries.clone(),
                measure,
                forced,
                columns,
                out,
            )?;
        }
        if tallies.moments {
            self.add_queries(rec, s, block, queries)?;
        }
        Ok(())
    }
}
