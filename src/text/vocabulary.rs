//! A vocabulary as GGUF metadata states it, checked and turned into a [`Text`].

use std::collections::{HashMap, HashSet};

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{AddedToken, Tokenizer};

use super::{Text, bpe, pieces::Pieces, spm, stops, template::Template, words};
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
    /// `tokenizer.ggml.pre`: the family whose way of cutting words a "gpt2" vocabulary follows; absent means
    /// llama.cpp's default, unknown means GPT-2's own, and [`Text::notes`] say so.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`, by id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`, by id: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub types: Vec<i32>,
    /// `tokenizer.ggml.scores`, by id: log probabilities, for "llama".
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.merges`, best first, two tokens with a space between, for "gpt2".
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`; absent, these ids are llama.cpp's defaults.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// Other tokens that end an answer: `tokenizer.ggml.eot_token_id`, `eom_token_id`, and those after which a model
    /// that fills gaps in code begins another file.
    pub ends: Vec<u32>,
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

/// What llama.cpp takes for ids that a file does not state.
struct Defaults {
    model: &'static str,
    bos: Option<u32>,
    eos: Option<u32>,
    unk: Option<u32>,
}

const DEFAULTS: [Defaults; 2] = [
    Defaults { model: "llama", bos: Some(1), eos: Some(2), unk: Some(0) },
    Defaults { model: "gpt2", bos: Some(11), eos: Some(11), unk: None },
];

impl Text {
    /// Builds the tokenizer that the metadata of a GGUF file describes.
    ///
    /// # Errors
    /// [`Error::Text`] when the lists contradict each other, an id that is needed lies outside them, the model is of an
    /// unknown kind, or the chat template has a syntax error.
    pub fn from_vocabulary(mut vocabulary: Vocabulary) -> Result<Self> {
        vocabulary.complete();
        vocabulary.check()?;
        let mut notes = Vec::new();
        let (mut tokenizer, piece, strips_space): (_, fn(&str) -> Vec<u8>, _) = match &*vocabulary.model {
            "gpt2" => {
                let (family, note) = words::family(vocabulary.pre.as_deref());
                notes.extend(note);
                (bpe::tokenizer(&vocabulary, family)?, bpe::piece, false)
            }
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
        let opening = vocabulary.bos.filter(|_| vocabulary.adds_bos()).into_iter().collect();
        Ok(Self::assemble(tokenizer, pieces, opening, vocabulary.stops(), template, notes))
    }

    /// The text of a model that has none: tokens that only have numbers, of which none ends an answer.
    pub(crate) fn numbered(tokens: usize) -> Result<Self> {
        let names: Vec<String> = (0..tokens).map(|id| format!("<{id}>")).collect();
        let mut pieces = Pieces::new(false);
        names.iter().for_each(|name| pieces.push(name.bytes()));
        let model =
            BPE::builder().vocab_and_merges(names.into_iter().zip(0..).collect::<Vocab>(), Vec::new());
        let model =
            model.build().map_err(|error| Error::Text(format!("numbers make no tokenizer: {error}")))?;
        Ok(Self::assemble(Tokenizer::new(model), pieces, Vec::new(), Vec::new(), None, Vec::new()))
    }
}

impl Vocabulary {
    /// Puts defaults in the place of ids that are not stated, and the right type in that of control tokens that a file
    /// takes for text.
    fn complete(&mut self) {
        let count = self.tokens.len();
        let inside = |id: &u32| (*id as usize) < count;
        if let Some(defaults) = DEFAULTS.iter().find(|defaults| defaults.model == self.model) {
            // No text needs a token of an id that is not there.
            self.unk = self.unk.filter(inside).or(defaults.unk.filter(inside));
            self.bos = self.bos.or(defaults.bos.filter(inside));
            self.eos = self.eos.or(defaults.eos.filter(inside));
        }
        self.pad = self.pad.filter(inside);
        if self.types.is_empty() {
            self.types = vec![NORMAL; count];
        }
        let tokens: HashSet<&str> = self.tokens.iter().map(String::as_str).collect();
        let has = |name: &str| tokens.contains(name);
        for (token, kind) in
            self.tokens.iter().zip(&mut self.types).filter(|(token, _)| stops::is_control(token))
        {
            *kind = if stops::taken_back(token, has) { USER_DEFINED } else { CONTROL };
        }
    }

    fn check(&self) -> Result<()> {
        let refuse = |reason: String| Err(Error::Text(reason));
        let count = self.tokens.len();
        if count == 0 {
            return refuse("the vocabulary has no tokens".to_owned());
        }
        let scores_needed = self.model == "llama";
        for (name, found, needed) in
            [("token types", self.types.len(), true), ("scores", self.scores.len(), scores_needed)]
        {
            if found < count && (found != 0 || needed) {
                return refuse(format!("there are {count} tokens but {found} {name}"));
            }
        }
        let mut seen = HashMap::new();
        // Several may be empty, or damaged alike.
        let told_apart = |token: &&str| !token.is_empty() && !token.contains(char::REPLACEMENT_CHARACTER);
        for (id, token) in self.tokens.iter().map(String::as_str).enumerate().filter(|(_, t)| told_apart(t)) {
            if let Some(other) = seen.insert(token, id) {
                return refuse(format!("tokens {other} and {id} are both '{token}'"));
            }
        }
        let bos = self.bos.filter(|_| self.adds_bos());
        let ends = self.ends.iter().map(|&id| ("end", Some(id)));
        for (name, id) in [("bos", bos), ("eos", self.eos)].into_iter().chain(ends) {
            if let Some(id) = id.filter(|&id| self.token(Some(id)).is_none()) {
                return refuse(format!(
                    "the {name} token has id {id}, but the vocabulary has {count} tokens"
                ));
            }
        }
        if self.add_bos == Some(true) && self.bos.is_none() {
            return refuse(
                "'tokenizer.ggml.add_bos_token' is true, but no 'bos_token_id' is stated".to_owned(),
            );
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
        let family = || words::family(self.pre.as_deref()).0;
        self.add_bos.unwrap_or_else(|| self.model == "llama" || family().add_bos)
    }

    fn stops(&self) -> Vec<u32> {
        let tokens: HashSet<&str> = self.tokens.iter().map(String::as_str).collect();
        let names = stops::names(|name| tokens.contains(name));
        let named = (0..).zip(&self.tokens).filter(|(_, token)| names.contains(&token.as_str()));
        named.map(|(id, _)| id).chain(self.eos).chain(self.ends.iter().copied()).collect()
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
