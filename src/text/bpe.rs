//! Byte-level BPE (GPT-2 and its many heirs) from a GGUF vocabulary.
//!
//! The text is cut into words by a regular expression, each byte of a word becomes one printable
//! character, and merges join neighbours. Which expression is named by `tokenizer.ggml.pre`.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::{
    PreTokenizerWrapper, byte_level::ByteLevel, digits::Digits, sequence::Sequence, split::Split,
    split::SplitPattern,
};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use super::vocabulary::Vocabulary;
use crate::{Error, Result};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a family cuts text into words.
enum Words {
    /// GPT-2's own expression, which the `tokenizers` crate holds.
    Gpt2,
    /// Every digit alone, then GPT-2's expression.
    DigitsGpt2,
    /// The family's own expression.
    Regex(&'static str),
}

/// What `tokenizer.ggml.pre` implies.
struct Family {
    words: Words,
    /// A word that is a token is that token, whatever the merges would say.
    ignore_merges: bool,
    /// Whether a prompt is opened, when the file does not say.
    add_bos: bool,
}

/// The family called `pre`. An absent or unknown name means GPT-2: such a model still reads and writes
/// sensible text, though the odd word is cut otherwise than in training.
fn family(pre: Option<&str>) -> Family {
    let plain = |words| Family { words, ignore_merges: false, add_bos: false };
    match pre.unwrap_or_default() {
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => plain(Words::DigitsGpt2),
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" => {
            Family { words: Words::Regex(LLAMA3), ignore_merges: true, add_bos: true }
        }
        "dbrx" | "smaug-bpe" => plain(Words::Regex(LLAMA3)),
        "qwen2" | "stablelm2" | "deepseek-r1-qwen" | "megrez" => plain(Words::Regex(QWEN2)),
        "gpt-4o" | "llama4" => plain(Words::Regex(GPT4O)),
        "tekken" => Family { words: Words::Regex(TEKKEN), ignore_merges: true, add_bos: true },
        _ => plain(Words::Gpt2),
    }
}

/// The tokenizer without its added tokens.
pub(super) fn tokenizer(vocabulary: &Vocabulary) -> Result<Tokenizer> {
    let family = family(vocabulary.pre.as_deref());
    let merges = vocabulary.merges.iter().enumerate().map(|(rank, merge)| {
        merge.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())).ok_or_else(|| {
            Error::Text(format!("merge {rank} is '{merge}', which is not two tokens with a space between"))
        })
    });
    let ids: Vocab = vocabulary.tokens.iter().cloned().zip(0..).collect();
    let model = BPE::builder()
        .vocab_and_merges(ids, merges.collect::<Result<Vec<_>>>()?)
        .ignore_merges(family.ignore_merges)
        .build()
        .map_err(|error| Error::Text(format!("the merges do not fit the vocabulary: {error}")))?;

    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(splitter(&family.words)?));
    Ok(tokenizer)
}

/// Whether prompts of this family are opened with a beginning-of-sequence token.
pub(super) fn adds_bos(pre: Option<&str>) -> bool {
    family(pre).add_bos
}

fn splitter(words: &Words) -> Result<PreTokenizerWrapper> {
    let bytes = |use_regex| PreTokenizerWrapper::from(ByteLevel::new(false, false, use_regex));
    let steps = match words {
        Words::Gpt2 => vec![bytes(true)],
        Words::DigitsGpt2 => vec![Digits::new(true).into(), bytes(true)],
        Words::Regex(pattern) => {
            let pattern = SplitPattern::Regex((*pattern).to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|error| Error::Text(format!("the word pattern does not compile: {error}")))?;
            vec![split.into(), bytes(false)]
        }
    };
    Ok(Sequence::new(steps).into())
}

/// The bytes behind a token of the byte alphabet; a token with a character outside it is itself.
pub(super) fn piece(token: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(alphabet_byte).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// GPT-2's alphabet backwards: printable Latin-1 stands for itself, and the other 68 bytes, in order,
/// for the characters from U+0100 on.
fn alphabet_byte(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_is_the_inverse_of_the_encoders() {
        let alphabet = ByteLevel::alphabet();
        assert_eq!(alphabet.len(), 256);
        let mut bytes: Vec<u8> = alphabet.iter().filter_map(|&c| alphabet_byte(c)).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(piece("Ġa"), b" a");
        assert_eq!(piece("ĊĠ"), b"\n ");
        assert_eq!(piece("a b"), b"a b", "a space is not in the alphabet, so the token is literal");
    }

    #[test]
    fn every_family_compiles() {
        for pre in [None, Some("smollm"), Some("llama-bpe"), Some("qwen2"), Some("gpt-4o"), Some("tekken")] {
            assert!(splitter(&family(pre).words).is_ok(), "{pre:?}");
        }
    }
}
