//! `benben run`: one prompt, one answer.

use std::io::{self, Read};
use std::path::PathBuf;

use benben::{Error, Result, Session};
use serde::Serialize;

use super::Outcome;
use super::args::{AnswerArgs, FormArgs, LoadArgs, read_text, without_mark};
use super::kv_args::{KvArgs, KvLabel};
use super::report;

/// Of a prompt whose tokens are not known before the model is there.
const BYTES_PER_TOKEN: usize = 4;

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// A GGUF file, or a directory with safetensors
    model: PathBuf,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    answer: AnswerArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    kv: KvArgs,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct PromptArgs {
    /// The prompt; `-` reads it from stdin
    #[arg(short, long, value_name = "TEXT", required_unless_present = "file", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    #[command(flatten)]
    form: FormArgs,
}

impl PromptArgs {
    fn read(&self) -> Result<String> {
        let text = match (&self.file, self.prompt.as_deref()) {
            (Some(file), _) => read_text(file)?,
            (None, Some("-")) => {
                let mut text = String::new();
                let unreadable =
                    |e: io::Error| Error::File { path: "stdin".to_owned(), reason: e.to_string() };
                io::stdin().read_to_string(&mut text).map_err(unreadable)?;
                without_mark(text)
            }
            (None, text) => text.unwrap_or_default().to_owned(),
        };
        if text.trim().is_empty() {
            return Err(Error::Invalid(
                "the prompt is empty; give it with -p TEXT, -f FILE, or -p - for stdin".into(),
            ));
        }
        Ok(text)
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    model: &'a str,
    adapter: String,
    #[serde(flatten)]
    kv: KvLabel,
    text: String,
    tokens: Vec<u32>,
    /// "stop" when the model ended its answer, "length" when the limit did.
    stop_reason: &'static str,
    prompt_tokens: usize,
    prefill_seconds: f64,
    decode_seconds: f64,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: Option<f64>,
    kv_bytes: u64,
    kv_bytes_full_f16: u64,
    rows_per_layer: Vec<usize>,
    peak_bytes: u64,
}

pub async fn run(args: &RunArgs) -> Outcome {
    let text = args.prompt.read()?;
    let kv = args.kv.options()?;
    let model = args.load.load(&args.model, &kv, Some(text.len() / BYTES_PER_TOKEN)).await?;
    let prompt = args.prompt.form.tokens(&text, &model)?;
    let context = (prompt.len() + args.answer.max_tokens).min(model.config().context);
    let mut session = args.load.session(&model, &kv, context)?;
    session.warm_up().await?;
    session.append(&prompt)?;

    let (text, tokens) = answer(args, &mut session).await?;
    if !args.json {
        report::say("\n")?;
        report::note(&report::summary(&session));
        return Ok(());
    }
    let (timing, rows) = (session.timing(), session.kv());
    report::json(&Report {
        model: &model.config().name,
        adapter: model.gpu().describe(),
        kv: KvLabel::of(&kv.suited(model.config().heads, None)),
        text,
        // A stop token is part of the answer's timing, but not of what was yielded.
        stop_reason: if timing.answer_tokens > tokens.len() { "stop" } else { "length" },
        tokens,
        prompt_tokens: timing.prompt_tokens,
        prefill_seconds: timing.prefill.as_secs_f64(),
        decode_seconds: timing.decode.as_secs_f64(),
        prefill_tokens_per_second: timing.prefill_rate(),
        decode_tokens_per_second: (timing.answer_tokens > 1).then(|| timing.decode_rate()),
        kv_bytes: rows.bytes,
        kv_bytes_full_f16: rows.bytes_full_f16,
        rows_per_layer: rows.rows_per_layer,
        peak_bytes: model.gpu().bytes().peak,
    })
}

/// Generates the answer; its text is printed as it comes unless JSON is wanted.
async fn answer(args: &RunArgs, session: &mut Session) -> Outcome<(String, Vec<u32>)> {
    let model = session.model().clone();
    let mut stream = args.prompt.form.stream(&model);
    let (mut text, mut tokens) = (String::new(), Vec::new());
    let mut take = |piece: String| {
        text += &piece;
        if args.json { Ok(()) } else { report::say(&piece) }
    };
    let mut answer = session.generate(&args.answer.options())?;
    while let Some(id) = answer.next().await {
        let id = id?;
        tokens.push(id);
        take(stream.push(id)?)?;
    }
    take(stream.finish())?;
    Ok((text, tokens))
}
