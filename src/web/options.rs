//! The option objects of the JavaScript classes, and what they mean to the library.
//!
//! Unknown entries are refused: a misspelt option that silently does nothing is worse than an error.

use std::sync::Arc;

use serde::Deserialize;

use crate::kernels::sample::Sampling;
use crate::kv::Format;
use crate::kv::policy::{Budget, Full, KvOnly, Policy, Preset, Pyramid, Tsp};
use crate::{Error, GenerateOptions, KvBits, KvOptions, Result, SessionOptions};

/// The share of the rows that a policy keeps when nothing says how many.
const KEEP: f32 = 0.6;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SessionChoice {
    kv: KvChoice,
    context: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct KvChoice {
    policy: PolicyName,
    preset: Option<PresetName>,
    keep: Option<f32>,
    rows: Option<usize>,
    per_head: bool,
    k_bits: Option<u32>,
    v_bits: Option<u32>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PolicyName {
    #[default]
    Full,
    Pyramid,
    Tsp,
    KvOnly,
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum PresetName {
    #[serde(rename = "7b")]
    B7,
    #[serde(rename = "13b")]
    B13,
    #[serde(rename = "70b")]
    B70,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct AnswerChoice {
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    seed: Option<u32>,
}

impl SessionChoice {
    /// # Errors
    /// [`Error::Invalid`] for options that contradict each other.
    pub fn options(&self) -> Result<SessionOptions> {
        let format = Format { k: bits(self.kv.k_bits)?, v: bits(self.kv.v_bits)? };
        Ok(SessionOptions { kv: KvOptions { policy: self.kv.policy()?, format }, context: self.context })
    }
}

impl KvChoice {
    fn policy(&self) -> Result<Arc<dyn Policy>> {
        let budget = match (self.preset, self.rows, self.keep) {
            (_, None, None) => None,
            (None, Some(rows), None) => Some(Budget::Rows(rows)),
            (None, None, Some(keep)) => Some(Budget::Share(keep)),
            _ => {
                let reason = "preset, keep and rows each say how many rows live; give one of them";
                return Err(Error::Invalid(reason.to_owned()));
            }
        };
        let needs =
            |option: &str, policy: &str| Err(Error::Invalid(format!("{option} needs policy {policy}")));
        match self.policy {
            PolicyName::Pyramid => {}
            _ if self.preset.is_some() => return needs("preset", "pyramid"),
            PolicyName::Full if budget.is_some() => return needs("keep or rows", "pyramid, tsp or kv-only"),
            PolicyName::KvOnly => {}
            _ if self.per_head => return needs("perHead", "kv-only"),
            _ => {}
        }
        let or_default = |budget: Option<Budget>| budget.unwrap_or(Budget::Share(KEEP));
        Ok(match (self.policy, budget) {
            (PolicyName::Full, _) => Arc::new(Full),
            (PolicyName::Pyramid, Some(budget)) => Arc::new(Pyramid::with_budget(budget)),
            (PolicyName::Pyramid, None) => Arc::new(Pyramid::preset(match self.preset {
                None | Some(PresetName::B7) => Preset::B7,
                Some(PresetName::B13) => Preset::B13,
                Some(PresetName::B70) => Preset::B70,
            })),
            (PolicyName::Tsp, budget) => Arc::new(Tsp::new(or_default(budget))),
            (PolicyName::KvOnly, budget) if self.per_head => Arc::new(KvOnly::per_head(or_default(budget))),
            (PolicyName::KvOnly, budget) => Arc::new(KvOnly::shared(or_default(budget))),
        })
    }
}

impl AnswerChoice {
    pub fn options(&self) -> GenerateOptions {
        let usual = GenerateOptions::default();
        let draw = usual.sampling;
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(draw.temperature),
            top_k: self.top_k.unwrap_or(draw.top_k),
            top_p: self.top_p.unwrap_or(draw.top_p),
            min_p: self.min_p.unwrap_or(draw.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(draw.repetition_penalty),
            seed: self.seed.unwrap_or(draw.seed),
        };
        GenerateOptions { max_tokens: self.max_tokens.unwrap_or(usual.max_tokens), sampling, ..usual }
    }
}

fn bits(wanted: Option<u32>) -> Result<KvBits> {
    let wanted = wanted.unwrap_or(16);
    let found = KvBits::ALL.into_iter().find(|bits| bits.bits() == wanted);
    found.ok_or_else(|| Error::Invalid(format!("rows of {wanted} bits; there are 16, 8 and 4")))
}
