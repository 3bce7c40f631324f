//! Attention of one query token over the live rows of a layer's cache, as it is packed.
//!
//! The rows of a head are split into parts that run side by side (flash decoding); each leaves its unnormalised
//! sum of values, its maximum and its sum of weights, and [`mod@super::attention_merge`] joins them.
//! Rows are unpacked inside the loop, from words straight into registers.

use super::attention_merge;
use super::attention_prefill;
use super::check::{Check, Noise, poisoned};
use super::kv_row::{Heads, KvBits, KvRows, hadamard};
use super::kv_sample::Sample;
use super::{attention_decode_groups as groups, attention_decode_lanes as lanes};
use crate::Result;
use crate::gpu::{Class, Family, Gpu, Recorder, ShaderKey, Tensor};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    count: u32,
    capacity: u32,
    sets: u32,
    kv_heads: u32,
    group: u32,
    splits: u32,
    scale: f32,
}

fn key(base: ShaderKey, head_dim: usize, k: KvBits, v: KvBits, store_logits: bool) -> ShaderKey {
    let k_flag = ["K16", "K8", "K4"][k as usize];
    let v_flag = ["V16", "V8", "V4"][v as usize];
    base.with("HEAD_DIM", head_dim as u32)
        .flag(k_flag, true)
        .flag(v_flag, true)
        .flag("STORE_LOGITS", store_logits)
}

/// The variants of one family: every pair of widths on SmolLM2's heads, one of them with logits.
pub(super) fn variants_of(base: fn(Heads) -> ShaderKey) -> Vec<ShaderKey> {
    let heads = Heads { query: 9, kv: 3, dim: 64 };
    let of = |k, v, logits| key(base(heads), heads.dim, k, v, logits);
    let pairs = KvBits::ALL.into_iter().flat_map(|k| KvBits::ALL.map(|v| of(k, v, false)));
    pairs.chain([of(KvBits::Eight, KvBits::Four, true)]).collect()
}

/// Values of the tensor that carries the parts: `[H][S][hd + 2]`.
pub fn partial_len(heads: Heads, splits: usize) -> usize {
    heads.query * splits * (heads.dim + 2)
}

/// Records attention of one token over the first `count` (at least one) live rows.
///
/// `q` (`[H * hd]`) is Hadamard-transformed when keys have 4 bits. `partial` holds [`partial_len`] values for the
/// device's number of splits; values of 4 bits leave it transformed. With `store_logits`, `logits`
/// (`[H][capacity]`) receives the scaled score of every live row at its table entry.
#[allow(clippy::too_many_arguments)]
pub fn attention_decode(
    rec: &mut Recorder,
    q: &Tensor<f32>,
    rows: &KvRows,
    count: usize,
    scale: f32,
    partial: &Tensor<f32>,
    logits: &Tensor<f32>,
    store_logits: bool,
) -> Result<()> {
    let (heads, tuning) = (rows.heads, rec.gpu().tuning());
    let splits = tuning.attention_splits;
    let (base, grid) = match tuning.family {
        Family::Lanes => (lanes::key(heads), lanes::grid(heads, splits)),
        Family::Groups => (groups::key(heads), groups::grid(heads, splits)),
    };
    let kernel = rec.gpu().kernel(&key(base, heads.dim, rows.k_bits, rows.v_bits, store_logits))?;
    let params = Params {
        count: count as u32,
        capacity: rows.capacity as u32,
        sets: rows.sets as u32,
        kv_heads: heads.kv as u32,
        group: heads.group() as u32,
        splits,
        scale,
    };
    let bindings = [
        q.bind(),
        rows.k_words.bind(),
        rows.k_scales.bind(),
        rows.v_words.bind(),
        rows.v_scales.bind(),
        rows.book.bind(),
        partial.bind(),
        logits.bind(),
    ];
    rec.dispatch(&kernel, &params, &bindings, grid)
}

