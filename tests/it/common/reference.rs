//! An independent decoder in plain f64 loops: slow, obvious, and sharing no code with the crate's kernels.
//!
//! How many rows a policy keeps is taken from its plan; which ones they are is worked out here from whole
//! attention matrices and a sort.

use std::ops::Range;

use benben::kv::policy::{BlockPlan, Combine, Full, Measure, Policy, Pooling, Rank, Scorer, Scoring};
use benben::model::Config;
use benben::weights::ModelFile;
use half::f16;
use pollster::block_on;

/// A Llama on the CPU, with the weights of a model file.
pub struct Reference {
    config: Config,
    frequencies: Vec<f32>,
    layers: Vec<Layer>,
    embedding: Vec<f32>,
    head: Vec<f32>,
    output_norm: Vec<f32>,
}

struct Layer {
    attn_norm: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    output: Vec<f32>,
    ffn_norm: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    down: Vec<f32>,
}

/// One token's key and value of one KV head.
#[derive(Clone)]
pub struct Row {
    pub position: usize,
    /// The key before its rotation.
    projected: Vec<f64>,
    /// A and B.
    pub sums: [f64; 2],
    k: Vec<f64>,
    v: Vec<f64>,
}

/// The rows that live: `rows[layer][KV head]`, and the number of tokens that ran.
#[derive(Clone, Default)]
pub struct Rows {
    pub rows: Vec<Vec<Vec<Row>>>,
    pub tokens: usize,
}

/// A block's rows after one layer's attention.
struct Attended {
    /// `[row][query heads * dim]`
    out: Vec<Vec<f64>>,
    /// What each row of the block received, or can expect, under each term: `[term][KV head][row]`.
    received: Vec<Vec<Vec<f64>>>,
    /// What each query paid, mean over the heads of a group: `[KV head][query][row, earlier ones first]`.
    paid: Vec<Vec<Vec<f64>>>,
}

/// What happens to the rows of a layer around a block that runs through it.
pub trait Course {
    /// Before the block attends to `rows`, which are `[KV head]`.
    fn before(&mut self, _reference: &Reference, _layer: usize, _rows: &mut [Vec<Row>], _position: usize) {}

    /// After the block's rows were added to `rows`, and its queries paid what they paid.
    fn after(&mut self, _layer: usize, _rows: &mut [Vec<Row>], _paid: &[Vec<Vec<f64>>], _end: usize) {}
}

/// Nothing does.
struct Quiet;

impl Course for Quiet {}

fn matvec(matrix: &[f32], x: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
}

fn norm(x: &[f64], weight: &[f32], epsilon: f32) -> Vec<f64> {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + f64::from(epsilon)).sqrt();
    x.iter().zip(weight).map(|(v, w)| v * scale * f64::from(*w)).collect()
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let max = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
    let powers: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

fn add(to: &mut [f64], what: Vec<f64>) {
    to.iter_mut().zip(what).for_each(|(t, w)| *t += w);
}

/// The cross-entropy of `token`.
pub fn loss(logits: &[f64], token: u32) -> f64 {
    -softmax(logits)[token as usize].ln()
}

/// Indices of the `keep` largest of `scores`, the first `sinks` before all others, ascending.
fn largest(scores: &[f64], sinks: usize, keep: usize) -> Vec<usize> {
    let rank = |j: usize| if j < sinks { f64::MAX } else { scores[j] };
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| rank(b).total_cmp(&rank(a)));
    order.truncate(keep);
    order.sort_unstable();
    order
}

/// What the attention of row `i` to row `j` counts in a block of `count` rows.
fn share(measure: &Measure, i: usize, j: usize, count: usize) -> f64 {
    let recent = measure.recent.min(count);
    let oldest = count - recent;
    if i < oldest {
        return 0.0;
    }
    let step = (i - oldest) as f64 / (recent - 1).max(1) as f64;
    let weight = f64::from(measure.ramp.first) + f64::from(measure.ramp.last - measure.ramp.first) * step;
    let queries = (oldest.max(j)..count).count();
    if measure.averaged { weight / queries as f64 } else { weight }
}

