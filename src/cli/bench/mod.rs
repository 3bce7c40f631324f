//! `benben bench`: how fast a model runs, beside what the adapter reaches at best.
//!
//! ```text
//! one.rs       one sequence: rates, time to the first token, and how an answer goes on
//! kernels.rs   each hot kernel alone, on the model's own shapes
//! suite.rs     the built-in grids of batch, prompt and cache
//! cache.rs     caches by name
//! runner.rs    a grid → its report, cell by cell
//! agreement.rs whether those are the same, but for near ties
//! cell.rs      one cell: many sequences side by side, and the same tokens one by one
//! turns.rs     cells of one sequence each, which take turns
//! drive.rs     answers → tokens with the times at which they came
//! summary.rs   what a suite found, for programs and for a terminal
//! page.html    the same for looking at; page.rs says what it shows
//! ```

mod agreement;
mod cache;
mod cell;
mod drive;
mod kernels;
mod one;
mod page;
mod runner;
mod steps;
mod suite;
mod summary;
mod turns;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use benben::model::SyntheticPreset;
use benben::{Error, KvOptions, Model, Result, RowFormat};
use clap::ValueEnum;
use serde::Serialize;

use super::Outcome;
use super::args::{LoadArgs, Weights, count};
use super::kv_args::KvArgs;
use super::output::{Kind, Output};
use super::report;

#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// A GGUF file, or a directory with safetensors
    #[arg(required_unless_present = "synthetic", conflicts_with = "synthetic")]
    model: Option<PathBuf>,
    /// Random weights in the shape of a published model: tiny, smollm2-135m, llama3-8b, llama2-13b, ...
    #[arg(long, value_name = "NAME")]
    synthetic: Option<String>,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value = "512", value_parser = count, conflicts_with = "suite")]
    prompt_tokens: usize,
    /// Tokens to generate; of 256 or more, each quarter is told
    #[arg(long, value_name = "N", default_value = "32", value_parser = count, conflicts_with = "suite")]
    max_tokens: usize,
    /// Times to measure
    #[arg(long, value_name = "N", default_value = "3", value_parser = count, conflicts_with = "suite")]
    runs: usize,
    /// Time each hot kernel alone, with attention over the rows of the prompt
    #[arg(long, conflicts_with = "suite")]
    kernels: bool,
    #[command(flatten)]
    suite: suite::SuiteArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    kv: KvArgs,
    /// Print one JSON object instead of a table; with a file, write it there as well as the table here
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    json: Option<Option<PathBuf>>,
}

pub async fn run(args: &BenchArgs) -> Outcome {
    // Before minutes of measuring, not after them.
    let reports = Reports::claim(args)?;
    match args.suite.suite {
        Some(suite) => runner::run(args, suite, reports).await,
        None if args.kernels => kernels::run(args, reports).await,
        None => one::run(args, reports).await,
    }
}

/// Files that a report goes to, as it is known so far.
struct Reports {
    json: Option<Output>,
    page: Option<Output>,
}

impl Reports {
    fn claim(args: &BenchArgs) -> Outcome<Self> {
        let json = args.json.iter().flatten().next();
        Ok(Self {
            json: json.map(|path| Output::claim(path, Kind::Json)).transpose()?,
            page: args.suite.html.as_ref().map(|path| Output::claim(path, Kind::Page)).transpose()?,
        })
    }

    fn save(&mut self, report: &impl Serialize, page: impl FnOnce() -> std::io::Result<String>) -> Outcome {
        if let Some(json) = &mut self.json {
            let text = serde_json::to_string_pretty(report).map_err(std::io::Error::from)? + "\n";
            json.write(text.as_bytes())?;
        }
        match &mut self.page {
            Some(output) => output.write(page()?.as_bytes()),
            None => Ok(()),
        }
    }
}

impl BenchArgs {
    /// Loads the model or makes it up; `kv` is for the plan.
    async fn open(&self, kv: &KvOptions) -> Result<Arc<Model>> {
        match (&self.synthetic, &self.model) {
            (Some(name), _) => {
                let preset = SyntheticPreset::named(name)?;
                let gpu = self.load.device.open().await?;
                Model::synthetic(&gpu, &preset, self.load.weights.format().unwrap_or(RowFormat::Q4)).await
            }
            (None, Some(path)) => self.load.load(path, kv, None).await,
            (None, None) => Err(Error::Invalid("give a model, or a shape with --synthetic".to_owned())),
        }
    }

    /// The format of the weights, as the flag has it.
    fn weights_name(&self) -> String {
        let weights = match (self.load.weights, &self.synthetic) {
            (Weights::Auto, Some(_)) => Weights::Q4,
            (weights, _) => weights,
        };
        weights.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
    }

    /// Prints the report as it was asked for.
    fn print(&self, report: &(impl Serialize + std::fmt::Display)) -> Outcome {
        match &self.json {
            Some(None) => report::json(report),
            _ => Ok(report::say(&report.to_string())?),
        }
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// A prompt of arbitrary tokens, another one for each sequence: speed does not depend on which.
fn prompt(sequence: usize, tokens: usize, vocab: usize) -> Vec<u32> {
    (0..tokens).map(|i| ((1000 + 7 * (i + 61 * sequence) % 4096) % vocab) as u32).collect()
}
