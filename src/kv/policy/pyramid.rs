//! PyramidInfer: each layer drops the rows that the recent tokens attend to least, for itself and all deeper ones.

use std::f64::consts::PI;

use super::{BlockPlan, Budget, LayerRows, Policy, Ramp, SINKS, Scoring, Thinning};
use crate::{Error, Result};

/// Columns that are never pruned to fewer (PyramidInfer's `min_context_length`).
const MIN_CONTEXT: usize = 64;
/// The newest recent row's weight, the oldest one's being 1.
const DISTANCE_WEIGHT: f32 = 1.2;
/// Recent rows of the schedules that are not published configurations.
const RECENT: usize = 64;

/// The configurations that PyramidInfer was published with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Preset {
    /// LLaMA 2 7B and Llama 3 8B: every layer prunes.
    #[cfg_attr(feature = "cli", value(name = "7b"))]
    #[serde(rename = "7b")]
    B7,
    /// LLaMA 2 13B: every second layer prunes, harder.
    #[cfg_attr(feature = "cli", value(name = "13b"))]
    #[serde(rename = "13b")]
    B13,
    /// LLaMA 2 and 3 70B: every third layer prunes.
    #[cfg_attr(feature = "cli", value(name = "70b"))]
    #[serde(rename = "70b")]
    B70,
}

/// Whether a layer prunes its own cache by its score, or only the layers after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// The layer caches the rows that it hands on.
    Own,
    /// The layer caches every row that entered it.
    Previous,
}

/// PyramidInfer's policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Pyramid {
    rows: Rows,
    recent_ratio: f64,
}

#[derive(Debug, Clone, PartialEq)]
enum Rows {
    /// The published rule: a ratio that falls with depth along a cosine, applied every `interval` layers.
    Cosine { decay: f64, interval: usize },
    /// A number of rows for each layer.
    Scheduled { budget: Budget, select: Select, recent: usize, sinks: usize },
}

impl Pyramid {
    /// A published configuration.
    pub fn preset(preset: Preset) -> Self {
        let (decay, interval) = match preset {
            Preset::B7 => (0.9, 1),
            Preset::B13 => (0.8, 2),
            Preset::B70 => (0.9, 3),
        };
        Self::cosine(decay, interval)
    }

    /// The published rule with another decay of the ratio and any layer interval (at least 1).
    pub fn cosine(decay: f64, interval: usize) -> Self {
        Self { rows: Rows::Cosine { decay, interval: interval.max(1) }, recent_ratio: 0.2 }
    }

    /// A pyramid of a given size, falling evenly with depth.
    pub fn with_budget(budget: Budget) -> Self {
        let rows = Rows::Scheduled { budget, select: Select::Own, recent: RECENT, sinks: SINKS };
        Self { rows, recent_ratio: 0.2 }
    }

    /// Exactly these rows in each layer, ranked by the last `recent` rows.
    pub fn exact(rows: Vec<usize>, select: Select, recent: usize, sinks: usize) -> Self {
        let rows = Rows::Scheduled { budget: Budget::PerLayer(rows), select, recent, sinks };
        Self { rows, recent_ratio: 0.2 }
    }

    fn cosine_plan(&self, rows: usize, layers: usize, decay: f64, interval: usize) -> BlockPlan {
        let recent = (self.recent_ratio * rows as f64).floor() as usize;
        let protected = (1 + recent).min(rows);
        let least = MIN_CONTEXT.min(rows - protected);
        let mut enter = rows;
        let plan = |l: usize| {
            let ratio = decay + (1.0 - decay) * (1.0 + (PI * l as f64 / layers as f64).cos()) / 2.0;
            let context = enter - protected;
            let mut keep = context;
            if l.is_multiple_of(interval) && context > least && ratio < 1.0 {
                let cut = (context as f64 * ratio).floor() as usize;
                // The guard of the published rule stops pruning; it does not clamp to the least.
                keep = if cut <= least { context } else { cut };
            }
            let layer = LayerRows { enter, retain: enter, propagate: keep + protected, protected, tail: 0 };
            enter = layer.propagate;
            layer
        };
        let layers = (0..layers).map(plan).collect();
        let ramp = Ramp { first: 1.0, last: DISTANCE_WEIGHT };
        BlockPlan { layers, scoring: Some(Scoring::recent(protected, ramp, SINKS)) }
    }
}

