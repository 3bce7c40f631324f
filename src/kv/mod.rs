//! The KV cache: which rows live, where, and in what format.

mod cache;
pub mod policy;

use std::sync::Arc;

pub use cache::{Cache, Format};
use policy::Policy;

/// What a session does with its KV rows.
#[derive(Debug, Clone)]
pub struct KvOptions {
    /// Which rows live.
    pub policy: Arc<dyn Policy>,
    /// How they are stored.
    pub format: Format,
}

impl Default for KvOptions {
    /// Every row, in f16.
    fn default() -> Self {
        Self { policy: Arc::new(policy::Full), format: Format::F16 }
    }
}
