//! Continuous batching: many sequences side by side, each in a step of its own pace.
//!
//! ```text
//! mod.rs      the engine: what comes in, and what it holds
//! request.rs  one request, checked, and what it will take
//! core.rs     who waits, who runs, what is under way
//! step.rs     one step: a token of every sequence, and a bounded piece of a prompt
//! answer.rs   the stream of one answer; polling any of them drives all
//! ```
//!
//! A step reads every weight once for all sequences that decode. Beside them it runs prompts, layer by layer, within a
//! budget, so that a long one holds nobody up. Prompts run in the order in which they came, and a sequence is let in
//! once its rows have room for the longest answer: none is ever thrown out again.

mod answer;
mod core;
mod request;
mod step;

use std::sync::Arc;

pub use answer::Answer;
pub use request::Request;

use self::core::{Core, Shared};
use crate::model::{DecodeScratch, Model};
use crate::plan::Limits;
use crate::{Advice, Error, Result};

/// How an engine is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Sequences that run at once, at most.
    pub max_sequences: usize,
    /// Tokens that a prompt and its answer may have together; absent, what the model was trained for.
    pub context: Option<usize>,
    /// Tokens that one step computes at most, of prompts and answers together: fewer make answers that go on
    /// smoother while a prompt comes in, more make prompts faster. A step runs one layer of a prompt at least.
    pub step_tokens: usize,
    /// Bytes that the rows of all running sequences may take; absent, half of what is free where the system says so.
    pub memory: Option<u64>,
    /// Computes each sequence of a step by itself, with the kernels of a [`crate::Session`], so that its tokens are those of
    /// a session to the last bit. A step then reads the weights once for each sequence. Otherwise a product with many rows
    /// may round another way, and the choice between two almost equal logits may differ.
    pub exact: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { max_sequences: 16, context: None, step_tokens: 256, memory: None, exact: false }
    }
}

/// What an engine is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineReport {
    /// Sequences that run.
    pub sequences: usize,
    /// Requests that wait for a place or for memory.
    pub waiting: usize,
    /// Bytes of all live rows.
    pub kv_bytes: u64,
    /// Bytes that full f16 caches of as many tokens take.
    pub kv_bytes_full_f16: u64,
    /// Bytes that the rows of the running sequences may grow to.
    pub kv_bytes_reserved: u64,
    /// Steps so far.
    pub steps: u64,
    /// Most sequences that one step has decoded a token of.
    pub most_sequences: usize,
}

/// Runs many sequences of one model side by side. Clones are the same engine.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

impl Engine {
    /// An engine without any request yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] for room for no sequence, a step of no token or a context of less than two;
    /// [`Error::DoesNotFit`] for more sequences than a step has room for.
    pub fn new(model: &Arc<Model>, options: &EngineOptions) -> Result<Self> {
        let context = options.context.unwrap_or(model.config().context);
        for (what, value, least) in [
            ("sequences at once", options.max_sequences, 1),
            ("tokens a step", options.step_tokens, 1),
            ("tokens of context", context, 2),
        ] {
            if value < least {
                return Err(Error::Invalid(format!("an engine needs at least {least} {what}, not {value}")));
            }
        }
        check_scratch(model, options.max_sequences)?;
        let free = || Limits::of(model.gpu(), None).memory.map(|bytes| bytes / 2);
        let options = EngineOptions { memory: options.memory.or_else(free), ..*options };
        Ok(Self { shared: Arc::new(Shared::new(Core::new(model, options, context))) })
    }

    /// Takes a request and returns the stream of its answer, which is what it would be without any other request: the
    /// same tokens whoever else runs. Requests run in the order in which they were submitted.
    ///
    /// Dropping the answer takes the request back.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty prompt or an id outside the vocabulary, [`Error::ContextFull`] for a prompt
    /// without room for one token, [`Error::DoesNotFit`] for a request that would not fit alone, and
    /// [`Error::Unsupported`] for rows on the host.
    pub fn submit(&self, request: Request) -> Result<Answer> {
        let id = self.shared.lock().submit(request)?;
        Ok(Answer::new(self.shared.clone(), id))
    }

    /// What it is doing now.
    pub fn report(&self) -> EngineReport {
        self.shared.lock().report()
    }
}

/// Fails unless the activations of a step of so many sequences fit.
fn check_scratch(model: &Model, sequences: usize) -> Result<()> {
    let (gpu, config) = (model.gpu(), model.config());
    let (total, largest) = DecodeScratch::bytes(gpu, config, sequences, 0);
    let Limits { binding, memory } = Limits::of(gpu, None);
    let limits = [
        ("one buffer of the step's activations", largest, "the adapter's largest binding", binding),
        ("the step's activations", total, "the memory left", memory.unwrap_or(u64::MAX)),
    ];
    match limits.into_iter().find(|&(_, need, _, limit)| need > limit) {
        Some((what, need, limit_name, limit)) => {
            let (what, limit_name) = (what.to_owned(), limit_name.to_owned());
            let fit = (sequences as u128 * u128::from(limit) / u128::from(need)).max(1);
            let advice = vec![Advice::Sequences(fit as usize)];
            Err(Error::DoesNotFit { what, need, limit_name, limit, advice })
        }
        None => Ok(()),
    }
}
