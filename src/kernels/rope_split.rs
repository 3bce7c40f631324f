//! Splits the rows of a block into queries, keys and values, and rotates queries and keys by their positions.

use super::check::{Check, Noise, poisoned};
use super::kv_row::Heads;
use crate::Result;
use crate::gpu::{Binding, Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "rope_split", text: include_str!("../../shaders/rope_split.wgsl") };

/// Rotary position embedding (RoFormer, arXiv 2104.09864) over the first `2 * frequencies.len()` dimensions of a
/// head; the others pass through.
#[derive(Debug, Clone, Copy)]
pub struct Rope<'a> {
    /// Radians per position of each rotated pair, after any scaling of the context.
    pub frequencies: &'a Tensor<f32>,
    /// Pairs are `(2i, 2i + 1)`, else `(i, i + frequencies.len())`.
    pub interleaved: bool,
    /// Factor on cosine and sine: YaRN's magnitude, else 1.
    pub scale: f32,
}

impl Rope<'_> {
    /// Adds the defines of `shaders/shared/rope.wgsl`.
    pub(super) fn key(&self, key: ShaderKey) -> ShaderKey {
        rope_key(key, self.frequencies.len(), self.interleaved)
    }
}

pub(super) fn rope_key(key: ShaderKey, pairs: usize, interleaved: bool) -> ShaderKey {
    key.with("PAIRS", pairs as u32).flag("INTERLEAVED", interleaved)
}

uniform! {
    struct Params {
        count: u32,
        first: u32,
        query_heads: u32,
        kv_heads: u32,
        scale: f32,
    }
}

fn key(head_dim: usize) -> ShaderKey {
    ShaderKey::new(SHADER).with("HEAD_DIM", head_dim as u32)
}

/// Both pairings, on heads of 64 that rotate whole and on heads of 96 that rotate a third.
pub fn variants() -> Vec<ShaderKey> {
    let shapes = [(64, 32, false), (64, 32, true), (96, 16, false), (96, 16, true)];
    shapes.map(|(dim, pairs, interleaved)| rope_key(key(dim), pairs, interleaved)).to_vec()
}

/// Records the split of `count` rows of `qkv` (`[count, (H + 2G) * hd]`) with their `positions`: rotated queries
/// go to `q` (`[count, H * hd]`), rotated keys and plain values to rows `first..first + count` of `k` and `v`
/// (`[>= first + count, G * hd]`).
#[allow(clippy::too_many_arguments)]
pub fn rope_split(
    rec: &mut Recorder,
    qkv: &Tensor<f32>,
    positions: Binding<'_>,
    heads: Heads,
    rope: &Rope<'_>,
    q: &Tensor<f32>,
    k: &Tensor<f32>,
    v: &Tensor<f32>,
    first: usize,
    count: usize,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&rope.key(key(heads.dim)))?;
    let params = Params {
        count: count as u32,
        first: first as u32,
        query_heads: heads.query as u32,
        kv_heads: heads.kv as u32,
        scale: rope.scale,
    };
    let bindings = [qkv.bind(), positions, rope.frequencies.bind(), q.bind(), k.bind(), v.bind()];
    rec.dispatch(&kernel, &params, &bindings, [(count * heads.dim / 2).div_ceil(64) as u32, 1, 1])
}

/// The CPU twin for one head row.
pub fn twin(row: &mut [f32], position: u32, frequencies: &[f32], interleaved: bool, scale: f32) {
    for (i, frequency) in frequencies.iter().enumerate() {
        let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + frequencies.len()) };
        // The angle is a float in every implementation; only what follows it may be exact.
        let angle = f64::from(position as f32 * frequency);
        let (x, y) = (f64::from(row[a]), f64::from(row[b]));
        let scale = f64::from(scale);
        row[a] = ((x * angle.cos() - y * angle.sin()) * scale) as f32;
        row[b] = ((x * angle.sin() + y * angle.cos()) * scale) as f32;
    }
}

/// Frequencies as most models have them, for checks.
pub(super) fn frequencies(pairs: usize) -> Vec<f32> {
    (0..pairs).map(|i| 10_000f32.powf(-(i as f32) / pairs as f32)).collect()
}

async fn check(
    gpu: &Gpu,
    heads: Heads,
    (pairs, interleaved): (usize, bool),
    first: usize,
    count: usize,
) -> Result<Vec<Check>> {
    let mut noise = Noise::new(17);
    let qkv = noise.values(count * heads.qkv_width());
    let positions: Vec<u32> = (0..count).map(|_| noise.below(9000)).collect();
    let scale = 1.25;
    let mut want: [Vec<f32>; 3] = Default::default();
    for (i, row) in qkv.chunks_exact(heads.dim).enumerate() {
        let (token, head) = (i / (heads.query + 2 * heads.kv), i % (heads.query + 2 * heads.kv));
        let mut row = row.to_vec();
        let kind = usize::from(head >= heads.query) + usize::from(head >= heads.query + heads.kv);
        if kind < 2 {
            twin(&mut row, positions[token], &frequencies(pairs), interleaved, scale);
        }
        want[kind].extend(row);
    }

    let device_qkv = gpu.tensor_with(Class::Scratch, "qkv", &qkv);
    let device_positions = gpu.tensor_with(Class::Scratch, "positions", &positions);
    let device_frequencies = gpu.tensor_with(Class::Scratch, "frequencies", &frequencies(pairs));
    let rope = Rope { frequencies: &device_frequencies, interleaved, scale };
    let width = heads.kv_width();
    let q = poisoned(gpu, count * heads.q_width());
    let (k, v) = (poisoned(gpu, (first + count) * width), poisoned(gpu, (first + count) * width));
    let mut rec = Recorder::new(gpu);
    rope_split(&mut rec, &device_qkv, device_positions.bind(), heads, &rope, &q, &k, &v, first, count)?;
    let got_q = rec.read(&q, 0, q.len());
    let got_k = rec.read(&k, first * width, count * width);
    let got_v = rec.read(&v, first * width, count * width);
    rec.submit();
    let label = format!("rope_split {count} at {first}, {heads:?}, {pairs} pairs, interleaved {interleaved}");
    Ok(vec![
        Check::compare(label.clone() + ", q", &got_q.await?, &want[0], 1e-5),
        Check::compare(label.clone() + ", k", &got_k.await?, &want[1], 1e-5),
        Check::compare(label + ", v", &got_v.await?, &want[2], 0.0),
    ])
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let mut out = check(gpu, Heads { query: 9, kv: 3, dim: 64 }, (32, false), 5, 19).await?;
    out.extend(check(gpu, Heads { query: 2, kv: 1, dim: 80 }, (10, true), 0, 3).await?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn agrees_with_its_twin(
            kv in 1usize..4,
            group in 1usize..4,
            (dim, pairs) in prop::sample::select(vec![(64usize, 32usize), (80, 40), (96, 24), (128, 1)]),
            interleaved in any::<bool>(),
            first in 0usize..9,
            count in 1usize..40,
        ) {
            let heads = Heads { query: kv * group, kv, dim };
            assert_passed(pollster::block_on(check(&gpu(), heads, (pairs, interleaved), first, count)));
        }
    }
}
