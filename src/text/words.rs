//! How the families of byte-level BPE cut a text into words, by the name in `tokenizer.ggml.pre`.
//!
//! A family has one expression or several, which are applied one after the other: each cuts the pieces that those
//! before it left. The expressions are those of the models' own `tokenizer.json`; which name means which is known from
//! llama.cpp.

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// How a family cuts text, and what else its name implies.
#[derive(Debug, PartialEq)]
pub(super) struct Family {
    /// Its names, with spaces between.
    names: &'static str,
    /// Its expressions.
    pub words: &'static [&'static str],
    /// A word that is a token is that token, whatever the merges would say.
    pub ignore_merges: bool,
    /// Whether a prompt is opened, when the file does not say.
    pub add_bos: bool,
}

const fn plain(names: &'static str, words: &'static [&'static str]) -> Family {
    Family { names, words, ignore_merges: false, add_bos: false }
}

/// For a file that names no family.
const UNNAMED: Family = plain("default", &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]);

/// For a file that names one that nobody here knows.
const UNKNOWN: Family = plain("", &[GPT2]);

const FAMILIES: [Family; 16] = [
    UNNAMED,
    plain(
        "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert exaone4 mpt olmo jais \
         trillion granite-docling",
        &[GPT2],
    ),
    plain("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", &[r"\p{N}", GPT2]),
    Family {
        names: "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        words: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    plain("dbrx smaug-bpe glm4 chatglm-bpe", &[LLAMA3]),
    plain("qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 megrez hunyuan solar-open grok-2", &[QWEN2]),
    plain("qwen35", &[QWEN35]),
    plain("gpt-4o llama4 kanana2 talkie minimax-m2", &[GPT4O]),
    Family { names: "tekken", words: &[TEKKEN], ignore_merges: true, add_bos: true },
    plain("seed-coder", &[SEED]),
    plain("bailingmoe bailingmoe2 llada-moe", &[BAILING]),
    plain("poro-chat bloom gpt3-finnish", &[BLOOM]),
    plain("viking", &[BLOOM, r"\p{N}"]),
    plain("falcon", &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
    plain("deepseek-coder", &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"]),
    plain("deepseek-v3 hunyuan-dense joyai-llm hy_v4", &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3]),
];

/// The family called `pre`, and what there is to say of a file that names none, or one that is not known.
pub(super) fn family(pre: Option<&str>) -> (&'static Family, Option<String>) {
    let Some(pre) = pre.filter(|pre| !pre.is_empty()) else {
        let note = "the file does not say how its family cuts words ('tokenizer.ggml.pre'); llama.cpp's default is \
                    used, and answers may be worse";
        return (&UNNAMED, Some(note.to_owned()));
    };
    match FAMILIES.iter().find(|family| family.names.split_whitespace().any(|name| name == pre)) {
        Some(family) => (family, None),
        None => {
            let note = format!(
                "'tokenizer.ggml.pre' is '{pre}', which is not known; GPT-2's words are used, and answers may be worse"
            );
            (&UNKNOWN, Some(note))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_unknown_ones_are_told() {
        let names: Vec<&str> = FAMILIES.iter().flat_map(|family| family.names.split_whitespace()).collect();
        for (i, name) in names.iter().enumerate() {
            assert!(!names[..i].contains(name), "{name} twice");
            assert_eq!(family(Some(name)).1, None);
        }
        assert_eq!(family(None).0, &UNNAMED);
        assert!(family(None).1.is_some_and(|note| note.contains("tokenizer.ggml.pre")));
        let (words, note) = family(Some("never-heard-of"));
        assert!(words.words == [GPT2] && note.is_some_and(|note| note.contains("'never-heard-of'")));
    }
}
