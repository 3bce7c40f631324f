//! One cell: many sequences side by side, and some of them alone, whose tokens must be the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use benben::plan::Plan;
use benben::{
    Answer, Engine, EngineOptions, EngineReport, GenerateOptions, Model, Request, Result, Session,
    SessionOptions,
};
use serde::Serialize;

use super::cache::Cache;
use super::drive::{Timeline, drive};
use super::prompt;

/// What is measured together.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// Sequences side by side.
    pub batch: usize,
    pub prompt_tokens: usize,
    pub new_tokens: usize,
    /// The cache's name.
    pub cache: String,
}

/// What a cell's run took.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Prompt tokens of all sequences over the time until the last of them had its first token; absent, no prompt ran.
    pub prefill_tokens_per_second: Option<f64>,
    /// Of all sequences together, while all of them generated; absent, they never did at once.
    pub decode_tokens_per_second: Option<f64>,
    /// Between two tokens of one sequence, meanwhile; the median.
    pub ms_per_token: Option<f64>,
    /// From the beginning, the median over the sequences.
    pub time_to_first_token_seconds: f64,
    /// From the beginning to the last token of all.
    pub seconds: f64,
    /// New tokens of all sequences over that time.
    pub new_tokens_per_second: f64,
    /// The most sequences that were let in at once.
    pub most_at_once: usize,
    /// Rows that lived when they were most, and what a full f16 cache takes then.
    pub kv_bytes: u64,
    pub kv_bytes_full_f16: u64,
    /// What the engine set aside for rows and tables, for whole answers.
    pub kv_bytes_reserved: u64,
    /// The most that was on the device at once, weights included.
    pub peak_bytes: u64,
    pub agreement: Agreement,
}

/// How the tokens compare with those of the same sequences alone, greedily chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Agreement {
    pub sequences: usize,
    /// Sequences whose tokens are the same to the end.
    pub identical: usize,
    /// Tokens before the first that differs, as a share of all; a difference in rounding can turn a near tie.
    pub share_before_difference: f64,
}

impl Agreement {
    pub(super) fn add(&mut self, alone: &[u32], together: &[u32]) {
        let same = alone.iter().zip(together).take_while(|(a, b)| a == b).count();
        let length = alone.len().max(together.len());
        let share = if length == 0 { 1.0 } else { same as f64 / length as f64 };
        let before = self.share_before_difference * self.sequences as f64;
        self.sequences += 1;
        self.identical += usize::from(same == length);
        self.share_before_difference = (before + share) / self.sequences as f64;
    }
}

/// Tokens of sequences that ran alone, by what they follow from.
#[derive(Debug, Default)]
pub struct Alone(HashMap<(String, usize, usize, usize), Vec<u32>>);

/// Runs cells of one model.
#[derive(Debug)]
pub struct Bench {
    pub model: Arc<Model>,
    pub alone: Alone,
    /// Sequences of a cell to compare.
    pub compare: usize,
    /// How long a run may take.
    pub limit: Duration,
    /// Tokens that a step computes at most; absent, the engine's default.
    pub step_tokens: Option<usize>,
    /// Random rows stand in the place of prompts.
    pub random_rows: bool,
}

/// Runs of a cell in which something was compiled count for nothing; the second one compiles nothing.
const MOST_RUNS: usize = 3;

impl Bench {
    /// The plan of one of the cell's sequences.
    ///
    /// # Errors
    /// As [`Plan::session`].
    pub fn plan(&self, cell: &Cell, cache: &Cache) -> Result<Plan> {
        Plan::session(self.model.config(), &cache.kv, cell.prompt_tokens + cell.new_tokens)
    }

    /// Runs the cell with its caches in `kv_memory` bytes, and alone what of it is to be compared.
    ///
    /// # Errors
    /// What the device refuses; [`benben::Error::Invalid`] when it takes too long.
    pub async fn measure(&mut self, cell: &Cell, cache: &Cache, kv_memory: u64) -> Result<Measured> {
        // What ran before has compiled most of what is timed.
        let compared = self.compared(cell.batch);
        for &sequence in &compared {
            self.run_alone(cell, cache, sequence).await?;
        }
        let gpu = self.model.gpu().clone();
        let mut runs = 0;
        let (times, held) = loop {
            let compiled = gpu.counters().pipelines;
            gpu.reset_peak();
            let run = self.together(cell, cache, kv_memory).await?;
            runs += 1;
            if gpu.counters().pipelines == compiled || runs == MOST_RUNS {
                break run;
            }
        };
        gpu.check()?;
        let mut agreement = Agreement::default();
        for sequence in compared {
            let alone = self.run_alone(cell, cache, sequence).await?;
            agreement.add(&alone, &times.tokens(sequence));
        }
        let decode = times.decode_rate();
        Ok(Measured {
            prefill_tokens_per_second: self.prefill_rate(cell, times.every_first_token()),
            decode_tokens_per_second: decode,
            ms_per_token: decode.and_then(|_| times.between_tokens()).map(|seconds| 1e3 * seconds),
            time_to_first_token_seconds: times.first_token(),
            seconds: times.end(),
            new_tokens_per_second: (cell.batch * cell.new_tokens) as f64 / times.end(),
            most_at_once: held.sequences,
            kv_bytes: held.kv_bytes,
            kv_bytes_full_f16: held.kv_bytes_full_f16,
            kv_bytes_reserved: held.kv_bytes_reserved,
            peak_bytes: gpu.bytes().peak,
            agreement,
        })
    }

