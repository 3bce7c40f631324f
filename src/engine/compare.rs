//! How far a cache's predictions are from those of another one, token by token.
//!
//! A reference keeps every logit on the host: a continuation of 512 tokens over a vocabulary of 49,152 takes
//! 100 MB. Logits come back from the device some rows at a time, and the host works on one piece while the device
//! computes the next.

use std::time::Duration;

use web_time::Instant;

use super::session::{KvReport, Session};
use super::work::not_reserved;
use crate::gpu::{Class, Pending};
use crate::model::LOGIT_ROWS;
use crate::{Error, Result};

/// What one cache, usually the full one, predicts for every token of a continuation.
#[derive(Debug, Clone)]
pub struct Reference {
    prefix: Vec<u32>,
    continuation: Vec<u32>,
    /// `[continuation, vocab]`
    logits: Vec<f32>,
    /// The log of each row's sum of exponentials.
    totals: Vec<f64>,
    vocab: usize,
    kv: KvReport,
    prefill: Duration,
}

/// One token of a continuation, under a cache that is compared with a reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    /// The token's loss under the compared cache, in nats.
    pub nll: f64,
    /// KL(reference ‖ compared) of the two distributions that predict the token, in nats.
    pub kl: f64,
    /// Both find the same token most probable.
    pub agrees: bool,
    /// The compared cache finds the continuation's own token most probable.
    pub hits: bool,
}

/// A whole continuation, compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// One entry for each token of the continuation.
    pub tokens: Vec<Divergence>,
    /// The cache at the end of the prefix.
    pub kv: KvReport,
    /// From the start to the logits of the prefix's last token.
    pub prefill: Duration,
}

impl Session {
    /// Runs `prefix` as the policy says, then `continuation`, and keeps what the model predicts for each of its
    /// tokens. The session is empty before and holds both after.
    ///
    /// # Errors
    /// As [`Session::losses`].
    pub async fn reference(&mut self, prefix: &[u32], continuation: &[u32]) -> Result<Reference> {
        let vocab = self.seq.model.config().vocab;
        let mut logits = Vec::new();
        let mut totals = Vec::new();
        let each = |_, row: &[f32]| {
            logits.extend_from_slice(row);
            totals.push(log_sum_exp(row));
        };
        let (kv, prefill) = self.each_row(prefix, continuation, each).await?;
        let (prefix, continuation) = (prefix.to_vec(), continuation.to_vec());
        Ok(Reference { prefix, continuation, logits, totals, vocab, kv, prefill })
    }

    /// Runs the reference's prefix as this session's policy says, then its continuation, and compares every
    /// prediction. The session is empty before and holds both after.
    ///
    /// # Errors
    /// As [`Session::losses`], and [`Error::Invalid`] for a reference of another vocabulary.
    pub async fn compare(&mut self, reference: &Reference) -> Result<Comparison> {
        let vocab = self.seq.model.config().vocab;
        if reference.vocab != vocab {
            let of = reference.vocab;
            return Err(Error::Invalid(format!("a reference over {of} tokens cannot judge {vocab}")));
        }
        let mut tokens = Vec::with_capacity(reference.continuation.len());
        let each = |i, row: &[f32]| tokens.push(reference.judge(i, row));
        let (kv, prefill) = self.each_row(&reference.prefix, &reference.continuation, each).await?;
        Ok(Comparison { tokens, kv, prefill })
    }

    /// Calls `each` with the index of every token of `continuation` and the logits that predict it, in order.
    async fn each_row(
        &mut self,
        prefix: &[u32],
        continuation: &[u32],
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<(KvReport, Duration)> {
        let started = Instant::now();
        self.run_prefix(prefix, continuation)?;
        let vocab = self.seq.model.config().vocab;
        let d = self.desk.decode.as_ref().ok_or_else(not_reserved)?;
        let first = self.desk.rec.read(&d.logits, 0, vocab);
        self.desk.rec.submit();
        let first = first.await?;
        let (kv, prefill) = (self.kv(), started.elapsed());
        let block = self.run_continuation(continuation)?;
        each(0, &first);
        if block.is_some() {
            let rows = continuation.len() - 1;
            self.each_row_of(rows, |i, row| each(i + 1, row)).await?;
        }
        self.seq.model.gpu().check()?;
        Ok((kv, prefill))
    }

    /// Calls `each` with every one of a finished block's `rows` rows and its logits.
    pub(super) async fn each_row_of(
        &mut self,
        rows: usize,
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        let vocab = self.seq.model.config().vocab;
        let logits =
            self.seq.model.gpu().tensor::<f32>(Class::Scratch, "logits", LOGIT_ROWS.min(rows) * vocab);
        let mut pass_on = |first: usize, piece: Vec<f32>| {
            piece.chunks_exact(vocab).enumerate().for_each(|(i, row)| each(first + i, row));
        };
        let mut earlier: Option<(usize, Pending<f32>)> = None;
        for first in (0..rows).step_by(LOGIT_ROWS) {
            let count = LOGIT_ROWS.min(rows - first);
            let s = self.desk.prefill.as_ref().ok_or_else(not_reserved)?;
            self.seq.model.block_logits(&mut self.desk.rec, s, (first, count), &logits)?;
            let piece = self.desk.rec.read(&logits, 0, count * vocab);
            self.desk.rec.submit();
            if let Some((first, piece)) = earlier.replace((first, piece)) {
                pass_on(first, piece.await?);
            }
        }
        if let Some((first, piece)) = earlier {
            pass_on(first, piece.await?);
        }
        Ok(())
    }
}

impl Reference {
    /// The tokens whose predictions it keeps.
    pub fn continuation(&self) -> &[u32] {
        &self.continuation
    }

