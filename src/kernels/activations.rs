//! Rows of activations between products: f32, or halves where products run on matrix units.
//!
//! ```text
//! halves   word w of a row:  | hi f16 | lo f16 |     values 2w+1, 2w; what is beyond ±65504 is cut off
//! ```

use half::f16;

use super::matmul::{Rows, reads_halves};
use crate::gpu::{Binding, Class, Gpu, Tensor};
use crate::{Error, Result};

/// Rows of values as products read them, row after row.
#[derive(Debug, Clone)]
pub enum Activations {
    /// As they are.
    Single(Tensor<f32>),
    /// As halves, two to a word.
    Halves(Tensor<u32>),
}

impl Activations {
    /// Room for `len` values, an even number, that are read as rows of this kind.
    pub fn new(gpu: &Gpu, label: &str, len: usize, rows: Rows) -> Self {
        if reads_halves(gpu.tuning(), rows) {
            Self::Halves(gpu.tensor(Class::Scratch, label, len / 2))
        } else {
            Self::Single(gpu.tensor(Class::Scratch, label, len))
        }
    }

    /// These values, an even number, to be read as rows of this kind.
    pub fn with(gpu: &Gpu, label: &str, values: &[f32], rows: Rows) -> Self {
        if reads_halves(gpu.tuning(), rows) {
            Self::Halves(gpu.tensor_with(Class::Scratch, label, &packed(values)))
        } else {
            Self::Single(gpu.tensor_with(Class::Scratch, label, values))
        }
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Single(tensor) => tensor.bytes(),
            Self::Halves(tensor) => tensor.bytes(),
        }
    }
}

/// Activations as a kernel reads or writes them.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    pub(super) binding: Binding<'a>,
    pub(super) halves: bool,
}

impl<'a> Values<'a> {
    /// The binding of values that are f32, for kernels that know nothing else.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for halves.
    pub(crate) fn single(self) -> Result<Binding<'a>> {
        if self.halves {
            let (need, have) = ("values in halves".to_owned(), "a kernel that knows f32 alone".to_owned());
            return Err(Error::Unsupported { need, have });
        }
        Ok(self.binding)
    }
}

impl<'a> From<&'a Tensor<f32>> for Values<'a> {
    fn from(tensor: &'a Tensor<f32>) -> Self {
        Self { binding: tensor.bind(), halves: false }
    }
}

impl<'a> From<&'a Activations> for Values<'a> {
    fn from(values: &'a Activations) -> Self {
        match values {
            Activations::Single(tensor) => tensor.into(),
            Activations::Halves(tensor) => Self { binding: tensor.bind(), halves: true },
        }
    }
}

/// The CPU twin of the layout: words of halves.
pub fn packed(values: &[f32]) -> Vec<u32> {
    let bits = |v: f32| u32::from(f16::from_f32(v.clamp(-65504.0, 65504.0)).to_bits());
    values.chunks_exact(2).map(|v| bits(v[0]) | bits(v[1]) << 16).collect()
}

/// And its values.
pub fn unpacked(words: &[u32]) -> Vec<f32> {
    words
        .iter()
        .flat_map(|&word| [word as u16, (word >> 16) as u16].map(|bits| f16::from_bits(bits).to_f32()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_two_halves_is_in_the_low_bits() {
        assert_eq!(packed(&[1.0, -2.0]), [0xC000_3C00]);
        assert_eq!(unpacked(&packed(&[0.5, 1e9, -1e9, 3.0])), [0.5, 65504.0, -65504.0, 3.0]);
    }
}
