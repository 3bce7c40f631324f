//! H2O's rows: heavy hitters, by the attention that they received from all queries, and the most recent ones.
//!
//! After Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference" (arXiv 2306.14048). The original
//! drops a row at every step from sums over the queries so far, over rows that earlier steps left. Here a prompt
//! runs dense and the sums are over all of its queries, which see every row: what that algorithm approximates. While
//! tokens are generated it is that algorithm, some steps at a time.

use super::{BlockPlan, Budget, Measure, Policy, Ramp, Rank, SINKS, Scoring, Term, refuse_nothing};
use crate::Result;

/// Column sums of attention, for each KV head.
#[derive(Debug, Clone, PartialEq)]
pub struct H2o {
    budget: Budget,
}

impl H2o {
    /// A policy whose layers keep `budget`, half of it the most recent rows.
    pub fn new(budget: Budget) -> Self {
        Self { budget }
    }
}

impl Policy for H2o {
    fn name(&self) -> &'static str {
        "h2o"
    }

    fn key(&self) -> String {
        format!("h2o/1 budget={}", self.budget.key())
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        refuse_nothing(rows, layers)?;
        let counts = self.budget.spread(rows, layers, 2 * SINKS, false)?;
        let measure = Measure { recent: rows, ramp: Ramp::FLAT, averaged: false, by_value: false };
        let scoring = Scoring::one(Term::received(measure), SINKS);
        Ok(BlockPlan::evict(rows, counts, |retain| retain / 2, scoring))
    }

    fn rank(&self) -> Option<Rank> {
        Some(Rank::SUM)
    }

    fn per_head(&self) -> bool {
        true
    }
}
