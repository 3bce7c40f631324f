//! Decoding one token at a time: a character may be spread over several tokens, and is held back until
//! its last byte is there.

use std::{str, sync::Arc};

use super::pieces::Pieces;
use crate::Result;

/// Turns token ids into text as they arrive. All that [`push`](Self::push) and [`finish`](Self::finish)
/// return, strung together, is what [`Text::decode`](super::Text::decode) makes of all the ids.
///
/// It owns what it needs, so it can be stored beside the session that feeds it.
pub struct TokenStream {
    pieces: Arc<Pieces>,
    /// The beginning of a character, at most three bytes between calls.
    pending: Vec<u8>,
    /// Nothing has been said yet, and a space would be the encoder's own.
    strip_space: bool,
}

impl TokenStream {
    pub(super) fn new(pieces: Arc<Pieces>, strip_space: bool) -> Self {
        Self { pieces, pending: Vec::new(), strip_space }
    }

    /// The text that `id` completes; often nothing, sometimes several characters.
    ///
    /// # Errors
    /// [`Error::Text`](crate::Error::Text) for an id outside the vocabulary; the stream stays usable.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let piece = self.pieces.get(id)?;
        let stripped = if self.strip_space { piece.strip_prefix(b" ") } else { None };
        self.strip_space &= piece.is_empty();
        self.pending.extend_from_slice(stripped.unwrap_or(piece));

        let (text, held) = complete(&self.pending);
        self.pending.drain(..self.pending.len() - held);
        Ok(text)
    }

    /// What is left when no more tokens come: nothing, or one U+FFFD for a character cut short.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// The text of `bytes`, each invalid sequence as one U+FFFD, and the length of an unfinished character
/// at the end that more bytes could still complete.
fn complete(mut bytes: &[u8]) -> (String, usize) {
    let mut text = String::new();
    loop {
        let error = match str::from_utf8(bytes) {
            Ok(rest) => {
                text.push_str(rest);
                return (text, 0);
            }
            Err(error) => error,
        };
        let (valid, rest) = bytes.split_at(error.valid_up_to());
        text.push_str(&String::from_utf8_lossy(valid));
        let Some(invalid) = error.error_len() else { return (text, rest.len()) };
        text.push(char::REPLACEMENT_CHARACTER);
        bytes = &rest[invalid..];
    }
}
