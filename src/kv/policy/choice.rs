//! What a user says of the cache, in flags or in an option object, and what it means.
//!
//! Refusals name the options: flags with two hyphens in front, in an option object in camel case.

use std::sync::Arc;

use super::{
    Budget, Demote, Expected, Full, H2o, Joint, KvOnly, Policy, Preset, Pyramid, PyramidKv, SnapKv,
    Streaming, Tova, Tsp,
};
use crate::kernels::kv_code::KvBits;
use crate::kv::{Format, KvOptions};
use crate::{Error, Result};

/// The share of the rows that a policy keeps when nobody says how many.
const KEEP: f32 = 0.6;
/// The share of the bytes that `auto` keeps when nobody says how many.
const SHARE: f32 = 0.2;

/// The policies by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Name {
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
    #[cfg_attr(feature = "cli", value(name = "snapkv"))]
    #[serde(rename = "snapkv")]
    SnapKv,
    /// As snapkv, fewer rows with depth.
    #[cfg_attr(feature = "cli", value(name = "pyramidkv"))]
    #[serde(rename = "pyramidkv")]
    PyramidKv,
    /// Rows of h2o or of snapkv, whichever scores higher.
    Joint,
    /// Rows that later tokens can be expected to attend to.
    Expected,
    /// As joint and expected, their scores added.
    JointExpected,
    /// Bits and rows that follow from a share of the bytes.
    Auto,
}

/// What a user may say of the cache; everything left out has a default.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Choice {
    /// Which rows live; `full` unless something else implies another.
    pub policy: Option<Name>,
    /// A published PyramidInfer configuration; implies `pyramid`, whose default is 7b.
    pub preset: Option<Preset>,
    /// The share of the rows that live, averaged over the layers.
    pub keep: Option<f32>,
    /// The rows of a layer that live, averaged over the layers.
    pub rows: Option<usize>,
    /// The share of a full f16 cache's bytes; implies `auto`, whose default is 0.2.
    pub share: Option<f32>,
    /// Every KV head keeps rows of its own (`kv-only`).
    pub per_head: bool,
    /// Bits of K: 16, 8, 4, 3 or 2.
    pub k_bits: Option<u32>,
    /// Bits of V, likewise.
    pub v_bits: Option<u32>,
    /// Bits of the rows that the policy would drop, which then stay in these.
    pub demote: Option<u32>,
    /// Merges rows that the policy drops from a prompt into rows that it keeps.
    pub merge: bool,
    /// Lets the last third of the layers run on three fifths of a prompt's rows (`auto`).
    pub prefill_saver: bool,
    /// Sends rows that the policy drops to the host, and lets so many of each layer come back at once.
    pub offload: Option<usize>,
}

fn refuse<T>(reason: &str) -> Result<T> {
    Err(Error::Invalid(reason.to_owned()))
}

impl Choice {
    /// The policy and the row formats.
    ///
    /// # Errors
    /// [`Error::Invalid`] for choices that contradict each other or make no sense.
    pub fn options(&self) -> Result<KvOptions> {
        let name = self.policy.unwrap_or(match self {
            Self { preset: Some(_), .. } => Name::Pyramid,
            Self { share: Some(_), .. } | Self { prefill_saver: true, .. } => Name::Auto,
            nothing if Self { offload: None, ..nothing.clone() } == Self::default() => Name::Auto,
            _ => Name::Full,
        });
        if self.offload.is_some()
            && (self.prefill_saver || matches!(name, Name::Full | Name::Pyramid | Name::Tsp))
        {
            return refuse("`offload` needs a policy that drops rows of the cache, and of the cache alone");
        }
        if name == Name::Auto {
            return self.auto();
        }
        if self.share.is_some() || self.prefill_saver {
            return refuse("a share of the bytes and `prefill-saver` need the policy auto");
        }
        let format = Format { k: bits(self.k_bits)?, v: bits(self.v_bits)? };
        let (policy, tail) = match self.demote {
            None => (self.named(name)?, None),
            Some(_) if name == Name::Full => {
                return refuse("`demote` needs a policy that would drop rows; full keeps them all");
            }
            Some(few) => {
                let policy: Arc<dyn Policy> = Arc::new(Demote::new(self.named(name)?));
                (policy, Some(Format::both(bits(Some(few))?)))
            }
        };
        let (merge, offload) = (self.merge, self.offload);
        if merge && (name == Name::Full || self.demote.is_some() || offload.is_some()) {
            return refuse(
                "`merge` needs a policy that drops rows, such as joint, and none that `demote` or `offload` keeps",
            );
        }
        if merge && policy.thinning().is_some() {
            return refuse("`merge` does not go with a policy that thins generated rows; try joint");
        }
        Ok(KvOptions { policy, format, tail, merge, offload, share: None })
    }

    fn auto(&self) -> Result<KvOptions> {
        let Self { policy, share, merge, prefill_saver, offload, .. } = *self;
        let plain = Self { policy, share, merge, prefill_saver, offload, ..Self::default() };
        if *self != plain {
            return refuse("the policy auto chooses rows and bits itself; say how many bytes with a share");
        }
        let share = share.unwrap_or(SHARE);
        // Refuses absurd shares.
        KvOptions::auto(share).map(|_| KvOptions {
            merge,
            offload,
            ..KvOptions::within(share, prefill_saver)
        })
    }

