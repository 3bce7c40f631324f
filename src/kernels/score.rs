//! How much the recent queries attend to each key row: pass 2 of attention, from pass 1's log-sum-exp.
//!
//! With the log-sum-exp of every softmax row at hand, the attention of query `i` to key `j` is
//! `exp(q_i·k_j·scale − lse_i)`, one key at a time and with no matrix of attention anywhere:
//!
//! ```text
//! s_j = mean over heads of Σ_i  w_i · exp(q_i·k_j·scale − lse_i)      i over the recent rows with prefix + i >= j
//! ```
//!
//! A [`Measure`] says which rows are recent, up to all of them, whether the sum becomes an average, and whether
//! it is weighted by the length of `v_j`, since attention to a short value moves little. The queries may come in
//! several parts, one after the other.

use std::ops::Range;

use super::check::{Check, Noise, poisoned};
use super::kv_row::Heads;
use super::{score_groups, score_lanes};
use crate::Result;
use crate::gpu::{Class, Family, Gpu, Recorder, ShaderKey, Tensor, Tuning, uniform};

/// Heads of the layer that is scored, and whether they choose together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoreShape {
    /// Query heads.
    pub query_heads: usize,
    /// Key and value heads; divides `query_heads`.
    pub kv_heads: usize,
    /// Values per head; a multiple of 4.
    pub dim: usize,
    /// One set of scores per KV head, from its own query heads, instead of one for all.
    pub per_head: bool,
}

impl ScoreShape {
    /// The shape of a layer with these heads.
    pub fn new(heads: Heads, per_head: bool) -> Self {
        Self { query_heads: heads.query, kv_heads: heads.kv, dim: heads.dim, per_head }
    }

    /// How many sets of scores there are.
    pub fn sets(&self) -> usize {
        if self.per_head { self.kv_heads } else { 1 }
    }
}

/// Weights of the recent queries, linear from the oldest to the newest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ramp {
    /// The oldest query's weight.
    pub first: f32,
    /// The newest query's weight.
    pub last: f32,
}

impl Ramp {
    /// The same weight for every query.
    pub const FLAT: Self = Self { first: 1.0, last: 1.0 };

    /// What the weight grows by from one query to the next.
    fn step(self, recent: usize) -> f32 {
        (self.last - self.first) / recent.saturating_sub(1).max(1) as f32
    }
}

/// Which attention counts, and for how much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measure {
    /// How many of the last query rows score, at least one; more than there are means all.
    pub recent: usize,
    /// Their weights.
    pub ramp: Ramp,
    /// Divides a key row's sum by the number of scoring queries that see the row, so that late rows, which fewer
    /// queries see, do not rank low for that alone.
    pub averaged: bool,
    /// Weights a key row's score by the length of its value vector, averaged over the KV heads of the set.
    pub by_value: bool,
}

uniform! {
    struct Params {
        set_heads: u32,
        group_heads: u32,
        query_stride: u32,
        key_stride: u32,
        dim: u32,
        lse_stride: u32,
        prefix: u32,
        begin: u32,
        end: u32,
        count: u32,
        oldest: u32,
        joined: u32,
        columns: u32,
        forced: u32,
        scale: f32,
        weight: f32,
        weight_step: f32,
        averaged: u32,
    }
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    let keys = [score_groups::key(), score_lanes::key(64, false), score_lanes::key(64, true)].into_iter();
    keys.flat_map(|key| [false, true].map(|by_value| key.clone().flag("BY_VALUE", by_value))).collect()
}

