//! Flags that choose which rows the KV cache keeps, and how it stores them.

use std::sync::Arc;

use benben::kv::Format;
use benben::kv::policy::{
    Budget, Full, H2o, Joint, KvOnly, Policy, Preset, Pyramid, PyramidKv, SnapKv, Streaming, Tova, Tsp,
};
use benben::{Error, KvBits, KvOptions, Result};
use clap::ValueEnum;
use serde::Serialize;

use super::args::{count, share};

/// The share of the rows that a policy keeps when no flag says how many.
const KEEP: f32 = 0.6;
/// The share of the bytes that `auto` keeps when no flag says how many.
const SHARE: f32 = 0.2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PolicyName {
    /// Every row.
    Full,
    /// Fewer rows in every layer: what a layer drops is gone for all deeper ones.
    Pyramid,
    /// All rows up to the middle of the depth, fewer from there on.
    Tsp,
    /// Each layer drops rows of its own cache only.
    KvOnly,
    /// The first rows and the latest ones.
    Streaming,
    /// Rows that the last token attends to.
    Tova,
    /// Rows that all tokens attended to, and the latest ones.
    H2o,
    /// Rows that the last tokens attend to, with their neighbours.
    #[value(name = "snapkv")]
    SnapKv,
    /// As snapkv, fewer rows with depth.
    #[value(name = "pyramidkv")]
    PyramidKv,
    /// Rows of h2o or of snapkv, whichever scores higher.
    Joint,
    /// Bits and rows that follow from --kv-share.
    Auto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PresetName {
    #[value(name = "7b")]
    B7,
    #[value(name = "13b")]
    B13,
    #[value(name = "70b")]
    B70,
}

#[derive(Debug, clap::Args)]
pub struct KvArgs {
    /// Which rows of the prompt the cache keeps [default: full]
    #[arg(long, value_enum, value_name = "POLICY")]
    kv: Option<PolicyName>,
    /// A published PyramidInfer configuration; implies --kv pyramid, whose default is 7b
    #[arg(long, value_enum, value_name = "SIZE", conflicts_with_all = ["keep", "rows"])]
    preset: Option<PresetName>,
    /// Keep this share of the rows, averaged over the layers
    #[arg(long, value_name = "SHARE", value_parser = share, conflicts_with = "rows", allow_negative_numbers = true)]
    keep: Option<f32>,
    /// Keep this many rows a layer, averaged over the layers
    #[arg(long, value_name = "N", value_parser = count)]
    rows: Option<usize>,
    /// At most this share of the bytes of a full f16 cache; implies --kv auto, whose default is 0.2
    #[arg(long, value_name = "SHARE", value_parser = share, allow_negative_numbers = true)]
    kv_share: Option<f32>,
    /// Let every KV head keep rows of its own (kv-only)
    #[arg(long)]
    per_head: bool,
    /// Bits of the values of K and V: 16, 8 or 4 [default: 16]
    #[arg(long, value_name = "BITS", value_parser = bits, allow_negative_numbers = true)]
    kv_bits: Option<KvBits>,
    /// Bits of K alone
    #[arg(long, value_name = "BITS", value_parser = bits, allow_negative_numbers = true)]
    k_bits: Option<KvBits>,
    /// Bits of V alone
    #[arg(long, value_name = "BITS", value_parser = bits, allow_negative_numbers = true)]
    v_bits: Option<KvBits>,
}

impl KvArgs {
    /// # Errors
    /// [`Error::Invalid`] for flags that contradict each other.
    pub fn options(&self) -> Result<KvOptions> {
        match (self.kv, self.kv_share) {
            (Some(PolicyName::Auto), share) => return self.auto(share.unwrap_or(SHARE)),
            (None, Some(share)) => return self.auto(share),
            (Some(_), Some(_)) => return Err(Error::Invalid("--kv-share needs --kv auto".to_owned())),
            (_, None) => {}
        }
        let both = self.kv_bits.unwrap_or(KvBits::Sixteen);
        let format = Format { k: self.k_bits.unwrap_or(both), v: self.v_bits.unwrap_or(both) };
        Ok(KvOptions { policy: self.policy()?, format })
    }

    fn auto(&self, share: f32) -> Result<KvOptions> {
        let bits = [self.kv_bits, self.k_bits, self.v_bits].iter().any(Option::is_some);
        if bits || self.keep.is_some() || self.rows.is_some() || self.preset.is_some() || self.per_head {
            let message = "--kv auto chooses rows and bits itself; say how many bytes with --kv-share";
            return Err(Error::Invalid(message.to_owned()));
        }
        KvOptions::auto(share)
    }

    fn policy(&self) -> Result<Arc<dyn Policy>> {
        let refuse = |flag: &str, policy: &str| Err(Error::Invalid(format!("{flag} needs --kv {policy}")));
        let implied = if self.preset.is_some() { PolicyName::Pyramid } else { PolicyName::Full };
        let name = self.kv.unwrap_or(implied);
        if self.preset.is_some() && name != PolicyName::Pyramid {
            return refuse("--preset", "pyramid");
        }
        if self.per_head && name != PolicyName::KvOnly {
            return refuse("--per-head", "kv-only");
        }
        let budget = self.rows.map(Budget::Rows).or(self.keep.map(Budget::Share));
        let or_default = |budget: Option<Budget>| budget.unwrap_or(Budget::Share(KEEP));
        Ok(match (name, budget) {
            (PolicyName::Full, None) => Arc::new(Full),
            (PolicyName::Full, Some(_)) => {
                return refuse("a budget of rows", "pyramid or another policy that drops rows");
            }
            (PolicyName::Pyramid, None) => Arc::new(Pyramid::preset(match self.preset {
                None | Some(PresetName::B7) => Preset::B7,
                Some(PresetName::B13) => Preset::B13,
                Some(PresetName::B70) => Preset::B70,
            })),
            (PolicyName::Pyramid, Some(budget)) => Arc::new(Pyramid::with_budget(budget)),
            (PolicyName::Tsp, budget) => Arc::new(Tsp::new(or_default(budget))),
            (PolicyName::KvOnly, budget) if self.per_head => Arc::new(KvOnly::per_head(or_default(budget))),
            (PolicyName::KvOnly, budget) => Arc::new(KvOnly::shared(or_default(budget))),
            (PolicyName::Streaming, budget) => Arc::new(Streaming::new(or_default(budget))),
            (PolicyName::Tova, budget) => Arc::new(Tova::new(or_default(budget))),
            (PolicyName::H2o, budget) => Arc::new(H2o::new(or_default(budget))),
            (PolicyName::SnapKv, budget) => Arc::new(SnapKv::new(or_default(budget))),
            (PolicyName::PyramidKv, budget) => Arc::new(PyramidKv::new(or_default(budget))),
            // `options` has dealt with auto.
            (PolicyName::Joint | PolicyName::Auto, budget) => Arc::new(Joint::new(or_default(budget))),
        })
    }
}

/// The choices, as reports name them.
#[derive(Debug, Serialize)]
pub struct KvLabel {
    kv: &'static str,
    k_bits: u32,
    v_bits: u32,
}

impl KvLabel {
    pub fn of(kv: &KvOptions) -> Self {
        Self { kv: kv.policy.name(), k_bits: kv.format.k.bits(), v_bits: kv.format.v.bits() }
    }
}

impl std::fmt::Display for KvLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, K in {} bits, V in {} bits", self.kv, self.k_bits, self.v_bits)
    }
}

