//! Activations into the operand of a product, with a norm's weights: where no product before it does that on its way.

use super::check::{Check, Noise};
use super::operand::{Code, Operand, groups};
use crate::Result;
use crate::gpu::{Binding, Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "quantise", text: include_str!("../../shaders/quantise.wgsl") };

uniform! {
    struct Params {
        width: u32,
        groups: u32,
    }
}

fn key(code: Code, norm: bool) -> ShaderKey {
    code.made_by(ShaderKey::new(SHADER)).flag("NORM", norm).flag("SUBGROUPS", true)
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    Code::ALL.into_iter().flat_map(|code| [false, true].map(|norm| key(code, norm))).collect()
}

/// Records that the first `columns` columns of `to` become those of `x` (`[columns, to.width]`), times `weight` if there is one
/// (`[to.width]`). Sums of squares are those of `x`. The width is a multiple of 4, and subgroups have eight lanes or more.
pub fn quantise(
    rec: &mut Recorder,
    x: Binding<'_>,
    weight: Option<&Tensor<f32>>,
    columns: usize,
    to: &Operand,
    code: Code,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&key(code, weight.is_some()))?;
    let groups = groups(to.width);
    let params = Params { width: to.width as u32, groups: groups as u32 };
    let mut bindings = vec![x, to.words.bind()];
    bindings.extend(weight.map(Tensor::bind));
    rec.dispatch(&kernel, &params, &bindings, [groups.div_ceil(8) as u32, columns as u32, 1])
}

/// The CPU twin: what the operand says, and the sum of squares of each of its groups.
pub fn twin(x: &[f32], weight: Option<&[f32]>, width: usize, code: Code) -> (Vec<f32>, Vec<f32>) {
    let (mut values, mut squares) = (Vec::new(), Vec::new());
    for x in x.chunks_exact(width) {
        let weighted: Vec<f32> = match weight {
            Some(weight) => x.iter().zip(weight).map(|(x, w)| x * w).collect(),
            None => x.to_vec(),
        };
        values.extend(super::operand::twin(code, &weighted));
        squares.extend(x.chunks(super::matrix::GROUP).map(|group| group.iter().map(|v| v * v).sum::<f32>()));
    }
    (values, squares)
}

async fn check(gpu: &Gpu, code: Code, norm: bool, columns: usize, width: usize) -> Result<Vec<Check>> {
    let mut noise = Noise::new(12);
    // Groups of very different size.
    let x: Vec<f32> =
        noise.values(columns * width).iter().enumerate().map(|(i, v)| v * (1 + i / 32 % 7) as f32).collect();
    let weight = noise.values(width);
    let weight = norm.then_some(weight.as_slice());
    let to = Operand::new(gpu, columns, width);
    gpu.write(&to.words, 0, &vec![u32::MAX; to.words.len()]);
    let device_x = gpu.tensor_with(Class::Scratch, "x", &x);
    let device_weight = weight.map(|w| gpu.tensor_with(Class::Scratch, "weight", w));
    let mut rec = Recorder::new(gpu);
    quantise(&mut rec, device_x.bind(), device_weight.as_ref(), columns, &to, code)?;
    let got = rec.read(&to.words, 0, to.words.len());
    rec.submit();
    let (want, want_squares) = twin(&x, weight, width, code);
    let got = super::operand::unpack(code, width, columns, &got.await?);
    let sums = |values: &[f32]| -> Vec<f32> {
        let column = |column: &[f32]| {
            column.chunks(super::matrix::GROUP).map(|g| g.iter().sum::<f32>()).collect::<Vec<_>>()
        };
        values.chunks_exact(width).flat_map(column).collect()
    };
    let label = format!("quantise {code:?}, norm {norm}, {columns}x{width}");
    // A value between two codes may become either: half of a code's share of the group's largest value.
    let step = if code == Code::Bytes { 1e-2 } else { 4e-5 };
    let mut checks = vec![
        Check::compare(label.clone() + ", values", &got.values, &want, step),
        Check::compare(label.clone() + ", squares", &got.squares, &want_squares, 1e-5),
    ];
    if code != Code::F32 {
        checks.push(Check::compare(label + ", sums", &got.sums, &sums(&got.values), 1e-4));
    }
    Ok(checks)
}

/// Nothing where the tuning has no products that read operands.
pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let mut out = Vec::new();
    if gpu.tuning().planes > 0 {
        for code in Code::ALL {
            out.extend(check(gpu, code, true, 2, 104).await?);
        }
        out.extend(check(gpu, Code::TwoBytes, false, 1, 576).await?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, families};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn agrees_with_its_twin(code in 0usize..3, norm: bool, columns in 1usize..4, quads in 1usize..90) {
            for gpu in families().into_iter().filter(|gpu| gpu.tuning().planes > 0) {
                let check = check(&gpu, Code::ALL[code], norm, columns, 4 * quads);
                assert_passed(pollster::block_on(check));
            }
        }
    }
}
