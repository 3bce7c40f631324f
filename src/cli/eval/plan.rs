//! What is to be measured under every configuration: windows of text, needles, and prompts to time.

use benben::digest::Digest;
use benben::text::Text;
use benben::{Error, Result};
use serde::Serialize;

use super::grid::Config;
use super::needles::{Kind, Mode, Trial};
use super::split::{Source, Split};

/// How much to measure of what.
#[derive(Debug, Clone, Serialize)]
pub struct Sizes {
    /// Windows of each split.
    pub windows: usize,
    /// Tokens of a window that the policy may compress.
    pub prefix: usize,
    /// Tokens after them that are scored.
    pub continuation: usize,
    /// Passkey trials of each split.
    pub trials: usize,
    /// Trials with several keys, of each split.
    pub multi_trials: usize,
    /// Tokens of the text that a needle is hidden in.
    pub haystack: usize,
    /// Tokens of the prompts that are timed.
    pub contexts: Vec<usize>,
}

/// A prefix to compress and a continuation to score.
#[derive(Debug)]
pub struct Job {
    pub split: Split,
    /// What is hidden and when it is asked for; a window of text hides nothing.
    pub needle: Option<(Kind, Mode)>,
    pub name: String,
    pub prefix: Vec<u32>,
    pub continuation: Vec<u32>,
    /// Tokens at the end of the continuation that count, and that are digits.
    pub counts: (usize, usize),
}

/// Jobs that stand or fall together: a window, or a trial asked in both modes.
pub type Group = Vec<Job>;

/// Everything to measure.
#[derive(Debug)]
pub struct Plan {
    /// The full cache first.
    pub configs: Vec<Config>,
    pub groups: Vec<Group>,
    /// Prompts to time.
    pub prompts: Vec<Vec<u32>>,
    /// What all cells have in common: program, model, adapter, weights.
    id: String,
}

impl Plan {
    /// # Errors
    /// [`Error::Invalid`] for texts that are too short.
    pub fn new(
        id: String,
        configs: Vec<Config>,
        text: &Text,
        texts: &[Source],
        splits: &[Split],
        sizes: &Sizes,
    ) -> Result<Self> {
        // Where a model wants a token that opens every text, a window is such a text.
        let opening = text.raw_prompt("")?;
        let mut groups = Vec::new();
        for &split in splits {
            let length = sizes.prefix + sizes.continuation;
            for window in split.some_windows(texts, length, sizes.windows)? {
                let (prefix, continuation) = window.tokens.split_at(sizes.prefix);
                groups.push(vec![Job {
                    split,
                    needle: None,
                    name: format!("{}:{}", window.name, window.start),
                    prefix: [&opening, prefix].concat(),
                    continuation: continuation.to_vec(),
                    counts: (sizes.continuation, 0),
                }]);
            }
            let passkeys = (0..sizes.trials).map(|i| (i, Kind::passkey(i)));
            let several = (0..sizes.multi_trials).map(|i| (i, Kind::Several));
            let trials: Vec<_> = passkeys.chain(several).collect();
            if trials.is_empty() {
                continue;
            }
            split.some_windows(texts, sizes.haystack, 1)?;
            let haystacks = split.windows(texts, sizes.haystack);
            for (number, kind) in trials {
                let haystack = haystacks[number % haystacks.len()];
                groups.push(trial_jobs(split, &Trial::new(text, haystack.tokens, kind, number)?, number));
            }
        }
        Ok(Self { configs, groups, prompts: prompts(texts, &sizes.contexts)?, id })
    }

    /// Tokens of the longest session.
    pub fn longest(&self) -> usize {
        let jobs = self.groups.iter().flatten().map(|job| job.prefix.len() + job.continuation.len());
        jobs.chain(self.prompts.iter().map(|p| p.len() + super::runner::ANSWER)).max().unwrap_or(1)
    }

    /// Cells to measure, if the full cache finds every needle.
    pub fn cells(&self) -> usize {
        let jobs: usize = self.groups.iter().map(Vec::len).sum();
        (jobs + self.prompts.len()) * self.configs.len()
    }

    /// The key of a job's cell under a configuration: everything that its numbers follow from.
    pub fn key(&self, job: &Job, config: &Config) -> String {
        let Job { prefix, continuation, counts, name, .. } = job;
        let tokens = Digest::of("job/1").words(prefix).words(continuation).sizes(&[counts.0, counts.1]).hex();
        format!("{name} | {} | {} | {tokens}", config.kv.key(), self.id)
    }

    /// The key of a timed prompt's cell.
    pub fn prompt_key(&self, prompt: &[u32], config: &Config) -> String {
        let tokens = Digest::of("prompt/1").words(prompt).hex();
        format!("speed:{} | {} | {} | {tokens}", prompt.len(), config.kv.key(), self.id)
    }
}

fn trial_jobs(split: Split, trial: &Trial, number: usize) -> Group {
    let job = |mode| {
        let (prefix, continuation) = trial.split(mode);
        let kind = if trial.kind == Kind::Several { "several" } else { "passkey" };
        let when = if mode == Mode::Aware { "aware" } else { "agnostic" };
        Job {
            split,
            needle: Some((trial.kind, mode)),
            name: format!("{kind} {number} {when} {split}"),
            prefix: prefix.to_vec(),
            continuation: continuation.to_vec(),
            counts: trial.answer(),
        }
    };
    Mode::BOTH.map(job).into()
}

/// Prompts of these lengths, from the second window of the first text on.
fn prompts(texts: &[Source], contexts: &[usize]) -> Result<Vec<Vec<u32>>> {
    let Some(text) = texts.first() else { return Ok(Vec::new()) };
    let prompt = |&context: &usize| {
        text.tokens.get(..context).map(<[u32]>::to_vec).ok_or_else(|| {
            Error::Invalid(format!(
                "a prompt of {context} tokens cannot be timed with the {} tokens of {}; give a longer text, or a shorter --contexts",
                text.tokens.len(),
                text.name
            ))
        })
    };
    contexts.iter().map(prompt).collect()
}
