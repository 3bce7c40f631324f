//! Attention of one query token of each sequence over the live rows of a layer's cache, as they are packed.
//!
//! The rows of a head are split into parts that run side by side (flash decoding); each leaves its unnormalised
//! sum of values, its maximum and its sum of weights, and [`mod@super::attention_merge`] joins them. The output comes out
//! at once where a head has one part only and the lanes of a workgroup can join theirs, and where the workgroup that comes
//! last can join what the others left.
//! Rows are unpacked inside the loop, from words straight into registers.

use super::attention_keys::key;
use super::attention_merge::{Merge, attention_merge};
use super::attention_parts::{Attend, Job, Parts, Room, Which, logits_stride, split};
use super::attention_prefill;
use super::check::{Check, Noise, poisoned};
use super::jobs::groups;
use super::kv_code::{KvBits, hadamard};
use super::kv_memory::KvArena;
use super::kv_row::{Format, Heads, KvRows};
use super::kv_sample::Sample;
use super::matrix::GROUP;
use super::operand::{Code, Operand, unpack};
use super::quantise::quantise;
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Tensor};

/// What attention of some tokens leaves.
#[derive(Debug, Clone, Copy)]
pub struct Attended<'a> {
    /// A [`super::attention_parts::Room`] for each token, of as many parts a pool as
    /// [`crate::gpu::Tuning::attention_splits`].
    pub rooms: &'a Tensor<f32>,
    /// `[H * hd]` a token.
    pub out: &'a Tensor<f32>,
    /// Where it goes instead, if a product reads it in this code: a column for each `[H * hd]` of `out`.
    pub operand: Option<(&'a Operand, Code)>,
    /// `[H]` a token, in their order: workgroups that are done with their rows. Zero at first, and zero again when all are.
    pub arrived: &'a Tensor<u32>,
}

/// Records attention of each token over its live rows.
///
/// A query (`[H * hd]` of `q`) is transformed as the keys are; the output is transformed back. Scores of merged rows have
/// their biases added.
pub fn attention_decode(
    rec: &mut Recorder,
    q: &Tensor<f32>,
    scale: f32,
    tokens: &[Attend<'_>],
    to: Attended<'_>,
) -> Result<()> {
    let tuning = rec.gpu().tuning();
    let which = Which::of(tuning);
    let numbered = tokens.iter().enumerate();
    let mut parts: Vec<Parts<'_>> =
        numbered.flat_map(|(at, token)| split(tuning, token, (at, tokens.len()))).collect();
    let Some(KvRows { heads, .. }) = parts.first().map(|parts| parts.rows) else { return Ok(()) };
    // Where some of the outputs come out of a merge, all are quantised behind it.
    let at_once = parts.iter().all(|parts| parts.whole) && heads.dim.is_multiple_of(GROUP);
    if let (Some((_, code)), true, Which::Subgroups(_)) = (to.operand, at_once, which) {
        parts.iter_mut().for_each(|parts| parts.operand = Some(code));
    }
    let alike = |a: &Parts<'_>, b: &Parts<'_>| a.flags() == b.flags() && a.rows.beside(b.rows);
    for group in groups(&parts, alike) {
        let (KvRows { heads, format, .. }, flags) = (group[0].rows, group[0].flags());
        let splits = group.iter().map(|parts| parts.splits).max().unwrap_or(0) as u32;
        let kernel = rec.gpu().kernel(&key(which.key(*heads), heads.dim, *format, flags))?;
        let jobs: Vec<Job> = group.iter().map(|parts| parts.job(which, scale)).collect();
        let [k, v, steps, book] = group[0].rows.buffers();
        let mut bindings = vec![q.bind(), k, v, steps, book, to.rooms.bind()];
        bindings.extend(match (flags.whole, which) {
            (None, _) => vec![],
            (Some(_), Which::Subgroups(_)) => {
                let operand = to.operand.filter(|_| flags.operand.is_some());
                let out = operand.map_or(to.out.bind(), |(operand, _)| operand.words.bind());
                vec![out, to.arrived.bind()]
            }
            (Some(_), _) => vec![to.out.bind()],
        });
        let grid = which.grid(*heads, splits);
        rec.dispatch_jobs(&kernel, &jobs, &bindings, grid)?;
    }
    let in_parts = parts.iter().filter(|parts| parts.first == 0 && !parts.whole);
    let merge = |parts: &Parts<'_>| Merge {
        splits: parts.total,
        v_rotated: parts.rows.basis.v_rotated,
        left: parts.token.left,
        out_from: parts.token.out_from,
    };
    let merges: Vec<Merge> = in_parts.map(merge).collect();
    attention_merge(rec, to.rooms, *heads, &merges, to.out)?;
    match to.operand {
        Some((operand, code)) if parts.iter().any(|parts| parts.operand.is_none()) => {
            quantise(rec, to.out.bind(), None, tokens.len(), operand, code)
        }
        _ => Ok(()),
    }
}

