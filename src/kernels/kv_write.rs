//! Packs chosen keys and values of a block into slots of a layer's cache.

use super::check::{Check, Noise};
use super::kv_code::KvBits;
use super::kv_row::{Format, Heads, Kind, KvRows};
use super::kv_sample::{Stored, shuffled};
use super::team::{team_groups, team_key};
use crate::Result;
use crate::gpu::{Binding, Class, Family, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "kv_write", text: include_str!("../../shaders/kv_write.wgsl") };

uniform! {
    struct Params {
        count: u32,
        first: u32,
        source_first: u32,
        skip: u32,
        kv_heads: u32,
        capacity: u32,
        sets: u32,
        stride: u32,
        bias_stride: u32,
    }
}

fn key(family: Family, head_dim: usize, kind: Kind, (indexed, biased): (bool, bool)) -> ShaderKey {
    kind.key(team_key(SHADER, family, head_dim)).flag("INDEXED", indexed).flag("BIASED", biased)
}

/// Every width of this kernel in both families, without and with an index and biases, on heads of 64.
pub fn variants() -> Vec<ShaderKey> {
    let families = [Family::Lanes, Family::Groups];
    let flags = [(false, false), (true, false), (true, true)];
    let flagged = families.into_iter().flat_map(|f| flags.map(|flags| (f, flags)));
    flagged.flat_map(|(f, i)| Kind::all().into_iter().map(move |kind| key(f, 64, kind, i))).collect()
}

/// Which rows of a block are packed.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// Those from this one on.
    From(usize),
    /// Those that an index of `[sets][stride]` lists.
    Listed(Binding<'a>, usize),
    /// The same, of rows that took in others, with their biases, `[sets][rows]` by source row, and how many rows
    /// those are.
    Merged(Binding<'a>, usize, Binding<'a>, usize),
}

/// Records the packing of `count` rows into table entries `first..first + count` of every set.
///
/// Entry `first + r` of set `s` gets the `r`-th of the chosen rows. `positions` is indexed by source row; `k` and
/// `v` (`[.., G * hd]`) by `k_first` plus source row. The slot's position is set and its accumulators are emptied, but
/// for the bias of a merged row.
#[expect(clippy::too_many_arguments, reason = "three sources and where each begins, and where they go")]
pub fn kv_write(
    rec: &mut Recorder,
    k: &Tensor<f32>,
    v: &Tensor<f32>,
    k_first: usize,
    positions: Binding<'_>,
    chosen: Rows<'_>,
    rows: &KvRows,
    first: usize,
    count: usize,
) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let family = rec.gpu().tuning().family;
    let (skip, index, stride, bias, bias_stride) = match chosen {
        Rows::From(skip) => (skip, None, 0, None, 0),
        Rows::Listed(index, stride) => (0, Some(index), stride, None, 0),
        Rows::Merged(index, stride, bias, rows) => (0, Some(index), stride, Some(bias), rows),
    };
    let flags = (index.is_some(), bias.is_some());
    let params = Params {
        count: count as u32,
        first: first as u32,
        source_first: k_first as u32,
        skip: skip as u32,
        kv_heads: rows.heads.kv as u32,
        capacity: rows.capacity as u32,
        sets: rows.sets as u32,
        stride: stride as u32,
        bias_stride: bias_stride as u32,
    };
    let grid = [team_groups(family, count), rows.heads.kv as u32, 1];
    let [keys, values] = Kind::both(rows.format, &rows.basis);
    for (kind, words, source) in [(keys, &rows.k_words, k), (values, &rows.v_words, v)] {
        let kernel = rec.gpu().kernel(&key(family, rows.heads.dim, kind, flags))?;
        let centre = rows.basis.centre.bind();
        let steps = rows.steps.bind();
        let mut bindings = vec![source.bind(), positions, words.bind(), steps, centre, rows.book.bind()];
        bindings.extend(index.into_iter().chain(bias));
        rec.dispatch(&kernel, &params, &bindings, grid)?;
    }
    Ok(())
}

struct Shape {
    heads: Heads,
    format: Format,
    capacity: usize,
    sets: usize,
    first: usize,
    count: usize,
    indexed: bool,
    merged: bool,
}

