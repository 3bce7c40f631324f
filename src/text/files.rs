//! A [`Text`] from the files of a Hugging Face repository.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer};

use super::{Text, bpe, pieces::Pieces, spm, stops, template::Template};
use crate::{Error, Result};

/// More ids than any model has; a greater one in a file is a fault, and would cost memory.
const MOST_TOKENS: usize = 1 << 24;

/// The contents of the files of a repository that say how text becomes tokens; all but the first may be absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextFiles<'a> {
    /// `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `config.json`.
    pub config: Option<&'a [u8]>,
    /// `generation_config.json`.
    pub generation_config: Option<&'a [u8]>,
    /// `chat_template.jinja`.
    pub chat_template: Option<&'a [u8]>,
}

/// The names of special tokens, as `tokenizer_config.json` and `special_tokens_map.json` state them.
#[derive(Default, Deserialize)]
struct SpecialTokens {
    bos_token: Option<Value>,
    eos_token: Option<Value>,
    unk_token: Option<Value>,
    pad_token: Option<Value>,
    additional_special_tokens: Option<Vec<Value>>,
}

/// The part of `tokenizer_config.json` that matters here.
#[derive(Default, Deserialize)]
struct TokenizerConfig {
    #[serde(flatten)]
    names: SpecialTokens,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    /// By their ids, which are texts in JSON.
    added_tokens_decoder: Option<BTreeMap<String, Value>>,
    chat_template: Option<Value>,
}

/// The part of `config.json` and of `generation_config.json` that matters here.
#[derive(Default, Deserialize)]
struct Ids {
    bos_token_id: Option<Value>,
    eos_token_id: Option<Value>,
}

impl Text {
    /// Builds a tokenizer from the files of a repository.
    ///
    /// # Errors
    /// [`Error::Text`] when a file is not what its name says, the tokenizer decodes neither byte-level nor
    /// SentencePiece tokens, or the chat template has a syntax error.
    pub fn from_files(files: &TextFiles<'_>) -> Result<Self> {
        let mut tokenizer = Tokenizer::from_bytes(files.tokenizer)
            .map_err(|error| Error::Text(format!("tokenizer.json cannot be read: {error}")))?;
        // A text is as long as it is.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| Error::Text(error.to_string()))?;
        let mut config: TokenizerConfig = json("tokenizer_config.json", files.tokenizer_config)?;
        config.names.complete(json("special_tokens_map.json", files.special_tokens_map)?);
        let generation: Ids = json("generation_config.json", files.generation_config)?;
        let model: Ids = json("config.json", files.config)?;

        config.mark_special(&mut tokenizer)?;
        let pieces = pieces(&tokenizer)?;
        let id = |name: &Option<Value>| tokenizer.token_to_id(token_name(name.as_ref()?)?);
        let named = stops::names(|name| tokenizer.token_to_id(name).is_some());
        let mut stated = ids("generation_config.json", &generation.eos_token_id)?;
        stated.extend(ids("config.json", &model.eos_token_id)?);
        let stops: Vec<u32> = named
            .into_iter()
            .filter_map(|name| tokenizer.token_to_id(name))
            .chain(id(&config.names.eos_token))
            .chain(stated)
            .collect();

        let bos = match id(&config.names.bos_token) {
            Some(bos) => Some(bos),
            None => ids("config.json", &model.bos_token_id)?.first().copied(),
        };
        let (before, after) = surroundings(&tokenizer)?;
        let mut notes = Vec::new();
        let opening = match config.add_bos_token {
            Some(adds) => bos.filter(|_| adds).into_iter().collect(),
            None => before,
        };
        if config.add_eos_token == Some(true) || (config.add_eos_token.is_none() && !after.is_empty()) {
            notes.push(
                "the tokenizer would end each text with a token of its own; prompts are there to be continued, so it \
                 is left out"
                    .to_owned(),
            );
        }
        let source = match files.chat_template {
            Some(bytes) => Some(utf8("chat_template.jinja", bytes)?),
            None => config.chat_template.as_ref().and_then(default_template),
        };
        let template = match source {
            Some(source) => Some(Template::new(source, &config.names.variables())?),
            None => None,
        };
        Ok(Self::assemble(tokenizer, pieces, opening, stops, template, notes))
    }
}