/// Records what query rows `queries` of a block of `count` rows add to the scores of its first `columns` rows, whose keys
/// stand in `k` from row `prefix` on.
///
/// `q` is `[queries, query_heads * dim]`, `lse` `[queries, query_heads]` in natural logarithms, `k` and `v`
/// `[>= prefix + queries.end, kv_heads * dim]`: query row `i` sees key rows `0..=prefix + i`. All queries that score come
/// in ascending order, in one call or in several with the same `out`, `[sets, columns]`: the last row's call makes scores
/// of the sums. The first `forced` columns get `f32::MAX` then, so that no selection drops them.
#[expect(
    clippy::too_many_arguments,
    reason = "each is one number of the sum that the module's header writes down"
)]
pub fn score(
    rec: &mut Recorder,
    q: &Tensor<f32>,
    lse: &Tensor<f32>,
    k: &Tensor<f32>,
    v: &Tensor<f32>,
    shape: ScoreShape,
    scale: f32,
    prefix: usize,
    count: usize,
    queries: Range<usize>,
    measure: Measure,
    forced: usize,
    columns: usize,
    out: &Tensor<f32>,
) -> Result<()> {
    let recent = measure.recent.min(count);
    let oldest = count - recent;
    if queries.end <= oldest {
        return Ok(());
    }
    let Tuning { family, subgroups, .. } = rec.gpu().tuning();
    let (key, rows) = match family {
        Family::Lanes => (score_lanes::key(shape.dim, subgroups), score_lanes::rows(shape.dim)),
        Family::Groups => (score_groups::key(), score_groups::ROWS),
    };
    let kernel = rec.gpu().kernel(&key.flag("BY_VALUE", measure.by_value))?;
    let params = Params {
        set_heads: (shape.query_heads / shape.sets()) as u32,
        group_heads: (shape.query_heads / shape.kv_heads) as u32,
        query_stride: (shape.query_heads * shape.dim / 4) as u32,
        key_stride: (shape.kv_heads * shape.dim / 4) as u32,
        dim: (shape.dim / 4) as u32,
        lse_stride: shape.query_heads as u32,
        prefix: prefix as u32,
        begin: queries.start as u32,
        end: queries.end as u32,
        count: count as u32,
        oldest: oldest as u32,
        // Nothing is written before the first query that scores.
        joined: if queries.start > oldest { queries.start as u32 } else { 0 },
        columns: columns as u32,
        forced: forced as u32,
        scale,
        weight: measure.ramp.first,
        weight_step: measure.ramp.step(recent),
        averaged: u32::from(measure.averaged),
    };
    // Nobody sees a later row yet.
    let grid = [columns.min(queries.end).div_ceil(rows) as u32, shape.sets() as u32, 1];
    let mut bindings = vec![q.bind(), lse.bind(), k.bind(), out.bind()];
    bindings.extend(measure.by_value.then(|| v.bind()));
    rec.dispatch(&kernel, &params, &bindings, grid)
}

/// One drawn case of the kernel's operands, for the twin and the checks.
#[derive(Debug, Clone)]
struct Case {
    shape: ScoreShape,
    prefix: usize,
    count: usize,
    measure: Measure,
    forced: usize,
    columns: usize,
    /// Query rows of a call.
    part: usize,
}

impl Case {
    fn scale(&self) -> f32 {
        (self.shape.dim as f32).powf(-0.5)
    }

    fn logit(&self, q: &[f32], k: &[f32], row: usize, head: usize, column: usize) -> f64 {
        let ScoreShape { query_heads, kv_heads, dim, .. } = self.shape;
        let q = &q[(row * query_heads + head) * dim..][..dim];
        let k = &k[(column * kv_heads + head / (query_heads / kv_heads)) * dim..][..dim];
        q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() * f64::from(self.scale())
    }

    /// What pass 1 of attention leaves: the log-sum-exp of each query row and head.
    fn lse(&self, q: &[f32], k: &[f32]) -> Vec<f32> {
        let heads = self.shape.query_heads;
        (0..self.count * heads)
            .map(|at| {
                let (row, head) = (at / heads, at % heads);
                let sum: f64 =
                    (0..=self.prefix + row).map(|column| self.logit(q, k, row, head, column).exp()).sum();
                sum.ln() as f32
            })
            .collect()
    }

    /// The length of a row's value vector, averaged over the KV heads of a set.
    fn value_norm(&self, v: &[f32], set: usize, row: usize) -> f64 {
        let ScoreShape { kv_heads, dim, .. } = self.shape;
        let heads = kv_heads / self.shape.sets();
        let values = &v[(row * kv_heads + set * heads) * dim..][..heads * dim];
        let squares = |head: &[f32]| head.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        values.chunks(dim).map(|head| squares(head).sqrt()).sum::<f64>() / heads as f64
    }

    /// The CPU twin.
    fn twin(&self, q: &[f32], lse: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
        let Measure { recent, ramp, averaged, by_value } = self.measure;
        let heads = self.shape.query_heads;
        let set_heads = heads / self.shape.sets();
        let oldest = self.count.saturating_sub(recent);
        let step = ramp.step(self.count - oldest);
        let score = |set: usize, column: usize| {
            let mut sum = 0.0;
            for head in set * set_heads..(set + 1) * set_heads {
                for row in oldest.max(column)..self.count {
                    let weight = ramp.first + step * (row - oldest) as f32;
                    let norm = f64::from(lse[row * heads + head]);
                    sum +=
                        f64::from(weight) * (self.logit(q, k, row, head, self.prefix + column) - norm).exp();
                }
            }
            let queries = if averaged { self.count - oldest.max(column) } else { 1 };
            let length = if by_value { self.value_norm(v, set, self.prefix + column) } else { 1.0 };
            (sum / (set_heads * queries) as f64 * length) as f32
        };
        let sets = 0..self.shape.sets();
        sets.flat_map(|set| {
            (0..self.columns)
                .map(move |column| if column < self.forced { f32::MAX } else { score(set, column) })
        })
        .collect()
    }

