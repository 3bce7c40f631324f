//! The one error type of the crate: what went wrong, with the numbers, and what to do next.

use crate::advice::{Advice, try_any};

/// `Result` with the crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, in four groups: the device, the model's files, the plan, the call.
///
/// Messages are one sentence, carry the numbers that decided, and name the next step where there is one. A surface that
/// has words of its own for next steps asks for [`Error::worded`].
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No adapter answers to the request.
    #[error(
        "no GPU adapter {wanted}; found: {found} (install a Vulkan driver, for example mesa-vulkan-drivers, or see `benben doctor`)"
    )]
    NoAdapter {
        /// What was asked for, as a phrase: "at all", "named 'x'".
        wanted: String,
        /// The adapters that are there, or "none".
        found: String,
    },
    /// The adapter lacks something that the call needs.
    #[error("the adapter cannot do this: {need}, but it has {have}")]
    Unsupported {
        /// What is needed.
        need: String,
        /// What the adapter offers.
        have: String,
    },
    /// The device is gone, or refused a command; the session cannot go on.
    #[error("the GPU device was lost: {0}; open it again and load the model anew")]
    DeviceLost(String),
    /// An allocation failed although the plan fitted; the device is of no more use. WebGPU reports that late, and does
    /// not say which it was.
    #[error(
        "the GPU has no memory beyond the {held} bytes that benben asked for; close other programs that use it, or take a smaller model or a shorter context"
    )]
    OutOfMemory {
        /// Bytes that benben asked this device for and did not give back, among them those that it refused.
        held: u64,
    },
    /// A file could not be read.
    #[error("cannot read {path}: {reason}")]
    File {
        /// The path as it was given.
        path: String,
        /// The operating system's words.
        reason: String,
    },
    /// A file was read and is not what it claims to be.
    #[error("{file} is damaged or not supported: {reason}")]
    Format {
        /// The file, or the kind of file.
        file: String,
        /// What is wrong, with the numbers.
        reason: String,
    },
    /// The model lacks a tensor that its architecture needs.
    #[error("the model has no tensor '{0}', which its architecture needs")]
    MissingTensor(String),
    /// A tensor's shape contradicts the configuration.
    #[error("tensor '{tensor}' has shape {found:?}, but the configuration says {expected:?}")]
    Shape {
        /// The tensor's name.
        tensor: String,
        /// The shape that follows from the configuration, outermost first.
        expected: Vec<usize>,
        /// The shape in the file, outermost first.
        found: Vec<usize>,
    },
    /// The tokenizer or the chat template failed.
    #[error("tokenizer: {0}")]
    Text(String),
    /// The memory plan exceeds a limit; nothing was uploaded.
    #[error("does not fit: {what} needs {need} bytes, but {limit_name} is {limit} bytes{}", try_any(.advice))]
    DoesNotFit {
        /// The part of the plan that is too large.
        what: String,
        /// Bytes it needs.
        need: u64,
        /// The limit's name.
        limit_name: String,
        /// The limit in bytes.
        limit: u64,
        /// What would make it fit, each by itself.
        advice: Vec<Advice>,
    },
    /// The prompt and the tokens to generate exceed the context.
    #[error(
        "{need} tokens are needed, but the context holds {context} (the model was trained for {trained}); shorten the prompt{}",
        try_any(longer(*.need, *.trained))
    )]
    ContextFull {
        /// Tokens needed.
        need: usize,
        /// Tokens the session has room for.
        context: usize,
        /// The model's own limit.
        trained: usize,
    },
    /// A value that the caller gave makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A mistake in benben itself.
    #[error("a fault of benben's own: {0}; please report it")]
    Internal(String),
}

/// The context that holds so many tokens, if the model was trained for as many.
fn longer(need: usize, trained: usize) -> Option<Advice> {
    (need <= trained).then_some(Advice::Context(need))
}

impl Error {
    /// The variant's name in words with hyphens, for programs that cannot match on an enum.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoAdapter { .. } => "no-adapter",
            Self::Unsupported { .. } => "unsupported",
            Self::DeviceLost(_) => "device-lost",
            Self::OutOfMemory { .. } => "out-of-memory",
            Self::File { .. } => "file",
            Self::Format { .. } => "format",
            Self::MissingTensor(_) => "missing-tensor",
            Self::Shape { .. } => "shape",
            Self::Text(_) => "text",
            Self::DoesNotFit { .. } => "does-not-fit",
            Self::ContextFull { .. } => "context-full",
            Self::Invalid(_) => "invalid",
            Self::Internal(_) => "internal",
        }
    }

    /// The settings that would have let the call succeed, each by itself.
    pub fn advice(&self) -> Vec<Advice> {
        match self {
            Self::DoesNotFit { advice, .. } => advice.clone(),
            &Self::ContextFull { need, trained, .. } => longer(need, trained).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// The message with each piece of advice in the caller's words, `None` for one that it has no words for.
    pub fn worded(&self, word: impl Fn(Advice) -> Option<String>) -> String {
        let (advice, message) = (self.advice(), self.to_string());
        let reason = message.strip_suffix(&try_any(&advice)).unwrap_or(&message);
        reason.to_owned() + &try_any(advice.into_iter().filter_map(word))
    }

    /// A [`Error::Format`] in one call.
    pub(crate) fn format(file: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Format { file: file.into(), reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_worded_as_the_caller_says() {
        let error = Error::DoesNotFit {
            what: "the plan".to_owned(),
            need: 9,
            limit_name: "the memory left".to_owned(),
            limit: 5,
            advice: vec![Advice::Context(40), Advice::KvBits(4), Advice::SmallerShare],
        };
        let reason = "does not fit: the plan needs 9 bytes, but the memory left is 5 bytes";
        assert_eq!(
            error.to_string(),
            format!(
                "{reason}; try a context of 40 tokens or KV rows of 4 bits or a smaller share of the rows"
            )
        );
        let flag = |advice| match advice {
            Advice::Context(tokens) => Some(format!("--context {tokens}")),
            Advice::KvBits(bits) => Some(format!("--kv-bits {bits}")),
            _ => None,
        };
        assert_eq!(error.worded(flag), format!("{reason}; try --context 40 or --kv-bits 4"));
        assert_eq!(error.worded(|_| None), reason);
        let plain = Error::Invalid("no".to_owned());
        assert_eq!(plain.worded(flag), "no");
    }

    #[test]
    fn no_context_beyond_the_models_own_is_advised() {
        let full = |need| Error::ContextFull { need, context: 40, trained: 100 };
        assert_eq!(full(42).advice(), [Advice::Context(42)]);
        assert_eq!(full(101).advice(), []);
    }
}
