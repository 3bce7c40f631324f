//! One conversation: its tokens, its cache and the activations that it works with.

use std::future::Future;
use std::sync::Arc;

use super::generate::Timing;
use super::recall::Asked;
use crate::gpu::{Class, Recorder, Tensor};
use crate::kernels::{observe, thin};
use crate::kv::policy::{Bounds, Thinning, ThinningState};
use crate::kv::{Cache, HostReport, KvOptions, TierRows};
use crate::model::{DecodeScratch, Model, PrefillScratch};
use crate::plan::{BLOCK_ROWS, Limits, Plan, block_rows};
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
    pub(super) model: Arc<Model>,
    pub(super) rec: Recorder,
    pub(super) kv: KvOptions,
    pub(super) context: usize,
    pub(super) cache: Cache,
    pub(super) prefill: Option<PrefillScratch>,
    pub(super) decode: Option<DecodeScratch>,
    /// Every token of the conversation, on the device; sampled ones stand here before the host knows them.
    pub(super) ids: Tensor<u32>,
    /// Every token that the host knows.
    pub(super) tokens: Vec<u32>,
    /// Tokens whose rows are in the cache.
    pub(super) cached: usize,
    pub(super) thinning: Option<ThinningState>,
    /// What the layers may hold, under a policy whose budget is kept while the session goes on.
    pub(super) bounds: Option<Arc<Bounds>>,
    /// Tokens sampled so far, over all answers: each draws another random number.
    pub(super) drawn: u32,
    pub(super) timing: Timing,
    /// Pages on the host that an earlier step wants.
    pub(super) asked: Option<Asked>,
}

impl Session {
    /// A session without any token yet.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] when a full context would not; [`Error::Invalid`] for a context of no tokens.
    pub fn new(model: &Arc<Model>, options: &SessionOptions) -> Result<Self> {
        let config = model.config();
        let context = options.context.unwrap_or(config.context);
        let kv = options.kv.profiled(config.profile.as_ref());
        Plan::session(config, &kv, context)?.check(&Limits::of(model.gpu(), None))?;
        let gpu = model.gpu();
        Ok(Self {
            model: model.clone(),
            rec: Recorder::new(gpu),
            cache: Cache::new(gpu, config.kv_layers(), config.heads, &kv)?,
            bounds: Bounds::new(&kv, config.kv_layers(), context)?.map(Arc::new),
            kv,
            context,
            prefill: None,
            decode: None,
            ids: gpu.tensor(Class::Scratch, "ids", context + 1),
            tokens: Vec::new(),
            cached: 0,
            thinning: None,
            drawn: 0,
            timing: Timing::default(),
            asked: None,
        })
    }

    /// The model it talks to.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Tokens that prompt and answers may have together.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Every token of the conversation so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Adds tokens of a prompt; they run when the next answer is generated.
    ///
    /// # Errors
    /// [`Error::ContextFull`] if they and one token of an answer do not fit, [`Error::Invalid`] for an id outside
    /// the vocabulary. Nothing is added then.
    pub fn append(&mut self, tokens: &[u32]) -> Result<()> {
        self.check_room(self.tokens.len() + 1, tokens)?;
        self.model.gpu().write(&self.ids, self.tokens.len(), tokens);
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }

    /// Fails unless `tokens` are in the vocabulary and have room beside `others`.
    pub(super) fn check_room(&self, others: usize, tokens: &[u32]) -> Result<()> {
        let (need, config) = (others + tokens.len(), self.model.config());
        if need > self.context {
            return Err(Error::ContextFull { need, context: self.context, trained: config.context });
        }
        match tokens.iter().find(|&&id| id as usize >= config.vocab) {
            Some(id) => {
                Err(Error::Invalid(format!("token {id} is outside the vocabulary of {}", config.vocab)))
            }
            None => Ok(()),
        }
    }

    /// Forgets the whole conversation. The memory stays, unless the model keeps the rows for sessions to come.
    pub fn clear(&mut self) {
        if self.leave_rows() {
            self.cache.leave();
        }
        self.rec.forget();
        self.tokens.clear();
        self.cache.clear();
        self.cached = 0;
        self.thinning = None;
        self.timing = Timing::default();
    }

    /// What the cache holds now.
    pub fn kv(&self) -> KvReport {
        KvReport {
            bytes: self.cache.live_bytes(),
            bytes_full_f16: self.cache.full_f16_bytes(self.cached),
            rows_per_layer: self.cache.rows_per_layer(),
            host: self.cache.host_report(),
        }
    }

    /// The positions whose rows live in a layer, ascending: one list, or one for each KV head when heads choose
    /// their own. Under `streaming` the first tokens stand right before the window that they follow.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a layer that the model does not have, [`Error::DeviceLost`].
    pub async fn positions(&mut self, layer: usize) -> Result<Vec<Vec<u32>>> {
        let layers = self.cache.depth();
        if layer >= layers {
            return Err(Error::Invalid(format!("there is no layer {layer}; the model has {layers}")));
        }
        let positions = self.read_positions(layer);
        self.rec.submit();
        let positions = positions.await?;
        self.model.gpu().check().map(|()| positions)
    }

