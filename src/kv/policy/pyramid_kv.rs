//! PyramidKV's rows: SnapKV's score with a budget that falls from the first layer to the last.
//!
//! After Cai et al., "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling" (arXiv
//! 2406.02069). No hidden row is dropped, which is what sets it apart from PyramidInfer.

use super::snap_kv::{WINDOW, scoring};
use super::{BlockPlan, Budget, Policy, Pooling, Rank, SINKS, refuse_nothing};
use crate::Result;

/// How many times smaller than the mean the last layer's rows beside the window are.
const BETA: usize = 20;

/// A pyramid of caches over a dense prefill.
#[derive(Debug, Clone, PartialEq)]
pub struct PyramidKv {
    budget: Budget,
}

impl PyramidKv {
    /// A policy whose layers keep `budget` on average.
    pub fn new(budget: Budget) -> Self {
        Self { budget }
    }
}

/// Rows of each layer beside the window, with a mean of about `mean`, at most `most` each, falling by the same
/// whole number from layer to layer: the published formula, whose mean its rounding lifts by less than
/// `layers / 2`.
fn falling(mean: usize, most: usize, layers: usize) -> Vec<usize> {
    let (mut last, mut first) = (mean / BETA, 2 * mean - mean / BETA);
    if first > most {
        (first, last) = (most, 2 * mean - most);
    }
    let step = (first - last) / (layers - 1).max(1);
    (0..layers).map(|l| first - l * step).collect()
}

impl Policy for PyramidKv {
    fn name(&self) -> &'static str {
        "pyramidkv"
    }

    fn key(&self) -> String {
        format!("pyramidkv/1 budget={}", self.budget.key())
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        refuse_nothing(rows, layers)?;
        let (window, least) = (WINDOW.min(rows), (WINDOW + SINKS).min(rows));
        let counts = if let Budget::PerLayer(_) = self.budget {
            self.budget.spread(rows, layers, least, false)?
        } else {
            self.budget.refuse_below(WINDOW + SINKS)?;
            let mean = (self.budget.share(rows)? * rows as f64).round() as usize;
            let beside = falling(mean.max(least) - window, rows - window, layers);
            beside.into_iter().map(|count| (count + window).max(least)).collect()
        };
        Ok(BlockPlan::evict(rows, counts, |_| window, scoring(Pooling::Max(7))))
    }

    fn rank(&self) -> Option<Rank> {
        Some(Rank::MEAN)
    }

    fn per_head(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_those_of_the_published_formula() {
        // 480 rows beside the window: from 2 * 480 - 24 down in steps of 912 / 29.
        let found = falling(480, 992, 30);
        assert_eq!((found[0], found[1], found[29]), (936, 905, 37));
        // Capped at what there is, the last layer gets what the first cannot take: 2 * 582 - 992.
        let found = falling(582, 992, 30);
        assert_eq!((found[0], found[1], found[29]), (992, 964, 180));
        assert_eq!(falling(7, 7, 1), [7]);
    }

    #[test]
    fn means_stay_near_the_budget() {
        for layers in [1, 4, 30, 80] {
            for most in [4, 100, 992] {
                for mean in [0, 1, most / 7, most / 2, most * 3 / 4, most] {
                    let found = falling(mean, most, layers);
                    assert_eq!(found.len(), layers);
                    assert!(found.iter().all(|&n| n <= most) && found.is_sorted_by(|a, b| a >= b));
                    if layers > 1 {
                        let sum: usize = found.iter().sum();
                        let excess = sum as f64 / layers as f64 - mean as f64;
                        assert!((-1.0..layers as f64 / 2.0).contains(&excess), "{mean} of {most}: {excess}");
                    }
                }
            }
        }
    }
}
