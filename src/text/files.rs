//! A [`Text`] from the files of a Hugging Face repository.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::Tokenizer;

use super::{STOP_NAMES, Text, bpe, pieces::Pieces, spm, template::Template};
use crate::{Error, Result};

/// More ids than any model has; a greater one in a file is a fault, and would cost memory.
const MOST_TOKENS: usize = 1 << 24;

/// The part of `tokenizer_config.json` that matters here.
#[derive(Default, Deserialize)]
struct TokenizerConfig {
    bos_token: Option<Value>,
    eos_token: Option<Value>,
    unk_token: Option<Value>,
    pad_token: Option<Value>,
    add_bos_token: Option<bool>,
    chat_template: Option<Value>,
}

/// The part of `generation_config.json` that matters here.
#[derive(Default, Deserialize)]
struct GenerationConfig {
    eos_token_id: Option<OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl Text {
    /// Builds a tokenizer from the contents of `tokenizer.json` and, where there are such files,
    /// `tokenizer_config.json`, `generation_config.json` and `chat_template.jinja`.
    ///
    /// # Errors
    /// [`Error::Text`] when a file is not what its name says, the tokenizer decodes neither byte-level nor
    /// SentencePiece tokens, or the chat template has a syntax error.
    pub fn from_files(
        tokenizer_json: &[u8],
        tokenizer_config: Option<&[u8]>,
        generation_config: Option<&[u8]>,
        chat_template_jinja: Option<&[u8]>,
    ) -> Result<Self> {
        let tokenizer = Tokenizer::from_bytes(tokenizer_json)
            .map_err(|error| Error::Text(format!("tokenizer.json cannot be read: {error}")))?;
        let config: TokenizerConfig = json("tokenizer_config.json", tokenizer_config)?;
        let generation: GenerationConfig = json("generation_config.json", generation_config)?;

        let pieces = pieces(&tokenizer)?;
        let id = |name: &Option<Value>| tokenizer.token_to_id(token_name(name.as_ref()?)?);
        let special = |name: &&str| {
            let id = tokenizer.token_to_id(name)?;
            tokenizer.get_added_vocabulary().is_special_token(name).then_some(id)
        };
        let declared = match generation.eos_token_id {
            Some(OneOrMany::One(id)) => vec![id],
            Some(OneOrMany::Many(ids)) => ids,
            None => Vec::new(),
        };
        let stops: Vec<u32> =
            STOP_NAMES.iter().filter_map(special).chain(id(&config.eos_token)).chain(declared).collect();

        let opening = match config.add_bos_token {
            Some(adds) => id(&config.bos_token).filter(|_| adds),
            None => first_token(&tokenizer)?.filter(|&first| Some(first) == id(&config.bos_token)),
        };
        let source = match chat_template_jinja {
            Some(bytes) => Some(utf8("chat_template.jinja", bytes)?),
            None => config.chat_template.as_ref().and_then(default_template),
        };
        let template = match source {
            Some(source) => Some(Template::new(source, &config.special_tokens())?),
            None => None,
        };
        Ok(Self::assemble(tokenizer, pieces, opening, stops, template))
    }
}

impl TokenizerConfig {
    /// The variables under which templates know the special tokens.
    fn special_tokens(&self) -> Vec<(&'static str, String)> {
        let names = [
            ("bos_token", &self.bos_token),
            ("eos_token", &self.eos_token),
            ("unk_token", &self.unk_token),
            ("pad_token", &self.pad_token),
        ];
        let text = |name: &Option<Value>| name.as_ref().and_then(token_name).unwrap_or_default().to_owned();
        names.into_iter().map(|(variable, name)| (variable, text(name))).collect()
    }
}

fn json<T: DeserializeOwned + Default>(file: &str, bytes: Option<&[u8]>) -> Result<T> {
    let Some(bytes) = bytes else { return Ok(T::default()) };
    serde_json::from_slice(bytes).map_err(|error| Error::Text(format!("{file} cannot be read: {error}")))
}

fn utf8<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|error| Error::Text(format!("{file} is not UTF-8: {error}")))
}

/// A special token is written as its text, or as an object with the text in `content`.
fn token_name(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A template is written as its text, or as a list of named ones of which "default" is for chats.
fn default_template(value: &Value) -> Option<&str> {
    let named = || value.as_array()?.iter().find(|entry| entry["name"] == "default")?["template"].as_str();
    value.as_str().or_else(named)
}

/// What the post-processor puts before an empty text.
fn first_token(tokenizer: &Tokenizer) -> Result<Option<u32>> {
    let encoding = tokenizer
        .encode_fast("", true)
        .map_err(|error| Error::Text(format!("tokenizer.json cannot encode an empty text: {error}")))?;
    Ok(encoding.get_ids().first().copied())
}

/// The bytes of each id, by the kind of the decoder; ids that the file leaves out are empty.
fn pieces(tokenizer: &Tokenizer) -> Result<Pieces> {
    let decoder = serde_json::to_value(tokenizer.get_decoder())
        .map_err(|error| Error::Text(format!("the decoder in tokenizer.json cannot be read: {error}")))?;
    let steps = decoder["decoders"].as_array().cloned().unwrap_or_else(|| vec![decoder.clone()]);
    let kinds: BTreeSet<&str> = steps.iter().filter_map(|step| step["type"].as_str()).collect();
    let piece: fn(&str) -> Vec<u8> = if kinds.contains("ByteLevel") {
        bpe::piece
    } else if kinds.contains("ByteFallback") || kinds.contains("Metaspace") {
        spm::piece
    } else {
        return Err(Error::Text(format!(
            "the decoder in tokenizer.json is {kinds:?}; supported are ByteLevel, ByteFallback and Metaspace"
        )));
    };

    let mut tokens: Vec<(u32, String)> =
        tokenizer.get_vocab(true).into_iter().map(|(t, id)| (id, t)).collect();
    tokens.sort_unstable();
    tokens.dedup_by_key(|(id, _)| *id);
    let count = tokens.last().map_or(0, |(id, _)| *id as usize + 1);
    if count == 0 || count > MOST_TOKENS {
        return Err(Error::Text(format!(
            "tokenizer.json has {count} token ids; 1 to {MOST_TOKENS} are supported"
        )));
    }
    let added = tokenizer.get_added_tokens_decoder();
    let mut pieces = Pieces::new(steps.iter().any(drops_first_space));
    for (id, token) in tokens {
        while pieces.len() < id as usize {
            pieces.push([]);
        }
        let special = added.get(&id).is_some_and(|token| token.special);
        pieces.push(if special { Vec::new() } else { piece(&token) });
    }
    Ok(pieces)
}

/// Whether a decoder step takes away the space that the encoder put before the text.
fn drops_first_space(step: &Value) -> bool {
    match step["type"].as_str() {
        Some("Strip") => step["content"] == " " && step["start"] != 0,
        Some("Metaspace") => step["prepend_scheme"] != "never",
        _ => false,
    }
}
