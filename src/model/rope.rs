//! Rotary position embedding: one inverse frequency for each rotated pair, with the usual ways to stretch them.

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
    /// A divisor of each pair's frequency, as GGUF's `rope_freqs.weight` holds them, besides the stretch; or none.
    pub divisors: Vec<f32>,
    /// The factor on cos and sin.
    pub magnitude: f32,
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
    /// YaRN (Peng et al. 2023): a blend by rotations within the original context.
    Yarn {
        /// The divisor of interpolated frequencies.
        factor: f32,
        /// The context of the original training.
        original: f32,
        /// Rotations above which a frequency is left alone.
        beta_fast: f32,
        /// Rotations below which it is fully interpolated.
        beta_slow: f32,
        /// The blend begins and ends at whole pairs.
        truncate: bool,
    },
}

/// What YaRN makes of a stretch by `factor`: the magnitude of cos and sin, weighted by `mscale`.
pub(super) fn yarn_magnitude(factor: f32, mscale: f32) -> f32 {
    if factor > 1.0 { 0.1 * mscale * factor.ln() + 1.0 } else { 1.0 }
}

impl RopeConfig {
    /// Frequencies that nothing stretches, of pairs that are neighbours.
    pub(super) fn plain(base: f32, dims: usize) -> Self {
        let (scaling, divisors) = (Scaling::None, Vec::new());
        Self { base, dims, interleaved: true, scaling, divisors, magnitude: 1.0 }
    }

    /// Inverse frequencies of the `dims / 2` pairs.
    pub fn frequencies(&self) -> Vec<f32> {
        let exponent = |i: usize| -2.0 * i as f64 / self.dims as f64;
        let plain = (0..self.dims / 2).map(|i| f64::from(self.base).powf(exponent(i)));
        let divisor = |i: usize| self.divisors.get(i).map_or(1.0, |divisor| f64::from(*divisor));
        plain.enumerate().map(|(i, f)| (self.stretch(i, f) / divisor(i)) as f32).collect()
    }

    fn stretch(&self, pair: usize, frequency: f64) -> f64 {
        let turn = std::f64::consts::TAU;
        match &self.scaling {
            Scaling::None => frequency,
            Scaling::Linear(factor) => frequency / f64::from(*factor),
            Scaling::Llama3 { factor, low, high, original } => {
                let (factor, low, high) = (f64::from(*factor), f64::from(*low), f64::from(*high));
                let rotations = f64::from(*original) * frequency / turn;
                let blend = ((rotations - low) / (high - low)).clamp(0.0, 1.0);
                blend * frequency + (1.0 - blend) * frequency / factor
            }
            Scaling::Yarn { factor, original, beta_fast, beta_slow, truncate } => {
                let dims = self.dims as f64;
                let pair_of = |rotations: f32| {
                    let wavelengths = f64::from(*original) / (f64::from(rotations) * turn);
                    dims * wavelengths.ln() / (2.0 * f64::from(self.base).ln())
                };
                let (mut first, mut last) = (pair_of(*beta_fast), pair_of(*beta_slow));
                if *truncate {
                    (first, last) = (first.floor(), last.ceil());
                }
                let (first, last) = (first.max(0.0), last.min(dims - 1.0));
                let blend = ((pair as f64 - first) / (last - first).max(0.001)).clamp(0.0, 1.0);
                frequency * (1.0 - blend) + frequency / f64::from(*factor) * blend
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(scaling: Scaling) -> RopeConfig {
        RopeConfig { scaling, ..RopeConfig::plain(500_000.0, 128) }
    }

    fn yarn(truncate: bool) -> Scaling {
        Scaling::Yarn { factor: 4.0, original: 4096.0, beta_fast: 32.0, beta_slow: 1.0, truncate }
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
    fn yarn_blends_between_its_bounds() {
        let (plain, scaled) = (config(Scaling::None).frequencies(), config(yarn(true)).frequencies());
        assert_eq!(plain[0], scaled[0]);
        assert!((plain[63] / scaled[63] - 4.0).abs() < 1e-4);
        assert!((yarn_magnitude(4.0, 1.0) - 1.138_629_4).abs() < 1e-6);
        assert_eq!(yarn_magnitude(0.5, 1.0), 1.0);
        // Unrounded, the blend runs from pair 14.7 to pair 31.6 instead of 14 to 32.
        let fine = config(yarn(false)).frequencies();
        assert!(scaled[20] < fine[20] && fine[31] < scaled[31] && scaled[14] == fine[14]);
    }

    #[test]
    fn divisors_come_on_top_of_a_stretch() {
        let both = RopeConfig { divisors: vec![2.0; 64], ..config(Scaling::Linear(4.0)) };
        let plain = config(Scaling::None).frequencies();
        assert!(both.frequencies().iter().zip(plain).all(|(both, plain)| *both == plain / 8.0));
    }
}