async fn check(gpu: &Gpu, shape: Shape) -> Result<Vec<Check>> {
    let Shape { heads, format, capacity, sets, first, count, indexed, merged } = shape;
    let mut noise = Noise::new(13);
    let (rows, centre, tables) = shuffled(gpu, &mut noise, heads, format, capacity, sets)?;

    let (sources, k_first, skip, stride) = (count + 5, 3, 2, count + 2);
    let width = heads.kv_width();
    let (k, v) = (noise.values((k_first + sources) * width), noise.values((k_first + sources) * width));
    let positions: Vec<u32> = (0..sources as u32).map(|i| 1000 + 3 * i).collect();
    let index: Vec<u32> = (0..sets * stride).map(|_| noise.below(sources as u32)).collect();
    let upload = |values: &[f32]| gpu.tensor_with(Class::Scratch, "source", values);
    let (device_k, device_v) = (upload(&k), upload(&v));
    let device_positions = gpu.tensor_with(Class::Scratch, "positions", &positions);
    let device_index = gpu.tensor_with(Class::Scratch, "index", &index);

    let mut rec = Recorder::new(gpu);
    let biases = noise.values(sets * sources);
    let device_biases = upload(&biases);
    let chosen = match (indexed, merged) {
        (false, _) => Rows::From(skip),
        (true, false) => Rows::Listed(device_index.bind(), stride),
        (true, true) => Rows::Merged(device_index.bind(), stride, device_biases.bind(), sources),
    };
    kv_write(&mut rec, &device_k, &device_v, k_first, device_positions.bind(), chosen, &rows, first, count)?;
    let stored = Stored::read(&mut rec, &rows).await?;

    let label = format!("kv_write {count} at {first} of {capacity}, {format:?}, {heads:?}, {sets} sets");
    let mut book = tables.clone();
    let mut out = Vec::new();
    for r in 0..count {
        for head in 0..heads.kv {
            let book_set = head % sets;
            let table = book_set * 4 * capacity;
            let slot = tables[table + first + r] as usize;
            let source = if indexed { index[book_set * stride + r] as usize } else { skip + r };
            book[table + capacity + slot] = positions[source];
            book[table + 2 * capacity + slot] = 0;
            let bias = if indexed && merged { biases[book_set * sources + source] } else { 0.0 };
            book[table + 3 * capacity + slot] = bias.to_bits();
            let from = (k_first + source) * width + head * heads.dim;
            for (values, rows) in [(false, &k), (true, &v)] {
                let label = format!("{label}, row {r}.{head}, values {values}");
                let row = &rows[from..from + heads.dim];
                out.push(stored.check(&label, values, (slot, head), row, &centre));
            }
        }
    }
    out.push(Check::equal(label + ", book", &stored.book, &book));
    Ok(out)
}

/// The checks of all rows of a shape in one: the one that came closest to failing.
fn worst(checks: Vec<Check>) -> Option<Check> {
    let margin = |c: &Check| if c.passed() { c.tolerance - c.error } else { f32::NEG_INFINITY };
    checks.into_iter().min_by(|a, b| margin(a).total_cmp(&margin(b)))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let smollm2 = Heads { query: 9, kv: 3, dim: 64 };
    let shape = |heads, format, sets, (indexed, merged)| Shape {
        heads,
        format,
        capacity: 40,
        sets,
        first: 4,
        count: 21,
        indexed,
        merged,
    };
    let mut out = Vec::new();
    let mixed = Format { k: KvBits::Sixteen, v: KvBits::Three };
    out.extend(worst(check(gpu, shape(smollm2, mixed, 3, (true, true))).await?));
    let mixed = Format { k: KvBits::Four, v: KvBits::Eight };
    out.extend(worst(check(gpu, shape(Heads { query: 2, kv: 2, dim: 96 }, mixed, 1, (false, false))).await?));
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
            kv in 1usize..5,
            dim in prop::sample::select(vec![32usize, 64, 96]),
            format in formats(),
            (capacity, first) in (20usize..70).prop_flat_map(|c| (Just(c), 0..c - 1)),
            per_head in any::<bool>(),
            indexed in any::<bool>(),
            merged in any::<bool>(),
        ) {
            let sets = if per_head { kv } else { 1 };
            let heads = Heads { query: kv, kv, dim };
            for gpu in families() {
                let count = capacity - first;
                let shape = Shape { heads, format, capacity, sets, first, count, indexed, merged };
                assert_passed(pollster::block_on(check(&gpu, shape)));
            }
        }
    }
}
