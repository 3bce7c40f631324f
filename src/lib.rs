//! benben: a WebGPU runtime for decoder language models whose KV cache is a pyramid.
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod error;
pub mod gpu;
pub mod kernels;
pub mod text;
mod trusted;
pub mod weights;

pub use error::{Error, Result};
