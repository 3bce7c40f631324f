//! A model's shape from GGUF metadata, with the defaults of llama.cpp's loader.

use super::config::Config;
use super::rope::{RopeConfig, Scaling, yarn_magnitude};
use crate::kernels::kv_row::Heads;
use crate::weights::{Metadata, ModelFile, Value};
use crate::{Error, Result};

/// The family that benben runs, and how its keys begin.
const FAMILY: &str = "llama";

/// What a file may be that holds no model of its own, by its `general.type` or `general.architecture`.
const OTHER_KINDS: [(&str, &str); 6] = [
    ("adapter", "an adapter (LoRA), not a model; merge it into its base model and name the outcome"),
    (
        "mmproj",
        "a projector of images or sound (mmproj), not a language model; name the model that it belongs to",
    ),
    ("clip", "a projector of images (mmproj), not a language model; name the model that it belongs to"),
    ("imatrix", "an importance matrix for quantising, not a model; name the model that it was measured on"),
    ("controlvector", "a control vector, not a model; name the model that it was made for"),
    ("vocab", "a vocabulary without weights, not a model; name the model that it belongs to"),
];

/// What is known of a key of the family.
enum Known {
    /// The shape is read from it.
    Read,
    /// It changes no answer, whatever its value.
    Idle,
    /// It changes no answer at these values; at others benben would have to do what it does not.
    At(&'static [f64]),
    /// The same of words.
    In(&'static [&'static str]),
}
use Known::{At, Idle, In, Read};

/// Every key of the family that a model may have. Whatever else it says is refused.
const KEYS: [(&str, Known); 48] = [
    ("block_count", Read),
    ("context_length", Read),
    ("embedding_length", Read),
    ("feed_forward_length", Read),
    ("attention.head_count", Read),
    ("attention.head_count_kv", Read),
    ("attention.key_length", Read),
    ("attention.value_length", Read),
    ("attention.layer_norm_rms_epsilon", Read),
    ("attention.sliding_window", Read),
    ("rope.dimension_count", Read),
    ("rope.freq_base", Read),
    ("rope.scale_linear", Read),
    ("rope.scaling.type", Read),
    ("rope.scaling.factor", Read),
    ("rope.scaling.attn_factor", Read),
    ("rope.scaling.original_context_length", Read),
    ("rope.scaling.yarn_beta_fast", Read),
    ("rope.scaling.yarn_beta_slow", Read),
    // The tokenizer's list and the embedding's rows say it as well.
    ("vocab_size", Idle),
    // A remark on how the scaling came about.
    ("rope.scaling.finetuned", Idle),
    // Of LayerNorm, which the family does not have.
    ("attention.layer_norm_epsilon", Idle),
    // For embeddings of whole texts.
    ("pooling_type", Idle),
    ("tensor_data_layout", In(&["Meta AI original pth"])),
    ("hidden_activation", In(&["silu", "swish"])),
    ("expert_count", At(&[0.0])),
    ("expert_used_count", At(&[0.0])),
    ("expert_shared_count", At(&[0.0])),
    ("expert_group_count", At(&[0.0])),
    ("expert_group_used_count", At(&[0.0])),
    ("leading_dense_block_count", At(&[0.0])),
    ("nextn_predict_layers", At(&[0.0])),
    ("use_parallel_residual", At(&[0.0])),
    ("logit_scale", At(&[0.0, 1.0])),
    ("residual_scale", At(&[0.0, 1.0])),
    ("embedding_scale", At(&[0.0, 1.0])),
    ("attn_logit_softcapping", At(&[0.0])),
    ("final_logit_softcapping", At(&[0.0])),
    ("attention.causal", At(&[1.0])),
    ("attention.scale", At(&[0.0])),
    ("attention.clamp_kqv", At(&[0.0])),
    ("attention.max_alibi_bias", At(&[0.0])),
    ("attention.output_scale", At(&[0.0, 1.0])),
    ("attention.temperature_length", At(&[0.0])),
    ("attention.temperature_scale", At(&[0.0, 1.0])),
    ("rope.dimension_sections", At(&[0.0])),
    ("rope.scaling.yarn_attn_factor", At(&[1.0])),
    ("rope.scaling.yarn_log_multiplier", At(&[0.0])),
];

impl Known {
    /// True if a key that is known as this may have this value.
    fn admits(&self, value: &Value) -> bool {
        match (self, value) {
            (Read | Idle, _) => true,
            (At(_), Value::Array(items)) => items.iter().all(|item| self.admits(item)),
            (At(numbers), _) => value.number().is_some_and(|number| numbers.contains(&number)),
            (In(words), Value::String(word)) => words.contains(&word.as_str()),
            (In(_), _) => false,
        }
    }
}

/// Refuses a file that holds something else than a model of the family.
fn check_kind(file: &ModelFile, architecture: &str) -> Result<()> {
    let kind = file.meta().opt_str("general.type")?;
    let named = |name: &str| OTHER_KINDS.into_iter().find(|(other, _)| *other == name);
    let adapter = file.meta().get("adapter.type").and_then(|_| named("adapter"));
    let reason = match kind.and_then(named).or(named(architecture)).or(adapter) {
        Some((_, what)) => format!("it is {what}"),
        None if kind.is_some_and(|kind| kind != "model") => {
            format!("its 'general.type' is '{}', not 'model'; name a model", kind.unwrap_or_default())
        }
        None if architecture != FAMILY => format!(
            "its architecture is '{architecture}'; benben runs the Llama family ('{FAMILY}'), so take a model of that"
        ),
        None => return Ok(()),
    };
    Err(Error::format(file.label(), reason))
}