fn bits(text: &str) -> Result<KvBits, String> {
    let found = KvBits::ALL.into_iter().find(|bits| bits.bits().to_string() == text);
    found.ok_or_else(|| "expected 16, 8 or 4".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        kv: KvArgs,
    }

    fn options(flags: &str) -> Result<KvOptions> {
        let words = std::iter::once("benben").chain(flags.split_whitespace());
        <Flags as clap::Parser>::try_parse_from(words).expect("clap accepts the flags").kv.options()
    }

    #[test]
    fn flags_choose_policies_and_formats() {
        for (flags, name) in [
            ("", "full"),
            ("--preset 13b", "pyramid"),
            ("--kv pyramid", "pyramid"),
            ("--kv tsp --keep 0.5", "tsp"),
            ("--kv kv-only --per-head --rows 100", "kv-only"),
            ("--kv streaming", "streaming"),
            ("--kv tova --keep 0.3", "tova"),
            ("--kv h2o --rows 99", "h2o"),
            ("--kv snapkv", "snapkv"),
            ("--kv pyramidkv", "pyramidkv"),
            ("--kv joint", "joint"),
            ("--kv auto", "auto"),
            ("--kv-share 0.1", "auto"),
            ("--kv-share 0.4", "full"),
        ] {
            assert_eq!(options(flags).unwrap().policy.name(), name, "{flags}");
        }
        let format = options("--kv-bits 8 --v-bits 4").unwrap().format;
        assert_eq!((format.k, format.v), (KvBits::Eight, KvBits::Four));
        assert!(options("--kv kv-only --per-head").unwrap().policy.per_head());
    }

    #[test]
    fn contradictions_are_refused() {
        for flags in [
            "--keep 0.5",
            "--rows 9",
            "--kv full --rows 9",
            "--kv tsp --preset 7b",
            "--kv pyramid --per-head",
            "--kv pyramid --kv-share 0.2",
            "--kv auto --keep 0.5",
            "--kv-share 0.2 --v-bits 8",
        ] {
            assert!(matches!(options(flags), Err(Error::Invalid(_))), "{flags}");
        }
    }
}
