//! One sequence: its tokens, its rows and where it stands, apart from what it is computed with.

use std::sync::Arc;

use super::recall::Asked;
use crate::gpu::{Gpu, Recorder, Tensor};
use crate::kernels::{observe, thin};
use crate::kv::policy::{BlockPlan, Bounds, Thinning, ThinningState};
use crate::kv::{Cache, KvOptions, Memory, TierRows, Tiers};
use crate::model::{Config, DecodeScratch, Model, PrefillScratch, most_tallies};
use crate::plan::{BLOCK_ROWS, block_rows};
use crate::{Error, Result};

/// What sequences are computed with, in turn or side by side.
#[derive(Debug)]
pub(super) struct Desk {
    pub rec: Recorder,
    /// Sequences that a decode step may have.
    sequences: usize,
    pub prefill: Option<PrefillScratch>,
    pub decode: Option<DecodeScratch>,
}

impl Desk {
    /// For steps of at most `sequences` sequences.
    pub fn new(gpu: &Gpu, sequences: usize) -> Self {
        Self { rec: Recorder::new(gpu), sequences, prefill: None, decode: None }
    }

    /// Makes room for a block of `rows` rows beside `before` earlier ones, with so many tallies; true when that replaced
    /// anything.
    fn fit_prefill(&mut self, model: &Model, rows: usize, before: usize, tallies: usize) -> bool {
        if self.prefill.as_ref().is_some_and(|s| s.fits(rows, before, tallies)) {
            return false;
        }
        // A later turn's block is small and its prefix grows: round up, so that not every turn allocates.
        let before = before.next_multiple_of(BLOCK_ROWS);
        self.prefill = None;
        self.prefill = Some(PrefillScratch::new(model.gpu(), model.config(), rows, before, tallies));
        true
    }
}

/// The state of one sequence.
#[derive(Debug)]
pub(super) struct Sequence {
    pub model: Arc<Model>,
    pub kv: KvOptions,
    pub context: usize,
    pub cache: Cache,
    /// Every token of the sequence, on the device; sampled ones stand here before the host knows them.
    pub ids: Tensor<u32>,
    /// Every token that the host knows.
    pub tokens: Vec<u32>,
    /// Tokens whose rows are in the cache.
    pub cached: usize,
    pub thinning: Option<ThinningState>,
    /// What the layers may hold, under a policy whose budget is kept while the sequence goes on.
    pub bounds: Option<Arc<Bounds>>,
    /// Tokens sampled so far, over all answers: each draws another random number.
    pub drawn: u32,
    /// Pages on the host that an earlier step wants.
    pub asked: Option<Asked>,
}

impl Sequence {
    /// A sequence without any token yet, with room for so many rows of each layer.
    pub fn new(
        model: &Arc<Model>,
        kv: KvOptions,
        context: usize,
        ids: Tensor<u32>,
        memory: &Memory,
        room: &[TierRows],
    ) -> Result<Self> {
        let config = model.config();
        Ok(Self {
            model: model.clone(),
            cache: Cache::new(memory, config.heads, &kv, room)?,
            bounds: Bounds::new(&kv, config.kv_layers(), context)?.map(Arc::new),
            kv,
            context,
            ids,
            tokens: Vec::new(),
            cached: 0,
            thinning: None,
            drawn: 0,
            asked: None,
        })
    }

    /// Adds tokens of a prompt.
    pub fn append(&mut self, tokens: &[u32]) -> Result<()> {
        self.check_room(self.tokens.len() + 1, tokens)?;
        self.model.gpu().write(&self.ids, self.tokens.len(), tokens);
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }

    /// Puts random rows in the place of those of all tokens but the last, as many as the policy leaves of such a prompt.
    pub fn fill_at_random(&mut self, rec: &mut Recorder) -> Result<()> {
        let (count, cache) = (self.tokens.len().saturating_sub(1), &mut self.cache);
        if count > 0 {
            let live = cache.checkpoint();
            let plan = plan_block(&self.kv, self.bounds.as_deref(), cache.tiers(), &live, true, count)?;
            cache.fill_at_random(rec, &plan.gains(cache.tiers(), true))?;
            self.cached = count;
        }
        Ok(())
    }

    /// Fails unless `tokens` are in the vocabulary and have room beside `others`.
    pub fn check_room(&self, others: usize, tokens: &[u32]) -> Result<()> {
        check_room(self.model.config(), self.context, others, tokens)
    }

