//! Rows on the host, called back while an answer is generated.
//!
//! Every few steps the queries rank the pages that are away. Which ones they want reaches the host as late as sampled
//! ids do, and what comes back is seen from a fixed step on, however long that took: an answer does not depend on it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::sequence::Sequence;
use super::work::{Course, Work};
use crate::Result;
use crate::gpu::{Pending, Recorder};

/// Steps from one question to the next.
const INTERVAL: usize = 8;
/// Steps from a question to the first one that sees what it brought: as many tokens as may be under way at once.
const LATE: usize = 2;

/// What a step wants.
#[derive(Debug)]
pub(super) struct Asked {
    wanted: Pending<u32>,
    /// Tokens in the cache when the first step begins that sees it.
    due: usize,
}

impl Sequence {
    /// True when the queries of the step that is being recorded rank the pages on the host. The first token that an
    /// answer feeds back asks, and every so many after it.
    pub(super) fn asks(&self, course: &Course) -> bool {
        let step = (self.cached + 1).saturating_sub(course.prompt);
        self.cache.offloads() && step % INTERVAL == 1
    }

    /// Records the read-back of what the step wants whose last layer was just recorded.
    pub(super) fn ask(&mut self, rec: &mut Recorder) {
        let due = self.cached + LATE;
        self.asked = self.cache.read_wanted(rec).map(|wanted| Asked { wanted, due });
    }

    /// Brings back what was asked for, if the next piece begins a step that sees it; pending while that is under way.
    pub(super) fn poll_recall(
        &mut self,
        rec: &mut Recorder,
        course: &Course,
        cx: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        let arrived = self.cache.poll_arrivals(cx)?;
        let due = |asked: &Asked| matches!(course.work, Work::Ready) && self.cached >= asked.due;
        if !self.asked.as_ref().is_some_and(due) {
            return Poll::Ready(Ok(()));
        }
        ready!(arrived);
        if let Some(asked) = &mut self.asked {
            let wanted = ready!(Pin::new(&mut asked.wanted).poll(cx))?;
            self.asked = None;
            // A write overtakes what is recorded and not yet submitted, and that still reads the pages before.
            rec.submit();
            self.cache.recall(&wanted);
        }
        Poll::Ready(Ok(()))
    }
}
