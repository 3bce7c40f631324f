//! Reading back without blocking.
//!
//! A read is a copy into a staging buffer and a [`Pending`] that resolves when the buffer is mapped. In the
//! browser the event loop drives that; natively a thread of its own waits for each submission, so that neither
//! the caller nor its executor ever has to.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::device::Gpu;
use super::tensor::Element;
use crate::{Error, Result};

/// A one-shot flag that a device callback sets and a future awaits.
#[derive(Debug, Clone, Default)]
pub(super) struct Signal(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    outcome: Option<Result<(), String>>,
    /// Set once and for all, also after the outcome was taken.
    fired: bool,
    waker: Option<Waker>,
}

impl Signal {
    pub fn set(&self, outcome: Result<(), String>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.outcome, state.fired) = (Some(outcome), true);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    pub fn poll(&self, cx: &Context<'_>) -> Poll<Result<()>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.outcome.take() {
            Some(outcome) => Poll::Ready(outcome.map_err(Error::DeviceLost)),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    pub fn is_set(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fired
    }
}

/// Values on their way back from the device; await it, or ask [`Pending::is_ready`] between frames.
#[derive(Debug)]
#[must_use = "a read-back that nobody awaits was not worth its copy"]
pub struct Pending<T> {
    pub(super) gpu: Gpu,
    pub(super) buffer: Option<wgpu::Buffer>,
    pub(super) bytes: u64,
    pub(super) signal: Signal,
    pub(super) kind: PhantomData<fn() -> T>,
}

impl<T> Pending<T> {
    /// True once awaiting it would return at once.
    pub fn is_ready(&self) -> bool {
        self.signal.is_set()
    }
}

impl<T: Element> Future for Pending<T> {
    type Output = Result<Vec<T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = std::task::ready!(self.signal.poll(cx));
        // The device's own report says more than a read-back that failed, and after it one that did not has nothing
        // to tell: work that uses a buffer which is not there is not run.
        self.gpu.check()?;
        let values = outcome.and_then(|()| self.take());
        if let Err(error) = &values {
            // It may come before the device's own report: who asks the device next must hear of it too.
            self.gpu.note_loss(error);
        }
        Poll::Ready(values)
    }
}

impl<T: Element> Pending<T> {
    /// The values of a buffer that is mapped, which is free for others then.
    fn take(&mut self) -> Result<Vec<T>> {
        let Some(buffer) = self.buffer.take() else {
            return Err(Error::Invalid("a read-back was awaited twice".to_owned()));
        };
        let view = buffer.slice(..self.bytes).get_mapped_range();
        let values = view.map(|view| bytemuck::pod_collect_to_vec(&view[..]));
        let values = values.map_err(|error| Error::DeviceLost(error.to_string()))?;
        buffer.unmap();
        self.gpu.inner.staging.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        Ok(values)
    }
}

/// Waits for submissions on a thread of its own; ends when the last [`Gpu`] is dropped.
#[derive(Debug)]
pub(super) struct Poller {
    #[cfg(not(target_arch = "wasm32"))]
    queue: Option<std::sync::mpsc::Sender<(wgpu::SubmissionIndex, Vec<Signal>)>>,
    #[cfg(not(target_arch = "wasm32"))]
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Polls after which a signal that a finished submission did not fire counts as lost: half a second and more.
#[cfg(not(target_arch = "wasm32"))]
const MOST_POLLS: usize = 10_000;

#[cfg(not(target_arch = "wasm32"))]
impl Poller {
    pub fn new(device: wgpu::Device) -> Self {
        let (queue, submissions) = std::sync::mpsc::channel::<(wgpu::SubmissionIndex, Vec<Signal>)>();
        let work = move || {
            for (index, signals) in submissions {
                let _ = device.poll(wgpu::PollType::Wait { submission_index: Some(index), timeout: None });
                // When several threads submit at once, wgpu may not know the index yet and refuse to wait for it,
                // so what counts is whether the callbacks came.
                let mut polls = 0;
                while polls < MOST_POLLS && signals.iter().any(|s| !s.is_set()) {
                    let _ = device.poll(wgpu::PollType::wait_indefinitely());
                    std::thread::sleep(std::time::Duration::from_micros(50));
                    polls += 1;
                }
                signals
                    .iter()
                    .filter(|s| !s.is_set())
                    .for_each(|s| s.set(Err("no answer from it".to_owned())));
            }
        };
        // Without a thread no read-back resolves; the system that refuses one thread is out of resources.
        let started = std::thread::Builder::new().name("benben-poll".to_owned()).spawn(work);
        if let Err(e) = &started {
            eprintln!("benben: cannot start the thread that waits for the GPU: {e}");
        }
        Self { queue: Some(queue), thread: started.ok() }
    }

    /// Sees to it that the signals fire once the submission has run.
    pub fn watch(&self, submission: wgpu::SubmissionIndex, signals: Vec<Signal>) {
        // The receiver lives as long as the thread; if that could not start, new() has said so.
        let _ = self.queue.as_ref().map(|queue| queue.send((submission, signals)));
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Drop for Poller {
    /// Ends the thread before the device goes: a program that returns from `main` while a thread destroys the
    /// device crashes in drivers whose own clean-up runs at exit.
    fn drop(&mut self) {
        self.queue = None;
        // A waker may own the last Gpu, and then this is that thread.
        let other =
            |thread: &std::thread::JoinHandle<()>| thread.thread().id() != std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(other) {
            let _ = thread.join();
        }
    }
}

#[cfg(target_arch = "wasm32")]
impl Poller {
    pub fn new(_device: wgpu::Device) -> Self {
        Self {}
    }

    pub fn watch(&self, _submission: wgpu::SubmissionIndex, _signals: Vec<Signal>) {}
}
