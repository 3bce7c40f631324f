//! A model's layer profile, measured: how much nearer to the full cache its predictions come with a layer's rows.
//!
//! Under policy [`Joint`] every hidden row runs through every layer, so what one layer's cache keeps does not depend
//! on what the others do. Three prefills are enough for all measurements: one with the usual rows in every layer, one
//! with half and one with twice as many. Each measurement takes one layer's rows from one of the latter two.

use std::sync::Arc;

use super::compare::Reference;
use super::session::{Session, SessionOptions};
use crate::kv::policy::{Budget, Joint};
use crate::kv::{KvOptions, Profile};
use crate::model::Model;
use crate::{Error, Result};

/// The usual rows are the prompt's divided by this.
const DIVISOR: usize = 2;
/// Shorter prompts have little more in a halved layer than the rows that are always kept.
const LEAST_PREFIX: usize = 512;

/// A piece of text to measure on: the tokens whose rows are dropped, and those whose predictions are compared.
pub type Window = (Vec<u32>, Vec<u32>);

impl Profile {
    /// Measures the profile of `model` over `windows`, each a prefix of at least 512 tokens and a continuation of
    /// at least 2, with f16 rows. `text` says where the windows are from. `progress` is told how many measurements
    /// of how many are done.
    ///
    /// # Errors
    /// [`Error::Invalid`] without windows, for windows that are too short, or when they show nothing;
    /// [`Error::ContextFull`], [`Error::DoesNotFit`], [`Error::DeviceLost`].
    pub async fn measure(
        model: &Arc<Model>,
        windows: &[Window],
        text: String,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Self> {
        let config = model.config();
        let shortest = |length: fn(&Window) -> usize| windows.iter().map(length).min().unwrap_or(0);
        let (prefix, continuation) = (shortest(|w| w.0.len()), shortest(|w| w.1.len()));
        if prefix < LEAST_PREFIX || continuation < 2 {
            return Err(Error::Invalid(format!(
                "a layer profile needs windows of at least {LEAST_PREFIX} tokens and 2 after them, not {prefix} and \
                 {continuation}"
            )));
        }
        let (total, mut done) = (2 * windows.len() * config.kv_layers(), 0);
        let mut gains = vec![0.0; config.kv_layers()];
        progress(0, total);
        for window in windows {
            let mut trial = Trial::new(model, window).await?;
            for (layer, gain) in gains.iter_mut().enumerate() {
                let step = || {
                    done += 1;
                    progress(done, total);
                };
                *gain += trial.gain(layer, step).await?;
            }
        }
        let measured = format!("{} x {prefix} + {continuation} tokens of {text}", windows.len());
        Self::from_gains(&config.name, &config.fingerprint, measured, &gains)
    }
}

/// One window, its prefix in every cache that there is to measure.
struct Trial {
    reference: Reference,
    usual: Session,
    half: Session,
    double: Session,
}

impl Trial {
    async fn new(model: &Arc<Model>, (prefix, continuation): &Window) -> Result<Self> {
        let session = |kv: KvOptions| {
            let context = Some(prefix.len() + continuation.len());
            Session::new(model, &SessionOptions { kv, context })
        };
        let compressed = |rows: usize| {
            let policy = Joint::new(Budget::PerLayer(vec![rows; model.config().kv_layers()]));
            let mut session = session(KvOptions { policy: Arc::new(policy), ..KvOptions::full() })?;
            session.run_prefix(prefix, continuation)?;
            session.desk.rec.submit();
            Ok::<_, Error>(session)
        };
        let reference = session(KvOptions::full())?.reference(prefix, continuation).await?;
        let rows = prefix.len() / DIVISOR;
        let (half, double) = (compressed(rows / 2)?, compressed(rows * 2)?);
        Ok(Self { reference, usual: compressed(rows)?, half, double })
    }

    /// What halving a layer's rows costs more than doubling them, in nats; `step` is told after each of the two.
    async fn gain(&mut self, layer: usize, mut step: impl FnMut()) -> Result<f64> {
        let mut gain = 0.0;
        for (other, sign) in [(&mut self.half, 1.0), (&mut self.double, -1.0)] {
            self.usual.seq.cache.swap_layer(&mut other.seq.cache, layer);
            gain += sign * self.usual.divergence(&self.reference).await?;
            self.usual.seq.cache.swap_layer(&mut other.seq.cache, layer);
            step();
        }
        Ok(gain)
    }
}

impl Session {
    /// The mean divergence, in nats, of what follows the reference's first token. The prefix has run before, and
    /// is all that the session holds after.
    async fn divergence(&mut self, reference: &Reference) -> Result<f64> {
        let (before, continuation) = (self.seq.tokens.len(), reference.continuation());
        let rows = continuation.len() - 1;
        let mut sum = 0.0;
        // The first token is predicted by the prefill, which has dropped nothing yet.
        if self.run_continuation(continuation)?.is_some() {
            self.each_row_of(rows, |i, row| sum += reference.judge(i + 1, row).kl).await?;
        }
        self.seq.model.gpu().check()?;
        self.seq.cache.truncate(rows);
        self.seq.tokens.truncate(before);
        self.seq.cached = before;
        Ok(sum / rows as f64)
    }
}
