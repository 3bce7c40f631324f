//! One token through the layers: seven dispatches a layer, eight where a policy keeps running sums.

use super::{DecodeScratch, Model};
use crate::Result;
use crate::gpu::{Recorder, Tensor};
use crate::kernels::accumulate::{Window, accumulate};
use crate::kernels::attention_decode::attention_decode;
use crate::kernels::attention_merge::attention_merge;
use crate::kernels::embed::embed;
use crate::kernels::matrix::{Epilogue, Norm};
use crate::kernels::matvec::matvec;
use crate::kernels::rope_write::rope_write;
use crate::kernels::thin::thin;
use crate::kv::Cache;
use crate::kv::policy::ThinStep;

/// What a decode step needs to know about the token it runs.
#[derive(Debug, Clone, Copy)]
pub struct DecodeStep {
    /// The token's position in the sequence.
    pub position: usize,
    /// For a policy that thins: what its running sums need to know.
    pub window: Option<DecodeWindow>,
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
        let (pool, row) = (cache.layer(l), cache.rows()[l]);
        let live = row + 1;
        let attention = Norm { weight: &layer.attention_norm, epsilon };
        matvec(rec, &layer.qkv, d.hidden.bind(), Some(attention), Epilogue::Store, &d.qkv)?;
        rope_write(rec, &d.qkv, step.position as u32, &self.rope(), pool, row, &d.q)?;
        let stores = step.window.is_some();
        attention_decode(rec, &d.q, pool, live, self.attention_scale(), &d.partial, &d.weights, stores)?;
        let splits = self.gpu.tuning().attention_splits as usize;
        attention_merge(rec, &d.partial, heads, splits, pool.v_bits.rotated(), &d.attended, &d.lse)?;
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
        cache.set_rows(l, live);
        Ok(())
    }

    /// Records the thinning of one block of a layer's rows.
    pub fn thin_layer(
        &self,
        rec: &mut Recorder,
        d: &DecodeScratch,
        cache: &mut Cache,
        l: usize,
        step: ThinStep,
    ) -> Result<()> {
        let ThinStep { start, block, keep, slope } = step;
        let (pool, rows) = (cache.layer(l), cache.rows()[l]);
        thin(rec, &pool.book, pool.capacity, &d.table, start, block, keep, rows, slope)?;
        cache.set_rows(l, rows - block + keep);
        Ok(())
    }

    /// Records the logits of the hidden row.
    pub fn logits(&self, rec: &mut Recorder, d: &DecodeScratch) -> Result<()> {
        let norm = Norm { weight: &self.output_norm, epsilon: self.config.epsilon };
        matvec(rec, &self.head, d.hidden.bind(), Some(norm), Epilogue::Store, &d.logits)
    }
}
