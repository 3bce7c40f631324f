//! One decoded token of each sequence: rotates its query and key, and packs its key and value into their slots.

use super::check::{Check, Noise, poisoned};
use super::jobs::groups;
use super::kv_code::{KvBits, hadamard};
use super::kv_memory::KvArena;
use super::kv_row::{Format, Heads, KvRows};
use super::kv_sample::{Stored, shuffled};
use super::rope_split::{Rope, frequencies, rope_key, twin};
use super::team::{team_groups, team_key};
use crate::Result;
use crate::gpu::{Class, Family, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "rope_write", text: include_str!("../../shaders/rope_write.wgsl") };

uniform! {
    struct Job {
        position: u32,
        entry: u32,
        query_heads: u32,
        kv_heads: u32,
        capacity: u32,
        sets: u32,
        scale: f32,
        qkv_from: u32,
        q_from: u32,
        k_from: u32,
        v_from: u32,
        steps_from: u32,
        book_from: u32,
        centre_from: u32,
    }
}

/// One token of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// The rows that its key and value become one of.
    pub rows: &'a KvRows,
    /// The table entry that names their slot, in every set.
    pub entry: usize,
    /// The token's position.
    pub position: usize,
    /// Where its row of `qkv` begins.
    pub qkv_from: usize,
    /// Where its row of `q` begins.
    pub q_from: usize,
}

fn key(family: Family, head_dim: usize, format: Format, (k_rotated, v_rotated): (bool, bool)) -> ShaderKey {
    team_key(SHADER, family, head_dim)
        .with("K_BITS", format.k.bits())
        .with("V_BITS", format.v.bits())
        .flag("STEPS", format.quantised())
        .flag("K_ROTATED", k_rotated)
        .flag("CENTRED", k_rotated)
        .flag("V_ROTATED", v_rotated)
        .flag("APART", apart(family, format))
}

/// True where keys and values have teams of their own: halves have no steps, which a row's key and value keep in one word.
fn apart(family: Family, format: Format) -> bool {
    family == Family::Groups && !format.quantised()
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

/// Records the write of one token's row of `qkv` (`[(H + 2G) * hd]`) for each of `writes`.
///
/// The rotated query goes to `q` (`[H * hd]`), transformed as the keys are. Key and value go into the slot that the
/// entry of every set names; the slot's position is set, its accumulators are emptied. Unless `makes_kv`, a row of
/// `qkv` is `[H * hd]`, and nothing but the query is written.
pub fn rope_write(
    rec: &mut Recorder,
    qkv: &Tensor<f32>,
    rope: &Rope<'_>,
    makes_kv: bool,
    writes: &[Write<'_>],
    q: &Tensor<f32>,
) -> Result<()> {
    let family = rec.gpu().tuning().family;
    for group in groups(writes, |a, b| a.rows.beside(b.rows)) {
        let KvRows { heads, format, basis, .. } = group[0].rows;
        let key = key(family, heads.dim, *format, (basis.k_rotated, basis.v_rotated));
        let kernel = rec.gpu().kernel(&rope.key(key))?;
        let kv_heads = if makes_kv { heads.kv } else { 0 };
        let teams = heads.query + if apart(family, *format) { 2 * kv_heads } else { kv_heads };
        let job = |write: &&Write<'_>| {
            let [k_from, v_from, steps_from, book_from] = write.rows.origins();
            Job {
                position: write.position as u32,
                entry: write.entry as u32,
                query_heads: heads.query as u32,
                kv_heads: kv_heads as u32,
                capacity: write.rows.capacity as u32,
                sets: write.rows.sets as u32,
                scale: rope.scale,
                qkv_from: write.qkv_from as u32,
                q_from: write.q_from as u32,
                k_from,
                v_from,
                steps_from,
                book_from,
                centre_from: write.rows.basis.centre.whole().1 as u32,
            }
        };
        let jobs: Vec<Job> = group.iter().map(job).collect();
        let ([k, v, steps, book], centre) = (group[0].rows.buffers(), basis.centre.whole().0);
        let bindings = [qkv.bind(), rope.frequencies.bind(), q.bind(), k, v, steps, centre, book];
        rec.dispatch_jobs(&kernel, &jobs, &bindings, [team_groups(family, teams), 1])?;
    }
    Ok(())
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
    // Another sequence's rows in the same buffers, and its token before this one.
    let arena = KvArena::new(gpu, 2);
    let (others, ..) = shuffled(&arena, &mut noise, heads, format, 5, sets)?;
    let (rows, centre, mut book) = shuffled(&arena, &mut noise, heads, format, capacity, sets)?;
    let both = noise.values(2 * heads.qkv_width());
    let qkv = &both[heads.qkv_width()..];
    let device_qkv = gpu.tensor_with(Class::Scratch, "qkv", &both);
    let device_frequencies = gpu.tensor_with(Class::Scratch, "frequencies", &frequencies(pairs));
    let rope = Rope { frequencies: &device_frequencies, interleaved, scale };
    let q = poisoned(gpu, 2 * heads.q_width());

    let mut rec = Recorder::new(gpu);
    let other = Write { rows: &others, entry: 1, position: 3, qkv_from: 0, q_from: heads.q_width() };
    let own =
        Write { rows: &rows, entry, position: position as usize, qkv_from: heads.qkv_width(), q_from: 0 };
    rope_write(&mut rec, &device_qkv, &rope, true, &[other, own], &q)?;
    let got_q = rec.read(&q, 0, heads.q_width());
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
