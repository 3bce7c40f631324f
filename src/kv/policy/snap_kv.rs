//! SnapKV's rows: those that the prompt's last tokens attend to, each with its neighbours, for each KV head.
//!
//! After Li et al., "SnapKV: LLM Knows What You are Looking for Before Generation" (arXiv 2404.14469). The original
//! gives every query head rows of its own; with grouped queries one selection for a KV head serves its group.

use super::{BlockPlan, Budget, Measure, Policy, Pooling, Ramp, Rank, SINKS, Scoring, Term, refuse_nothing};
use crate::Result;

/// Rows of the observation window.
pub(super) const WINDOW: usize = 32;

/// The pooled attention of an observation window.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapKv {
    budget: Budget,
    pooling: Pooling,
}

impl SnapKv {
    /// A policy whose layers keep `budget` each, scores pooled by the maximum over seven rows.
    pub fn new(budget: Budget) -> Self {
        Self { budget, pooling: Pooling::Max(7) }
    }

    /// Another pooling; the average over five rows is the default of the published code.
    pub fn pooled(self, pooling: Pooling) -> Self {
        Self { pooling, ..self }
    }
}

/// The sum of the window's attention, pooled.
pub(super) fn scoring(pooling: Pooling) -> Scoring {
    let measure = Measure { recent: WINDOW, ramp: Ramp::FLAT, averaged: false, by_value: false };
    Scoring::one(Term::received(measure).pooled(pooling), SINKS)
}

impl Policy for SnapKv {
    fn name(&self) -> &'static str {
        "snapkv"
    }

    fn key(&self) -> String {
        let pooling = match self.pooling {
            Pooling::Max(rows) => format!("max:{rows}"),
            Pooling::Average(rows) => format!("average:{rows}"),
        };
        format!("snapkv/1 budget={} pooling={pooling}", self.budget.key())
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        refuse_nothing(rows, layers)?;
        let counts = self.budget.spread(rows, layers, WINDOW + SINKS, false)?;
        Ok(BlockPlan::evict(rows, counts, |_| WINDOW.min(rows), scoring(self.pooling)))
    }

    fn rank(&self) -> Option<Rank> {
        Some(Rank::MEAN)
    }

    fn per_head(&self) -> bool {
        true
    }
}
