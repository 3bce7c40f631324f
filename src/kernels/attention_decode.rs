//! Attention of one query token of each sequence over the live rows of a layer's cache, as it is packed.
//!
//! The rows of a head are split into parts that run side by side (flash decoding); each leaves its unnormalised
//! sum of values, its maximum and its sum of weights, and [`mod@super::attention_merge`] joins them.
//! Rows are unpacked inside the loop, from words straight into registers.

use super::attention_merge;
use super::attention_prefill;
use super::check::{Check, Noise, poisoned};
use super::jobs::groups;
use super::kv_code::{KvBits, hadamard};
use super::kv_memory::KvArena;
use super::kv_row::{Format, Heads, KvRows};
use super::kv_sample::Sample;
use super::{attention_decode_groups as split_groups, attention_decode_lanes as lanes};
use crate::Result;
use crate::gpu::{Class, Family, Gpu, Recorder, ShaderKey, Tensor, Tuning};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Job {
    count: u32,
    capacity: u32,
    sets: u32,
    kv_heads: u32,
    group: u32,
    splits: u32,
    first_part: u32,
    parts: u32,
    scale: f32,
    q_from: u32,
    k_from: u32,
    v_from: u32,
    steps_from: u32,
    book_from: u32,
    partials_from: u32,
    logits_from: u32,
}

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

fn key(base: ShaderKey, head_dim: usize, format: Format, store_logits: bool, merged: bool) -> ShaderKey {
    format_key(base, head_dim, format).flag("STORE_LOGITS", store_logits).flag("BIASED", merged)
}

/// The variants of one family: every pair of widths on SmolLM2's heads, one with logits, one of merged rows.
pub(super) fn variants_of(base: fn(Heads) -> ShaderKey) -> Vec<ShaderKey> {
    let heads = Heads { query: 9, kv: 3, dim: 64 };
    let of = |k, v, logits, merged| key(base(heads), heads.dim, Format { k, v }, logits, merged);
    let pairs = KvBits::ALL.into_iter().flat_map(|k| KvBits::ALL.map(|v| of(k, v, false, false)));
    pairs
        .chain([of(KvBits::Eight, KvBits::Four, true, false), of(KvBits::Four, KvBits::Four, false, true)])
        .collect()
}

/// Values of the tensor that carries the parts: `[H][parts][hd + 2]`.
pub fn partial_len(heads: Heads, parts: usize) -> usize {
    heads.query * parts * (heads.dim + 2)
}

/// Which of the parts that are merged together one dispatch leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Its first one.
    pub first: usize,
    /// How many it leaves: the rows of a head are split so often.
    pub splits: usize,
    /// How many there are of all dispatches.
    pub total: usize,
}

/// One token of one sequence, and rows that it attends to.
#[derive(Debug, Clone, Copy)]
pub struct Attend<'a> {
    /// The rows,
    pub rows: &'a KvRows,
    /// and how many of them live; at least one.
    pub count: usize,
    /// The parts that this leaves.
    pub parts: Parts,
    /// Where the token's query begins,
    pub q_from: usize,
    /// its parts,
    pub partials_from: usize,
    /// and its scores by table entry, where those are wanted.
    pub logits_from: Option<usize>,
}

