//! StreamingLLM's rows: the first tokens and the latest ones, whatever was attended to.
//!
//! After Xiao et al., "Efficient Streaming Language Models with Attention Sinks" (arXiv 2309.17453). As there,
//! positions count inside the window: the first tokens follow it, so that a stream has no end. Only they are rotated
//! anew, since the distances within the window are what they were.

use super::{BlockPlan, Budget, Combine, Policy, Rank, SINKS, Scoring, refuse_nothing};
use crate::Result;

/// Sinks and a window: nothing is scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Streaming {
    budget: Budget,
}

impl Streaming {
    /// The first four rows and the latest that `budget` leaves room for.
    pub fn new(budget: Budget) -> Self {
        Self { budget }
    }
}

impl Policy for Streaming {
    fn name(&self) -> &'static str {
        "streaming"
    }

    fn key(&self) -> String {
        format!("streaming/1 budget={}", self.budget.key())
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        refuse_nothing(rows, layers)?;
        let counts = self.budget.spread(rows, layers, SINKS + 1, false)?;
        // All that is protected are the latest rows; the sinks then rank first by standing first.
        let window = |retain: usize| retain.saturating_sub(SINKS);
        let scoring = Scoring { terms: Vec::new(), combine: Combine::Max, sinks: SINKS };
        Ok(BlockPlan::evict(rows, counts, window, scoring))
    }

    fn rank(&self) -> Option<Rank> {
        Some(Rank::Age)
    }
}
