//! Reads words and writes next to nothing: the yardstick for the bandwidth that a kernel can reach which only reads, as
//! a decode step reads weights.

use super::check::{Check, Noise};
use super::grid::lines;
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "read", text: include_str!("../../shaders/read.wgsl") };

/// Lanes of a workgroup.
const LANES: usize = 256;
/// Words that a workgroup reads.
const STRETCH: usize = 16 * 4 * LANES;

uniform! {
    struct Params {
        count: u32,
    }
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// Values that [`read`] makes of `words` words: one for 64 of them.
pub fn outputs(words: usize) -> usize {
    words.div_ceil(STRETCH) * LANES
}

/// Records the reading of the first `words` words of `from`, a multiple of four. `out` gets [`outputs`] words, each the
/// exclusive or of 64 of them.
pub fn read(rec: &mut Recorder, from: &Tensor<u32>, words: usize, out: &Tensor<u32>) -> Result<()> {
    let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
    let params = Params { count: (words / 4) as u32 };
    rec.dispatch(&kernel, &params, &[from.bind(), out.bind()], lines(words.div_ceil(STRETCH)))
}

/// The CPU twin.
pub fn twin(words: &[u32]) -> Vec<u32> {
    let mut out = vec![0; outputs(words.len())];
    for (i, word) in words.iter().enumerate() {
        out[i / STRETCH * LANES + i / 4 % LANES] ^= word;
    }
    out
}

async fn check(gpu: &Gpu, words: usize) -> Result<Check> {
    let mut noise = Noise::new(3);
    let source: Vec<u32> = (0..words).map(|_| noise.below(u32::MAX)).collect();
    let from = gpu.tensor_with(Class::Scratch, "from", &source);
    let out = gpu.tensor_with(Class::Scratch, "out", &vec![u32::MAX; outputs(words)]);
    let mut rec = Recorder::new(gpu);
    read(&mut rec, &from, words, &out)?;
    let got = rec.read(&out, 0, out.len());
    rec.submit();
    Ok(Check::equal(format!("read {words} words"), &got.await?, &twin(&source)))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    Ok(vec![check(gpu, 4).await?, check(gpu, 3 * STRETCH + 4 * 333).await?])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn agrees_with_its_twin(quads in 1usize..20_000) {
            assert_passed(pollster::block_on(check(&gpu(), 4 * quads)).map(|c| vec![c]));
        }
    }
}