/// Refuses a key of the family that asks for what benben does not do, or of which it does not know what it asks for.
fn check_keys(meta: &Metadata, label: &str) -> Result<()> {
    for (key, value) in meta.iter() {
        let Some(name) = key.strip_prefix(FAMILY).and_then(|rest| rest.strip_prefix('.')) else { continue };
        let known = KEYS.iter().find(|(known, _)| *known == name).map(|(_, known)| known);
        if !known.is_some_and(|known| known.admits(value)) {
            let reason = format!(
                "metadata key '{key}' is {}, which benben does not implement, and answers could be others without \
                 it; take a model without it",
                value.show()
            );
            return Err(Error::format(label, reason));
        }
    }
    Ok(())
}

/// The shape of the model in a GGUF file, unchecked.
///
/// # Errors
/// [`Error::Format`] when a key is missing, is something else, or asks for what benben does not do.
pub(super) async fn config(file: &ModelFile) -> Result<Config> {
    let meta = file.meta();
    let fail = |reason: String| Err(Error::format(file.label(), reason));
    let architecture = meta.str("general.architecture")?.to_owned();
    check_kind(file, &architecture)?;
    check_keys(meta, file.label())?;
    let key = |name: &str| format!("{FAMILY}.{name}");
    let size = |name: &str| Ok::<_, Error>(meta.u64(&key(name))? as usize);
    let optional = |name: &str| Ok::<_, Error>(meta.opt_u64(&key(name))?.map(|n| n as usize));
    let (layers, width, context) = (size("block_count")?, size("embedding_length")?, size("context_length")?);
    let alike = |name: &str| Ok::<_, Error>(meta.opt_per_layer(&key(name), layers)?.map(|n| n as usize));
    let need = |name: &str| match alike(name)? {
        Some(n) => Ok(n),
        None => size(name),
    };
    let query = need("attention.head_count")?;
    let dim = optional("attention.key_length")?.unwrap_or(width.checked_div(query).unwrap_or(0));
    let value_dim = optional("attention.value_length")?.unwrap_or(dim);
    if value_dim != dim {
        return fail(format!(
            "'{}' says values of {value_dim} for keys of {dim}, but benben's heads have one size for both",
            key("attention.value_length")
        ));
    }
    if let Some(window) = optional("attention.sliding_window")?.filter(|&n| n > 0 && n < context) {
        return fail(format!(
            "'{}' is {window} of {context} tokens, but benben's attention sees all tokens; take a model without it",
            key("attention.sliding_window")
        ));
    }
    Ok(Config {
        name: meta.opt_str("general.name")?.unwrap_or(file.label()).to_owned(),
        layers,
        width,
        heads: Heads { query, kv: alike("attention.head_count_kv")?.unwrap_or(query), dim },
        ffn: need("feed_forward_length")?,
        vocab: file.tensor("token_embd.weight").map_or(0, |t| t.rows()),
        context,
        epsilon: meta.f32(&key("attention.layer_norm_rms_epsilon"))?,
        rope: rope(file, context, dim).await?,
        kv_sharing: 1,
        architecture,
        fingerprint: String::new(),
        profile: None,
    })
}

/// The rotary embedding of a model for `context` tokens, whose heads have `dim` values.
async fn rope(file: &ModelFile, context: usize, dim: usize) -> Result<RopeConfig> {
    let meta = file.meta();
    let fail = |reason: String| Err(Error::format(file.label(), reason));
    let key = |name: &str| format!("{FAMILY}.rope.{name}");
    let float = |name: &str| meta.opt_f32(&key(name));
    let dims = meta.opt_u64(&key("dimension_count"))?.map_or(dim, |n| n as usize);
    // `scale_linear` is the older name. Zero means none.
    let stated = match float("scaling.factor")? {
        Some(factor) => factor,
        None => float("scale_linear")?.unwrap_or(0.0),
    };
    if stated.is_nan() || stated < 0.0 {
        return fail(format!("'{}' is {stated}, which divides no frequency", key("scaling.factor")));
    }
    let factor = if stated > 0.0 { stated } else { 1.0 };
    let mut magnitude = float("scaling.attn_factor")?.unwrap_or(1.0);
    // llama.cpp's converter permutes the rows of Q and K so that a pair's values are neighbours.
    let plain = RopeConfig::plain(float("freq_base")?.unwrap_or(10_000.0), dims);
    let scaling = match meta.opt_str(&key("scaling.type"))?.unwrap_or("linear") {
        "none" => Scaling::None,
        "linear" if factor == 1.0 => Scaling::None,
        "linear" => Scaling::Linear(factor),
        "yarn" => {
            magnitude *= yarn_magnitude(factor, 1.0);
            Scaling::Yarn {
                factor,
                original: meta.opt_u64(&key("scaling.original_context_length"))?.unwrap_or(context as u64)
                    as f32,
                beta_fast: float("scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: float("scaling.yarn_beta_slow")?.unwrap_or(1.0),
                truncate: true,
            }
        }
        other => {
            let key = key("scaling.type");
            return fail(format!("'{key}' is '{other}'; benben knows none, linear and yarn"));
        }
    };
    let divisors = match file.tensor("rope_freqs.weight") {
        None => Vec::new(),
        Some(tensor) if tensor.shape == [dims / 2] => file.dequantize(tensor).await?,
        Some(tensor) => {
            return Err(Error::Shape {
                tensor: tensor.name.clone(),
                expected: vec![dims / 2],
                found: tensor.shape.clone(),
            });
        }
    };
    Ok(RopeConfig { scaling, divisors, magnitude, ..plain })
}
