//! Looks up the embedding rows of tokens in a packed table.

use super::check::{Check, Noise, poisoned};
use super::jobs::groups;
use super::matrix::{Matrix, RowFormat, quantize, unpack};
use super::part::{Part, layout};
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "embed", text: include_str!("../../shaders/embed.wgsl") };

uniform! {
    struct Job {
        first: u32,
        rows: u32,
        vocabulary: u32,
        chunks: u32,
        at: u32,
        to: u32,
        scale: f32,
    }
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    let of = |format: RowFormat| {
        [(false, false), (true, false), (true, true)]
            .map(|(tiled, textures)| layout(format.variant(ShaderKey::new(SHADER)), tiled, textures))
    };
    RowFormat::ALL.into_iter().flat_map(of).collect()
}

/// Neighbouring tokens to look up.
#[derive(Debug, Clone, Copy)]
pub struct Lookup<'a> {
    /// Where they are,
    pub tokens: &'a Tensor<u32>,
    /// from which index on,
    pub at: usize,
    /// and how many.
    pub count: usize,
    /// The row of `out` that is the first one's.
    pub to: usize,
}

/// Records `out[to + i] = scale * table[tokens[at + i]]` for each lookup; `out` is `[rows, cols]`. A token past the
/// table counts as its last row.
pub fn embed(
    rec: &mut Recorder,
    lookups: &[Lookup<'_>],
    table: &Matrix,
    scale: f32,
    out: &Tensor<f32>,
) -> Result<()> {
    let chunks = table.cols() / 8;
    for group in groups(lookups, |a, b| a.count == b.count && a.tokens.beside(b.tokens)) {
        for part in table.parts() {
            let kernel = rec.gpu().kernel(&part.variant(ShaderKey::new(SHADER)))?;
            let job = |lookup: &&Lookup<'_>| Job {
                first: part.first_row as u32,
                rows: part.rows as u32,
                vocabulary: table.rows() as u32,
                chunks: chunks as u32,
                at: (lookup.tokens.whole().1 + lookup.at) as u32,
                to: lookup.to as u32,
                scale,
            };
            let jobs: Vec<Job> = group.iter().map(job).collect();
            let Lookup { tokens, count, .. } = group[0];
            let bindings = [part.words.bind(), part.scales.bind(), tokens.whole().0, out.bind()];
            rec.dispatch_jobs(&kernel, &jobs, &bindings, [chunks.div_ceil(64) as u32, *count as u32])?;
        }
    }
    Ok(())
}

/// The CPU twin, over an unpacked table.
pub fn twin(tokens: &[u32], table: &[f32], cols: usize, scale: f32) -> Vec<f32> {
    let last = table.len() / cols - 1;
    let row = |&token: &u32| &table[(token as usize).min(last) * cols..][..cols];
    tokens.iter().flat_map(row).map(|v| v * scale).collect()
}

/// Two parts of `rows` rows each, the second in `formats[1]`, with a token beyond the end.
async fn check(gpu: &Gpu, formats: [RowFormat; 2], rows: usize, cols: usize) -> Result<Check> {
    let mut noise = Noise::new(4);
    let mut rec = Recorder::new(gpu);
    let (mut parts, mut values) = (Vec::new(), Vec::new());
    for (i, format) in formats.into_iter().enumerate() {
        let (words, scales) = quantize(format, rows, cols, &noise.values(rows * cols));
        values.extend(unpack(format, rows, cols, &words, &scales));
        let words = gpu.tensor_with(Class::Weights, "words", &words);
        let scales = gpu.tensor_with(Class::Weights, "scales", &scales);
        parts.push(Part::new(&mut rec, i * rows, rows, format, words, scales)?);
    }
    let tokens: Vec<u32> = (0..7).map(|_| noise.below(2 * rows as u32)).chain([u32::MAX]).collect();
    let device_tokens = gpu.tensor_with(Class::Scratch, "tokens", &tokens);
    // The first two tokens belong to somebody else.
    let (at, count) = (2, tokens.len() - 2);
    let out = poisoned(gpu, count * cols);
    let table = Matrix::new(cols, parts);
    let lookup = |at, count, to| Lookup { tokens: &device_tokens, at, count, to };
    // As a block, and one by one in another order.
    embed(&mut rec, &[lookup(at, count, 0)], &table, 1.5, &out)?;
    let block = rec.read(&out, 0, count * cols);
    let single: Vec<_> = (0..count).map(|i| lookup(at + i, 1, count - 1 - i)).collect();
    embed(&mut rec, &single, &table, 1.5, &out)?;
    let got = rec.read(&out, 0, count * cols);
    rec.submit();
    let label = format!("embed {formats:?} {rows}x{cols}");
    let mut want = twin(&tokens[at..], &values, cols, 1.5);
    let rows: Vec<f32> = want.chunks_exact(cols).rev().flatten().copied().collect();
    let mut both = block.await?;
    both.extend(got.await?);
    want.extend(rows);
    Ok(Check::compare(label, &both, &want, 1e-6))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let (half, eight, four) = (RowFormat::F16, RowFormat::Q8, RowFormat::Q4);
    Ok(vec![check(gpu, [eight, four], 9, 96).await?, check(gpu, [four, half], 5, 544).await?])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn agrees_with_its_twin(a in 0usize..3, b in 0usize..3, rows in 1usize..40, groups in 1usize..40) {
            let formats = [RowFormat::ALL[a], RowFormat::ALL[b]];
            assert_passed(pollster::block_on(check(&gpu(), formats, rows, 32 * groups)).map(|c| vec![c]));
        }
    }

    #[test]
    fn half_precision_rows_need_no_whole_group() {
        assert_passed(pollster::block_on(check(&gpu(), [RowFormat::F16; 2], 3, 40)).map(|c| vec![c]));
    }
}
