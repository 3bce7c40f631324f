//! Token-selective propagation: every row runs to one layer at mid-depth, and a part of them from there on.
//!
//! The single late drop is FastKV's remedy for the unstable ranking of early layers.

use super::ramp::FLOOR;
use super::{BlockPlan, Budget, LayerRows, Policy, Ramp, SINKS, Scoring, refuse_nothing};
use crate::Result;

/// Recent rows that rank the others.
const RECENT: usize = 64;

/// One drop of hidden rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Tsp {
    budget: Budget,
}

impl Tsp {
    /// A policy whose layers keep `budget` on average.
    pub fn new(budget: Budget) -> Self {
        Self { budget }
    }
}

/// The number of full layers and the share that is left after them, so that the mean is `share`: half the depth
/// where that leaves at least [`FLOOR`], else as few layers as it takes.
fn cut(share: f64, layers: usize) -> (usize, f64) {
    let at = |full: usize| (share * layers as f64 - full as f64) / (layers - full).max(1) as f64;
    let half = layers.div_ceil(2);
    let full = (0..=half).rev().find(|&full| at(full) >= FLOOR).unwrap_or(0);
    (full, at(full).clamp(0.0, 1.0))
}

impl Policy for Tsp {
    fn name(&self) -> &'static str {
        "tsp"
    }

    fn key(&self) -> String {
        format!("tsp/1 budget={}", self.budget.key())
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        refuse_nothing(rows, layers)?;
        let recent = RECENT.min(rows);
        let counts = if let Budget::PerLayer(_) = self.budget {
            self.budget.spread(rows, layers, recent + SINKS, false)?
        } else {
            let (full, share) = cut(self.budget.share(rows)?, layers);
            let kept = ((share * rows as f64).round() as usize).max(recent + SINKS).min(rows);
            (0..layers).map(|l| if l < full { rows } else { kept }).collect()
        };
        let mut enter = rows;
        let plan = |l: usize| {
            // The layer before the first short one drops, so that the short one never sees the rest.
            let propagate = counts[(l + 1).min(layers - 1)].min(enter);
            let layer = LayerRows { enter, retain: enter, propagate, protected: recent, tail: 0 };
            enter = propagate;
            layer
        };
        let layers = (0..layers).map(plan).collect();
        let ramp = Ramp { first: 1.0 / recent as f32, last: 1.0 };
        Ok(BlockPlan { layers, scoring: Some(Scoring::recent(recent, ramp, SINKS)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_once_and_keeps_its_mean() {
        for share in [0.3, 0.5, 0.6, 0.8] {
            let plan = Tsp::new(Budget::Share(share)).plan(1000, 30).unwrap();
            let enter: Vec<usize> = plan.layers.iter().map(|l| l.enter).collect();
            let changes = enter.windows(2).filter(|w| w[0] != w[1]).count();
            let mean = enter.iter().sum::<usize>() as f32 / 30_000.0;
            assert_eq!(changes, 1, "{enter:?}");
            assert!((mean - share).abs() < 0.035, "share {share}: {mean}");
        }
    }
}