    async fn check(&self, gpu: &Gpu) -> Result<Check> {
        let ScoreShape { query_heads, kv_heads, dim, .. } = self.shape;
        let mut noise = Noise::new(3);
        let mut wide = |len| noise.values(len).into_iter().map(|v| v * 3.0).collect::<Vec<f32>>();
        let kv_len = (self.prefix + self.count) * kv_heads * dim;
        let (q, k, v) = (wide(self.count * query_heads * dim), wide(kv_len), wide(kv_len));
        let lse = self.lse(&q, &k);
        let device = |values: &[f32]| gpu.tensor_with(Class::Scratch, "operand", values);
        let (dk, dv) = (device(&k), device(&v));
        let out = poisoned(gpu, self.shape.sets() * self.columns);
        let mut rec = Recorder::new(gpu);
        for from in (0..self.count).step_by(self.part) {
            let end = self.count.min(from + self.part);
            let rows = |values: &[f32], width: usize| device(&values[from * width..end * width]);
            let (dq, dlse) = (rows(&q, query_heads * dim), rows(&lse, query_heads));
            score(
                &mut rec,
                &dq,
                &dlse,
                &dk,
                &dv,
                self.shape,
                self.scale(),
                self.prefix,
                self.count,
                from..end,
                self.measure,
                self.forced,
                self.columns,
                &out,
            )?;
        }
        let got = rec.read(&out, 0, out.len());
        rec.submit();
        // Infinity is compared exactly and, unlike f32::MAX, does not set the scale of the error.
        let forced = |v: Vec<f32>| v.into_iter().map(|x| if x == f32::MAX { f32::INFINITY } else { x });
        let got: Vec<f32> = forced(got.await?).collect();
        let want: Vec<f32> = forced(self.twin(&q, &lse, &k, &v)).collect();
        let ScoreShape { query_heads, kv_heads, dim, .. } = self.shape;
        let (sets, Measure { recent, averaged, by_value, .. }) = (self.shape.sets(), self.measure);
        let label = format!(
            "score {} of {} rows after {}, {query_heads}/{kv_heads} heads of {dim}, {sets} sets, {} recent, \
             averaged {averaged}, by value {by_value}, {} at a time",
            self.columns,
            self.count,
            self.prefix,
            recent.min(self.count),
            self.part
        );
        Ok(Check::compare(label, &got, &want, 2e-5))
    }
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let shape = ScoreShape { query_heads: 6, kv_heads: 2, dim: 24, per_head: false };
    let measure =
        Measure { recent: 19, ramp: Ramp { first: 1.0, last: 1.2 }, averaged: false, by_value: false };
    let shared = Case { shape, prefix: 0, count: 75, measure, forced: 4, columns: 56, part: 20 };
    let measure = Measure { recent: usize::MAX, ramp: Ramp::FLAT, averaged: true, by_value: true };
    let per_head = ScoreShape { per_head: true, ..shape };
    let each = Case { shape: per_head, prefix: 70, count: 29, measure, forced: 0, columns: 29, part: 29 };
    Ok(vec![shared.check(gpu).await?, each.check(gpu).await?])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, families};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10))]
        #[test]
        fn agrees_with_its_twin(
            kv_heads in 1usize..4,
            group in 1usize..4,
            dim in 1usize..11,
            per_head: bool,
            prefix in 0usize..90,
            count in 1usize..70,
            parts in (0usize..120, 0usize..100),
            averaged: bool,
            by_value: bool,
            forced in 0usize..6,
            part in 1usize..80,
        ) {
            let shape = ScoreShape { query_heads: kv_heads * group, kv_heads, dim: dim * 4, per_head };
            let recent = 1 + count.saturating_sub(1) * parts.0 / 100;
            let columns = 1 + (count - 1) * parts.1 / 100;
            let measure = Measure { recent, ramp: Ramp { first: 1.0, last: 1.5 }, averaged, by_value };
            let case = Case { shape, prefix, count, measure, forced, columns, part };
            for gpu in families() {
                assert_passed(pollster::block_on(case.check(&gpu)).map(|c| vec![c]));
            }
        }
    }
}
