//! A conversation as a JavaScript class.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use js_sys::{Array, Function, Uint32Array};
use wasm_bindgen::prelude::*;

use super::js::{error, read, value};
use super::options::AnswerChoice;
use super::report::Report;
use crate::{Error, GenerateOptions, Message, Result};

/// Device time of one submission of a prompt: short enough to be stopped, long enough that waiting for each costs
/// little.
const PREFILL_BUDGET: Duration = Duration::from_millis(50);

/// One conversation. An answer borrows it: while one is under way only `stats`, `ids`, `words`
/// and `cancel` answer.
#[wasm_bindgen(js_name = Session)]
#[derive(Debug)]
pub struct WebSession {
    /// Taken out while an answer is under way.
    session: RefCell<Option<crate::Session>>,
    /// What `stats` and `ids` say, renewed with every token.
    report: RefCell<Report>,
    cancel: Cancel,
    model: Arc<crate::Model>,
    /// Tokens of the next answer that `restore` brought along.
    said: Cell<usize>,
}

#[wasm_bindgen(js_class = Session)]
impl WebSession {
    /// Compiles the shaders, so that the first answer does not have to; the session is empty before and after.
    ///
    /// # Errors
    /// An `Error` with a `code`: the session is not empty, or the device refuses a shader.
    #[wasm_bindgen(js_name = warmUp)]
    pub async fn warm_up(&self) -> Result<(), JsValue> {
        let mut session = self.take().map_err(error)?;
        let outcome = session.warm_up().await;
        self.session.replace(Some(session));
        outcome.map_err(error)
    }

    /// Brings the session to the end of a conversation, `[{role, content}, ...]`; what it holds already is kept.
    /// Returns the tokens that are new to it.
    ///
    /// # Errors
    /// An `Error` with a `code`: no chat template, no room, an answer under way.
    pub fn chat(&self, messages: JsValue) -> Result<usize, JsValue> {
        let add = |session: &mut crate::Session| {
            let messages: Vec<Message> = read(&messages)?;
            let prompt = session.model().text().prompt(&messages)?;
            extend(session, &prompt)
        };
        self.with(add).map_err(error)
    }

    /// Like `chat`, for a text that the model is to go on with.
    ///
    /// # Errors
    /// An `Error` with a `code`: no room, an answer under way.
    pub fn text(&self, text: &str) -> Result<usize, JsValue> {
        let add = |session: &mut crate::Session| {
            let prompt = session.model().text().raw_prompt(text)?;
            extend(session, &prompt)
        };
        self.with(add).map_err(error)
    }

    /// Brings an empty session to where another one was lost: its tokens, of which the last `said` are an answer's
    /// that the next `generate` goes on with.
    ///
    /// # Errors
    /// An `Error` with a `code`: no room, an answer under way.
    pub fn restore(&self, ids: Vec<u32>, said: usize) -> Result<(), JsValue> {
        self.said.set(said.min(ids.len()));
        self.with(|session| session.append(&ids)).map_err(error)
    }

    /// Another conversation that has said the same so far: no rows are copied, and each goes on with its own.
    ///
    /// # Errors
    /// An `Error` with a `code`: no room, an answer under way.
    pub fn fork(&self) -> Result<WebSession, JsValue> {
        self.with(crate::Session::fork).map(Self::new).map_err(error)
    }

    /// Answers what was added, with `{maxTokens, temperature, topK, topP, minP, repetitionPenalty, seed}`, all
    /// optional. `prefill(done, total)` hears of the prompt's tokens as they run, `piece(text, id)` of every token
    /// of the answer. What `piece` returns, if it is a function, is given the `positions` of that moment. Resolves
    /// to why the answer ended: `"stop"` when the model said so, `"length"`, or `"cancel"`.
    ///
    /// # Errors
    /// An `Error` with a `code`; what `piece` throws ends the answer and is thrown on.
    pub async fn generate(
        &self,
        options: JsValue,
        prefill: Function,
        piece: Function,
    ) -> Result<String, JsValue> {
        let options: AnswerChoice = read(&options).map_err(error)?;
        let mut session = self.take().map_err(error)?;
        self.cancel.reset();
        let end = self.answer(&mut session, options.options(), &prefill, &piece).await;
        self.report.replace(Report::of(&session));
        self.session.replace(Some(session));
        end.map(str::to_owned)
    }

    /// Ends the answer under way, also amid its prompt; what was generated stays.
    pub fn cancel(&self) {
        self.cancel.set();
    }

    /// `{promptTokens, prefillSeconds, prefillRate, answerTokens, decodeSeconds, decodeRate}` of the last answer or
    /// of the one under way, rates in tokens per second, and `{tokens, kvBytes, kvBytesFullF16, rowsPerLayer}` of
    /// the conversation.
    pub fn stats(&self) -> JsValue {
        value(&*self.report.borrow())
    }

    /// Every token of the conversation.
    pub fn ids(&self) -> Vec<u32> {
        self.report.borrow().ids.clone()
    }

