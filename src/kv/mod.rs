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

    /// Policy, budget, profile and formats in words that saved files keep: rows of one cache serve another one with the
    /// same words. `cache/1` becomes `cache/2` if the same words come to mean other rows.
    pub fn key(&self) -> String {
        let format = |Format { k, v }: Format| format!("{}+{}", k.bits(), v.bits());
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
        format!(
            "cache/1 policy=[{}] rows={} tail={} merge={} offload={}",
            self.policy.key(),
            format(self.format),
            or_none(self.tail.map(format)),
            self.merge,
            or_none(self.offload.map(|rows| rows.to_string()))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::policy::{
        Budget, Demote, Expected, H2o, Joint, KvOnly, Preset, Pyramid, PyramidKv, SnapKv, Tsp,
    };
    use super::*;
    use crate::kernels::kv_code::KvBits;

    /// Saved conversations and measurements name their cache by these words.
    #[test]
    fn keys_stay_what_they_are() {
        let key = |options: KvOptions| options.key();
        let four = Format::both(KvBits::Four);
        let rows = || Budget::Rows(48);
        for (options, expected) in [
            (KvOptions::full(), "cache/1 policy=[full/1] rows=16+16 tail=none merge=false offload=none"),
            (
                KvOptions::within(0.2, true),
                "cache/1 policy=[auto/1 share=0.2 saver=true] rows=4+4 tail=3+3 merge=false offload=none",
            ),
            (
                KvOptions { merge: true, ..KvOptions::new(H2o::new(Budget::Share(0.25)), Format::F16) },
                "cache/1 policy=[h2o/1 budget=share:0.25] rows=16+16 tail=none merge=true offload=none",
            ),
            (
                KvOptions {
                    tail: Some(Format { k: KvBits::Two, v: KvBits::Three }),
                    ..KvOptions::new(Demote::new(Arc::new(SnapKv::new(rows()))), four)
                },
                "cache/1 policy=[demote/1 [snapkv/1 budget=rows:48 pooling=max:7]] rows=4+4 tail=2+3 merge=false offload=none",
            ),
            (
                KvOptions { offload: Some(64), ..KvOptions::new(KvOnly::per_head(rows()), four) },
                "cache/1 policy=[kv-only/1 budget=rows:48 per-head=true] rows=4+4 tail=none merge=false offload=64",
            ),
            (
                KvOptions::new(Pyramid::preset(Preset::B7), Format::F16),
                "cache/1 policy=[pyramid/1 decay=0.9 interval=1 recent-ratio=0.2] rows=16+16 tail=none merge=false \
                 offload=none",
            ),
            (
                KvOptions::new(Pyramid::with_budget(Budget::PerLayer(vec![9, 7])), Format::F16),
                "cache/1 policy=[pyramid/1 budget=layers:9,7 select=own recent=64 sinks=4 recent-ratio=0.2] rows=16+16 \
                 tail=none merge=false offload=none",
            ),
        ] {
            assert_eq!(key(options), expected);
        }
        let policies: [Arc<dyn Policy>; 6] = [
            Arc::new(Joint::new(rows())),
            Arc::new(Joint::new(rows()).with_expected()),
            Arc::new(Expected::new(rows())),
            Arc::new(PyramidKv::new(rows())),
            Arc::new(Tsp::new(rows())),
            Arc::new(Tsp::new(Budget::Weighted(Box::new(rows()), vec![1.0, 0.5]))),
        ];
        let mut keys: Vec<String> = policies.iter().map(|policy| policy.key()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), policies.len());
    }
}
