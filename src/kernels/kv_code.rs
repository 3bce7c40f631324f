//! How one row of the KV cache is packed: `head_dim` numbers in 16, 8, 4, 3 or 2 bits.
//!
//! Rows of 16 bits are halves. The others are codes of a symmetric mid-rise grid with one step for the row,
//! `value = step * (code - (2^bits - 1) / 2)`, so that a dot product needs the step once:
//!
//! ```text
//!  16 bits   word w │ f16 of value 2w+1 │ f16 of value 2w │
//!   8 bits   word w │ 4w+3 │ 4w+2 │ 4w+1 │ 4w │
//!   4 bits   word w │ 8w+7 8w+3 │ 8w+6 8w+2 │ 8w+5 8w+1 │ 8w+4 8w │      (high and low nibble of each byte)
//!   2 bits   word w   byte b holds values 16w+12+b, 16w+8+b, 16w+4+b, 16w+b, from its highest pair of bits down
//!   3 bits   the words of the codes' low two bits, then a word for each 32 high bits: bit j of byte b
//!            of word w belongs to value 32w+4j+b
//! ```
//!
//! So four neighbouring values are always the four bytes of a word under one mask.
//!
//! The grid fits rows whose values look normal. An orthonormal Hadamard transform makes them so: it spreads an
//! outlier over its whole block (QuaRot, arXiv:2404.00456). Dot products survive it, so queries are transformed
//! as well and nothing is transformed back but the output of attention.

use half::f16;

/// The smallest step, the smallest normal half: devices may flush smaller ones to zero.
const SMALLEST_STEP: f32 = 6.103_515_6e-5;
/// The largest half.
const LARGEST_STEP: f32 = 65_504.0;

/// Bits per value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvBits {
    /// Half floats.
    Sixteen,
    /// Bytes.
    Eight,
    /// Nibbles.
    Four,
    /// Two bits and one.
    Three,
    /// Pairs of bits.
    Two,
}

impl KvBits {
    /// Every width.
    pub const ALL: [Self; 5] = [Self::Sixteen, Self::Eight, Self::Four, Self::Three, Self::Two];

    /// The number itself.
    pub fn bits(self) -> u32 {
        match self {
            Self::Sixteen => 16,
            Self::Eight => 8,
            Self::Four => 4,
            Self::Three => 3,
            Self::Two => 2,
        }
    }

    /// True for widths whose values are codes on a grid.
    pub fn quantised(self) -> bool {
        self != Self::Sixteen
    }

    /// Words of a row without its step.
    pub fn words_per_row(self, head_dim: usize) -> usize {
        head_dim * self.bits() as usize / 32
    }

    /// Bytes of a row with its step, a half.
    pub fn bytes_per_row(self, head_dim: usize) -> usize {
        4 * self.words_per_row(head_dim) + if self.quantised() { 2 } else { 0 }
    }

    /// Values that `head_dim` must be a multiple of.
    pub(super) fn multiple(self) -> usize {
        if self.quantised() { 32 } else { 8 }
    }

    /// Codes below zero, and the code that zero would have, between two codes.
    fn grid(self) -> (f32, f32) {
        let half = (1 << (self.bits() - 1)) as f32;
        (half, half - 0.5)
    }

    /// The step that loses least on a row with this root mean square and this largest magnitude: for few bits the
    /// best uniform grid of a normal variable (Max, 1960), for bytes one that reaches every value.
    fn first_step(self, rms: f32, largest: f32) -> f32 {
        let step = match self {
            Self::Sixteen | Self::Eight => largest / 127.5,
            Self::Four => 0.3352 * rms,
            Self::Three => 0.586 * rms,
            Self::Two => 0.9957 * rms,
        };
        step.clamp(SMALLEST_STEP, LARGEST_STEP)
    }
}

