//! Tokens that end an answer by their names, as llama.cpp's loader knows them: model files often declare one of several.

/// The names of tokens that end a turn or a text.
const ENDS: &str = "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> \
                    </s> <|eom_id|> <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> \
                    <|tool_response> <｜end▁of▁sentence｜> [e~[ <|END_OF_TURN_TOKEN|> <|eot|>";

/// Those after which a model that fills gaps in code begins another file.
const NEXT_FILE: &str = "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD] <|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame> <|file_sep|>";

/// The others around such gaps, which are control tokens as well and end nothing.
const GAPS: &str = "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|> <|prefix|> \
                    <|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|> <|suffix|> \
                    <|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|> <|middle|>";

/// A name that ends nothing in a vocabulary with certain others, where it closes a part of an answer.
const NOT_BESIDE: [(&str, &[&str]); 5] = [
    ("<|end|>", &["<|return|>", "<|call|>"]),
    ("<|end|>", &["<|return|>", "<|calls|>"]),
    ("<|end|>", &["<|call|>", "<|flush|>"]),
    ("<|end|>", &["<|calls|>", "<|flush|>"]),
    ("</s>", &["<|tool_response>"]),
];

/// True for a name that would end an answer, but closes a part of it in a vocabulary that has the names for which `has`
/// is true.
pub(super) fn taken_back(name: &str, has: impl Fn(&str) -> bool) -> bool {
    NOT_BESIDE.iter().any(|(other, beside)| *other == name && beside.iter().all(|beside| has(beside)))
}

/// The names that end an answer in a vocabulary that has the names for which `has` is true.
pub(super) fn names(has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let all = ENDS.split_whitespace().chain(NEXT_FILE.split_whitespace());
    all.filter(|name| has(name) && !taken_back(name, &has)).collect()
}

/// True for the name of a token that is a control token whatever a file says of it.
pub(super) fn is_control(name: &str) -> bool {
    [ENDS, NEXT_FILE, GAPS].iter().any(|names| names.split_whitespace().any(|listed| listed == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_answers_unless_others_stand_beside_them() {
        let of = |vocabulary: &[&str]| names(|name| vocabulary.contains(&name));
        assert_eq!(of(&["a", "<|im_end|>", "<reponame>", "<fim_middle>"]), ["<|im_end|>", "<reponame>"]);
        assert_eq!(of(&["<|end|>", "</s>"]), ["<|end|>", "</s>"]);
        assert_eq!(of(&["<|end|>", "<|return|>", "<|call|>"]), ["<|return|>", "<|call|>"]);
        assert_eq!(of(&["</s>", "<|tool_response>"]), ["<|tool_response>"]);
        assert!(is_control("<fim_middle>") && is_control("[EOS]") && !is_control("<think>"));
    }
}
