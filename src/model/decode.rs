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
use crate::kv::{Cache, Role, Tier, TierRows};

/// Rows for which one more part of a head's attention pays.
const PART_ROWS: usize = 4;

/// What a decode step needs to know about the token it runs.
#[derive(Debug, Clone, Copy)]
pub struct DecodeStep {
    /// The token's position in the sequence.
    pub position: usize,
    /// For a policy that thins: what its running sums need to know.
    pub window: Option<DecodeWindow>,
    /// What the token adds to the running sums of a bounded layer.
    pub observation: Option<Observation>,
}

/// The generated part of a sequence, as the running sums see it.
#[derive(Debug, Clone, Copy)]
pub struct DecodeWindow {
    /// Tokens before generation.
    pub prompt: usize,
    /// Rows in a block that is thinned together.
    pub block: usize,
    /// Table index of the first row that may ever be thinned.
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

    /// Records one layer of a decode step, which adds one row to the layer's cache.
    pub fn decode_layer(
        &self,
        rec: &mut Recorder,
        d: &DecodeScratch,
        cache: &mut Cache,
        l: usize,
        step: DecodeStep,
    ) -> Result<()> {
        let (layer, heads, epsilon) = (&self.layers[l], self.config.heads, self.config.epsilon);
        self.follow(rec, &d.q, cache, l, step.position)?;
        let main = cache.main(l);
        let (pool, row) = (&main.rows, main.live);
        let live = row + 1;
        let attention = Norm { weight: &layer.attention_norm, epsilon };
        matvec(rec, &layer.qkv, d.hidden.bind(), Some(attention), Epilogue::Store, &d.qkv)?;
        if let Some(first) = cache.first_tokens(l).get(step.position) {
            rec.copy(&d.qkv, 0, first, 0, heads.qkv_width());
        }
        rope_write(rec, &d.qkv, step.position as u32, &self.rope(), pool, row, &d.q)?;
        self.attend_one(rec, d, cache, l, step.window.is_some() || step.observation.is_some())?;
        if let Some(observation) = step.observation {
            self.observe_layer(rec, d, cache, (l, live), observation)?;
        }
        if let Some(DecodeWindow { prompt, block, first }) = step.window {
            let window =
                Window { prompt: prompt as u32, block: block as u32, position: step.position as u32 };
            let (sums, stride) = (&pool.book, pool.capacity);
            accumulate(rec, &d.weights, stride, &d.lse, heads.query, sums, stride, first, live, window)?;
        }
        matvec(rec, &layer.output, d.attended.bind(), None, Epilogue::Add, &d.hidden)?;
        let ffn = Norm { weight: &layer.ffn_norm, epsilon };
        matvec(rec, &layer.gate_up, d.hidden.bind(), Some(ffn), Epilogue::SwiGlu, &d.inner)?;
        matvec(rec, &layer.down, d.inner.bind(), None, Epilogue::Add, &d.hidden)?;
        cache.add(l, TierRows { main: 1, ..TierRows::default() });
        Ok(())
    }

    /// Attention of the token whose row is next in the main tier, over every tier.
    fn attend_one(
        &self,
        rec: &mut Recorder,
        d: &DecodeScratch,
        cache: &Cache,
        l: usize,
        stores: bool,
    ) -> Result<()> {
        let splits = self.gpu.tuning().attention_splits as usize;
        let live = |tier: &Tier| tier.live + usize::from(tier.role == Role::Main);
        let parts = |tier: &Tier| live(tier).div_ceil(PART_ROWS).min(splits);
        let tiers = cache.layer(l).iter().filter(|tier| live(tier) > 0);
        let total = tiers.clone().map(parts).sum();
        let mut first = 0;
        for tier in tiers {
            let own = Parts { first, splits: parts(tier), total };
            let stores = stores && tier.role == Role::Main;
            let scale = self.attention_scale();
            attention_decode(rec, &d.q, &tier.rows, live(tier), scale, &d.partial, own, &d.weights, stores)?;
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