/// What some KV heads together give the first `columns` rows, from what the rows received under each term.
fn scores(
    scoring: &Scoring,
    received: &[Vec<Vec<f64>>],
    keys: &[Vec<Row>],
    heads: Range<usize>,
    columns: usize,
) -> Vec<f64> {
    let mut best = vec![0.0f64; columns];
    let scored = scoring.sinks..columns;
    for (term, received) in scoring.terms.iter().zip(received) {
        let length = |g: usize, j: usize| keys[g][j].v.iter().map(|v| v * v).sum::<f64>().sqrt();
        let raw = |j: usize| {
            let sum: f64 = heads.clone().map(|g| received[g][j]).sum();
            let lengths: f64 = heads.clone().map(|g| length(g, j)).sum();
            let by_value = match term.scorer {
                Scorer::Received(measure) => measure.by_value,
                Scorer::Expected => true,
            };
            if by_value { sum * lengths } else { sum }
        };
        let raw: Vec<f64> = (0..columns).map(raw).collect();
        let pool = |j: usize| {
            let (Pooling::Max(window) | Pooling::Average(window)) = term.pooling.unwrap_or(Pooling::Max(1));
            let begin = j.saturating_sub(window / 2).max(scoring.sinks);
            let around = &raw[begin..columns.min(j + window / 2 + 1)];
            match term.pooling {
                Some(Pooling::Average(_)) => around.iter().sum::<f64>() / around.len() as f64,
                _ => around.iter().copied().fold(0.0, f64::max),
            }
        };
        let weight = f64::from(term.weight);
        let mean = scored.clone().map(pool).sum::<f64>() / scored.len() as f64;
        for j in scored.clone() {
            best[j] = match scoring.combine {
                Combine::Max => best[j].max(weight * pool(j)),
                Combine::Sum => best[j] + weight * pool(j) / mean,
            };
        }
    }
    best
}

impl Reference {
    pub fn new(file: &ModelFile) -> Self {
        let config = block_on(Config::read(file)).expect("a configuration");
        let find =
            |name: &str| file.tensor(name).map(|t| block_on(file.dequantize(t)).expect("a readable tensor"));
        let tensor = |name: &str| find(name).unwrap_or_else(|| panic!("no tensor {name}"));
        let layers = (0..config.layers).map(|l| {
            let part = |name: &str| tensor(&format!("blk.{l}.{name}.weight"));
            Layer {
                attn_norm: part("attn_norm"),
                q: part("attn_q"),
                k: if config.makes_kv(l) { part("attn_k") } else { Vec::new() },
                v: if config.makes_kv(l) { part("attn_v") } else { Vec::new() },
                output: part("attn_output"),
                ffn_norm: part("ffn_norm"),
                gate: part("ffn_gate"),
                up: part("ffn_up"),
                down: part("ffn_down"),
            }
        });
        let embedding = tensor("token_embd.weight");
        Self {
            layers: layers.collect(),
            frequencies: config.rope.frequencies(),
            head: find("output.weight").unwrap_or_else(|| embedding.clone()),
            embedding,
            output_norm: tensor("output_norm.weight"),
            config,
        }
    }

    /// Runs `tokens` as one block in which no row is dropped; returns the logits of every row.
    pub fn run(&self, live: &mut Rows, tokens: &[u32]) -> Vec<Vec<f64>> {
        let plan = Full.plan(tokens.len(), self.config.kv_layers()).expect("a plan");
        self.block(live, tokens, &plan, false, &mut Quiet)
    }

    /// Runs `tokens` as one block under `policy`; returns the logits of the rows that come out at the end.
    pub fn prefill(&self, live: &mut Rows, tokens: &[u32], policy: &dyn Policy) -> Vec<Vec<f64>> {
        let plan = policy.plan(tokens.len(), self.config.kv_layers()).expect("a plan");
        let logits = self.block(live, tokens, &plan, policy.per_head(), &mut Quiet);
        if policy.rank() == Some(Rank::Age) {
            for rows in &mut live.rows {
                self.follow(rows, live.tokens);
            }
        }
        logits
    }

    /// Moves the first four rows of a layer to where the others leave no gap before the token at `position`.
    pub fn follow(&self, rows: &mut [Vec<Row>], position: usize) {
        for head in rows {
            let skipped = position - head.len();
            for (i, row) in head.iter_mut().take(4).enumerate() {
                row.position = skipped + i;
                row.k = self.rotated(row.projected.clone(), row.position);
                *row = row.stored();
            }
        }
    }