impl TokenizerConfig {
    /// Adds the tokens that these files state beside the tokenizer, and makes control tokens of those that are stated, or
    /// known, to be some.
    fn mark_special(&self, tokenizer: &mut Tokenizer) -> Result<()> {
        let decoder = self.added_tokens_decoder.iter().flatten();
        let numbered = decoder.map(|(id, token)| match (id.parse::<u32>(), token_name(token)) {
            (Ok(id), Some(name)) => Ok((id, name, token)),
            _ => Err(Error::Text(format!("tokenizer_config.json has an added token '{id}' that is {token}"))),
        });
        let mut numbered = numbered.collect::<Result<Vec<_>>>()?;
        numbered.sort_unstable_by_key(|(id, ..)| *id);
        for (id, name, token) in numbered {
            let flag = |flag: &str| token[flag] == true;
            let added = AddedToken::from(name, flag("special"))
                .single_word(flag("single_word"))
                .lstrip(flag("lstrip"))
                .rstrip(flag("rstrip"))
                .normalized(flag("normalized"));
            if added.special || tokenizer.token_to_id(name).is_none() {
                tokenizer.add_tokens(&[added]);
            }
            if tokenizer.token_to_id(name) != Some(id) {
                return Err(Error::Text(format!(
                    "tokenizer_config.json gives '{name}' the id {id}, but in tokenizer.json that is another's"
                )));
            }
        }
        let stated = self.names.all().filter(|name| tokenizer.token_to_id(name).is_some()).map(str::to_owned);
        let known = tokenizer.get_added_tokens_decoder().into_values().map(|token| token.content);
        let special: Vec<AddedToken> = known
            .filter(|name| stops::is_control(name))
            .chain(stated)
            .map(|name| AddedToken::from(name, true))
            .collect();
        tokenizer.add_tokens(&special);
        Ok(())
    }
}

impl SpecialTokens {
    /// All names.
    fn all(&self) -> impl Iterator<Item = &str> {
        let one = [&self.bos_token, &self.eos_token, &self.unk_token, &self.pad_token].into_iter().flatten();
        one.chain(self.additional_special_tokens.iter().flatten()).filter_map(token_name)
    }

    /// Takes from another file what this one leaves out.
    fn complete(&mut self, other: Self) {
        let pairs = [
            (&mut self.bos_token, other.bos_token),
            (&mut self.eos_token, other.eos_token),
            (&mut self.unk_token, other.unk_token),
            (&mut self.pad_token, other.pad_token),
        ];
        for (name, other) in pairs {
            *name = name.take().or(other);
        }
        let more = other.additional_special_tokens;
        self.additional_special_tokens = self.additional_special_tokens.take().or(more);
    }

    /// The variables under which templates know the special tokens.
    fn variables(&self) -> Vec<(&'static str, String)> {
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

/// The ids under a field of `file`: one or several, and a negative one says that there is none.
fn ids(file: &str, value: &Option<Value>) -> Result<Vec<u32>> {
    let one = |value: &Value| match value.as_i64() {
        Some(id) => Ok(u32::try_from(id).ok()),
        None => {
            Err(Error::Text(format!("an id of a special token in {file} is {value}, which is no number")))
        }
    };
    let found: Result<Vec<_>> = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(values)) => values.iter().map(one).collect(),
        Some(value) => one(value).map(|id| vec![id]),
    };
    Ok(found?.into_iter().flatten().collect())
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

/// What the post-processor puts before a text and behind it.
fn surroundings(tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<u32>)> {
    let encode = |special| {
        let encoding = tokenizer.encode_fast("a", special);
        let fault = |error| Error::Text(format!("tokenizer.json cannot encode 'a': {error}"));
        encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(fault)
    };
    let (plain, whole) = (encode(false)?, encode(true)?);
    let at = whole.windows(plain.len().max(1)).position(|window| window == plain);
    let Some(at) = at.filter(|_| !plain.is_empty()) else {
        let reason =
            format!("tokenizer.json makes {plain:?} of 'a', and {whole:?} of the same as a text of its own");
        return Err(Error::Text(reason));
    };
    Ok((whole[..at].to_vec(), whole[at + plain.len()..].to_vec()))
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
    let vocabulary = tokenizer.get_added_vocabulary();
    let mut pieces = Pieces::new(steps.iter().any(drops_first_space));
    for (id, token) in tokens {
        while pieces.len() < id as usize {
            pieces.push([]);
        }
        let special = vocabulary.is_special_token(&token);
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
