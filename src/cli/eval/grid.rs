//! The configurations that are compared: policies × shares of the bytes × row formats, and the full cache first.

use std::fmt;
use std::str::FromStr;

use benben::kernels::kv_row::Heads;
use benben::kv::Format;
use benben::kv::policy::{Choice, Name};
use benben::{KvOptions, Result};

use crate::cli::args::share;

#[derive(Debug, clap::Args)]
pub struct GridArgs {
    /// The policies to compare with the full cache
    #[arg(long, value_enum, value_name = "POLICY", value_delimiter = ',', default_values = ["h2o", "snapkv", "joint", "auto"])]
    kv: Vec<Name>,
    /// The shares of a full f16 cache's bytes that they may keep of a prompt
    #[arg(long, value_name = "SHARE", value_parser = share, value_delimiter = ',', allow_negative_numbers = true, default_values = ["0.2", "0.12", "0.08"])]
    share: Vec<f32>,
    /// Bits of the rows, for example 4, or 8/4 for K and V apart; auto chooses its own
    #[arg(long, value_name = "BITS", value_delimiter = ',', default_values = ["4"])]
    bits: Vec<Bits>,
}

/// Bits of K and of V.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bits {
    k: u32,
    v: u32,
}

impl FromStr for Bits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (k, v) = text.split_once('/').unwrap_or((text, text));
        let number = |text: &str| text.parse().map_err(|_| "expected bits, for example 4 or 8/4".to_owned());
        Ok(Self { k: number(k)?, v: number(v)? })
    }
}

/// One configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The share of the bytes that was asked for; `None` keeps every row.
    pub share: Option<f64>,
    pub kv: KvOptions,
}

impl Config {
    fn new(choice: &Choice, share: Option<f32>) -> Result<Self> {
        // 0.12 as the user wrote it, and not as the nearest f32.
        let share = share.map(|share| (f64::from(share) * 1e4).round() / 1e4);
        Ok(Self { share, kv: choice.options()? })
    }

    /// The full f16 cache.
    pub fn full() -> Self {
        Self { share: None, kv: KvOptions::full() }
    }

    pub fn policy(&self) -> &'static str {
        self.kv.policy.name()
    }

    /// Bits of the values of K and V, as one word.
    pub fn bits(&self) -> String {
        let (k, v) = (self.kv.format.k.bits(), self.kv.format.v.bits());
        if k == v { format!("{k}-bit") } else { format!("{k}/{v}-bit") }
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.policy())?;
        if let Some(share) = self.share {
            write!(f, " {} %", (share * 1e4).round() / 1e2)?;
        }
        write!(f, " {}", self.bits())
    }
}

impl GridArgs {
    /// Every configuration once, for a model with such heads.
    ///
    /// # Errors
    /// [`benben::Error::Invalid`] for bits that rows cannot have.
    pub fn configs(&self, heads: Heads) -> Result<Vec<Config>> {
        let mut configs = vec![Config::full()];
        for &name in &self.kv {
            if name == Name::Auto {
                for &share in &self.share {
                    let choice = Choice { policy: Some(name), share: Some(share), ..Choice::default() };
                    configs.push(Config::new(&choice, Some(share))?);
                }
                continue;
            }
            for &Bits { k, v } in &self.bits {
                let every = Choice { k_bits: Some(k), v_bits: Some(v), ..Choice::default() };
                if name == Name::Full {
                    configs.push(Config::new(&every, None)?);
                    continue;
                }
                let bytes = |format: Format| format.bytes_per_token(heads) as f32;
                let row = bytes(every.options()?.format) / bytes(Format::F16);
                for &share in &self.share {
                    let keep = Some((share / row).min(1.0));
                    let choice = Choice { policy: Some(name), keep, ..every.clone() };
                    configs.push(Config::new(&choice, Some(share))?);
                }
            }
        }
        let mut seen = Vec::new();
        configs.retain(|config| {
            let key = config.kv.key();
            let new = !seen.contains(&key);
            seen.push(key);
            new
        });
        Ok(configs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        grid: GridArgs,
    }

    fn names(flags: &str) -> Result<Vec<String>> {
        let words = std::iter::once("benben").chain(flags.split_whitespace());
        let flags = <Flags as clap::Parser>::try_parse_from(words).expect("clap accepts the flags");
        let configs = flags.grid.configs(Heads { query: 9, kv: 3, dim: 64 })?;
        Ok(configs.iter().map(Config::to_string).collect())
    }

    #[test]
    fn flags_span_a_grid_that_begins_with_the_full_cache() {
        assert_eq!(
            names("--kv full,h2o --share 0.2 --share 0.085 --bits 16,8/4").unwrap(),
            [
                "full 16-bit",
                "full 8/4-bit",
                "h2o 20 % 16-bit",
                "h2o 8.5 % 16-bit",
                "h2o 20 % 8/4-bit",
                "h2o 8.5 % 8/4-bit"
            ]
        );
        assert_eq!(names("--kv auto --share 0.12 --share 0.12").unwrap(), ["full 16-bit", "auto 12 % 4-bit"]);
        assert_eq!(names("").unwrap().len(), 13);
        assert!(names("--bits 5").is_err());
    }

    #[test]
    fn a_share_of_the_bytes_is_a_larger_share_of_small_rows() {
        let grid = GridArgs { kv: vec![Name::H2o], share: vec![0.2], bits: vec![Bits { k: 4, v: 4 }] };
        let heads = Heads { query: 9, kv: 3, dim: 64 };
        let configs = grid.configs(heads).unwrap();
        let plan = configs[1].kv.policy.plan(1000, 30).unwrap();
        let bytes = |rows: usize, format: Format| rows as u64 * format.bytes_per_token(heads);
        let kept: u64 = plan.layers.iter().map(|l| bytes(l.retain, configs[1].kv.format)).sum();
        let share = kept as f64 / (30 * bytes(1000, Format::F16)) as f64;
        assert!((0.199..=0.2001).contains(&share), "{share}");
    }
}
