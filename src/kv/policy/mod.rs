//! Which rows live: the questions that a policy answers with host arithmetic alone.
//!
//! For a block of prompt rows, and for each layer, a policy says how many rows are *retained* for decode and how
//! many *propagate* as hidden rows to the next layer. Which ones these are is decided on the device, by score;
//! how many, never, so that nothing has to be read back to size a dispatch.

mod kv_only;
mod pyramid;
mod ramp;
mod thinning;
mod tsp;

use crate::Result;
use crate::kernels::score::Ramp;

pub use kv_only::KvOnly;
pub use pyramid::{Preset, Pyramid, Select};
pub use ramp::Budget;
pub use thinning::{ThinStep, Thinning, ThinningState};
pub use tsp::Tsp;

/// A rule for which rows live.
pub trait Policy: std::fmt::Debug + Send + Sync {
    /// Its name on the command line and in reports.
    fn name(&self) -> &'static str;

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

/// What one layer does with the rows that enter it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerRows {
    /// Hidden rows that enter the layer.
    pub enter: usize,
    /// Rows of K and V that stay in the layer's cache.
    pub retain: usize,
    /// Hidden rows that go on to the next layer.
    pub propagate: usize,
}

impl LayerRows {
    /// True when the layer must rank its rows.
    pub fn drops(&self) -> bool {
        self.retain < self.enter || self.propagate < self.enter
    }
}

/// How the rows of a block are ranked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scoring {
    /// The last rows of the block, whose attention decides.
    pub recent: usize,
    /// Their weights, from the oldest to the newest.
    pub ramp: Ramp,
    /// The last rows of the block, which are never dropped.
    pub protected: usize,
    /// The first rows of the sequence, which are never dropped.
    pub sinks: usize,
}

/// Keeps every row: the dense cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Policy for Full {
    fn name(&self) -> &'static str {
        "full"
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        Ok(BlockPlan {
            layers: vec![LayerRows { enter: rows, retain: rows, propagate: rows }; layers],
            scoring: None,
        })
    }

    fn one_shot(&self) -> bool {
        false
    }
}
