//! An independent decoder in plain f64 loops: slow, obvious, and sharing no code with the crate's kernels.

use benben::model::Config;
use benben::weights::ModelFile;

/// A Llama on the CPU, with the weights of a model file.
pub struct Reference {
    config: Config,
    frequencies: Vec<f32>,
    layers: Vec<Layer>,
    embedding: Vec<f32>,
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

/// What PyramidInfer's prefill keeps: rows of the next layer, out of those that entered this one.
pub struct Drop {
    /// Rows that propagate from each layer.
    pub propagate: Vec<usize>,
    /// Rows at the end that score and are protected.
    pub recent: usize,
    /// Weight of the newest scoring row, the oldest one's being `first`.
    pub last: f64,
    pub first: f64,
    pub sinks: usize,
}

/// The outcome of a prefill.
pub struct Outcome {
    /// Logits of the last row.
    pub logits: Vec<f64>,
    /// Positions that entered each layer.
    pub entered: Vec<Vec<usize>>,
    /// Logits of every surviving row.
    pub all_logits: Vec<Vec<f64>>,
}

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

impl Reference {
    pub fn new(file: &ModelFile) -> Self {
        let config = Config::read(file).expect("a configuration");
        let tensor = |name: &str| {
            let tensor = file.tensor(name).unwrap_or_else(|| panic!("{name}"));
            file.dequantize(tensor).expect("readable")
        };
        let layers = (0..config.layers).map(|l| {
            let part = |name: &str| tensor(&format!("blk.{l}.{name}.weight"));
            Layer {
                attn_norm: part("attn_norm"),
                q: part("attn_q"),
                k: part("attn_k"),
                v: part("attn_v"),
                output: part("attn_output"),
                ffn_norm: part("ffn_norm"),
                gate: part("ffn_gate"),
                up: part("ffn_up"),
                down: part("ffn_down"),
            }
        });
        Self {
            layers: layers.collect(),
            frequencies: config.rope.frequencies(),
            embedding: tensor("token_embd.weight"),
            output_norm: tensor("output_norm.weight"),
            config,
        }
    }

    /// Rotates every head of `x` to `position`.
    fn rotate(&self, x: &mut [f64], position: usize) {
        let dim = self.config.heads.dim;
        let half = self.frequencies.len();
        for head in x.chunks_exact_mut(dim) {
            for (i, frequency) in self.frequencies.iter().enumerate() {
                let (a, b) = if self.config.rope.interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
                let (sin, cos) = (position as f64 * f64::from(*frequency)).sin_cos();
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
            }
        }
    }

    /// Runs a prompt densely, or as `drop` says.
    pub fn prefill(&self, tokens: &[u32], drop: Option<&Drop>) -> Outcome {
        let (width, heads, epsilon) = (self.config.width, self.config.heads, self.config.epsilon);
        let embed = |&id: &u32| self.embedding[id as usize * width..][..width].iter().map(|&v| f64::from(v)).collect();
        let mut rows: Vec<Vec<f64>> = tokens.iter().map(embed).collect();
        let mut positions: Vec<usize> = (0..tokens.len()).collect();
        let mut entered = Vec::new();
        for (l, layer) in self.layers.iter().enumerate() {
            entered.push(positions.clone());
            let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
            for (row, &position) in rows.iter().zip(&positions) {
                let x = norm(row, &layer.attn_norm, epsilon);
                let (mut q_row, mut k_row) = (matvec(&layer.q, &x), matvec(&layer.k, &x));
                self.rotate(&mut q_row, position);
                self.rotate(&mut k_row, position);
                q.push(q_row);
                k.push(k_row);
                v.push(matvec(&layer.v, &x));
            }
            let mut received = vec![0.0; rows.len()];
            for (i, row) in rows.iter_mut().enumerate() {
                let mut attended = vec![0.0; heads.q_width()];
                for h in 0..heads.query {
                    let kv = h / heads.group() * heads.dim..(h / heads.group() + 1) * heads.dim;
                    let own = h * heads.dim..(h + 1) * heads.dim;
                    let dot = |k: &Vec<f64>| q[i][own.clone()].iter().zip(&k[kv.clone()]).map(|(a, b)| a * b).sum::<f64>();
                    let weights = softmax(&k[..=i].iter().map(|k| dot(k) / (heads.dim as f64).sqrt()).collect::<Vec<_>>());
                    for (j, weight) in weights.iter().enumerate() {
                        attended[own.clone()].iter_mut().zip(&v[j][kv.clone()]).for_each(|(a, v)| *a += weight * v);
                        if let Some(drop) = drop
                            && i + drop.recent >= received.len()
                        {
                            let step = (i + drop.recent - received.len()) as f64 / (drop.recent - 1).max(1) as f64;
                            received[j] += weight * (drop.first + (drop.last - drop.first) * step);
                        }
                    }
                }
                row.iter_mut().zip(matvec(&layer.output, &attended)).for_each(|(r, o)| *r += o);
                let x = norm(row, &layer.ffn_norm, epsilon);
                let gated = matvec(&layer.gate, &x).into_iter().zip(matvec(&layer.up, &x));
                let inner: Vec<f64> = gated.map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                row.iter_mut().zip(matvec(&layer.down, &inner)).for_each(|(r, d)| *r += d);
            }
            if let Some(drop) = drop {
                let context = rows.len() - drop.recent;
                let mut order: Vec<usize> = (0..context).collect();
                let rank = |j: &usize| if *j < drop.sinks { f64::MAX } else { received[*j] };
                order.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
                order.truncate(drop.propagate[l] - drop.recent);
                order.sort_unstable();
                order.extend(context..rows.len());
                rows = order.iter().map(|&j| rows[j].clone()).collect();
                positions = order.iter().map(|&j| positions[j]).collect();
            }
        }
        let logits = |row: &Vec<f64>| matvec(&self.embedding, &norm(row, &self.output_norm, epsilon));
        let all_logits: Vec<Vec<f64>> = rows.iter().map(logits).collect();
        Outcome { logits: all_logits.last().expect("a row").clone(), entered, all_logits }
    }
}
