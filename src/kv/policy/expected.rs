//! Rows that later queries can be expected to attend to, for each KV head.
//!
//! After Devoto et al., "Expected Attention: KV Cache Compression by Estimating Attention from Future Queries
//! Distribution" (arXiv 2510.00636): a head's queries are taken for normally distributed, with the mean and the
//! covariance that they have in the prompt, before rotation; at the rotation of the next 512 positions, averaged,
//! the attention that a key can expect has a closed form. No query of the prompt is asked, so the ranking does not
//! lean towards what its end happens to ask for. The original protects no rows at the end.

use super::snap_kv::WINDOW;
use super::{BlockPlan, Budget, Policy, SINKS, Scorer, Scoring, Term, refuse_nothing};
use crate::Result;

/// Expected attention, weighted by the lengths of values.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    budget: Budget,
}

impl Expected {
    /// A policy whose layers keep `budget` each.
    pub fn new(budget: Budget) -> Self {
        Self { budget }
    }
}

impl Policy for Expected {
    fn name(&self) -> &'static str {
        "expected"
    }

    fn key(&self) -> String {
        format!("expected/1 budget={}", self.budget.key())
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        refuse_nothing(rows, layers)?;
        let counts = self.budget.spread(rows, layers, WINDOW + SINKS, false)?;
        let term = Term { scorer: Scorer::Expected, pooling: None, weight: 1.0 };
        Ok(BlockPlan::evict(rows, counts, |_| WINDOW.min(rows), Scoring::one(term, SINKS)))
    }

    fn per_head(&self) -> bool {
        true
    }
}
