//! One decoded token: rotates its query and key, and packs its key and value into their slots.

use super::check::{Check, Noise, poisoned};
use super::kv_code::{KvBits, hadamard};
use super::kv_row::{Basis, Format, Heads, KvRows};
use super::kv_sample::{Stored, shuffled};
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

fn key(family: Family, head_dim: usize, format: Format, (k_rotated, v_rotated): (bool, bool)) -> ShaderKey {
    team_key(SHADER, family, head_dim)
        .with("K_BITS", format.k.bits())
        .with("V_BITS", format.v.bits())
        .flag("STEPS", format.quantised())
        .flag("K_ROTATED", k_rotated)
        .flag("CENTRED", k_rotated)
        .flag("V_ROTATED", v_rotated)
}

/// Pairs of widths in both families, on heads of 64 that rotate whole.
pub fn variants() -> Vec<ShaderKey> {
    let pairs = KvBits::ALL.into_iter().zip(KvBits::ALL.into_iter().cycle().skip(1));
    let formats = pairs.map(|(k, v)| Format { k, v }).chain(KvBits::ALL.map(Format::both));
    let own = |f: Format| (f, (f.k.quantised(), f.v.quantised()));
    let all: Vec<_> = formats.map(own).chain([(Format::F16, (true, true))]).collect();
    let of = |family| {
        all.iter().map(move |&(format, rotated)| rope_key(key(family, 64, format, rotated), 32, false))
    };
    let interleaved = key(Family::Lanes, 64, Format { k: KvBits::Eight, v: KvBits::Four }, (true, true));
    of(Family::Lanes).chain(of(Family::Groups)).chain([rope_key(interleaved, 16, true)]).collect()
}

/// Records the write of one token's row `qkv` (`[(H + 2G) * hd]`).
///
/// The rotated query goes to `q` (`[H * hd]`), transformed as the keys are. Key and value go into the slot that
/// entry `row` of every set names; the slot's position is set, its accumulators are emptied. Unless `makes_kv`,
/// `qkv` is `[H * hd]`, and nothing but the query is written.
#[expect(clippy::too_many_arguments, reason = "a row of three kinds, and where each goes")]
pub fn rope_write(
    rec: &mut Recorder,
    qkv: &Tensor<f32>,
    position: u32,
    rope: &Rope<'_>,
    rows: &KvRows,
    row: usize,
    makes_kv: bool,
    q: &Tensor<f32>,
) -> Result<()> {
    let family = rec.gpu().tuning().family;
    let (heads, Basis { k_rotated, v_rotated, centre }) = (rows.heads, &rows.basis);
    let key = key(family, heads.dim, rows.format, (*k_rotated, *v_rotated));
    let kernel = rec.gpu().kernel(&rope.key(key))?;
    let params = Params {
        position,
        entry: row as u32,
        query_heads: heads.query as u32,
        kv_heads: if makes_kv { heads.kv as u32 } else { 0 },
        capacity: rows.capacity as u32,
        sets: rows.sets as u32,
        scale: rope.scale,
    };
    let bindings = [
        qkv.bind(),
        rope.frequencies.bind(),
        q.bind(),
        rows.k_words.bind(),
        rows.v_words.bind(),
        rows.steps.bind(),
        centre.bind(),
        rows.book.bind(),
    ];
    let teams = heads.query + if makes_kv { heads.kv } else { 0 };
    rec.dispatch(&kernel, &params, &bindings, [team_groups(family, teams), 1, 1])
}

async fn check(
    gpu: &Gpu,
    heads: Heads,
    format: Format,
    (pairs, interleaved): (usize, bool),
    sets: usize,
) -> Result<Vec<Check>> {
    let mut noise = Noise::new(19);
    let (capacity, entry, position, scale) = (11, 7, 1234, 1.25);
    let (rows, centre, mut book) = shuffled(gpu, &mut noise, heads, format, capacity, sets)?;
    let qkv = noise.values(heads.qkv_width());
    let device_qkv = gpu.tensor_with(Class::Scratch, "qkv", &qkv);
    let device_frequencies = gpu.tensor_with(Class::Scratch, "frequencies", &frequencies(pairs));
    let rope = Rope { frequencies: &device_frequencies, interleaved, scale };
    let q = poisoned(gpu, heads.q_width());

    let mut rec = Recorder::new(gpu);
    rope_write(&mut rec, &device_qkv, position, &rope, &rows, entry, true, &q)?;
    let got_q = rec.read(&q, 0, q.len());
    let stored = Stored::read(&mut rec, &rows).await?;

    let label = format!("rope_write {format:?}, {heads:?}, {pairs} pairs, {sets} sets");
    let mut want_q = Vec::new();
    let mut out = Vec::new();
    for (head, source) in qkv.chunks_exact(heads.dim).enumerate() {
        let mut row = source.to_vec();
        if head < heads.query + heads.kv {
            twin(&mut row, position, &frequencies(pairs), interleaved, scale);
        }
        if head < heads.query {
            if rows.basis.k_rotated {
                hadamard(&mut row);
            }
            want_q.extend(row);
            continue;
        }
        let (kv_head, values) = ((head - heads.query) % heads.kv, head >= heads.query + heads.kv);
        let table = kv_head % sets * 4 * capacity;
        let slot = book[table + entry] as usize;
        for (region, value) in [(1, position), (2, 0), (3, 0)] {
            book[table + region * capacity + slot] = value;
        }
        let label = format!("{label}, head {kv_head}, values {values}");
        out.push(stored.check(&label, values, (slot, kv_head), &row, &centre));
    }
    out.push(Check::compare(label.clone() + ", q", &got_q.await?, &want_q, 1e-5));
    out.push(Check::equal(label + ", book", &stored.book, &book));
    Ok(out)
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let smollm2 = Heads { query: 9, kv: 3, dim: 64 };
    let mixed = Format { k: KvBits::Eight, v: KvBits::Three };
    let mut out = check(gpu, smollm2, mixed, (32, false), 1).await?;
    let mixed = Format { k: KvBits::Four, v: KvBits::Sixteen };
    out.extend(check(gpu, smollm2, mixed, (32, false), 3).await?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, families, formats};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn agrees_with_its_twin(
            kv in 1usize..4,
            group in 1usize..4,
            (dim, pairs) in prop::sample::select(vec![(64usize, 32usize), (96, 24), (128, 1)]),
            interleaved in any::<bool>(),
            format in formats(),
            per_head in any::<bool>(),
        ) {
            let heads = Heads { query: kv * group, kv, dim };
            for gpu in families() {
                let sets = if per_head { kv } else { 1 };
                assert_passed(pollster::block_on(check(&gpu, heads, format, (pairs, interleaved), sets)));
            }
        }
    }
}
