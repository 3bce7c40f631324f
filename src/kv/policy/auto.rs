//! Policy and row formats from one number: at most this share of the bytes of a full f16 cache.
//!
//! Rows in fewer bits cost far less than rows dropped, so precision goes first: 8-bit rows, then 4-bit rows, and
//! only below what those take are rows dropped, the ones that [`Joint`] ranks lowest.

use std::sync::Arc;

use super::{BlockPlan, Budget, Full, Joint, Policy, Rank};
use crate::kernels::kv_code::KvBits;
use crate::kv::{Format, KvOptions};
use crate::{Error, Result};

/// Bytes of an 8-bit and of a 4-bit row, scales included, as shares of an f16 row's.
const EIGHT: f32 = 8.25 / 16.0;
const FOUR: f32 = 4.25 / 16.0;

/// Blocks of at most this many rows keep them all: dropping would save little and cost much.
const SHORT: usize = 256;

/// [`Joint`], but for short prompts.
#[derive(Debug, Clone, PartialEq)]
struct Auto {
    joint: Joint,
}

impl Policy for Auto {
    fn name(&self) -> &'static str {
        "auto"
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        if rows <= SHORT { Full.plan(rows, layers) } else { self.joint.plan(rows, layers) }
    }

    fn rank(&self) -> Option<Rank> {
        self.joint.rank()
    }

    fn per_head(&self) -> bool {
        self.joint.per_head()
    }
}

impl KvOptions {
    /// A cache of at most `share` of the bytes of a full f16 one, for prompts of more than 256 tokens.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a share that is not above 0 and at most 1.
    pub fn auto(share: f32) -> Result<Self> {
        if !(share > 0.0 && share <= 1.0) {
            return Err(Error::Invalid(format!("a share of {share} is not above 0 and at most 1; try 0.2")));
        }
        let bits = match share {
            s if s >= 1.0 => KvBits::Sixteen,
            s if s >= EIGHT => KvBits::Eight,
            _ => KvBits::Four,
        };
        let policy: Arc<dyn Policy> = if share >= FOUR {
            Arc::new(Full)
        } else {
            Arc::new(Auto { joint: Joint::new(Budget::Share(share / FOUR)) })
        };
        Ok(Self { policy, format: Format::both(bits), tail: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::kv_row::Heads;

    #[test]
    fn the_share_is_met_and_precision_goes_first() {
        let heads = Heads { query: 9, kv: 3, dim: 64 };
        for (share, bits) in [(1.0, 16), (0.6, 8), (0.5, 4), (0.3125, 4), (0.2, 4), (0.08, 4)] {
            let options = KvOptions::auto(share).unwrap();
            assert_eq!(options.format.k.bits(), bits, "{share}");
            let rows: usize = options.policy.plan(2000, 30).unwrap().layers.iter().map(|l| l.retain).sum();
            let bytes = rows as u64 * options.format.bytes_per_token(heads);
            let full = 30 * 2000 * Format::F16.bytes_per_token(heads);
            assert!(bytes as f32 <= share * full as f32 * 1.001, "{share}: {bytes} of {full}");
        }
    }

    #[test]
    fn short_prompts_stay_whole_and_absurd_shares_are_refused() {
        let plan = KvOptions::auto(0.08).unwrap().policy.plan(256, 30).unwrap();
        assert!(plan.layers.iter().all(|l| l.retain == 256));
        for share in [0.0, -1.0, 1.5, f32::NAN] {
            assert!(KvOptions::auto(share).is_err(), "{share}");
        }
    }
}
