//! The running score of generated rows: what each decode query pays to them, as two sums per row.
//!
//! Generated rows are thinned in blocks of `E` consecutive columns, once `R + 1` queries have followed a block's
//! last column. A row's score is the mean of its attention from exactly those queries, with weights that grow
//! linearly from 1 to ω. Two sums carry it, whatever `R` and ω are, so no attention row is ever stored:
//!
//! ```text
//! A = Σ_t a_t      B = Σ_t (t − first) · a_t      score ∝ A + (ω − 1)/R · B       t over queries after the block
//!
//! column    S−1 S  S+1 … S+E−2 | S+E−1 …           the last prompt column opens block 0, since the first
//!           '---- block 0 ---'   '- block 1        query of the decode is the one at column S
//! first query that counts   ^ S+E−1
//! ```
//!
//! A row's sums must be zero when it is written; prompt rows before column S − 1 never get any.

use super::attention_parts::{Left, Room, logits_stride};
use super::check::{Check, Noise};
use super::jobs::groups;
use super::kv_row::Heads;
use super::observe::noisy_rooms;
use crate::Result;
use crate::gpu::{Arena, Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "accumulate", text: include_str!("../../shaders/accumulate.wgsl") };

/// Where a query stands among the generated blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Positions before generation, S.
    pub prompt: u32,
    /// Columns per block, E; at least 1.
    pub block: u32,
    /// The current query's position.
    pub position: u32,
}

uniform! {
    struct Job {
        heads: u32,
        capacity: u32,
        first: u32,
        count: u32,
        prompt: u32,
        block: u32,
        position: u32,
        logits_from: u32,
        ends_from: u32,
        book_from: u32,
    }
}

/// A query of one sequence, and the rows that it attended to.
#[derive(Debug, Clone)]
pub struct Accumulate<'a> {
    /// A row book with one table,
    pub book: &'a Tensor<u32>,
    /// and its entries that may be thinned; the ones before are the prompt's.
    pub entries: std::ops::Range<usize>,
    /// Query heads.
    pub heads: usize,
    /// What attention left.
    pub left: Left,
    /// Where the query stands.
    pub window: Window,
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// Records `A += a` and `B += age · a` for each query's entries, where `a` is the head-mean attention of the query at
/// `window.position`. `rooms` has the queries' scores and ends, see [`Room`].
pub fn accumulate(rec: &mut Recorder, rooms: &Tensor<f32>, queries: &[Accumulate<'_>]) -> Result<()> {
    for group in groups(queries, |a, b| a.book.beside(b.book)) {
        let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
        let job = |query: &&Accumulate<'_>| Job {
            heads: query.heads as u32,
            capacity: (query.book.len() / 4) as u32,
            first: query.entries.start as u32,
            count: query.entries.end as u32,
            prompt: query.window.prompt,
            block: query.window.block,
            position: query.window.position,
            logits_from: query.left.logits_from as u32,
            ends_from: query.left.ends_from as u32,
            book_from: query.book.whole().1 as u32,
        };
        let jobs: Vec<Job> = group.iter().map(job).collect();
        let longest = group.iter().map(|query| query.entries.len()).max().unwrap_or(0);
        let bindings = [rooms.bind(), group[0].book.whole().0];
        rec.dispatch_jobs(&kernel, &jobs, &bindings, [longest.div_ceil(64) as u32, 1])?;
    }
    Ok(())
}

