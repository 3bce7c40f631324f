//! One conversation: a sequence, and the activations that it is computed with.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Sampling;
use super::generate::Timing;
use super::sequence::{Desk, Sequence};
use super::work::Course;
use crate::gpu::{Class, Pending};
use crate::kv::{HostReport, KvOptions, Memory, TierRows};
use crate::model::Model;
use crate::plan::{Limits, Plan};
use crate::{Error, Result};

/// How a session is set up.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// The cache's policy and row formats.
    pub kv: KvOptions,
    /// Tokens that prompt and answers may have together; absent, what the model was trained for.
    pub context: Option<usize>,
}

/// What a session's cache holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvReport {
    /// Bytes of the live rows.
    pub bytes: u64,
    /// Bytes that a full f16 cache of as many tokens takes.
    pub bytes_full_f16: u64,
    /// Live rows of each layer.
    pub rows_per_layer: Vec<usize>,
    /// Rows on the host, where rows go there.
    pub host: Option<HostReport>,
}

/// One conversation with a model.
#[derive(Debug)]
pub struct Session {
    pub(super) seq: Sequence,
    pub(super) desk: Desk,
    pub(super) timing: Timing,
}

impl Session {
    /// A session without any token yet.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] when a full context would not; [`Error::Invalid`] for a context of no tokens.
    pub fn new(model: &Arc<Model>, options: &SessionOptions) -> Result<Self> {
        let (config, gpu) = (model.config(), model.gpu());
        let context = options.context.unwrap_or(config.context);
        let kv = options.kv.suited(config.heads, config.profile.as_ref());
        Plan::session(config, &kv, context)?.check(&Limits::of(gpu, None))?;
        let ids = gpu.tensor(Class::Scratch, "ids", context + 1);
        let (memory, room) = (Memory::Own(gpu.clone()), vec![TierRows::default(); config.kv_layers()]);
        let seq = Sequence::new(model, kv, context, ids, &memory, &room)?;
        Ok(Self { seq, desk: Desk::new(gpu, 1), timing: Timing::default() })
    }

    /// The model it talks to.
    pub fn model(&self) -> &Arc<Model> {
        &self.seq.model
    }

    /// Tokens that prompt and answers may have together.
    pub fn context(&self) -> usize {
        self.seq.context
    }

    /// Every token of the conversation so far.
    pub fn tokens(&self) -> &[u32] {
        &self.seq.tokens
    }

    /// Adds tokens of a prompt; they run when the next answer is generated.
    ///
    /// # Errors
    /// [`Error::ContextFull`] if they and one token of an answer do not fit, [`Error::Invalid`] for an id outside
    /// the vocabulary. Nothing is added then.
    pub fn append(&mut self, tokens: &[u32]) -> Result<()> {
        self.seq.append(tokens)
    }

    /// Forgets the whole conversation. The memory stays, unless the model keeps the rows for sessions to come.
    pub fn clear(&mut self) {
        if self.leave_rows() {
            self.seq.cache.leave();
        }
        self.desk.rec.forget();
        self.seq.tokens.clear();
        self.seq.cache.clear();
        self.seq.cached = 0;
        self.seq.thinning = None;
        self.timing = Timing::default();
    }

    /// What the cache holds now.
    pub fn kv(&self) -> KvReport {
        KvReport {
            bytes: self.seq.cache.live_bytes(),
            bytes_full_f16: self.seq.cache.full_f16_bytes(self.seq.cached),
            rows_per_layer: self.seq.cache.rows_per_layer(),
            host: self.seq.cache.host_report(),
        }
    }

    /// The positions whose rows live in a layer, ascending: one list, or one for each KV head when heads choose
    /// their own. Under `streaming` the first tokens stand right before the window that they follow.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a layer that the model does not have, [`Error::DeviceLost`].
    pub async fn positions(&mut self, layer: usize) -> Result<Vec<Vec<u32>>> {
        let layers = self.seq.cache.depth();
        if layer >= layers {
            return Err(Error::Invalid(format!("there is no layer {layer}; the model has {layers}")));
        }
        let positions = self.read_positions(layer);
        self.desk.rec.submit();
        let positions = positions.await?;
        self.seq.model.gpu().check().map(|()| positions)
    }

    /// As [`Session::positions`] for every layer, all as they stand at one moment.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn all_positions(&mut self) -> Result<Vec<Vec<Vec<u32>>>> {
        let reads: Vec<_> = (0..self.seq.cache.depth()).map(|layer| self.read_positions(layer)).collect();
        self.desk.rec.submit();
        let mut positions = Vec::with_capacity(reads.len());
        for read in reads {
            positions.push(read.await?);
        }
        self.seq.model.gpu().check().map(|()| positions)
    }

    /// Records the read-back of a layer's live positions.
    fn read_positions(&mut self, layer: usize) -> impl Future<Output = Result<Vec<Vec<u32>>>> + use<> {
        let mut books = Vec::new();
        for (rows, live) in self.seq.cache.readable(layer) {
            books.push((self.desk.rec.read(&rows.book, 0, rows.book.len()), rows.capacity, live));
        }
        let mut positions = vec![Vec::new(); self.seq.cache.main(layer).rows.sets];
        async move {
            for (book, capacity, live) in books {
                // A set's four regions begin with the slots of its live rows, then the positions by slot.
                for (found, set) in positions.iter_mut().zip(book.await?.chunks_exact(4 * capacity)) {
                    found.extend(set[..live].iter().map(|&slot| set[capacity + slot as usize]));
                }
            }
            positions.iter_mut().for_each(|set| set.sort_unstable());
            Ok(positions)
        }
    }

    /// How long the last answer took.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Records the next piece of an answer. Returns the read-back of a token if the piece sampled one.
    pub(super) fn advance(
        &mut self,
        course: &mut Course,
        sampling: &Sampling,
    ) -> Result<Option<Pending<u32>>> {
        self.seq.advance(&mut self.desk, course, sampling)
    }

    /// Brings back rows from the host that the next piece needs; pending while they are under way.
    pub(super) fn poll_recall(&mut self, course: &Course, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.seq.poll_recall(&mut self.desk.rec, course, cx)
    }
}
