//! Policy and row formats from one number: at most this share of the bytes of a full f16 cache.
//!
//! Rows in fewer bits cost far less than rows dropped, so precision goes first: 8-bit rows, then 4-bit rows. Below
//! what those take, the rows that [`Joint`](super::Joint) ranks highest stay in 4 bits, the next ones in 3, for as
//! many bytes again, and the rest is dropped.

use std::sync::Arc;

use super::ramp::proportional;
use super::snap_kv::WINDOW;
use super::{BlockPlan, Full, Joint, LayerRows, Policy, Rank, SINKS, listed, refuse_nothing};
use crate::kernels::kv_code::KvBits;
use crate::kv::{Format, KvOptions, Share};
use crate::{Error, Result};

/// What a row takes, its step included, in quarters of a bit a value; heads of 64 values are the smallest.
const SIXTEEN: usize = 64;
const EIGHT: usize = 33;
const FOUR: usize = 17;
const THREE: usize = 13;

/// What a layer stores beside rows of 4 and 3 bits: four more bits for each value of the first tokens, and the
/// centre of its keys, in f32.
const BESIDE: usize = SINKS * (EIGHT - FOUR) + SIXTEEN;

/// The share of a prompt's rows that the saver lets run through the last third of the layers.
const SAVED: f32 = 0.6;

/// Blocks of at most this many rows keep them all: dropping would save little and cost much.
const SHORT: usize = 512;

/// Rows of 4 and of 3 bits, but for short prompts.
#[derive(Debug, Clone, PartialEq)]
struct Auto {
    /// Bytes, as a share of a full f16 cache's.
    share: f32,
    /// How the layers share them; absent, equally.
    weights: Option<Vec<f32>>,
    /// Deep layers run on fewer rows.
    saver: bool,
}

/// The same with rows of 16 bits.
#[derive(Debug, Clone, PartialEq)]
struct Halves(Auto);

impl Auto {
    /// The plan for a prompt of `rows` tokens, where a layer stores `beside` besides rows of at least `least`, all in
    /// quarters of a bit a value, and `split` says how many rows of each format its bytes hold.
    fn planned(
        &self,
        rows: usize,
        layers: usize,
        (beside, least): (usize, usize),
        split: impl Fn(usize, usize) -> (usize, usize),
    ) -> Result<BlockPlan> {
        refuse_nothing(rows, layers)?;
        if rows <= SHORT {
            return Full.plan(rows, layers);
        }
        let even = vec![1.0; layers];
        let weights = self.weights.as_deref().unwrap_or(&even);
        let mean = f64::from(self.share) * (rows * SIXTEEN) as f64 - beside as f64;
        let bytes = proportional(mean, weights, (WINDOW + SINKS) * least, rows * least);
        let (turn, saved) = (layers * 2 / 3, (rows as f32 * SAVED).ceil() as usize);
        let layer = |(l, bytes)| {
            let (before, after) = (self.saver && l > turn, self.saver && l >= turn);
            let enter = if before { saved } else { rows };
            let (main, tail) = split(bytes, enter);
            let propagate = if after { saved } else { rows };
            LayerRows { enter, retain: main + tail, propagate, protected: WINDOW, tail }
        };
        let layers = bytes.into_iter().enumerate().map(layer).collect();
        Ok(BlockPlan { layers, scoring: Some(Joint::scoring(rows, false)) })
    }

    /// Rows of 4 and of 3 bits that fit into a layer's bytes, half of which each gets unless there are too few rows.
    fn split(bytes: usize, rows: usize) -> (usize, usize) {
        let main = (bytes / 2 / FOUR).max(WINDOW + SINKS).min(rows);
        let tail = bytes.saturating_sub(main * FOUR) / THREE;
        if main + tail <= rows {
            return (main, tail);
        }
        let main = (bytes.saturating_sub(rows * THREE) / (FOUR - THREE)).clamp(main, rows);
        (main, rows - main)
    }
}

impl Policy for Auto {
    fn name(&self) -> &'static str {
        "auto"
    }

    fn key(&self) -> String {
        let weights =
            self.weights.as_deref().map_or(String::new(), |weights| format!(" weights={}", listed(weights)));
        format!("auto/1 share={} saver={}{weights}", self.share, self.saver)
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        self.planned(rows, layers, (BESIDE, FOUR), Self::split)
    }

    fn rank(&self) -> Option<Rank> {
        Some(Rank::MEAN)
    }

    fn per_head(&self) -> bool {
        true
    }

    fn weighted(&self, weights: &[f32]) -> Option<Arc<dyn Policy>> {
        Some(Arc::new(Self { weights: Some(weights.to_vec()), ..self.clone() }))
    }
}

impl Policy for Halves {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn key(&self) -> String {
        format!("{} halves", self.0.key())
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        let split = |bytes: usize, rows: usize| ((bytes / SIXTEEN).max(WINDOW + SINKS).min(rows), 0);
        self.0.planned(rows, layers, (0, SIXTEEN), split)
    }

    fn rank(&self) -> Option<Rank> {
        self.0.rank()
    }

    fn per_head(&self) -> bool {
        self.0.per_head()
    }

    fn weighted(&self, weights: &[f32]) -> Option<Arc<dyn Policy>> {
        Some(Arc::new(Self(Auto { weights: Some(weights.to_vec()), ..self.0.clone() })))
    }
}