    /// Makes room for `pending` prompt tokens, of which each layer gains `gains`, and for `answer` more.
    pub fn reserve(
        &mut self,
        desk: &mut Desk,
        pending: usize,
        gains: Vec<TierRows>,
        answer: usize,
    ) -> Result<()> {
        let more = grown(&self.kv, self.bounds.as_deref(), &self.cache.main_rows(), gains, answer);
        let mut replaced = self.cache.reserve(&mut desk.rec, &more);
        let block = block_rows(&self.kv, self.model.config(), pending);
        // Of a prompt in several blocks, the later ones see what the others left.
        let now = self.cache.most_rows();
        let most = self.bounds.as_ref().and_then(|bounds| bounds.most_rows());
        let before = match most {
            _ if self.kv.policy.one_shot() && block == pending => now,
            Some(most) => most.max(now),
            None => self.cached + pending,
        };
        if pending > 1 {
            let plan = self.kv.policy.plan(block, self.cache.depth())?;
            let tallies = most_tallies(&plan, self.kv.policy.per_head());
            replaced |= desk.fit_prefill(&self.model, block, before, tallies);
        }
        replaced |= self.reserve_decode(desk)?;
        if replaced {
            desk.rec.forget();
        }
        Ok(())
    }

    /// Makes room for the decode steps of what the cache has room for; true when that replaced anything.
    pub fn reserve_decode(&self, desk: &mut Desk) -> Result<bool> {
        let thins = self.kv.policy.thinning().is_some() || self.bounds.is_some();
        let capacity = |l| if thins { self.cache.main(l).rows.capacity } else { 0 };
        let capacity = (0..self.cache.depth()).map(capacity).max().unwrap_or(0);
        if desk.decode.as_ref().is_some_and(|d| d.fits(capacity)) {
            return Ok(false);
        }
        let gpu = self.model.gpu();
        if thins {
            // The first rows are due amid an answer, which is no time to compile.
            let keys = thin::variants().into_iter().chain(observe::variants());
            keys.into_iter().try_for_each(|key| gpu.kernel(&key).map(drop))?;
        }
        desk.decode = None;
        desk.decode = Some(DecodeScratch::new(gpu, self.model.config(), desk.sequences, capacity));
        Ok(true)
    }
}

/// Rows that an empty cache has to have room for, layer by layer, to take `prompt` tokens and decode `answer` more.
pub(super) fn first_room(
    config: &Config,
    kv: &KvOptions,
    bounds: Option<&Bounds>,
    prompt: usize,
    answer: usize,
) -> Result<Vec<TierRows>> {
    let (layers, tiers) = (config.kv_layers(), Tiers::new(kv));
    let gains = if prompt > 1 {
        plan_block(kv, bounds, &tiers, &vec![TierRows::default(); layers], true, prompt)?.gains(&tiers, true)
    } else {
        vec![TierRows::in_main(prompt); layers]
    };
    Ok(grown(kv, bounds, &vec![0; layers], gains, answer))
}

/// What happens to the next `count` tokens of a prompt as a block, which `opens` the sequence or follows the `live` rows
/// of each layer: what the policy plans, within the bounds.
pub(super) fn plan_block(
    kv: &KvOptions,
    bounds: Option<&Bounds>,
    tiers: &Tiers,
    live: &[TierRows],
    opens: bool,
    count: usize,
) -> Result<BlockPlan> {
    let mut plan = kv.policy.plan(count, live.len())?;
    if let Some(bounds) = bounds {
        bounds.fit(&mut plan, tiers, live, opens);
    }
    Ok(plan)
}

/// Fails unless `tokens` are in the vocabulary and have room beside `others` in a context.
pub(super) fn check_room(config: &Config, context: usize, others: usize, tokens: &[u32]) -> Result<()> {
    let need = others + tokens.len();
    if need > context {
        return Err(Error::ContextFull { need, context, trained: config.context });
    }
    match tokens.iter().find(|&&id| id as usize >= config.vocab) {
        Some(id) => Err(Error::Invalid(format!("token {id} is outside the vocabulary of {}", config.vocab))),
        None => Ok(()),
    }
}

/// Rows that each layer gains at most while it takes `gains` and then decodes `answer` tokens, when its main tier has
/// `rows` now.
fn grown(
    kv: &KvOptions,
    bounds: Option<&Bounds>,
    rows: &[usize],
    gains: Vec<TierRows>,
    answer: usize,
) -> Vec<TierRows> {
    match bounds {
        Some(bounds) => bounded(bounds, rows, gains, answer),
        None => growth(kv.policy.thinning(), rows, gains, answer),
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
