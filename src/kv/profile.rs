//! How much each layer of a model gains from rows: measured once, kept beside the model or in this crate.
//!
//! Where a layer's divergence from the full cache falls as one over its rows, `c / n`, the spread of a budget that
//! makes the sum over the layers least is `n` in proportion to the square root of `c`; and `c` is, up to a factor
//! that all layers share, what halving the layer's rows costs more than doubling them.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The profiles of known models.
const KNOWN: [&str; 1] = [include_str!("profiles/smollm2-135m-instruct.json")];

/// No layer gets less than this part of the mean: a gain that small is within the noise of its measurement.
const FLOOR: f64 = 0.5;

/// Layers' weights for a KV budget, and which model they belong to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The model's name, for people.
    model: String,
    /// What tells the model from others, in hexadecimal digits.
    fingerprint: String,
    /// How it was measured, for people.
    measured: String,
    /// One for each layer, with mean 1.
    weights: Vec<f32>,
}

impl Profile {
    /// The profile of a model whose layers' divergences fall by `gains` from half of their rows to twice as many.
    ///
    /// # Errors
    /// [`Error::Invalid`] for gains that say nothing: none above 0, or not finite.
    pub fn from_gains(model: &str, fingerprint: &str, measured: String, gains: &[f64]) -> Result<Self> {
        let roots: Vec<f64> = gains.iter().map(|gain| gain.max(0.0).sqrt()).collect();
        let mean = mean(&roots);
        if !(mean > 0.0 && mean.is_finite()) {
            return Err(Error::Invalid(
                "no layer gained anything from more rows; measure more, or longer, windows".to_owned(),
            ));
        }
        let floored = roots.iter().map(|root| (root / mean).max(FLOOR) as f32).collect();
        let (model, fingerprint) = (model.to_owned(), fingerprint.to_owned());
        Ok(Self { model, fingerprint, measured, weights: floored }.scaled())
    }

    /// Reads a profile; `label` names it in messages.
    ///
    /// # Errors
    /// [`Error::Format`] if it is none, or has weights that are not above 0.
    pub fn from_json(label: &str, json: &[u8]) -> Result<Self> {
        let bad = |reason: String| Error::format(label, reason);
        let profile: Self =
            serde_json::from_slice(json).map_err(|error| bad(format!("it is no layer profile: {error}")))?;
        // Within these, a mean is finite and no layer is left without any rows.
        if let Some(w) = profile.weights.iter().find(|w| !(1e-3..=1e3).contains(*w)) {
            return Err(bad(format!("a weight of {w:?} is not from 0.001 to 1000")));
        }
        // They are shown on terminals, which obey control characters.
        if [&profile.model, &profile.fingerprint, &profile.measured]
            .iter()
            .any(|s| s.contains(char::is_control))
        {
            return Err(bad("it has control characters in its texts".to_owned()));
        }
        Ok(profile.scaled())
    }

    /// The text of a profile's file.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it cannot be written as JSON, which a number that is not finite cannot.
    pub fn to_json(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self);
        text.map(|text| text + "\n").map_err(|error| Error::Invalid(format!("a layer profile: {error}")))
    }

    /// The profile of a model with this fingerprint and so many layers: `beside` it, or among the known ones.
    ///
    /// # Errors
    /// [`Error::Format`] if the one beside it is damaged, [`Error::Invalid`] if it is another model's; `label` names
    /// it.
    pub(crate) fn find(
        fingerprint: &str,
        layers: usize,
        label: &str,
        beside: Option<&[u8]>,
    ) -> Result<Option<Self>> {
        let Some(json) = beside else {
            let known =
                KNOWN.iter().filter_map(|text| Self::from_json("a known profile", text.as_bytes()).ok());
            return Ok(known.into_iter().find(|p| p.fingerprint == fingerprint && p.weights.len() == layers));
        };
        let found = Self::from_json(label, json)?;
        if found.fingerprint != fingerprint || found.weights.len() != layers {
            let (model, other, count) = (&found.model, &found.fingerprint, found.weights.len());
            return Err(Error::Invalid(format!(
                "{label} is that of {model} (fingerprint {other}, {count} layers), but this model has fingerprint \
                 {fingerprint} and {layers} layers; delete it, then run `benben calibrate`"
            )));
        }
        Ok(Some(found))
    }

    /// How it was measured.
    pub fn measured(&self) -> &str {
        &self.measured
    }

    /// One for each layer, with mean 1: how large its part of a budget is.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The same with mean 1.
    fn scaled(mut self) -> Self {
        let mean = mean(&self.weights.iter().map(|&w| f64::from(w)).collect::<Vec<_>>());
        self.weights.iter_mut().for_each(|w| *w = (f64::from(*w) / mean) as f32);
        self
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_profiles_are_found_by_their_models_alone() {
        for text in KNOWN {
            let known = Profile::from_json("known", text.as_bytes()).unwrap();
            let layers = known.weights.len();
            assert!(
                (mean(&known.weights.iter().map(|&w| f64::from(w)).collect::<Vec<_>>()) - 1.0).abs() < 1e-6
            );
            let find = |fingerprint, layers| Profile::find(fingerprint, layers, "", None).unwrap();
            assert_eq!(find(&known.fingerprint, layers), Some(known.clone()));
            assert_eq!(find(&known.fingerprint, layers + 1), None);
            assert_eq!(find("0123456789abcdef", layers), None);
            let flat = text.replace(&known.measured, "elsewhere");
            let beside = Profile::find(&known.fingerprint, layers, "", Some(flat.as_bytes())).unwrap();
            assert_eq!(beside.unwrap().measured, "elsewhere", "a file beside the model comes first");
        }
    }
}
