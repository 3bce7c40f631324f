//! Copies words as they are: the yardstick for the bandwidth that a kernel can reach which writes as much as it reads.

use super::check::{Check, Noise};
use super::grid::lines;
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "copy", text: include_str!("../../shaders/copy.wgsl") };

/// Lanes of a workgroup: with 64, large GPUs copy at two thirds of what they reach with 128.
const LANES: usize = 128;

uniform! {
    struct Params {
        count: u32,
    }
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// Records the copy of the first `words` words of `from`, rounded up to a multiple of four, to `to`.
pub fn copy(rec: &mut Recorder, from: &Tensor<u32>, to: &Tensor<u32>, words: usize) -> Result<()> {
    let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
    let count = words.div_ceil(4);
    rec.dispatch(
        &kernel,
        &Params { count: count as u32 },
        &[from.bind(), to.bind()],
        lines(count.div_ceil(LANES)),
    )
}

async fn check(gpu: &Gpu, words: usize) -> Result<Check> {
    let mut noise = Noise::new(2);
    let source: Vec<u32> = (0..words).map(|_| noise.below(u32::MAX)).collect();
    let from = gpu.tensor_with(Class::Scratch, "from", &source);
    let to = gpu.tensor_with(Class::Scratch, "to", &vec![u32::MAX; words]);
    let mut rec = Recorder::new(gpu);
    copy(&mut rec, &from, &to, words)?;
    let got = rec.read(&to, 0, words);
    rec.submit();
    Ok(Check::equal(format!("copy {words} words"), &got.await?, &source))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    Ok(vec![check(gpu, 3).await?, check(gpu, 4099).await?])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;

    #[test]
    fn copies_every_word() {
        assert_passed(pollster::block_on(checks(&gpu())));
    }

    #[test]
    fn grids_of_several_lines_reach_the_end() {
        let words = 4 * LANES * 32_768 + 5;
        assert_passed(pollster::block_on(check(&gpu(), words)).map(|c| vec![c]));
    }
}
