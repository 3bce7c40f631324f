//! Something to find: a pass key hidden in a text, or several of them of which one is asked for.
//!
//! Passkey retrieval is Mohtashami and Jaggi's (arXiv 2305.16300), several keys are RULER's multi-key needles
//! (arXiv 2404.06654), both with the model's chat template. The answer is begun for the model and its tokens are
//! teacher-forced. When the cache is compressed the question is either part of the prompt, so that a policy can
//! look for what it asks (aware), or comes afterwards (agnostic).

use benben::Message;
use benben::Result;
use benben::text::Text;
use serde::{Deserialize, Serialize};

/// How a needle speaks of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// In the question's words, naming the key twice.
    SameTwice,
    /// In other words, naming it twice.
    OtherTwice,
    /// In other words, once.
    OtherOnce,
    /// Four keys of four things, each once; the question is after one of them.
    Several,
}

/// When the question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Before the cache is compressed.
    Aware,
    /// Afterwards.
    Agnostic,
}

impl Mode {
    pub const BOTH: [Self; 2] = [Self::Aware, Self::Agnostic];
}

/// One needle in one haystack, as tokens: context, then question, then answer.
#[derive(Debug, Clone)]
pub struct Trial {
    pub kind: Kind,
    tokens: Vec<u32>,
    /// Where the question begins.
    question: usize,
    /// Where the answer begins.
    answer: usize,
    /// Where the key's digits begin.
    digits: usize,
}

const TASK: &str = "There is important information hidden in the text below. Find it and remember it.";
const THINGS: [&str; 8] = ["library", "garden", "kitchen", "harbour", "museum", "station", "tower", "chapel"];
/// Keys that [`Kind::Several`] hides.
const SEVERAL: usize = 4;

impl Kind {
    /// The kind of the passkey trial with this number: half of them in the question's words.
    pub fn passkey(number: usize) -> Self {
        [Self::SameTwice, Self::OtherTwice, Self::SameTwice, Self::OtherOnce][number % 4]
    }
}

impl Trial {
    /// The trial with this number, in a haystack of these tokens.
    ///
    /// # Errors
    /// [`benben::Error::Text`] when the chat template refuses the prompt.
    pub fn new(text: &Text, haystack: &[u32], kind: Kind, number: usize) -> Result<Self> {
        let mut random = Random(number as u64);
        let keys: Vec<String> = (0..SEVERAL).map(|_| (10_000 + random.below(90_000)).to_string()).collect();
        let things: Vec<&str> = (0..SEVERAL).map(|i| THINGS[(number + i) % THINGS.len()]).collect();
        let asked = if kind == Kind::Several { random.below(SEVERAL as u64) as usize } else { 0 };
        let key = &keys[asked];
        let needles: Vec<String> = match kind {
            Kind::SameTwice => {
                vec![format!("The pass key is {key}. Remember it. {key} is the pass key.")]
            }
            Kind::OtherTwice => vec![format!("The door opens with the key {key}. Write down {key} to pass.")],
            Kind::OtherOnce => vec![format!("The key that lets you pass is {key}.")],
            Kind::Several => things
                .iter()
                .zip(&keys)
                .map(|(thing, key)| format!("The pass key of the {thing} is {key}."))
                .collect(),
        };
        let of = if kind == Kind::Several { format!(" of the {}", things[asked]) } else { String::new() };
        let question = format!("What is the pass key{of}?");
        let begun = format!("The pass key{of} is the number");

        let haystack = hide(text.decode(haystack)?.trim(), &needles, number);
        let content = format!("{TASK}\n\n{haystack}\n\n{question}");
        let prompt = if text.has_template() {
            text.render(&[Message::user(content)], true)?
        } else {
            format!("{content}\n")
        };
        let whole = text.raw_prompt(&format!("{prompt}{begun} {key}"))?;
        // Tokens may span where two parts meet, so each part ends where it stops agreeing with the whole.
        let until = |part: &str| Ok(agreement(&text.raw_prompt(part)?, &whole)) as Result<usize>;
        let answer = until(&format!("{prompt}{begun}"))?;
        let question = until(&prompt[..prompt.rfind(&question).unwrap_or(prompt.len())])?;
        let mut digits = answer;
        while whole
            .get(digits)
            .map(|&id| text.decode(&[id]))
            .transpose()?
            .is_some_and(|t| t.trim().is_empty())
        {
            digits += 1;
        }
        Ok(Self { kind, tokens: whole, question, answer, digits })
    }