impl Policy for Pyramid {
    fn name(&self) -> &'static str {
        "pyramid"
    }

    fn key(&self) -> String {
        let rows = match &self.rows {
            Rows::Cosine { decay, interval } => format!("decay={decay} interval={interval}"),
            Rows::Scheduled { budget, select, recent, sinks } => {
                let select = match select {
                    Select::Own => "own",
                    Select::Previous => "previous",
                };
                format!("budget={} select={select} recent={recent} sinks={sinks}", budget.key())
            }
        };
        format!("pyramid/1 {rows} recent-ratio={}", self.recent_ratio)
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        if rows == 0 || layers == 0 {
            return Err(Error::Invalid(format!("a pyramid of {rows} rows over {layers} layers is empty")));
        }
        let (budget, select, recent, sinks) = match &self.rows {
            Rows::Cosine { decay, interval } => return Ok(self.cosine_plan(rows, layers, *decay, *interval)),
            Rows::Scheduled { budget, select, recent, sinks } => {
                // The last row is the one that an answer starts from.
                (budget, *select, (*recent).clamp(1, rows), (*sinks).min(rows))
            }
        };
        let counts = budget.spread(rows, layers, recent + sinks, true)?;
        let mut enter = rows;
        let plan = |l: usize| {
            let target = match select {
                Select::Own => counts[l],
                Select::Previous => counts[(l + 1).min(layers - 1)],
            };
            let propagate = target.min(enter);
            let retain = if select == Select::Own { propagate } else { enter };
            let layer = LayerRows { enter, retain, propagate, protected: recent, tail: 0 };
            enter = propagate;
            layer
        };
        let layers = (0..layers).map(plan).collect();
        let ramp = Ramp { first: 1.0 / recent as f32, last: 1.0 };
        Ok(BlockPlan { layers, scoring: Some(Scoring::recent(recent, ramp, sinks)) })
    }

    fn thinning(&self) -> Option<Thinning> {
        let replay = matches!(&self.rows, Rows::Scheduled { budget: Budget::PerLayer(_), .. });
        (!replay).then_some(Thinning::PUBLISHED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entering(preset: Preset, rows: usize, layers: usize) -> Vec<usize> {
        Pyramid::preset(preset).plan(rows, layers).unwrap().layers.iter().map(|l| l.enter).collect()
    }

    #[test]
    fn published_profiles_are_met_row_for_row() {
        check_profile((Preset::B7, 512, 32), [512, 509, 495, 462, 408, 342, 276, 219], 0.757);
        check_profile((Preset::B13, 512, 40), [512, 509, 496, 448, 396, 304, 246, 180], 0.723);
        check_profile((Preset::B70, 256, 80), [256, 253, 246, 233, 204, 177, 150, 118], 0.769);
        check_profile((Preset::B7, 4096, 32), [4096, 4083, 3985, 3732, 3313, 2787, 2256, 1803], 0.766);
        assert_eq!(entering(Preset::B7, 512, 32)[31], 186);
        assert_eq!(entering(Preset::B13, 512, 40)[39], 180);
        assert_eq!(entering(Preset::B7, 4096, 32)[31], 1541);
    }

    /// Rows that enter every eighth part of the depth, and the share of all rows that is kept.
    fn check_profile((preset, rows, layers): (Preset, usize, usize), samples: [usize; 8], share: f64) {
        let found = entering(preset, rows, layers);
        let sampled: Vec<usize> = (0..8).map(|i| found[i * layers / 8]).collect();
        assert_eq!(sampled, samples, "{preset:?}");
        let kept = found.iter().sum::<usize>() as f64 / (rows * layers) as f64;
        assert!((kept - share).abs() < 0.0006, "{preset:?}: {kept}");
    }

    #[test]
    fn the_first_layers_stay_full() {
        for (preset, full) in [(Preset::B7, 2), (Preset::B13, 3), (Preset::B70, 4)] {
            let found = entering(preset, 1000, 60);
            assert!(found[..full].iter().all(|&n| n == 1000) && found[full] < 1000, "{preset:?}: {found:?}");
        }
    }

    #[test]
    fn short_prompts_lose_nothing() {
        for rows in [1, 2, 7, 64, 80] {
            assert!(entering(Preset::B7, rows, 30).iter().all(|&n| n == rows), "{rows}");
        }
    }

    #[test]
    fn previous_caches_what_entered() {
        let counts = vec![90, 70, 50];
        let own = Pyramid::exact(counts.clone(), Select::Own, 32, 4).plan(100, 3).unwrap();
        let previous = Pyramid::exact(counts, Select::Previous, 32, 4).plan(100, 3).unwrap();
        let retained = |p: &BlockPlan| p.layers.iter().map(|l| l.retain).collect::<Vec<_>>();
        assert_eq!(retained(&own), [90, 70, 50]);
        assert_eq!(retained(&previous), [100, 70, 50]);
    }
}
