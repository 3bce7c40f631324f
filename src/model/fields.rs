//! What is known of the fields of `config.json`; whatever else one says is refused.

use serde_json::Value;

use crate::{Error, Result};

pub(super) const FILE: &str = "config.json";

/// What is known of a field. One that is `null` says nothing.
enum Known {
    /// Shape or tokenizer are read from it.
    Read,
    /// It changes no answer to a prompt.
    Idle,
    /// It changes no answer at these values, in JSON; at others benben would have to do what it does not.
    At(&'static [&'static str]),
}
use Known::{At, Idle, Read};

/// The classes whose computation this is.
const CLASSES: Known = At(&[
    "[]",
    r#"["LlamaForCausalLM"]"#,
    r#"["LLaMAForCausalLM"]"#,
    r#"["LLaMaForCausalLM"]"#,
    r#"["MistralForCausalLM"]"#,
]);

/// Fields by their names, besides those that begin with `_`, which are a program's notes to itself.
const FIELDS: [(&str, Known); 9] = [
    (
        "model_type hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim \
         max_position_embeddings rms_norm_eps vocab_size rope_theta rope_scaling rope_parameters \
         original_max_position_embeddings tie_word_embeddings sliding_window layer_types use_cla cla_share_factor \
         bos_token_id eos_token_id name_or_path",
        Read,
    ),
    ("architectures", CLASSES),
    ("hidden_act hidden_activation", At(&["\"silu\"", "\"swish\""])),
    (
        "attention_bias mlp_bias bias qkv_bias use_bias is_encoder_decoder add_cross_attention rope_interleaved \
         qk_layernorm use_qk_norm use_sliding_window use_parallel_residual",
        At(&["false"]),
    ),
    ("partial_rotary_factor rotary_pct", At(&["1", "1.0"])),
    ("pruned_heads", At(&["{}"])),
    // Of other programs, and of uses of a model that are not answering.
    (
        "transformers_version transformers.js_config torch_dtype dtype auto_map use_cache is_llama_config is_decoder \
         tokenizer_class return_dict output_hidden_states output_attentions torchscript use_bfloat16 \
         tie_encoder_decoder cross_attention_hidden_size chunk_size_feed_forward id2label label2id num_labels \
         finetuning_task task_specific_params problem_type prefix attn_implementation use_flash_attn \
         use_flash_attention unsloth_version unsloth_fixed model_name pretraining_tp max_window_layers \
         max_sequence_length model_max_length pad_token_id unk_token_id sep_token_id mask_token_id \
         decoder_start_token_id cache_implementation keys_to_ignore_at_inference",
        Idle,
    ),
    // Of training.
    (
        "initializer_range attention_dropout hidden_dropout hidden_dropout_prob attn_dropout attn_pdrop embd_pdrop \
         resid_pdrop dropout gradient_checkpointing neftune_noise_alpha",
        Idle,
    ),
    // Of sampling, which is the caller's here.
    (
        "max_length min_length max_new_tokens do_sample early_stopping num_beams num_beam_groups diversity_penalty \
         temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size \
         encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores return_dict_in_generate \
         forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty \
         suppress_tokens begin_suppress_tokens",
        Idle,
    ),
];

/// The kinds of RoPE scaling with the parameters that each reads.
const SCALINGS: [(&str, &str); 4] = [
    ("default", ""),
    ("linear", "factor"),
    ("llama3", "factor low_freq_factor high_freq_factor"),
    ("yarn", "factor attention_factor beta_fast beta_slow mscale mscale_all_dim truncate"),
];

/// Parameters of every kind, read or without meaning.
const OF_EVERY_SCALING: &str = "rope_type type rope_theta finetuned original_max_position_embeddings";

fn lists(names: &str, name: &str) -> bool {
    names.split_whitespace().any(|listed| listed == name)
}

/// Refuses a field that asks for what benben does not do, or of which it does not know what it asks for.
///
/// # Errors
/// [`Error::Format`] with the field and its value.
pub(super) fn check(json: &Value) -> Result<()> {
    let refuse = |reason: String| Err(Error::format(FILE, reason));
    let Some(fields) = json.as_object() else { return refuse("it is no object".to_owned()) };
    for (name, value) in fields.iter().filter(|(name, value)| !value.is_null() && !name.starts_with('_')) {
        let admitted = match FIELDS.iter().find(|(names, _)| lists(names, name)) {
            Some((_, Read | Idle)) => true,
            Some((_, At(values))) => values.contains(&value.to_string().as_str()),
            None => false,
        };
        if !admitted {
            let value: String = value.to_string().chars().take(80).collect();
            return refuse(format!(
                "'{name}' is {value}, which benben does not implement, and answers could be others without it; take \
                 a model without it"
            ));
        }
    }
    Ok(())
}

/// Refuses a kind of RoPE scaling that benben does not know, and a parameter that it does not read for this kind.
///
/// # Errors
/// [`Error::Format`] with the kind, or with the parameter and its value.
pub(super) fn check_scaling(kind: &str, fields: &serde_json::Map<String, Value>) -> Result<()> {
    let refuse = |reason: String| Err(Error::format(FILE, reason));
    let Some((_, read)) = SCALINGS.iter().find(|(name, _)| *name == kind) else {
        return refuse(format!(
            "its RoPE scaling is '{kind}'; benben knows default, linear, llama3 and yarn"
        ));
    };
    // Whatever scales by one scales nothing.
    let idle = |value: &Value| value.is_null() || value.as_f64() == Some(1.0);
    let known = |name: &str| lists(read, name) || lists(OF_EVERY_SCALING, name);
    match fields.iter().find(|(name, value)| !known(name) && !idle(value)) {
        Some((name, value)) => refuse(format!(
            "its RoPE scaling of type '{kind}' has '{name}' ({value}), which benben does not implement for that \
             type; name another rope_type or take a model without it"
        )),
        None => Ok(()),
    }
}
