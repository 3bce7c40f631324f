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
    /// Codes, or the values.
    pub x: Tensor<u32>,
    /// Step, step times the sum of codes, sum of squares and a zero for each group. `[columns, groups, 4]`
    pub steps: Tensor<f32>,
}

impl Operand {
    /// Room for `columns` columns of `width` values in any code.
    pub fn new(gpu: &Gpu, columns: usize, width: usize) -> Self {
        let groups = groups(width);
        Self {
            width,
            x: gpu.tensor(Class::Scratch, "operand", columns * groups * GROUP),
            steps: gpu.tensor(Class::Scratch, "steps of the operand", columns * groups * 4),
        }
    }

    /// Bytes of such an operand.
    pub fn bytes(columns: usize, width: usize) -> u64 {
        4 * (columns * groups(width) * (GROUP + 4)) as u64
    }
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

/// The values that an operand's words say.
pub(super) fn unpack(code: Code, width: usize, x: &[u32], steps: &[f32]) -> Vec<f32> {
    let groups = groups(width);
    let columns = steps.len() / (4 * groups);
    let value = |column: usize, i: usize| {
        let (g, at) = (i / GROUP, i % GROUP);
        let byte = |planes: usize, plane: usize| {
            let quad = (column * planes + plane) * 2 + at / 16;
            (x[(quad * groups + g) * 4 + at % 16 / 4] >> (8 * (at % 4))) as u8 as i8
        };
        let step = steps[(column * groups + g) * 4];
        match code {
            Code::F32 => f32::from_bits(x[column * groups * GROUP + i]),
            Code::Bytes => f32::from(byte(1, 0)) * step,
            Code::TwoBytes => (256.0 * f32::from(byte(2, 0)) + f32::from(byte(2, 1))) * step,
        }
    };
    (0..columns).flat_map(|column| (0..width).map(move |i| value(column, i))).collect()
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
