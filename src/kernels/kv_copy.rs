//! Copies live rows of one cache into slots of another, as they are packed: for rows that two sequences share until
//! one of them must change its own, and for rows that leave the device.

use super::check::{Check, Noise};
use super::grid::lines;
use super::kv_code::KvBits;
use super::kv_row::{Format, Heads, KvRows};
use super::kv_sample::shuffled;
use crate::Result;
use crate::gpu::{Gpu, Recorder, Shader, ShaderKey, uniform};

const SHADER: Shader = Shader { stem: "kv_copy", text: include_str!("../../shaders/kv_copy.wgsl") };

uniform! {
    struct Params {
        count: u32,
        first: u32,
        at: u32,
        from_capacity: u32,
        to_capacity: u32,
        sets: u32,
        kv_heads: u32,
        k_words: u32,
        v_words: u32,
        steps: u32,
    }
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// Records that table entries `at..at + count` of `to` receive the rows that entries `first..first + count` of
/// `from` name: words, steps, position and running sums. Both have the same heads, format and number of tables, and
/// are not the same cache.
pub fn kv_copy(
    rec: &mut Recorder,
    from: &KvRows,
    first: usize,
    to: &KvRows,
    at: usize,
    count: usize,
) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let Heads { kv, dim, .. } = from.heads;
    let [k_words, v_words] = [from.format.k, from.format.v].map(|bits| bits.words_per_row(dim) as u32);
    let params = Params {
        count: count as u32,
        first: first as u32,
        at: at as u32,
        from_capacity: from.capacity as u32,
        to_capacity: to.capacity as u32,
        sets: from.sets as u32,
        kv_heads: kv as u32,
        k_words,
        v_words,
        steps: from.format.steps_per_row() as u32,
    };
    let sides = [from, to].map(|rows| [&rows.k_words, &rows.v_words, &rows.steps, &rows.book]);
    let bindings = sides.concat().into_iter().map(|tensor| tensor.bind()).collect::<Vec<_>>();
    let [x, y, _] = lines(count);
    let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
    rec.dispatch(&kernel, &params, &bindings, [x, y, kv as u32])
}

/// Keys, values, steps and book of a cache.
type Stored = [Vec<u32>; 4];

/// The CPU twin; the rows only say how both caches are laid out.
pub fn twin(
    (from_rows, from): (&KvRows, &Stored),
    first: usize,
    (to_rows, to): (&KvRows, &mut Stored),
    at: usize,
    count: usize,
) {
    let widths = from_rows.slots().map(|(_, words)| words / from_rows.heads.kv);
    for r in 0..count {
        for head in 0..from_rows.heads.kv {
            let set = head % from_rows.sets * 4;
            let (old_table, new_table) = (set * from_rows.capacity, set * to_rows.capacity);
            let old = from[3][old_table + first + r] as usize;
            let new = to[3][new_table + at + r] as usize;
            for (tensor, words) in widths.into_iter().enumerate() {
                let source = (old * from_rows.heads.kv + head) * words;
                let target = (new * from_rows.heads.kv + head) * words;
                to[tensor][target..target + words].copy_from_slice(&from[tensor][source..source + words]);
            }
            for region in 1..4 {
                to[3][new_table + region * to_rows.capacity + new] =
                    from[3][old_table + region * from_rows.capacity + old];
            }
        }
    }
}

/// A cache whose every word is noise, but for the tables, which list its slots in an order of their own.
fn noisy(
    gpu: &Gpu,
    noise: &mut Noise,
    (heads, format): (Heads, Format),
    capacity: usize,
    sets: usize,
) -> Result<(KvRows, Stored)> {
    let (rows, _, mut book) = shuffled(gpu, noise, heads, format, capacity, sets)?;
    for (i, word) in book.iter_mut().enumerate() {
        if i % (4 * capacity) >= capacity {
            *word = noise.below(u32::MAX);
        }
    }
    gpu.write(&rows.book, 0, &book);
    let [k, v, steps] = rows.slots().map(|(tensor, words)| {
        let values: Vec<u32> = (0..capacity * words).map(|_| noise.below(u32::MAX)).collect();
        gpu.write(tensor, 0, &values);
        values
    });
    Ok((rows, [k, v, steps, book]))
}

async fn check(
    gpu: &Gpu,
    kind: (Heads, Format),
    (capacity, first): (usize, usize),
    (room, at): (usize, usize),
    count: usize,
    sets: usize,
) -> Result<Vec<Check>> {
    let mut noise = Noise::new(61);
    let (from, source) = noisy(gpu, &mut noise, kind, capacity, sets)?;
    let (to, mut want) = noisy(gpu, &mut noise, kind, room, sets)?;
    let mut rec = Recorder::new(gpu);
    kv_copy(&mut rec, &from, first, &to, at, count)?;
    twin((&from, &source), first, (&to, &mut want), at, count);
    let tensors = [&to.k_words, &to.v_words, &to.steps, &to.book];
    let mut checks = Vec::new();
    for (tensor, want) in tensors.into_iter().zip(&want).filter(|(_, want)| !want.is_empty()) {
        let got = rec.read(tensor, 0, tensor.len());
        rec.submit();
        let label =
            format!("kv_copy {count} from {first} of {capacity} to {at} of {room}, {kind:?}, {sets} sets");
        checks.push(Check::equal(label, &got.await?, want));
    }
    Ok(checks)
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let mixed = Format { k: KvBits::Three, v: KvBits::Eight };
    let mut out = check(gpu, (Heads { query: 9, kv: 3, dim: 64 }, mixed), (37, 5), (29, 2), 23, 3).await?;
    let plain = (Heads { query: 4, kv: 2, dim: 80 }, Format::F16);
    out.extend(check(gpu, plain, (9, 0), (40, 31), 9, 1).await?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, formats, gpu};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn agrees_with_its_twin(
            kv in 1usize..4,
            dim in prop::sample::select(vec![32usize, 64, 96]),
            format in formats(),
            (count, first, at) in (1usize..40, 0usize..9, 0usize..9),
            (spare, room) in (0usize..5, 0usize..5),
            per_head in any::<bool>(),
        ) {
            let kind = (Heads { query: kv, kv, dim }, format);
            let (from, to) = ((first + count + spare, first), (at + count + room, at));
            let sets = if per_head { kv } else { 1 };
            assert_passed(pollster::block_on(check(&gpu(), kind, from, to, count, sets)));
        }
    }

    #[test]
    fn nothing_is_copied_without_rows() {
        let kind = (Heads { query: 2, kv: 2, dim: 32 }, Format::F16);
        assert_passed(pollster::block_on(check(&gpu(), kind, (5, 5), (7, 7), 0, 2)));
    }
}