    /// Runs `tokens` as one block.
    pub fn block(
        &self,
        live: &mut Rows,
        tokens: &[u32],
        plan: &BlockPlan,
        per_head: bool,
        course: &mut dyn Course,
    ) -> Vec<Vec<f64>> {
        let (width, heads, epsilon) = (self.config.width, self.config.heads, self.config.epsilon);
        live.rows.resize(self.config.kv_layers(), vec![Vec::new(); heads.kv]);
        let row = |&id: &u32| &self.embedding[id as usize * width..][..width];
        let embed = |id| row(id).iter().map(|&v| f64::from(v)).collect();
        let mut hidden: Vec<Vec<f64>> = tokens.iter().map(embed).collect();
        let mut positions: Vec<usize> = (live.tokens..live.tokens + tokens.len()).collect();
        live.tokens += tokens.len();
        let mut keys = Vec::new();
        for (l, layer) in self.layers.iter().enumerate() {
            let (group, counts) = (l / self.config.kv_sharing, &plan.layers[l / self.config.kv_sharing]);
            course.before(self, group, &mut live.rows[group], live.tokens - tokens.len());
            let normed: Vec<_> = hidden.iter().map(|row| norm(row, &layer.attn_norm, epsilon)).collect();
            if self.config.makes_kv(l) {
                keys = self.keys(layer, &normed, &positions);
            }
            let plain: Vec<_> = normed.iter().map(|x| matvec(&layer.q, x)).collect();
            let turned = plain.iter().zip(&positions).map(|(q, &p)| self.rotated(q.clone(), p));
            let queries: Vec<_> = turned.collect();
            let mut attended = self.attend(&live.rows[group], &keys, &queries, plan.scoring.as_ref());
            if let Some(scoring) = &plan.scoring {
                for (term, received) in scoring.terms.iter().zip(&mut attended.received) {
                    if term.scorer == Scorer::Expected {
                        *received = self.expected(&plain[scoring.sinks..], &keys, live.tokens);
                    }
                }
            }
            for (row, out) in hidden.iter_mut().zip(&attended.out) {
                add(row, matvec(&layer.output, out));
                let x = norm(row, &layer.ffn_norm, epsilon);
                let gated = matvec(&layer.gate, &x).into_iter().zip(matvec(&layer.up, &x));
                let inner: Vec<f64> = gated.map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                add(row, matvec(&layer.down, &inner));
            }
            // The layers of a group read the same rows, so that none is dropped before the last one has.
            if !self.config.makes_kv(l + 1) {
                continue;
            }
            let select = |heads: Range<usize>, keep: usize| match &plan.scoring {
                Some(scoring) if keep < counts.enter => {
                    let columns = counts.enter - counts.protected;
                    let scores = scores(scoring, &attended.received, &keys, heads, columns);
                    let mut kept = largest(&scores, scoring.sinks, keep - counts.protected);
                    kept.extend(columns..counts.enter);
                    kept
                }
                _ => (0..counts.enter).collect(),
            };
            for (g, own) in keys.iter().enumerate() {
                let heads = if per_head { g..g + 1 } else { 0..keys.len() };
                let kept = select(heads, counts.retain).into_iter().map(|j| own[j].stored());
                live.rows[group][g].extend(kept);
            }
            course.after(group, &mut live.rows[group], &attended.paid, live.tokens);
            if l + 1 < self.layers.len() {
                let kept = select(0..keys.len(), counts.propagate);
                hidden = kept.iter().map(|&j| hidden[j].clone()).collect();
                positions = kept.iter().map(|&j| positions[j]).collect();
            }
        }
        hidden.iter().map(|row| matvec(&self.head, &norm(row, &self.output_norm, epsilon))).collect()
    }

    /// Keys and values of a block: `[KV head][row]`.
    fn keys(&self, layer: &Layer, normed: &[Vec<f64>], positions: &[usize]) -> Vec<Vec<Row>> {
        let dim = self.config.heads.dim;
        let mut heads = vec![Vec::new(); self.config.heads.kv];
        for (x, &position) in normed.iter().zip(positions) {
            let (projected, v) = (matvec(&layer.k, x), matvec(&layer.v, x));
            let k = self.rotated(projected.clone(), position);
            let parts = k.chunks_exact(dim).zip(v.chunks_exact(dim)).zip(projected.chunks_exact(dim));
            for (head, ((k, v), projected)) in heads.iter_mut().zip(parts) {
                let (k, v, projected) = (k.to_vec(), v.to_vec(), projected.to_vec());
                head.push(Row { position, projected, sums: [0.0; 2], k, v });
            }
        }
        heads
    }

