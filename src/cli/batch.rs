//! `benben batch`: a file of prompts, a file of answers.
//!
//! Both have a JSON object a line, in the same order. An answer is written as soon as those before it are, so that
//! what is in the file after an interruption is whole, and the next run goes on behind it.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use benben::{Answer, Engine, EngineOptions, Error, KvOptions, Model, Request, Result};
use serde::{Deserialize, Serialize};

use super::args::{AnswerArgs, FormArgs, LoadArgs, bar, count};
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
}

/// A line of the answers.
#[derive(Debug, Serialize)]
struct Line<'a> {
    prompt: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Vec<u32>>,
    /// Why there is no answer to this prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub async fn run(args: &BatchArgs) -> Outcome {
    let prompts = read_prompts(&args.prompts)?;
    let (mut file, done) = resume(&args.out, &prompts)?;
    if done == prompts.len() {
        report::note(&format!("all {done} answers are in {} already", args.out.display()));
        return Ok(());
    }
    let model = args.load.load(&args.model, &args.kv.options()?, None).await?;
    let mut batch = Batch::new(args, &model, &prompts[done..])?;

    let progress = bar("{pos} of {len} answers {bar:30} {eta} left");
    progress.set_length(prompts.len() as u64);
    progress.set_position(done as u64);
    let (started, mut tokens, mut failed) = (Instant::now(), 0, 0);
    while let Some(line) = batch.next().await? {
        tokens += line.tokens.as_ref().map_or(0, Vec::len);
        failed += usize::from(line.error.is_some());
        let text = serde_json::to_string(&line).map_err(io::Error::from)? + "\n";
        file.write_all(text.as_bytes()).map_err(|error| Failure::save(&args.out, error))?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    let total = prompts.len() - done;
    report::note(&format!(
        "{} answers, {tokens} tokens at {:.1}/s, up to {} at once; {}",
        total - failed,
        tokens as f64 / started.elapsed().as_secs_f64(),
        batch.engine.report().most_sequences,
        model.gpu().describe(),
    ));
    if failed > 0 { Err(Failure::Unanswered { failed, total }) } else { Ok(()) }
}

/// Prompts on their way through an engine.
struct Batch<'a> {
    args: &'a BatchArgs,
    model: &'a Model,
    kv: KvOptions,
    engine: Engine,
    /// Those that are not submitted yet.
    prompts: &'a [Prompt],
    /// Those that are, in their order.
    answers: VecDeque<(&'a str, Result<Answer>)>,
}

impl<'a> Batch<'a> {
    fn new(args: &'a BatchArgs, model: &'a Arc<Model>, prompts: &'a [Prompt]) -> Outcome<Self> {
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
            let Some((next, rest)) = self.prompts.split_first() else { return };
            let answer = self.args.form.tokens(&next.prompt, self.model).and_then(|prompt| {
                let (kv, generate) = (self.kv.clone(), self.args.answer.options());
                self.engine.submit(Request { prompt, kv, generate, ..Request::default() })
            });
            self.answers.push_back((&next.prompt, answer));
            self.prompts = rest;
        }
    }

    /// The next answer in the order of the prompts. A prompt that cannot be answered says why; a lost device, or one
    /// without memory, ends all.
    async fn next(&mut self) -> Result<Option<Line<'a>>> {
        self.feed();
        let Some((prompt, answer)) = self.answers.pop_front() else { return Ok(None) };
        let outcome = match answer {
            Ok(answer) => self.collect(answer).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok((text, tokens)) => {
                Ok(Some(Line { prompt, text: Some(text), tokens: Some(tokens), error: None }))
            }
            Err(error @ (Error::DeviceLost(_) | Error::OutOfMemory { .. })) => Err(error),
            Err(error) => Ok(Some(Line { prompt, text: None, tokens: None, error: Some(error.to_string()) })),
        }
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

fn read_prompts(path: &Path) -> Result<Vec<Prompt>> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::File { path: name.clone(), reason: error.to_string() })?;
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
    Ok(prompts)
}

/// Opens the file of answers behind the last whole line, and says how many answers it has.
fn resume(path: &Path, prompts: &[Prompt]) -> Outcome<(File, usize)> {
    let open = || {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok((file, text))
    };
    let (mut file, text) = open().map_err(|error| Failure::save(path, error))?;
    let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let mut done = 0;
    for line in text[..whole].split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let found = serde_json::from_slice::<Prompt>(line).ok().map(|line| line.prompt);
        if found.is_none() || found.as_deref() != prompts.get(done).map(|p| p.prompt.as_str()) {
            return Err(Failure::Library(Error::Invalid(format!(
                "line {} of {} is not the answer to prompt {}; choose another --out, or delete the file",
                done + 1,
                path.display(),
                done + 1,
            ))));
        }
        done += 1;
    }
    // What was cut off amid a line is answered again.
    let cut = file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0)));
    cut.map_err(|error| Failure::save(path, error))?;
    Ok((file, done))
}