async fn check(
    gpu: &Gpu,
    heads: Heads,
    (k_bits, v_bits): (KvBits, KvBits),
    (capacity, count): (usize, usize),
    sets: usize,
    store_logits: bool,
) -> Result<Vec<Check>> {
    let mut noise = Noise::new(29);
    let rows = KvRows::new(gpu, heads, k_bits, v_bits, capacity, sets)?;
    let sample = Sample::new(gpu, &mut noise, rows, count);
    let q: Vec<f32> = noise.values(heads.q_width()).iter().map(|x| 4.0 * x).collect();
    let mut stored = q.clone();
    if k_bits.rotated() {
        stored.chunks_exact_mut(heads.dim).for_each(hadamard);
    }
    let splits = gpu.tuning().attention_splits as usize;
    let device_q = gpu.tensor_with(Class::Scratch, "q", &stored);
    let partial = poisoned(gpu, partial_len(heads, splits));
    let logits = poisoned(gpu, heads.query * capacity);
    let scale = 0.3;
    let mut rec = Recorder::new(gpu);
    attention_decode(&mut rec, &device_q, &sample.rows, count, scale, &partial, &logits, store_logits)?;
    let (got_partial, got_logits) =
        (rec.read(&partial, 0, partial.len()), rec.read(&logits, 0, logits.len()));
    rec.submit();

    // One query that sees everything is the last row of a block that follows `count - 1` others.
    let want = attention_prefill::twin(&q, &sample.k, &sample.v, heads, scale, count - 1);
    let merged = attention_merge::twin(&got_partial.await?, heads, splits, v_bits.rotated());
    let label =
        format!("attention_decode {count} of {capacity}, {k_bits:?} {v_bits:?}, {heads:?}, {sets} sets");
    let mut want_logits = vec![f32::NAN; logits.len()];
    if store_logits {
        for (head, scores) in want.scores.iter().enumerate() {
            want_logits[head * capacity..][..count].copy_from_slice(scores);
        }
    }
    Ok(vec![
        Check::compare(label.clone() + ", out", &merged.0, &want.out, 1e-4),
        Check::compare(label.clone() + ", lse", &merged.1, &want.lse, 1e-4),
        Check::compare(label + ", logits", &got_logits.await?, &want_logits, 1e-4),
    ])
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let (sixteen, eight, four) = (KvBits::Sixteen, KvBits::Eight, KvBits::Four);
    let heads = Heads { query: 9, kv: 3, dim: 64 };
    let mut out = check(gpu, heads, (eight, four), (300, 211), 1, true).await?;
    out.extend(check(gpu, heads, (four, eight), (40, 5), 3, false).await?);
    out.extend(check(gpu, Heads { query: 4, kv: 4, dim: 80 }, (sixteen, sixteen), (70, 61), 1, false).await?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, families};
    use super::*;
    use proptest::prelude::*;

    fn agrees(heads: Heads, bits: (KvBits, KvBits), rows: (usize, usize), sets: usize, logits: bool) {
        for gpu in families() {
            assert_passed(pollster::block_on(check(&gpu, heads, bits, rows, sets, logits)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10))]
        #[test]
        fn agrees_with_its_twin(
            kv in 1usize..4,
            group in 1usize..6,
            dim in prop::sample::select(vec![32usize, 64, 96, 128]),
            bits in (0usize..3, 0usize..3),
            rows in (1usize..500).prop_flat_map(|c| (Just(c), 1..=c)),
            per_head in any::<bool>(),
            logits in any::<bool>(),
        ) {
            let heads = Heads { query: kv * group, kv, dim };
            let bits = (KvBits::ALL[bits.0], KvBits::ALL[bits.1]);
            agrees(heads, bits, rows, if per_head { kv } else { 1 }, logits);
        }
    }

    #[test]
    fn wide_odd_and_nearly_empty() {
        let halves = (KvBits::Sixteen, KvBits::Sixteen);
        agrees(Heads { query: 2, kv: 1, dim: 256 }, (KvBits::Four, KvBits::Four), (90, 70), 1, true);
        agrees(Heads { query: 3, kv: 3, dim: 80 }, halves, (300, 299), 3, true);
        agrees(Heads { query: 3, kv: 1, dim: 64 }, halves, (1, 1), 1, true);
    }
}
