//! The block formats of model files, read on the CPU: bytes to groups, bytes to f32.
//!
//! Every quantised format but Q6_K says the same thing in different bytes: 32 unsigned codes under one
//! scale and one minimum, a [`Group`]. Formats without a minimum have an implied one (`-8 d` for Q4_0),
//! which is exact in floating point. So one decoder per format serves both dequantising and repacking.
//! The layouts are those of ggml's `block_*` structures:
//!
//! ```text
//!   d, m  f16     qs  4 bits per code, byte j = values j (low) and j + 16 (high)     qh  5th bits
//!   Q4_0  | d | qs 16 |            Q5_0  | d | qh 4 | qs 16 |           Q8_0  | d | i8 x 32 |
//!   Q4_1  | d | m | qs 16 |        Q5_1  | d | m | qh 4 | qs 16 |
//!   Q4_K  | d | m | scales 12 | qs 128 |              8 groups: scale d*s, minimum -m*t,
//!   Q5_K  | d | m | scales 12 | qh 32 | qs 128 |      s and t 6 bits each in `scales`
//!   Q6_K  | ql 128 | qh 64 | i8 scales 16 | d |      16 groups of 16
//! ```

use half::{bf16, f16};

use super::{Dtype, GROUP, Group};
use crate::{Error, Result};

/// Reads one row of a tensor, or any whole number of blocks, as f32.
///
/// # Errors
/// [`Error::Invalid`] if `bytes` is not `dtype.row_bytes(out.len())` long.
pub fn dequantize_row(dtype: Dtype, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    if dtype.row_bytes(out.len()) != Some(bytes.len()) {
        return Err(Error::Invalid(format!(
            "{} bytes are not {} elements of type {dtype}",
            bytes.len(),
            out.len()
        )));
    }
    match dtype {
        Dtype::F32 => fill(out, bytes, |b| f32::from_le_bytes(*b)),
        Dtype::F16 => fill(out, bytes, |b| half(*b)),
        Dtype::Bf16 => fill(out, bytes, |b| bf16::from_le_bytes(*b).to_f32()),
        Dtype::Q6K => {
            let blocks = out.as_chunks_mut::<256>().0.iter_mut().zip(bytes.as_chunks::<210>().0);
            blocks.for_each(|(out, block)| q6_k(block, out));
        }
        _ => {
            let mut out = out.as_chunks_mut::<GROUP>().0.iter_mut();
            each_group(dtype, bytes, |group| {
                if let Some(out) = out.next() {
                    *out = group.values();
                }
            });
        }
    }
    Ok(())
}

/// Calls `each` with the groups of whole blocks in order; never for a type without
/// [`Dtype::group_bits`].
pub(super) fn each_group(dtype: Dtype, bytes: &[u8], each: impl FnMut(Group)) {
    match dtype {
        Dtype::Q4_0 => bytes.as_chunks().0.iter().map(q4_0).for_each(each),
        Dtype::Q4_1 => bytes.as_chunks().0.iter().map(q4_1).for_each(each),
        Dtype::Q5_0 => bytes.as_chunks().0.iter().map(q5_0).for_each(each),
        Dtype::Q5_1 => bytes.as_chunks().0.iter().map(q5_1).for_each(each),
        Dtype::Q8_0 => bytes.as_chunks().0.iter().map(q8_0).for_each(each),
        Dtype::Q4K => bytes.as_chunks().0.iter().flat_map(q4_k).for_each(each),
        Dtype::Q5K => bytes.as_chunks().0.iter().flat_map(q5_k).for_each(each),
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::Q6K => {}
    }
}

/// Converts fixed-size elements one by one.
fn fill<const N: usize>(out: &mut [f32], bytes: &[u8], convert: impl Fn(&[u8; N]) -> f32) {
    for (out, element) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = convert(element);
    }
}

fn half(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

/// 32 codes of 4 bits: the low nibbles of 16 bytes, then their high nibbles.
fn nibbles(qs: &[u8; 16]) -> [u8; GROUP] {
    std::array::from_fn(|i| if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 })
}

/// 32 codes of 5 bits: nibbles, and bit `i` of `high` on top of code `i`.
fn nibbles_and_bits(qs: &[u8; 16], high: [u8; 4]) -> [u8; GROUP] {
    let (low, high) = (nibbles(qs), u32::from_le_bytes(high));
    std::array::from_fn(|i| low[i] | ((high >> i & 1) as u8) << 4)
}

fn q4_0([d0, d1, qs @ ..]: &[u8; 18]) -> Group {
    let scale = half([*d0, *d1]);
    Group { q: nibbles(qs), scale, min: -8.0 * scale }
}

fn q4_1([d0, d1, m0, m1, qs @ ..]: &[u8; 20]) -> Group {
    Group { q: nibbles(qs), scale: half([*d0, *d1]), min: half([*m0, *m1]) }
}

fn q5_0([d0, d1, h0, h1, h2, h3, qs @ ..]: &[u8; 22]) -> Group {
    let scale = half([*d0, *d1]);
    Group { q: nibbles_and_bits(qs, [*h0, *h1, *h2, *h3]), scale, min: -16.0 * scale }
}

