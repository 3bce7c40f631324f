//! One token through the layers: seven dispatches a layer, eight where running sums are kept.

use super::{DecodeScratch, Model};
use crate::Result;
use crate::gpu::{Recorder, Tensor};
use crate::kernels::accumulate::{Window, accumulate};
use crate::kernels::attention_decode::{Parts, attention_decode};
use crate::kernels::attention_merge::attention_merge;
use crate::kernels::embed::embed;
use crate::kernels::matrix::{Epilogue, Norm};
use crate::kernels::matvec::matvec;
use crate::kernels::rope_write::rope_write;
use crate::kv::policy::Observation;
use crate::kv::{Cache, TierRows};

/// Rows for which one more part of a head's attention pays.
const PART_ROWS: usize = 4;

/// What a decode step needs to know about the token it runs.
#[derive(Debug, Clone, Copy)]
pub struct DecodeStep {
    /// The token's position in the sequence.
    pub position: usize,
    /// For a policy that thins: what its running sums need to know.
    pub window: Option<DecodeWindow>,
    /// What the token adds to the running sums of rows that are ranked by them.
    pub observation: Option<Observation>,
    /// Ranks the pages on the host by this token's queries.
    pub asks: bool,
}

/// The generated part of a sequence, as the running sums see it.
#[derive(Debug, Clone, Copy)]
pub struct DecodeWindow {
    /// Tokens before generation.
    pub prompt: usize,
    /// Rows in a block that is thinned together.
    pub block: usize,
    /// The first row of the main tiers that may ever be thinned.
    pub first: usize,
}

impl Model {
    /// Records the embedding of the token at `tokens[at]`.
    pub fn begin_step(
        &self,
        rec: &mut Recorder,
        d: &DecodeScratch,
        tokens: &Tensor<u32>,
        at: usize,
    ) -> Result<()> {
        embed(rec, tokens, at, &self.embedding, 1.0, &d.hidden, 1)
    }

    /// Records one layer of a decode step; the last of those that share rows adds one to the cache.
    pub fn decode_layer(
        &self,
        rec: &mut Recorder,
        d: &DecodeScratch,
        cache: &mut Cache,
        l: usize,
        step: DecodeStep,
    ) -> Result<()> {
        let (layer, heads, epsilon) = (&self.layers[l], self.config.heads, self.config.epsilon);
        let group = l / self.config.kv_sharing;
        self.follow(rec, &d.q, cache, group, step.position)?;
        let main = cache.main(group);
        let (pool, row) = (&main.rows, main.live);
        let live = row + 1;
        let attention = Norm { weight: &layer.attention_norm, epsilon };
        matvec(rec, &layer.qkv, d.hidden.bind(), Some(attention), Epilogue::Store, &d.qkv)?;
        let (position, makes_kv) = (step.position as u32, self.config.makes_kv(l));
        if let Some(first) = cache.first_tokens(group).get(step.position).filter(|_| makes_kv) {
            rec.copy(&d.qkv, 0, first, 0, heads.qkv_width());
        }
        rope_write(rec, &d.qkv, position, &self.rope(), pool, row, makes_kv, &d.q)?;
        self.attend_one(rec, d, cache, group, step.window.is_some() || step.observation.is_some())?;
        if let Some(observation) = step.observation {
            self.observe_layer(rec, d, cache, (group, live), observation)?;
        }
        if step.asks {
            cache.want_pages(rec, group, &d.q, self.attention_scale(), &d.lse)?;
        }
        if let Some(DecodeWindow { prompt, block, first }) = step.window {
            let window = Window { prompt: prompt as u32, block: block as u32, position };
            let (sums, stride) = (&pool.book, pool.capacity);
            let first = first.saturating_sub(cache.shared_main(group));
            accumulate(rec, &d.weights, stride, &d.lse, heads.query, sums, stride, first, live, window)?;
        }
        matvec(rec, &layer.output, d.attended.bind(), None, Epilogue::Add, &d.hidden)?;
        let ffn = Norm { weight: &layer.ffn_norm, epsilon };
        matvec(rec, &layer.gate_up, d.hidden.bind(), Some(ffn), Epilogue::SwiGlu, &d.inner)?;
        matvec(rec, &layer.down, d.inner.bind(), None, Epilogue::Add, &d.hidden)?;
        if (l + 1).is_multiple_of(self.config.kv_sharing) {
            cache.add(group, TierRows::in_main(1));
        }
        Ok(())
    }

    /// Attention of the token whose row is next in the main tier, over all rows.
    fn attend_one(
        &self,
        rec: &mut Recorder,
        d: &DecodeScratch,
        cache: &Cache,
        l: usize,
        stores: bool,
    ) -> Result<()> {
        let splits = self.gpu.tuning().attention_splits as usize;
        let pools: Vec<_> = cache.readable(l).collect();
        let last = pools.len() - 1;
        let live = |i: usize| pools[i].1 + usize::from(i == last);
        let parts = |i: usize| live(i).div_ceil(PART_ROWS).min(splits);
        let total = (0..=last).map(parts).sum();
        let mut first = 0;
        for (i, (rows, _)) in pools.iter().enumerate().filter(|&(i, _)| live(i) > 0) {
            let own = Parts { first, splits: parts(i), total };
            let (stores, scale) = (stores && i == last, self.attention_scale());
            attention_decode(rec, &d.q, rows, live(i), scale, &d.partial, own, &d.weights, stores)?;
            first += own.splits;
        }
        let rotated = cache.basis(l).v_rotated;
        attention_merge(rec, &d.partial, self.config.heads, total, rotated, &d.attended, &d.lse)
    }

    /// Records the logits of the hidden row.
    pub fn logits(&self, rec: &mut Recorder, d: &DecodeScratch) -> Result<()> {
        let norm = Norm { weight: &self.output_norm, epsilon: self.config.epsilon };
        matvec(rec, &self.head, d.hidden.bind(), Some(norm), Epilogue::Store, &d.logits)
    }
}
