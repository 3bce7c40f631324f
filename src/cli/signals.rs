//! What ends an answer or a conversation from outside: Ctrl-C stops the answer under way, and between answers leaves;
//! SIGTERM, and a terminal that closes, leave at once. Lines come from stdin meanwhile.

use std::io::{self, BufRead};
use std::pin::pin;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::task::{Poll, Waker};
use std::thread;

use benben::{Generation, Result};

use super::output;
use super::report::note;

/// What somebody at the other end did.
pub enum Event {
    /// Said a line.
    Line(String),
    /// Asked to leave.
    Leave,
}

/// Lines and signals, as they come.
pub struct Events {
    events: Receiver<io::Result<Event>>,
    pub interrupt: Arc<Interrupt>,
}

impl Events {
    /// Begins to listen.
    pub fn listen() -> Self {
        let (sender, events) = mpsc::channel();
        let interrupt = Arc::new(Interrupt { state: Mutex::default(), idle: sender.clone() });
        if let Err(error) = watch() {
            note(&format!("signals will end the program, and nothing will be saved then: {error}"));
        }
        *LISTENER.lock().unwrap_or_else(PoisonError::into_inner) = Some(interrupt.clone());
        thread::spawn(move || read_lines(&sender));
        Self { events, interrupt }
    }

    /// The next line; nothing at the end of stdin, and when somebody wants to leave.
    ///
    /// # Errors
    /// The system's, when stdin cannot be read.
    pub fn line(&self) -> io::Result<Option<String>> {
        let event = if self.interrupt.leaves() {
            Ok(Event::Leave)
        } else {
            self.events.recv().unwrap_or(Ok(Event::Leave))
        };
        match event? {
            Event::Line(line) if !self.interrupt.leaves() => Ok(Some(line)),
            _ => Ok(None),
        }
    }
}

/// Sends every line of stdin, and that it ended.
fn read_lines(events: &Sender<io::Result<Event>>) {
    let mut stdin = io::stdin().lock();
    let mut mark = "\u{feff}";
    loop {
        let mut line = Vec::new();
        let event = match stdin.read_until(b'\n', &mut line) {
            Ok(0) => Ok(Event::Leave),
            Ok(_) => {
                let line = String::from_utf8_lossy(&line);
                Ok(Event::Line(line.strip_prefix(mark).unwrap_or(&line).to_owned()))
            }
            Err(error) => Err(error),
        };
        mark = "\n\n";
        let last = !matches!(event, Ok(Event::Line(_)));
        if events.send(event).is_err() || last {
            return;
        }
    }
}

/// Stops the answer under way when somebody wants that.
pub struct Interrupt {
    state: Mutex<State>,
    /// Who hears of it between answers.
    idle: Sender<io::Result<Event>>,
}

#[derive(Default)]
struct State {
    pressed: bool,
    leaves: bool,
    /// Whom to wake; there is somebody only while an answer is under way.
    waker: Option<Waker>,
}

impl Interrupt {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leaves(&self) -> bool {
        self.lock().leaves
    }

    /// Somebody pressed Ctrl-C, or wants to `leave` at once.
    fn press(&self, leave: bool) {
        let mut state = self.lock();
        let answering = state.waker.take();
        state.pressed |= answering.is_some();
        state.leaves |= leave || answering.is_none();
        match answering {
            Some(waker) => waker.wake(),
            None => drop(self.idle.send(Ok(Event::Leave))),
        }
    }

    /// Forgets the answer that was under way.
    pub fn idle(&self) {
        let mut state = self.lock();
        (state.pressed, state.waker) = (false, None);
    }

    /// The next token of an answer, or `None` at its end and when it is to stop.
    pub async fn next(&self, answer: &mut Generation<'_>) -> Option<Result<u32>> {
        let mut next = pin!(answer.next());
        std::future::poll_fn(|cx| {
            let mut state = self.lock();
            if state.pressed || state.leaves {
                return Poll::Ready(None);
            }
            state.waker = Some(cx.waker().clone());
            drop(state);
            next.as_mut().poll(cx)
        })
        .await
    }
}

/// Who hears of signals; nobody, and they end the program.
static LISTENER: Mutex<Option<Arc<Interrupt>>> = Mutex::new(None);

/// What a signal does: it is told to who listens, or ends the program, which leaves no unfinished file behind. Gives back
/// whether it ends it.
fn heard(leave: bool) -> bool {
    let listener = LISTENER.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match &listener {
        Some(interrupt) => interrupt.press(leave),
        None => output::remove_parts(),
    }
    listener.is_none()
}

/// Begins to catch signals, once.
///
/// # Errors
/// The system's, when it does not let signals be caught.
pub fn watch() -> io::Result<()> {
    static WATCHED: Once = Once::new();
    let mut outcome = Ok(());
    WATCHED.call_once(|| outcome = catch());
    outcome
}

#[cfg(unix)]
fn catch() -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::spawn(move || {
        for signal in signals.forever() {
            if heard(signal != SIGINT) {
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        }
    });
    Ok(())
}

#[cfg(not(unix))]
fn catch() -> io::Result<()> {
    let end = || {
        if heard(false) {
            std::process::exit(1);
        }
    };
    ctrlc::set_handler(end).map_err(io::Error::other)
}
