//! TOVA's rows: those that the last token attends to most, on average over the heads.
//!
//! After Oren et al., "Transformers are Multi-State RNNs" (arXiv 2401.06104), applied to a whole prompt and then to
//! some steps at a time, where the original drops one row a step, each by the attention of the token of that step.

use super::{BlockPlan, Budget, Policy, Ramp, Rank, SINKS, Scoring, refuse_nothing};
use crate::Result;

/// One query's attention, one selection for all heads of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Tova {
    budget: Budget,
}

impl Tova {
    /// A policy whose layers keep `budget` on average.
    pub fn new(budget: Budget) -> Self {
        Self { budget }
    }
}

impl Policy for Tova {
    fn name(&self) -> &'static str {
        "tova"
    }

    fn key(&self) -> String {
        format!("tova/1 budget={}", self.budget.key())
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        refuse_nothing(rows, layers)?;
        let counts = self.budget.spread(rows, layers, SINKS + 1, false)?;
        Ok(BlockPlan::evict(rows, counts, |_| 1, Scoring::recent(1, Ramp::FLAT, SINKS)))
    }

    fn rank(&self) -> Option<Rank> {
        Some(Rank::LAST)
    }
}