    /// The reference compared with itself: its own losses, and no divergence.
    pub fn itself(&self) -> Comparison {
        let tokens = (0..self.continuation.len()).map(|i| self.judge(i, self.row(i))).collect();
        Comparison { tokens, kv: self.kv.clone(), prefill: self.prefill }
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.logits[i * self.vocab..][..self.vocab]
    }

    /// Compares the logits that predict token `i`.
    pub(super) fn judge(&self, i: usize, found: &[f32]) -> Divergence {
        let (wanted, total) = (self.row(i), self.totals[i]);
        let found_total = log_sum_exp(found);
        let best = most_probable(found);
        let token = self.continuation[i] as usize;
        // Σ p ln(p / q), with both totals taken out of the sum: equal logits give exactly zero.
        let terms = wanted.iter().zip(found).map(|(&wanted, &found)| {
            let p = (f64::from(wanted) - total).exp();
            // A token that the reference excludes adds nothing, however probable it became.
            if p == 0.0 { 0.0 } else { p * (f64::from(wanted) - f64::from(found)) }
        });
        Divergence {
            nll: found_total - f64::from(found[token]),
            kl: terms.sum::<f64>() + (found_total - total),
            agrees: best == most_probable(wanted),
            hits: best == token,
        }
    }
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum::<f64>().ln()
}

/// The index of the largest logit, the lowest one of equals.
fn most_probable(logits: &[f32]) -> usize {
    let larger = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
    (0..logits.len()).fold(0, larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits whose softmax is `p`, up to a constant that softmax ignores.
    fn logits(p: [f32; 3], constant: f32) -> Vec<f32> {
        p.map(|p| p.ln() + constant).to_vec()
    }

    /// A reference for one token.
    fn reference(token: u32, logits: Vec<f32>) -> Reference {
        Reference {
            prefix: vec![0],
            continuation: vec![token],
            totals: vec![log_sum_exp(&logits)],
            vocab: logits.len(),
            logits,
            kv: KvReport { bytes: 0, bytes_full_f16: 0, rows_per_layer: Vec::new(), host: None },
            prefill: Duration::ZERO,
        }
    }

    #[test]
    fn divergences_are_those_of_the_formula() {
        let wanted = logits([0.5, 0.25, 0.25], 3.0);
        let reference = reference(1, wanted.clone());
        let same = reference.judge(0, &wanted);
        assert_eq!((same.kl, same.agrees, same.hits), (0.0, true, false));

        let found = reference.judge(0, &logits([0.25, 0.625, 0.125], -40.0));
        let kl = 0.5 * 2f64.ln() + 0.25 * (0.25f64 / 0.625).ln() + 0.25 * 2f64.ln();
        assert!((found.kl - kl).abs() < 1e-6, "{} is not {kl}", found.kl);
        assert!((found.nll + 0.625f64.ln()).abs() < 1e-6, "{}", found.nll);
        assert_eq!((found.agrees, found.hits), (false, true));
    }

    #[test]
    fn excluded_tokens_add_nothing_and_damaged_logits_show() {
        let reference = reference(0, vec![0.0, f32::NEG_INFINITY]);
        assert!((reference.judge(0, &[1.0, 1.0]).kl - 2f64.ln()).abs() < 1e-12);
        assert_eq!(reference.judge(0, &[1.0, f32::NEG_INFINITY]).kl, 0.0);
        assert_eq!(reference.judge(0, &[f32::NEG_INFINITY, 1.0]).kl, f64::INFINITY);
        assert!(reference.judge(0, &[f32::NAN, 1.0]).kl.is_nan());
    }
}
