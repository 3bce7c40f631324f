//! Which rows live: the questions that a policy answers with host arithmetic alone.
//!
//! For a block of prompt rows, and for each layer, a policy says how many rows are *retained* for decode and how
//! many *propagate* as hidden rows to the next layer. Which ones these are is decided on the device, by score;
//! how many, never, so that nothing has to be read back to size a dispatch.
//!
//! A policy is a composition of choices that know nothing of each other:
//!
//! ```text
//! which queries score, how they are weighted, normalised, pooled      Scoring, a list of Terms
//! what several such scores make together                              Scoring::combine
//! how many rows, and how the layers share them                        Budget
//! which rows are never up for selection                               LayerRows::protected, Scoring::sinks
//! one selection a layer or one for each KV head                       Policy::per_head
//! whether dropped rows still run through deeper layers                LayerRows::propagate
//! what goes once a layer holds what it may                            Policy::rank, Bounds
//! ```

mod auto;
mod bounds;
mod choice;
mod demote;
mod expected;
mod h2o;
mod joint;
mod kv_only;
mod pyramid;
mod pyramid_kv;
mod ramp;
mod snap_kv;
mod streaming;
mod thinning;
mod tova;
mod tsp;

use std::sync::Arc;

use super::{TierRows, Tiers};
use crate::{Error, Result};

pub use crate::kernels::combine::Combine;
pub use crate::kernels::pool::Pooling;
pub use crate::kernels::score::{Measure, Ramp};
pub use bounds::{Bounds, Observation, Rank};
pub use choice::{Choice, Name};
pub use demote::Demote;
pub use expected::Expected;
pub use h2o::H2o;
pub use joint::Joint;
pub use kv_only::KvOnly;
pub use pyramid::{Preset, Pyramid, Select};
pub use pyramid_kv::PyramidKv;
pub use ramp::Budget;
pub use snap_kv::SnapKv;
pub use streaming::Streaming;
pub use thinning::{ThinStep, Thinning, ThinningState};
pub use tova::Tova;
pub use tsp::Tsp;

/// First tokens that are always kept, because attention rests on them when it has nothing better to do.
pub(crate) const SINKS: usize = 4;

/// A rule for which rows live.
pub trait Policy: std::fmt::Debug + Send + Sync {
    /// Its name on the command line and in reports.
    fn name(&self) -> &'static str;

    /// The policy and its settings in words that saved files keep, such as `h2o/1 budget=rows:256`: two policies with the
    /// same words keep the same rows. The number after the name is raised when the same settings come to keep others.
    fn key(&self) -> String;

    /// What happens to a block of `rows` prompt tokens that run through `layers` layers together.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] when the policy cannot be applied to this shape, with the numbers.
    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan>;

    /// True when a prompt must run as one block, because rows are ranked by what its last tokens attend to.
    fn one_shot(&self) -> bool {
        true
    }

    /// True when every KV head chooses its own rows, which takes one row table for each.
    fn per_head(&self) -> bool {
        false
    }

    /// The same policy with its budget shared by the layers in proportion to `weights`; `None` when how its layers
    /// share is part of the policy.
    fn weighted(&self, _weights: &[f32]) -> Option<Arc<dyn Policy>> {
        None
    }

    /// How rows are ranked to stay within the budget while a session goes on; absent, they are not bounded.
    fn rank(&self) -> Option<Rank> {
        None
    }

    /// How generated rows are thinned as they leave the recent window.
    fn thinning(&self) -> Option<Thinning> {
        None
    }
}

/// The whole course of one block, before it runs.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockPlan {
    /// One entry a layer.
    pub layers: Vec<LayerRows>,
    /// How rows are ranked; absent when nothing is dropped.
    pub scoring: Option<Scoring>,
}

impl BlockPlan {
    /// Rows that each tier of each layer gains by the block, which `opens` the sequence or does not.
    pub fn gains(&self, tiers: &Tiers, opens: bool) -> Vec<TierRows> {
        let sinks = if opens { self.sinks() } else { 0 };
        self.layers.iter().map(|l| l.split(tiers, sinks)).collect()
    }

    /// The first rows of a sequence that are never dropped.
    pub(crate) fn sinks(&self) -> usize {
        self.scoring.as_ref().map_or(SINKS, |scoring| scoring.sinks)
    }

