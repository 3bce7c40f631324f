//! The running score of all live rows: what decode queries pay to them, as a sum and a count.
//!
//! ```text
//! A ← fade · A + weight · a      B ← fade · B + weight      a: a query's attention to the row, mean over the heads
//! ```
//!
//! With a fade of 1, A is the sum of what a row received and A / B its mean; with 0 both are the last query's. A
//! weight of n lets one query stand for the n - 1 before it, which were not looked at.

use super::attention_parts::{Left, Room, logits_stride};
use super::check::{Check, Noise};
use super::jobs::groups;
use super::kv_memory::KvArena;
use super::kv_row::{Format, Heads, KvRows};
use super::kv_sample::{compare_books, shuffled};
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "observe", text: include_str!("../../shaders/observe.wgsl") };

uniform! {
    struct Job {
        heads: u32,
        sets: u32,
        capacity: u32,
        count: u32,
        fade: f32,
        weight: f32,
        logits_from: u32,
        ends_from: u32,
        book_from: u32,
    }
}

/// A query of one sequence, and the rows that it attended to.
#[derive(Debug, Clone, Copy)]
pub struct Observe<'a> {
    /// The rows,
    pub rows: &'a KvRows,
    /// of which so many live.
    pub count: usize,
    /// What attention left.
    pub left: Left,
    /// What is left of the sums before.
    pub fade: f32,
    /// Queries that this one stands for.
    pub weight: f32,
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// Records what each query adds to the sums of the live rows of every table of its sequence.
///
/// `rooms` has the queries' scores and ends, see [`Room`]. A table's rows get the mean over the query heads that share it.
pub fn observe(rec: &mut Recorder, rooms: &Tensor<f32>, queries: &[Observe<'_>]) -> Result<()> {
    for group in groups(queries, |a, b| a.rows.book.beside(&b.rows.book)) {
        let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
        let job = |query: &&Observe<'_>| Job {
            heads: (query.rows.heads.query / query.rows.sets) as u32,
            sets: query.rows.sets as u32,
            capacity: query.rows.capacity as u32,
            count: query.count as u32,
            fade: query.fade,
            weight: query.weight,
            logits_from: query.left.logits_from as u32,
            ends_from: query.left.ends_from as u32,
            book_from: query.rows.book.whole().1 as u32,
        };
        let jobs: Vec<Job> = group.iter().map(job).collect();
        let most = |of: fn(&Job) -> u32| jobs.iter().map(of).max().unwrap_or(0);
        let grid = [most(|job| job.count).div_ceil(64), most(|job| job.sets)];
        rec.dispatch_jobs(&kernel, &jobs, &[rooms.bind(), group[0].rows.book.whole().0], grid)?;
    }
    Ok(())
}

/// The CPU twin, on the words of a row book; of `logits` a head has `stride`.
pub fn twin(
    (logits, stride): (&[f32], usize),
    ends: &[f32],
    book: &mut [u32],
    sets: usize,
    count: usize,
    fade: f32,
    weight: f32,
) {
    let (capacity, heads) = (book.len() / 4 / sets, ends.len() / 2 / sets);
    for (set, book) in book.chunks_exact_mut(4 * capacity).enumerate() {
        for i in 0..count {
            let own = set * heads..(set + 1) * heads;
            let pays = |head: usize| (logits[head * stride + i] - ends[2 * head]).exp() / ends[2 * head + 1];
            let paid: f32 = own.map(pays).sum();
            let slot = book[i] as usize;
            for (region, gain) in [(2, weight * paid / heads as f32), (3, weight)] {
                let word = &mut book[region * capacity + slot];
                *word = (fade * f32::from_bits(*word) + gain).to_bits();
            }
        }
    }
}

/// Rooms of two queries: their values, and where they begin.
pub(super) fn noisy_rooms(noise: &mut Noise, room: Room) -> (Vec<f32>, [Left; 2]) {
    let (mut values, len) = (noise.values(2 * room.values()), room.values());
    let lefts = [0, 1].map(|i| room.at(i * len));
    for Left { ends_from, partials_from, .. } in lefts {
        // Sums of weights are at least 1.
        values[ends_from..partials_from].chunks_exact_mut(2).for_each(|ends| ends[1] = 1.0 + ends[1].abs());
    }
    (values, lefts)
}

async fn check(gpu: &Gpu, heads: Heads, per_head: bool, count: usize, fade: f32) -> Result<Vec<Check>> {
    let (mut noise, capacity, sets) = (Noise::new(31), count + 7, if per_head { heads.kv } else { 1 });
    let arena = KvArena::new(gpu, 2);
    let mut sequence = || shuffled(&arena, &mut noise, heads, Format::F16, capacity, sets);
    let mut both = [sequence()?, sequence()?];
    let (values, lefts) = noisy_rooms(&mut noise, Room::new(heads, 1, capacity));
    let rooms = gpu.tensor_with(Class::Scratch, "rooms", &values);
    let counts = [count, count.div_ceil(3)];
    let mut rec = Recorder::new(gpu);
    // Twice, so that the second time there is something to fade.
    for weight in [2.5, 3.0] {
        let query = |i: usize| Observe { rows: &both[i].0, count: counts[i], left: lefts[i], fade, weight };
        observe(&mut rec, &rooms, &[query(0), query(1)])?;
        for (((.., book), left), count) in both.iter_mut().zip(lefts).zip(counts) {
            let logits = (&values[left.logits_from..], logits_stride(capacity));
            twin(logits, &values[left.ends_from..left.partials_from], book, sets, count, fade, weight);
        }
    }
    let reads: Vec<_> = both.iter().map(|(rows, ..)| rec.read(&rows.book, 0, rows.book.len())).collect();
    rec.submit();
    let mut checks = Vec::new();
    for ((got, (.., book)), count) in reads.into_iter().zip(&both).zip(counts) {
        let label = format!("observe {count} rows, {heads:?}, {sets} sets, fade {fade}");
        checks.extend(compare_books(&label, &got.await?, book, capacity));
    }
    Ok(checks)
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let heads = Heads { query: 9, kv: 3, dim: 64 };
    let mut out = check(gpu, heads, true, 131, 0.5).await?;
    out.extend(check(gpu, heads, false, 77, 1.0).await?);
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
            kv in 1usize..4,
            group in 1usize..4,
            per_head in any::<bool>(),
            count in 1usize..300,
            fade in prop::sample::select(vec![0.0f32, 0.9, 1.0]),
        ) {
            let heads = Heads { query: kv * group, kv, dim: 32 };
            assert_passed(pollster::block_on(check(&gpu(), heads, per_head, count, fade)));
        }
    }
}
