//! Neighbouring rows of a weight matrix as they lie on the device.
//!
//! ```text
//! rows       for real GPUs: row after row, in a buffer
//! tiles      for software adapters: 32 rows take turns by texels, four packed words or one word of scales
//!              | row 0, 0..4 | row 1, 0..4 | ... | row 31, 0..4 | row 0, 4..8 | row 1, 4..8 | ...
//!            so that eight lanes with neighbouring rows read neighbouring texels, one stream of memory for all;
//!            in a buffer or, where the device reads those faster, in a texture
//! ```

use super::matrix::RowFormat;
use super::tile::{TILE, tile};
use crate::Result;
use crate::gpu::{Binding, Class, Family, Gpu, Recorder, ShaderKey, Tensor, Texel, Texture};

/// Words that kernels read.
#[derive(Debug, Clone)]
pub enum Words {
    /// In a buffer.
    Buffer(Tensor<u32>),
    /// In a texture.
    Texture(Texture),
}

impl Words {
    /// True when a shader must load texels.
    pub fn in_texture(&self) -> bool {
        matches!(self, Self::Texture(_))
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Buffer(tensor) => tensor.bytes(),
            Self::Texture(texture) => texture.bytes(),
        }
    }

    /// All of them, for a kernel.
    pub fn bind(&self) -> Binding<'_> {
        match self {
            Self::Buffer(tensor) => tensor.bind(),
            Self::Texture(texture) => texture.bind(),
        }
    }
}

/// Neighbouring rows of a matrix, few enough for one binding.
#[derive(Debug, Clone)]
pub struct Part {
    /// The row of the matrix that is the part's first.
    pub first_row: usize,
    /// Rows in the part.
    pub rows: usize,
    /// Their format.
    pub format: RowFormat,
    /// Packed values, `[rows, words_per_row]`.
    pub words: Words,
    /// Scales and minima, `[rows, scales_per_row]`; a dummy for F16.
    pub scales: Words,
    /// The first packed words in the order of rows, at most [`Part::SAMPLE`], by which matrices are told apart.
    pub sample: Tensor<u32>,
    tiled: bool,
}

impl Part {
    /// Words of the sample.
    pub const SAMPLE: usize = 256;

    /// The part with these rows, in the layout that suits the device. They must have been written, recorded on `rec`
    /// or submitted; what is recorded is submitted.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn new(
        rec: &mut Recorder,
        first_row: usize,
        rows: usize,
        format: RowFormat,
        words: Tensor<u32>,
        scales: Tensor<u32>,
    ) -> Result<Self> {
        let sample = rec.gpu().tensor(Class::Scratch, "sample of the weights", words.len().min(Self::SAMPLE));
        rec.copy(&words, 0, &sample, 0, sample.len());
        let words = settle(rec, words, rows, Texel::Four)?;
        let scales = settle(rec, scales, rows, Texel::One)?;
        rec.submit();
        // What the tiles were made from is free now.
        rec.forget();
        let tiled = rec.gpu().tuning().family == Family::Lanes;
        Ok(Self { first_row, rows, format, words, scales, sample, tiled })
    }

    /// The variant of a shader that reads it.
    pub(super) fn variant(&self, key: ShaderKey) -> ShaderKey {
        layout(self.format.variant(key), self.tiled, self.words.in_texture())
    }

    /// The most rows of `cols` values that a part can have on this device; of at least 32 a multiple of those.
    pub(crate) fn most_rows(gpu: &Gpu, format: RowFormat, cols: usize) -> usize {
        let tuning = gpu.tuning();
        let textures = tuning.textures && tuning.family == Family::Lanes;
        let most = if textures { gpu.max_texture_bytes() } else { u64::MAX };
        let rows = most.min(gpu.max_binding_bytes()) as usize / (4 * format.words_per_row(cols));
        if rows < TILE { rows } else { rows / TILE * TILE }
    }
}

/// The variant of a shader that reads a layout.
pub(super) fn layout(key: ShaderKey, tiled: bool, textures: bool) -> ShaderKey {
    key.flag("TILES", tiled).flag("TEXTURES", textures)
}

/// Rows of words, moved to where kernels read them.
fn settle(rec: &mut Recorder, from: Tensor<u32>, rows: usize, texel: Texel) -> Result<Words> {
    let (gpu, tuning) = (rec.gpu(), rec.gpu().tuning());
    if tuning.family != Family::Lanes {
        return Ok(Words::Buffer(from));
    }
    let words = from.len() / rows * rows.next_multiple_of(TILE);
    let to = if tuning.textures {
        Words::Texture(gpu.texture(from.class(), "tiles", words / texel.words(), texel))
    } else {
        Words::Buffer(gpu.tensor(from.class(), "tiles", words))
    };
    tile(rec, &from, rows, texel, &to)?;
    Ok(to)
}
