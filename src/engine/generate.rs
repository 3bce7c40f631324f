//! An answer as an async stream of tokens.
//!
//! Steps are submitted ahead of the tokens they depend on: a sampled id stays on the device, where the next step
//! reads it, and reaches the host late. When a stop token arrives, what was submitted beyond it is undone by
//! forgetting its rows.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use web_time::Instant;

use super::frame::Pace;
use super::session::Session;
use super::work::Course;
use crate::Result;
use crate::gpu::{Gpu, Pending};
use crate::kernels::sample::Sampling;

/// Tokens that may be under way at once: on a GPU more, because its steps are short beside the time until a thread that
/// waits for one runs again. What is under way when an answer ends was in vain.
fn depth(gpu: &Gpu) -> usize {
    if gpu.is_software() { 2 } else { 4 }
}

/// How to generate an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens of the answer.
    pub max_tokens: usize,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Tokens that end the answer; absent, those of the model.
    pub stop: Option<Vec<u32>>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_tokens: 256, sampling: Sampling::default(), stop: None }
    }
}

/// How long an answer took, as the host saw it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timing {
    /// Prompt tokens that ran.
    pub prompt_tokens: usize,
    /// From the start to the first token.
    pub prefill: Duration,
    /// Tokens of the answer, a stop token included.
    pub answer_tokens: usize,
    /// From the first token to the last.
    pub decode: Duration,
}

impl Timing {
    /// Prompt tokens per second.
    pub fn prefill_rate(&self) -> f64 {
        self.prompt_tokens as f64 / self.prefill.as_secs_f64().max(1e-9)
    }

    /// Tokens per second after the first.
    pub fn decode_rate(&self) -> f64 {
        self.answer_tokens.saturating_sub(1) as f64 / self.decode.as_secs_f64().max(1e-9)
    }
}

/// An answer being generated. Dropping it stops the work and leaves the session as if only the tokens that were
/// yielded had been generated.
#[derive(Debug)]
pub struct Generation<'a> {
    pub(super) session: &'a mut Session,
    pub(super) course: Course,
    pub(super) sampling: Sampling,
    pub(super) pending: VecDeque<Pending<u32>>,
    pub(super) pace: Pace,
    stop: Vec<u32>,
    /// Tokens that may still be sampled.
    pub(super) left: usize,
    finished: bool,
    started: Instant,
    first: Option<Instant>,
}

impl Session {
    /// Starts to answer what was appended. The stream yields token ids; a stop token ends it and is not yielded,
    /// but belongs to the conversation.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] when nothing was appended.
    pub fn generate(&mut self, options: &GenerateOptions) -> Result<Generation<'_>> {
        let left = options.max_tokens.min(self.seq.context - self.seq.tokens.len());
        self.begin_with_kept(self.seq.tokens.len().saturating_sub(1))?;
        let prompt_tokens = self.seq.tokens.len() - self.seq.cached;
        let course = self.seq.begin(&mut self.desk, left)?;
        self.timing = Timing { prompt_tokens, ..Timing::default() };
        let stop = options.stop.clone().unwrap_or_else(|| self.seq.model.text().stop_tokens().to_vec());
        Ok(Generation {
            session: self,
            course,
            sampling: options.sampling,
            pending: VecDeque::new(),
            pace: Pace::default(),
            stop,
            left,
            finished: false,
            started: Instant::now(),
            first: None,
        })
    }
}

/// Tokens of the throw-away prompt and answer that compile the pipelines.
const WARM_UP_TOKENS: usize = 3;

impl Session {
    /// Compiles what a dense answer needs by giving a tiny one, so that no later frame has to; the session is
    /// empty before and after.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] when the session is not empty; what running the answer may refuse.
    pub async fn warm_up(&mut self) -> Result<()> {
        if !self.seq.tokens.is_empty() {
            return Err(crate::Error::Invalid("only an empty session can be warmed up".to_owned()));
        }
        self.append(&vec![0; WARM_UP_TOKENS.min(self.seq.context - 1)])?;
        let options =
            GenerateOptions { max_tokens: WARM_UP_TOKENS, stop: Some(Vec::new()), ..Default::default() };
        let mut answer = self.generate(&options)?;
        while let Some(token) = answer.next().await {
            token?;
        }
        drop(answer);
        self.clear();
        Ok(())
    }
}

impl Generation<'_> {
    /// The next token, or `None` at the end of the answer.
    pub async fn next(&mut self) -> Option<Result<u32>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The session, to look at while it answers.
    pub fn session(&self) -> &Session {
        self.session
    }

    /// [`Session::all_positions`] amid the answer; tokens that are under way may be among them.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`].
    pub async fn positions(&mut self) -> Result<Vec<Vec<Vec<u32>>>> {
        self.session.all_positions().await
    }

    /// True when nothing more will come.
    pub fn is_finished(&self) -> bool {
        self.finished || (self.left == 0 && self.pending.is_empty())
    }

    /// Takes a token that the device has sampled. Returns it unless it ends the answer.
    pub(super) fn take(&mut self, id: u32) -> Option<u32> {
        let now = Instant::now();
        let first = *self.first.get_or_insert(now);
        let timing = &mut self.session.timing;
        timing.answer_tokens += 1;
        timing.prefill = first - self.started;
        timing.decode = now - first;
        self.session.seq.tokens.push(id);
        if self.stop.contains(&id) {
            self.finished = true;
            self.pending.clear();
            return None;
        }
        Some(id)
    }

    fn submit_token(&mut self) -> Result<()> {
        loop {
            if let Some(pending) = self.session.advance(&mut self.course, &self.sampling)? {
                self.session.desk.rec.submit();
                self.pending.push_back(pending);
                self.left -= 1;
                return Ok(());
            }
        }
    }

    fn fail(&mut self, error: crate::Error) -> Poll<Option<Result<u32>>> {
        self.finished = true;
        self.pending.clear();
        Poll::Ready(Some(Err(error)))
    }
}

impl Stream for Generation<'_> {
    type Item = Result<u32>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let depth = depth(this.session.seq.model.gpu());
        while !this.finished && this.left > 0 && this.pending.len() < depth {
            match this.session.poll_recall(&this.course, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return this.fail(error),
                // A token that is under way can still arrive meanwhile.
                Poll::Pending if this.pending.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
            if let Err(error) = this.submit_token() {
                return this.fail(error);
            }
        }
        let Some(front) = this.pending.front_mut() else { return Poll::Ready(None) };
        let read = ready!(Pin::new(front).poll(cx))
            .and_then(|ids| this.session.seq.model.gpu().check().map(|()| ids));
        this.pending.pop_front();
        match read {
            Ok(ids) => Poll::Ready(ids.first().and_then(|&id| this.take(id)).map(Ok)),
            Err(error) => this.fail(error),
        }
    }
}

impl Drop for Generation<'_> {
    fn drop(&mut self) {
        self.session.seq.end(&self.course);
    }
}
