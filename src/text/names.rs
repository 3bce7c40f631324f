//! The names of control tokens inside what somebody says, which are text there and no control tokens.
//!
//! A template puts messages between the names that it writes itself. So that the two can be told apart afterwards, a
//! name inside a message gets a mark behind its first character, which no name has, and which leaves the text again
//! when the names are cut out of it.

use std::collections::HashMap;

use tokenizers::Tokenizer;

use super::Message;
use crate::{Error, Result};

/// Characters that Unicode promises never to assign; one that nobody uses is the mark.
const MARKS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// The names of all control tokens, by their first characters.
pub(super) struct Names(HashMap<char, Vec<String>>);

impl Names {
    /// The names that a tokenizer knows.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let mut names = HashMap::<char, Vec<String>>::new();
        let vocabulary = tokenizer.get_added_vocabulary();
        let added = tokenizer.get_added_tokens_decoder().into_values();
        for token in added.filter(|token| vocabulary.is_special_token(&token.content)) {
            if let Some(first) = token.content.chars().next() {
                names.entry(first).or_default().push(token.content);
            }
        }
        Self(names)
    }

    /// The messages with a mark in each name, and the mark; as they are, and no mark, where there is no name.
    ///
    /// # Errors
    /// [`Error::Text`] if the messages use every character that could be the mark.
    pub fn guard(&self, messages: &[Message]) -> Result<(Vec<Message>, Option<char>)> {
        let texts = || messages.iter().flat_map(|message| [&message.role, &message.content]);
        if !texts().any(|text| text.char_indices().any(|(at, c)| self.begins(c, &text[at..]))) {
            return Ok((messages.to_vec(), None));
        }
        let Some(mark) = MARKS.into_iter().find(|mark| !texts().any(|text| text.contains(*mark))) else {
            return Err(Error::Text(
                "the messages have all of U+FDD0 to U+FDEF in them, which stand for no character; leave out one"
                    .to_owned(),
            ));
        };
        let guarded = |text: &str| {
            let mut out = String::with_capacity(text.len());
            for (at, c) in text.char_indices() {
                out.push(c);
                if self.begins(c, &text[at..]) {
                    out.push(mark);
                }
            }
            out
        };
        let message = |message: &Message| Message::new(&guarded(&message.role), guarded(&message.content));
        Ok((messages.iter().map(message).collect(), Some(mark)))
    }

    /// True if a text that begins with `first` begins with a name.
    fn begins(&self, first: char, text: &str) -> bool {
        self.0.get(&first).is_some_and(|names| names.iter().any(|name| text.starts_with(name.as_str())))
    }
}
