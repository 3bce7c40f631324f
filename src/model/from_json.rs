//! A model's shape from `config.json`, with the defaults of transformers.

use serde_json::Value;

use super::config::Config;
use super::fields::{self, FILE};
use super::rope::{RopeConfig, Scaling, yarn_magnitude};
use crate::kernels::kv_row::Heads;
use crate::weights::ModelFile;
use crate::{Error, Result};

/// What transformers takes for fields that a file leaves out, by its `model_type`.
struct Defaults {
    model_type: &'static str,
    kv_heads: Option<usize>,
    ffn: usize,
    context: usize,
    window: Option<u64>,
}

const DEFAULTS: [Defaults; 2] = [
    Defaults { model_type: "llama", kv_heads: None, ffn: 11_008, context: 2048, window: None },
    Defaults { model_type: "mistral", kv_heads: Some(8), ffn: 14_336, context: 131_072, window: Some(4096) },
];

fn bad<T>(reason: String) -> Result<T> {
    Err(Error::format(FILE, reason))
}

/// The shape of the model in safetensors, unchecked.
///
/// # Errors
/// [`Error::Format`] when a field is something else than it should be, or asks for what benben does not do.
pub(super) fn config(file: &ModelFile, json: &Value) -> Result<Config> {
    let architecture = json["model_type"].as_str().unwrap_or("unknown").to_owned();
    let Some(defaults) = DEFAULTS.iter().find(|defaults| defaults.model_type == architecture) else {
        return bad(format!(
            "'model_type' is '{architecture}'; benben runs the Llama family ('llama' and 'mistral'), so take a model \
             of that"
        ));
    };
    fields::check(json)?;
    let optional = |name: &str| match &json[name] {
        Value::Null => Ok(None),
        value => match value.as_u64() {
            Some(n) => Ok(Some(n as usize)),
            None => bad(format!("'{name}' should be a non-negative integer, but is {value}")),
        },
    };
    let size = |name: &str, default: usize| Ok::<_, Error>(optional(name)?.unwrap_or(default));
    let (width, query) = (size("hidden_size", 4096)?, size("num_attention_heads", 32)?);
    let context = size("max_position_embeddings", defaults.context)?;
    let dim = size("head_dim", width.checked_div(query).unwrap_or(0))?;
    // `null` is not the default: it says as many as there are query heads, and no window.
    let kv = match json.get("num_key_value_heads") {
        None => defaults.kv_heads.unwrap_or(query),
        Some(_) => size("num_key_value_heads", query)?,
    };
    let window = json.get("sliding_window").map_or(defaults.window, Value::as_u64);
    if let Some(window) = window.filter(|&window| (window as usize) < context) {
        return bad(format!(
            "'sliding_window' is {window} of {context} tokens, but benben's attention sees all tokens; take a model \
             without it"
        ));
    }
    if let Some(other) =
        json["layer_types"].as_array().and_then(|t| t.iter().find(|t| *t != "full_attention"))
    {
        return bad(format!("'layer_types' has {other}, but benben's layers have full_attention"));
    }
    let vocab = file.tensor("token_embd.weight").map_or(0, |t| t.rows());
    if let Some(stated) = optional("vocab_size")?.filter(|&stated| stated != vocab && vocab > 0) {
        return bad(format!("'vocab_size' is {stated}, but the embedding has {vocab} rows"));
    }
    if json["tie_word_embeddings"] != true && file.tensor("output.weight").is_none() {
        return bad(
            "'tie_word_embeddings' is not true, but there is no tensor 'lm_head.weight'; one of the two is needed"
                .to_owned(),
        );
    }
    let name = ["_name_or_path", "name_or_path"].into_iter().find_map(|name| json[name].as_str());
    Ok(Config {
        name: name.filter(|n| !n.is_empty()).unwrap_or(file.label()).to_owned(),
        layers: size("num_hidden_layers", 32)?,
        width,
        heads: Heads { query, kv, dim },
        kv_sharing: if json["use_cla"] == true { size("cla_share_factor", 1)? } else { 1 },
        ffn: size("intermediate_size", defaults.ffn)?,
        vocab,
        context,
        epsilon: match &json["rms_norm_eps"] {
            Value::Null => 1e-6,
            value => match value.as_f64() {
                Some(epsilon) => epsilon as f32,
                None => return bad(format!("'rms_norm_eps' should be a number, but is {value}")),
            },
        },
        rope: rope(json, context, dim)?,
        architecture,
        fingerprint: String::new(),
        profile: None,
    })
}

/// The rotary embedding of a model for `context` tokens, whose heads have `dim` values.
fn rope(json: &Value, context: usize, dim: usize) -> Result<RopeConfig> {
    // Newer files gather what older ones spread over `rope_theta` and `rope_scaling`.
    let filled = |name: &str| json[name].as_object().filter(|fields| !fields.is_empty());
    let none = serde_json::Map::new();
    let fields = filled("rope_scaling").or(filled("rope_parameters")).unwrap_or(&none);
    let field = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let kind = field("rope_type").or(field("type")).and_then(Value::as_str).unwrap_or("default");
    fields::check_scaling(kind, fields)?;
    let number = |name: &str| match field(name) {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) => Ok(Some(number as f32)),
            None => bad(format!("its RoPE scaling's '{name}' should be a number, but is {value}")),
        },
    };
    let need = |name: &str| match number(name)? {
        Some(number) if number > 0.0 => Ok(number),
        Some(number) => bad(format!("its RoPE scaling's '{name}' is {number}, but should be above 0")),
        None => bad(format!("its RoPE scaling has no '{name}'")),
    };
    let base = match number("rope_theta")? {
        Some(base) => base,
        None => json["rope_theta"].as_f64().unwrap_or(10_000.0) as f32,
    };
    let original = match json["original_max_position_embeddings"].as_f64() {
        Some(original) => original as f32,
        None => number("original_max_position_embeddings")?.unwrap_or(context as f32),
    };
    let mut magnitude = 1.0;
    let scaling = match kind {
        "linear" => Scaling::Linear(need("factor")?),
        "llama3" => Scaling::Llama3 {
            factor: need("factor")?,
            low: need("low_freq_factor")?,
            high: need("high_freq_factor")?,
            original,
        },
        "yarn" => {
            let factor = if fields.get("factor").is_some_and(Value::is_null) {
                context as f32 / original
            } else {
                need("factor")?
            };
            let given = |name: &str| Ok::<_, Error>(number(name)?.filter(|&number| number != 0.0));
            magnitude = match (number("attention_factor")?, given("mscale")?, given("mscale_all_dim")?) {
                (Some(magnitude), ..) => magnitude,
                (None, Some(one), Some(all)) => yarn_magnitude(factor, one) / yarn_magnitude(factor, all),
                _ => yarn_magnitude(factor, 1.0),
            };
            Scaling::Yarn {
                factor,
                original,
                beta_fast: given("beta_fast")?.unwrap_or(32.0),
                beta_slow: given("beta_slow")?.unwrap_or(1.0),
                truncate: field("truncate") != Some(&Value::Bool(false)),
            }
        }
        _ => Scaling::None,
    };
    Ok(RopeConfig { interleaved: false, scaling, magnitude, ..RopeConfig::plain(base, dim) })
}
