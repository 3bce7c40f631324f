//! `benben eval`: what a cache policy costs in quality.
//!
//! ```text
//! ppl.rs        perplexity of one configuration
//! kv.rs         many configurations side by side: flags, and from texts to reports
//! plan.rs       what is to be measured: windows, trials, prompts to time
//! runner.rs     measures what is not measured yet
//! grid.rs       policies × shares of the bytes × row formats
//! split.rs      which parts of which text may be tuned on, and which are held out
//! needles.rs    something to find in a text: what is hidden, what is asked
//! cells.rs      one measurement, and the file that survives an interruption
//! summary.rs    measurements → means, errors, intervals
//! markdown.rs   the summary for reading in a terminal or a repository
//! page.html     the summary for looking at; page.rs and side.rs say what it shows
//! ```

mod cells;
mod grid;
mod kv;
mod markdown;
mod needles;
mod page;
mod plan;
mod ppl;
mod runner;
mod side;
mod split;
mod summary;

use clap::Subcommand;

use super::Outcome;

#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// Perplexity of text that follows a prefix which the policy has compressed.
    Ppl(ppl::PplArgs),
    /// Compare policies, budgets and row formats: loss, divergence, recall, bytes and speed, as a report.
    Kv(kv::KvEvalArgs),
}

impl EvalCommand {
    pub async fn run(&self) -> Outcome {
        match self {
            Self::Ppl(args) => ppl::run(args).await,
            Self::Kv(args) => kv::run(args).await,
        }
    }
}
