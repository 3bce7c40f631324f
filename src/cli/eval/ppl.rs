//! `benben eval ppl`: the perplexity of text that follows a compressed prefix.

use std::path::PathBuf;

use benben::text::Special;
use benben::{Error, Result};
use serde::Serialize;

use crate::cli::Outcome;
use crate::cli::args::{LoadArgs, bar, count, read_text};
use crate::cli::kv_args::{KvArgs, KvLabel};
use crate::cli::report::{self, Table};

#[derive(Debug, clap::Args)]
pub struct PplArgs {
    /// A GGUF file, or a directory with safetensors
    model: PathBuf,
    /// A text of UTF-8
    file: PathBuf,
    /// Tokens of a window that the policy may compress
    #[arg(long, value_name = "N", default_value = "1536", value_parser = count)]
    prefix: usize,
    /// Tokens after them, whose loss is measured
    #[arg(long, value_name = "N", default_value = "512", value_parser = count)]
    continuation: usize,
    /// Tokens to skip at the beginning of the text
    #[arg(long, value_name = "N", default_value = "0")]
    start: usize,
    /// Windows to measure
    #[arg(long, value_name = "N", default_value = "1", value_parser = count)]
    windows: usize,
    /// Tokens from one window's beginning to the next [default: prefix and continuation]
    #[arg(long, value_name = "N", value_parser = count)]
    stride: Option<usize>,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    kv: KvArgs,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// The mean natural-log loss of one window's continuation, or of all of them.
#[derive(Debug, Serialize)]
struct Loss {
    /// The window's first token.
    start: usize,
    mean_nll: f64,
    perplexity: f64,
}

impl Loss {
    fn new(start: usize, mean_nll: f64) -> Self {
        Self { start, mean_nll, perplexity: mean_nll.exp() }
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    model: &'a str,
    adapter: String,
    #[serde(flatten)]
    kv: KvLabel,
    prefix: usize,
    continuation: usize,
    windows: Vec<Loss>,
    mean_nll: f64,
    perplexity: f64,
    kv_bytes: u64,
    kv_bytes_full_f16: u64,
}

pub async fn run(args: &PplArgs) -> Outcome {
    let text = read_text(&args.file)?;
    let kv = args.kv.measured()?;
    let model = args.load.load(&args.model, &kv, None).await?;
    let tokens = model.text().encode(&text, Special::AsText)?;
    // Where a model wants a token that opens every text, a window is such a text.
    let opening = model.text().raw_prompt("")?;
    let starts = args.starts(tokens.len())?;
    let window = opening.len() + args.prefix + args.continuation;
    let mut session = args.load.session(&model, &kv, window)?;

    let bar = bar("window {pos} of {len} {bar:30} {eta} left");
    bar.set_length(starts.len() as u64);
    let mut windows = Vec::new();
    for start in starts {
        let (prefix, rest) = tokens[start..].split_at(args.prefix);
        let losses = session.losses(&[&opening, prefix].concat(), &rest[..args.continuation]).await?;
        let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
        windows.push(Loss::new(start, sum / losses.len() as f64));
        bar.inc(1);
    }
    bar.finish_and_clear();

    // Windows are equally long, so the mean of their means is that of all tokens.
    let total = Loss::new(0, windows.iter().map(|w| w.mean_nll).sum::<f64>() / windows.len() as f64);
    let (rows, kv) = (session.kv(), KvLabel::of(&kv.suited(model.config().heads, None)));
    if args.json {
        return report::json(&Report {
            model: &model.config().name,
            adapter: model.gpu().describe(),
            kv,
            prefix: args.prefix,
            continuation: args.continuation,
            mean_nll: total.mean_nll,
            perplexity: total.perplexity,
            windows,
            kv_bytes: rows.bytes,
            kv_bytes_full_f16: rows.bytes_full_f16,
        });
    }
    let mut table = Table::new(["window at", "mean loss", "perplexity"]);
    let mut row = |name: String, loss: &Loss| {
        table.row([name, format!("{:.4}", loss.mean_nll), format!("{:.3}", loss.perplexity)]);
    };
    windows.iter().for_each(|loss| row(loss.start.to_string(), loss));
    row("all".to_owned(), &total);
    Ok(report::say(&format!("{}, KV cache {kv}\n{table}", model.config().name))?)
}

impl PplArgs {
    /// The first token of each window.
    fn starts(&self, tokens: usize) -> Result<Vec<usize>> {
        let window = self.prefix + self.continuation;
        let stride = self.stride.unwrap_or(window);
        let need =
            (self.windows - 1).saturating_mul(stride).saturating_add(self.start).saturating_add(window);
        if need > tokens {
            let (windows, start) = (self.windows, self.start);
            return Err(Error::Invalid(format!(
                "the text has {tokens} tokens, but {windows} x {window} from token {start} on need {need}"
            )));
        }
        Ok((0..self.windows).map(|i| self.start + i * stride).collect())
    }
}