/// The Hadamard transform of a row in place, orthonormal and its own inverse, in blocks of the largest power of
/// two that divides its length.
pub fn hadamard(row: &mut [f32]) {
    let block = 1 << row.len().trailing_zeros();
    for chunk in row.chunks_exact_mut(block) {
        let mut span = 1;
        while span < block {
            for pair in chunk.chunks_exact_mut(2 * span) {
                let (low, high) = pair.split_at_mut(span);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            span *= 2;
        }
        chunk.iter_mut().for_each(|x| *x /= (block as f32).sqrt());
    }
}

/// Packs a row into its words and its step: the CPU twin of the writing kernels. Halves have step 1.
///
/// The codes are those of the first step; the step that is stored is the one that fits these codes best.
pub fn encode_row(row: &[f32], bits: KvBits) -> (Vec<u32>, f32) {
    let pair =
        |p: &[f32]| u32::from(f16::from_f32(p[0]).to_bits()) | u32::from(f16::from_f32(p[1]).to_bits()) << 16;
    if !bits.quantised() {
        return (row.chunks_exact(2).map(pair).collect(), 1.0);
    }
    let ((half, middle), top) = (bits.grid(), (1 << bits.bits()) as f32 - 1.0);
    let rms = (row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32).sqrt();
    let first = bits.first_step(rms, row.iter().fold(0.0, |m, x| x.abs().max(m)));
    let codes: Vec<f32> = row.iter().map(|x| ((x / first).floor() + half).clamp(0.0, top)).collect();
    let grid = |code: &f32| code - middle;
    let along: f32 = row.iter().zip(&codes).map(|(x, code)| x * grid(code)).sum();
    let square: f32 = codes.iter().map(|code| grid(code) * grid(code)).sum();
    let step = (along / square).clamp(SMALLEST_STEP, LARGEST_STEP);
    let codes: Vec<u32> = codes.into_iter().map(|code| code as u32).collect();
    (pack(&codes, bits), f16::from_f32(step).to_f32())
}

fn pack(codes: &[u32], bits: KvBits) -> Vec<u32> {
    let quad = |four: &[u32]| four.iter().rev().fold(0, |word, code| word << 8 | code);
    // `spread` values a word, each with `width` bits of its code.
    let words = |spread: usize, width: u32, part: &dyn Fn(u32) -> u32| -> Vec<u32> {
        let word = |group: &[u32]| {
            let quads = group.chunks_exact(4).enumerate();
            quads.fold(0, |word, (j, q)| {
                word | quad(&[part(q[0]), part(q[1]), part(q[2]), part(q[3])]) << (j as u32 * width)
            })
        };
        codes.chunks_exact(spread).map(word).collect()
    };
    match bits {
        KvBits::Three => [words(16, 2, &|code| code & 3), words(32, 1, &|code| code >> 2)].concat(),
        _ => words(32 / bits.bits() as usize, bits.bits(), &|code| code),
    }
}

/// Unpacks a row: the CPU twin of the reading kernels.
pub fn decode_row(words: &[u32], step: f32, bits: KvBits) -> Vec<f32> {
    if !bits.quantised() {
        let half = |bits: u32| f16::from_bits(bits as u16).to_f32();
        return words.iter().flat_map(|&w| [half(w), half(w >> 16)]).collect();
    }
    // The inverse of the closure of the same name in `pack`.
    let parts = |words: &[u32], width: u32| -> Vec<u32> {
        let mask = (1 << width) - 1;
        let quads = words.iter().flat_map(|&word| (0..8 / width).map(move |j| word >> (j * width)));
        quads.flat_map(|quad| quad.to_le_bytes()).map(|byte| u32::from(byte) & mask).collect()
    };
    let codes = match bits {
        KvBits::Three => {
            let (low, high) = words.split_at(words.len() / 3 * 2);
            parts(low, 2).into_iter().zip(parts(high, 1)).map(|(low, high)| low | high << 2).collect()
        }
        _ => parts(words, bits.bits()),
    };
    let (_, middle) = bits.grid();
    codes.into_iter().map(|code| step * (code as f32 - middle)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::check::Noise;
    use super::*;

    #[test]
    fn widths_and_bytes() {
        let widths = KvBits::ALL.map(|b| (b.words_per_row(64), b.bytes_per_row(64)));
        assert_eq!(widths, [(32, 128), (16, 66), (8, 34), (6, 26), (4, 18)]);
        assert_eq!(KvBits::Sixteen.words_per_row(80), 40);
    }

    #[test]
    fn packing_follows_the_picture() {
        let ramp: Vec<f32> = (0..32).map(|i| i as f32).collect();
        let (words, step) = encode_row(&ramp, KvBits::Sixteen);
        assert_eq!((words[1], step), (0x4200_4000, 1.0));
        let codes: Vec<u32> = (0..32).collect();
        assert_eq!(pack(&codes, KvBits::Eight)[1], 0x0706_0504);
        let nibbles: Vec<u32> = (0..32).map(|i| i % 16).collect();
        assert_eq!(pack(&nibbles, KvBits::Four), [0x7362_5140, 0xFBEA_D9C8, 0x7362_5140, 0xFBEA_D9C8]);
        let pairs: Vec<u32> = (0..32).map(|i| i / 4 % 4).collect();
        assert_eq!(pack(&pairs, KvBits::Two), [0xE4E4_E4E4; 2]);
        let threes: Vec<u32> = (0..32).map(|i| if i == 9 { 7 } else { 0 }).collect();
        assert_eq!(pack(&threes, KvBits::Three), [0x0000_3000, 0, 0x0000_0400]);
    }

    #[test]
    fn codes_survive_packing() {
        let mut noise = Noise::new(11);
        for bits in [KvBits::Eight, KvBits::Four, KvBits::Three, KvBits::Two] {
            let codes: Vec<u32> = (0..96).map(|_| noise.below(1 << bits.bits())).collect();
            let (_, middle) = bits.grid();
            let want: Vec<f32> = codes.iter().map(|&code| 0.5 * (code as f32 - middle)).collect();
            assert_eq!(decode_row(&pack(&codes, bits), 0.5, bits), want, "{bits:?}");
        }
    }

    #[test]
    fn a_row_survives_within_what_its_bits_allow() {
        let mut noise = Noise::new(3);
        // Sums of twelve: nearly normal, and of variance 4.
        let normal = |noise: &mut Noise| noise.values(12).iter().sum::<f32>() / 2.0;
        for (bits, limit) in KvBits::ALL.into_iter().zip([3e-4, 0.007, 0.12, 0.2, 0.36]) {
            let (mut lost, mut all) = (0.0, 0.0);
            for _ in 0..50 {
                let row: Vec<f32> = (0..96).map(|_| normal(&mut noise)).collect();
                let (words, step) = encode_row(&row, bits);
                assert_eq!(words.len(), bits.words_per_row(96));
                let decoded = decode_row(&words, step, bits);
                lost += row.iter().zip(&decoded).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
                all += row.iter().map(|x| x * x).sum::<f32>();
            }
            assert!((lost / all).sqrt() < limit, "{bits:?}: {}", (lost / all).sqrt());
        }
    }

    #[test]
    fn rows_of_zeros_and_of_absurd_values_stay_finite() {
        for bits in KvBits::ALL {
            for value in [0.0, 1e-9, 3e7] {
                let (words, step) = encode_row(&[value; 64], bits);
                let finite = decode_row(&words, step, bits).iter().all(|x| x.is_finite());
                assert!(finite || !bits.quantised(), "{bits:?} of {value}");
            }
        }
    }

    #[test]
    fn hadamard_keeps_dot_products_and_inverts_itself() {
        let mut noise = Noise::new(5);
        for dim in [64, 80, 96] {
            let (a, b) = (noise.values(dim), noise.values(dim));
            let (mut ha, mut hb) = (a.clone(), b.clone());
            hadamard(&mut ha);
            hadamard(&mut hb);
            let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
            assert!((dot(&a, &b) - dot(&ha, &hb)).abs() < 1e-4);
            assert!(ha.iter().zip(&a).any(|(x, y)| (x - y).abs() > 0.1), "the transform did nothing");
            hadamard(&mut ha);
            assert!(ha.iter().zip(&a).all(|(x, y)| (x - y).abs() < 1e-5));
        }
    }
}
