//! Flags that choose which rows the KV cache keeps, and how it stores them.

use benben::kv::policy::{Choice, Name, Preset};
use benben::{KvBits, KvOptions, Result};
use serde::Serialize;

use super::args::{count, share};

#[derive(Debug, Default, PartialEq, clap::Args)]
pub struct KvArgs {
    /// Which rows of the prompt the cache keeps
    #[arg(long, value_enum, value_name = "POLICY")]
    kv: Option<Name>,
    /// A published PyramidInfer configuration; implies --kv pyramid, whose default is 7b
    #[arg(long, value_enum, value_name = "SIZE", conflicts_with_all = ["keep", "rows"])]
    preset: Option<Preset>,
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
    /// Bits of the values of K and V: 16, 8, 4, 3 or 2 [default: 16]
    #[arg(long, value_name = "BITS", value_parser = bits, allow_negative_numbers = true)]
    kv_bits: Option<KvBits>,
    /// Bits of K alone
    #[arg(long, value_name = "BITS", value_parser = bits, allow_negative_numbers = true)]
    k_bits: Option<KvBits>,
    /// Bits of V alone
    #[arg(long, value_name = "BITS", value_parser = bits, allow_negative_numbers = true)]
    v_bits: Option<KvBits>,
    /// Keep the rows that the policy would drop, in so many bits
    #[arg(long, value_name = "BITS", value_parser = bits, allow_negative_numbers = true)]
    demote: Option<KvBits>,
    /// Merge the rows that the policy drops into those that it keeps
    #[arg(long)]
    merge: bool,
    /// Run the last third of the layers on three fifths of a prompt's rows: faster, but loses needles (auto)
    #[arg(long)]
    prefill_saver: bool,
    /// Move rows that the policy drops to host memory; at most this many of a layer come back at once, as queries ask
    #[arg(long, value_name = "ROWS", value_parser = count)]
    offload: Option<usize>,
}

impl KvArgs {
    /// # Errors
    /// [`benben::Error::Invalid`] for flags that contradict each other.
    pub fn options(&self) -> Result<KvOptions> {
        let bits = |own: Option<KvBits>| own.or(self.kv_bits).map(KvBits::bits);
        let choice = Choice {
            policy: self.kv,
            preset: self.preset,
            keep: self.keep,
            rows: self.rows,
            share: self.kv_share,
            per_head: self.per_head,
            k_bits: bits(self.k_bits),
            v_bits: bits(self.v_bits),
            demote: self.demote.map(KvBits::bits),
            merge: self.merge,
            prefill_saver: self.prefill_saver,
            offload: self.offload,
        };
        choice.options()
    }

    /// The same, but the full cache where no flag was given: what other caches are measured against.
    ///
    /// # Errors
    /// As [`KvArgs::options`].
    pub fn measured(&self) -> Result<KvOptions> {
        if *self == Self::default() { Ok(KvOptions::full()) } else { self.options() }
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
    found.ok_or_else(|| "expected 16, 8, 4, 3 or 2".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use benben::Error;

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
            ("", "auto"),
            ("--kv-bits 8", "full"),
            ("--kv h2o --demote 3", "h2o"),
            ("--kv joint --merge", "joint"),
            ("--prefill-saver", "auto"),
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
            ("--kv expected --keep 0.3", "expected"),
            ("--kv joint-expected", "joint-expected"),
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
