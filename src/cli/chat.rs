//! `benben chat`: a conversation over stdin and stdout, with one cache for all its turns.
//!
//! A turn renders the whole conversation through the chat template. Where its tokens begin with those that the
//! session has seen, the answer's own included, only the rest is run; else the cache starts anew, with the rows of
//! what every conversation of this chat begins with. A file holds the cache beside the messages.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use benben::{Error, GenerateOptions, Message, Result, Session};

use super::args::{AnswerArgs, LoadArgs};
use super::kv_args::KvArgs;
use super::output::{Kind, Output};
use super::report::{note, say, summary};
use super::signals::{Events, Interrupt};
use super::{Failure, Outcome};

/// Tokens of a conversation unless `--context` says otherwise; what a model was trained for may not fit.
const CONTEXT: usize = 4096;

/// Tokens of a short first message, for which kernels are compiled ahead.
const FIRST_TURN: usize = 32;

/// Bytes of rows that are kept for conversations after a reset.
const KEPT: u64 = 256 << 20;

#[derive(Debug, clap::Args)]
pub struct ChatArgs {
    /// A GGUF file, or a directory with safetensors
    model: PathBuf,
    /// Say this to the model before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Go on with a conversation that was saved, under the same --kv flags
    #[arg(long, value_name = "FILE", conflicts_with = "system")]
    resume: Option<PathBuf>,
    /// Save the conversation when it ends
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    #[command(flatten)]
    answer: AnswerArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    kv: KvArgs,
}

pub async fn run(args: &ChatArgs) -> Outcome {
    let kv = args.kv.options()?;
    let output = args.save.as_deref().map(|path| Output::claim(path, Kind::Conversation)).transpose()?;
    let model = args.load.load(&args.model, &kv, Some(FIRST_TURN)).await?;
    if !model.text().has_template() {
        let message = "the model has no chat template, so it cannot chat; use `benben run --raw`";
        return Err(Error::Invalid(message.to_owned()).into());
    }
    let context = CONTEXT.min(model.config().context);
    let mut session = args.load.session(&model, &kv, context)?;
    session.warm_up().await?;
    let mut messages: Vec<Message> = args.system.iter().map(Message::system).collect();
    if let Some(path) = &args.resume {
        let options = args.load.session_options(&model, &kv, context)?;
        let (saved, note) = Session::restore(&model, &options, path).await?;
        session = saved;
        messages = serde_json::from_str(&note)
            .map_err(|e| Error::Invalid(format!("{} was not saved by a chat: {e}", path.display())))?;
    }
    model.keep_prefixes(KEPT);
    let events = Events::listen();
    let first = messages.iter().take_while(|message| message.role == "system").count();
    let (messages, system) = (messages.split_off(first), messages);
    let (options, interrupt) = (args.answer.options(), events.interrupt.clone());
    let mut chat = Chat { session, messages, system, options, interrupt, output };
    while let Some(line) = chat.next_line(&events)? {
        match line.trim() {
            "" => {}
            "/quit" => break,
            "/reset" => chat.messages.clear(),
            "/stats" => note(&summary(&chat.session)),
            text => match text.split_once(char::is_whitespace) {
                Some(("/save", path)) => {
                    if let Err(error) = chat.save(Path::new(path.trim())).await {
                        note(&format!("benben: {error}"));
                    }
                }
                None if text.starts_with('/') => note(
                    "commands: /reset forgets the conversation, /save FILE keeps it for --resume, /stats shows speed \
                     and memory, /quit leaves, as Ctrl-C does",
                ),
                _ => chat.turn(text).await?,
            },
        }
    }
    chat.finish().await
}

struct Chat {
    session: Session,
    messages: Vec<Message>,
    system: Vec<Message>,
    options: GenerateOptions,
    interrupt: Arc<Interrupt>,
    /// Where the conversation goes when it ends.
    output: Option<Output>,
}

impl Chat {
    /// What is said next; nothing at the end.
    fn next_line(&self, events: &Events) -> io::Result<Option<String>> {
        if io::stdin().is_terminal() {
            say("> ")?;
        }
        events.line()
    }

    /// Asks `text` and prints the answer. What another question may still mend is only told.
    async fn turn(&mut self, text: &str) -> Outcome {
        self.messages.push(Message::user(text));
        match self.answer().await {
            Ok(answer) => self.messages.push(Message::assistant(answer)),
            Err(Failure::Library(
                error @ (Error::ContextFull { .. } | Error::Text(_) | Error::Invalid(_)),
            )) => {
                self.messages.pop();
                note(&format!("benben: {} (/reset forgets the conversation)", super::in_flags(&error)));
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    async fn answer(&mut self) -> Outcome<String> {
        self.append()?;
        let mut stream = self.session.model().text().stream();
        let mut text = String::new();
        let mut take = |piece: String| {
            text += &piece;
            say(&piece)
        };
        let mut answer = self.session.generate(&self.options)?;
        while let Some(id) = self.interrupt.next(&mut answer).await {
            take(stream.push(id?)?)?;
        }
        self.interrupt.idle();
        take(stream.finish())?;
        say("\n")?;
        Ok(text)
    }

    /// Brings the session to the end of the conversation.
    fn append(&mut self) -> Result<()> {
        let messages = [&self.system[..], &self.messages].concat();
        let prompt = self.session.model().text().prompt(&messages)?;
        match prompt.strip_prefix(self.session.tokens()) {
            Some(new) if !new.is_empty() => self.session.append(new),
            _ => {
                self.session.clear();
                let (common, rest) = prompt.split_at(self.common(&prompt));
                self.session.append_common(common)?;
                self.session.append(rest)
            }
        }
    }

    /// How much of a prompt every conversation with this system prompt begins with.
    fn common(&self, prompt: &[u32]) -> usize {
        let other = [&self.system[..], &[Message::user("")]].concat();
        // A template that refuses an empty message has nothing to lose but time.
        let other = self.session.model().text().prompt(&other).unwrap_or_default();
        let common = prompt.iter().zip(&other).take_while(|(a, b)| a == b).count();
        common.min(prompt.len().saturating_sub(1))
    }

    /// Saves the conversation to a file that somebody names meanwhile.
    async fn save(&mut self, path: &Path) -> Outcome {
        let bytes = self.bytes().await?;
        match &mut self.output {
            Some(output) if output.is(path) => output.write(&bytes),
            _ => Output::claim(path, Kind::Conversation)?.write(&bytes),
        }
    }

    /// Saves the conversation where it should go at the end.
    async fn finish(mut self) -> Outcome {
        let Some(mut output) = self.output.take() else { return Ok(()) };
        output.write(&self.bytes().await?)
    }

    async fn bytes(&mut self) -> Result<Vec<u8>> {
        let messages = [&self.system[..], &self.messages].concat();
        let note = serde_json::to_string(&messages).map_err(|e| Error::Invalid(e.to_string()))?;
        self.session.to_bytes(&note).await
    }
}
