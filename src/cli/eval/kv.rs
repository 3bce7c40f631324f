//! `benben eval kv`: many configurations side by side, from texts to a report.
//!
//! What is measured is kept cell by cell in the output directory, so that a run that was interrupted goes on where
//! it stopped, and one that asks for more measures only that.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use benben::text::Special;
use benben::{KvOptions, Model, Result};
use clap::ValueEnum;

use super::cells::Cells;
use super::grid::GridArgs;
use super::needles::Mode;
use super::plan::{Plan, Sizes};
use super::runner::Runner;
use super::split::{Source, Split};
use super::summary::{Summary, TextQuality};
use super::{markdown, page};
use crate::cli::args::{LoadArgs, bar, count, read_text};
use crate::cli::output::{Kind, Output};
use crate::cli::report::{self, Table};
use crate::cli::{Failure, Outcome};

#[derive(Debug, clap::Args)]
pub struct KvEvalArgs {
    /// A GGUF file, or a directory with safetensors
    model: PathBuf,
    /// A text of UTF-8; the first one is for tuning, the others are held out, and one alone is cut in the middle
    #[arg(long, value_name = "FILE", required = true)]
    text: Vec<PathBuf>,
    /// The directory for the report, and for what an interrupted run has measured
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    grid: GridArgs,
    /// What to measure on
    #[arg(long, value_enum, default_value = "both")]
    split: Splits,
    /// Windows of text, for each split
    #[arg(long, value_name = "N", default_value = "4", value_parser = some)]
    windows: usize,
    /// Tokens of a window that the policy may compress
    #[arg(long, value_name = "N", default_value = "1536", value_parser = count)]
    prefix: usize,
    /// Tokens after them that are scored
    #[arg(long, value_name = "N", default_value = "512", value_parser = count)]
    continuation: usize,
    /// Trials with one hidden key, for each split
    #[arg(long, value_name = "N", default_value = "24", value_parser = some)]
    trials: usize,
    /// Trials with four hidden keys, for each split
    #[arg(long, value_name = "N", default_value = "8", value_parser = some)]
    multi_trials: usize,
    /// Tokens of text around the hidden keys
    #[arg(long, value_name = "N", default_value = "900", value_parser = count)]
    haystack: usize,
    /// Tokens of the prompts to time
    #[arg(long, value_name = "N", value_delimiter = ',', default_values = ["512", "2048"], value_parser = count)]
    contexts: Vec<usize>,
    #[command(flatten)]
    load: LoadArgs,
}

/// The splits to measure on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Splits {
    /// What one may look at while tuning.
    Tuned,
    /// What tells how good the outcome is.
    HeldOut,
    /// One beside the other.
    Both,
}

pub async fn run(args: &KvEvalArgs) -> Outcome {
    let texts = args.text.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    let out = &args.out;
    let refused = |error: std::io::Error| Failure::Directory { path: out.display().to_string(), error };
    std::fs::create_dir_all(out).map_err(refused)?;
    let mut cells = Cells::open(&out.join("cells.jsonl"))?;
    let claim = |name: &str, kind| Output::claim(&out.join(name), kind);
    let [mut json, mut markdown, mut html] = [
        claim("report.json", Kind::Json)?,
        claim("report.md", Kind::Markdown)?,
        claim("report.html", Kind::Page)?,
    ];

    let model = args.load.load(&args.model, &KvOptions::full(), None).await?;
    let texts: Vec<Source> = texts
        .into_iter()
        .map(|(name, text)| Ok(Source { name, tokens: model.text().encode(&text, Special::AsText)? }))
        .collect::<Result<_>>()?;
    let configs = args.grid.configs(model.config().heads)?;
    let splits: &[Split] = match args.split {
        Splits::Tuned => &[Split::Tuned],
        Splits::HeldOut => &[Split::HeldOut],
        Splits::Both => &[Split::Tuned, Split::HeldOut],
    };
    let sizes = args.sizes();
    let plan = Plan::new(args.id(&model)?, configs, model.text(), &texts, splits, &sizes)?;

    let bar = bar("{pos} of {len} {bar:30} {eta} left  {msg}");
    bar.set_length(plan.cells() as u64);
    Runner { model: &model, load: &args.load, plan: &plan, cells: &mut cells, bar: &bar }.run().await?;
    bar.finish_and_clear();

    let texts = texts.into_iter().map(|text| text.name).collect();
    let summary = Summary::new(&plan, &cells, &model, texts, sizes);
    let text = serde_json::to_string_pretty(&summary).map_err(std::io::Error::from)? + "\n";
    json.write(text.as_bytes())?;
    markdown.write(markdown::document(&summary).as_bytes())?;
    html.write(page::document(&summary)?.as_bytes())?;
    report::say(&format!("{}\n{}\n", table(&summary), out.join("report.html").display()))?;
    Ok(())
}

impl KvEvalArgs {
    fn sizes(&self) -> Sizes {
        Sizes {
            windows: self.windows,
            prefix: self.prefix,
            continuation: self.continuation,
            trials: self.trials,
            multi_trials: self.multi_trials,
            haystack: self.haystack,
            contexts: self.contexts.clone(),
        }
    }

    /// What every number follows from, beside configuration and tokens. Another build of the program is another
    /// program.
    fn id(&self, model: &Model) -> Result<String> {
        let program = std::env::current_exe().map(|path| stamp(&path)).unwrap_or_default();
        let weights = self.load.weights.name();
        Ok(format!(
            "{} {} | {weights} | {} | {program}",
            model.config().name,
            stamp(&self.model),
            model.gpu().describe()
        ))
    }
}

/// Size and time of the last change of a file, or of every file in a directory.
fn stamp(path: &Path) -> String {
    let mut files: Vec<PathBuf> = match std::fs::read_dir(path) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(_) => vec![path.to_owned()],
    };
    files.sort();
    let stamp = |file: &PathBuf| {
        let data = std::fs::metadata(file).ok()?;
        let changed = data.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(format!("{}@{}", data.len(), changed.as_nanos()))
    };
    files.iter().filter_map(stamp).collect::<Vec<_>>().join(",")
}

/// A text and the name it goes by: its file's, without the extension.
fn read(path: &Path) -> Result<(String, String)> {
    let text = read_text(path)?;
    let name = path.file_stem().unwrap_or(path.as_os_str());
    Ok((name.to_string_lossy().into_owned(), text))
}

/// Windows or trials, of which there may be none.
fn some(text: &str) -> Result<usize, String> {
    if text == "0" { Ok(0) } else { count(text) }
}

/// The numbers that matter most, for the terminal.
fn table(summary: &Summary) -> Table {
    let mut table =
        Table::new(["configuration", "split", "bytes", "perplexity", "KL", "passkey aware", "agnostic"]);
    for row in &summary.rows {
        for (split, quality) in &row.quality {
            let text = |show: fn(&TextQuality) -> String| quality.text.as_ref().map_or("-".to_owned(), show);
            table.row([
                row.name.clone(),
                split.to_string(),
                row.bytes(),
                text(|t| format!("{:.4}", t.ratio)),
                text(|t| format!("{:.4}", t.kl)),
                quality.tally(Mode::Aware, false).to_string(),
                quality.tally(Mode::Agnostic, false).to_string(),
            ]);
        }
    }
    table
}
