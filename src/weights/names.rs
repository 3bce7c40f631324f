//! Hugging Face's tensor names put into GGUF's words, which are the ones used everywhere else.
//!
//! Only names change. GGUF files of the llama family store the rows of q and k permuted for pairwise
//! rotation and safetensors do not; that is for the model to know.

/// GGUF's name for a tensor of a Hugging Face checkpoint; unknown names are returned as they are.
pub(super) fn canonical(name: &str) -> String {
    translate(name).unwrap_or_else(|| name.to_owned())
}

fn translate(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let stem = stem.strip_prefix("model.").unwrap_or(stem);
    let global = match stem {
        "embed_tokens" => Some("token_embd"),
        "norm" => Some("output_norm"),
        "lm_head" => Some("output"),
        _ => None,
    };
    if let Some(global) = global {
        return Some(format!("{global}.{kind}"));
    }
    let (layer, part) = stem.strip_prefix("layers.")?.split_once('.')?;
    if layer.is_empty() || !layer.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = match part {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{part}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn known_names_are_translated() {
        for (theirs, ours) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.layers.3.self_attn.q_proj.weight", "blk.3.attn_q.weight"),
            ("model.layers.11.self_attn.k_proj.bias", "blk.11.attn_k.bias"),
            ("model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight"),
            ("model.layers.0.self_attn.k_norm.weight", "blk.0.attn_k_norm.weight"),
            ("model.layers.7.mlp.down_proj.weight", "blk.7.ffn_down.weight"),
            ("model.layers.7.post_attention_layernorm.weight", "blk.7.ffn_norm.weight"),
            ("layers.7.input_layernorm.weight", "blk.7.attn_norm.weight"),
        ] {
            assert_eq!(canonical(theirs), ours);
        }
    }

    #[test]
    fn unknown_names_are_kept() {
        for name in
            ["model.layers.x.mlp.up_proj.weight", "model.layers.1.router.weight", "norm", "", "lm_head.scale"]
        {
            assert_eq!(canonical(name), name);
        }
    }
}
