//! Makes weights on the device, so that a model of any size can be measured without a file.

use super::check::Check;
use crate::Result;
use crate::gpu::{Class, Element, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "fill", text: include_str!("../../shaders/fill.wgsl") };

/// Words in one row of the grid: as many as WebGPU's limit of workgroups in a row allows.
const ROW: usize = 65_535 * 64;

/// What to fill a tensor with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// Random bits from this seed.
    Bits(u32),
    /// Pairs of halves, uniform in ± the amplitude, from this seed.
    Halves(u32, f32),
    /// One word.
    Constant(u32),
}

uniform! {
    struct Params {
        count: u32,
        row: u32,
        seed: u32,
        value: u32,
    }
}

fn key(fill: Fill) -> ShaderKey {
    ShaderKey::new(SHADER)
        .flag("CONSTANT", matches!(fill, Fill::Constant(_)))
        .flag("HALVES", matches!(fill, Fill::Halves(..)))
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    [Fill::Bits(0), Fill::Halves(0, 0.0), Fill::Constant(0)].map(key).to_vec()
}

/// Records the filling of a whole tensor.
pub fn fill<T: Element>(rec: &mut Recorder, out: &Tensor<T>, fill: Fill) -> Result<()> {
    let kernel = rec.gpu().kernel(&key(fill))?;
    let (seed, value) = match fill {
        Fill::Bits(seed) => (seed, 0),
        Fill::Halves(seed, amplitude) => (seed, amplitude.to_bits()),
        Fill::Constant(word) => (0, word),
    };
    let (count, row) = (out.len(), ROW.min(out.len()));
    let params = Params { count: count as u32, row: row as u32, seed, value };
    let grid = [row.div_ceil(64) as u32, count.div_ceil(row.max(1)) as u32, 1];
    rec.dispatch(&kernel, &params, &[out.bind()], grid)
}

fn pcg(x: u32) -> u32 {
    let state = x.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

/// The CPU twin: word `i` of a filled tensor.
pub fn twin(fill: Fill, i: u32) -> u32 {
    match fill {
        Fill::Constant(word) => word,
        Fill::Bits(seed) => pcg(i ^ pcg(seed)),
        Fill::Halves(seed, amplitude) => {
            let bits = pcg(i ^ pcg(seed));
            let half = |bits: u32| half::f16::from_f32((bits as f32 / 32_768.0 - 1.0) * amplitude).to_bits();
            u32::from(half(bits & 0xffff)) | u32::from(half(bits >> 16)) << 16
        }
    }
}

async fn check(gpu: &Gpu, what: Fill, count: usize) -> Result<Check> {
    let out = gpu.tensor::<u32>(Class::Scratch, "out", count);
    let mut rec = Recorder::new(gpu);
    fill(&mut rec, &out, what)?;
    let got = rec.read(&out, 0, count);
    rec.submit();
    let (got, want) = (got.await?, (0..count as u32).map(|i| twin(what, i)).collect::<Vec<_>>());
    if let Fill::Halves(_, amplitude) = what {
        // Devices may round halves either way, so these compare by value.
        let values = |words: &[u32]| -> Vec<f32> {
            let halves = words.iter().flat_map(|&w| [w as u16, (w >> 16) as u16]);
            halves.map(|h| half::f16::from_bits(h).to_f32() / amplitude).collect()
        };
        return Ok(Check::compare(format!("fill halves {count}"), &values(&got), &values(&want), 1e-3));
    }
    Ok(Check::equal(format!("fill {what:?} {count}"), &got, &want))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for what in [Fill::Bits(3), Fill::Halves(4, 0.25), Fill::Constant(0x3c00_2e66)] {
        checks.push(check(gpu, what, 1001).await?);
    }
    Ok(checks)
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};

    #[test]
    fn agrees_with_its_twin() {
        assert_passed(pollster::block_on(super::checks(&gpu())));
    }
}
