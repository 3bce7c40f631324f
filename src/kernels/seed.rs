//! First sums for the rows that a block left in the cache, for them to compete with what decode observes.

use super::check::{Check, Noise};
use super::kv_row::{Format, Heads, KvRows};
use super::kv_sample::{compare_books, shuffled};
use super::kv_write::Rows;
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "seed", text: include_str!("../../shaders/seed.wgsl") };

uniform! {
    struct Params {
        count: u32,
        first: u32,
        capacity: u32,
        columns: u32,
        skip: u32,
        stride: u32,
        end: u32,
    }
}

fn key(indexed: bool) -> ShaderKey {
    ShaderKey::new(SHADER).flag("INDEXED", indexed)
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    [false, true].map(key).to_vec()
}

/// Records, for table entries `first..first + count` of every set, that B is the number of a block's queries that
/// saw the row, and A that many times its average score.
///
/// The entries were written from the rows that `chosen` names, as `kv_write` takes them. `scores` is
/// `[sets, columns]`, averages over queries, by row of the block; `end` is the position after the block's last.
#[expect(clippy::too_many_arguments, reason = "scores, the rows that they are of, and where these went")]
pub fn seed(
    rec: &mut Recorder,
    scores: &Tensor<f32>,
    columns: usize,
    chosen: Rows<'_>,
    rows: &KvRows,
    first: usize,
    count: usize,
    end: usize,
) -> Result<()> {
    let (skip, index, stride) = match chosen {
        Rows::From(skip) => (skip, None, 0),
        Rows::Listed(index, stride) | Rows::Merged(index, stride, ..) => (0, Some(index), stride),
    };
    let kernel = rec.gpu().kernel(&key(index.is_some()))?;
    let [count, first, capacity, columns, skip, stride, end] =
        [count, first, rows.capacity, columns, skip, stride, end].map(|n| n as u32);
    let params = Params { count, first, capacity, columns, skip, stride, end };
    let mut bindings = vec![scores.bind(), rows.book.bind()];
    bindings.extend(index);
    rec.dispatch(&kernel, &params, &bindings, [count.div_ceil(64), rows.sets as u32, 1])
}

/// The CPU twin for one table of a book: `sources` are the rows of the block that its entries from `first` on
/// were written from, `scores` those of its set.
pub fn twin(book: &mut [u32], first: usize, sources: &[usize], scores: &[f32], end: usize) {
    let capacity = book.len() / 4;
    for (r, &source) in sources.iter().enumerate() {
        let slot = book[first + r] as usize;
        let queries = (end as u32).saturating_sub(book[capacity + slot]) as f32;
        book[2 * capacity + slot] = (queries * scores[source]).to_bits();
        book[3 * capacity + slot] = queries.to_bits();
    }
}

async fn check(gpu: &Gpu, count: usize, columns: usize, sets: usize, indexed: bool) -> Result<Vec<Check>> {
    let (mut noise, first, skip) = (Noise::new(37), 5, 2);
    let (capacity, heads) = (first + count + 3, Heads { query: 2 * sets, kv: sets, dim: 32 });
    let (rows, _, mut book) = shuffled(gpu, &mut noise, heads, Format::F16, capacity, sets)?;
    for (i, word) in book.iter_mut().enumerate().filter(|(i, _)| i / capacity % 4 == 1) {
        *word = (i % capacity * 2) as u32;
    }
    gpu.write(&rows.book, 0, &book);
    let scores = noise.values(sets * columns);
    let stride = count + 4;
    let index: Vec<u32> = (0..sets * stride).map(|_| noise.below(columns as u32)).collect();
    let device_scores = gpu.tensor_with(Class::Scratch, "scores", &scores);
    let device_index = gpu.tensor_with(Class::Scratch, "index", &index);
    let chosen = if indexed { Rows::Listed(device_index.bind(), stride) } else { Rows::From(skip) };
    let end = 2 * capacity;
    let mut rec = Recorder::new(gpu);
    seed(&mut rec, &device_scores, columns, chosen, &rows, first, count, end)?;
    let got = rec.read(&rows.book, 0, rows.book.len());
    rec.submit();
    for (set, book) in book.chunks_exact_mut(4 * capacity).enumerate() {
        let source = |r| if indexed { index[set * stride + r] as usize } else { skip + r };
        let sources: Vec<usize> = (0..count).map(source).collect();
        twin(book, first, &sources, &scores[set * columns..][..columns], end);
    }
    let label = format!("seed {count} rows of {columns}, {sets} sets, indexed {indexed}");
    Ok(compare_books(&label, &got.await?, &book, capacity))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let mut out = check(gpu, 131, 200, 3, true).await?;
    out.extend(check(gpu, 70, 72, 1, false).await?);
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
            count in 1usize..300,
            more in 2usize..90,
            sets in 1usize..4,
            indexed in any::<bool>(),
        ) {
            assert_passed(pollster::block_on(check(&gpu(), count, count + more, sets, indexed)));
        }
    }
}
