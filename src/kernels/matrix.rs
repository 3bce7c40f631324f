//! Weight matrices: how rows are packed, and what a product with them may end in.
//!
//! ```text
//! F16   word w of a row:  | hi f16 | lo f16 |              values 2w+1, 2w
//! Q8    word w of a row:  |  b3 |  b2 |  b1 |  b0 |        values 4w+3 .. 4w
//! Q4    word w of a row:  | 7 3 | 6 2 | 5 1 | 4 0 |        values 8w+7 .. 8w, high and low nibbles
//! scales, Q8 and Q4:      | minimum f16 | scale f16 |      one word for 32 values; value = scale * q + minimum
//! ```
//!
//! Rows follow each other without gaps: `cols` is a multiple of 8 for F16 and of 32 for Q8 and Q4.

use half::f16;

use super::group::Group;
use super::part::Part;
use crate::gpu::{ShaderKey, Tensor};

pub use super::group::GROUP;

/// How the values of a row are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RowFormat {
    /// Half precision.
    F16,
    /// Eight bits with a scale and a minimum for 32 values: 9 bits a value.
    Q8,
    /// Four bits with a scale and a minimum for 32 values: 5 bits a value.
    Q4,
}

impl RowFormat {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F16, Self::Q8, Self::Q4];

    /// Words of packed values in a row of `cols` values.
    pub fn words_per_row(self, cols: usize) -> usize {
        cols * self.bits() as usize / 32
    }

    /// Words of scales and minima in a row of `cols` values.
    pub fn scales_per_row(self, cols: usize) -> usize {
        if self == Self::F16 { 0 } else { cols / GROUP }
    }

    /// Bytes of a row of `cols` values, scales included.
    pub fn bytes_per_row(self, cols: usize) -> usize {
        4 * (self.words_per_row(cols) + self.scales_per_row(cols))
    }

    /// This format, or F16 if rows of `cols` values are not made of whole groups.
    pub const fn for_cols(self, cols: usize) -> Self {
        if cols.is_multiple_of(GROUP) { self } else { Self::F16 }
    }

    /// Bits of a packed value.
    pub const fn bits(self) -> u32 {
        match self {
            Self::F16 => 16,
            Self::Q8 => 8,
            Self::Q4 => 4,
        }
    }

    /// The word that a user types for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// The variant of a shader that reads this format.
    pub(super) fn variant(self, key: ShaderKey) -> ShaderKey {
        key.with(
            match self {
                Self::F16 => "F16",
                Self::Q8 => "Q8",
                Self::Q4 => "Q4",
            },
            1,
        )
    }
}

/// A weight matrix `[rows, cols]`, split by rows into parts.
#[derive(Debug, Clone)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    parts: Vec<Part>,
}

impl Matrix {
    /// The matrix of `cols` columns that these parts, in order, make up.
    pub fn new(cols: usize, parts: Vec<Part>) -> Self {
        Self { rows: parts.iter().map(|p| p.rows).sum(), cols, parts }
    }

    /// Rows of all parts.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How the rows are packed; all parts alike.
    pub fn format(&self) -> RowFormat {
        self.parts.first().map_or(RowFormat::F16, |part| part.format)
    }

    /// The parts, in the order of their rows.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|p| p.words.bytes() + p.scales.bytes()).sum()
    }
}

/// What happens to a product before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// `out = W x`.
    Store,
    /// `out += W x`: the residual connection.
    Add,
    /// `out = silu(gate x) * (up x)`: every part stacks its gate rows and then as many up rows, and yields half
    /// as many outputs as it has rows.
    SwiGlu,
}

impl Epilogue {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Store, Self::Add, Self::SwiGlu];

    /// Outputs of a product with `rows` rows, and likewise the first output of a part.
    pub fn outputs(self, rows: usize) -> usize {
        if self == Self::SwiGlu { rows / 2 } else { rows }
    }

    /// The variant of a shader that ends so.
    pub(super) fn variant(self, key: ShaderKey) -> ShaderKey {
        key.flag("ADD", self == Self::Add).flag("SWIGLU", self == Self::SwiGlu)
    }
}

/// RMS normalisation of a kernel's input.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// One factor a column.
    pub weight: &'a Tensor<f32>,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// The CPU twin of the layout: the values of packed rows.
pub fn unpack(format: RowFormat, rows: usize, cols: usize, words: &[u32], scales: &[u32]) -> Vec<f32> {
    let values = |group: Group| group.values();
    match format {
        RowFormat::F16 => {
            let half = |i: usize| f16::from_bits((words[i / 2] >> (16 * (i % 2))) as u16).to_f32();
            (0..rows * cols).map(half).collect()
        }
        RowFormat::Q8 => {
            let groups = words.as_chunks::<8>().0.iter().zip(scales);
            groups.flat_map(|(words, &header)| values(Group::from_words8(header, words))).collect()
        }
        RowFormat::Q4 => {
            let groups = words.as_chunks::<4>().0.iter().zip(scales);
            groups.flat_map(|(words, &header)| values(Group::from_words4(header, words))).collect()
        }
    }
}

/// Packs rows of values that halves can hold into words and scales, each group of 32 between its least and its largest value.
pub fn quantize(format: RowFormat, rows: usize, cols: usize, values: &[f32]) -> (Vec<u32>, Vec<u32>) {
    let values = &values[..rows * cols];
    if format == RowFormat::F16 {
        let bits = |v: f32| u32::from(f16::from_f32(v).to_bits());
        return (values.chunks_exact(2).map(|v| bits(v[0]) | bits(v[1]) << 16).collect(), Vec::new());
    }
    let (mut words, mut scales) = (Vec::new(), Vec::new());
    for values in values.as_chunks::<GROUP>().0 {
        let group = Group::quantise(values, format.bits());
        scales.extend(group.header());
        if format == RowFormat::Q4 { words.extend(group.words4()) } else { words.extend(group.words8()) }
    }
    (words, scales)
}

#[cfg(test)]
mod tests {
    use super::super::check::Noise;
    use super::*;

    #[test]
    fn packing_is_undone_within_half_a_step() {
        let (rows, cols) = (3, 96);
        let values = Noise::new(7).values(rows * cols);
        for (format, step) in
            [(RowFormat::F16, 1e-3), (RowFormat::Q8, 1.0 / 127.0), (RowFormat::Q4, 2.0 / 15.0)]
        {
            let (words, scales) = quantize(format, rows, cols, &values);
            assert_eq!(words.len(), rows * format.words_per_row(cols));
            assert_eq!(scales.len(), rows * format.scales_per_row(cols));
            let back = unpack(format, rows, cols, &words, &scales);
            let worst = back.iter().zip(&values).map(|(b, v)| (b - v).abs()).fold(0.0, f32::max);
            assert!(worst <= 0.52 * step, "{format:?}: {worst}");
        }
    }

    #[test]
    fn nibbles_lie_where_the_layout_says() {
        let values = unpack(RowFormat::Q4, 1, 32, &[0x7362_5140, 0, 0, 0], &[0x3C00]);
        assert_eq!(values[..8], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        let values = unpack(RowFormat::Q8, 1, 32, &[0x0302_0100, 0, 0, 0, 0, 0, 0, 0], &[0xBC00_4000]);
        assert_eq!(values[..4], [-1.0, 1.0, 3.0, 5.0]);
    }

    #[test]
    fn a_constant_group_keeps_its_value() {
        let (words, scales) = quantize(RowFormat::Q4, 1, 32, &[0.5; 32]);
        assert_eq!(unpack(RowFormat::Q4, 1, 32, &words, &scales), [0.5; 32]);
    }
}