    fn named(&self, name: Name) -> Result<Arc<dyn Policy>> {
        let budget = match (self.preset, self.rows, self.keep) {
            (_, None, None) => None,
            (None, Some(rows), None) => Some(Budget::Rows(rows)),
            (None, None, Some(keep)) => Some(Budget::Share(keep)),
            _ => {
                return refuse(
                    "a preset, a share and a number of rows each say how many live; give one of them",
                );
            }
        };
        if self.preset.is_some() && name != Name::Pyramid {
            return refuse("`preset` needs the policy pyramid");
        }
        if self.per_head && name != Name::KvOnly {
            return refuse("`per-head` needs the policy kv-only");
        }
        if name == Name::Full && budget.is_some() {
            return refuse("a budget of rows needs the policy pyramid or another one that drops rows");
        }
        let preset = Pyramid::preset(self.preset.unwrap_or(Preset::B7));
        let kept = budget.clone().unwrap_or(Budget::Share(KEEP));
        Ok(match name {
            Name::Full => Arc::new(Full),
            Name::Pyramid => Arc::new(budget.map_or(preset, Pyramid::with_budget)),
            Name::Tsp => Arc::new(Tsp::new(kept)),
            Name::KvOnly if self.per_head => Arc::new(KvOnly::per_head(kept)),
            Name::KvOnly => Arc::new(KvOnly::shared(kept)),
            Name::Streaming => Arc::new(Streaming::new(kept)),
            Name::Tova => Arc::new(Tova::new(kept)),
            Name::H2o => Arc::new(H2o::new(kept)),
            Name::SnapKv => Arc::new(SnapKv::new(kept)),
            Name::PyramidKv => Arc::new(PyramidKv::new(kept)),
            Name::Expected => Arc::new(Expected::new(kept)),
            Name::JointExpected => Arc::new(Joint::new(kept).with_expected()),
            // `options` has dealt with auto, whose rows these are.
            Name::Joint | Name::Auto => Arc::new(Joint::new(kept)),
        })
    }
}

fn bits(wanted: Option<u32>) -> Result<KvBits> {
    let wanted = wanted.unwrap_or(16);
    let found = KvBits::ALL.into_iter().find(|bits| bits.bits() == wanted);
    found.ok_or_else(|| Error::Invalid(format!("rows of {wanted} bits; there are 16, 8, 4, 3 and 2")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(json: &str) -> Result<KvOptions> {
        serde_json::from_str::<Choice>(json).expect("a choice").options()
    }

    #[test]
    fn names_and_numbers_choose() {
        for (json, name) in [
            (r#"{}"#, "auto"),
            (r#"{"prefillSaver":true}"#, "auto"),
            (r#"{"kBits":8}"#, "full"),
            (r#"{"policy":"h2o","demote":3}"#, "h2o"),
            (r#"{"preset":"13b"}"#, "pyramid"),
            (r#"{"policy":"pyramid","keep":0.4}"#, "pyramid"),
            (r#"{"policy":"kv-only","perHead":true,"rows":100}"#, "kv-only"),
            (r#"{"policy":"snapkv"}"#, "snapkv"),
            (r#"{"policy":"joint","merge":true}"#, "joint"),
            (r#"{"share":0.1,"merge":true}"#, "auto"),
            (r#"{"policy":"joint-expected"}"#, "joint-expected"),
            (r#"{"share":0.1}"#, "auto"),
            (r#"{"offload":64}"#, "auto"),
            (r#"{"share":0.4}"#, "full"),
        ] {
            assert_eq!(options(json).unwrap().policy.name(), name, "{json}");
        }
        let format = options(r#"{"kBits":8,"vBits":4}"#).unwrap().format;
        assert_eq!((format.k, format.v), (KvBits::Eight, KvBits::Four));
    }

    #[test]
    fn contradictions_are_refused() {
        for json in [
            r#"{"keep":0.5}"#,
            r#"{"policy":"tsp","preset":"7b"}"#,
            r#"{"policy":"pyramid","perHead":true}"#,
            r#"{"policy":"h2o","keep":0.5,"rows":9}"#,
            r#"{"policy":"pyramid","share":0.2}"#,
            r#"{"policy":"auto","keep":0.5}"#,
            r#"{"share":0.2,"vBits":8}"#,
            r#"{"kBits":5}"#,
            r#"{"policy":"full","demote":3}"#,
            r#"{"policy":"h2o","demote":7}"#,
            r#"{"policy":"h2o","prefillSaver":true}"#,
            r#"{"merge":true}"#,
            r#"{"policy":"h2o","demote":3,"merge":true}"#,
            r#"{"policy":"pyramid","merge":true}"#,
            r#"{"policy":"tsp","offload":64}"#,
            r#"{"prefillSaver":true,"offload":64}"#,
        ] {
            assert!(matches!(options(json), Err(Error::Invalid(_))), "{json}");
        }
        assert!(serde_json::from_str::<Choice>(r#"{"kepp":0.5}"#).is_err(), "a misspelt option");
    }
}