/// Records attention of each token over its live rows.
///
/// A query (`[H * hd]` of `q`) is transformed as the keys are. `partial` has room for [`partial_len`] values a token;
/// transformed values leave it transformed. Where they are wanted, `logits` (`[H][capacity]`) receives the scaled
/// score of every live row at its table entry. Scores of merged rows have their biases added.
pub fn attention_decode(
    rec: &mut Recorder,
    q: &Tensor<f32>,
    scale: f32,
    tokens: &[Attend<'_>],
    partial: &Tensor<f32>,
    logits: &Tensor<f32>,
) -> Result<()> {
    let alike = |a: &Attend<'_>, b: &Attend<'_>| {
        a.logits_from.is_some() == b.logits_from.is_some() && a.rows.beside(b.rows)
    };
    for group in groups(tokens, alike) {
        let (KvRows { heads, format, merged, .. }, stores) = (group[0].rows, group[0].logits_from.is_some());
        let splits = group.iter().map(|token| token.parts.splits).max().unwrap_or(0) as u32;
        let Tuning { family, subgroups, .. } = rec.gpu().tuning();
        type Words = fn(KvBits) -> u32;
        let (base, grid, words) = match family {
            Family::Lanes => {
                (lanes::key(*heads, subgroups), lanes::grid(*heads, splits), lanes::element_words as Words)
            }
            Family::Groups => (
                split_groups::key(*heads),
                split_groups::grid(*heads, splits),
                split_groups::element_words as Words,
            ),
        };
        let kernel = rec.gpu().kernel(&key(base, heads.dim, *format, stores, *merged))?;
        let job = |token: &&Attend<'_>| {
            let [k, v, steps_from, book_from] = token.rows.origins();
            Job {
                count: token.count as u32,
                capacity: token.rows.capacity as u32,
                sets: token.rows.sets as u32,
                kv_heads: heads.kv as u32,
                group: heads.group() as u32,
                splits: token.parts.splits as u32,
                first_part: token.parts.first as u32,
                parts: token.parts.total as u32,
                scale,
                q_from: (token.q_from / 4) as u32,
                k_from: k / words(format.k),
                v_from: v / words(format.v),
                steps_from,
                book_from,
                partials_from: token.partials_from as u32,
                logits_from: token.logits_from.unwrap_or(0) as u32,
            }
        };
        let jobs: Vec<Job> = group.iter().map(job).collect();
        let [k, v, steps, book] = group[0].rows.buffers();
        let bindings = [q.bind(), k, v, steps, book, partial.bind(), logits.bind()];
        rec.dispatch_jobs(&kernel, &jobs, &bindings, grid)?;
    }
    Ok(())
}

async fn check(
    gpu: &Gpu,
    heads: Heads,
    format: Format,
    rows: (usize, usize),
    sets: usize,
    (store_logits, merged): (bool, bool),
) -> Result<Vec<Check>> {
    let mut noise = Noise::new(29);
    // Two sequences of different lengths whose rows lie in the same buffers.
    let (arena, both) = (KvArena::new(gpu, 2), [rows, (rows.0 + 5, rows.1.div_ceil(3))]);
    let mut tokens = Vec::new();
    for rows in both {
        let mut sample = Sample::new(&arena, &mut noise, heads, format, rows, sets)?;
        let bias = if merged { sample.merge(gpu, &mut noise) } else { Vec::new() };
        let q: Vec<f32> = noise.values(heads.q_width()).iter().map(|x| 4.0 * x).collect();
        tokens.push((sample, bias, q));
    }
    let (k_rotated, v_rotated) = (format.k.quantised(), format.v.quantised());
    let mut stored: Vec<f32> = tokens.iter().flat_map(|(_, _, q)| q.clone()).collect();
    if k_rotated {
        stored.chunks_exact_mut(heads.dim).for_each(hadamard);
    }
    let splits = gpu.tuning().attention_splits as usize;
    // A part of another dispatch before these, which must stay as it is.
    let parts = Parts { first: 1, splits, total: splits + 1 };
    let (part_len, most) = (partial_len(heads, parts.total), both[1].0);
    let device_q = gpu.tensor_with(Class::Scratch, "q", &stored);
    let partial = poisoned(gpu, 2 * part_len);
    let logits = poisoned(gpu, 2 * heads.query * most);
    let scale = 0.3;
    let attends = tokens.iter().zip(both).enumerate().map(|(i, ((sample, ..), (_, count)))| Attend {
        rows: &sample.rows,
        count,
        parts,
        q_from: i * heads.q_width(),
        partials_from: i * part_len,
        logits_from: store_logits.then_some(i * heads.query * most),
    });
    let mut rec = Recorder::new(gpu);
    attention_decode(&mut rec, &device_q, scale, &attends.collect::<Vec<_>>(), &partial, &logits)?;
    let (got_partial, got_logits) =
        (rec.read(&partial, 0, partial.len()), rec.read(&logits, 0, logits.len()));
    rec.submit();

    let (got_partial, got_logits) = (got_partial.await?, got_logits.await?);
    let mut checks = Vec::new();
    for (i, ((sample, bias, q), (capacity, count))) in tokens.iter().zip(both).enumerate() {
        let (mut own, mut other) = (Vec::new(), Vec::new());
        for head in got_partial[i * part_len..][..part_len].chunks_exact(parts.total * (heads.dim + 2)) {
            let (first, rest) = head.split_at(heads.dim + 2);
            other.extend_from_slice(first);
            own.extend_from_slice(rest);
        }
        // One query that sees everything is the last row of a block that follows `count - 1` others.
        let mut want = attention_prefill::twin(q, &sample.k, &sample.v, bias, heads, scale, count - 1);
        let joined = attention_merge::twin(&own, heads, splits, v_rotated);
        let label = format!(
            "attention_decode {count} of {capacity}, {format:?}, {heads:?}, {sets} sets, merged {merged}, sequence {i}"
        );
        // What is subtracted from every key shifts all scores of a head alike.
        let centre = got_centre(gpu, &sample.rows).await?;
        for head in 0..if k_rotated { heads.query } else { 0 } {
            let own = &centre[head / heads.group() * heads.dim..][..heads.dim];
            let dot: f32 = q[head * heads.dim..].iter().zip(own).map(|(a, b)| a * b).sum();
            want.lse[head] -= scale * dot;
            want.scores[head].iter_mut().for_each(|score| *score -= scale * dot);
        }
        let mut want_logits = vec![f32::NAN; heads.query * most];
        if store_logits {
            for (head, scores) in want.scores.iter().enumerate() {
                want_logits[head * capacity..][..count].copy_from_slice(scores);
            }
        }
        let own_logits = &got_logits[i * want_logits.len()..][..want_logits.len()];
        checks.extend([
            Check::compare(label.clone() + ", out", &joined.0, &want.out, 1e-4),
            Check::compare(label.clone() + ", lse", &joined.1, &want.lse, 1e-4),
            Check::compare(label.clone() + ", logits", own_logits, &want_logits, 1e-4),
            Check::compare(label + ", other parts", &other, &vec![f32::NAN; other.len()], 0.0),
        ]);
    }
    Ok(checks)
}

