//! Rows that either the whole prompt or its last tokens attend to, for each KV head.
//!
//! The column sum finds what a text refers to again and again, the window what its end asks for; each loses rows
//! that the other finds. Both are averages of one query's attention, weighted by the length of the row's value,
//! so that the larger of them is comparable from row to row. Averaging lifts H2O's bias towards early rows.

use super::snap_kv::WINDOW;
use super::{BlockPlan, Budget, Measure, Policy, Pooling, Ramp, Rank, SINKS, Scoring, Term, refuse_nothing};
use crate::Result;

/// The larger of an averaged column sum and a pooled window.
#[derive(Debug, Clone, PartialEq)]
pub struct Joint {
    budget: Budget,
}

impl Joint {
    /// A policy whose layers keep `budget` each.
    pub fn new(budget: Budget) -> Self {
        Self { budget }
    }
}

impl Policy for Joint {
    fn name(&self) -> &'static str {
        "joint"
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        refuse_nothing(rows, layers)?;
        let counts = self.budget.spread(rows, layers, WINDOW + SINKS, false)?;
        let all = Measure { recent: rows, ramp: Ramp::FLAT, averaged: true, by_value: true };
        let window = Measure { recent: WINDOW, ..all };
        let terms = vec![
            Term { measure: all, pooling: None },
            Term { measure: window, pooling: Some(Pooling::Max(7)) },
        ];
        Ok(BlockPlan::evict(rows, counts, |_| WINDOW.min(rows), Scoring { terms, sinks: SINKS }))
    }

    fn rank(&self) -> Option<Rank> {
        Some(Rank::MEAN)
    }

    fn per_head(&self) -> bool {
        true
    }
}