async fn check(
    gpu: &Gpu,
    heads: Heads,
    format: Format,
    rows: (usize, usize),
    sets: usize,
    [wants_logits, merged, twice]: [bool; 3],
) -> Result<Vec<Check>> {
    let mut noise = Noise::new(29);
    // Two sequences of different lengths whose rows lie in the same buffers.
    let (arena, both) = (KvArena::new(gpu, 2), [rows, (rows.0 + 5, rows.1.div_ceil(3))]);
    let mut sequences = Vec::new();
    for rows in both {
        let mut sample = Sample::new(&arena, &mut noise, heads, format, rows, sets)?;
        let bias = if merged { sample.merge(gpu, &mut noise) } else { Vec::new() };
        let q: Vec<f32> = noise.values(heads.q_width()).iter().map(|x| 4.0 * x).collect();
        sequences.push((sample, bias, q));
    }
    let mut stored: Vec<f32> = sequences.iter().flat_map(|(_, _, q)| q.clone()).collect();
    if format.k.quantised() {
        stored.chunks_exact_mut(heads.dim).for_each(hadamard);
    }
    let room = Room::new(heads, 2 * gpu.tuning().attention_splits as usize, both[1].0);
    // What lies before and behind a token's room must stay as it is.
    let gap = heads.dim + 2;
    let begin = |i: usize| gap + i * (room.values() + gap);
    let device_q = gpu.tensor_with(Class::Scratch, "q", &stored);
    let (rooms, out) = (poisoned(gpu, begin(2)), poisoned(gpu, 2 * heads.q_width()));
    let scale = 0.3;
    // Of two pools the first one has some of the rows of the second.
    let again = |count: usize| if twice { count.div_ceil(2) } else { 0 };
    let tokens = sequences.iter().zip(both).enumerate().map(|(i, ((sample, ..), (_, count)))| Attend {
        pools: vec![(&sample.rows, again(count)), (&sample.rows, count)],
        q_from: i * heads.q_width(),
        // The second token's output has the first one's place.
        out_from: (1 - i) * heads.q_width(),
        left: room.at(begin(i)),
        wants_logits,
    });
    let mut rec = Recorder::new(gpu);
    let arrived = gpu.tensor_with(Class::Scratch, "arrived", &vec![0; 2 * heads.query]);
    let operand = Operand::new(gpu, 2, heads.q_width());
    let to = Attended { rooms: &rooms, out: &out, operand: None, arrived: &arrived };
    let tokens = tokens.collect::<Vec<_>>();
    // The second time finds what the first one left.
    attention_decode(&mut rec, &device_q, scale, &tokens, to)?;
    attention_decode(&mut rec, &device_q, scale, &tokens, to)?;
    let quantises = gpu.tuning().planes > 0;
    if quantises {
        let operand = Some((&operand, Code::TwoBytes));
        attention_decode(&mut rec, &device_q, scale, &tokens, Attended { operand, ..to })?;
    }
    let got_operand = rec.read(&operand.words, 0, operand.words.len());
    let got_arrived = rec.read(&arrived, 0, arrived.len());
    let (got_out, got_rooms) = (rec.read(&out, 0, out.len()), rec.read(&rooms, 0, rooms.len()));
    rec.submit();

    let (got_out, got_rooms) = (got_out.await?, got_rooms.await?);
    let got_operand = unpack(Code::TwoBytes, heads.q_width(), 2, &got_operand.await?).values;
    let label = format!("attention_decode {format:?}, {heads:?}, counters");
    let mut checks = vec![Check::equal(label, &got_arrived.await?, &vec![0; 2 * heads.query])];
    for (i, ((sample, bias, q), (capacity, count))) in sequences.iter().zip(both).enumerate() {
        let rows = |all: &[f32], width: usize| [&all[..all.len().min(again(count) * width)], all].concat();
        let (k, v) = (rows(&sample.k, heads.kv_width()), rows(&sample.v, heads.kv_width()));
        // One query that sees everything is the last row of a block that follows all others.
        let before = again(count) + count - 1;
        let mut want = attention_prefill::twin(q, &k, &v, &rows(bias, heads.kv), heads, scale, before);
        // What is subtracted from every key shifts all scores of a head alike.
        let centre = got_centre(gpu, &sample.rows).await?;
        for head in 0..if format.k.quantised() { heads.query } else { 0 } {
            let own = &centre[head / heads.group() * heads.dim..][..heads.dim];
            let dot: f32 = q[head * heads.dim..].iter().zip(own).map(|(a, b)| a * b).sum();
            want.lse[head] -= scale * dot;
            want.scores[head].iter_mut().for_each(|score| *score -= scale * dot);
        }
        let left = room.at(begin(i));
        let got_lse: Vec<f32> = got_rooms[left.ends_from..][..2 * heads.query]
            .chunks_exact(2)
            .map(|ends| ends[0] + ends[1].ln())
            .collect();
        let got_logits = &got_rooms[left.logits_from..begin(i + 1) - gap];
        let mut want_logits = vec![f32::NAN; got_logits.len()];
        if wants_logits {
            let stride = logits_stride(capacity);
            for (head, scores) in want.scores.iter().enumerate() {
                want_logits[head * stride..][..count].copy_from_slice(&scores[again(count)..]);
                // What is stored beside the last row is of no row.
                if count % 2 == 1 {
                    want_logits[head * stride + count] = got_logits[head * stride + count];
                }
            }
        }
        let label = format!(
            "attention_decode {count} of {capacity}, {format:?}, {heads:?}, {sets} sets, merged {merged}, twice {twice}, \
             sequence {i}"
        );
        let own = |all: &[f32], width: usize, at: usize| all[at * width..][..width].to_vec();
        let around = [begin(i), begin(i + 1)].map(|at| &got_rooms[at - gap..at]).concat();
        let out = own(&got_out, heads.q_width(), 1 - i);
        checks.extend([
            Check::compare(label.clone() + ", out", &out, &want.out, 1e-4),
            Check::compare(label.clone() + ", lse", &got_lse, &want.lse, 1e-4),
            Check::compare(label.clone() + ", logits", got_logits, &want_logits, 1e-4),
            Check::compare(label.clone() + ", others", &around, &vec![f32::NAN; 2 * gap], 0.0),
        ]);
        if quantises {
            let operand = own(&got_operand, heads.q_width(), 1 - i);
            checks.push(Check::compare(label + ", operand", &operand, &want.out, 2e-4));
        }
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
    let mut out = check(gpu, smollm2, of(eight, four), (300, 211), 1, [true, true, false]).await?;
    out.extend(check(gpu, smollm2, of(four, eight), (40, 5), 3, [false, true, true]).await?);
    out.extend(check(gpu, smollm2, of(three, KvBits::Two), (90, 77), 3, [false; 3]).await?);
    out.extend(check(gpu, Heads { query: 4, kv: 4, dim: 80 }, Format::F16, (70, 61), 1, [false; 3]).await?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, families, formats};
    use super::*;
    use crate::gpu::Tuning;
    use proptest::prelude::*;

    fn agrees(heads: Heads, format: Format, rows: (usize, usize), sets: usize, flags: [bool; 3]) {
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
            flags in any::<[bool; 3]>(),
        ) {
            agrees(Heads { query: kv * group, kv, dim }, format, rows, if per_head { kv } else { 1 }, flags);
        }
    }

    #[test]
    fn wide_odd_and_nearly_empty() {
        let four = Format::both(KvBits::Four);
        agrees(Heads { query: 2, kv: 1, dim: 256 }, four, (90, 70), 1, [true, false, false]);
        agrees(Heads { query: 3, kv: 3, dim: 80 }, Format::F16, (300, 299), 3, [true; 3]);
        agrees(Heads { query: 3, kv: 1, dim: 64 }, Format::F16, (1, 1), 1, [true, true, false]);
        // Long enough for two parts whatever the kernel.
        agrees(Heads { query: 2, kv: 1, dim: 96 }, four, (1100, 1090), 1, [false; 3]);
        // More query heads than a workgroup serves at once.
        agrees(Heads { query: 14, kv: 2, dim: 64 }, four, (300, 290), 2, [false; 3]);
        agrees(Heads { query: 17, kv: 1, dim: 8 }, Format::F16, (9, 7), 1, [false, false, true]);
    }

    #[test]
    fn more_parts_than_are_merged_at_once() {
        let heads = Heads { query: 1, kv: 1, dim: 32 };
        for gpu in families() {
            let gpu = gpu.with_tuning(Tuning { attention_splits: 64, ..gpu.tuning() });
            let eight = Format::both(KvBits::Eight);
            assert_passed(pollster::block_on(check(
                &gpu,
                heads,
                eight,
                (4300, 4290),
                1,
                [false, false, true],
            )));
        }
    }
}
