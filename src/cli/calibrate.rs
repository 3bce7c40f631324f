//! `benben calibrate`: measures how much each layer gains from rows, and keeps that beside the model.
//!
//! Nothing is written before everything is measured, and then at once: whoever interrupts it keeps the profile that
//! was there.

use std::path::{Path, PathBuf};

use benben::engine::Window;
use benben::kv::Profile;
use benben::text::Special;
use benben::weights::profile_path;
use benben::{Error, KvOptions, Model, Result};

use super::Outcome;
use super::args::{LoadArgs, bar, count, read_text};
use super::output::{Kind, Output};
use super::report::{Table, note, say};

/// Columns of the longest bar.
const LONGEST: f32 = 40.0;

#[derive(Debug, clap::Args)]
pub struct CalibrateArgs {
    /// A GGUF file, or a directory with safetensors
    model: PathBuf,
    /// Texts of UTF-8, of the kind that the model is for
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    text: Vec<PathBuf>,
    /// Tokens of a window whose rows are dropped, at least 512
    #[arg(long, value_name = "N", default_value = "768", value_parser = count)]
    prefix: usize,
    /// Tokens after them, whose predictions are compared with the full cache's
    #[arg(long, value_name = "N", default_value = "320", value_parser = count)]
    continuation: usize,
    /// Tokens to skip at the beginning of each text
    #[arg(long, value_name = "N", default_value = "0")]
    start: usize,
    /// Windows to measure, spread evenly over each text
    #[arg(long, value_name = "N", default_value = "2", value_parser = count)]
    windows: usize,
    /// Where the profile goes [default: beside the model, where it is found again]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    load: LoadArgs,
}

pub async fn run(args: &CalibrateArgs) -> Outcome {
    let texts = args.text.iter().map(|path| read_text(path)).collect::<Result<Vec<_>>>()?;
    let path = args.output.clone().unwrap_or_else(|| profile_path(&args.model));
    // Before minutes of measuring, not after them.
    let mut output = Output::claim(&path, Kind::Profile)?;
    let model = args.load.load(&args.model, &KvOptions::full(), None).await?;
    let mut windows = Vec::new();
    for (path, text) in args.text.iter().zip(texts) {
        windows.extend(args.windows(&model, path, &text)?);
    }
    let bar = bar("measurement {pos} of {len} {bar:30} {per_sec}, {eta} left");
    let measuring = Profile::measure(&model, &windows, args.names(), |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    let profile = measuring.await?;
    bar.finish_and_clear();
    say(&format!("{}, {}\n{}", model.config().name, profile.measured(), chart(profile.weights())))?;
    output.write(profile.to_json()?.as_bytes())?;
    note(&format!("saved to {}", path.display()));
    Ok(())
}

impl CalibrateArgs {
    /// The windows of one text.
    fn windows(&self, model: &Model, path: &Path, text: &str) -> Result<Vec<Window>> {
        let tokens = model.text().encode(text, Special::AsText)?;
        // Where a model wants a token that opens every text, a window is such a text.
        let opening = model.text().raw_prompt("")?;
        let window = self.prefix.saturating_add(self.continuation);
        let Some(room) = tokens.len().checked_sub(self.start.saturating_add(window)) else {
            let (path, have, start) = (path.display(), tokens.len(), self.start);
            return Err(Error::Invalid(format!(
                "{path} has {have} tokens, but a window of {window} from token {start} on does not fit; give a \
                 longer text, or a smaller --prefix"
            )));
        };
        let start = |i: usize| self.start + i * room / (self.windows - 1).max(1);
        let cut = |start: usize| {
            let (prefix, continuation) = tokens[start..start + window].split_at(self.prefix);
            ([&opening, prefix].concat(), continuation.to_vec())
        };
        Ok((0..self.windows).map(|i| cut(start(i))).collect())
    }

    /// The texts without their directories.
    fn names(&self) -> String {
        let names =
            self.text.iter().map(|path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy());
        names.collect::<Vec<_>>().join(", ")
    }
}

/// One bar for each layer.
fn chart(weights: &[f32]) -> String {
    let largest = weights.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    let longest = LONGEST as usize;
    let mut table = Table::new(["layer", &" ".repeat(longest), "rows / mean"]);
    for (layer, weight) in weights.iter().enumerate() {
        let bar = "█".repeat((weight / largest * LONGEST).round() as usize);
        table.row([layer.to_string(), format!("{bar:<longest$}"), format!("{weight:.2}")]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::chart;

    #[test]
    fn the_largest_weight_has_the_longest_bar() {
        let chart = chart(&[0.5, 2.0, 0.25]);
        let bars: Vec<usize> = chart.lines().map(|line| line.matches('█').count()).collect();
        assert_eq!(bars, [0, 10, 40, 5]);
        assert!(chart.lines().nth(2).is_some_and(|line| line.starts_with("  1 ") && line.ends_with("2.00")));
    }
}