    /// Prompt tokens a second, if prompts ran.
    pub(super) fn prefill_rate(&self, cell: &Cell, seconds: f64) -> Option<f64> {
        (!self.random_rows).then(|| (cell.batch * cell.prompt_tokens) as f64 / seconds)
    }

    /// Sequences to compare: the first, the last, and some between them. Answers to random rows mean nothing.
    pub(super) fn compared(&self, batch: usize) -> Vec<usize> {
        let count = if self.random_rows { 0 } else { self.compare.min(batch) };
        (0..count).map(|i| i * (batch - 1) / (count - 1).max(1)).collect()
    }

    pub(super) fn session(&self, cell: &Cell, cache: &Cache, sequence: usize) -> Result<Session> {
        let context = Some(cell.prompt_tokens + cell.new_tokens);
        let mut session = Session::new(&self.model, &SessionOptions { kv: cache.kv.clone(), context })?;
        session.append(&prompt(sequence, cell.prompt_tokens, self.model.config().vocab))?;
        Ok(session)
    }

    /// An engine that was given all of the cell's prompts, and their answers.
    pub(super) fn start(&self, cell: &Cell, cache: &Cache, kv_memory: u64) -> Result<(Engine, Vec<Answer>)> {
        let context = Some(cell.prompt_tokens + cell.new_tokens);
        let options = EngineOptions {
            max_sequences: cell.batch,
            context,
            memory: Some(kv_memory),
            step_tokens: self.step_tokens.unwrap_or(EngineOptions::default().step_tokens),
        };
        let engine = Engine::new(&self.model, &options)?;
        let generate = GenerateOptions { max_tokens: cell.new_tokens, ..greedy() };
        let submit = |sequence| {
            let prompt = prompt(sequence, cell.prompt_tokens, self.model.config().vocab);
            let (kv, generate) = (cache.kv.clone(), generate.clone());
            engine.submit(Request { prompt, kv, generate, random_rows: self.random_rows })
        };
        let answers = (0..cell.batch).map(submit).collect::<Result<Vec<_>>>()?;
        Ok((engine, answers))
    }

    async fn together(&self, cell: &Cell, cache: &Cache, kv_memory: u64) -> Result<(Timeline, EngineReport)> {
        let (engine, answers) = self.start(cell, cache, kv_memory)?;
        let mut most = EngineReport::default();
        let times = drive(answers, self.limit, || note_most(&mut most, &engine)).await?;
        Ok((times, most))
    }

    /// The tokens of a sequence that runs alone.
    pub(super) async fn run_alone(
        &mut self,
        cell: &Cell,
        cache: &Cache,
        sequence: usize,
    ) -> Result<Vec<u32>> {
        let key = (cache.name.clone(), cell.prompt_tokens, cell.new_tokens, sequence);
        if let Some(tokens) = self.alone.0.get(&key) {
            return Ok(tokens.clone());
        }
        let mut session = self.session(cell, cache, sequence)?;
        let options = GenerateOptions { max_tokens: cell.new_tokens, ..greedy() };
        let times = drive(vec![session.generate(&options)?], self.limit, || ()).await?;
        let tokens = times.tokens(0);
        self.alone.0.insert(key, tokens.clone());
        Ok(tokens)
    }
}

/// Raises what an engine held at most to what it holds now.
pub(super) fn note_most(most: &mut EngineReport, engine: &Engine) {
    let now = engine.report();
    most.sequences = most.sequences.max(now.sequences);
    most.kv_bytes_reserved = most.kv_bytes_reserved.max(now.kv_bytes_reserved);
    if now.kv_bytes > most.kv_bytes {
        (most.kv_bytes, most.kv_bytes_full_f16) = (now.kv_bytes, now.kv_bytes_full_f16);
    }
}

/// Answers that go on to their full length.
pub(super) fn greedy() -> GenerateOptions {
    GenerateOptions { stop: Some(Vec::new()), ..GenerateOptions::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_ends_at_the_first_difference() {
        let mut agreement = Agreement::default();
        agreement.add(&[1, 2, 3, 4], &[1, 2, 3, 4]);
        agreement.add(&[1, 2, 3, 4], &[1, 9, 3, 4]);
        assert_eq!(agreement, Agreement { sequences: 2, identical: 1, share_before_difference: 0.625 });
        agreement.add(&[1, 2], &[1]);
        assert_eq!((agreement.sequences, agreement.identical), (3, 1));
    }
}
