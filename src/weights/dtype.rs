//! The element types that a tensor in a model file may have, and the sizes of their blocks.
//!
//! Quantised types store a row as blocks of 32 or 256 elements, so a row is a whole number of blocks
//! and rows can be read on their own. Names, ids and sizes are those of ggml.

/// How a file stores the elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an F32.
    Bf16,
    /// 4-bit, blocks of 32 with a scale; zero is code 8.
    Q4_0,
    /// 4-bit, blocks of 32 with a scale and a minimum.
    Q4_1,
    /// 5-bit, blocks of 32 with a scale; zero is code 16.
    Q5_0,
    /// 5-bit, blocks of 32 with a scale and a minimum.
    Q5_1,
    /// 8-bit signed, blocks of 32 with a scale.
    Q8_0,
    /// 4-bit, blocks of 256 = 8 groups with 6-bit scales and minima.
    Q4K,
    /// 5-bit, blocks of 256 = 8 groups with 6-bit scales and minima.
    Q5K,
    /// 6-bit, blocks of 256 = 16 groups of 16 with 8-bit scales.
    Q6K,
}

impl Dtype {
    /// Every supported type.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Name, ggml's id, elements per block, bytes per block.
    const fn facts(self) -> (&'static str, u32, usize, usize) {
        match self {
            Self::F32 => ("F32", 0, 1, 4),
            Self::F16 => ("F16", 1, 1, 2),
            Self::Bf16 => ("BF16", 30, 1, 2),
            Self::Q4_0 => ("Q4_0", 2, 32, 18),
            Self::Q4_1 => ("Q4_1", 3, 32, 20),
            Self::Q5_0 => ("Q5_0", 6, 32, 22),
            Self::Q5_1 => ("Q5_1", 7, 32, 24),
            Self::Q8_0 => ("Q8_0", 8, 32, 34),
            Self::Q4K => ("Q4_K", 12, 256, 144),
            Self::Q5K => ("Q5_K", 13, 256, 176),
            Self::Q6K => ("Q6_K", 14, 256, 210),
        }
    }

    /// The name as GGUF tools print it, for example `Q4_K`.
    pub const fn name(self) -> &'static str {
        self.facts().0
    }

    /// The type's number in a GGUF file.
    pub const fn ggml_id(self) -> u32 {
        self.facts().1
    }

    /// Elements per block; 1 for the float types.
    pub const fn block_len(self) -> usize {
        self.facts().2
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        self.facts().3
    }

    /// Bytes of one row of `cols` elements, or `None` if that is no whole number of blocks (or overflows).
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// The supported type with this number in a GGUF file.
    pub(crate) fn from_ggml(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.ggml_id() == id)
    }

    /// The names of all supported types, for messages.
    pub(crate) fn supported() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// Bits per code if every 32 elements share one scale and one minimum, which is what a GPU row can
    /// hold as it is; `None` for floats and for Q6_K, whose groups are of 16.
    pub(crate) const fn group_bits(self) -> Option<u32> {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q4K => Some(4),
            Self::Q5_0 | Self::Q5_1 | Self::Q5K => Some(5),
            Self::Q8_0 => Some(8),
            Self::F32 | Self::F16 | Self::Bf16 | Self::Q6K => None,
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(Dtype::Q4_1.row_bytes(576), Some(360));
        assert_eq!(Dtype::Q6K.row_bytes(512), Some(420));
        assert_eq!(Dtype::F32.row_bytes(7), Some(28));
        assert_eq!(Dtype::Q8_0.row_bytes(33), None);
        assert_eq!(Dtype::F32.row_bytes(usize::MAX), None);
    }

    #[test]
    fn ids_round_trip() {
        for dtype in Dtype::ALL {
            assert_eq!(Dtype::from_ggml(dtype.ggml_id()), Some(dtype));
        }
        assert_eq!(Dtype::from_ggml(10), None);
    }
}
