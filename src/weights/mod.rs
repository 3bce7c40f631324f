//! Weights: a model file in, rows that a kernel can read out. No GPU code lives here.
//!
//! ```text
//!   source.rs (disk.rs)                      bytes of files: mapped, in memory, or fetched by ranges
//!        |
//!   gguf.rs  safetensors.rs (+ names.rs)      read: what is where, every size checked (header.rs)
//!        \      /
//!        gather.rs                            files that belong together: shards, and what lies beside them
//!           |
//!        file.rs   ModelFile                  one view of both: names, shapes, bytes, config
//!           |
//!        blocks.rs (dtype.rs)                 the file's block formats -> groups of 32, or f32
//!           |
//!        rows.rs   (group.rs)                 -> PackedRows: f16, 8-bit or 4-bit rows for the GPU
//! ```
//!
//! Whatever the file is, tensors carry GGUF's names (`blk.3.attn_q.weight`) and shapes are written
//! outermost first, so a matrix is `[rows, cols]` and `y = W x` takes one dot product per row.
//! Nothing that a file says is believed before it is checked: a damaged file gives one
//! [`Error::Format`](crate::Error::Format) sentence and never a panic or an outsized allocation.

mod blocks;
#[cfg(not(target_arch = "wasm32"))]
mod disk;
mod dtype;
mod file;
mod gather;
mod gguf;
mod header;
mod metadata;
mod names;
mod rows;
mod safetensors;
mod source;

pub(crate) use crate::kernels::group::{GROUP, Group};
pub use crate::kernels::matrix::RowFormat;
pub use blocks::dequantize_row;
#[cfg(not(target_arch = "wasm32"))]
pub use disk::profile_path;
pub use dtype::Dtype;
pub use file::{FileKind, ModelFile, PROFILE};
pub use metadata::{Metadata, Value};
pub use rows::{PackedRows, natural_format, pack, unpack};
pub(crate) use safetensors::whole as safetensors_header;
pub use source::{ByteSource, Reading, Threads};

/// One tensor of a model file: its name, its type, its shape and where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// GGUF's name for it, also when it comes from safetensors.
    pub name: String,
    /// How its elements are stored.
    pub dtype: Dtype,
    /// Its dimensions, outermost first: a matrix is `[rows, cols]`.
    pub shape: Vec<usize>,
    /// Where its bytes are; [`ModelFile::bytes`] reads them.
    pub(crate) location: Location,
}

/// A byte range in one of the files that make up a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    /// Which file: always 0, but for shards.
    pub source: usize,
    /// The first byte.
    pub offset: u64,
    /// The number of bytes.
    pub len: usize,
}

impl TensorInfo {
    /// Elements of one row: the innermost dimension.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Rows: the product of all dimensions but the innermost; 1 for a vector.
    pub fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// Bytes in the file.
    pub fn byte_len(&self) -> usize {
        self.location.len
    }
}