impl KvOptions {
    /// A cache of at most `share` of the bytes of a full f16 one, for prompts of more than 512 tokens.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a share that is not above 0 and at most 1.
    pub fn auto(share: f32) -> Result<Self> {
        if !(share > 0.0 && share <= 1.0) {
            return Err(Error::Invalid(format!("a share of {share} is not above 0 and at most 1; try 0.2")));
        }
        Ok(Self::within(share, false))
    }

    /// The same for a share that makes sense; with `saver`, the last third of the layers runs on three fifths of a
    /// prompt's rows, which are chosen where it begins.
    pub(crate) fn within(share: f32, saver: bool) -> Self {
        let least = |quarters: usize| quarters as f32 / SIXTEEN as f32;
        let (policy, bits): (Arc<dyn Policy>, _) = match share {
            s if s >= 1.0 => (Arc::new(Full), KvBits::Sixteen),
            s if s >= least(EIGHT) => (Arc::new(Full), KvBits::Eight),
            s if s >= least(FOUR) * 1.01 => (Arc::new(Full), KvBits::Four),
            share => (Arc::new(Auto { share, weights: None, saver }), KvBits::Four),
        };
        let tail = policy.per_head().then_some(Format::both(KvBits::Three));
        let share = Some(Share { bytes: share, saver });
        Self { policy, format: Format::both(bits), tail, share, ..Self::full() }
    }

    /// The same in rows of 16 bits alone, fewer of them.
    pub(crate) fn in_halves(share: Share) -> Self {
        let auto = Auto { share: share.bytes, weights: None, saver: share.saver };
        Self { policy: Arc::new(Halves(auto)), share: Some(share), ..Self::full() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::kv_row::Heads;
    use crate::kv::Tiers;

    #[test]
    fn the_share_is_met_and_precision_goes_first() {
        let heads = Heads { query: 9, kv: 3, dim: 64 };
        let weights: Vec<f32> = (0..30).map(|l| 0.5 + (l * 7 % 30) as f32 / 29.0).collect();
        for (share, bits) in [(1.0, 16), (0.6, 8), (0.5, 4), (0.27, 4), (0.26, 4), (0.2, 4), (0.08, 4)] {
            let options = KvOptions::auto(share).unwrap();
            assert_eq!(options.format.k.bits(), bits, "{share}");
            let tiers = Tiers::new(&options);
            let full = 30 * 2000 * Format::F16.bytes_per_token(heads);
            let weighted = options.policy.weighted(&weights);
            for policy in [Some(options.policy.clone()), weighted].into_iter().flatten() {
                let gains = policy.plan(2000, 30).unwrap().gains(&tiers, true);
                let centres = if bits < 16 { 30 * 4 * heads.kv_width() as u64 } else { 0 };
                let bytes = centres + gains.iter().map(|&rows| tiers.bytes(rows, heads)).sum::<u64>();
                let used = bytes as f32 / full as f32;
                assert!(used <= share * 1.001, "{share}: {used}");
                assert!(share > 0.26 || used > share * 0.99, "{share}: {used} wastes bytes");
                assert!(gains.iter().all(|rows| rows.total() <= 2000), "{share}");
            }
        }
    }

    #[test]
    fn heads_without_coarse_rows_get_fewer_rows_of_halves() {
        let coarse = KvOptions::default();
        for (dim, format) in
            [(64, KvBits::Four), (48, KvBits::Sixteen), (8, KvBits::Sixteen), (80, KvBits::Sixteen)]
        {
            let heads = Heads { query: 6, kv: 3, dim };
            let kv = coarse.suited(heads, None);
            assert_eq!((kv.format.k, kv.policy.name()), (format, "auto"), "{dim}");
            let gains = kv.policy.plan(2000, 4).unwrap().gains(&Tiers::new(&kv), true);
            let bytes: u64 = gains.iter().map(|&rows| Tiers::new(&kv).bytes(rows, heads)).sum();
            let full = 4 * 2000 * Format::F16.bytes_per_token(heads);
            assert!((0.19..=0.2).contains(&(bytes as f64 / full as f64)), "{dim}: {bytes} of {full}");
            assert_eq!(kv.policy.plan(512, 4).unwrap().layers[0].retain, 512);
        }
        // Eight bits that somebody asked for are refused elsewhere, not exchanged.
        let asked = KvOptions::new(Full, Format::both(KvBits::Eight));
        assert_eq!(asked.suited(Heads { query: 6, kv: 3, dim: 48 }, None).format.k, KvBits::Eight);
    }

    #[test]
    fn layers_that_can_keep_every_row_keep_more_of_them_in_four_bits() {
        let rows = 1000;
        for bytes in [36 * FOUR, 5000, 13_000, 15_000, 16_999, 17_000] {
            let (main, tail) = Auto::split(bytes, rows);
            assert!(main * FOUR + tail * THREE <= bytes && main + tail <= rows, "{bytes}: {main} and {tail}");
            assert!(bytes - main * FOUR - tail * THREE < FOUR, "{bytes}: {main} and {tail} waste");
        }
        assert_eq!(Auto::split(17_000, rows), (1000, 0));
        assert_eq!(Auto::split(15_000, rows), (500, 500));
    }

    #[test]
    fn short_prompts_stay_whole_and_absurd_shares_are_refused() {
        let plan = KvOptions::auto(0.08).unwrap().policy.plan(512, 30).unwrap();
        assert!(plan.layers.iter().all(|l| l.retain == 512));
        for share in [0.0, -1.0, 1.5, f32::NAN] {
            assert!(KvOptions::auto(share).is_err(), "{share}");
        }
    }
}
