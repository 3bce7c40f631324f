//! How the tokens of a batch compare with those of its sequences alone, and which differences rounding explains.
//!
//! A batch's products round otherwise than those of one sequence, so that a near tie may turn. How near it was is seen
//! where a sequence's tokens differ for the first time, in the logits that it has alone: the **margin** is how far the
//! batch's token lies below the best one there, as a share of the largest logit.
//!
//! Errors pile up at random: where each of `n` products has a relative error ε, the last row has about `e = ε √n`. With a
//! largest logit of four standard deviations, the difference of two logits then has an error of `√2 e / 4` of the largest
//! one. Twice `e` is more than five times that, and what rounding explains.

use benben::{KvBits, KvOptions, Model};
use serde::Serialize;

/// Relative error of activations that are rounded to halves.
const HALVES: f64 = 1.0 / 4096.0;
/// The same where they are rounded to bytes.
const BYTES: f64 = 4e-3;
/// Relative error of what attention makes of rows of few bits, or of a selection of rows: some values get the
/// neighbouring code, some rows the place of others that rank almost as high.
const ROWS: f64 = 1.0 / 128.0;

/// How the tokens of sequences compare with those of the same sequences alone, greedily chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Agreement {
    pub sequences: usize,
    /// Sequences whose tokens are the same to the end.
    pub identical: usize,
    /// Sequences of which the first other token was a near tie.
    pub near_ties: usize,
    /// Sequences of which it was none: something is wrong.
    pub wrong: usize,
    /// The largest margin of a first other token.
    pub largest_margin: f64,
    /// The largest one that rounding explains.
    pub explained_margin: f64,
    /// Tokens before the first that differs, as a share of all.
    pub share_before_difference: f64,
}

impl Agreement {
    /// Of no sequence yet, where rounding explains margins up to this one.
    pub fn within(explained_margin: f64) -> Self {
        Self { explained_margin, ..Self::default() }
    }

    /// Counts a sequence whose tokens are the same alone and together.
    pub fn add_identical(&mut self) {
        self.identical += 1;
        self.add(1.0);
    }

    /// Counts a sequence whose tokens are the same for this share; absent, one of the answers is shorter.
    pub fn add_difference(&mut self, share: f64, margin: Option<f64>) {
        match margin {
            Some(margin) if margin <= self.explained_margin => self.near_ties += 1,
            _ => self.wrong += 1,
        }
        self.largest_margin = self.largest_margin.max(margin.unwrap_or(0.0));
        self.add(share);
    }

    fn add(&mut self, share: f64) {
        let before = self.share_before_difference * self.sequences as f64;
        self.sequences += 1;
        self.share_before_difference = (before + share) / self.sequences as f64;
    }
}

/// The largest margin that rounding explains.
pub fn explained_margin(model: &Model, kv: &KvOptions) -> f64 {
    let layers = model.config().layers as f64;
    let activations = if model.gpu().tuning().planes == 1 { BYTES } else { HALVES };
    let exact = kv.policy.name() == "full" && [kv.format.k, kv.format.v] == [KvBits::Sixteen; 2];
    let rows = if exact { 0.0 } else { ROWS };
    // Four products a layer, and one attention.
    2.0 * ((4.0 * layers).sqrt() * activations + layers.sqrt() * rows)
}

/// How far a token lies below the best one, as a share of the largest magnitude.
pub fn margin(logits: &[f32], token: u32) -> f64 {
    let (best, largest) = logits
        .iter()
        .fold((f32::NEG_INFINITY, 0.0f32), |(best, large), &x| (best.max(x), large.max(x.abs())));
    let own = logits.get(token as usize).copied().unwrap_or(f32::NAN);
    f64::from(best - own) / f64::from(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_near_ties_or_wrong() {
        let mut agreement = Agreement::within(0.01);
        agreement.add_identical();
        agreement.add_difference(0.5, Some(0.004));
        assert_eq!((agreement.identical, agreement.near_ties, agreement.wrong), (1, 1, 0));
        agreement.add_difference(0.0, Some(0.02));
        agreement.add_difference(0.5, Some(f64::NAN));
        agreement.add_difference(0.5, None);
        assert_eq!((agreement.sequences, agreement.near_ties, agreement.wrong), (5, 1, 3));
        assert_eq!((agreement.largest_margin, agreement.share_before_difference), (0.02, 0.5));
    }

    #[test]
    fn margins_are_shares_of_the_largest_logit() {
        let logits = [1.0, -4.0, 2.0, 1.5];
        assert_eq!([2, 3, 1].map(|token| margin(&logits, token)), [0.0, 0.125, 1.5]);
        assert!(margin(&logits, 4).is_nan() && margin(&[f32::NAN; 2], 0).is_nan());
    }
}
