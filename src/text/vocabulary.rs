//! A vocabulary as GGUF metadata states it, checked and turned into a [`Text`].

use tokenizers::AddedToken;

use super::{STOP_NAMES, Text, bpe, pieces::Pieces, spm, template::Template};
use crate::{Error, Result};

/// GGUF's token types, of which these are told apart.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// The `tokenizer.*` metadata of a GGUF file. An absent list is empty.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// `tokenizer.ggml.model`: "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE).
    pub model: String,
    /// `tokenizer.ggml.pre`: the family whose way of cutting words a "gpt2" vocabulary follows; absent or
    /// unknown means GPT-2's own.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`, by id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`, by id: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub types: Vec<i32>,
    /// `tokenizer.ggml.scores`, by id: log probabilities, for "llama".
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.merges`, best first, two tokens with a space between, for "gpt2".
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`; absent, the family decides.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`, for "llama", where absent means yes.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`, in Jinja.
    pub chat_template: Option<String>,
}

impl Text {
    /// Builds the tokenizer that the metadata of a GGUF file describes.
    ///
    /// # Errors
    /// [`Error::Text`] when the lists contradict each other, an id lies outside them, the model is of an
    /// unknown kind, or the chat template has a syntax error.
    pub fn from_vocabulary(vocabulary: Vocabulary) -> Result<Self> {
        vocabulary.check()?;
        let (mut tokenizer, piece, strips_space): (_, fn(&str) -> Vec<u8>, _) = match &*vocabulary.model {
            "gpt2" => (bpe::tokenizer(&vocabulary)?, bpe::piece, false),
            "llama" => (spm::tokenizer(&vocabulary)?, spm::piece, spm::adds_space(&vocabulary)),
            other => {
                return Err(Error::Text(format!(
                    "the vocabulary is of kind '{other}'; supported are 'gpt2' and 'llama'"
                )));
            }
        };
        tokenizer.add_tokens(&vocabulary.added_tokens());

        let mut pieces = Pieces::new(strips_space);
        for (id, token) in vocabulary.tokens.iter().enumerate() {
            match vocabulary.kind(id) {
                CONTROL | UNKNOWN => pieces.push([]),
                USER_DEFINED => pieces.push(token.bytes()),
                _ => pieces.push(piece(token)),
            }
        }
        let template = match &vocabulary.chat_template {
            Some(source) => Some(Template::new(source, &vocabulary.special_tokens())?),
            None => None,
        };
        let opening = vocabulary.bos.filter(|_| vocabulary.adds_bos());
        Ok(Self::assemble(tokenizer, pieces, opening, vocabulary.stops(), template))
    }
}

impl Vocabulary {
    fn check(&self) -> Result<()> {
        let count = self.tokens.len();
        if count == 0 {
            return Err(Error::Text("the vocabulary has no tokens".to_owned()));
        }
        let scores_needed = self.model == "llama";
        for (name, found, needed) in
            [("token types", self.types.len(), false), ("scores", self.scores.len(), scores_needed)]
        {
            if found != count && (found != 0 || needed) {
                return Err(Error::Text(format!("there are {count} tokens but {found} {name}")));
            }
        }
        let ids =
            [("bos", self.bos), ("eos", self.eos), ("eot", self.eot), ("unk", self.unk), ("pad", self.pad)];
        for (name, id) in ids {
            if let Some(id) = id.filter(|_| self.token(id).is_none()) {
                return Err(Error::Text(format!(
                    "the {name} token has id {id}, but the vocabulary has {count} tokens"
                )));
            }
        }
        Ok(())
    }

    /// The token called `id`, if there is one.
    pub(super) fn token(&self, id: Option<u32>) -> Option<&str> {
        self.tokens.get(id? as usize).map(String::as_str)
    }

    fn kind(&self, id: usize) -> i32 {
        self.types.get(id).copied().unwrap_or(NORMAL)
    }

    /// Whether `id` is plain text: not a control, byte, or otherwise reserved token.
    pub(super) fn is_ordinary(&self, id: usize) -> bool {
        self.kind(id) == NORMAL
    }

    /// The tokens that are cut out of a text before anything else looks at it.
    fn added_tokens(&self) -> Vec<AddedToken> {
        let tokens = self.tokens.iter().enumerate();
        tokens
            .filter_map(|(id, token)| match self.kind(id) {
                CONTROL | UNKNOWN => Some(AddedToken::from(token, true)),
                USER_DEFINED => Some(AddedToken::from(token, false).normalized(false)),
                _ => None,
            })
            .collect()
    }

    fn adds_bos(&self) -> bool {
        self.add_bos.unwrap_or_else(|| self.model == "llama" || bpe::adds_bos(self.pre.as_deref()))
    }

    fn stops(&self) -> Vec<u32> {
        let named = (0..)
            .zip(&self.tokens)
            .filter(|(id, token)| self.kind(*id as usize) == CONTROL && STOP_NAMES.contains(&token.as_str()));
        named.map(|(id, _)| id).chain(self.eos).chain(self.eot).collect()
    }

    /// The variables under which templates know the special tokens.
    fn special_tokens(&self) -> Vec<(&'static str, String)> {
        let ids = [
            ("bos_token", self.bos),
            ("eos_token", self.eos),
            ("unk_token", self.unk),
            ("pad_token", self.pad),
        ];
        let text = |id| self.token(id).unwrap_or_default().to_owned();
        ids.into_iter().map(|(name, id)| (name, text(id))).collect()
    }
}
