//! A block of prompt rows through the layers.
//!
//! Each layer runs on the rows that the layers before it let through. The block's K and V live in scratch while
//! the layer works; only the rows that the plan retains are written to the pool, in its format and packed.

use super::scratch::{CHUNK, PrefillScratch};
use super::{DecodeScratch, Layer, Model};
use crate::Result;
use crate::gpu::{Class, Recorder, Tensor};
use crate::kernels::attention_prefill::attention_prefill;
use crate::kernels::embed::embed;
use crate::kernels::kv_read::kv_read;
use crate::kernels::kv_write::kv_write;
use crate::kernels::matmul::matmul;
use crate::kernels::matrix::Epilogue;
use crate::kernels::nll::nll;
use crate::kernels::rms_norm::rms_norm;
use crate::kernels::rope_split::rope_split;
use crate::kv::Cache;
use crate::kv::policy::{BlockPlan, LayerRows};

/// Logit rows that a loss is computed for at a time.
const LOSS_ROWS: usize = 64;

/// A block of prompt rows on its way through the layers.
#[derive(Debug)]
pub struct Block {
    pub(super) plan: BlockPlan,
    /// Position of the block's first token.
    pub(super) start: usize,
    /// The next layer.
    layer: usize,
    /// Which of the two hidden buffers holds the rows.
    pub(super) side: usize,
    pub(super) per_head: bool,
    /// Every row is wanted after the last layer, not only the last one.
    all_rows: bool,
}

impl Block {
    /// A block whose first token stands at position `start`.
    pub fn new(plan: BlockPlan, start: usize, per_head: bool, all_rows: bool) -> Self {
        Self { plan, start, layer: 0, side: 0, per_head, all_rows }
    }

    /// True when every layer is recorded.
    pub fn is_done(&self) -> bool {
        self.layer == self.plan.layers.len()
    }

    /// The share of the layers that are recorded, 0 to 1.
    pub fn share_done(&self) -> f64 {
        self.layer as f64 / self.plan.layers.len() as f64
    }

    /// Rows of each layer's cache that the block will add.
    pub fn retained(&self) -> Vec<usize> {
        self.plan.layers.iter().map(|l| l.retain).collect()
    }

    pub(super) fn rows(&self) -> LayerRows {
        self.plan.layers[self.layer]
    }
}

/// Row ranges of at most [`CHUNK`] rows, each beginning at a multiple of it.
fn chunks(from: usize, to: usize) -> impl Iterator<Item = (usize, usize)> {
    (from..to).step_by(CHUNK).map(move |first| (first, CHUNK.min(to - first)))
}

impl Model {
    /// Writes a block's tokens and positions, and records their embedding.
    pub fn begin_block(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        block: &Block,
        tokens: &[u32],
    ) -> Result<()> {
        // A write overtakes what is recorded and not yet submitted, and that may still read the last block's tokens.
        rec.submit();
        let positions: Vec<u32> = (0..tokens.len()).map(|i| (block.start + i) as u32).collect();
        self.gpu.write(&s.tokens, 0, tokens);
        self.gpu.write(&s.positions[0], 0, &positions);
        embed(rec, &s.tokens, 0, &self.embedding, 1.0, &s.hidden[0], tokens.len())
    }

    /// Records the block's next layer.
    pub fn prefill_layer(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        cache: &mut Cache,
        block: &mut Block,
    ) -> Result<()> {
        let (l, rows, layer) = (block.layer, block.rows(), &self.layers[block.layer]);
        let prefix = cache.rows()[l];
        self.attend(rec, s, cache, block, prefix)?;
        // After the last layer only the last row is read, so that is all that leaves it.
        let last = l + 1 == self.layers.len() && !block.all_rows;
        let from = if last { (rows.enter - 1) / CHUNK * CHUNK } else { 0 };
        self.feed_forward(rec, s, layer, block.side, from, rows.enter)?;
        let retained = self.choose(rec, s, block, prefix)?;
        let index = retained.map(|i| (s.index[i].bind(), rows.retain));
        let positions = s.positions[block.side].bind();
        kv_write(rec, &s.k, &s.v, prefix, positions, index, cache.layer(l), prefix, rows.retain)?;
        cache.set_rows(l, prefix + rows.retain);
        if rows.propagate < rows.enter && !last {
            self.propagate(rec, s, block, retained)?;
        }
        block.layer += 1;
        Ok(())
    }

