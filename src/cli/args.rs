//! Flags that say where a model runs, how it is loaded and how it answers.

use std::path::Path;
use std::sync::Arc;

use benben::gpu::cache_folder;
use benben::plan::{Limits, Plan};
use benben::text::TokenStream;
use benben::weights::ModelFile;
use benben::{
    AdapterChoice, Error, GenerateOptions, Gpu, KvOptions, LoadOptions, Message, Model, Result, RowFormat,
    Sampling, Session, SessionOptions,
};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};

use super::report::note;

/// Between the seeds of prompts: 2^32 by the golden ratio, so that neighbours are far apart.
const SPREAD: u32 = 0x9e37_79b9;

/// The most tokens of a context, and the most that any count may ask for.
const MOST_TOKENS: usize = 1 << 24;

#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// The adapter: its index in `benben doctor`, or a part of its name [default: the fastest]
    #[arg(long, value_name = "NAME|INDEX")]
    adapter: Option<AdapterChoice>,
}

impl DeviceArgs {
    /// The device, with what earlier runs of the program found out about it.
    pub async fn open(&self) -> Result<Gpu> {
        let choice = self.adapter.clone().unwrap_or_default();
        match cache_folder() {
            Some(folder) => Gpu::open_remembering(&choice, &folder).await,
            None => Gpu::open(&choice).await,
        }
    }
}

/// The format that weights are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    /// The one nearest to the file's, matrix by matrix.
    Auto,
    F16,
    Q8,
    Q4,
}

impl Weights {
    pub fn format(self) -> Option<RowFormat> {
        match self {
            Self::Auto => None,
            Self::F16 => Some(RowFormat::F16),
            Self::Q8 => Some(RowFormat::Q8),
            Self::Q4 => Some(RowFormat::Q4),
        }
    }

    /// The word that a user types.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

#[derive(Debug, clap::Args)]
pub struct LoadArgs {
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Keep the weights in this format
    #[arg(long, value_enum, default_value = "auto")]
    pub weights: Weights,
    /// Use at most this much memory on the device, for example 2GiB
    #[arg(long, value_name = "BYTES", value_parser = size)]
    memory: Option<u64>,
    /// Tokens that prompt and answers may have together
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    pub context: Option<usize>,
}

impl LoadArgs {
    /// Opens the file and the device and loads the one onto the other, with a progress bar on a terminal; what a first
    /// prompt of `prompt` tokens runs is compiled meanwhile.
    pub async fn load(&self, path: &Path, kv: &KvOptions, prompt: Option<usize>) -> Result<Arc<Model>> {
        let file = ModelFile::open(path)?;
        let gpu = self.device.open().await?;
        let options = LoadOptions {
            weights: self.weights.format(),
            memory: self.memory,
            kv: kv.clone(),
            context: self.context,
            prompt,
        };
        let bar = bar("loading {bar:30} {bytes} of {total_bytes}");
        let model = Model::from_file(&gpu, &file, &options, |progress| {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        });
        let model = model.await;
        bar.finish_and_clear();
        if let Ok(model) = &model {
            model.text().notes().iter().for_each(|text| note(&format!("benben: {text}")));
        }
        model
    }

    /// Bytes that `--memory` leaves for rows beside the weights.
    pub fn rows_memory(&self, gpu: &Gpu) -> Option<u64> {
        self.memory.map(|memory| memory.saturating_sub(gpu.bytes().weights))
    }

    /// A session of `--context` tokens, or of `context` without the flag, within `--memory`.
    pub fn session(&self, model: &Arc<Model>, kv: &KvOptions, context: usize) -> Result<Session> {
        Session::new(model, &self.session_options(model, kv, context)?)
    }

    /// What such a session is set up with.
    pub fn session_options(
        &self,
        model: &Arc<Model>,
        kv: &KvOptions,
        context: usize,
    ) -> Result<SessionOptions> {
        let context = self.context.unwrap_or(context);
        if self.memory.is_some() {
            Plan::session(model.config(), kv, context)?.check(&self.limits(model.gpu()))?;
        }
        Ok(SessionOptions { kv: kv.clone(), context: Some(context) })
    }

    /// What is left beside the weights on the device.
    pub fn limits(&self, gpu: &Gpu) -> Limits {
        Limits::of(gpu, self.rows_memory(gpu))
    }
}

/// A progress bar that only a terminal shows.
pub fn bar(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

#[derive(Debug, clap::Args)]
pub struct AnswerArgs {
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value = "256", value_parser = count)]
    pub max_tokens: usize,
    /// Flatten the distribution (above 1) or sharpen it (below 1); 0 takes the most probable token
    #[arg(long, value_name = "T", default_value = "0", value_parser = temperature, allow_negative_numbers = true)]
    temperature: f32,
    /// Draw from this many of the most probable tokens; 0 is all
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true)]
    top_k: u32,
    /// Draw from the fewest tokens that together reach this probability
    #[arg(long, value_name = "P", default_value = "1", value_parser = share, allow_negative_numbers = true)]
    top_p: f32,
    /// Drop tokens less probable than this fraction of the most probable one
    #[arg(long, value_name = "P", default_value = "0", value_parser = fraction, allow_negative_numbers = true)]
    min_p: f32,
    /// Make the last tokens less probable (above 1)
    #[arg(long, value_name = "X", default_value = "1", value_parser = penalty, allow_negative_numbers = true)]
    repetition_penalty: f32,
    /// Draw the same tokens for the same seed
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true)]
    seed: u32,
}

