//! The rows that kernels read: f16, 8-bit or 4-bit, repacked from whatever the file holds.
//!
//! ```text
//!   words    F16  cols/2 words per row, two values each, the earlier one in the low half
//!            Q8   cols/4 words per row, 8 per group of 32   \  bytes and nibbles within a word
//!            Q4   cols/8 words per row, 4 per group of 32   /  as group.rs draws them
//!   scales   F16  empty
//!            Q8, Q4   cols/32 words per row: (min f16 << 16 | scale f16) of each group
//!
//!   row 0 | group 0 | group 1 | ...     rows follow each other without padding,
//!   row 1 | group 0 | group 1 | ...     so any run of rows is a pair of subslices
//! ```
//!
//! `value = scale * q + min` with unsigned `q`. Where the file's format says the same thing the codes are
//! moved, not recomputed: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 keep every value exactly, Q4_K and Q5_K keep the
//! codes and round scale and minimum to f16. All else goes through one row of f32.

use half::f16;

use super::blocks::{dequantize_row, each_group};
use super::{Dtype, Group};
use crate::kernels::matrix::RowFormat;
use crate::{Error, Result};

/// A matrix in one of the GPU's row formats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedRows {
    /// The format, which is F16 when the one asked for does not fit the row length.
    pub format: RowFormat,
    /// Number of rows.
    pub rows: usize,
    /// Elements per row.
    pub cols: usize,
    /// `rows * format.words_per_row(cols)` words.
    pub words: Vec<u32>,
    /// `rows * format.scales_per_row(cols)` words.
    pub scales: Vec<u32>,
}

/// The format that loses nothing, or next to nothing, of `dtype` at the least size.
pub fn natural_format(dtype: Dtype, cols: usize) -> RowFormat {
    let format = match (dtype, dtype.group_bits()) {
        (_, Some(4)) => RowFormat::Q4,
        (Dtype::Q6K, _) | (_, Some(_)) => RowFormat::Q8,
        _ => RowFormat::F16,
    };
    format.for_cols(cols)
}

/// Repacks `rows` rows of `cols` elements; rows are contiguous, so any run of them can be packed alone.
///
/// If `cols` is no multiple of 32 the result is F16 whatever `format` says.
///
/// # Errors
/// [`Error::Invalid`] if `bytes` has another length than `rows * dtype.row_bytes(cols)`;
/// [`Error::Format`] if `cols` is no multiple of 8, or a row holds a weight that is NaN, infinite or
/// beyond f16. The tensor's name is unknown here; [`ModelFile::pack`](super::ModelFile::pack) adds it.
pub fn pack(dtype: Dtype, bytes: &[u8], rows: usize, cols: usize, format: RowFormat) -> Result<PackedRows> {
    pack_from(0, dtype, bytes, rows, cols, format)
}

/// As [`pack`], for rows that follow the first `first_row` of their tensor, so that errors name them right.
pub(super) fn pack_from(
    first_row: usize,
    dtype: Dtype,
    bytes: &[u8],
    rows: usize,
    cols: usize,
    format: RowFormat,
) -> Result<PackedRows> {
    let damaged = |reason| Error::format("a tensor", reason);
    if cols == 0 || !cols.is_multiple_of(8) {
        return Err(damaged(format!("its rows have {cols} elements, which is no multiple of 8")));
    }
    let row_bytes = dtype.row_bytes(cols).filter(|row| row.checked_mul(rows) == Some(bytes.len()));
    let Some(row_bytes) = row_bytes else {
        return Err(Error::Invalid(format!(
            "{} bytes are not {rows} rows of {cols} elements of type {dtype}",
            bytes.len()
        )));
    };
    let format = format.for_cols(cols);
    let mut packed = PackedRows {
        format,
        rows,
        cols,
        words: Vec::with_capacity(rows * format.words_per_row(cols)),
        scales: Vec::with_capacity(rows * format.scales_per_row(cols)),
    };
    let exact = format != RowFormat::F16 && dtype.group_bits().is_some_and(|bits| bits <= format.bits());
    let mut scratch = vec![0.0; if exact { 0 } else { cols }];
    for (row, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
        let sound = if exact {
            let mut sound = true;
            each_group(dtype, bytes, |group| sound &= packed.push_group(&group));
            sound
        } else {
            dequantize_row(dtype, bytes, &mut scratch)?;
            packed.push_values(&scratch)
        };
        if !sound {
            return Err(damaged(format!(
                "row {} holds a NaN or infinite weight, or one beyond the f16 range",
                first_row + row
            )));
        }
    }
    Ok(packed)
}