    /// What is compressed, and what follows.
    pub fn split(&self, mode: Mode) -> (&[u32], &[u32]) {
        self.tokens.split_at(match mode {
            Mode::Aware => self.answer,
            Mode::Agnostic => self.question,
        })
    }

    /// Tokens of the answer, and of its digits alone, at the end.
    pub fn answer(&self) -> (usize, usize) {
        (self.tokens.len() - self.answer, self.tokens.len() - self.digits)
    }
}

/// How many tokens two lists have in common at their beginnings.
fn agreement(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Puts each needle on a line of its own, at depths that differ from trial to trial.
fn hide(haystack: &str, needles: &[String], number: usize) -> String {
    // Multiples of the golden section never cluster.
    let first = (0.1 + number as f64 * 0.618_034).fract();
    let mut depths: Vec<f64> =
        (0..needles.len()).map(|i| (first + i as f64 / needles.len() as f64).fract()).collect();
    depths.sort_by(f64::total_cmp);
    let mut out = String::new();
    let mut from = 0;
    for (depth, needle) in depths.iter().zip(needles) {
        let at = line_end(haystack, from, (0.05 + 0.9 * depth) * haystack.len() as f64);
        out += &format!("{}\n{needle}", &haystack[from..at]);
        from = at;
    }
    out + &haystack[from..]
}

/// The end of the line around byte `near`, or else of the word, not before `from`.
fn line_end(text: &str, from: usize, near: f64) -> usize {
    let near = (near as usize).max(from);
    let ends = |wanted: fn(char) -> bool| text.char_indices().find(|&(i, c)| i >= near && wanted(c));
    ends(|c| c == '\n').or_else(|| ends(char::is_whitespace)).map_or(text.len(), |(i, _)| i)
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needles_stand_on_lines_of_their_own_in_order() {
        let line = "so she went on and on, and nothing came of it\n";
        let haystack = line.repeat(40);
        let needles = ["first".to_owned(), "second".to_owned(), "third".to_owned()];
        let mut depths = Vec::new();
        for number in 0..8 {
            let text = hide(haystack.trim(), &needles, number);
            let lines: Vec<&str> = text.lines().collect();
            let at = |needle: &String| lines.iter().position(|line| line == needle).expect("a line");
            let found: Vec<usize> = needles.iter().map(at).collect();
            assert!(found.is_sorted() && found[2] - found[0] > 20, "{found:?}");
            assert_eq!(lines.len(), 43, "nothing is lost");
            depths.push(found[0]);
        }
        depths.sort_unstable();
        depths.dedup();
        assert!(depths.len() > 4, "depths differ from trial to trial: {depths:?}");
    }

    #[test]
    fn a_haystack_without_lines_is_cut_between_words() {
        let text = hide("größere Wörter überall", &["needle".to_owned()], 3);
        assert!(text.lines().any(|line| line == "needle") && text.starts_with("größere"), "{text}");
        assert_eq!(hide("", &["needle".to_owned()], 0), "\nneedle");
    }

    #[test]
    fn half_of_the_trials_use_the_words_of_the_question() {
        let count = |kind| (0..24).filter(|&i| Kind::passkey(i) == kind).count();
        assert_eq!([Kind::SameTwice, Kind::OtherTwice, Kind::OtherOnce].map(count), [12, 6, 6]);
        assert_eq!(agreement(&[1, 2, 3], &[1, 2, 4, 5]), 2);
    }
}
