//! Packs chosen keys and values of a block into slots of a layer's cache.

use super::check::{Check, Noise};
use super::kv_row::{Heads, KvBits, KvRows, decode_row, encode_row};
use super::kv_sample::shuffled_tables;
use super::team::{team_groups, team_key};
use crate::Result;
use crate::gpu::{Binding, Class, Family, Gpu, Recorder, Shader, ShaderKey, Tensor};

const SHADER: Shader = Shader { stem: "kv_write", text: include_str!("../../shaders/kv_write.wgsl") };

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    count: u32,
    first: u32,
    source_first: u32,
    kv_heads: u32,
    capacity: u32,
    sets: u32,
    stride: u32,
}

fn key(family: Family, head_dim: usize, bits: KvBits, indexed: bool) -> ShaderKey {
    team_key(SHADER, family, head_dim).with("BITS", bits.bits()).flag("INDEXED", indexed)
}

/// Every width of this kernel in both families, with and without an index, on heads of 64.
pub fn variants() -> Vec<ShaderKey> {
    let families = [Family::Lanes, Family::Groups];
    let indexed = families.into_iter().flat_map(|f| [(f, false), (f, true)]);
    indexed.flat_map(|(f, i)| KvBits::ALL.map(|bits| key(f, 64, bits, i))).collect()
}