    /// Every row runs through every layer, and each layer's cache retains its count of them, the last
    /// `protected(count)` among them.
    fn evict(rows: usize, counts: Vec<usize>, protected: impl Fn(usize) -> usize, scoring: Scoring) -> Self {
        let layer = |retain| LayerRows { retain, protected: protected(retain), ..LayerRows::dense(rows) };
        Self { layers: counts.into_iter().map(layer).collect(), scoring: Some(scoring) }
    }
}

/// What one layer does with the rows that enter it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerRows {
    /// Hidden rows that enter the layer.
    pub enter: usize,
    /// Rows of K and V that stay in the layer's cache.
    pub retain: usize,
    /// Hidden rows that go on to the next layer.
    pub propagate: usize,
    /// The last rows of the block, which are never dropped.
    pub protected: usize,
    /// Of the retained rows, how many of the lowest rank are stored in fewer bits where the options have a tail.
    pub tail: usize,
}

impl LayerRows {
    /// Where the retained rows go, of which the first `sinks` are never dropped.
    pub(crate) fn split(&self, tiers: &Tiers, sinks: usize) -> TierRows {
        // Protected rows may be all there are: then the first ones are sinks as well.
        let sinks = if self.drops() { sinks.min(self.retain - self.protected) } else { sinks };
        tiers.split(self.retain, sinks, self.tail)
    }

    /// Every row stays and goes on.
    pub fn dense(rows: usize) -> Self {
        Self { enter: rows, retain: rows, propagate: rows, protected: rows, tail: 0 }
    }

    /// True when the layer must rank its rows.
    pub fn drops(&self) -> bool {
        self.retain < self.enter || self.propagate < self.enter || self.tail > 0
    }
}

/// How the rows of a block are ranked.
#[derive(Debug, Clone, PartialEq)]
pub struct Scoring {
    /// What gives scores. Without any, earlier rows rank higher.
    pub terms: Vec<Term>,
    /// What a row scores altogether.
    pub combine: Combine,
    /// The first rows of the sequence, which are never dropped.
    pub sinks: usize,
}

impl Scoring {
    /// One term, not pooled, over the last `recent` rows: PyramidInfer's.
    fn recent(recent: usize, ramp: Ramp, sinks: usize) -> Self {
        Self::one(Term::received(Measure { recent, ramp, averaged: false, by_value: false }), sinks)
    }

    /// A single term.
    fn one(term: Term, sinks: usize) -> Self {
        Self { terms: vec![term], combine: Combine::Max, sinks }
    }
}

/// One way to score rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Term {
    /// What a row scores by itself.
    pub scorer: Scorer,
    /// What it takes from its neighbours' scores.
    pub pooling: Option<Pooling>,
    /// What the scores are multiplied with before they meet those of other terms.
    pub weight: f32,
}

impl Term {
    /// Attention received, not pooled.
    fn received(measure: Measure) -> Self {
        Self { scorer: Scorer::Received(measure), pooling: None, weight: 1.0 }
    }

    /// The same, pooled.
    fn pooled(self, pooling: Pooling) -> Self {
        Self { pooling: Some(pooling), ..self }
    }
}

/// What a row scores by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scorer {
    /// The attention that it received from queries of its own block.
    Received(Measure),
    /// The attention that it can expect from queries that are distributed as those of its block but stand at the
    /// next positions, weighted by the length of its value.
    Expected,
}

/// Numbers in a policy's key.
fn listed<T: ToString>(numbers: &[T]) -> String {
    numbers.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// Refuses shapes without rows or layers.
fn refuse_nothing(rows: usize, layers: usize) -> Result<()> {
    if rows == 0 || layers == 0 {
        return Err(Error::Invalid(format!("{rows} rows over {layers} layers is nothing to select from")));
    }
    Ok(())
}

/// Keeps every row: the dense cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Policy for Full {
    fn name(&self) -> &'static str {
        "full"
    }

    fn key(&self) -> String {
        "full/1".to_owned()
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        Ok(BlockPlan { layers: vec![LayerRows::dense(rows); layers], scoring: None })
    }

    fn one_shot(&self) -> bool {
        false
    }
}
