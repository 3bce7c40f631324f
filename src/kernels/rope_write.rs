//! One decoded token: rotates its query and key, and packs its key and value into their slots.

use super::check::{Check, Noise, poisoned};
use super::kv_row::{Heads, KvBits, KvRows, hadamard};
use super::kv_sample::shuffled_tables;
use super::kv_write::row_check;
use super::rope_split::{Rope, frequencies, rope_key, twin};
use super::team::{team_groups, team_key};
use crate::Result;
use crate::gpu::{Class, Family, Gpu, Recorder, Shader, ShaderKey, Tensor};

const SHADER: Shader = Shader { stem: "rope_write", text: include_str!("../../shaders/rope_write.wgsl") };

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    position: u32,
    entry: u32,
    query_heads: u32,
    kv_heads: u32,
    capacity: u32,
    sets: u32,
    scale: f32,
}

fn key(family: Family, head_dim: usize, k_bits: KvBits, v_bits: KvBits) -> ShaderKey {
    team_key(SHADER, family, head_dim).with("K_BITS", k_bits.bits()).with("V_BITS", v_bits.bits())
}

/// Every pair of widths in both families, on heads of 64 that rotate whole.
pub fn variants() -> Vec<ShaderKey> {
    let families = [Family::Lanes, Family::Groups];
    let widths = families.into_iter().flat_map(|f| KvBits::ALL.map(|k| (f, k)));
    let keys = widths.flat_map(|(f, k)| KvBits::ALL.map(|v| rope_key(key(f, 64, k, v), 32, false)));
    keys.chain([rope_key(key(Family::Lanes, 64, KvBits::Eight, KvBits::Four), 16, true)]).collect()
}

/// Records the write of one token's row `qkv` (`[(H + 2G) * hd]`).
///
/// The rotated query, also Hadamard-transformed when keys have 4 bits, goes to `q` (`[H * hd]`). Key and value go
/// into the slot that entry `row` of every set names; the slot's position is set, its accumulators are emptied.
pub fn rope_write(
    rec: &mut Recorder,
    qkv: &Tensor<f32>,
    position: u32,
    rope: &Rope<'_>,
    rows: &KvRows,
    row: usize,
    q: &Tensor<f32>,
) -> Result<()> {
    let family = rec.gpu().tuning().family;
    let heads = rows.heads;
    let kernel = rec.gpu().kernel(&rope.key(key(family, heads.dim, rows.k_bits, rows.v_bits)))?;
    let params = Params {
        position,
        entry: row as u32,
        query_heads: heads.query as u32,
        kv_heads: heads.kv as u32,
        capacity: rows.capacity as u32,
        sets: rows.sets as u32,
        scale: rope.scale,
    };
    let bindings = [
        qkv.bind(),
        rope.frequencies.bind(),
        q.bind(),
        rows.k_words.bind(),
        rows.k_scales.bind(),
        rows.v_words.bind(),
        rows.v_scales.bind(),
        rows.book.bind(),
    ];
    rec.dispatch(&kernel, &params, &bindings, [team_groups(family, heads.query + 2 * heads.kv), 1, 1])
}

async fn check(
    gpu: &Gpu,
    heads: Heads,
    (k_bits, v_bits): (KvBits, KvBits),
    (pairs, interleaved): (usize, bool),
    sets: usize,
) -> Result<Vec<Check>> {
    let mut noise = Noise::new(19);
    let (capacity, entry, position, scale) = (11, 7, 1234, 1.25);
    let rows = KvRows::new(gpu, heads, k_bits, v_bits, capacity, sets)?;
    let mut book = shuffled_tables(&mut noise, &rows);
    gpu.write(&rows.book, 0, &book);
    let qkv = noise.values(heads.qkv_width());
    let device_qkv = gpu.tensor_with(Class::Scratch, "qkv", &qkv);
    let device_frequencies = gpu.tensor_with(Class::Scratch, "frequencies", &frequencies(pairs));
    let rope = Rope { frequencies: &device_frequencies, interleaved, scale };
    let q = poisoned(gpu, heads.q_width());

    let mut rec = Recorder::new(gpu);
    rope_write(&mut rec, &device_qkv, position, &rope, &rows, entry, &q)?;
    let got_q = rec.read(&q, 0, q.len());
    let tensors = [&rows.k_words, &rows.k_scales, &rows.v_words, &rows.v_scales, &rows.book];
    // A tensor of no values still holds 16 bytes, but there is nothing to read.
    let reads: Vec<_> = tensors.map(|t| (!t.is_empty()).then(|| rec.read(t, 0, t.len()))).into();
    rec.submit();
    let mut got = Vec::new();
    for read in reads {
        got.push(if let Some(pending) = read { pending.await? } else { Vec::new() });
    }

    let label = format!("rope_write {k_bits:?} {v_bits:?}, {heads:?}, {pairs} pairs, {sets} sets");
    let mut want_q = Vec::new();
    let mut out = Vec::new();
    for (head, source) in qkv.chunks_exact(heads.dim).enumerate() {
        let mut row = source.to_vec();
        if head < heads.query + heads.kv {
            twin(&mut row, position, &frequencies(pairs), interleaved, scale);
        }
        if head < heads.query {
            if k_bits.rotated() {
                hadamard(&mut row);
            }
            want_q.extend(row);
            continue;
        }
        let (kv_head, kind) = ((head - heads.query) % heads.kv, (head - heads.query) / heads.kv);
        let table = kv_head % sets * 4 * capacity;
        let slot = book[table + entry] as usize;
        for (region, value) in [(1, position), (2, 0), (3, 0)] {
            book[table + region * capacity + slot] = value;
        }
        let bits = [k_bits, v_bits][kind];
        let (n, m) = (bits.words_per_row(heads.dim), bits.scales_per_row(heads.dim));
        let at = slot * heads.kv + kv_head;
        let (words, scales) = (&got[2 * kind][at * n..][..n], &got[2 * kind + 1][at * m..][..m]);
        out.push(row_check(&format!("{label}, row {kind}.{kv_head}"), words, scales, bits, &row));
    }
    out.push(Check::compare(label.clone() + ", q", &got_q.await?, &want_q, 1e-5));
    out.push(Check::equal(label + ", book", &got[4], &book));
    Ok(out)
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let smollm2 = Heads { query: 9, kv: 3, dim: 64 };
    let mut out = check(gpu, smollm2, (KvBits::Eight, KvBits::Four), (32, false), 1).await?;
    out.extend(check(gpu, smollm2, (KvBits::Four, KvBits::Sixteen), (32, false), 3).await?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, families};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn agrees_with_its_twin(
            kv in 1usize..4,
            group in 1usize..4,
            (dim, pairs) in prop::sample::select(vec![(64usize, 32usize), (96, 24), (128, 1)]),
            interleaved in any::<bool>(),
            bits in (0usize..3, 0usize..3),
            per_head in any::<bool>(),
        ) {
            let heads = Heads { query: kv * group, kv, dim };
            let bits = (KvBits::ALL[bits.0], KvBits::ALL[bits.1]);
            for gpu in families() {
                let sets = if per_head { kv } else { 1 };
                assert_passed(pollster::block_on(check(&gpu, heads, bits, (pairs, interleaved), sets)));
            }
        }
    }
}