fn q5_1([d0, d1, m0, m1, h0, h1, h2, h3, qs @ ..]: &[u8; 24]) -> Group {
    let q = nibbles_and_bits(qs, [*h0, *h1, *h2, *h3]);
    Group { q, scale: half([*d0, *d1]), min: half([*m0, *m1]) }
}

fn q8_0([d0, d1, qs @ ..]: &[u8; 34]) -> Group {
    let scale = half([*d0, *d1]);
    // Flipping the sign bit adds 128 to a two's complement byte.
    Group { q: qs.map(|q| q ^ 0x80), scale, min: -128.0 * scale }
}

fn q4_k(block: &[u8; 144]) -> [Group; 8] {
    let [d0, d1, m0, m1, rest @ ..] = block;
    let (scales, qs) = rest.split_at(12);
    let (d, m) = (half([*d0, *d1]), half([*m0, *m1]));
    std::array::from_fn(|g| {
        let q = std::array::from_fn(|i| k_nibble(qs, g, i));
        k_group(q, d, m, scales, g)
    })
}

fn q5_k(block: &[u8; 176]) -> [Group; 8] {
    let [d0, d1, m0, m1, rest @ ..] = block;
    let (scales, rest) = rest.split_at(12);
    let (qh, qs) = rest.split_at(32);
    let (d, m) = (half([*d0, *d1]), half([*m0, *m1]));
    std::array::from_fn(|g| {
        let q = std::array::from_fn(|i| k_nibble(qs, g, i) | (qh[i] >> g & 1) << 4);
        k_group(q, d, m, scales, g)
    })
}

/// Code `i` of group `g`: groups 2n and 2n + 1 are the low and high nibbles of the same 32 bytes.
fn k_nibble(qs: &[u8], g: usize, i: usize) -> u8 {
    qs[g / 2 * 32 + i] >> (4 * (g % 2)) & 15
}

/// Adds group `g`'s 6-bit scale and minimum: bytes 0..4 hold the scales of groups 0..4, bytes 4..8
/// their minima; groups 4..8 have their low four bits in bytes 8..12 and the rest atop the others.
fn k_group(q: [u8; GROUP], d: f32, m: f32, scales: &[u8], g: usize) -> Group {
    let (scale, min) = if g < 4 {
        (scales[g] & 63, scales[g + 4] & 63)
    } else {
        (scales[g + 4] & 15 | scales[g - 4] >> 6 << 4, scales[g + 4] >> 4 | scales[g] >> 6 << 4)
    };
    Group { q, scale: d * f32::from(scale), min: -(m * f32::from(min)) }
}

/// Two halves of 128 values; in each, a byte of `ql` holds the low four bits of values `i` and `i + 64`
/// and a byte of `qh` the high two bits of values `i`, `i + 32`, `i + 64` and `i + 96`.
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (ql, rest) = block.split_at(128);
    let (qh, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = half([d[0], d[1]]);
    for (n, out) in out.iter_mut().enumerate() {
        let (part, i) = (n / 128, n % 128);
        let low = ql[part * 64 + i % 64] >> (4 * (i / 64)) & 15;
        let high = qh[part * 32 + i % 32] >> (2 * (i / 32)) & 3;
        let scale = d * f32::from(scales[n / 16] as i8);
        *out = scale * (f32::from(low | high << 4) - 32.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![f32::NAN; bytes.len() / dtype.block_bytes() * dtype.block_len()];
        dequantize_row(dtype, bytes, &mut out).unwrap();
        out
    }

    #[test]
    fn floats() {
        assert_eq!(row(Dtype::F32, &[0, 0, 0x20, 0xC0]), [-2.5]);
        assert_eq!(row(Dtype::F16, &[0, 0xC1, 0, 0x3C]), [-2.5, 1.0]);
        assert_eq!(row(Dtype::Bf16, &[0x20, 0xC0]), [-2.5]);
    }

    #[test]
    fn q4_0_by_hand() {
        let mut block = vec![0x00, 0x38];
        block.extend((0..16).map(|j| j | (15 - j) << 4));
        let out = row(Dtype::Q4_0, &block);
        let expected: Vec<f32> = (0..16).chain((0..16).rev()).map(|q| 0.5 * (q as f32 - 8.0)).collect();
        assert_eq!(out, expected);
    }

    #[test]
    fn q8_0_by_hand() {
        let mut block = vec![0x00, 0xBC];
        block.extend((0..32u8).map(|j| j.wrapping_mul(8)));
        let expected: Vec<f32> = (0..32u8).map(|j| -f32::from(j.wrapping_mul(8) as i8)).collect();
        assert_eq!(row(Dtype::Q8_0, &block), expected);
    }

    #[test]
    fn lengths_must_agree() {
        let mut out = [0.0; 32];
        for len in [0, 17, 19, 36] {
            assert!(dequantize_row(Dtype::Q4_0, &vec![0; len], &mut out).is_err());
        }
        assert!(dequantize_row(Dtype::Q4_0, &[0; 18], &mut out[..31]).is_err());
    }
}
