//! What the tests share.

pub mod checkpoint;
pub mod device;
pub mod files;
pub mod gguf_writer;
#[cfg(feature = "cli")]
pub mod program;
pub mod reference;
pub mod testbed;
pub mod tiny;
