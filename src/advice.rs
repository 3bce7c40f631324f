//! Next steps that would mend an error, for a surface to word: a command line as a flag, a server as a field, a page as a
//! button.

use std::fmt;

use serde::Serialize;

use crate::kernels::matrix::RowFormat;

/// A setting that would have let a call succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "value", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Advice {
    /// A context of so many tokens.
    Context(usize),
    /// KV rows of so many bits.
    KvBits(u32),
    /// Weights in this format.
    Weights(RowFormat),
    /// At most so many sequences at once.
    Sequences(usize),
    /// Fewer tokens in the answer.
    ShorterAnswer,
    /// A smaller share of the rows.
    SmallerShare,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Context(tokens) => write!(f, "a context of {tokens} tokens"),
            Self::KvBits(bits) => write!(f, "KV rows of {bits} bits"),
            Self::Weights(format) => write!(f, "weights of {} bits", format.bits()),
            Self::Sequences(sequences) => write!(f, "at most {sequences} sequences at once"),
            Self::ShorterAnswer => f.write_str("a shorter answer"),
            Self::SmallerShare => f.write_str("a smaller share of the rows"),
        }
    }
}

/// The end of a sentence that gives advice.
pub(crate) fn try_any<T: fmt::Display>(advice: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = advice.into_iter().map(|step| step.to_string()).collect();
    if words.is_empty() { String::new() } else { format!("; try {}", words.join(" or ")) }
}
