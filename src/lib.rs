//! benben is a WebGPU runtime for decoder language models whose KV cache is a pyramid: wide in the shallow
//! layers, narrow in the deep ones.
//!
//! ```no_run
//! use benben::{AdapterChoice, GenerateOptions, Gpu, LoadOptions, Message, Model, Session, SessionOptions};
//!
//! # async fn hello() -> benben::Result<()> {
//! let gpu = Gpu::open(&AdapterChoice::Best).await?;
//! let model = Model::load(&gpu, "model.gguf", &LoadOptions::default(), |_| ()).await?;
//! let mut session = Session::new(&model, &SessionOptions::default())?;
//! session.append(&model.text().prompt(&[Message::user("What is the capital of France?")])?)?;
//! let mut text = model.text().stream();
//! let mut answer = session.generate(&GenerateOptions::default())?;
//! while let Some(token) = answer.next().await {
//!     print!("{}", text.push(token?)?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The rooms, from the ground up; each uses only those above it in this list:
//!
//! | room | what lives there |
//! |---|---|
//! | [`digest`] | hashes that files name things by |
//! | [`gpu`] | device, buffers, shader assembly, pipelines, recording, read-back |
//! | [`kernels`] | one file for each WGSL kernel, with its CPU twin |
//! | [`weights`], [`text`] | model files into GPU rows; tokenizer and chat template |
//! | [`kv`] | which rows live, where, in what format |
//! | [`model`] | the decoder's shape, weights and forward pass |
//! | [`plan`] | the memory plan |
//! | [`engine`] | sessions, schedule, streams of tokens |
//!
//! Everything that waits for the device is async and drives itself; any executor will do.

#![deny(unsafe_code)]
#![warn(missing_docs)]
// Browsers have one thread for WebGPU, and its objects stay on it; natively the same `Arc`s are shared.
#![cfg_attr(target_arch = "wasm32", allow(clippy::arc_with_non_send_sync))]

mod advice;
pub mod digest;
pub mod engine;
mod error;
pub mod gpu;
pub mod kernels;
pub mod kv;
pub mod model;
pub mod plan;
pub mod text;
mod trusted;
#[cfg(target_arch = "wasm32")]
mod web;
pub mod weights;

pub use advice::Advice;
pub use engine::{
    Answer, Comparison, Divergence, Engine, EngineOptions, EngineReport, GenerateOptions, Generation,
    KvReport, LoadOptions, Reference, Request, Sampling, Session, SessionOptions, Step, Timing,
};
pub use error::{Error, Result};
pub use gpu::{AdapterChoice, Gpu};
pub use kernels::kv_code::KvBits;
pub use kernels::matrix::RowFormat;
pub use kv::{HostReport, KvOptions};
pub use model::{Model, Progress};
pub use text::Message;
/// The graphics library whose devices [`Gpu::adopt`] takes, in the version that it takes.
pub use wgpu;
