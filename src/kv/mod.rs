//! The KV cache: which rows live, where, and in what format.

mod cache;
pub mod policy;
mod profile;

use std::sync::Arc;

pub use cache::{Cache, Format};
use policy::Policy;
pub use profile::Profile;

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

impl KvOptions {
    /// The same, with the budget shared by the layers as the model's profile says, where the policy asks for that.
    pub fn profiled(&self, profile: Option<&Profile>) -> Self {
        let weighted = profile.and_then(|profile| self.policy.weighted(profile.weights()));
        let mut options = self.clone();
        if let Some(policy) = weighted {
            options.policy = policy;
        }
        options
    }
}
