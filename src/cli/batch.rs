//! `benben batch`: a file of prompts, a file of answers.
//!
//! Both have a JSON object a line, in the same order; `answers.rs` has the latter. Prompts that got no answer are tried
//! again by the next run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use benben::{Answer, Engine, EngineOptions, Error, KvOptions, Model, Request, Result};
use serde::Deserialize;
use serde_json::Value;

use super::answers::{Answers, Line};
use super::args::{AnswerArgs, FormArgs, LoadArgs, bar, count, read_text};
use super::kv_args::KvArgs;
use super::{Failure, Outcome, report};

#[derive(Debug, clap::Args)]
pub struct BatchArgs {
    /// A GGUF file, or a directory with safetensors
    model: PathBuf,
    /// A JSON object with a "prompt" on every line
    prompts: PathBuf,
    /// Where to write a JSON object with "prompt", "text" and "tokens" for each of them; what is there already stays
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Sequences that run at once, at most
    #[arg(long, value_name = "N", default_value = "16", value_parser = count)]
    max_sequences: usize,
    /// Tokens that one step computes at most, of prompts and answers together
    #[arg(long, value_name = "N", default_value = "256", value_parser = count)]
    step_tokens: usize,
    /// Computes each sequence by itself, for the tokens of `run` to the last bit; slower
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    form: FormArgs,
    #[command(flatten)]
    answer: AnswerArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    kv: KvArgs,
}

/// A line of the prompts.
#[derive(Debug, Deserialize)]
struct Prompt {
    prompt: String,
    /// Whatever else it says.
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

pub async fn run(args: &BatchArgs) -> Outcome {
    let prompts = read_prompts(&args.prompts)?;
    let mut answers = Answers::open(&args.out, &prompts)?;
    let missing = answers.missing();
    if answers.beyond() > 0 {
        let (more, out) = (answers.beyond(), args.out.display());
        report::note(&format!(
            "benben: {out} has {more} answers beyond those to these prompts, which stay there"
        ));
    }
    if missing.is_empty() {
        report::note(&format!("all {} answers are in {} already", prompts.len(), args.out.display()));
        return Ok(());
    }
    let model = args.load.load(&args.model, &args.kv.options()?, None).await?;
    let mut batch = Batch::new(args, &model, missing.iter().map(|&i| (i, prompts[i].as_str())).collect())?;

    let progress = bar("{pos} of {len} answers {bar:30} {eta} left");
    progress.set_length(prompts.len() as u64);
    progress.set_position((prompts.len() - missing.len()) as u64);
    let (started, mut tokens, mut failed) = (Instant::now(), 0, 0);
    while let Some((i, line)) = batch.next().await? {
        tokens += line.tokens.as_ref().map_or(0, Vec::len);
        failed += usize::from(line.error.is_some());
        answers.put(i, &line)?;
        progress.inc(1);
    }
    answers.finish()?;
    progress.finish_and_clear();
    report::note(&format!(
        "{} answers, {tokens} tokens at {:.1}/s, up to {} at once; {}",
        missing.len() - failed,
        tokens as f64 / started.elapsed().as_secs_f64(),
        batch.engine.report().most_sequences,
        model.gpu().describe(),
    ));
    let total = prompts.len();
    if failed > 0 { Err(Failure::Unanswered { failed, total }) } else { Ok(()) }
}

/// Prompts on their way through an engine.
struct Batch<'a> {
    args: &'a BatchArgs,
    model: &'a Model,
    kv: KvOptions,
    engine: Engine,
    /// Those that are not submitted yet, with their places.
    prompts: VecDeque<(usize, &'a str)>,
    /// Those that are, in their order.
    answers: VecDeque<(usize, &'a str, Result<Answer>)>,
}

impl<'a> Batch<'a> {
    fn new(args: &'a BatchArgs, model: &'a Arc<Model>, prompts: VecDeque<(usize, &'a str)>) -> Outcome<Self> {
        let options = EngineOptions {
            max_sequences: args.max_sequences,
            context: args.load.context,
            step_tokens: args.step_tokens,
            memory: args.load.rows_memory(model.gpu()),
            exact: args.exact,
        };
        let (engine, kv) = (Engine::new(model, &options)?, args.kv.options()?);
        Ok(Self { args, model, kv, engine, prompts, answers: VecDeque::new() })
    }

    /// Submits as many as keep every place taken.
    fn feed(&mut self) {
        while self.engine.report().waiting < self.args.max_sequences {
            let Some((i, text)) = self.prompts.pop_front() else { return };
            let answer = self.args.form.tokens(text, self.model).and_then(|prompt| {
                let (kv, generate) = (self.kv.clone(), self.args.answer.options_of(i));
                self.engine.submit(Request { prompt, kv, generate, ..Request::default() })
            });
            self.answers.push_back((i, text, answer));
        }
    }

    /// The next answer in the order of the prompts, and its place. A prompt that cannot be answered says why; a lost device, or one
    /// without memory, ends all.
    async fn next(&mut self) -> Result<Option<(usize, Line)>> {
        self.feed();
        let Some((i, prompt, answer)) = self.answers.pop_front() else { return Ok(None) };
        let outcome = match answer {
            Ok(answer) => self.collect(answer).await,
            Err(error) => Err(error),
        };
        let (text, tokens, error) = match outcome {
            Ok((text, tokens)) => (Some(text), Some(tokens), None),
            Err(error @ (Error::DeviceLost(_) | Error::OutOfMemory { .. })) => return Err(error),
            Err(error) => (None, None, Some(super::in_flags(&error))),
        };
        Ok(Some((i, Line { prompt: prompt.to_owned(), text, tokens, error })))
    }

    async fn collect(&mut self, mut answer: Answer) -> Result<(String, Vec<u32>)> {
        let mut stream = self.args.form.stream(self.model);
        let (mut text, mut tokens) = (String::new(), Vec::new());
        while let Some(token) = answer.next().await {
            tokens.push(token?);
            text += &stream.push(tokens[tokens.len() - 1])?;
            self.feed();
        }
        Ok((text + &stream.finish(), tokens))
    }
}

/// The prompts of a file; of fields that are not read, a note.
fn read_prompts(path: &Path) -> Result<Vec<String>> {
    let name = path.display().to_string();
    let text = read_text(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let prompt = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| Error::Format {
            file: name.clone(),
            reason: format!("line {} is not a JSON object with a \"prompt\": {error}", i + 1),
        })
    };
    let prompts: Vec<Prompt> = lines.map(prompt).collect::<Result<_>>()?;
    if prompts.is_empty() {
        return Err(Error::Invalid(format!(
            "{name} has no prompt; write a line {{\"prompt\": \"...\"}} for each"
        )));
    }
    let others: BTreeSet<&str> =
        prompts.iter().flat_map(|prompt| prompt.rest.keys().map(String::as_str)).collect();
    if !others.is_empty() {
        let others = others.into_iter().collect::<Vec<_>>().join(", ");
        report::note(&format!("benben: of the lines of {name}, only \"prompt\" is read, and not {others}"));
    }
    Ok(prompts.into_iter().map(|prompt| prompt.prompt).collect())
}
