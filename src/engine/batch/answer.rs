//! The stream of one answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use futures_core::Stream;

use super::core::Shared;
use crate::Result;
use crate::engine::generate::Timing;

/// The tokens of one answer, as they come. Polling any answer of an engine drives all of them; dropping one takes its
/// request back.
#[derive(Debug)]
pub struct Answer {
    shared: Arc<Shared>,
    id: u64,
}

impl Answer {
    pub(super) fn new(shared: Arc<Shared>, id: u64) -> Self {
        Self { shared, id }
    }

    /// The next token, or `None` at the end. A token that ends the answer is not yielded.
    pub async fn next(&mut self) -> Option<Result<u32>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// How long it has taken so far, from the moment of its submission on.
    pub fn timing(&self) -> Timing {
        self.shared.lock().outboxes.get(&self.id).map_or(Timing::default(), |outbox| outbox.timing)
    }
}

impl Stream for Answer {
    type Item = Result<u32>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let shared = self.shared.clone();
        // Before the device is asked, so that an arrival in between wakes this one too.
        shared.crew.join(self.id, cx.waker());
        let mut core = shared.lock();
        if let Some(item) = core.next_of(self.id) {
            return Poll::Ready(item);
        }
        // Where the device is always done already, who brought the last step lets everybody else have their tokens of it
        // before bringing another.
        if core.last_driver.take_if(|last| *last == self.id).is_none() {
            ready!(core.drive(&mut Context::from_waker(&Waker::from(shared.crew.clone()))));
            core.last_driver = Some(self.id);
        }
        let item = core.next_of(self.id);
        drop(core);
        // The others, which may have tokens now; and this one, which has to ask again if it has none.
        shared.crew.wake_all();
        item.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.shared.lock().cancel(self.id);
        // This one may have been the last to drive.
        self.shared.crew.wake_all();
    }
}
