//! A block of prompt rows through the layers.
//!
//! Each layer runs on the rows that the layers before it let through, a chunk at a time from the first row to the last:
//! no row sees a later one. The block's K and V live in scratch while the layer works; only the rows that the plan retains
//! are written to the pool, in its format and packed.

use std::sync::Arc;

use super::scratch::{CHUNK, PrefillScratch};
use super::tally::Tallies;
use super::{DecodeScratch, Model};
use crate::Result;
use crate::gpu::{Class, Recorder, Tensor};
use crate::kernels::activations::Values;
use crate::kernels::attention_prefill::{self, attention_prefill, keys_and_values};
use crate::kernels::embed::{Lookup, embed};
use crate::kernels::kv_read::kv_read;
use crate::kernels::kv_row::Heads;
use crate::kernels::matmul::{Rows, matmul};
use crate::kernels::matrix::Epilogue;
use crate::kernels::nll::nll;
use crate::kernels::rms_norm::rms_norm;
use crate::kernels::rope_split::rope_split;
use crate::kv::Cache;
use crate::kv::policy::{BlockPlan, Bounds, LayerRows, Rank};

/// Rows of a block that logits are computed for at a time.
pub(crate) const LOGIT_ROWS: usize = 64;

/// A block of prompt rows on its way through the layers.
#[derive(Debug)]
pub struct Block {
    pub(super) plan: BlockPlan,
    /// Position of the block's first token.
    pub(super) start: usize,
    /// The next layer.
    pub(super) layer: usize,
    /// Layers for which one of the plan's entries stands.
    sharing: usize,
    pub(super) per_head: bool,
    /// Every row is wanted after the last layer, not only the last one.
    all_rows: bool,
    /// What the layers may hold, where the plan was made to fit.
    bounds: Option<Arc<Bounds>>,
}

impl Block {
    /// A block whose first token stands at position `start`, in a model of which `sharing` layers each share rows.
    pub fn new(plan: BlockPlan, start: usize, per_head: bool, all_rows: bool, sharing: usize) -> Self {
        Self { plan, start, layer: 0, sharing, per_head, all_rows, bounds: None }
    }

    /// The block, whose plan was made to fit these bounds: earlier rows make room for it.
    pub fn within(self, bounds: Option<Arc<Bounds>>) -> Self {
        Self { bounds, ..self }
    }

    /// True when every layer is recorded.
    pub fn is_done(&self) -> bool {
        self.layer == self.plan.layers.len() * self.sharing
    }

    /// The share of the layers that are recorded, 0 to 1.
    pub fn share_done(&self) -> f64 {
        self.layer as f64 / (self.plan.layers.len() * self.sharing) as f64
    }

    /// First rows that are never dropped: those of a later block are in the cache already.
    pub(super) fn sinks(&self) -> usize {
        if self.start > 0 { 0 } else { self.plan.sinks() }
    }

    /// The position after its last token.
    pub(super) fn end(&self) -> usize {
        self.start + self.plan.layers.first().map_or(0, |l| l.enter)
    }

    /// Which rows of the cache the next layer uses.
    pub fn group(&self) -> usize {
        self.layer / self.sharing
    }

    pub(super) fn rows(&self) -> LayerRows {
        self.plan.layers[self.group()]
    }

    /// How the next layer's rows are ranked from now on, if it is bounded.
    pub(super) fn rank(&self) -> Option<Rank> {
        let bounds = self.bounds.as_ref()?;
        bounds.most(self.group()).map(|_| bounds.rank())
    }
}

