//! `benben chat`: a conversation over stdin and stdout, with one cache for all its turns.
//!
//! A turn renders the whole conversation through the chat template. Where its tokens begin with those that the
//! session has seen, the answer's own included, only the rest is run; else the cache starts anew.

use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;
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

#[derive(Debug, clap::Args)]
pub struct ChatArgs {
    /// A GGUF file, or a directory with safetensors
    model: PathBuf,
    /// Say this to the model before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    answer: AnswerArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    kv: KvArgs,
}

pub async fn run(args: &ChatArgs) -> Outcome {
    let kv = args.kv.options()?;
    let model = args.load.load(&args.model, &kv).await?;
    if !model.text().has_template() {
        let message = "the model has no chat template, so it cannot chat; use `benben run --raw`";
        return Err(Error::Invalid(message.to_owned()).into());
    }
    let mut session = args.load.session(&model, &kv, CONTEXT.min(model.config().context))?;
    session.warm_up().await?;
    let interrupt = Arc::new(Interrupt::default());
    let pressed = interrupt.clone();
    if let Err(error) = ctrlc::set_handler(move || pressed.press()) {
        note(&format!("Ctrl-C will end the program: {error}"));
    }
    let system = args.system.iter().map(Message::system).collect();
    let options = args.answer.options();
    let mut chat = Chat { session, messages: Vec::new(), system, options, interrupt };
    while let Some(line) = read_line()? {
        match line.trim() {
            "" => {}
            "/quit" => break,
            "/reset" => chat.messages.clear(),
            "/stats" => note(&summary(&chat.session)),
            word if word.starts_with('/') && !word.contains(char::is_whitespace) => {
                note(
                    "commands: /reset forgets the conversation, /stats shows speed and memory, /quit leaves",
                );
            }
            text => chat.turn(text).await?,
        }
    }
    Ok(())
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
                note(&format!("benben: {error} (/reset forgets the conversation)"));
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
                self.session.append(&prompt)
            }
        }
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
