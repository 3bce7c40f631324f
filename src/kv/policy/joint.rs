//! Rows that either the whole prompt or its last tokens attend to, for each KV head.
//!
//! The column sum finds what a text refers to again and again, the window what its end asks for; each loses rows
//! that the other finds. Both are averages of one query's attention, weighted by the length of the row's value,
//! so that the larger of them is comparable from row to row. Averaging lifts H2O's bias towards early rows.
//!
//! Expected attention is of another unit. With it the scores are added, each as a multiple of its mean.

use std::sync::Arc;

use super::snap_kv::WINDOW;
use super::{
    BlockPlan, Budget, Combine, Measure, Policy, Pooling, Ramp, Rank, SINKS, Scorer, Scoring, Term,
    refuse_nothing,
};
use crate::Result;

/// The larger of an averaged column sum and a pooled window, or the sum of both and of expected attention.
#[derive(Debug, Clone, PartialEq)]
pub struct Joint {
    budget: Budget,
    expected: bool,
}

impl Joint {
    /// A policy whose layers keep `budget` each.
    pub fn new(budget: Budget) -> Self {
        Self { budget, expected: false }
    }

    /// Adds the attention that rows can expect of later queries, and halves the window's weight.
    pub fn with_expected(self) -> Self {
        Self { expected: true, ..self }
    }

    /// How the rows of a block of `rows` are ranked.
    pub(super) fn scoring(rows: usize, expected: bool) -> Scoring {
        let all = Measure { recent: rows, ramp: Ramp::FLAT, averaged: true, by_value: true };
        let window = Measure { recent: WINDOW, ..all };
        let (all, window) = (Term::received(all), Term::received(window).pooled(Pooling::Max(7)));
        if !expected {
            return Scoring { terms: vec![all, window], combine: Combine::Max, sinks: SINKS };
        }
        let expected = Term { scorer: Scorer::Expected, ..all };
        let terms = vec![all, expected, Term { weight: 0.5, ..window }];
        Scoring { terms, combine: Combine::Sum, sinks: SINKS }
    }
}

impl Policy for Joint {
    fn name(&self) -> &'static str {
        if self.expected { "joint-expected" } else { "joint" }
    }

    fn key(&self) -> String {
        format!("joint/1 budget={} expected={}", self.budget.key(), self.expected)
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        refuse_nothing(rows, layers)?;
        let counts = self.budget.spread(rows, layers, WINDOW + SINKS, false)?;
        Ok(BlockPlan::evict(rows, counts, |_| WINDOW.min(rows), Self::scoring(rows, self.expected)))
    }

    fn rank(&self) -> Option<Rank> {
        Some(Rank::MEAN)
    }

    fn per_head(&self) -> bool {
        true
    }

    fn weighted(&self, weights: &[f32]) -> Option<Arc<dyn Policy>> {
        let mut weighted = self.clone();
        weighted.budget = self.budget.weighted(weights);
        Some(Arc::new(weighted))
    }
}
