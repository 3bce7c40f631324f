//! The browser: the library's models and sessions as JavaScript classes, options and reports as plain objects.
//!
//! ```text
//! page ── web/benben.js ── messages ── web/worker.js ── ModelFile, Model, Session (here) ── the library
//! ```

mod file;
mod options;

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use js_sys::{Function, JSON, Object, Reflect};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::kernels::check::Check;
use crate::{AdapterChoice, Error, Generation, Gpu, Message, Result};
use options::{AnswerChoice, SessionChoice};

/// Runs every kernel on the browser's GPU against its CPU twin: `[{label, values, error, tolerance, passed}]`.
///
/// # Errors
/// An `Error` with a `code`: no adapter, or a kernel that the device refuses.
#[wasm_bindgen]
pub async fn doctor() -> Result<JsValue, JsValue> {
    let checks = async { crate::kernels::check::all(&Gpu::open(&AdapterChoice::Best).await?).await };
    let line = |c: &Check| {
        json!({
            "label": c.label, "values": c.values, "error": c.error, "tolerance": c.tolerance, "passed": c.passed(),
        })
    };
    checks.await.map(|checks| value(&checks.iter().map(line).collect::<Vec<_>>())).map_err(error)
}

/// A model on the browser's GPU; [`WebFile::load`](file::WebFile::load) makes one.
#[wasm_bindgen(js_name = Model)]
#[derive(Debug)]
pub struct WebModel(Arc<crate::Model>);

#[wasm_bindgen(js_class = Model)]
impl WebModel {
    /// `{name, layers, context, weightBytes, software}`; `context` is what the model was trained for.
    pub fn info(&self) -> JsValue {
        let (config, gpu) = (self.0.config(), self.0.gpu());
        value(&json!({
            "name": config.name,
            "layers": config.layers,
            "context": config.context,
            "weightBytes": gpu.bytes().weights,
            "software": gpu.is_software(),
        }))
    }

    /// Opens a conversation: `{kv: {policy, preset | keep | rows, perHead, kBits, vBits}, context}`, all optional.
    ///
    /// # Errors
    /// An `Error` with a `code` for options that make no sense or do not fit.
    pub fn session(&self, options: JsValue) -> Result<WebSession, JsValue> {
        let open = || {
            let options: SessionChoice = read(&options)?;
            crate::Session::new(&self.0, &options.options()?)
        };
        let session = open().map_err(error)?;
        let report = RefCell::new(Report::of(&session));
        Ok(WebSession { session: RefCell::new(Some(session)), report, cancel: Cancel::default() })
    }
}

/// One conversation. An answer borrows it: while one is under way only `stats` and `cancel` answer.
#[wasm_bindgen(js_name = Session)]
#[derive(Debug)]
pub struct WebSession {
    /// Taken out while an answer is under way.
    session: RefCell<Option<crate::Session>>,
    /// What `stats` says, renewed with every token.
    report: RefCell<Report>,
    cancel: Cancel,
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

    /// Answers what was added, with `{maxTokens, temperature, topK, topP, minP, repetitionPenalty, seed}`, all
    /// optional. Every token is handed to `piece(text, id)`; resolves to why the answer ended: `"stop"` when the
    /// model said so, `"length"`, or `"cancel"`.
    ///
    /// # Errors
    /// An `Error` with a `code`; what `piece` throws ends the answer and is thrown on.
    pub async fn generate(&self, options: JsValue, piece: Function) -> Result<String, JsValue> {
        let options: AnswerChoice = read(&options).map_err(error)?;
        let mut session = self.take().map_err(error)?;
        self.cancel.reset();
        let end = self.answer(&mut session, &options, &piece).await;
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

    /// The positions whose rows live in a layer: one ascending list, or one for each KV head.
    ///
    /// # Errors
    /// An `Error` with a `code`: no such layer, an answer under way, a lost device.
    pub async fn positions(&self, layer: usize) -> Result<JsValue, JsValue> {
        let mut session = self.take().map_err(error)?;
        let positions = session.positions(layer).await;
        self.session.replace(Some(session));
        positions.map(|lists| value(&lists)).map_err(error)
    }
}

impl WebSession {
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
        options: &AnswerChoice,
        piece: &Function,
    ) -> Result<&'static str, JsValue> {
        let text = session.model().clone();
        let mut stream = text.text().stream();
        let mut answer = session.generate(&options.options()).map_err(error)?;
        let mut yielded = 0;
        while let Some(id) = self.cancel.next(&mut answer).await {
            let id = id.map_err(error)?;
            yielded += 1;
            self.report.replace(Report::of(answer.session()));
            let said = stream.push(id).map_err(error)?;
            piece.call2(&JsValue::NULL, &said.into(), &id.into())?;
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

/// What `stats` says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    prompt_tokens: usize,
    prefill_seconds: f64,
    prefill_rate: f64,
    answer_tokens: usize,
    decode_seconds: f64,
    decode_rate: f64,
    tokens: usize,
    kv_bytes: u64,
    kv_bytes_full_f16: u64,
    rows_per_layer: Vec<usize>,
    host: Option<crate::HostReport>,
}

impl Report {
    fn of(session: &crate::Session) -> Self {
        let (kv, timing) = (session.kv(), session.timing());
        Self {
            prompt_tokens: timing.prompt_tokens,
            prefill_seconds: timing.prefill.as_secs_f64(),
            prefill_rate: timing.prefill_rate(),
            answer_tokens: timing.answer_tokens,
            decode_seconds: timing.decode.as_secs_f64(),
            decode_rate: timing.decode_rate(),
            tokens: session.tokens().len(),
            kv_bytes: kv.bytes,
            kv_bytes_full_f16: kv.bytes_full_f16,
            rows_per_layer: kv.rows_per_layer,
            host: kv.host,
        }
    }
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

    /// The next token of an answer, or `None` at its end and when it is to end.
    async fn next(&self, answer: &mut Generation<'_>) -> Option<Result<u32>> {
        std::future::poll_fn(|cx: &mut Context<'_>| {
            if self.wanted.get() {
                return Poll::Ready(None);
            }
            self.waker.replace(Some(cx.waker().clone()));
            Pin::new(&mut *answer).poll_next(cx)
        })
        .await
    }
}

/// An option object, by way of JSON; `undefined` and `null` are one without any entry.
fn read<T: DeserializeOwned + Default>(object: &JsValue) -> Result<T> {
    if object.is_undefined() || object.is_null() {
        return Ok(T::default());
    }
    let text = JSON::stringify(object).ok().and_then(|text| text.as_string());
    let text = text.ok_or_else(|| Error::Invalid("an option object that is no plain object".to_owned()))?;
    serde_json::from_str(&text).map_err(|e| Error::Invalid(format!("an option is not understood: {e}")))
}

/// A report as a plain object, by way of JSON.
fn value(report: &impl Serialize) -> JsValue {
    let text = serde_json::to_string(report).unwrap_or_default();
    JSON::parse(&text).unwrap_or(JsValue::NULL)
}

/// A JavaScript `Error` with the sentence and a `code` to tell kinds apart.
fn error(error: Error) -> JsValue {
    let thrown: Object = js_sys::Error::new(&error.to_string()).into();
    // Only a frozen object refuses a property, and this one is new.
    let _ = Reflect::set(&thrown, &"code".into(), &error.code().into());
    thrown.into()
}
