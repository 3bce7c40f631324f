//! Tensors that no part of a model reads: without one that should count, answers would be subtly wrong.

use std::collections::HashSet;

use super::config::Config;
use super::load::stacks;
use crate::weights::{FileKind, ModelFile};
use crate::{Error, Result};

/// How names of tensors end that change nothing: frequencies of RoPE, which follow from the configuration.
const IDLE: [&str; 2] = [".attn_rot_embd.weight", "rotary_emb.inv_freq"];

/// How names of tensors end in an adapter, which changes a model's weights and has none of its own.
const ADAPTED: [&str; 6] =
    [".lora_a", ".lora_b", ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector", ".lora_embedding_A"];

/// Refuses an adapter by the names of its tensors.
pub(super) fn check_adapter(file: &ModelFile) -> Result<()> {
    match file.tensors().find(|tensor| ADAPTED.iter().any(|end| tensor.name.ends_with(end))) {
        Some(tensor) => {
            let reason = format!(
                "tensor '{}' belongs to an adapter (LoRA), not to a model; merge it into its base model and name the \
                 outcome",
                tensor.name
            );
            Err(Error::format(file.label(), reason))
        }
        None => Ok(()),
    }
}

/// Refuses a file with a tensor that has no place in a Llama.
pub(super) fn check(file: &ModelFile, config: &Config) -> Result<()> {
    let mut known: HashSet<String> = stacks(config)
        .into_iter()
        .flat_map(|stack| stack.names().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let norms = |l| ["attn_norm", "ffn_norm"].map(|part| format!("blk.{l}.{part}.weight"));
    known.extend((0..config.layers).flat_map(norms));
    known.insert("output_norm.weight".to_owned());
    if file.kind() == FileKind::Gguf {
        known.insert("rope_freqs.weight".to_owned());
    }
    let idle = |name: &str| IDLE.iter().any(|end| name.ends_with(end));
    match file.tensors().find(|tensor| !known.contains(&tensor.name) && !idle(&tensor.name)) {
        Some(tensor) => {
            let reason = format!(
                "tensor '{}' has no place in the {} layers of a Llama, and answers would be others without it; take \
                 a model without it",
                tensor.name, config.layers
            );
            Err(Error::format(file.label(), reason))
        }
        None => Ok(()),
    }
}
