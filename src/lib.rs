//! benben: a WebGPU runtime for decoder language models whose KV cache is a pyramid.
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod error;
pub mod text;

pub use error::{Error, Result};
