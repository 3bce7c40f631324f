//! Text in and out: the chat template, the tokenizer, and the way back from token ids to text.
//!
//! ```text
//! messages ─ template ─► prompt text ─ added tokens cut out ─► rest ─ normalise, split, merge ─► ids
//! ids ─ piece table (bytes of each id) ─► bytes ─ UTF-8, unfinished tail held back ─► text
//! ```
//!
//! A [`Text`] is built from a GGUF vocabulary ([`Text::from_vocabulary`]) or from the files of a Hugging
//! Face repository ([`Text::from_files`]); from there on nobody can tell which. Encoding is done by the
//! `tokenizers` crate. Decoding is a table of bytes, so that one token at a time and all at once agree.

mod bpe;
#[cfg(not(target_arch = "wasm32"))]
mod clock;
mod files;
mod names;
mod pieces;
mod spm;
mod stops;
mod stream;
mod template;
mod vocabulary;
mod words;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokenizers::{AddedVocabulary, Model, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer};

pub use files::TextFiles;
pub use stream::TokenStream;
pub use vocabulary::Vocabulary;

use crate::{Error, Result};
use names::Names;
use pieces::Pieces;
use template::Template;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: "system", "user", "assistant", or whatever else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// An instruction that precedes the conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// A turn of the person.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// A turn of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.to_owned(), content: content.into() }
    }
}

/// What becomes of the name of a control token, such as `<|im_end|>`, inside a text to encode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// It becomes the control token.
    Parse,
    /// It is text like any other.
    AsText,
}

/// A model's tokenizer and chat template. Immutable, and shared between threads freely.
pub struct Text {
    tokenizer: Tokenizer,
    /// The tokenizer's added tokens again, set to leave control tokens alone ([`Special::AsText`]).
    literal: AddedVocabulary,
    pieces: Arc<Pieces>,
    /// The tokens that open every prompt, where the model wants any.
    opening: Vec<u32>,
    /// Sorted, without repetition.
    stops: Vec<u32>,
    template: Option<Template>,
    /// What control tokens are called.
    names: Names,
    notes: Vec<String>,
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Text").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

impl Text {
    /// Puts the parts together; `stops` in any order.
    fn assemble(
        tokenizer: Tokenizer,
        pieces: Pieces,
        opening: Vec<u32>,
        mut stops: Vec<u32>,
        template: Option<Template>,
        notes: Vec<String>,
    ) -> Self {
        let mut literal = tokenizer.get_added_vocabulary().clone();
        literal.set_encode_special_tokens(true);
        stops.sort_unstable();
        stops.dedup();
        let names = Names::new(&tokenizer);
        Self { tokenizer, literal, pieces: Arc::new(pieces), opening, stops, template, names, notes }
    }

    /// What a person should know of this text: what the model's files leave open or ask for in vain.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Adds to the notes.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// The ids of `text`, without an opening token.
    ///
    /// # Errors
    /// [`Error::Text`] when the tokenizer has no token for a part of it and none for the unknown.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        self.encode_marked(text, special, None)
    }

    /// The same of a text in which a mark keeps control tokens from being seen; it is no part of the text.
    fn encode_marked(&self, text: &str, special: Special, mark: Option<char>) -> Result<Vec<u32>> {
        let added = match special {
            Special::Parse => self.tokenizer.get_added_vocabulary(),
            Special::AsText => &self.literal,
        };
        let mut split = added.extract_and_normalize(self.tokenizer.get_normalizer(), text);
        let unmarked = mark.map_or(Ok(()), |mark| split.normalize(|part| part.replace(mark, "")));
        unmarked
            .and_then(|()| self.tokenize(split))
            .map_err(|error| Error::Text(format!("cannot encode the text: {error}")))
    }

    fn tokenize(&self, mut split: PreTokenizedString) -> tokenizers::Result<Vec<u32>> {
        if let Some(splitter) = self.tokenizer.get_pre_tokenizer() {
            splitter.pre_tokenize(&mut split)?;
        }
        split.tokenize(|part| {
            let tokens = self.tokenizer.get_model().tokenize(part.get())?;
            // What the vocabulary has no token for, the crate leaves out.
            let covered: usize = tokens.iter().map(|token| token.offsets.1 - token.offsets.0).sum();
            if covered < part.get().len() {
                let text = part.get_original();
                return Err(
                    format!("the vocabulary has no token for a part of '{text}'; leave that out").into()
                );
            }
            Ok(tokens)
        })?;
        Ok(split.into_encoding(None, 0, OffsetType::None)?.get_ids().to_vec())
    }

    /// The ids of a conversation that awaits the model's answer, through the chat template.
    ///
    /// Names of control tokens that the template writes are parsed; inside a message they are text, so that nobody ends
    /// a turn by its name.
    ///
    /// # Errors
    /// [`Error::Text`] as for [`Text::render`] and [`Text::encode`].
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let (messages, mark) = self.names.guard(messages)?;
        Ok(self.open(self.encode_marked(&self.render(&messages, true)?, Special::Parse, mark)?))
    }

    /// The ids of a text to be continued: control tokens parsed, and opened with the tokens that the model wants there
    /// (beginning-of-sequence, mostly) if the text does not begin with them already.
    ///
    /// # Errors
    /// [`Error::Text`] as for [`Text::encode`].
    pub fn raw_prompt(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.open(self.encode(text, Special::Parse)?))
    }

    fn open(&self, ids: Vec<u32>) -> Vec<u32> {
        if ids.starts_with(&self.opening) { ids } else { [&self.opening[..], &ids].concat() }
    }

    /// The conversation as the one text that the model was trained on; `add_generation_prompt` appends the
    /// words that open the model's turn.
    ///
    /// # Errors
    /// [`Error::Text`] when there is no template, or the template fails or refuses the conversation.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let template = self.template.as_ref().ok_or_else(|| {
            Error::Text("the model has no chat template; give it a raw prompt instead".to_owned())
        })?;
        template.render(messages, add_generation_prompt)
    }

    /// Whether [`Text::prompt`] can work: base models have no chat template.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// The text of `ids`. Control tokens show as nothing, bytes that are not UTF-8 as U+FFFD.
    ///
    /// # Errors
    /// [`Error::Text`] for an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut bytes = Vec::with_capacity(4 * ids.len());
        for &id in ids {
            bytes.extend_from_slice(self.pieces.get(id)?);
        }
        if self.pieces.strips_space() && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// One token for people to read: its text, or the name of a control token.
    ///
    /// # Errors
    /// [`Error::Text`] for an id outside the vocabulary.
    pub fn label(&self, id: u32) -> Result<String> {
        let text = String::from_utf8_lossy(self.pieces.get(id)?).into_owned();
        Ok(if text.is_empty() { self.tokenizer.id_to_token(id).unwrap_or_default() } else { text })
    }

    /// A decoder for ids that arrive one at a time and begin a text, such as an answer in a chat.
    pub fn stream(&self) -> TokenStream {
        TokenStream::new(Arc::clone(&self.pieces), self.pieces.strips_space())
    }

    /// Like [`Text::stream`] for ids that go on with a text: a leading space stays.
    pub fn stream_continued(&self) -> TokenStream {
        TokenStream::new(Arc::clone(&self.pieces), false)
    }

    /// Whether the model says with this token that it has finished.
    pub fn is_stop(&self, id: u32) -> bool {
        self.stops.binary_search(&id).is_ok()
    }

    /// The tokens with which the model says that it has finished, ascending.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stops
    }

    /// One more than the highest token id. The rows of a model's output may be more: some are padded.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }
}
