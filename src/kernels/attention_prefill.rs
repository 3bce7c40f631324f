//! Causal attention of a block of queries over dense keys and values: online softmax (Milakov and Gimelshein,
//! arXiv 1805.02867), so that no matrix of scores exists.

use std::ops::Range;

use super::activations::{Values, packed, unpacked};
use super::check::{Check, Noise, poisoned};
use super::kv_row::Heads;
use super::to_halves::to_halves;
use super::{
    attention_prefill_groups as groups, attention_prefill_lanes as lanes, attention_prefill_matrix as matrix,
};
use crate::Result;
use crate::gpu::{Class, Family, Gpu, Recorder, ShaderKey, Tensor, Tuning, uniform};

uniform! {
    struct Params {
        count: u32,
        prefix: u32,
        heads: u32,
        group: u32,
        scale: f32,
        biased: u32,
    }
}

/// What attention of a block of queries reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// Query, KV heads and their dimension.
    pub heads: Heads,
    /// Earlier rows of `k` and `v`.
    pub prefix: usize,
    /// Queries.
    pub count: usize,
    /// `[count, H * hd]`
    pub q: &'a Tensor<f32>,
    /// Keys and values, each `[>= prefix + count, G * hd]`, of the kind that [`keys_and_values`] says.
    pub kv: [Values<'a>; 2],
    /// What is added to the scores of the first rows, `[.., G]`, and how many they are.
    pub bias: Option<(&'a Tensor<f32>, usize)>,
    /// Factor on the products of queries and keys.
    pub scale: f32,
    /// `[count, H * hd]`. Only GPUs write halves.
    pub out: Values<'a>,
    /// Log-sum-exp of the scores, `[count, H]`.
    pub lse: &'a Tensor<f32>,
}

/// True where attention of such heads runs on matrix units.
fn on_units(tuning: Tuning, heads: Heads) -> bool {
    tuning.family == Family::Groups && tuning.matrix_attention && matrix::suits(heads.dim)
}

/// Words that [`keys_and_values`] needs for each of its two copies of `rows` rows.
pub fn halves_len(tuning: Tuning, heads: Heads, rows: usize) -> usize {
    if on_units(tuning, heads) { rows * heads.kv_width() / 2 } else { 0 }
}

/// The first `rows.end` rows of `k` and `v` as [`attention_prefill`] reads them: as they are, or on matrix units copies in
/// `halves`, which have [`halves_len`] words each. Those of `rows` are recorded, those before them have been.
pub fn keys_and_values<'a>(
    rec: &mut Recorder,
    [k, v]: [&'a Tensor<f32>; 2],
    heads: Heads,
    rows: Range<usize>,
    [k_halves, v_halves]: &'a [Tensor<u32>; 2],
) -> Result<[Values<'a>; 2]> {
    if !on_units(rec.gpu().tuning(), heads) {
        return Ok([k.into(), v.into()]);
    }
    let values = rows.start * heads.kv_width()..rows.end * heads.kv_width();
    to_halves(rec, k, k_halves, values.clone())?;
    to_halves(rec, v, v_halves, values)?;
    Ok([k_halves, v_halves].map(|words| Values { binding: words.bind(), halves: true }))
}

/// The dispatch of a block.
pub(super) struct Choice {
    /// The kernel, but for biases and the kind of its output.
    pub key: ShaderKey,
    pub grid: [u32; 3],
}

impl Choice {
    fn key(&self, biased: bool, halves: bool) -> ShaderKey {
        self.key.clone().flag("BIASED", biased).flag("HALVES", halves)
    }
}

/// Records attention of a block: query `t` sees rows `0..=prefix + t` of keys and values. `lse` receives the log-sum-exp of
/// its scores, which are dot products times `scale`, plus the biases of the rows that have them.
///
/// # Errors
/// [`crate::Error::Unsupported`] for halves where no kernel reads or writes them.
pub fn attention_prefill(rec: &mut Recorder, block: &Block<'_>) -> Result<()> {
    let tuning = rec.gpu().tuning();
    if tuning.family == Family::Lanes {
        block.out.single()?;
    }
    if !on_units(tuning, block.heads) {
        block.kv[0].single().and(block.kv[1].single())?;
    }
    record(rec, block, &choose(tuning, block.heads, block.count))
}

fn choose(tuning: Tuning, heads: Heads, count: usize) -> Choice {
    match tuning.family {
        Family::Lanes => lanes::choose(tuning.subgroups, heads, count),
        Family::Groups if on_units(tuning, heads) => matrix::choose(heads, count),
        Family::Groups => groups::choose(heads, count),
    }
}

/// [`attention_prefill`] by a kernel of any choice.
fn record(rec: &mut Recorder, block: &Block<'_>, choice: &Choice) -> Result<()> {
    let Block { heads, prefix, count, q, kv: [k, v], bias, scale, out, lse } = *block;
    let kernel = rec.gpu().kernel(&choice.key(bias.is_some(), out.halves))?;
    let params = Params {
        count: count as u32,
        prefix: prefix as u32,
        heads: heads.query as u32,
        group: heads.group() as u32,
        scale,
        biased: bias.map_or(0, |(_, rows)| rows) as u32,
    };
    let mut bindings = vec![q.bind(), k.binding, v.binding, out.binding, lse.bind()];
    bindings.extend(bias.map(|(bias, _)| bias.bind()));
    rec.dispatch(&kernel, &params, &bindings, choice.grid)
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
    /// Keys and values are halves, and so is what the kernel makes of the queries.
    pub on_units: bool,
}

async fn check(gpu: &Gpu, case: Case) -> Result<Vec<Check>> {
    check_chosen(gpu, case, choose(gpu.tuning(), case.heads, case.count)).await
}

/// [`check`] of a kernel of any choice. A shader that the device refuses is this call's error.
pub(super) async fn check_chosen(gpu: &Gpu, case: Case, choice: Choice) -> Result<Vec<Check>> {
    let Case { heads, prefix, count, biased, halves, on_units } = case;
    let mut noise = Noise::new(23);
    // Large enough queries make scores that differ by more than a few units.
    let mut q: Vec<f32> = noise.values(count * heads.q_width()).iter().map(|x| 4.0 * x).collect();
    let mut kv = [(); 2].map(|()| noise.values((prefix + count) * heads.kv_width()));
    let bias = noise.values(biased * heads.kv);
    // Scores rise or fall over the first 150 rows, by a quarter from one to the next, so that the maximum moves.
    for (i, query) in q.chunks_exact_mut(heads.dim).enumerate() {
        query[0] = if i % 3 == 0 { -4.0 } else { 4.0 };
    }
    for (row, keys) in kv[0].chunks_exact_mut(heads.kv_width()).enumerate() {
        keys.iter_mut().step_by(heads.dim).for_each(|key| *key = 0.2 * row.min(150) as f32);
    }
    let device_halves =
        kv.each_ref().map(|values| gpu.tensor_with(Class::Scratch, "halves", &packed(values)));
    if on_units {
        kv = kv.map(|values| unpacked(&packed(&values)));
    }
    let upload = |values: &[f32]| gpu.tensor_with(Class::Scratch, "operand", values);
    let (device_q, device_kv, device_bias) = (upload(&q), kv.each_ref().map(|v| upload(v)), upload(&bias));
    let (out, lse) = (poisoned(gpu, q.len()), poisoned(gpu, count * heads.query));
    let binding = |i: usize| if on_units { device_halves[i].bind() } else { device_kv[i].bind() };
    let block = Block {
        heads,
        prefix,
        count,
        q: &device_q,
        kv: [0, 1].map(|i| Values { binding: binding(i), halves: on_units }),
        bias: (biased > 0).then_some((&device_bias, biased)),
        scale: 0.3,
        out: Values { binding: out.bind(), halves },
        lse: &lse,
    };
    gpu.try_kernel(&choice.key(biased > 0, halves)).await?;
    let mut rec = Recorder::new(gpu);
    record(&mut rec, &block, &choice)?;
    let (got_out, got_lse) = (rec.read(&out, 0, out.len()), rec.read(&lse, 0, lse.len()));
    rec.submit();
    let want = twin(&q, &kv[0], &kv[1], &bias, heads, block.scale, prefix);
    let mut got_out = got_out.await?;
    if halves {
        got_out = unpacked(bytemuck::cast_slice(&got_out[..q.len() / 2]));
    }
    // Scores are as large as forty.
    let exact = if on_units { matrix::TOLERANCE } else { 3e-5 };
    let label = format!("attention_prefill {case:?}");
    Ok(vec![
        Check::compare(
            label.clone() + ", out",
            &got_out,
            &want.out,
            if halves { exact.max(1e-3) } else { exact },
        ),
        Check::compare(label + ", lse", &got_lse.await?, &want.lse, exact),
    ])
}

/// Keys and values as the model has them, to attention that the device's tuning chooses.
async fn check_whole(gpu: &Gpu, heads: Heads, prefix: usize, count: usize) -> Result<Check> {
    let mut noise = Noise::new(24);
    let q = noise.values(count * heads.q_width());
    let kv = [(); 2].map(|()| noise.values((prefix + count) * heads.kv_width()));
    let upload = |values: &[f32]| gpu.tensor_with(Class::Scratch, "operand", values);
    let (device_q, [k, v]) = (upload(&q), kv.each_ref().map(|v| upload(v)));
    let words = halves_len(gpu.tuning(), heads, prefix + count);
    let halves = [(); 2].map(|()| gpu.tensor(Class::Scratch, "halves", words));
    let (out, lse) = (poisoned(gpu, q.len()), poisoned(gpu, count * heads.query));
    let mut rec = Recorder::new(gpu);
    keys_and_values(&mut rec, [&k, &v], heads, 0..prefix, &halves)?;
    let kv_values = keys_and_values(&mut rec, [&k, &v], heads, prefix..prefix + count, &halves)?;
    let (scale, to) = (0.3, (&out).into());
    let block =
        Block { heads, prefix, count, q: &device_q, kv: kv_values, bias: None, scale, out: to, lse: &lse };
    attention_prefill(&mut rec, &block)?;
    let got = rec.read(&out, 0, out.len());
    rec.submit();
    let want = twin(&q, &kv[0], &kv[1], &[], heads, scale, prefix);
    let tolerance = if on_units(gpu.tuning(), heads) { matrix::TOLERANCE } else { 1e-5 };
    Ok(Check::compare(format!("attention_prefill, {heads:?}"), &got.await?, &want.out, tolerance))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let (wide, narrow) = (Heads { query: 9, kv: 3, dim: 64 }, Heads { query: 2, kv: 1, dim: 80 });
    let case = |heads, prefix, count, biased| {
        let on_units = on_units(gpu.tuning(), heads);
        Case { heads, prefix, count, biased, halves: gpu.tuning().family == Family::Groups, on_units }
    };
    let mut out = check(gpu, Case { halves: false, ..case(wide, 150, 40, 11) }).await?;
    out.extend(check(gpu, case(narrow, 0, 3, 0)).await?);
    out.push(check_whole(gpu, Heads { query: 4, kv: 2, dim: 128 }, 5, 17).await?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, families, gpu};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]
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
                let on_units = on_units(gpu.tuning(), heads);
                let case = Case { heads, prefix, count, biased: biased.min(prefix), halves, on_units };
                assert_passed(pollster::block_on(check(&gpu, case)));
            }
        }
    }

    #[test]
    fn checks_pass_in_every_family() {
        for gpu in families() {
            assert_passed(pollster::block_on(checks(&gpu)));
        }
    }

    #[test]
    fn halves_are_refused_where_no_kernel_reads_or_writes_them() {
        let heads = Heads { query: 1, kv: 1, dim: 64 };
        let gpu = gpu();
        let tensor = gpu.tensor::<f32>(Class::Scratch, "values", 64);
        let values = |halves| Values { binding: tensor.bind(), halves };
        for (family, kv, out) in [(Family::Lanes, false, true), (Family::Groups, true, false)] {
            let gpu = gpu.with_tuning(Tuning { family, matrix_attention: false, ..gpu.tuning() });
            let block = Block {
                heads,
                prefix: 0,
                count: 1,
                q: &tensor,
                kv: [values(kv); 2],
                bias: None,
                scale: 1.0,
                out: values(out),
                lse: &tensor,
            };
            let refused = attention_prefill(&mut Recorder::new(&gpu), &block);
            assert!(matches!(refused, Err(crate::Error::Unsupported { .. })));
        }
    }
}
