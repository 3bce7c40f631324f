//! Rotary position embedding: one inverse frequency for each rotated pair, with the usual ways to stretch them.

use serde_json::Value;

use crate::weights::ModelFile;
use crate::{Error, Result};

/// Rotary embedding of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// The base θ of the frequencies θ^(-2i/dims).
    pub base: f32,
    /// Dimensions of a head that rotate; the rest passes through.
    pub dims: usize,
    /// Pairs are neighbours (2i, 2i+1) instead of halves (i, i + dims/2).
    pub interleaved: bool,
    /// How the frequencies are stretched for long contexts.
    pub scaling: Scaling,
}

/// A stretch of the frequencies.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// None.
    None,
    /// Every frequency divided by one factor (position interpolation).
    Linear(f32),
    /// Llama 3.1: low frequencies divided by the factor, high ones left, a blend between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f32,
        /// Wavelengths longer than `original / low` are low.
        low: f32,
        /// Wavelengths shorter than `original / high` are high.
        high: f32,
        /// The context of the original training.
        original: f32,
    },
    /// YaRN (Peng et al. 2023): a blend by rotations within the original context, and a magnitude factor.
    Yarn {
        /// The divisor of interpolated frequencies.
        factor: f32,
        /// The context of the original training.
        original: f32,
        /// Rotations above which a frequency is left alone.
        beta_fast: f32,
        /// Rotations below which it is fully interpolated.
        beta_slow: f32,
        /// The magnitude factor, if the file states one.
        magnitude: Option<f32>,
    },
    /// A divisor for each pair, as GGUF's `rope_freqs.weight` holds them.
    Divisors(Vec<f32>),
}

impl RopeConfig {
    /// Inverse frequencies of the `dims / 2` pairs.
    pub fn frequencies(&self) -> Vec<f32> {
        let exponent = |i: usize| -2.0 * i as f64 / self.dims as f64;
        let plain = (0..self.dims / 2).map(|i| f64::from(self.base).powf(exponent(i)));
        plain.enumerate().map(|(i, f)| self.stretch(i, f) as f32).collect()
    }

    /// The factor on cos and sin.
    pub fn magnitude(&self) -> f32 {
        match self.scaling {
            Scaling::Yarn { magnitude: Some(m), .. } => m,
            Scaling::Yarn { factor, .. } if factor > 1.0 => 0.1 * factor.ln() + 1.0,
            _ => 1.0,
        }
    }

    fn stretch(&self, pair: usize, frequency: f64) -> f64 {
        let turn = std::f64::consts::TAU;
        match &self.scaling {
            Scaling::None => frequency,
            Scaling::Linear(factor) => frequency / f64::from(*factor),
            Scaling::Divisors(list) => frequency / f64::from(list.get(pair).copied().unwrap_or(1.0)),
            Scaling::Llama3 { factor, low, high, original } => {
                let (factor, low, high) = (f64::from(*factor), f64::from(*low), f64::from(*high));
                let rotations = f64::from(*original) * frequency / turn;
                let blend = ((rotations - low) / (high - low)).clamp(0.0, 1.0);
                blend * frequency + (1.0 - blend) * frequency / factor
            }
            Scaling::Yarn { factor, original, beta_fast, beta_slow, .. } => {
                let dims = self.dims as f64;
                let pair_of = |rotations: f32| {
                    let wavelengths = f64::from(*original) / (f64::from(rotations) * turn);
                    dims * wavelengths.ln() / (2.0 * f64::from(self.base).ln())
                };
                let first = pair_of(*beta_fast).floor().max(0.0);
                let last = pair_of(*beta_slow).ceil().min(dims - 1.0);
                let blend = ((pair as f64 - first) / (last - first).max(0.001)).clamp(0.0, 1.0);
                frequency * (1.0 - blend) + frequency / f64::from(*factor) * blend
            }
        }
    }

