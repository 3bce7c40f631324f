//! StreamingLLM's rows: the first tokens and the latest ones, whatever was attended to.
//!
//! After Xiao et al., "Efficient Streaming Language Models with Attention Sinks" (arXiv 2309.17453). Theirs slides
//! and counts positions inside the window; here rows keep the position that they were computed at.

use super::{BlockPlan, Budget, Combine, Policy, SINKS, Scoring, refuse_nothing};
use crate::Result;

/// Sinks and a window: nothing is scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Streaming {
    budget: Budget,
}

impl Streaming {
    /// The first four rows of a prompt and the latest that `budget` leaves room for.
    pub fn new(budget: Budget) -> Self {
        Self { budget }
    }
}

impl Policy for Streaming {
    fn name(&self) -> &'static str {
        "streaming"
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        refuse_nothing(rows, layers)?;
        let counts = self.budget.spread(rows, layers, SINKS + 1, false)?;
        // All that is protected are the latest rows; the sinks then rank first by standing first.
        let window = |retain: usize| retain.saturating_sub(SINKS);
        let scoring = Scoring { terms: Vec::new(), combine: Combine::Max, sinks: SINKS };
        Ok(BlockPlan::evict(rows, counts, window, scoring))
    }
}
