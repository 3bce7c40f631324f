//! Activations as products with packed weights read them (`shaders/shared/operand.wgsl` draws the words): quantised once,
//! by the kernel that produces them, so that weights of few bits multiply them by packed dot products of integers.

use super::matrix::{GROUP, RowFormat};
use crate::gpu::{Class, Gpu, ShaderKey, Tensor, Tuning};

/// How an operand holds its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// As they are; what rows of halves multiply.
    F32,
    /// One plane of signed bytes, with a step for 32 values: relative error 4e-3 on noise.
    Bytes,
    /// Two planes of signed bytes, so 16 bits, with a step for 32 values: relative error 2e-5 on noise.
    TwoBytes,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bytes, Self::TwoBytes];

    /// What a matrix of this format multiplies.
    pub fn of(tuning: Tuning, format: RowFormat) -> Self {
        match (format, tuning.planes) {
            (RowFormat::F16, _) => Self::F32,
            (_, 1) => Self::Bytes,
            _ => Self::TwoBytes,
        }
    }

    /// The variant of a shader that reads it.
    pub(super) fn read_by(self, key: ShaderKey) -> ShaderKey {
        key.flag("TWO_PLANES", self == Self::TwoBytes)
    }

    /// The variant of a shader that makes it.
    pub(super) fn made_by(self, key: ShaderKey) -> ShaderKey {
        key.flag("TO_F32", self == Self::F32).flag("TO_TWO_PLANES", self == Self::TwoBytes)
    }

    /// The largest code, and so what a group's largest magnitude becomes.
    fn most(self) -> f32 {
        if self == Self::Bytes { 127.0 } else { 32_512.0 }
    }
}

/// Room for the activations of a product's input rows, its columns.
#[derive(Debug, Clone)]
pub struct Operand {
    /// Values of a column.
    pub width: usize,
    /// Codes and steps, column after column.
    pub words: Tensor<u32>,
}

impl Operand {
    /// Room for `columns` columns of `width` values in any code.
    pub fn new(gpu: &Gpu, columns: usize, width: usize) -> Self {
        Self { width, words: gpu.tensor(Class::Scratch, "operand", len(columns, width)) }
    }

    /// Bytes of such an operand.
    pub fn bytes(columns: usize, width: usize) -> u64 {
        4 * len(columns, width) as u64
    }
}

/// Words of the values themselves, which no code exceeds, and of their steps.
fn len(columns: usize, width: usize) -> usize {
    columns * groups(width) * (GROUP + 4)
}

/// Groups of a column, the last of them padded with zeros.
pub(super) fn groups(width: usize) -> usize {
    width.div_ceil(GROUP)
}

/// The CPU twin: what the code keeps of values.
pub fn twin(code: Code, values: &[f32]) -> Vec<f32> {
    let group = |group: &[f32]| {
        let top = group.iter().fold(0.0f32, |top, v| top.max(v.abs()));
        let step = top.max(1e-30) / code.most();
        group.iter().map(|v| (v / step).round_ties_even() * step).collect::<Vec<_>>()
    };
    match code {
        Code::F32 => values.to_vec(),
        _ => values.chunks(GROUP).flat_map(group).collect(),
    }
}

/// What an operand's words say.
pub(super) struct Unpacked {
    /// `[columns, width]`
    pub values: Vec<f32>,
    /// The sum of each group, and its sum of squares. `[columns, groups]`
    pub sums: Vec<f32>,
    pub squares: Vec<f32>,
}

pub(super) fn unpack(code: Code, width: usize, columns: usize, words: &[u32]) -> Unpacked {
    let groups = groups(width);
    let quads = match code {
        Code::F32 => 8,
        Code::TwoBytes => 4,
        Code::Bytes => 2,
    };
    let mut out = Unpacked { values: Vec::new(), sums: Vec::new(), squares: Vec::new() };
    for column in words.chunks_exact((quads + 1) * groups * 4).take(columns) {
        let (codes, steps) = column.split_at(quads * groups * 4);
        let of = |i: usize| steps.chunks_exact(4).map(move |step| f32::from_bits(step[i]));
        let byte = |plane: usize, i: usize| {
            let (g, at) = (i / GROUP, i % GROUP);
            let word = codes[((2 * plane + at / 16) * groups + g) * 4 + at % 16 / 4];
            f32::from((word >> (8 * (at % 4))) as u8 as i8)
        };
        out.values.extend((0..width).map(|i| {
            let step = f32::from_bits(steps[i / GROUP * 4]);
            match code {
                Code::F32 => f32::from_bits(codes[i]),
                Code::Bytes => byte(0, i) * step,
                Code::TwoBytes => (256.0 * byte(0, i) + byte(1, i)) * step,
            }
        }));
        out.sums.extend(of(1));
        out.squares.extend(of(2));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::check::Noise;
    use super::*;

    #[test]
    fn two_planes_keep_sixteen_bits_and_one_keeps_eight() {
        let values = Noise::new(3).values(100);
        for (code, most) in [(Code::F32, 0.0), (Code::Bytes, 0.5 / 127.0), (Code::TwoBytes, 0.5 / 32_512.0)] {
            let kept = twin(code, &values);
            let worst = kept.iter().zip(&values).map(|(k, v)| (k - v).abs()).fold(0.0, f32::max);
            assert!(worst <= most * 1.01 && (worst > 0.8 * most || most == 0.0), "{code:?}: {worst}");
        }
    }
}