impl AnswerArgs {
    /// The same for prompt `i` of several, so that equal ones draw different tokens, and the same in every run.
    pub fn options_of(&self, i: usize) -> GenerateOptions {
        let mut options = self.options();
        options.sampling.seed = self.seed.wrapping_add((i as u32).wrapping_mul(SPREAD));
        options
    }

    pub fn options(&self) -> GenerateOptions {
        let sampling = Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        };
        GenerateOptions { max_tokens: self.max_tokens, sampling, stop: None }
    }
}

/// How a prompt reaches the model.
#[derive(Debug, clap::Args)]
pub struct FormArgs {
    /// Continue the prompt as it stands, without the chat template
    #[arg(long, conflicts_with = "system")]
    raw: bool,
    /// Say this to the model before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
}

impl FormArgs {
    /// The tokens of a prompt in this form.
    pub fn tokens(&self, prompt: &str, model: &Model) -> Result<Vec<u32>> {
        if self.raw {
            return model.text().raw_prompt(prompt);
        }
        let mut messages: Vec<Message> = self.system.iter().map(Message::system).collect();
        messages.push(Message::user(prompt));
        model.text().prompt(&messages)
    }

    /// The text of its answer, as the tokens come.
    pub fn stream(&self, model: &Model) -> TokenStream {
        if self.raw { model.text().stream_continued() } else { model.text().stream() }
    }
}

/// The text of a file, without the byte order mark that some editors put in front.
///
/// # Errors
/// [`Error::File`] if it cannot be read, or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path);
    text.map(without_mark)
        .map_err(|e| Error::File { path: path.display().to_string(), reason: e.to_string() })
}

/// A text without the byte order mark in front.
pub fn without_mark(text: String) -> String {
    match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// A number of tokens, rows or runs.
pub fn count(text: &str) -> Result<usize, String> {
    let expected = format!("expected a whole number from 1 to {MOST_TOKENS}");
    text.parse().ok().filter(|n| (1..=MOST_TOKENS).contains(n)).ok_or(expected)
}

/// A part of something that must not be nothing.
pub fn share(text: &str) -> Result<f32, String> {
    number(text, "above 0 and at most 1", |x| x > 0.0 && x <= 1.0)
}

fn fraction(text: &str) -> Result<f32, String> {
    number(text, "from 0 to 1", |x| (0.0..=1.0).contains(&x))
}

fn temperature(text: &str) -> Result<f32, String> {
    number(text, "from 0 to 100", |x| (0.0..=100.0).contains(&x))
}

fn penalty(text: &str) -> Result<f32, String> {
    number(text, "above 0 and at most 100", |x| x > 0.0 && x <= 100.0)
}

/// NaN fits nowhere: every comparison with it is false.
fn number(text: &str, range: &str, fits: impl Fn(f32) -> bool) -> Result<f32, String> {
    text.parse().ok().filter(|&x| fits(x)).ok_or_else(|| format!("expected a number {range}"))
}

/// Bytes, with or without a unit.
fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 7] = [
        ("kib", 1024.0),
        ("mib", 1048576.0),
        ("gib", 1073741824.0),
        ("kb", 1e3),
        ("mb", 1e6),
        ("gb", 1e9),
        ("b", 1.0),
    ];
    let lower = text.to_ascii_lowercase();
    let with_unit = UNITS.iter().find_map(|(name, unit)| Some((lower.strip_suffix(name)?, *unit)));
    let (number, unit) = with_unit.unwrap_or((&lower, 1.0));
    let bytes = number.trim().parse().ok().map(|n: f64| n * unit).filter(|n| (1.0..1e18).contains(n));
    bytes.map(|n| n as u64).ok_or_else(|| "expected a number of bytes, for example 2GiB or 500MB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("2GiB"), Ok(2 << 30));
        assert_eq!(size("1.5 MB"), Ok(1_500_000));
        assert_eq!(size("4096"), Ok(4096));
        for absurd in ["", "GiB", "-1", "0", "1e40GiB", "NaN", "inf", "2 TiB!"] {
            assert!(size(absurd).is_err(), "{absurd}");
        }
    }

    #[test]
    fn ranges_refuse_what_is_not_in_them() {
        assert_eq!((share("1"), share("0.25")), (Ok(1.0), Ok(0.25)));
        for absurd in ["0", "1.5", "-0.1", "NaN", "inf", "much"] {
            assert!(share(absurd).is_err(), "{absurd}");
        }
        assert!(count("0").is_err() && count("-3").is_err() && count("16777217").is_err());
        assert!(temperature("-1").is_err() && temperature("nan").is_err() && penalty("0").is_err());
    }
}
