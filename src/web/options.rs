//! The option objects of the JavaScript classes, and what they mean to the library.
//!
//! Unknown entries are refused: a misspelt option that silently does nothing is worse than an error.

use serde::Deserialize;

use crate::kernels::sample::Sampling;
use crate::kv::policy::Choice;
use crate::{GenerateOptions, LoadOptions, Result, SessionOptions};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SessionChoice {
    kv: Choice,
    context: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LoadChoice {
    kv: Choice,
    context: Option<usize>,
    memory: Option<u64>,
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
    /// [`crate::Error::Invalid`] for options that contradict each other.
    pub fn options(&self) -> Result<SessionOptions> {
        Ok(SessionOptions { kv: self.kv.options()?, context: self.context })
    }
}

impl LoadChoice {
    /// # Errors
    /// [`crate::Error::Invalid`] for options that contradict each other.
    pub fn options(&self) -> Result<LoadOptions> {
        let (kv, context, memory) = (self.kv.options()?, self.context, self.memory);
        Ok(LoadOptions { kv, context, memory, ..LoadOptions::default() })
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