/// The values of packed rows, row by row: the CPU twin of what kernels unpack.
pub fn unpack(packed: &PackedRows) -> Vec<f32> {
    let half = |bits: u32| f16::from_bits(bits as u16).to_f32();
    let words = &packed.words;
    match packed.format {
        RowFormat::F16 => words.iter().flat_map(|word| [half(*word), half(word >> 16)]).collect(),
        RowFormat::Q8 => {
            let groups = packed.scales.iter().zip(words.as_chunks().0);
            groups.flat_map(|(header, words)| Group::from_words8(*header, words).values()).collect()
        }
        RowFormat::Q4 => {
            let groups = packed.scales.iter().zip(words.as_chunks().0);
            groups.flat_map(|(header, words)| Group::from_words4(*header, words).values()).collect()
        }
    }
}

impl PackedRows {
    /// Appends a group of a quantised format; false if f16 cannot hold its scale or minimum.
    fn push_group(&mut self, group: &Group) -> bool {
        if self.format == RowFormat::Q4 {
            self.words.extend(group.words4());
        } else {
            self.words.extend(group.words8());
        }
        self.scales.extend(group.header());
        group.header().is_some()
    }

    /// Appends a row; false if a value is NaN, infinite or beyond f16.
    fn push_values(&mut self, row: &[f32]) -> bool {
        if !row.iter().all(|value| value.is_finite()) {
            return false;
        }
        if self.format == RowFormat::F16 {
            row.as_chunks().0.iter().all(|[low, high]| {
                let (low, high) = (f16::from_f32(*low), f16::from_f32(*high));
                self.words.push(u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16);
                low.is_finite() && high.is_finite()
            })
        } else {
            let bits = self.format.bits();
            row.as_chunks().0.iter().all(|values| self.push_group(&Group::quantise(values, bits)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32_bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn f16_rows_put_the_earlier_value_low() {
        let values: Vec<f32> = (0..24).map(|i| i as f32 - 3.0).collect();
        let packed = pack(Dtype::F32, &f32_bytes(&values), 3, 8, RowFormat::F16).unwrap();
        assert_eq!(packed.words[0], 0xC000_C200);
        assert_eq!((packed.words.len(), packed.scales.len()), (12, 0));
        assert_eq!(unpack(&packed), values);
    }

    #[test]
    fn formats_follow_the_type_and_the_row_length() {
        assert_eq!(natural_format(Dtype::Q4K, 256), RowFormat::Q4);
        assert_eq!(natural_format(Dtype::Q6K, 256), RowFormat::Q8);
        assert_eq!(natural_format(Dtype::Q5_1, 96), RowFormat::Q8);
        assert_eq!(natural_format(Dtype::Bf16, 96), RowFormat::F16);
        let packed = pack(Dtype::F32, &f32_bytes(&[0.5; 80]), 2, 40, RowFormat::Q4).unwrap();
        assert_eq!(packed.format, RowFormat::F16);
    }

    #[test]
    fn rows_can_be_packed_in_parts() {
        let values: Vec<f32> = (0..5 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
        let bytes = f32_bytes(&values);
        let whole = pack(Dtype::F32, &bytes, 5, 64, RowFormat::Q4).unwrap();
        let tail = pack(Dtype::F32, &bytes[3 * 256..], 2, 64, RowFormat::Q4).unwrap();
        assert_eq!(whole.words[3 * RowFormat::Q4.words_per_row(64)..], tail.words);
        assert_eq!(whole.scales[3 * RowFormat::Q4.scales_per_row(64)..], tail.scales);
    }

    #[test]
    fn the_bad_row_is_named() {
        for bad in [f32::NAN, f32::INFINITY, -1e30, 65520.0] {
            for format in [RowFormat::F16, RowFormat::Q8, RowFormat::Q4] {
                let mut values = [0.25; 4 * 32];
                values[2 * 32 + 17] = bad;
                let result = pack(Dtype::F32, &f32_bytes(&values), 4, 32, format);
                // A maximum just beyond f16 is within reach of a scale and a minimum.
                if bad == 65520.0 && format != RowFormat::F16 {
                    assert!(result.is_ok());
                } else {
                    let message = result.unwrap_err().to_string();
                    assert!(message.contains("row 2 holds a NaN or infinite weight"), "{bad}: {message}");
                }
            }
        }
    }

    #[test]
    fn odd_lengths_are_refused() {
        let refused =
            |rows, cols, len: usize| pack(Dtype::F32, &vec![0; len], rows, cols, RowFormat::F16).is_err();
        assert!(refused(1, 12, 48));
        assert!(refused(1, 0, 0));
        assert!(refused(2, 8, 63));
        assert!(refused(usize::MAX, 8, 64));
    }
}
