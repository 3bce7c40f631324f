//! Thins blocks of live rows: the least attended ones leave the tables.
//!
//! Only the tables change; rows stay in their slots. The dropped slots go behind the live rows, so that they are
//! the next to be written, and the host's count of live rows shrinks by a number that it knows beforehand.

use super::check::{Check, Noise};
use super::jobs::groups;
use crate::Result;
use crate::gpu::{Arena, Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "thin", text: include_str!("../../shaders/thin.wgsl") };

/// What a row's two running sums say of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Score {
    /// `A + slope · B`.
    Sloped(f32),
    /// `A / B`, as of a sum and a count of at least 1.
    Mean,
}

/// The rows of a table that are up for selection, and how many of them stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Table index of the first.
    pub start: usize,
    /// How many there are.
    pub block: usize,
    /// How many of them stay.
    pub keep: usize,
}

uniform! {
    struct Job {
        sets: u32,
        capacity: u32,
        start: u32,
        block: u32,
        keep: u32,
        count: u32,
        mean: u32,
        slope: f32,
        book_from: u32,
        old_from: u32,
    }
}

/// Rows of one sequence that some leave.
#[derive(Debug, Clone, Copy)]
pub struct Thin<'a> {
    /// Its row book,
    pub book: &'a Tensor<u32>,
    /// of so many tables,
    pub sets: usize,
    /// in each of which so many rows live.
    pub count: usize,
    /// Which of them are up for selection.
    pub cut: Cut,
    /// What decides.
    pub score: Score,
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// Records that of each cut's rows those with the largest score stay live, in every table, ties going to the lowest
/// index; NaN and negative scores count as 0.
///
/// Afterwards the first `count` entries of a table are: the rows before the block, the kept ones, the rows after it, and
/// the dropped slots, each in their old order. `scratch` holds at least `sets * (count - cut.start)` words for each.
///
/// # Errors
/// [`crate::Error::Invalid`] for a cut that is not within the live rows.
pub fn thin(rec: &mut Recorder, scratch: &Tensor<u32>, thins: &[Thin<'_>]) -> Result<()> {
    for group in groups(thins, |a, b| a.book.beside(b.book)) {
        let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
        let (mut jobs, mut old_from) = (Vec::with_capacity(group.len()), 0);
        for &&Thin { book, sets, count, cut: Cut { start, block, keep }, score } in &group {
            if keep > block || start + block > count {
                let message = format!("cannot keep {keep} of {block} rows from row {start} of {count}");
                return Err(crate::Error::Invalid(message));
            }
            let (mean, slope) = match score {
                Score::Sloped(slope) => (0, slope),
                Score::Mean => (1, 0.0),
            };
            jobs.push(Job {
                sets: sets as u32,
                capacity: (book.len() / 4 / sets) as u32,
                start: start as u32,
                block: block as u32,
                keep: keep as u32,
                count: count as u32,
                mean,
                slope,
                book_from: book.whole().1 as u32,
                old_from: old_from as u32,
            });
            old_from += sets * (count - start);
        }
        let most = jobs.iter().map(|job| job.sets).max().unwrap_or(0);
        rec.dispatch_jobs(&kernel, &jobs, &[scratch.bind(), group[0].book.whole().0], [most, 1])?;
    }
    Ok(())
}

/// The CPU twin, on the words of a row book.
pub fn twin(book: &mut [u32], sets: usize, cut: Cut, count: usize, score: Score) {
    let Cut { start, block, keep } = cut;
    let capacity = book.len() / 4 / sets;
    for book in book.chunks_exact_mut(4 * capacity) {
        let sum = |region: usize, slot: u32| f32::from_bits(book[region * capacity + slot as usize]);
        let score = |slot: u32| match score {
            Score::Sloped(slope) => (sum(2, slot) + slope * sum(3, slot)).max(0.0),
            Score::Mean => (sum(2, slot) / sum(3, slot).max(1.0)).max(0.0),
        };
        let slots = book[start..start + block].to_vec();
        let mut order: Vec<usize> = (0..block).collect();
        order.sort_by(|&a, &b| score(slots[b]).total_cmp(&score(slots[a])));
        let (mut kept, mut dropped) = (order[..keep].to_vec(), order[keep..].to_vec());
        kept.sort_unstable();
        dropped.sort_unstable();
        let mut table: Vec<u32> = kept.iter().map(|&i| slots[i]).collect();
        table.extend(&book[start + block..count]);
        table.extend(dropped.iter().map(|&i| slots[i]));
        book[start..count].copy_from_slice(&table);
    }
}

/// A book whose table is a random permutation; its sums repeat, so that some rows tie.
fn book(capacity: usize, noise: &mut Noise) -> Vec<u32> {
    let mut slots: Vec<u32> = (0..capacity as u32).collect();
    for i in 1..capacity {
        slots.swap(i, noise.below(i as u32 + 1) as usize);
    }
    let positions = (0..capacity as u32).map(|slot| slot * 3);
    let sums = (0..2 * capacity).map(|_| (noise.below(9) as f32 * 0.125).to_bits());
    slots.iter().copied().chain(positions).chain(sums).collect()
}

async fn check(
    gpu: &Gpu,
    (cut, after, free): (Cut, usize, usize),
    sets: usize,
    score: Score,
) -> Result<Vec<Check>> {
    let count = cut.start + cut.block + after;
    let capacity = count + free;
    let (mut noise, mut arena) = (Noise::new(7), Arena::new(gpu, Class::Scratch, "book"));
    // The second sequence has one table, and drops every row that is up.
    let cuts = [(cut, sets), (Cut { keep: 0, ..cut }, 1)];
    let mut books =
        cuts.map(|(_, sets)| (0..sets).flat_map(|_| book(capacity, &mut noise)).collect::<Vec<u32>>());
    let tensors = [0, 1].map(|i| arena.tensor(books[i].len(), 2));
    tensors.iter().zip(&books).for_each(|(tensor, book)| gpu.write(tensor, 0, book));
    let scratch = gpu.tensor(Class::Scratch, "scratch", (sets + 1) * capacity);
    let mut rec = Recorder::new(gpu);
    let thins = [0, 1].map(|i| {
        let (cut, sets) = cuts[i];
        Thin { book: &tensors[i], sets, count, cut, score }
    });
    thin(&mut rec, &scratch, &thins)?;
    let reads: Vec<_> = tensors.iter().map(|tensor| rec.read(tensor, 0, tensor.len())).collect();
    rec.submit();
    let mut checks = Vec::new();
    for (i, got) in reads.into_iter().enumerate() {
        let (cut, sets) = cuts[i];
        twin(&mut books[i], sets, cut, count, score);
        let label = format!("thin {cut:?}, {after} after, {free} free, {sets} sets, {score:?}");
        checks.push(Check::equal(label, &got.await?, &books[i]));
    }
    Ok(checks)
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let cut = |start, block, keep| Cut { start, block, keep };
    let mut out = check(gpu, (cut(33, 16, 7), 105, 9), 1, Score::Sloped(0.5)).await?;
    out.extend(check(gpu, (cut(4, 700, 683), 37, 0), 3, Score::Mean).await?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::accumulate::{Accumulate, Window, accumulate};
    use super::super::attention_parts::Room;
    use super::super::check::testing::{assert_passed, gpu};
    use super::super::kv_row::Heads;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn agrees_with_its_twin(
            start in 0usize..100,
            block in 0usize..600,
            after in 0usize..200,
            free in 0usize..20,
            percent in 0usize..=100,
            sets in 1usize..4,
            mean in any::<bool>(),
        ) {
            let cut = Cut { start, block, keep: block * percent / 100 };
            let (shape, score) = ((cut, after, free.max(1)), if mean { Score::Mean } else { Score::Sloped(0.3) });
            assert_passed(pollster::block_on(check(&gpu(), shape, sets, score)));
        }
    }

    #[test]
    fn refuses_blocks_outside_the_live_rows() {
        let gpu = gpu();
        let book = gpu.tensor(Class::Scratch, "book", 400);
        let scratch = gpu.tensor(Class::Scratch, "scratch", 100);
        let mut rec = Recorder::new(&gpu);
        for (start, block, keep) in [(0, 98, 1), (0, 8, 9), (90, 8, 4)] {
            let cut = Cut { start, block, keep };
            let thins = [Thin { book: &book, sets: 1, count: 97, cut, score: Score::Mean }];
            assert!(thin(&mut rec, &scratch, &thins).is_err(), "{cut:?}");
        }
    }

    /// One layer's decode, kept as the reference keeps it: whole rows of attention by column.
    struct Ring {
        prompt: usize,
        block: usize,
        recent: usize,
        keep: usize,
        omega: f32,
    }

    const HEADS: usize = 3;
    const CAPACITY: usize = 160;

    impl Ring {
        /// The score of a column from the last `recent + 1` attention rows, the newest weighing ω.
        fn score(&self, rows: &[Vec<f32>], column: usize) -> f32 {
            let recent = &rows[rows.len() - 1 - self.recent..];
            let step = (self.omega - 1.0) / self.recent as f32;
            recent.iter().enumerate().map(|(i, row)| (1.0 + step * i as f32) * row[column]).sum()
        }

        /// Decodes `steps` tokens on the device and in the ring; returns the number of blocks that were thinned.
        fn decode(&self, gpu: &Gpu, steps: usize) -> usize {
            let mut noise = Noise::new(29);
            let mut words = book(CAPACITY, &mut noise);
            words[CAPACITY..].fill(0);
            let mut columns: Vec<usize> = (0..self.prompt).collect();
            for &column in &columns {
                let slot = words[column] as usize;
                words[CAPACITY + slot] = column as u32;
            }
            let book = gpu.tensor_with(Class::Scratch, "book", &words);
            let scratch = gpu.tensor(Class::Scratch, "scratch", CAPACITY);
            let mut rec = Recorder::new(gpu);
            let (mut rows, mut thinned) = (Vec::new(), 0);
            for position in self.prompt..self.prompt + steps {
                let slot = words[columns.len()] as usize;
                columns.push(position);
                gpu.write(&book, CAPACITY + slot, &[position as u32]);
                gpu.write(&book, 2 * CAPACITY + slot, &[0]);
                gpu.write(&book, 3 * CAPACITY + slot, &[0]);

                let live = columns.len();
                let logits: Vec<f32> = noise.values(HEADS * live).iter().map(|x| x * 4.0).collect();
                let lse: Vec<f32> =
                    logits.chunks(live).map(|row| row.iter().map(|x| x.exp()).sum::<f32>().ln()).collect();
                let mut row = vec![0.0; self.prompt + steps];
                for (i, &column) in columns.iter().enumerate() {
                    let heads = (0..HEADS).map(|h| (logits[h * live + i] - lse[h]).exp());
                    row[column] = heads.sum::<f32>() / HEADS as f32;
                }
                rows.push(row);
                let window = Window {
                    prompt: self.prompt as u32,
                    block: self.block as u32,
                    position: position as u32,
                };
                let room = Room::new(Heads { query: HEADS, kv: 1, dim: 8 }, 0, CAPACITY);
                let (mut left, place) = (vec![0.0; room.values()], room.at(0));
                for (head, lse) in lse.iter().enumerate() {
                    left[place.ends_from + 2 * head..][..2].copy_from_slice(&[*lse, 1.0]);
                    let own = &logits[head * live..][..live];
                    left[place.logits_from + head * CAPACITY..][..live].copy_from_slice(own);
                }
                let rooms = gpu.tensor_with(Class::Scratch, "rooms", &left);
                let entries = self.prompt - 1..live;
                let query = Accumulate { book: &book, entries, heads: HEADS, left: place, window };
                accumulate(&mut rec, &rooms, &[query]).unwrap();

                let end = self.prompt - 1 + (thinned + 1) * self.block;
                if position == end + self.recent {
                    self.thin_both(&mut rec, &book, &scratch, &rows, &mut columns, end);
                    thinned += 1;
                }
                let read = rec.read(&book, 0, 2 * CAPACITY);
                rec.submit();
                words = pollster::block_on(read).unwrap();
                let positions = words[..columns.len()].iter().map(|&s| words[CAPACITY + s as usize] as usize);
                assert_eq!(positions.collect::<Vec<_>>(), columns, "at position {position}");
            }
            thinned
        }

        /// Thins the block that ends before column `end`, after comparing its scores.
        fn thin_both(
            &self,
            rec: &mut Recorder,
            book: &Tensor<u32>,
            scratch: &Tensor<u32>,
            rows: &[Vec<f32>],
            columns: &mut Vec<usize>,
            end: usize,
        ) {
            let start = columns.iter().position(|&c| c == end - self.block).unwrap();
            let slope = (self.omega - 1.0) / self.recent as f32;
            let read = rec.read(book, 0, book.len());
            rec.submit();
            let words = pollster::block_on(read).unwrap();
            let sum = |region: usize, i: usize| f32::from_bits(words[region * CAPACITY + words[i] as usize]);
            let block = start..start + self.block;
            let got: Vec<f32> = block.clone().map(|i| sum(2, i) + slope * sum(3, i)).collect();
            let want: Vec<f32> = columns[block.clone()].iter().map(|&c| self.score(rows, c)).collect();
            assert_passed(Ok(vec![Check::compare(format!("block before {end}"), &got, &want, 1e-6)]));

            let cut = Cut { start, block: self.block, keep: self.keep };
            let own = Thin { book, sets: 1, count: columns.len(), cut, score: Score::Sloped(slope) };
            thin(rec, scratch, &[own]).unwrap();
            let mut order: Vec<usize> = (0..self.block).collect();
            order.sort_by(|&a, &b| want[b].total_cmp(&want[a]));
            let mut kept: Vec<usize> = order[..self.keep].iter().map(|&i| columns[start + i]).collect();
            kept.sort_unstable();
            columns.splice(block, kept);
        }
    }

    #[test]
    fn accumulated_scores_equal_those_of_a_ring_of_attention_rows() {
        let ring = Ring { prompt: 23, block: 8, recent: 11, keep: 3, omega: 1.2 };
        assert_eq!(ring.decode(&gpu(), 75), 8);
        let one = Ring { prompt: 1, block: 1, recent: 1, keep: 0, omega: 2.0 };
        assert_eq!(one.decode(&gpu(), 9), 8);
    }
}