/// Row ranges of at most [`CHUNK`] rows, each beginning at a multiple of it.
pub(super) fn chunks(from: usize, to: usize) -> impl Iterator<Item = (usize, usize)> {
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
        self.gpu.write(&s.positions, 0, &positions);
        let lookup = Lookup { tokens: &s.tokens, at: 0, count: tokens.len(), to: 0 };
        embed(rec, &[lookup], &self.embedding, 1.0, &s.hidden)
    }

    /// Records the block's next layer. Returns how many earlier rows left it to make room.
    pub fn prefill_layer(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        d: &DecodeScratch,
        cache: &mut Cache,
        block: &mut Block,
    ) -> Result<usize> {
        let (l, rows, group) = (block.layer, block.rows(), block.group());
        let prefix = cache.rows(group);
        self.follow(rec, &d.q, cache, group, block.start)?;
        // Layers that share keys and values find them where the first of them left them.
        if self.config.makes_kv(l) {
            self.unpack(rec, s, cache, group)?;
        }
        // Rows are chosen once all layers that read them have run: the last one ranks them.
        let chooses = (l + 1).is_multiple_of(block.sharing);
        let gains = rows.split(cache.tiers(), block.sinks());
        let merged = block.lists(gains) && rows.retain < rows.enter && cache.main(group).rows.merged;
        let tallies = if chooses { Tallies::of(block, gains, merged) } else { Tallies::default() };
        // After the last layer only the last row is read, so that its chunk is all that leaves it.
        let last = l + 1 == self.layers.len() && !block.all_rows;
        let from = if last { (rows.enter - 1) / CHUNK * CHUNK } else { 0 };
        for (first, count) in chunks(0, rows.enter) {
            self.project(rec, s, cache, block, (first, count), prefix)?;
            // The first chunk brings the earlier rows along.
            let end = prefix + first + count;
            let new = if !self.config.makes_kv(l) {
                end
            } else if first > 0 {
                prefix + first
            } else {
                0
            };
            let kv = keys_and_values(rec, [&s.k, &s.v], self.config.heads, new..end, &s.kv_halves)?;
            if first >= from || tallies.hear(first + count, rows.enter) {
                self.attend(rec, s, cache, block, kv, (first, count), prefix)?;
            }
            if first >= from {
                self.feed_forward(rec, s, block, (first, count))?;
            }
            self.add_up(rec, s, block, (first, count), &tallies, prefix)?;
        }
        let mut dropped = 0;
        if chooses {
            self.choose(rec, s, block, gains, &tallies, prefix)?;
            if merged {
                self.merge(rec, s, block, gains, &tallies, prefix)?;
            }
            let room = block.bounds.as_ref().and_then(|b| b.make_room(group, cache.live(group), gains));
            if let Some(step) = room {
                dropped = step.cut.block - step.cut.keep;
                self.thin_layer(rec, d, &mut [(cache, step)], group)?;
            }
            self.keep(rec, s, cache, block, gains, merged, &tallies, prefix)?;
            self.offload(rec, s, cache, block, prefix)?;
            cache.add(group, gains);
            if rows.propagate < rows.enter && !last {
                self.propagate(rec, s, block)?;
            }
        }
        block.layer += 1;
        Ok(dropped)
    }

    /// K, V and biases of the earlier rows, before those of the block.
    fn unpack(&self, rec: &mut Recorder, s: &PrefillScratch, cache: &Cache, group: usize) -> Result<()> {
        let mut to = 0;
        for (rows, live) in cache.readable(group) {
            kv_read(rec, rows, live, &s.k, &s.v, &s.bias, to)?;
            to += live;
        }
        Ok(())
    }

    /// Q, K and V of `count` rows from row `first` on.
    fn project(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        cache: &Cache,
        block: &Block,
        (first, count): (usize, usize),
        prefix: usize,
    ) -> Result<()> {
        let (width, heads, layer) = (self.config.width, self.config.heads, &self.layers[block.layer]);
        let makes_kv = self.config.makes_kv(block.layer);
        let projected = if makes_kv { heads } else { Heads { kv: 0, ..heads } };
        let hidden = s.hidden.view(first * width, count * width);
        rms_norm(rec, hidden.bind(), &layer.attention_norm, self.config.epsilon, &s.normed, count, width)?;
        matmul(rec, &layer.qkv, &s.normed, count, Rows::Block, Epilogue::Store, &s.qkv, &s.slices)?;
        if first == 0 {
            let tokens = cache.first_tokens(block.group()).iter().skip(block.start).take(count);
            for (row, token) in tokens.enumerate() {
                rec.copy(&s.qkv, row * heads.qkv_width(), token, 0, heads.qkv_width());
            }
        }
        let (positions, at) = (s.positions.view(first, count), prefix + first);
        rope_split(rec, &s.qkv, positions.bind(), projected, &self.rope(), &s.q, &s.k, &s.v, at, count)
    }

    /// Attention of the rows in the scratch, `count` from row `first` on, over the cache and the block up to them.
    #[expect(clippy::too_many_arguments, reason = "rows, and what they attend to")]
    fn attend(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        cache: &Cache,
        block: &Block,
        kv: [Values<'_>; 2],
        (first, count): (usize, usize),
        prefix: usize,
    ) -> Result<()> {
        let bias = (prefix > 0 && cache.main(block.group()).rows.merged).then_some((&s.bias, prefix));
        let attention = attention_prefill::Block {
            heads: self.config.heads,
            prefix: prefix + first,
            count,
            q: &s.q,
            kv,
            bias,
            scale: self.attention_scale(),
            out: (&s.attended).into(),
            lse: &s.lse,
        };
        attention_prefill(rec, &attention)
    }

    /// The rest of a layer, for the rows in the scratch.
    fn feed_forward(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        block: &Block,
        (first, count): (usize, usize),
    ) -> Result<()> {
        let (width, layer) = (self.config.width, &self.layers[block.layer]);
        let hidden = s.hidden.view(first * width, count * width);
        let product = |rec: &mut Recorder, matrix, x: Values<'_>, epilogue, out: Values<'_>| {
            matmul(rec, matrix, x, count, Rows::Block, epilogue, out, &s.slices)
        };
        product(rec, &layer.output, (&s.attended).into(), Epilogue::Add, (&hidden).into())?;
        rms_norm(rec, hidden.bind(), &layer.ffn_norm, self.config.epsilon, &s.normed, count, width)?;
        product(rec, &layer.gate_up, (&s.normed).into(), Epilogue::SwiGlu, (&s.inner).into())?;
        product(rec, &layer.down, (&s.inner).into(), Epilogue::Add, (&hidden).into())
    }

    /// Copies a finished block's last row to where the head reads it: row `to` of the hidden ones.
    pub fn take_last_row(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        block: &Block,
        d: &DecodeScratch,
        to: usize,
    ) {
        let (rows, width) = (last_rows(block), self.config.width);
        rec.copy(&s.hidden, (rows - 1) * width, &d.hidden, to * width, width);
    }

    /// Records the logits of `count` rows of a finished block from row `first` on, to `out` `[count, vocab]`. At
    /// most `LOGIT_ROWS` at a time.
    pub fn block_logits(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        (first, count): (usize, usize),
        out: &Tensor<f32>,
    ) -> Result<()> {
        let width = self.config.width;
        let hidden = s.hidden.view(first * width, count * width);
        rms_norm(rec, hidden.bind(), &self.output_norm, self.config.epsilon, &s.normed, count, width)?;
        matmul(rec, &self.head, &s.normed, count, Rows::Block, Epilogue::Store, out, &s.slices)
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
        let (rows, vocab) = (last_rows(block), self.config.vocab);
        let targets = self.gpu.tensor_with(Class::Scratch, "targets", targets);
        let logits = self.gpu.tensor::<f32>(Class::Scratch, "logits", LOGIT_ROWS.min(rows) * vocab);
        for first in (0..rows).step_by(LOGIT_ROWS) {
            let count = LOGIT_ROWS.min(rows - first);
            self.block_logits(rec, s, (first, count), &logits)?;
            nll(rec, &logits, targets.view(first, count).bind(), count, vocab, out, at + first)?;
        }
        Ok(())
    }
}

/// Rows in the hidden buffer after the last layer, which gathers nothing itself.
fn last_rows(block: &Block) -> usize {
    block.plan.layers.last().map_or(0, |l| l.enter)
}
