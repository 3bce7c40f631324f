//! What kernels of decode attention are compiled for.

use super::attention_parts::Flags;
use super::kv_code::KvBits;
use super::kv_row::{Format, Heads};
use super::operand::Code;
use crate::gpu::ShaderKey;

/// What a kernel that imports `kv_eight` is compiled for.
pub(super) fn format_key(base: ShaderKey, head_dim: usize, format: Format) -> ShaderKey {
    let k_flag = ["K16", "K8", "K4", "K3", "K2"][format.k as usize];
    let v_flag = ["V16", "V8", "V4", "V3", "V2"][format.v as usize];
    base.with("HEAD_DIM", head_dim as u32)
        .with("K_BITS", format.k.bits())
        .with("V_BITS", format.v.bits())
        .flag(k_flag, true)
        .flag(v_flag, true)
        .flag("STEPS", format.quantised())
}

pub(super) fn key(base: ShaderKey, head_dim: usize, format: Format, flags: Flags) -> ShaderKey {
    let Flags { store_logits, merged, whole, operand } = flags;
    let base = operand.map_or(base.clone(), |code| code.made_by(base).flag("OPERAND", true));
    format_key(base, head_dim, format)
        .flag("STORE_LOGITS", store_logits)
        .flag("BIASED", merged)
        .flag("WHOLE", whole.is_some())
        .flag("V_ROTATED", whole == Some(true))
}

/// The variants of one kernel: every pair of widths on SmolLM2's heads, one with logits, one of merged rows, and where
/// the output can come out, one for each kind of it, and one with logits beside it.
pub(super) fn variants_of(base: fn(Heads) -> ShaderKey, wholes: bool) -> Vec<ShaderKey> {
    let heads = Heads { query: 9, kv: 3, dim: 64 };
    let of = |k, v, flags| key(base(heads), heads.dim, Format { k, v }, flags);
    let (plain, four) = (Flags::default(), KvBits::Four);
    let pairs = KvBits::ALL.into_iter().flat_map(|k| KvBits::ALL.map(|v| of(k, v, plain)));
    let only = [(true, false), (false, false), (true, true)].into_iter().filter(|_| wholes);
    let whole = |(rotated, store_logits)| Flags { whole: Some(rotated), store_logits, ..plain };
    let only: Vec<_> = only.map(|kinds| of(four, four, whole(kinds))).collect();
    let others = [
        of(KvBits::Eight, four, Flags { store_logits: true, ..plain }),
        of(four, four, Flags { merged: true, ..plain }),
    ];
    pairs.chain(only).chain(others).collect()
}

/// The variants that leave the next product's operand.
pub(super) fn operand_variants(base: fn(Heads) -> ShaderKey) -> Vec<ShaderKey> {
    let heads = Heads { query: 32, kv: 8, dim: 128 };
    let of = |code, rotated| {
        let flags = Flags { whole: Some(rotated), operand: Some(code), ..Flags::default() };
        key(base(heads), heads.dim, Format::both(KvBits::Four), flags)
    };
    Code::ALL.into_iter().flat_map(|code| [false, true].map(|rotated| of(code, rotated))).collect()
}