async fn got_centre(gpu: &Gpu, rows: &KvRows) -> Result<Vec<f32>> {
    let centre = &rows.basis.centre;
    if centre.is_empty() {
        return Ok(Vec::new());
    }
    let mut rec = Recorder::new(gpu);
    let read = rec.read(centre, 0, centre.len());
    rec.submit();
    read.await
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let smollm2 = Heads { query: 9, kv: 3, dim: 64 };
    let of = |k, v| Format { k, v };
    let (eight, four, three) = (KvBits::Eight, KvBits::Four, KvBits::Three);
    let mut out = check(gpu, smollm2, of(eight, four), (300, 211), 1, (true, true)).await?;
    out.extend(check(gpu, smollm2, of(four, eight), (40, 5), 3, (false, true)).await?);
    out.extend(check(gpu, smollm2, of(three, KvBits::Two), (90, 77), 3, (false, false)).await?);
    out.extend(
        check(gpu, Heads { query: 4, kv: 4, dim: 80 }, Format::F16, (70, 61), 1, (false, false)).await?,
    );
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, families, formats};
    use super::*;
    use proptest::prelude::*;

    fn agrees(heads: Heads, format: Format, rows: (usize, usize), sets: usize, flags: (bool, bool)) {
        for gpu in families() {
            assert_passed(pollster::block_on(check(&gpu, heads, format, rows, sets, flags)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn agrees_with_its_twin(
            kv in 1usize..4,
            group in 1usize..6,
            dim in prop::sample::select(vec![32usize, 64, 96, 128]),
            format in formats(),
            rows in (1usize..500).prop_flat_map(|c| (Just(c), 1..=c)),
            per_head in any::<bool>(),
            flags in any::<(bool, bool)>(),
        ) {
            agrees(Heads { query: kv * group, kv, dim }, format, rows, if per_head { kv } else { 1 }, flags);
        }
    }

    #[test]
    fn wide_odd_and_nearly_empty() {
        let four = Format::both(KvBits::Four);
        agrees(Heads { query: 2, kv: 1, dim: 256 }, four, (90, 70), 1, (true, false));
        agrees(Heads { query: 3, kv: 3, dim: 80 }, Format::F16, (300, 299), 3, (true, true));
        agrees(Heads { query: 3, kv: 1, dim: 64 }, Format::F16, (1, 1), 1, (true, true));
    }
}