    pub(super) fn from_json(json: &Value, dim: usize) -> Result<Self> {
        // Newer files gather what older ones spread over `rope_theta` and `rope_scaling`.
        let gathered = &json["rope_parameters"];
        let scaling = if gathered.is_object() { gathered } else { &json["rope_scaling"] };
        let base = json["rope_theta"].as_f64().or(gathered["rope_theta"].as_f64()).unwrap_or(10_000.0) as f32;
        let share = json["partial_rotary_factor"].as_f64().unwrap_or(1.0);
        let dims = (share * dim as f64) as usize;
        let number = |name: &str| scaling[name].as_f64().map(|n| n as f32);
        let need = |name: &str| {
            number(name)
                .ok_or_else(|| Error::format("config.json", format!("its RoPE scaling has no '{name}'")))
        };
        let original = || {
            number("original_max_position_embeddings")
                .or(json["max_position_embeddings"].as_f64().map(|n| n as f32))
        };
        let kind = scaling["rope_type"].as_str().or(scaling["type"].as_str()).unwrap_or("default");
        let scaling = match kind {
            "default" => Scaling::None,
            "linear" => Scaling::Linear(need("factor")?),
            "llama3" => Scaling::Llama3 {
                factor: need("factor")?,
                low: need("low_freq_factor")?,
                high: need("high_freq_factor")?,
                original: need("original_max_position_embeddings")?,
            },
            "yarn" => Scaling::Yarn {
                factor: need("factor")?,
                original: original().unwrap_or(4096.0),
                beta_fast: number("beta_fast").unwrap_or(32.0),
                beta_slow: number("beta_slow").unwrap_or(1.0),
                magnitude: number("attention_factor"),
            },
            other => {
                let reason = format!("RoPE scaling '{other}'; benben knows default, linear, llama3 and yarn");
                return Err(Error::format("config.json", reason));
            }
        };
        Ok(Self { base, dims, interleaved: false, scaling })
    }
}

impl Scaling {
    pub(super) async fn from_gguf(file: &ModelFile, architecture: &str) -> Result<Self> {
        if let Some(tensor) = file.tensor("rope_freqs.weight") {
            return Ok(Self::Divisors(file.dequantize(tensor).await?));
        }
        let meta = file.meta();
        let key = |name: &str| format!("{architecture}.rope.scaling.{name}");
        let factor = meta.opt_f32(&key("factor"))?.filter(|f| *f > 0.0);
        Ok(match (meta.opt_str(&key("type"))?.unwrap_or("none"), factor) {
            ("linear", Some(factor)) => Self::Linear(factor),
            ("yarn", Some(factor)) => Self::Yarn {
                factor,
                original: meta.opt_u64(&key("original_context_length"))?.unwrap_or(4096) as f32,
                beta_fast: meta.opt_f32(&key("yarn_beta_fast"))?.unwrap_or(32.0),
                beta_slow: meta.opt_f32(&key("yarn_beta_slow"))?.unwrap_or(1.0),
                magnitude: meta.opt_f32(&key("attn_factor"))?,
            },
            ("none", _) | ("linear" | "yarn", None) => Self::None,
            (other, _) => {
                let reason = format!("RoPE scaling '{other}'; benben knows none, linear and yarn");
                return Err(Error::format(file.label(), reason));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(scaling: Scaling) -> RopeConfig {
        RopeConfig { base: 500_000.0, dims: 128, interleaved: false, scaling }
    }

    #[test]
    fn llama3_keeps_the_fast_and_divides_the_slow() {
        let plain = config(Scaling::None).frequencies();
        let scaled =
            config(Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 }).frequencies();
        assert_eq!(plain[0], scaled[0]);
        assert!((plain[63] / scaled[63] - 8.0).abs() < 1e-4);
        // Pair 30 turns 2.79 times within 8192 tokens, so it lies on the blend.
        let ratio = plain[30] / scaled[30];
        assert!(ratio > 1.0 && ratio < 8.0, "{ratio}");
    }

    #[test]
    fn yarn_blends_between_its_bounds_and_scales_magnitudes() {
        let scaling =
            Scaling::Yarn { factor: 4.0, original: 4096.0, beta_fast: 32.0, beta_slow: 1.0, magnitude: None };
        let yarn = config(scaling);
        let (plain, scaled) = (config(Scaling::None).frequencies(), yarn.frequencies());
        assert_eq!(plain[0], scaled[0]);
        assert!((plain[63] / scaled[63] - 4.0).abs() < 1e-4);
        assert!((yarn.magnitude() - 1.138_629_4).abs() < 1e-6);
    }
}