    /// Q, K and V of the entering rows, and their attention over the cache and each other.
    fn attend(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        cache: &Cache,
        block: &Block,
        prefix: usize,
    ) -> Result<()> {
        let (width, heads, layer) = (self.config.width, self.config.heads, &self.layers[block.layer]);
        let enter = block.rows().enter;
        for (first, count) in chunks(0, enter) {
            let hidden = s.hidden[block.side].view(first * width, count * width);
            rms_norm(
                rec,
                hidden.bind(),
                &layer.attention_norm,
                self.config.epsilon,
                &s.normed,
                count,
                width,
            )?;
            matmul(rec, &layer.qkv, s.normed.bind(), count, Epilogue::Store, &s.qkv)?;
            let positions = s.positions[block.side].view(first, count);
            let q = s.q.view(first * heads.q_width(), count * heads.q_width());
            rope_split(
                rec,
                &s.qkv,
                positions.bind(),
                heads,
                &self.rope(),
                &q,
                &s.k,
                &s.v,
                prefix + first,
                count,
            )?;
        }
        if prefix > 0 {
            kv_read(rec, cache.layer(block.layer), prefix, &s.k, &s.v)?;
        }
        for (first, count) in chunks(0, enter) {
            let q = s.q.view(first * heads.q_width(), count * heads.q_width());
            let out = s.attended.view(first * heads.q_width(), count * heads.q_width());
            let lse = s.lse.view(first * heads.query, count * heads.query);
            let scale = self.attention_scale();
            attention_prefill(rec, &q, &s.k, &s.v, heads, scale, prefix + first, count, &out, &lse)?;
        }
        Ok(())
    }

    /// The rest of a layer, for rows `from..to`.
    fn feed_forward(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        layer: &Layer,
        side: usize,
        from: usize,
        to: usize,
    ) -> Result<()> {
        let (width, q_width) = (self.config.width, self.config.heads.q_width());
        for (first, count) in chunks(from, to) {
            let hidden = s.hidden[side].view(first * width, count * width);
            let attended = s.attended.view(first * q_width, count * q_width);
            matmul(rec, &layer.output, attended.bind(), count, Epilogue::Add, &hidden)?;
            rms_norm(rec, hidden.bind(), &layer.ffn_norm, self.config.epsilon, &s.normed, count, width)?;
            matmul(rec, &layer.gate_up, s.normed.bind(), count, Epilogue::SwiGlu, &s.inner)?;
            matmul(rec, &layer.down, s.inner.bind(), count, Epilogue::Add, &hidden)?;
        }
        Ok(())
    }

    /// Copies a finished block's last row to where the head reads it.
    pub fn take_last_row(&self, rec: &mut Recorder, s: &PrefillScratch, block: &Block, d: &DecodeScratch) {
        let (rows, width) = (last_rows(block), self.config.width);
        rec.copy(&s.hidden[block.side], (rows - 1) * width, &d.hidden, 0, width);
    }

    /// Records the loss of every row of a finished block against `targets`, one for each row, to `out` from
    /// index `at` on.
    pub fn block_losses(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        block: &Block,
        targets: &[u32],
        out: &Tensor<f32>,
        at: usize,
    ) -> Result<()> {
        let (rows, width, vocab) = (last_rows(block), self.config.width, self.config.vocab);
        let targets = self.gpu.tensor_with(Class::Scratch, "targets", targets);
        let logits = self.gpu.tensor::<f32>(Class::Scratch, "logits", LOSS_ROWS.min(rows) * vocab);
        for first in (0..rows).step_by(LOSS_ROWS) {
            let count = LOSS_ROWS.min(rows - first);
            let hidden = s.hidden[block.side].view(first * width, count * width);
            rms_norm(rec, hidden.bind(), &self.output_norm, self.config.epsilon, &s.normed, count, width)?;
            matmul(rec, &self.head, s.normed.bind(), count, Epilogue::Store, &logits)?;
            nll(rec, &logits, targets.view(first, count).bind(), count, vocab, out, at + first)?;
        }
        Ok(())
    }
}

/// Rows in the hidden buffer after the last layer, which gathers nothing itself.
fn last_rows(block: &Block) -> usize {
    block.plan.layers.last().map_or(0, |l| l.enter)
}
