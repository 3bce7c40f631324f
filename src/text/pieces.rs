//! The table behind decoding: the bytes that each token id stands for.
//!
//! ```text
//! bytes  T h e ␠ c a t E2 96 …      all pieces, one after the other
//! ends   3 7 7 8 …                  where piece i stops; a control token is empty
//! ```

use crate::{Error, Result};

/// The bytes of every token.
pub(super) struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    strips_space: bool,
}

impl Pieces {
    /// An empty table; `strips_space` says that a text's first space was added by the encoder.
    pub(super) fn new(strips_space: bool) -> Self {
        Self { bytes: Vec::new(), ends: Vec::new(), strips_space }
    }

    /// Appends the next id's bytes.
    pub(super) fn push(&mut self, piece: impl IntoIterator<Item = u8>) {
        self.bytes.extend(piece);
        self.ends.push(self.bytes.len());
    }

    /// The bytes of `id`.
    pub(super) fn get(&self, id: u32) -> Result<&[u8]> {
        let at = id as usize;
        let piece = self.ends.get(at).and_then(|&end| {
            let start = at.checked_sub(1).and_then(|before| self.ends.get(before));
            self.bytes.get(start.copied().unwrap_or(0)..end)
        });
        piece.ok_or_else(|| {
            Error::Text(format!("token id {id} is outside the vocabulary of {} tokens", self.len()))
        })
    }

    /// The number of ids.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether the first space of a text is to be dropped.
    pub(super) fn strips_space(&self) -> bool {
        self.strips_space
    }
}