    /// Turns every head of `x` to `position`.
    fn rotated(&self, mut x: Vec<f64>, position: usize) -> Vec<f64> {
        let half = self.frequencies.len();
        for head in x.chunks_exact_mut(self.config.heads.dim) {
            for (i, frequency) in self.frequencies.iter().enumerate() {
                let (a, b) = if self.config.rope.interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
                let (sin, cos) = (position as f64 * f64::from(*frequency)).sin_cos();
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
            }
        }
        x
    }

    /// The attention that a block's rows can expect at the 512 positions from `next` on, of queries with the mean
    /// and covariance of the unrotated ones in `plain`: `[KV head][row]`.
    fn expected(&self, plain: &[Vec<f64>], block: &[Vec<Row>], next: usize) -> Vec<Vec<f64>> {
        let (heads, n) = (self.config.heads, plain.len() as f64);
        // The rotation is linear: its average over positions is what it makes of each unit vector, averaged.
        let turn = |x: &[f64]| {
            let mut sum = vec![0.0; x.len()];
            (next..next + 512).for_each(|p| add(&mut sum, self.rotated(x.to_vec(), p)));
            sum.into_iter().map(|v| v / 512.0).collect::<Vec<f64>>()
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut received = vec![vec![0.0; block[0].len()]; heads.kv];
        for h in 0..heads.query {
            let own: Vec<&[f64]> = plain.iter().map(|q| &q[h * heads.dim..][..heads.dim]).collect();
            let mean: Vec<f64> = (0..heads.dim).map(|i| own.iter().map(|q| q[i]).sum::<f64>() / n).collect();
            let turned = turn(&mean);
            let spread: Vec<Vec<f64>> = own
                .iter()
                .map(|q| turn(&q.iter().zip(&mean).map(|(q, m)| q - m).collect::<Vec<_>>()))
                .collect();
            let logit = |row: &Row| {
                let variance = spread.iter().map(|q| dot(q, &row.k).powi(2)).sum::<f64>() / n;
                dot(&turned, &row.k) / (heads.dim as f64).sqrt() + variance / (2.0 * heads.dim as f64)
            };
            let g = h / heads.group();
            let weights = softmax(&block[g].iter().map(logit).collect::<Vec<_>>());
            add(&mut received[g], weights);
        }
        received
    }

    fn attend(
        &self,
        earlier: &[Vec<Row>],
        block: &[Vec<Row>],
        queries: &[Vec<f64>],
        scoring: Option<&Scoring>,
    ) -> Attended {
        let (heads, count) = (self.config.heads, queries.len());
        let terms = scoring.map_or(&[][..], |s| &s.terms);
        let mut received = vec![vec![vec![0.0; count]; heads.kv]; terms.len()];
        let mut out = vec![vec![0.0; heads.q_width()]; count];
        let mut paid: Vec<Vec<Vec<f64>>> =
            earlier.iter().map(|rows| (0..count).map(|i| vec![0.0; rows.len() + i + 1]).collect()).collect();
        for (i, query) in queries.iter().enumerate() {
            for (h, q) in query.chunks_exact(heads.dim).enumerate() {
                let g = h / heads.group();
                let seen: Vec<&Row> = earlier[g].iter().chain(&block[g][..=i]).collect();
                let dot = |row: &&Row| q.iter().zip(&row.k).map(|(a, b)| a * b).sum::<f64>();
                let scores: Vec<f64> = seen.iter().map(|row| dot(row) / (heads.dim as f64).sqrt()).collect();
                let weights = softmax(&scores);
                let own = &mut out[i][h * heads.dim..][..heads.dim];
                for (weight, row) in weights.iter().zip(&seen) {
                    own.iter_mut().zip(&row.v).for_each(|(o, v)| *o += weight * v);
                }
                add(&mut paid[g][i], weights.iter().map(|w| w / heads.group() as f64).collect());
                for (term, received) in terms.iter().zip(&mut received) {
                    let Scorer::Received(measure) = &term.scorer else { continue };
                    for (j, weight) in weights[earlier[g].len()..].iter().enumerate() {
                        received[g][j] += share(measure, i, j, count) * weight;
                    }
                }
            }
        }
        Attended { out, received, paid }
    }
}

impl Row {
    /// The row as a cache of 16 bits holds it.
    fn stored(&self) -> Self {
        let round = |x: &[f64]| x.iter().map(|v| f16::from_f64(*v).to_f64()).collect();
        Self { k: round(&self.k), v: round(&self.v), ..self.clone() }
    }
}
