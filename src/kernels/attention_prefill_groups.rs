//! Prefill attention for real GPUs: a workgroup per 64 queries of a head, keys and values through shared memory.

use crate::gpu::{Shader, ShaderKey};

const SHADER: Shader = Shader {
    stem: "attention_prefill_groups",
    text: include_str!("../../shaders/attention_prefill_groups.wgsl"),
};

/// Queries of a workgroup.
const ROWS: usize = 64;

/// The widest head whose sums stay in a lane's registers: four queries by a quad of every 32 dimensions.
pub(super) const MOST_DIM: usize = 128;

pub(super) fn key(head_dim: usize) -> ShaderKey {
    ShaderKey::new(SHADER).with("HEAD_DIM", head_dim as u32)
}

pub(super) fn grid(heads: usize, count: usize) -> [u32; 3] {
    [count.div_ceil(ROWS) as u32, heads as u32, 1]
}

/// Heads of 64, 80 and 128, and biases.
pub fn variants() -> Vec<ShaderKey> {
    vec![key(64), key(80), key(MOST_DIM), key(64).flag("BIASED", true)]
}
