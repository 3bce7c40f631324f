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

use super::agreement::{Agreement, explained_margin, margin};
use super::cache::Cache;
use super::drive::{Timeline, drive};
use super::prompt;
use super::steps::{StepWork, Steps};

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
    /// What a step of all sequences together records; absent for sequences without an engine.
    pub step: Option<StepWork>,
    pub agreement: Agreement,
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
        let (times, held, steps) = loop {
            let compiled = gpu.counters().pipelines;
            gpu.reset_peak();
            let run = self.together(cell, cache, kv_memory).await?;
            runs += 1;
            if gpu.counters().pipelines == compiled || runs == MOST_RUNS {
                break run;
            }
        };
        gpu.check()?;
        let mut agreement = self.agreement(cache);
        for sequence in compared {
            let together = times.tokens(sequence);
            self.compare(cell, cache, sequence, &together, cell.new_tokens, &mut agreement).await?;
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
            step: steps.work(),
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
            exact: false,
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

    async fn together(
        &self,
        cell: &Cell,
        cache: &Cache,
        kv_memory: u64,
    ) -> Result<(Timeline, EngineReport, Steps)> {
        let (engine, answers) = self.start(cell, cache, kv_memory)?;
        let (mut most, mut steps) = (EngineReport::default(), Steps::default());
        let seen = || {
            note_most(&mut most, &engine);
            steps.note(engine.report().steps, self.model.gpu().counters());
        };
        let times = drive(answers, self.limit, seen).await?;
        Ok((times, most, steps))
    }

    pub(super) fn agreement(&self, cache: &Cache) -> Agreement {
        Agreement::within(explained_margin(&self.model, &cache.kv))
    }

    /// Compares the tokens of a sequence, which should be `count`, with those that it has alone.
    pub(super) async fn compare(
        &mut self,
        cell: &Cell,
        cache: &Cache,
        sequence: usize,
        together: &[u32],
        count: usize,
        agreement: &mut Agreement,
    ) -> Result<()> {
        let alone = self.run_alone(cell, cache, sequence).await?;
        let alone = &alone[..count.min(alone.len())];
        if alone == together {
            agreement.add_identical();
            return Ok(());
        }
        let same = alone.iter().zip(together).take_while(|(a, b)| a == b).count();
        let margin = match together.get(same).filter(|_| same < alone.len()) {
            Some(&token) => Some(margin(&self.logits_alone(cell, cache, sequence, same).await?, token)),
            None => None,
        };
        agreement.add_difference(same as f64 / count.max(1) as f64, margin);
        Ok(())
    }

    /// The logits of a sequence that runs alone, after so many tokens of its answer.
    async fn logits_alone(
        &self,
        cell: &Cell,
        cache: &Cache,
        sequence: usize,
        tokens: usize,
    ) -> Result<Vec<f32>> {
        let mut session = self.session(cell, cache, sequence)?;
        if tokens > 0 {
            let options = GenerateOptions { max_tokens: tokens, ..greedy() };
            drive(vec![session.generate(&options)?], self.limit, || ()).await?;
        }
        session.logits().await
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
    use benben::model::SyntheticPreset;
    use benben::{AdapterChoice, Gpu, RowFormat};
    use pollster::block_on;

    use super::*;

    async fn bench() -> Bench {
        let gpu = Gpu::open(&AdapterChoice::Best).await.unwrap();
        let model =
            Model::synthetic(&gpu, &SyntheticPreset::named("tiny").unwrap(), RowFormat::Q4).await.unwrap();
        let limit = Duration::from_secs(600);
        Bench { model, alone: Alone::default(), compare: 1, limit, step_tokens: None, random_rows: false }
    }

    /// The token with the least of what `key` makes of a logit.
    fn least(logits: &[f32], key: impl Fn(f32) -> f32) -> u32 {
        let by = |&a: &usize, &b: &usize| key(logits[a]).total_cmp(&key(logits[b]));
        (0..logits.len()).min_by(by).unwrap() as u32
    }

    #[test]
    fn margins_come_from_the_step_where_tokens_differ() {
        block_on(async {
            let mut bench = bench().await;
            for name in ["full", "auto-12", "pyramid-7b"] {
                let cache: Cache = name.parse().unwrap();
                let cell = Cell { batch: 1, prompt_tokens: 600, new_tokens: 40, cache: name.to_owned() };
                let alone = bench.run_alone(&cell, &cache, 0).await.unwrap();
                for at in [0, 1, 23, 39] {
                    let logits = bench.logits_alone(&cell, &cache, 0, at).await.unwrap();
                    assert_eq!(least(&logits, |x| -x), alone[at], "{name}, token {at}");
                    let best = logits[alone[at] as usize];
                    let second = least(&logits, |x| if x == best { f32::INFINITY } else { best - x });
                    let compared = |token, explained: f64| {
                        let mut together = alone.clone();
                        together[at] = token;
                        (together, Agreement::within(explained))
                    };
                    let (together, mut near) = compared(second, 1.0);
                    bench.compare(&cell, &cache, 0, &together, 40, &mut near).await.unwrap();
                    assert_eq!((near.near_ties, near.wrong), (1, 0), "{name}: {near:?}");
                    assert_eq!(near.largest_margin, margin(&logits, second));
                    let (together, mut wrong) =
                        compared(least(&logits, |x| x), bench.agreement(&cache).explained_margin);
                    bench.compare(&cell, &cache, 0, &together, 40, &mut wrong).await.unwrap();
                    assert_eq!((wrong.near_ties, wrong.wrong), (0, 1), "{name}: {wrong:?}");
                    assert_eq!(wrong.share_before_difference, at as f64 / 40.0);
                }
                let mut short = bench.agreement(&cache);
                bench.compare(&cell, &cache, 0, &alone[..39], 40, &mut short).await.unwrap();
                bench.compare(&cell, &cache, 0, &alone[..39], 39, &mut short).await.unwrap();
                assert_eq!((short.wrong, short.identical), (1, 1));
            }
        });
    }
}
