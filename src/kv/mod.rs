//! The KV cache: which rows live, where, and in what format.
//!
//! ```text
//! policy/       how many rows live
//! tier.rs       formats of a layer's rows, and how many rows get which
//! cache.rs      the rows of a sequence
//! memory.rs     what its pools are taken from
//! share.rs      rows that several sequences read
//! prefixes.rs   rows that later sequences may begin with
//! packed.rs     rows that leave the device for a file
//! random.rs     rows that no prompt left, for measurements
//! host.rs       rows that leave it to be called back
//! away.rs       what one layer has of them
//! ```

mod away;
mod cache;
mod host;
mod memory;
mod packed;
pub mod policy;
mod prefixes;
mod profile;
mod random;
mod share;
mod tier;

use std::fmt;
use std::sync::Arc;

pub use crate::kernels::kv_row::Format;
use crate::kernels::kv_row::Heads;
pub use cache::Cache;
pub(crate) use cache::capacity;
pub use host::HostReport;
pub use memory::Memory;
pub use packed::{PackedLayer, PackedTier};
use policy::Policy;
pub use prefixes::{LEAST_COMMON, Prefixes};
pub use profile::Profile;
pub use share::{MOST_TIERS, SharedRows};
pub use tier::{Role, Tier, TierRows, Tiers};

/// A share of the bytes of a full f16 cache, from which policy and row formats follow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Above 0 and at most 1.
    pub bytes: f32,
    /// The last third of the layers runs on three fifths of a prompt's rows.
    pub saver: bool,
}

/// What a session does with its KV rows.
#[derive(Clone)]
pub struct KvOptions {
    /// Which rows live.
    pub policy: Arc<dyn Policy>,
    /// How they are stored.
    pub format: Format,
    /// How rows are stored that the policy ranks below the others and yet keeps.
    pub tail: Option<Format>,
    /// Rows that the policy drops from a prompt are merged into rows that it keeps.
    pub merge: bool,
    /// Rows that prefill drops go to the host, and at most so many of each layer come back at once, at least 16;
    /// absent, they are gone.
    pub offload: Option<usize>,
    /// What policy and formats were chosen from; rows of 16 bits make it up on heads that have no others.
    pub share: Option<Share>,
}

/// What becomes of rows, and not how that was chosen: conversations with the same rows go on with each other's.
impl fmt::Debug for KvOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, format, tail, merge, offload, share: _ } = self;
        let mut shown = f.debug_struct("KvOptions");
        shown.field("policy", policy).field("format", format).field("tail", tail);
        shown.field("merge", merge).field("offload", offload).finish()
    }
}

impl KvOptions {
    /// A policy whose rows are all stored alike.
    pub fn new(policy: impl Policy + 'static, format: Format) -> Self {
        Self { policy: Arc::new(policy), format, tail: None, merge: false, offload: None, share: None }
    }
}

impl Default for KvOptions {
    /// What [`KvOptions::auto`] makes of a fifth of a full f16 cache's bytes.
    fn default() -> Self {
        Self::within(0.2, false)
    }
}

impl KvOptions {
    /// Every row, in f16.
    pub fn full() -> Self {
        Self::new(policy::Full, Format::F16)
    }

    /// The same for a model with these heads: with rows that they can have, where a share chose them, and with the budget
    /// shared by the layers as the model's profile says, where the policy asks for that.
    pub fn suited(&self, heads: Heads, profile: Option<&Profile>) -> Self {
        let formats = Role::ALL.into_iter().filter_map(|role| Tiers::new(self).format(role));
        let fits = formats.into_iter().all(|format| heads.dim.is_multiple_of(format.multiple()));
        let suited = match self.share.filter(|_| !fits) {
            Some(share) => Self { merge: self.merge, offload: self.offload, ..Self::in_halves(share) },
            None => self.clone(),
        };
        let weighted = profile.and_then(|profile| suited.policy.weighted(profile.weights()));
        Self { policy: weighted.unwrap_or_else(|| suited.policy.clone()), ..suited }
    }
}
