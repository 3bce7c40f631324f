//! The commands of the program `benben`.
//!
//! ```text
//! args.rs, kv_args.rs   flags that several commands share, checked before anything is opened
//! output.rs             files that are written whole and never over somebody else's
//! signals.rs            Ctrl-C and its like, and lines from stdin meanwhile
//! measure.rs            medians, and what the adapter reaches at best
//! report.rs             numbers and tables for people, JSON for programs
//! page/                 what HTML reports have in common
//! bench/                the command that measures speed
//! eval/                 the commands that measure quality
//! the others            one command each
//! ```
//!
//! An answer goes to stdout, everything said about it to stderr. An error is one sentence and exit status 1; a
//! flag that makes no sense is status 2.

mod answers;
mod args;
mod batch;
mod bench;
mod calibrate;
mod chat;
mod doctor;
mod eval;
mod info;
mod kv_args;
mod measure;
mod output;
mod page;
mod report;
mod run;
mod signals;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use benben::Advice;
use clap::{Parser, Subcommand};

/// Run language models on any GPU, with a KV cache that is a pyramid.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer one prompt.
    Run(run::RunArgs),
    /// Talk with a model, turn by turn.
    Chat(chat::ChatArgs),
    /// Answer a file of prompts, many at once.
    Batch(batch::BatchArgs),
    /// Describe a model file and the memory it would take; needs no GPU.
    Info(info::InfoArgs),
    /// Describe the adapters, and check and measure the kernels on one of them.
    Doctor(doctor::DoctorArgs),
    /// Measure prefill and decode speed.
    Bench(bench::BenchArgs),
    /// Measure how a KV budget is best shared by a model's layers, and keep that beside the model.
    Calibrate(calibrate::CalibrateArgs),
    /// Measure the quality that a cache policy leaves.
    #[command(subcommand)]
    Eval(eval::EvalCommand),
}

/// Advice in flags.
fn flag(advice: Advice) -> Option<String> {
    match advice {
        Advice::Context(tokens) => Some(format!("--context {tokens}")),
        Advice::KvBits(bits) => Some(format!("--kv-bits {bits}")),
        Advice::Weights(format) => Some(format!("--weights {}", format.name())),
        Advice::Sequences(sequences) => Some(format!("--max-sequences {sequences}")),
        Advice::ShorterAnswer => Some("a smaller --max-tokens".to_owned()),
        Advice::SmallerShare => Some("a smaller --kv-share".to_owned()),
        other => Some(other.to_string()),
    }
}

/// An error's message, with advice and the names of options as flags.
fn in_flags(error: &benben::Error) -> String {
    let is_option = |word: &str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    let worded = error.worded(flag);
    let each = |(i, part): (usize, &str)| match i % 2 {
        0 => part.to_owned(),
        _ if is_option(part) => format!("--{part}"),
        _ => format!("`{part}`"),
    };
    worded.split('`').enumerate().map(each).collect()
}

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{}", in_flags(.0))]
    Library(#[from] benben::Error),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    #[error("cannot write {path}: {error}")]
    Save { path: String, error: io::Error },
    #[error("cannot write to {path}: {error}; choose another --out")]
    Directory { path: String, error: io::Error },
    #[error("{failed} of {total} prompts could not be answered; their lines say why")]
    Unanswered { failed: usize, total: usize },
    #[error(
        "in {failed} of {total} cells, answers differ from those of single sequences by more than rounding explains"
    )]
    Answers { failed: usize, total: usize },
    #[error("{failed} of {total} kernel checks failed on {adapter}; its answers would be wrong")]
    Checks { failed: usize, total: usize, adapter: String },
}

impl Failure {
    /// What the system said when a file was to be written.
    fn save(path: &Path, error: io::Error) -> Self {
        Self::Save { path: path.display().to_string(), error }
    }
}

type Outcome<T = ()> = Result<T, Failure>;

/// Runs the command that the arguments of the process name.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    let outcome = pollster::block_on(async {
        match command {
            Command::Run(args) => run::run(&args).await,
            Command::Chat(args) => chat::run(&args).await,
            Command::Batch(args) => batch::run(&args).await,
            Command::Info(args) => info::run(&args).await,
            Command::Doctor(args) => doctor::run(&args).await,
            Command::Bench(args) => bench::run(&args).await,
            Command::Calibrate(args) => calibrate::run(&args).await,
            Command::Eval(command) => command.run().await,
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough, as `head` does.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            report::note(&format!("benben: {failure}"));
            ExitCode::FAILURE
        }
    }
}
