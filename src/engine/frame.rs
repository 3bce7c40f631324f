//! An answer within a time budget per frame, for hosts that have something to draw.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use super::generate::Generation;
use super::work::Kind;
use crate::Result;
use crate::gpu::Submission;

/// What one call of [`Generation::step`] brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// Tokens that arrived since the last call.
    pub tokens: Vec<u32>,
    /// Pieces of work that this call submitted.
    pub submitted: usize,
    /// True when the answer is complete.
    pub finished: bool,
}

/// What is known of how long pieces take, and the submission under way.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Device time of one piece, by kind; zero until one was measured.
    cost: [Duration; 3],
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    work: Pin<Box<dyn SendFuture>>,
    kind: Kind,
    pieces: u32,
}

/// The future of a submission's device time.
#[cfg(not(target_arch = "wasm32"))]
trait SendFuture: Future<Output = Result<Duration>> + Send {}
#[cfg(not(target_arch = "wasm32"))]
impl<F: Future<Output = Result<Duration>> + Send> SendFuture for F {}
#[cfg(target_arch = "wasm32")]
trait SendFuture: Future<Output = Result<Duration>> {}
#[cfg(target_arch = "wasm32")]
impl<F: Future<Output = Result<Duration>>> SendFuture for F {}

impl std::fmt::Debug for dyn SendFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Submission")
    }
}

impl Pace {
    fn start(&mut self, submission: Submission, kind: Kind, pieces: u32) {
        self.running = Some(Running { work: Box::pin(submission.done()), kind, pieces });
    }

    /// Ready when nothing is under way; takes the measurement of what has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Some(running) = &mut self.running else { return Poll::Ready(Ok(())) };
        let time = ready!(running.work.as_mut().poll(cx))?;
        let (cost, piece) = (&mut self.cost[running.kind as usize], time / running.pieces.max(1));
        // The mean of old and new follows a changing load within a few frames.
        *cost = if cost.is_zero() { piece } else { (*cost + piece) / 2 };
        self.running = None;
        Poll::Ready(Ok(()))
    }

    /// True when nothing is under way.
    fn idle(&mut self) -> Result<bool> {
        match self.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => outcome.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }
}

impl Generation<'_> {
    /// Submits at most about `budget` of device time and returns at once, with the tokens that have arrived.
    ///
    /// Work is cut into pieces of one layer, timed with the device's timestamps where it has them. One piece at
    /// least is submitted once the previous ones are done, so an answer goes on however small the budget is.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`], and what recording the work may refuse.
    pub fn step(&mut self, budget: Duration) -> Result<Step> {
        let mut step = Step::default();
        self.session.seq.model.gpu().check()?;
        while let Some(front) = self.pending.front_mut() {
            let Poll::Ready(ids) = Pin::new(front).poll(&mut Context::from_waker(Waker::noop())) else {
                break;
            };
            self.pending.pop_front();
            for id in ids? {
                step.tokens.extend(self.take(id));
            }
        }
        // One token under way at most: a frame's budget has no room for work that a stop token would undo.
        let recalled = self.session.poll_recall(&self.course, &mut Context::from_waker(Waker::noop()))?;
        let idle = self.pace.idle()? && recalled.is_ready();
        if idle && !self.is_finished() && self.left > 0 && self.pending.is_empty() {
            step.submitted = self.submit_pieces(budget)?;
        }
        step.finished = self.is_finished();
        Ok(step)
    }

    /// Runs the prompt in submissions of about `budget` of device time, each awaited before the next, so that a
    /// long prompt can be watched and left: dropping the future and the answer ends it after the submission under
    /// way, and keeps the blocks of the prompt that are complete. `progress` hears how many of the prompt's tokens
    /// have run and how many there are, where a layer counts as its share of its block.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`], and what recording the work may refuse.
    pub async fn prefill(&mut self, budget: Duration, mut progress: impl FnMut(usize, usize)) -> Result<()> {
        let before = self.session.seq.cached;
        let total = self.course.total - before;
        while self.session.seq.next_kind(&self.course) == Kind::Prefill {
            self.submit_pieces(budget)?;
            give_way().await;
            std::future::poll_fn(|cx| self.pace.poll(cx)).await?;
            self.session.seq.model.gpu().check()?;
            progress(self.session.seq.cached - before + self.course.rows_done(), total);
        }
        Ok(())
    }

    fn submit_pieces(&mut self, budget: Duration) -> Result<usize> {
        let kind = self.session.seq.next_kind(&self.course);
        let cost = self.pace.cost[kind as usize];
        let fit = budget.as_nanos().checked_div(cost.as_nanos()).unwrap_or(1);
        let most = u32::try_from(fit).unwrap_or(u32::MAX).max(1);
        let mut pieces = 0;
        while pieces < most && self.session.seq.next_kind(&self.course) == kind {
            pieces += 1;
            if let Some(pending) = self.session.advance(&mut self.course, &self.sampling)? {
                self.pending.push_back(pending);
                self.left -= 1;
                break;
            }
        }
        let submission = self.session.desk.rec.submit_timed();
        self.pace.start(submission, kind, pieces);
        Ok(pieces as usize)
    }
}

/// Lets others have a turn: on a device that is always done already, work in pieces could not be left otherwise.
async fn give_way() {
    let mut gave = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut gave, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
