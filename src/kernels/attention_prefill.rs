//! Causal attention of a block of queries over dense keys and values: online softmax (Milakov and Gimelshein,
//! arXiv 1805.02867), so that no matrix of scores exists.

use super::activations::{Values, unpacked};
use super::check::{Check, Noise, poisoned};
use super::kv_row::Heads;
use super::{attention_prefill_groups as groups, attention_prefill_lanes as lanes};
use crate::Result;
use crate::gpu::{Class, Family, Gpu, Recorder, Tensor, Tuning};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    count: u32,
    prefix: u32,
    heads: u32,
    group: u32,
    scale: f32,
    biased: u32,
}

/// Records attention of `count` queries: query `t` sees rows `0..=prefix + t` of `k` and `v`.
///
/// `q` and `out` are `[count, H * hd]`, `k` and `v` `[>= prefix + count, G * hd]`; `lse` (`[count, H]`) receives the
/// log-sum-exp of the scores, which are dot products times `scale`, plus `bias` (`[.., G]`) for as many of the
/// first rows as stands beside it. Only GPUs write `out` in halves.
#[expect(clippy::too_many_arguments, reason = "an operation, its operands and how many rows of them")]
pub fn attention_prefill<'a>(
    rec: &mut Recorder,
    q: &Tensor<f32>,
    k: &Tensor<f32>,
    v: &Tensor<f32>,
    heads: Heads,
    bias: Option<(&Tensor<f32>, usize)>,
    scale: f32,
    prefix: usize,
    count: usize,
    out: impl Into<Values<'a>>,
    lse: &Tensor<f32>,
) -> Result<()> {
    let out = out.into();
    let Tuning { family, subgroups, .. } = rec.gpu().tuning();
    let (base, grid) = match family {
        Family::Groups => (groups::key(heads.dim).flag("HALVES", out.halves), groups::grid(heads, count)),
        Family::Lanes => {
            out.single()?;
            (lanes::key(subgroups, heads.dim), lanes::grid(heads, count))
        }
    };
    let kernel = rec.gpu().kernel(&base.flag("BIASED", bias.is_some()))?;
    let params = Params {
        count: count as u32,
        prefix: prefix as u32,
        heads: heads.query as u32,
        group: heads.group() as u32,
        scale,
        biased: bias.map_or(0, |(_, rows)| rows) as u32,
    };
    let mut bindings = vec![q.bind(), k.bind(), v.bind(), out.binding, lse.bind()];
    bindings.extend(bias.map(|(bias, _)| bias.bind()));
    rec.dispatch(&kernel, &params, &bindings, grid)
}

/// What attention of some queries yields.
#[derive(Debug, Default)]
pub struct Attention {
    /// `[queries, H * hd]`.
    pub out: Vec<f32>,
    /// Log-sum-exp of the scores, `[queries, H]`.
    pub lse: Vec<f32>,
    /// Per query and head, its scores.
    pub scores: Vec<Vec<f32>>,
}

/// The CPU twin: query `t` sees rows `0..=prefix + t`, of which the first ones may have biases.
pub fn twin(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    bias: &[f32],
    heads: Heads,
    scale: f32,
    prefix: usize,
) -> Attention {
    let mut result = Attention::default();
    for (i, query) in q.chunks_exact(heads.dim).enumerate() {
        let (token, head) = (i / heads.query, i % heads.query);
        let row = |r: usize| (r * heads.kv + head / heads.group()) * heads.dim;
        let score = |r: usize| {
            let products = query.iter().zip(&k[row(r)..]).map(|(a, b)| f64::from(*a) * f64::from(*b));
            let bias = bias.get(r * heads.kv + head / heads.group()).copied().unwrap_or(0.0);
            products.sum::<f64>() * f64::from(scale) + f64::from(bias)
        };
        let scores: Vec<f64> = (0..=prefix + token).map(score).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        let mut sums = vec![0.0; heads.dim];
        for (r, score) in scores.iter().enumerate() {
            let weight = (score - top).exp() / total;
            for (sum, value) in sums.iter_mut().zip(&v[row(r)..]) {
                *sum += weight * f64::from(*value);
            }
        }
        result.out.extend(sums.iter().map(|&x| x as f32));
        result.lse.push((top + total.ln()) as f32);
        result.scores.push(scores.iter().map(|&s| s as f32).collect());
    }
    result
}

/// Attention to compare with its twin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub heads: Heads,
    pub prefix: usize,
    pub count: usize,
    /// First rows with biases.
    pub biased: usize,
    /// The output is halves, not f32.
    pub halves: bool,
}

async fn check(gpu: &Gpu, case: Case) -> Result<Vec<Check>> {
    let Case { heads, prefix, count, biased, halves } = case;
    let mut noise = Noise::new(23);
    // Large enough queries make scores that differ by more than a few units.
    let q: Vec<f32> = noise.values(count * heads.q_width()).iter().map(|x| 4.0 * x).collect();
    let k = noise.values((prefix + count) * heads.kv_width());
    let v = noise.values((prefix + count) * heads.kv_width());
    let bias = noise.values(biased * heads.kv);
    let scale = 0.3;
    let upload = |values: &[f32]| gpu.tensor_with(Class::Scratch, "operand", values);
    let (out, lse) = (poisoned(gpu, q.len()), poisoned(gpu, count * heads.query));
    let mut rec = Recorder::new(gpu);
    let (dq, dk, dv) = (upload(&q), upload(&k), upload(&v));
    let device_bias = upload(&bias);
    let biases = (biased > 0).then_some((&device_bias, biased));
    let to = Values { binding: out.bind(), halves };
    attention_prefill(&mut rec, &dq, &dk, &dv, heads, biases, scale, prefix, count, to, &lse)?;
    let (got_out, got_lse) = (rec.read(&out, 0, out.len()), rec.read(&lse, 0, lse.len()));
    rec.submit();
    let want = twin(&q, &k, &v, &bias, heads, scale, prefix);
    let (mut got_out, mut tolerance) = (got_out.await?, 1e-5);
    if halves {
        (got_out, tolerance) = (unpacked(bytemuck::cast_slice(&got_out[..q.len() / 2])), 1e-3);
    }
    let label = format!("attention_prefill {case:?}");
    Ok(vec![
        Check::compare(label.clone() + ", out", &got_out, &want.out, tolerance),
        Check::compare(label + ", lse", &got_lse.await?, &want.lse, 1e-5),
    ])
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let (wide, narrow) = (Heads { query: 9, kv: 3, dim: 64 }, Heads { query: 2, kv: 1, dim: 80 });
    let halves = gpu.tuning().family == Family::Groups;
    let mut out = check(gpu, Case { heads: wide, prefix: 13, count: 70, biased: 11, halves: false }).await?;
    out.extend(check(gpu, Case { heads: narrow, prefix: 0, count: 3, biased: 0, halves }).await?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, families};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6))]
        #[test]
        fn agrees_with_its_twin(
            kv in 1usize..4,
            group in 1usize..6,
            dim in prop::sample::select(vec![64usize, 72, 80, 96, 128, 256]),
            prefix in 0usize..200,
            count in 1usize..90,
            biased in 0usize..200,
            halves: bool,
        ) {
            for gpu in families() {
                let heads = Heads { query: kv * group, kv, dim };
                let halves = halves && gpu.tuning().family == Family::Groups;
                let case = Case { heads, prefix, count, biased: biased.min(prefix), halves };
                assert_passed(pollster::block_on(check(&gpu, case)));
            }
        }
    }
}
