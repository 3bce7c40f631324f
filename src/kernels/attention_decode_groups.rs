//! Decode attention for real GPUs: a workgroup per part of the rows and query head.

use super::kv_code::KvBits;
use super::kv_row::Heads;
use crate::gpu::{Shader, ShaderKey};

const SHADER: Shader = Shader {
    stem: "attention_decode_groups",
    text: include_str!("../../shaders/attention_decode_groups.wgsl"),
};

/// Lanes of a workgroup and rows of a tile; at least one lane for each eight values of a head.
const LANES: u32 = 64;

pub(super) fn key(_heads: Heads) -> ShaderKey {
    ShaderKey::new(SHADER).with("LANES", LANES)
}

pub(super) fn grid(heads: Heads, splits: u32) -> [u32; 2] {
    [splits, heads.query as u32]
}

/// Words of what `kv_eight` loads at once.
pub(super) fn element_words(bits: KvBits) -> u32 {
    match bits {
        KvBits::Sixteen => 4,
        KvBits::Eight => 2,
        KvBits::Four | KvBits::Three | KvBits::Two => 1,
    }
}

/// Every pair of widths on SmolLM2's heads, and the logits.
pub fn variants() -> Vec<ShaderKey> {
    super::attention_keys::variants_of(key, false)
}
