//! The tests of the library, on a device, and of the program, in one binary: each file is about what its name says.

mod common;

mod batch;
#[cfg(feature = "cli")]
mod batch_cli;
mod bounded;
#[cfg(all(feature = "cli", unix))]
mod chat_cli;
#[cfg(feature = "cli")]
mod cli;
mod compare;
mod compiled;
#[cfg(feature = "cli")]
mod eval;
mod golden;
mod golden_kv;
mod golden_safetensors;
mod known;
mod merge;
mod offload;
mod policies;
mod profile;
mod robust;
mod sessions;
mod shaders;
mod share;
mod snapshots;
mod text;
mod text_small;
mod tiny;
mod web;
mod weights;
mod weights_hostile;
mod weights_ranges;
