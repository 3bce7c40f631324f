//! SentencePiece BPE (Llama 2, Mistral, Gemma) from a GGUF vocabulary.
//!
//! A space is written as U+2581, a character without a token falls back to tokens `<0x00>` to `<0xFF>`,
//! and the pair whose joint token has the best score merges first. The file holds scores and no merges;
//! ranking every pair that makes a token gives the list that the `tokenizers` crate wants.

use std::collections::HashMap;

use tokenizers::Tokenizer;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence};

use super::vocabulary::Vocabulary;
use crate::{Error, Result};

/// The mark that stands for a space.
const SPACE: &str = "\u{2581}";

/// Tokens of more bytes take no part in merges: finding the pairs of one is quadratic in its length.
const LONGEST_MERGED: usize = 512;

/// The tokenizer without its added tokens.
pub(super) fn tokenizer(vocabulary: &Vocabulary) -> Result<Tokenizer> {
    let ids: Vocab = vocabulary.tokens.iter().cloned().zip(0..).collect();
    let mut builder =
        BPE::builder().vocab_and_merges(ids, merges(vocabulary)).byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = vocabulary.token(vocabulary.unk) {
        builder = builder.unk_token(unknown.to_owned());
    }
    let fault = |error| Error::Text(format!("the vocabulary makes no tokenizer: {error}"));
    let mut tokenizer = Tokenizer::new(builder.build().map_err(fault)?);

    let mut steps: Vec<NormalizerWrapper> = vec![Replace::new(" ", SPACE).map_err(fault)?.into()];
    if adds_space(vocabulary) {
        steps.insert(0, Prepend::new(SPACE.to_owned()).into());
    }
    tokenizer.with_normalizer(Some(NormalizerWrapper::from(Sequence::new(steps))));
    Ok(tokenizer)
}

/// Whether each stretch of text gets a space in front, which decoding takes away again.
pub(super) fn adds_space(vocabulary: &Vocabulary) -> bool {
    vocabulary.add_space_prefix.unwrap_or(true)
}

/// Every pair of ordinary tokens whose concatenation is an ordinary token, best score first, and among
/// the pairs that make the same token the one with the longer left half first.
fn merges(vocabulary: &Vocabulary) -> Vec<(String, String)> {
    let tokens = vocabulary.tokens.iter().enumerate();
    let ordinary: HashMap<&str, f32> = tokens
        .filter(|(id, token)| vocabulary.is_ordinary(*id) && token.len() <= LONGEST_MERGED)
        .filter_map(|(id, token)| Some((token.as_str(), *vocabulary.scores.get(id)?)))
        .collect();

    let mut pairs: Vec<(f32, &str, &str)> = Vec::new();
    for (&token, &score) in &ordinary {
        let halves = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let known =
            halves.filter(|(left, right)| ordinary.contains_key(left) && ordinary.contains_key(right));
        pairs.extend(known.map(|(left, right)| (score, left, right)));
    }
    // The last two keys only make the order of equal scores the same in every run.
    pairs.sort_unstable_by(|a, b| {
        b.0.total_cmp(&a.0).then(b.1.len().cmp(&a.1.len())).then_with(|| (a.1, a.2).cmp(&(b.1, b.2)))
    });
    pairs.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect()
}

/// The bytes behind a token: a byte token's byte, else the text with its spaces back.
pub(super) fn piece(token: &str) -> Vec<u8> {
    match byte(token) {
        Some(byte) => vec![byte],
        None => token.replace(SPACE, " ").into_bytes(),
    }
}

/// The byte that a token such as `<0x0A>` names.
fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let two = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if two { u8::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_bytes_and_text() {
        assert_eq!(piece("<0x0A>"), b"\n");
        assert_eq!(piece("<0xfF>"), [0xff]);
        assert_eq!(piece("\u{2581}the"), b" the");
        for literal in ["<0x+1>", "<0x1>", "<0x100>", "<0x0A"] {
            assert_eq!(piece(literal), literal.as_bytes());
        }
    }

    #[test]
    fn merges_are_ranked_by_score() {
        let words = ["a", "b", "ab", "aba", "ba", "abab"];
        let vocabulary = Vocabulary {
            tokens: words.map(str::to_owned).to_vec(),
            scores: vec![0.0, 0.0, -2.0, -3.0, -1.0, -4.0],
            ..Vocabulary::default()
        };
        let pairs = merges(&vocabulary);
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(l, r)| (l.as_str(), r.as_str())).collect();
        let expected = [("b", "a"), ("a", "b"), ("ab", "a"), ("a", "ba"), ("aba", "b"), ("ab", "ab")];
        assert_eq!(pairs, expected);
    }
}
