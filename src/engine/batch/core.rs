//! Who waits, who runs, and what is under way.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use web_time::Instant;

use super::request::{Request, Waiting};
use super::{EngineOptions, EngineReport};
use crate::engine::generate::Timing;
use crate::engine::sequence::{Desk, Sequence};
use crate::engine::work::Course;
use crate::gpu::{Class, Pending, Tensor, VIEW_ALIGNMENT};
use crate::kv::Memory;
use crate::model::Model;
use crate::{Error, Result};

/// Steps that may be under way at once: the next one is recorded while the device runs the last one.
const DEPTH: usize = 2;

/// What the engine and its answers have in common.
#[derive(Debug)]
pub(super) struct Shared {
    core: Mutex<Core>,
    pub crew: Arc<Crew>,
}

impl Shared {
    pub fn new(core: Core) -> Self {
        Self { core: Mutex::new(core), crew: Arc::default() }
    }

    pub fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic elsewhere leaves at worst an answer that never ends.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everybody who waits for a token: what is under way wakes them all, so that it does not matter who polled last.
#[derive(Debug, Default)]
pub(super) struct Crew(Mutex<HashMap<u64, Waker>>);

impl Crew {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn join(&self, id: u64, waker: &Waker) {
        self.lock().insert(id, waker.clone());
    }

    /// Wakes everyone; who still waits joins again.
    pub fn wake_all(&self) {
        let wakers = std::mem::take(&mut *self.lock());
        wakers.into_values().for_each(Waker::wake);
    }
}

impl Wake for Crew {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }
}

/// A running sequence.
#[derive(Debug)]
pub(super) struct Seat {
    pub id: u64,
    pub seq: Sequence,
    /// Absent until its prompt's turn comes.
    pub course: Option<Course>,
    pub request: Request,
    pub stop: Vec<u32>,
    /// Its range of the token buffer.
    slot: usize,
    bytes: u64,
}

/// A submitted step: who gets which of the tokens that it drew.
#[derive(Debug)]
pub(super) struct Flight {
    pub drawn: Pending<u32>,
    pub ids: Vec<u64>,
}

/// What an answer has received.
#[derive(Debug)]
pub(super) struct Outbox {
    pub tokens: VecDeque<u32>,
    /// Set at the end: how it ended.
    pub end: Option<Option<Error>>,
    pub timing: Timing,
    submitted: Instant,
    first: Option<Instant>,
}

/// The engine's state.
#[derive(Debug)]
pub(super) struct Core {
    pub model: Arc<Model>,
    pub options: EngineOptions,
    /// Tokens that a prompt and its answer may have together.
    context: usize,
    pub desk: Desk,
    /// Buffers for the rows of all sequences; absent until the first one says how many it has.
    memory: Option<Memory>,
    /// `[max_sequences][stride]`
    ids: Tensor<u32>,
    stride: usize,
    free_slots: Vec<usize>,
    /// The tokens of one step. `[max_sequences]`
    pub drawn: Tensor<u32>,
    waiting: VecDeque<Waiting>,
    /// In the order in which they came.
    pub running: Vec<Seat>,
    flights: VecDeque<Flight>,
    pub outboxes: BTreeMap<u64, Outbox>,
    /// Whose poll brought the last step, until it was polled again.
    pub last_driver: Option<u64>,
    next_id: u64,
    pub steps: u64,
    pub most_sequences: usize,
}

impl Core {
    pub fn new(model: &Arc<Model>, options: EngineOptions, context: usize) -> Self {
        let (gpu, most) = (model.gpu(), options.max_sequences);
        let stride = (context + 1).next_multiple_of(VIEW_ALIGNMENT);
        Self {
            model: model.clone(),
            // One sequence is computed as one of many, so that its numbers do not depend on how many there are.
            desk: Desk::new(gpu, if options.exact { 1 } else { most.max(2) }),
            memory: None,
            ids: gpu.tensor(Class::Scratch, "ids", most * stride),
            stride,
            free_slots: (0..most).rev().collect(),
            drawn: gpu.tensor(Class::Scratch, "drawn", most),
            waiting: VecDeque::new(),
            running: Vec::new(),
            flights: VecDeque::new(),
            outboxes: BTreeMap::new(),
            last_driver: None,
            next_id: 0,
            steps: 0,
            most_sequences: 0,
            options,
            context,
        }
    }

    pub fn submit(&mut self, request: Request) -> Result<u64> {
        let (id, memory) = (self.next_id, self.options.memory);
        self.waiting.push_back(Waiting::new(id, request, &self.model, self.context, memory)?);
        let (submitted, timing) = (Instant::now(), Timing::default());
        let outbox = Outbox { tokens: VecDeque::new(), end: None, timing, submitted, first: None };
        self.outboxes.insert(id, outbox);
        self.next_id += 1;
        Ok(id)
    }

    /// Takes a request back, wherever it is.
    pub fn cancel(&mut self, id: u64) {
        self.outboxes.remove(&id);
        self.waiting.retain(|waiting| waiting.id != id);
        self.leave(id);
    }

    pub fn report(&self) -> EngineReport {
        let sum = |of: &dyn Fn(&Seat) -> u64| self.running.iter().map(of).sum();
        EngineReport {
            sequences: self.running.len(),
            waiting: self.waiting.len(),
            kv_bytes: sum(&|seat| seat.seq.cache.live_bytes()),
            kv_bytes_full_f16: sum(&|seat| seat.seq.cache.full_f16_bytes(seat.seq.cached)),
            kv_bytes_reserved: sum(&|seat| seat.bytes),
            steps: self.steps,
            most_sequences: self.most_sequences,
        }
    }

