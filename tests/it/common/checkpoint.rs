//! How a Hugging Face checkpoint of the Llama family names what GGUF names otherwise.

/// Hugging Face's name for a tensor.
pub fn their_name(ours: &str) -> String {
    let Some((layer, part)) = ours.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        return match ours {
            "output.weight" => "lm_head.weight".to_owned(),
            _ => ours.replace("token_embd", "model.embed_tokens").replace("output_norm", "model.norm"),
        };
    };
    let part = match part.trim_end_matches(".weight") {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        other => panic!("{other}"),
    };
    format!("model.layers.{layer}.{part}.weight")
}
