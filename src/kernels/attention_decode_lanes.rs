//! Decode attention for software adapters: a lane per part of the rows and per few query heads.

use super::kv_code::KvBits;
use super::kv_row::Heads;
use crate::gpu::{Shader, ShaderKey};

const SHADER: Shader = Shader {
    stem: "attention_decode_lanes",
    text: include_str!("../../shaders/attention_decode_lanes.wgsl"),
};

/// Lanes of a workgroup: few, so that even a handful of heads occupies several threads.
const LANES: u32 = 8;

/// Values that are unpacked together, where heads are made of such blocks.
const BLOCK: usize = 32;

/// Query heads of one KV head that a lane serves at once. More than four sums of a head overflow the caches.
fn tile(heads: Heads) -> u32 {
    (1..=4).rev().find(|&tile| heads.group().is_multiple_of(tile)).unwrap_or(1) as u32
}

pub(super) fn key(heads: Heads, subgroups: bool) -> ShaderKey {
    let whole = heads.dim.is_multiple_of(BLOCK);
    let key = ShaderKey::new(SHADER).with("TILE", tile(heads));
    let key = key.with("BLOCK", if whole { 4 } else { 1 }).flag("WHOLE_BLOCKS", whole);
    key.flag("SUBGROUPS", joins(heads, subgroups))
}

/// True where the parts of a workgroup's lanes become one.
pub(super) fn joins(heads: Heads, subgroups: bool) -> bool {
    subgroups && heads.dim.is_multiple_of(BLOCK)
}

pub(super) fn grid(heads: Heads, subgroups: bool, splits: u32) -> [u32; 2] {
    let workgroups = if joins(heads, subgroups) { splits } else { splits.div_ceil(LANES) };
    [workgroups, heads.query as u32 / tile(heads)]
}

/// Words of what `kv_block` loads at once.
pub(super) fn element_words(bits: KvBits) -> u32 {
    match bits {
        KvBits::Sixteen | KvBits::Eight | KvBits::Four => 4,
        KvBits::Three => 1,
        KvBits::Two => 2,
    }
}

/// Every pair of widths on SmolLM2's heads, logits, merged rows, and outputs.
pub fn variants() -> Vec<ShaderKey> {
    super::attention_keys::variants_of(|heads| key(heads, true), true)
}
