//! Byte-level BPE (GPT-2 and its many heirs) from a GGUF vocabulary.
//!
//! The text is cut into words by a family's expressions (`words.rs`), each byte of a word becomes one printable
//! character, and merges join neighbours.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::{
    PreTokenizerWrapper, byte_level::ByteLevel, sequence::Sequence, split::Split, split::SplitPattern,
};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use super::vocabulary::Vocabulary;
use super::words::Family;
use crate::{Error, Result};

/// The tokenizer without its added tokens.
pub(super) fn tokenizer(vocabulary: &Vocabulary, family: &Family) -> Result<Tokenizer> {
    if vocabulary.merges.is_empty() {
        let reason = "a vocabulary of kind 'gpt2' needs 'tokenizer.ggml.merges', and there are none: every text would \
                      fall into single bytes; convert the model anew";
        return Err(Error::Text(reason.to_owned()));
    }
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
    tokenizer.with_pre_tokenizer(Some(splitter(family.words)?));
    Ok(tokenizer)
}

/// Cuts by each of these expressions, then turns bytes into characters.
fn splitter(words: &[&str]) -> Result<PreTokenizerWrapper> {
    let step = |pattern: &&str| {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        split
            .map(PreTokenizerWrapper::from)
            .map_err(|error| Error::Text(format!("a word pattern does not compile: {error}")))
    };
    let mut steps = words.iter().map(step).collect::<Result<Vec<_>>>()?;
    steps.push(ByteLevel::new(false, false, false).into());
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
}
