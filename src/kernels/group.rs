//! A group: 32 neighbouring values of a row as unsigned codes under one scale and one minimum.
//!
//! `value[i] = scale * q[i] + min`. Packed weights are made of groups; this is their one codec, which loading and the
//! kernels' checks share.
//!
//! ```text
//!   8-bit, 8 words    word w, byte b:                code of value 4w + b
//!   4-bit, 4 words    word w, low nibble of byte b:  code of value 8w + b
//!                             high nibble of byte b: code of value 8w + 4 + b
//!   header, 1 word    low half: scale as f16         high half: minimum as f16
//! ```
//!
//! Hence `word & 0x0F0F0F0F` unpacks four consecutive 4-bit codes and `(word >> 4) & 0x0F0F0F0F` the next.

use half::f16;

/// Values that share a scale and a minimum.
pub const GROUP: usize = 32;

/// The low nibble of every byte of a word.
const NIBBLES: u32 = 0x0F0F_0F0F;

/// The smallest positive f16: the scale of a group whose values are all alike.
const MIN_SCALE: f32 = 1.0 / (1 << 24) as f32;

/// 32 values as codes, a scale and a minimum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Group {
    /// The codes, 4 or 8 bits each.
    pub q: [u8; GROUP],
    /// What one code step is worth.
    pub scale: f32,
    /// The value of code 0.
    pub min: f32,
}

impl Group {
    /// Quantises finite `values` to `bits` (1 to 8) bits between their minimum and their maximum.
    ///
    /// The scale is raised to the smallest f16 *after* it was rounded to f16: the other way round a
    /// constant group would round to scale 0 and divide by it. Codes are rounded as WGSL's `round` does.
    pub fn quantise(values: &[f32; GROUP], bits: u32) -> Self {
        let top = ((1u32 << bits) - 1) as f32;
        let low = values.iter().copied().fold(f32::INFINITY, f32::min);
        let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let scale = f16::from_f32((high - low) / top).to_f32().max(MIN_SCALE);
        let min = f16::from_f32(low).to_f32();
        let q = values.map(|value| ((value - min) / scale).round_ties_even().clamp(0.0, top) as u8);
        Self { q, scale, min }
    }

    /// The values that the codes stand for.
    pub fn values(&self) -> [f32; GROUP] {
        self.q.map(|q| self.scale * f32::from(q) + self.min)
    }

    /// Scale and minimum as one word, or `None` if either is NaN or beyond f16.
    pub fn header(&self) -> Option<u32> {
        let (scale, min) = (f16::from_f32(self.scale), f16::from_f32(self.min));
        let finite = scale.is_finite() && min.is_finite();
        finite.then(|| u32::from(scale.to_bits()) | u32::from(min.to_bits()) << 16)
    }

    /// The codes as 8 words of four bytes.
    pub fn words8(&self) -> [u32; 8] {
        let (words, _) = self.q.as_chunks::<4>();
        std::array::from_fn(|w| u32::from_le_bytes(words[w]))
    }

    /// The codes as 4 words of eight nibbles; codes must be below 16.
    pub fn words4(&self) -> [u32; 4] {
        let bytes = self.words8();
        std::array::from_fn(|w| bytes[2 * w] | bytes[2 * w + 1] << 4)
    }

    /// The group behind a header and 8 words.
    pub fn from_words8(header: u32, words: &[u32; 8]) -> Self {
        let mut q = [0; GROUP];
        for (bytes, word) in q.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        let half = |bits: u32| f16::from_bits(bits as u16).to_f32();
        Self { q, scale: half(header), min: half(header >> 16) }
    }

    /// The group behind a header and 4 words.
    pub fn from_words4(header: u32, words: &[u32; 4]) -> Self {
        let bytes = std::array::from_fn(|w| words[w / 2] >> (4 * (w % 2)) & NIBBLES);
        Self::from_words8(header, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(top: usize) -> [u8; GROUP] {
        std::array::from_fn(|i| (i * 7 % (top + 1)) as u8)
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let wide = Group { q: std::array::from_fn(|i| i as u8), scale: 1.0, min: 0.0 };
        assert_eq!(wide.words8()[1], 0x0706_0504);
        let narrow = Group { q: std::array::from_fn(|i| i as u8 % 16), scale: 0.5, min: -2.0 };
        assert_eq!(narrow.words4()[0], 0x7362_5140);
        assert_eq!(narrow.words4()[1], 0xFBEA_D9C8);
        assert_eq!(narrow.header(), Some(0xC000_3800));
    }

    #[test]
    fn words_round_trip() {
        let wide = Group { q: codes(255), scale: 0.25, min: -3.5 };
        assert_eq!(Group::from_words8(wide.header().unwrap(), &wide.words8()), wide);
        let narrow = Group { q: codes(15), scale: -0.125, min: 9.0 };
        assert_eq!(Group::from_words4(narrow.header().unwrap(), &narrow.words4()), narrow);
    }

    #[test]
    fn quantising_stays_within_half_a_scale() {
        let values: [f32; GROUP] = std::array::from_fn(|i| (i as f32 * 1.7).sin() * 3.0 - 0.4);
        for bits in [3, 4, 8] {
            let group = Group::quantise(&values, bits);
            let top = ((1 << bits) - 1) as f32;
            // Rounding scale and minimum to f16 moves the ends of the range by at most this much.
            let slack = (group.scale * top + group.min.abs()) / 2048.0;
            for (value, back) in values.iter().zip(group.values()) {
                assert!((value - back).abs() <= 0.5 * group.scale + slack, "{bits} bits: {value} {back}");
            }
        }
    }

    #[test]
    fn a_constant_group_does_not_divide_by_zero() {
        for constant in [0.0, 0.5, -3.0] {
            let group = Group::quantise(&[constant; GROUP], 4);
            assert_eq!(group.scale, MIN_SCALE);
            assert_eq!(group.values(), [constant; GROUP]);
        }
    }

    #[test]
    fn headers_refuse_what_f16_cannot_hold() {
        let group = |scale, min| Group { q: [0; GROUP], scale, min };
        assert_eq!(group(f32::NAN, 0.0).header(), None);
        assert_eq!(group(1.0, f32::INFINITY).header(), None);
        assert_eq!(group(1.0, -70000.0).header(), None);
        assert!(group(1.0, -65504.0).header().is_some());
    }
}
