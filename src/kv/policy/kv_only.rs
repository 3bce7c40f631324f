//! Prunes each layer's cache on its own and propagates every hidden row.
//!
//! Nothing that an early layer ranks low is lost to the later ones, so prefill costs as much as the dense one.

use super::{BlockPlan, Budget, Policy, Ramp, Rank, SINKS, Scoring, refuse_nothing};
use crate::Result;

/// Recent rows that rank the others.
const RECENT: usize = 64;

/// Row eviction after a dense prefill, ranked by PyramidInfer's score.
#[derive(Debug, Clone, PartialEq)]
pub struct KvOnly {
    budget: Budget,
    per_head: bool,
}

impl KvOnly {
    /// One selection a layer, shared by its KV heads.
    pub fn shared(budget: Budget) -> Self {
        Self { budget, per_head: false }
    }

    /// One selection for each KV head, which finds more for the same bytes.
    pub fn per_head(budget: Budget) -> Self {
        Self { budget, per_head: true }
    }
}

impl Policy for KvOnly {
    fn name(&self) -> &'static str {
        "kv-only"
    }

    fn key(&self) -> String {
        format!("kv-only/1 budget={} per-head={}", self.budget.key(), self.per_head)
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        refuse_nothing(rows, layers)?;
        let recent = RECENT.min(rows);
        let counts = self.budget.spread(rows, layers, recent + SINKS, false)?;
        let ramp = Ramp { first: 1.0 / recent as f32, last: 1.0 };
        Ok(BlockPlan::evict(rows, counts, |_| recent, Scoring::recent(recent, ramp, SINKS)))
    }

    fn rank(&self) -> Option<Rank> {
        Some(Rank::MEAN)
    }

    fn per_head(&self) -> bool {
        self.per_head
    }
}