    /// What an answer's stream yields next: a token, an error or the end; `None` while it has to wait.
    pub fn next_of(&mut self, id: u64) -> Option<Option<Result<u32>>> {
        let Some(outbox) = self.outboxes.get_mut(&id) else { return Some(None) };
        match outbox.tokens.pop_front() {
            Some(token) => Some(Some(Ok(token))),
            None => outbox.end.as_mut().map(|end| end.take().map(Err)),
        }
    }

    /// Goes on as far as can be without waiting: ready when a step has arrived, and then everybody's tokens of it are in
    /// their outboxes, or when there is nothing to do.
    pub fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.admit();
        while self.flights.len() < DEPTH && self.running.iter().any(Seat::has_work) {
            match self.step() {
                Ok(flight) => self.flights.push_back(flight),
                Err(error) => self.fail_all(&error),
            }
        }
        let Some(front) = self.flights.front_mut() else { return Poll::Ready(()) };
        let drawn = std::task::ready!(Pin::new(&mut front.drawn).poll(cx));
        let ids = self.flights.pop_front().map_or(Vec::new(), |flight| flight.ids);
        match drawn.and_then(|tokens| self.model.gpu().check().map(|()| tokens)) {
            Ok(tokens) => ids.into_iter().zip(tokens).for_each(|(id, token)| self.deliver(id, token)),
            Err(error) => self.fail_all(&error),
        }
        Poll::Ready(())
    }

    /// Lets in who came first, while there is a place and room for the longest answer.
    fn admit(&mut self) {
        let reserved: u64 = self.running.iter().map(|seat| seat.bytes).sum();
        let mut left = self.options.memory.map_or(u64::MAX, |memory| memory.saturating_sub(reserved));
        while let Some(&slot) = self.free_slots.last() {
            let Some(next) = self.waiting.pop_front_if(|next| next.bytes <= left) else { return };
            let (id, bytes) = (next.id, next.bytes);
            match self.seat(next, slot) {
                Ok(seat) => {
                    self.free_slots.pop();
                    self.running.push(seat);
                    left -= bytes;
                }
                Err(error) => self.end(id, Some(error)),
            }
        }
    }

    fn seat(&mut self, Waiting { id, request, context, room, bytes }: Waiting, slot: usize) -> Result<Seat> {
        let ids = self.ids.view(slot * self.stride, self.stride);
        let kv = request.kv.clone();
        let memory = self.memory.get_or_insert_with(|| {
            let layers = self.model.config().kv_layers();
            let fit = self.options.memory.map_or(usize::MAX, |memory| (memory / bytes.max(1)) as usize);
            Memory::shared(self.model.gpu(), layers, self.options.max_sequences.min(fit))
        });
        let mut seq = Sequence::new(&self.model, kv, context, ids, memory, &room)?;
        seq.append(&request.prompt)?;
        if request.random_rows {
            seq.fill_at_random(&mut self.desk.rec)?;
        }
        if seq.reserve_decode(&mut self.desk)? {
            self.desk.rec.forget();
        }
        let stop = request.generate.stop.clone();
        let stop = stop.unwrap_or_else(|| self.model.text().stop_tokens().to_vec());
        Ok(Seat { id, seq, course: None, request, stop, slot, bytes })
    }

    /// Hands a token to its answer, unless that has ended meanwhile.
    fn deliver(&mut self, id: u64, token: u32) {
        let Some(seat) = self.running.iter_mut().find(|seat| seat.id == id) else { return };
        seat.seq.tokens.push(token);
        let ends = seat.stop.contains(&token);
        let prompt_tokens = seat.request.prompt.len();
        let whole = seat.seq.tokens.len() == seat.seq.context;
        if let Some(outbox) = self.outboxes.get_mut(&id) {
            let now = Instant::now();
            let first = *outbox.first.get_or_insert(now);
            let (prefill, decode) = (first - outbox.submitted, now - first);
            let answer_tokens = outbox.timing.answer_tokens + 1;
            outbox.timing = Timing { prompt_tokens, prefill, answer_tokens, decode };
            if !ends {
                outbox.tokens.push_back(token);
            }
        }
        if ends || whole {
            self.end(id, None);
        }
    }

    /// Ends an answer and gives up its place.
    pub fn end(&mut self, id: u64, error: Option<Error>) {
        if let Some(outbox) = self.outboxes.get_mut(&id) {
            outbox.end.get_or_insert(error);
        }
        self.leave(id);
    }

    fn leave(&mut self, id: u64) {
        if let Some(place) = self.running.iter().position(|seat| seat.id == id) {
            self.free_slots.push(self.running.remove(place).slot);
        }
    }

    /// Ends all answers: what failed serves all of them.
    fn fail_all(&mut self, error: &Error) {
        self.flights.clear();
        let running: Vec<u64> = self.running.iter().map(|seat| seat.id).collect();
        let waiting = self.waiting.drain(..).map(|waiting| waiting.id);
        let ids: Vec<u64> = running.into_iter().chain(waiting).collect();
        ids.into_iter().for_each(|id| self.end(id, Some(error.clone())));
    }
}