/// Records the packing of `count` rows into table entries `first..first + count` of every set.
///
/// Entry `first + r` of set `s` gets source row `index[s][r]`, or row `r` without an index; the index is
/// `[sets][stride]`. `positions` is indexed by source row; `k` and `v` (`[.., G * hd]`) by `k_first` plus source
/// row. The slot's position is set and its accumulators are emptied.
#[allow(clippy::too_many_arguments)]
pub fn kv_write(
    rec: &mut Recorder,
    k: &Tensor<f32>,
    v: &Tensor<f32>,
    k_first: usize,
    positions: Binding<'_>,
    index: Option<(Binding<'_>, usize)>,
    rows: &KvRows,
    first: usize,
    count: usize,
) -> Result<()> {
    let family = rec.gpu().tuning().family;
    let params = Params {
        count: count as u32,
        first: first as u32,
        source_first: k_first as u32,
        kv_heads: rows.heads.kv as u32,
        capacity: rows.capacity as u32,
        sets: rows.sets as u32,
        stride: index.map_or(0, |(_, stride)| stride as u32),
    };
    let grid = [team_groups(family, count), rows.heads.kv as u32, 1];
    for (bits, words, scales, source) in
        [(rows.k_bits, &rows.k_words, &rows.k_scales, k), (rows.v_bits, &rows.v_words, &rows.v_scales, v)]
    {
        let kernel = rec.gpu().kernel(&key(family, rows.heads.dim, bits, index.is_some()))?;
        let mut bindings = vec![source.bind(), positions, words.bind(), scales.bind(), rows.book.bind()];
        bindings.extend(index.map(|(binding, _)| binding));
        rec.dispatch(&kernel, &params, &bindings, grid)?;
    }
    Ok(())
}

/// Compares the words of one row with the packing of `want`: both decoded, since devices round halves and codes
/// their own way, and within the row's largest step.
pub(super) fn row_check(label: &str, words: &[u32], scales: &[u32], bits: KvBits, want: &[f32]) -> Check {
    let (twin_words, twin_scales) = encode_row(want, bits);
    let twin = decode_row(&twin_words, &twin_scales, bits);
    let step = |&s: &u32| half::f16::from_bits(s as u16).to_f32();
    let tolerance = twin_scales.iter().map(step).fold(2e-3, f32::max) * 1.01;
    // A transformed row spreads one step over the block; the largest change of a value stays below it.
    Check::compare(label, &decode_row(words, scales, bits), &twin, tolerance)
}

struct Shape {
    heads: Heads,
    bits: (KvBits, KvBits),
    capacity: usize,
    sets: usize,
    first: usize,
    count: usize,
    indexed: bool,
}

async fn check(gpu: &Gpu, shape: Shape) -> Result<Vec<Check>> {
    let Shape { heads, bits, capacity, sets, first, count, indexed } = shape;
    let mut noise = Noise::new(13);
    let rows = KvRows::new(gpu, heads, bits.0, bits.1, capacity, sets)?;
    let tables = shuffled_tables(&mut noise, &rows);
    gpu.write(&rows.book, 0, &tables);

    let (sources, k_first, stride) = (count + 5, 3, count + 2);
    let width = heads.kv_width();
    let (k, v) = (noise.values((k_first + sources) * width), noise.values((k_first + sources) * width));
    let positions: Vec<u32> = (0..sources as u32).map(|i| 1000 + 3 * i).collect();
    let index: Vec<u32> = (0..sets * stride).map(|_| noise.below(sources as u32)).collect();
    let upload = |values: &[f32]| gpu.tensor_with(Class::Scratch, "source", values);
    let (device_k, device_v) = (upload(&k), upload(&v));
    let device_positions = gpu.tensor_with(Class::Scratch, "positions", &positions);
    let device_index = gpu.tensor_with(Class::Scratch, "index", &index);

    let mut rec = Recorder::new(gpu);
    let chosen = indexed.then(|| (device_index.bind(), stride));
    kv_write(&mut rec, &device_k, &device_v, k_first, device_positions.bind(), chosen, &rows, first, count)?;
    let read = |rec: &mut Recorder, t: &Tensor<u32>| rec.read(t, 0, t.len());
    let k_words = read(&mut rec, &rows.k_words);
    let v_words = read(&mut rec, &rows.v_words);
    let k_scales = (!rows.k_scales.is_empty()).then(|| read(&mut rec, &rows.k_scales));
    let v_scales = (!rows.v_scales.is_empty()).then(|| read(&mut rec, &rows.v_scales));
    let book = read(&mut rec, &rows.book);
    rec.submit();
    let (k_words, v_words, book) = (k_words.await?, v_words.await?, book.await?);
    let k_scales = if let Some(pending) = k_scales { pending.await? } else { Vec::new() };
    let v_scales = if let Some(pending) = v_scales { pending.await? } else { Vec::new() };

    let label = format!("kv_write {count} at {first} of {capacity}, {bits:?}, {heads:?}, {sets} sets");
    let mut want_book = tables.clone();
    let mut out = Vec::new();
    for r in 0..count {
        for head in 0..heads.kv {
            let book_set = head % sets;
            let table = book_set * 4 * capacity;
            let slot = tables[table + first + r] as usize;
            let source = if indexed { index[book_set * stride + r] as usize } else { r };
            want_book[table + capacity + slot] = positions[source];
            want_book[table + 2 * capacity + slot] = 0;
            want_book[table + 3 * capacity + slot] = 0;
            let from = (k_first + source) * width + head * heads.dim;
            let at = slot * heads.kv + head;
            for (name, words, scales, bits, source) in
                [("k", &k_words, &k_scales, bits.0, &k), ("v", &v_words, &v_scales, bits.1, &v)]
            {
                let (n, m) = (bits.words_per_row(heads.dim), bits.scales_per_row(heads.dim));
                let want = &source[from..from + heads.dim];
                let (words, scales) = (&words[at * n..][..n], &scales[at * m..][..m]);
                out.push(row_check(&format!("{label}, {name} {r}.{head}"), words, scales, bits, want));
            }
        }
    }
    out.push(Check::equal(label + ", book", &book, &want_book));
    Ok(out)
}

/// The checks of all rows of a shape in one: the one that came closest to failing.
fn worst(checks: Vec<Check>) -> Option<Check> {
    let margin = |c: &Check| if c.passed() { c.tolerance - c.error } else { f32::NEG_INFINITY };
    checks.into_iter().min_by(|a, b| margin(a).total_cmp(&margin(b)))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let (sixteen, eight, four) = (KvBits::Sixteen, KvBits::Eight, KvBits::Four);
    let smollm2 = Heads { query: 9, kv: 3, dim: 64 };
    let shape =
        |heads, bits, sets, indexed| Shape { heads, bits, capacity: 40, sets, first: 4, count: 21, indexed };
    let mut out = Vec::new();
    out.extend(worst(check(gpu, shape(smollm2, (sixteen, four), 3, true)).await?));
    out.extend(worst(check(gpu, shape(Heads { query: 2, kv: 2, dim: 96 }, (four, eight), 1, false)).await?));
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
            kv in 1usize..5,
            dim in prop::sample::select(vec![32usize, 64, 96]),
            bits in (0usize..3, 0usize..3),
            (capacity, first) in (20usize..70).prop_flat_map(|c| (Just(c), 0..c - 1)),
            per_head in any::<bool>(),
            indexed in any::<bool>(),
        ) {
            let bits = (KvBits::ALL[bits.0], KvBits::ALL[bits.1]);
            let sets = if per_head { kv } else { 1 };
            let heads = Heads { query: kv, kv, dim };
            for gpu in families() {
                let count = capacity - first;
                let shape = Shape { heads, bits, capacity, sets, first, count, indexed };
                assert_passed(pollster::block_on(check(&gpu, shape)));
            }
        }
    }
}