    /// As [`Session::positions`] for every layer, all as they stand at one moment.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn all_positions(&mut self) -> Result<Vec<Vec<Vec<u32>>>> {
        let reads: Vec<_> = (0..self.cache.depth()).map(|layer| self.read_positions(layer)).collect();
        self.rec.submit();
        let mut positions = Vec::with_capacity(reads.len());
        for read in reads {
            positions.push(read.await?);
        }
        self.model.gpu().check().map(|()| positions)
    }

    /// Records the read-back of a layer's live positions.
    fn read_positions(&mut self, layer: usize) -> impl Future<Output = Result<Vec<Vec<u32>>>> + use<> {
        let mut books = Vec::new();
        for (rows, live) in self.cache.readable(layer) {
            books.push((self.rec.read(&rows.book, 0, rows.book.len()), rows.capacity, live));
        }
        let mut positions = vec![Vec::new(); self.cache.main(layer).rows.sets];
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

    /// Makes room for `pending` prompt tokens, of which each layer gains `gains`, and for `answer` more.
    pub(super) fn reserve(&mut self, pending: usize, gains: Vec<TierRows>, answer: usize) -> Result<()> {
        let rows = self.cache.main_rows();
        let more = match &self.bounds {
            Some(bounds) => bounded(bounds, &rows, gains, answer),
            None => growth(self.kv.policy.thinning(), &rows, gains, answer),
        };
        let mut replaced = self.cache.reserve(&mut self.rec, &more);
        let config = self.model.config();
        let block = block_rows(&self.kv, config, pending);
        // Of a prompt in several blocks, the later ones see what the others left.
        let now = self.cache.most_rows();
        let most = self.bounds.as_ref().and_then(|bounds| bounds.most_rows());
        let before = match most {
            _ if self.kv.policy.one_shot() && block == pending => now,
            Some(most) => most.max(now),
            None => self.cached + pending,
        };
        let gpu = self.model.gpu();
        if pending > 1 && !self.prefill.as_ref().is_some_and(|s| s.fits(block, before)) {
            // A later turn's block is small and its prefix grows: round up, so that not every turn allocates.
            let before = before.next_multiple_of(BLOCK_ROWS);
            self.prefill = None;
            self.prefill = Some(PrefillScratch::new(gpu, config, block, before));
            replaced = true;
        }
        let capacity = (0..config.kv_layers()).map(|l| self.cache.main(l).rows.capacity).max().unwrap_or(0);
        if !self.decode.as_ref().is_some_and(|d| d.fits(capacity)) {
            let thins = self.kv.policy.thinning().is_some() || self.bounds.is_some();
            if thins {
                // The first rows are due amid an answer, which is no time to compile.
                let keys = thin::variants().into_iter().chain(observe::variants());
                keys.into_iter().try_for_each(|key| gpu.kernel(&key).map(drop))?;
            }
            self.decode = Some(DecodeScratch::new(gpu, config, capacity, thins));
            replaced = true;
        }
        if replaced {
            self.rec.forget();
        }
        Ok(())
    }
}

/// Rows that each layer gains at most while it takes `gains` and then decodes `answer` tokens, within bounds.
fn bounded(bounds: &Bounds, rows: &[usize], mut gains: Vec<TierRows>, answer: usize) -> Vec<TierRows> {
    for (layer, (gain, &rows)) in gains.iter_mut().zip(rows).enumerate() {
        let most = bounds.most(layer).unwrap_or(usize::MAX);
        gain.main = (gain.main + answer).min(most.saturating_sub(rows));
    }
    gains
}

/// Rows that each layer gains at most while it takes `gains` and then decodes `answer` tokens, when its main tier
/// has `rows` now.
fn growth(rule: Option<Thinning>, rows: &[usize], mut gains: Vec<TierRows>, answer: usize) -> Vec<TierRows> {
    let Some(rule) = rule else {
        gains.iter_mut().for_each(|gain| gain.main += answer);
        return gains;
    };
    let start: Vec<usize> = rows.iter().zip(&gains).map(|(rows, gain)| rows + gain.main).collect();
    let (mut now, mut most) = (start.clone(), start.clone());
    let mut state = ThinningState::new(rule, &start);
    for _ in 0..answer {
        now.iter_mut().for_each(|n| *n += 1);
        let first = now[0];
        for l in 0..now.len() {
            most[l] = most[l].max(now[l]);
            if let Some(step) = state.due(l, now[l], first) {
                now[l] -= step.cut.block - step.cut.keep;
            }
        }
    }
    gains.iter_mut().zip(most.iter().zip(rows)).for_each(|(gain, (most, rows))| gain.main = most - rows);
    gains
}
