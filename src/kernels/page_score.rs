//! How much a query could attend to pages that are not there, from their bounds alone (Quest, arXiv 2406.10774).
//!
//! No key of a page gives a logit above `Σ_d max(q_d·low_d, q_d·high_d)`. Less the log-sum-exp of what the head did
//! attend to, that bounds the attention that a row could take from the others; a page is worth what it is worth to
//! the head that wants it most.

use super::check::{Check, Noise, poisoned};
use super::kv_row::Heads;
use super::page_bounds::bounds_len;
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "page_score", text: include_str!("../../shaders/page_score.wgsl") };

/// Logarithms of scores stay between this and its negative.
const LARGEST: f32 = 80.0;

uniform! {
    struct Params {
        pages: u32,
        kv_heads: u32,
        group: u32,
        scale: f32,
    }
}

fn key(head_dim: usize) -> ShaderKey {
    ShaderKey::new(SHADER).with("HEAD_DIM", head_dim as u32)
}

/// The one variant of this kernel, on heads of 64.
pub fn variants() -> Vec<ShaderKey> {
    vec![key(64)]
}

/// Records the scores of `pages` pages to `out` (`[pages]`, positive).
///
/// `q` (`[H * hd]`) is transformed as the keys are whose `bounds` [`fn@super::page_bounds::page_bounds`] left; `ends`
/// (`[H][2]`) are the maximum of the query's scaled scores, and the sum of exp(score - maximum).
#[expect(clippy::too_many_arguments, reason = "a query and what it met, pages, and where their scores go")]
pub fn page_score(
    rec: &mut Recorder,
    q: &Tensor<f32>,
    bounds: &Tensor<u32>,
    pages: usize,
    heads: Heads,
    scale: f32,
    ends: &Tensor<f32>,
    out: &Tensor<f32>,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&key(heads.dim))?;
    let (kv_heads, group) = (heads.kv as u32, heads.group() as u32);
    let params = Params { pages: pages as u32, kv_heads, group, scale };
    let bindings = [q.bind(), bounds.bind(), ends.bind(), out.bind()];
    rec.dispatch(&kernel, &params, &bindings, [pages.div_ceil(64) as u32, 1, 1])
}

/// The CPU twin; the smallest and the largest values are `[pages][KV head][hd]` each.
pub fn twin(q: &[f32], [low, high]: [&[f32]; 2], heads: Heads, scale: f32, ends: &[f32]) -> Vec<f32> {
    let page = |page: usize| {
        let head = |head: usize| {
            let first = page * heads.kv_width() + head / heads.group() * heads.dim;
            let each = |d: usize| {
                let x = q[head * heads.dim + d];
                (x * low[first + d]).max(x * high[first + d])
            };
            (0..heads.dim).map(each).sum::<f32>() * scale - ends[2 * head] - ends[2 * head + 1].ln()
        };
        (0..heads.query).map(head).fold(-LARGEST, f32::max).min(LARGEST).exp()
    };
    (0..low.len() / heads.kv_width()).map(page).collect()
}

async fn check(gpu: &Gpu, heads: Heads, pages: usize) -> Result<Check> {
    let mut noise = Noise::new(41);
    let len = bounds_len(heads, pages);
    let mut halves = || noise.values(len).into_iter().map(half::f16::from_f32).collect::<Vec<_>>();
    let (a, b) = (halves(), halves());
    let pairs: Vec<_> = a.into_iter().zip(b).map(|(a, b)| if a < b { (a, b) } else { (b, a) }).collect();
    let words = pairs.iter().map(|(low, high)| u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16);
    let bounds = gpu.tensor_with(Class::Scratch, "bounds", &words.collect::<Vec<_>>());
    let q: Vec<f32> = noise.values(heads.q_width()).iter().map(|x| 3.0 * x).collect();
    let end = |x: f32| [5.0 * x, 1.0 + x * x];
    let ends: Vec<f32> = noise.values(heads.query).into_iter().flat_map(end).collect();
    let upload = |values: &[f32]| gpu.tensor_with(Class::Scratch, "operand", values);
    let (device_q, device_ends, out) = (upload(&q), upload(&ends), poisoned(gpu, pages + 1));
    let (scale, mut rec) = (0.17, Recorder::new(gpu));
    page_score(&mut rec, &device_q, &bounds, pages, heads, scale, &device_ends, &out)?;
    let got = rec.read(&out, 0, out.len());
    rec.submit();
    let (low, high): (Vec<f32>, Vec<f32>) = pairs.iter().map(|(a, b)| (a.to_f32(), b.to_f32())).unzip();
    let mut want = twin(&q, [&low, &high], heads, scale, &ends);
    want.push(f32::NAN);
    Ok(Check::compare(format!("page_score {pages} pages, {heads:?}"), &got.await?, &want, 1e-4))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    Ok(vec![
        check(gpu, Heads { query: 9, kv: 3, dim: 64 }, 131).await?,
        check(gpu, Heads { query: 4, kv: 2, dim: 80 }, 3).await?,
    ])
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
            dim in prop::sample::select(vec![32usize, 64, 96]),
            pages in 1usize..200,
        ) {
            let heads = Heads { query: kv * group, kv, dim };
            assert_passed(pollster::block_on(check(&gpu(), heads, pages)).map(|c| vec![c]));
        }
    }

    #[test]
    fn no_row_of_a_page_scores_above_it() {
        let heads = Heads { query: 2, kv: 1, dim: 32 };
        let mut noise = Noise::new(3);
        let (keys, q) = (noise.values(40 * 32), noise.values(64));
        let [low, high] = super::super::page_bounds::twin(&keys, 32);
        let scores = twin(&q, [&low, &high], heads, 0.5, &[0.0, 1.0, 0.0, 1.0]);
        for (row, key) in keys.chunks_exact(32).enumerate() {
            for q in q.chunks_exact(32) {
                let logit = q.iter().zip(key).map(|(a, b)| a * b).sum::<f32>() * 0.5;
                assert!(logit.exp() <= scores[row / 16] * 1.0001, "row {row}");
            }
        }
    }
}
