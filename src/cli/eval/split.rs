//! Which parts of which text may be looked at while something is tuned, and which are held out.
//!
//! The first text is for tuning, the others are held out; a text that is alone is cut in the middle. The lists are
//! fixed, so that asking for more windows or trials only adds to what was measured:
//!
//! - A part's windows follow each other without a gap from its beginning. Every second one comes first (the second,
//!   the fourth, ...), then the rest; the very first, where titles and licences stand, comes last.
//! - Where several texts are held out, they take turns.
//! - A trial's haystack is a window of the haystack's length; trials that run out of text begin again.

use benben::{Error, Result};
use serde::{Deserialize, Serialize};

/// What a measurement may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// One may look at it and change something.
    Tuned,
    /// It tells how good the outcome is.
    HeldOut,
}

/// A text as tokens.
#[derive(Debug)]
pub struct Source {
    pub name: String,
    pub tokens: Vec<u32>,
}

/// Tokens that follow each other in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window<'a> {
    pub name: &'a str,
    /// The first token's index in its text.
    pub start: usize,
    pub tokens: &'a [u32],
}

impl Split {
    /// The parts of `texts` that belong to it.
    fn parts(self, texts: &[Source]) -> Vec<Window<'_>> {
        match (self, texts) {
            (_, []) => Vec::new(),
            (Self::Tuned, [text]) => vec![part(text, 0..text.tokens.len() / 2)],
            (Self::HeldOut, [text]) => vec![part(text, text.tokens.len() / 2..text.tokens.len())],
            (Self::Tuned, [text, ..]) => vec![part(text, 0..text.tokens.len())],
            (Self::HeldOut, [_, rest @ ..]) => rest.iter().map(|t| part(t, 0..t.tokens.len())).collect(),
        }
    }

    /// Every window of `length` tokens, in the order in which they are to be used.
    pub fn windows(self, texts: &[Source], length: usize) -> Vec<Window<'_>> {
        let mut queues: Vec<_> = self.parts(texts).into_iter().map(|part| ordered(part, length)).collect();
        let mut windows = Vec::new();
        while queues.iter().any(|queue| queue.len() > 0) {
            windows.extend(queues.iter_mut().filter_map(Iterator::next));
        }
        windows
    }

    /// The first `count` windows.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there are fewer.
    pub fn some_windows(self, texts: &[Source], length: usize, count: usize) -> Result<Vec<Window<'_>>> {
        let mut windows = self.windows(texts, length);
        if windows.len() < count {
            let names: Vec<_> = self
                .parts(texts)
                .iter()
                .map(|p| format!("{} tokens of {}", p.tokens.len(), p.name))
                .collect();
            return Err(Error::Invalid(format!(
                "{count} windows of {length} tokens need more {self} text than {}; give longer texts, or fewer --windows",
                names.join(" and ")
            )));
        }
        windows.truncate(count);
        Ok(windows)
    }
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tuned => "tuned",
            Self::HeldOut => "held-out",
        })
    }
}

fn part(text: &Source, range: std::ops::Range<usize>) -> Window<'_> {
    Window { name: &text.name, start: range.start, tokens: &text.tokens[range] }
}

/// A part's windows: every second one, then the others, the first one last.
fn ordered(part: Window<'_>, length: usize) -> std::vec::IntoIter<Window<'_>> {
    let count = part.tokens.len() / length;
    let order = (1..count).step_by(2).chain((2..count).step_by(2)).chain((count > 0).then_some(0));
    let window = |i: usize| Window {
        name: part.name,
        start: part.start + i * length,
        tokens: &part.tokens[i * length..(i + 1) * length],
    };
    order.map(window).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, tokens: u32) -> Source {
        Source { name: name.to_owned(), tokens: (0..tokens).collect() }
    }

    fn starts(split: Split, texts: &[Source], length: usize) -> Vec<(&str, usize)> {
        split.windows(texts, length).iter().map(|w| (w.name, w.start)).collect()
    }

    #[test]
    fn the_first_text_is_tuned_on_and_the_others_take_turns() {
        let texts = [source("a", 5999), source("b", 4000), source("c", 2999)];
        let tuned = starts(Split::Tuned, &texts, 1000);
        assert_eq!(tuned, [("a", 1000), ("a", 3000), ("a", 2000), ("a", 4000), ("a", 0)]);
        let held_out = starts(Split::HeldOut, &texts, 1000);
        assert_eq!(held_out, [("b", 1000), ("c", 1000), ("b", 3000), ("c", 0), ("b", 2000), ("b", 0)]);
    }

    #[test]
    fn a_single_text_is_cut_in_the_middle() {
        let texts = [source("a", 801)];
        assert_eq!(starts(Split::Tuned, &texts, 100), [100, 300, 200, 0].map(|start| ("a", start)));
        assert_eq!(starts(Split::HeldOut, &texts, 100), [500, 700, 600, 400].map(|start| ("a", start)));
        let windows = Split::HeldOut.some_windows(&texts, 100, 1).unwrap();
        assert_eq!((windows.len(), windows[0].tokens[0], windows[0].tokens.len()), (1, 500, 100));
    }

    #[test]
    fn too_little_text_is_told_with_its_numbers() {
        let texts = [source("a", 250), source("b", 90)];
        let error = Split::HeldOut.some_windows(&texts, 100, 1).unwrap_err().to_string();
        assert!(error.contains("90 tokens of b") && error.contains("1 windows of 100"), "{error}");
        assert!(Split::HeldOut.some_windows(&texts, 100, 0).unwrap().is_empty());
    }
}
