//! What a query needs to know of a page of keys that is not there: the range of every dimension (Quest, Tang et al.,
//! arXiv 2406.10774).

use super::attention_keys::format_key;
use super::check::{Check, Noise};
use super::kv_code::{KvBits, hadamard};
use super::kv_row::{Format, Heads, KvRows};
use super::kv_sample::Sample;
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "page_bounds", text: include_str!("../../shaders/page_bounds.wgsl") };

/// Rows of a page.
pub const PAGE: usize = 16;

uniform! {
    struct Params {
        count: u32,
        capacity: u32,
        sets: u32,
        kv_heads: u32,
        first_page: u32,
    }
}

fn key(head_dim: usize, format: Format) -> ShaderKey {
    format_key(ShaderKey::new(SHADER).with("PAGE", PAGE as u32), head_dim, format)
}

/// One variant for each width of keys, on heads of 64.
pub fn variants() -> Vec<ShaderKey> {
    KvBits::ALL.map(|bits| key(64, Format::both(bits))).to_vec()
}

/// Values of the tensor that describes so many pages.
pub fn bounds_len(heads: Heads, pages: usize) -> usize {
    pages * heads.kv_width()
}

/// Records the bounds of the first `count` live rows' keys, [`PAGE`] rows a page and the rest in the last one, to
/// pages `first_page..` of `out` (`[pages][KV head][hd]`: two halves, the smallest value in the low bits). Keys count
/// as they are stored: relative to their centre, and transformed.
pub fn page_bounds(
    rec: &mut Recorder,
    rows: &KvRows,
    count: usize,
    out: &Tensor<u32>,
    first_page: usize,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&key(rows.heads.dim, rows.format))?;
    let params = Params {
        count: count as u32,
        capacity: rows.capacity as u32,
        sets: rows.sets as u32,
        kv_heads: rows.heads.kv as u32,
        first_page: first_page as u32,
    };
    let KvRows { book, k_words, v_words, steps, .. } = rows;
    let bindings = [book.bind(), k_words.bind(), v_words.bind(), steps.bind(), out.bind()];
    rec.dispatch(&kernel, &params, &bindings, [count.div_ceil(PAGE) as u32, rows.heads.kv as u32, 1])
}

/// The CPU twin: the smallest and largest values, `[pages][width]` each, of keys as they are stored, `[rows][width]`.
pub fn twin(keys: &[f32], width: usize) -> [Vec<f32>; 2] {
    let ends = |end: fn(f32, f32) -> f32| {
        let page = move |page: &[f32]| {
            let column = |d: usize| page.iter().skip(d).step_by(width).copied().reduce(end).unwrap_or(0.0);
            (0..width).map(column).collect::<Vec<_>>()
        };
        keys.chunks(PAGE * width).flat_map(page).collect()
    };
    [ends(f32::min), ends(f32::max)]
}

async fn check(
    gpu: &Gpu,
    heads: Heads,
    format: Format,
    (capacity, count): (usize, usize),
    sets: usize,
) -> Result<Vec<Check>> {
    let Sample { rows, mut k, .. } =
        Sample::new(gpu, &mut Noise::new(37), heads, format, (capacity, count), sets)?;
    let (width, first_page) = (heads.kv_width(), 2);
    let pages = first_page + count.div_ceil(PAGE);
    let out = gpu.tensor_with(Class::Scratch, "bounds", &vec![u32::MAX; bounds_len(heads, pages)]);
    let mut rec = Recorder::new(gpu);
    page_bounds(&mut rec, &rows, count, &out, first_page)?;
    let got = rec.read(&out, 0, out.len());
    let centre = rows.basis.k_rotated.then(|| rec.read(&rows.basis.centre, 0, width));
    rec.submit();
    if let Some(centre) = centre {
        let centre = centre.await?;
        for row in k.chunks_exact_mut(width) {
            row.iter_mut().zip(&centre).for_each(|(x, c)| *x -= c);
            row.chunks_exact_mut(heads.dim).for_each(hadamard);
        }
    }
    let got = got.await?;
    let (before, got) = got.split_at(bounds_len(heads, first_page));
    let label = format!("page_bounds {count} of {capacity}, {format:?}, {heads:?}, {sets} sets");
    let mut checks = vec![Check::equal(label.clone() + ", before", before, &vec![u32::MAX; before.len()])];
    for (shift, want) in [0, 16].into_iter().zip(twin(&k, width)) {
        let half = |&word: &u32| half::f16::from_bits((word >> shift) as u16).to_f32();
        let got: Vec<f32> = got.iter().map(half).collect();
        checks.push(Check::compare(format!("{label}, bits from {shift}"), &got, &want, 2e-3));
    }
    Ok(checks)
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let mixed = Format { k: KvBits::Four, v: KvBits::Eight };
    let mut out = check(gpu, Heads { query: 9, kv: 3, dim: 64 }, mixed, (50, 37), 3).await?;
    out.extend(check(gpu, Heads { query: 4, kv: 2, dim: 96 }, Format::F16, (40, 32), 1).await?);
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
            rows in (1usize..70).prop_flat_map(|c| (Just(c), 1..=c)),
            per_head in any::<bool>(),
        ) {
            let heads = Heads { query: kv, kv, dim };
            let sets = if per_head { kv } else { 1 };
            assert_passed(pollster::block_on(check(&gpu(), heads, format, rows, sets)));
        }
    }
}