    /// The conversation's tokens from the one at `first` on, each for people to read.
    ///
    /// # Errors
    /// An `Error` with a `code` for a token outside the tokenizer's vocabulary.
    pub fn words(&self, first: usize) -> Result<Vec<String>, JsValue> {
        let report = self.report.borrow();
        let words = report.ids.iter().skip(first).map(|&id| self.model.text().label(id));
        words.collect::<Result<_>>().map_err(error)
    }

    /// The positions whose rows live: for each layer one ascending `Uint32Array`, or one for each KV head.
    ///
    /// # Errors
    /// An `Error` with a `code`: an answer under way, a lost device.
    pub async fn positions(&self) -> Result<Array, JsValue> {
        let mut session = self.take().map_err(error)?;
        let positions = session.all_positions().await;
        self.session.replace(Some(session));
        positions.map(|layers| arrays(&layers)).map_err(error)
    }
}

impl WebSession {
    pub(super) fn new(session: crate::Session) -> Self {
        Self {
            report: RefCell::new(Report::of(&session)),
            cancel: Cancel::default(),
            model: session.model().clone(),
            said: Cell::new(0),
            session: RefCell::new(Some(session)),
        }
    }

    fn take(&self) -> Result<crate::Session> {
        let busy = || Error::Invalid("the session is busy with an answer; cancel it or wait".to_owned());
        self.session.take().ok_or_else(busy)
    }

    fn with<T>(&self, work: impl FnOnce(&mut crate::Session) -> Result<T>) -> Result<T> {
        let mut session = self.take()?;
        let outcome = work(&mut session);
        self.session.replace(Some(session));
        outcome
    }

    async fn answer(
        &self,
        session: &mut crate::Session,
        mut options: GenerateOptions,
        prefill: &Function,
        piece: &Function,
    ) -> Result<&'static str, JsValue> {
        let mut stream = self.model.text().stream();
        let said = self.said.take();
        for &id in &session.tokens()[session.tokens().len() - said..] {
            // What these tokens say was handed out before; of a character begun, the stream keeps the beginning.
            stream.push(id).map_err(error)?;
        }
        options.max_tokens = options.max_tokens.saturating_sub(said);
        let mut answer = session.generate(&options).map_err(error)?;
        self.report.replace(Report::of(answer.session()));
        // A listener that throws has no say in whether the prompt runs.
        let report =
            |done: usize, total: usize| drop(prefill.call2(&JsValue::NULL, &done.into(), &total.into()));
        let Some(ran) = self.cancel.race(answer.prefill(PREFILL_BUDGET, report)).await else {
            return Ok("cancel");
        };
        ran.map_err(error)?;
        let mut yielded = 0;
        while let Some(id) = self.cancel.race(answer.next()).await.flatten() {
            let id = id.map_err(error)?;
            yielded += 1;
            self.report.replace(Report::of(answer.session()));
            let said = stream.push(id).map_err(error)?;
            let wish = piece.call2(&JsValue::NULL, &said.into(), &id.into())?;
            if let Some(show) = wish.dyn_ref::<Function>() {
                let positions = answer.positions().await.map_err(error)?;
                show.call1(&JsValue::NULL, &arrays(&positions))?;
            }
        }
        let rest = stream.finish();
        if !rest.is_empty() {
            piece.call2(&JsValue::NULL, &rest.into(), &JsValue::UNDEFINED)?;
        }
        // A stop token is part of the answer's timing, but not of what was yielded.
        let stopped = answer.session().timing().answer_tokens > yielded;
        Ok(match (answer.is_finished(), stopped) {
            (false, _) => "cancel",
            (true, true) => "stop",
            (true, false) => "length",
        })
    }
}

/// Positions as a page reads them: layers of sets of a `Uint32Array` each.
fn arrays(layers: &[Vec<Vec<u32>>]) -> Array {
    let sets = |sets: &Vec<Vec<u32>>| sets.iter().map(|set| Uint32Array::from(&set[..])).collect::<Array>();
    layers.iter().map(sets).collect()
}

/// Adds what `prompt` has beyond the session's tokens; a session that holds something else begins anew.
fn extend(session: &mut crate::Session, prompt: &[u32]) -> Result<usize> {
    if !prompt.starts_with(session.tokens()) || prompt.len() == session.tokens().len() {
        session.clear();
    }
    let new = &prompt[session.tokens().len()..];
    session.append(new)?;
    Ok(new.len())
}

/// A wish to end an answer, and whom to wake when it comes.
#[derive(Debug, Default)]
struct Cancel {
    wanted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Cancel {
    fn reset(&self) {
        self.wanted.set(false);
    }

    fn set(&self) {
        self.wanted.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// What `work` comes to, or `None` if it is to end before.
    async fn race<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        std::future::poll_fn(|cx: &mut Context<'_>| {
            if self.wanted.get() {
                return Poll::Ready(None);
            }
            self.waker.replace(Some(cx.waker().clone()));
            work.as_mut().poll(cx).map(Some)
        })
        .await
    }
}
