//! Copies chosen rows of a table: hidden rows and positions that survive a layer.

use super::check::{Check, Noise};
use crate::Result;
use crate::gpu::{Binding, Class, Gpu, Recorder, Shader, ShaderKey, uniform};

const SHADER: Shader = Shader { stem: "gather", text: include_str!("../../shaders/gather.wgsl") };

uniform! {
    struct Params {
        width: u32,
        rows: u32,
    }
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// Records `out[i] = source[index[i]]` for `count` rows of `width` words; `source` has `rows` of them.
pub fn gather(
    rec: &mut Recorder,
    source: Binding<'_>,
    (rows, width): (usize, usize),
    index: Binding<'_>,
    count: usize,
    out: Binding<'_>,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
    let params = Params { width: width as u32, rows: rows as u32 };
    rec.dispatch(&kernel, &params, &[source, index, out], [width.div_ceil(64) as u32, count as u32, 1])
}

/// The CPU twin.
pub fn twin(source: &[f32], width: usize, index: &[u32]) -> Vec<f32> {
    index.iter().flat_map(|&row| source[row as usize * width..][..width].iter().copied()).collect()
}

async fn check(gpu: &Gpu, rows: usize, width: usize, count: usize) -> Result<Check> {
    let mut noise = Noise::new(1);
    let source = noise.values(rows * width);
    let index: Vec<u32> = (0..count).map(|_| noise.below(rows as u32)).collect();
    let device_source = gpu.tensor_with(Class::Scratch, "source", &source);
    let device_index = gpu.tensor_with(Class::Scratch, "index", &index);
    let out = super::check::poisoned(gpu, count * width);
    let mut rec = Recorder::new(gpu);
    gather(&mut rec, device_source.bind(), (rows, width), device_index.bind(), count, out.bind())?;
    let got = rec.read(&out, 0, count * width);
    rec.submit();
    let label = format!("gather {count} of {rows}x{width}");
    Ok(Check::compare(label, &got.await?, &twin(&source, width, &index), 0.0))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    Ok(vec![check(gpu, 37, 3, 11).await?, check(gpu, 5, 131, 7).await?])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn agrees_with_its_twin(rows in 1usize..90, width in 1usize..200, count in 1usize..70) {
            assert_passed(pollster::block_on(check(&gpu(), rows, width, count)).map(|c| vec![c]));
        }
    }
}
