//! `benben chat`: a conversation over stdin and stdout, with one cache for all its turns.
//!
//! A turn renders the whole conversation through the chat template. Where its tokens begin with those that the
//! session has seen, the answer's own included, only the rest is run; else the cache starts anew, with the rows of
//! what every conversation of this chat begins with. A file holds the cache beside the messages.

use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use benben::{Error, GenerateOptions, Generation, Message, Result, Session};

use super::args::{AnswerArgs, LoadArgs};
use super::kv_args::KvArgs;
use super::report::{note, say, summary};
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
    args.save.as_deref().map_or(Ok(()), has_folder)?;
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
    let interrupt = Arc::new(Interrupt::default());
    let pressed = interrupt.clone();
    if let Err(error) = ctrlc::set_handler(move || pressed.press()) {
        note(&format!("Ctrl-C will end the program: {error}"));
    }
    let first = messages.iter().take_while(|message| message.role == "system").count();
    let (messages, system) = (messages.split_off(first), messages);
    let options = args.answer.options();
    let mut chat = Chat { session, messages, system, options, interrupt };
    while let Some(line) = read_line()? {
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
                     and memory, /quit leaves",
                ),
                _ => chat.turn(text).await?,
            },
        }
    }
    match &args.save {
        Some(path) => Ok(chat.save(path).await?),
        None => Ok(()),
    }
}

/// Fails before a conversation begins that could not be saved.
fn has_folder(path: &Path) -> Result<()> {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        Some(folder) => {
            let (path, folder) = (path.display(), folder.display());
            Err(Error::Invalid(format!("cannot write {path}: there is no folder {folder}; create it first")))
        }
        None => Ok(()),
    }
}

/// The next line of stdin, or nothing at its end.
fn read_line() -> io::Result<Option<String>> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        say("> ")?;
    }
    let mut line = Vec::new();
    let read = stdin.lock().read_until(b'\n', &mut line)?;
    Ok((read > 0).then(|| String::from_utf8_lossy(&line).into_owned()))
}

struct Chat {
    session: Session,
    messages: Vec<Message>,
    system: Vec<Message>,
    options: GenerateOptions,
    interrupt: Arc<Interrupt>,
}

impl Chat {
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

    async fn save(&mut self, path: &Path) -> Result<()> {
        let messages = [&self.system[..], &self.messages].concat();
        let note = serde_json::to_string(&messages).map_err(|e| Error::Invalid(e.to_string()))?;
        self.session.save(path, &note).await
    }
}

/// Ctrl-C: it stops the answer under way, and not the program.
#[derive(Default)]
struct Interrupt(Mutex<State>);

#[derive(Default)]
struct State {
    pressed: bool,
    /// Whom to wake; there is somebody only while an answer is under way.
    waker: Option<Waker>,
}

impl Interrupt {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn press(&self) {
        let mut state = self.lock();
        match state.waker.take() {
            Some(waker) => {
                state.pressed = true;
                waker.wake();
            }
            None => note("\n/quit or Ctrl-D leaves"),
        }
    }

    /// Forgets the answer that was under way.
    fn idle(&self) {
        *self.lock() = State::default();
    }

    /// The next token of an answer, or `None` at its end and when Ctrl-C was pressed.
    async fn next(&self, answer: &mut Generation<'_>) -> Option<Result<u32>> {
        let mut next = pin!(answer.next());
        std::future::poll_fn(|cx| {
            let mut state = self.lock();
            if state.pressed {
                return Poll::Ready(None);
            }
            state.waker = Some(cx.waker().clone());
            drop(state);
            next.as_mut().poll(cx)
        })
        .await
    }
}