/// The CPU twin, on the words of a row book with one table; of `logits` a head has `stride`.
pub fn twin(
    (logits, stride): (&[f32], usize),
    ends: &[f32],
    book: &mut [u32],
    rows: std::ops::Range<usize>,
    window: Window,
) {
    let (capacity, heads) = (book.len() / 4, ends.len() / 2);
    for i in rows {
        let slot = book[i] as usize;
        let column = i64::from(book[capacity + slot]) - i64::from(window.prompt) + 1;
        let last = column.div_euclid(i64::from(window.block)) * i64::from(window.block)
            + i64::from(window.block)
            - 2;
        let age = i64::from(window.position) - i64::from(window.prompt) - last - 1;
        if column < 0 || age < 0 {
            continue;
        }
        let pays = |head: usize| (logits[head * stride + i] - ends[2 * head]).exp() / ends[2 * head + 1];
        let attention = (0..heads).map(pays).sum::<f32>() / heads as f32;
        let mut add = |region: usize, value: f32| {
            let word = &mut book[region * capacity + slot];
            *word = (f32::from_bits(*word) + value).to_bits();
        };
        add(2, attention);
        add(3, age as f32 * attention);
    }
}

async fn check(
    gpu: &Gpu,
    entries: std::ops::Range<usize>,
    heads: usize,
    window: Window,
) -> Result<Vec<Check>> {
    let (mut noise, capacity) = (Noise::new(5), entries.end + 6);
    let room = Room::new(Heads { query: heads, kv: 1, dim: 8 }, 1, capacity);
    let (values, lefts) = noisy_rooms(&mut noise, room);
    let rooms = gpu.tensor_with(Class::Scratch, "rooms", &values);
    // The second query stands earlier, and fewer rows live.
    let (fewer, earlier) =
        (entries.start..entries.end - entries.len() / 3, window.position - window.position / 4);
    let queries = [(entries, window), (fewer, Window { position: earlier, ..window })];
    let mut arena = Arena::new(gpu, Class::Scratch, "book");
    let mut both: Vec<(Tensor<u32>, Vec<u32>)> = Vec::new();
    for (entries, window) in &queries {
        // Slots in reverse, and consecutive positions that end with the query's own.
        let position =
            |slot| (window.position as usize + 1 + capacity).saturating_sub(entries.end + slot) as u32;
        let slots = (0..capacity as u32).rev().chain((0..capacity).map(position));
        let book: Vec<u32> = slots.chain(noise.values(2 * capacity).into_iter().map(f32::to_bits)).collect();
        both.push((arena.tensor(book.len(), 2), book));
    }
    both.iter().for_each(|(tensor, book)| gpu.write(tensor, 0, book));
    let mut rec = Recorder::new(gpu);
    let query = |i: usize| {
        let (entries, window) = queries[i].clone();
        Accumulate { book: &both[i].0, entries, heads, left: lefts[i], window }
    };
    accumulate(&mut rec, &rooms, &[query(0), query(1)])?;
    let reads: Vec<_> = both.iter().map(|(tensor, _)| rec.read(tensor, 0, tensor.len())).collect();
    rec.submit();
    let mut checks = Vec::new();
    for (i, got) in reads.into_iter().enumerate() {
        let ((entries, window), left) = (queries[i].clone(), lefts[i]);
        let label = format!("accumulate rows {entries:?}, {heads} heads, {window:?}");
        let (book, ends) = (&mut both[i].1, &values[left.ends_from..left.partials_from]);
        twin((&values[left.logits_from..], logits_stride(capacity)), ends, book, entries, window);
        let sums =
            |words: &[u32]| words[2 * capacity..].iter().map(|&w| f32::from_bits(w)).collect::<Vec<f32>>();
        checks.push(Check::compare(label, &sums(&got.await?), &sums(book), 1e-5));
    }
    Ok(checks)
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let mut out = check(gpu, 0..131, 3, Window { prompt: 100, block: 8, position: 150 }).await?;
    out.extend(check(gpu, 20..77, 5, Window { prompt: 40, block: 5, position: 99 }).await?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn agrees_with_its_twin(
            prompt in 1u32..60,
            steps in 0u32..150,
            heads in 1usize..6,
            block in 1u32..20,
            first in 0usize..40,
        ) {
            let window = Window { prompt, block, position: prompt + steps };
            let count = (prompt + steps + 1) as usize;
            let rows = first.min(count)..count;
            assert_passed(pollster::block_on(check(&gpu(), rows, heads, window)));
        }
    }
}
