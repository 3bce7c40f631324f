//! Sessions: a conversation with its cache, its schedule and its stream of tokens.
//!
//! ```text
//! load.rs       open a model file, plan, upload
//! sequence.rs   the state of one sequence
//! session.rs    one sequence as a conversation
//! work.rs       the next piece of work: a layer of a block, a layer of a step, a head
//! generate.rs   pieces → tokens, as an async stream
//! frame.rs      pieces → tokens, within a time budget per frame
//! score.rs      logits, and the loss of a continuation
//! compare.rs    a continuation's logits beside those of another cache
//! calibrate.rs  the layer profile that follows from such comparisons
//! recall.rs     rows on the host, called back
//! share.rs      forks, and beginnings that conversations have in common
//! snapshot.rs   conversations in files
//! batch/        many sequences side by side
//! ```

mod batch;
mod calibrate;
mod compare;
mod frame;
mod generate;
mod load;
mod recall;
mod score;
mod sequence;
mod session;
mod share;
mod snapshot;
mod work;

pub use crate::kernels::sample::Sampling;
pub use batch::{Answer, Engine, EngineOptions, EngineReport, Request};
pub use calibrate::Window;
pub use compare::{Comparison, Divergence, Reference};
pub use frame::Step;
pub use generate::{GenerateOptions, Generation, Timing};
pub use load::{LoadOptions, read_text};
pub use session::{KvReport, Session, SessionOptions};

/// A host may move its sessions between threads.
#[cfg(not(target_arch = "wasm32"))]
const _: () = {
    const fn send<T: Send>() {}
    send::<Session>();
    send::<Generation<'static>>();
    send::<Answer>();
};
