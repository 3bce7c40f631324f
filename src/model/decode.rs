//! One token of each of some sequences through the layers. By packed dot products that is six dispatches a layer, since what
//! the next product reads is left by what comes before it. Else it is seven for one sequence, six where attention has no
//! parts to merge, and for many sequences two more, since a product with many rows does not normalise them itself.

use super::scratch::Operands;
use super::{DecodeScratch, Layer, Model};
use crate::Result;
use crate::gpu::{Recorder, Tensor};
use crate::kernels::accumulate::{Accumulate, Window, accumulate};
use crate::kernels::activations::Values;
use crate::kernels::attention_decode::{Attended, attention_decode};
use crate::kernels::attention_parts::Attend;
use crate::kernels::embed::{Lookup, embed};
use crate::kernels::matmul::{Rows, matmul};
use crate::kernels::matrix::{Epilogue, Matrix, Norm};
use crate::kernels::matvec::matvec;
use crate::kernels::matvec_dots::{To, matvec_dots};
use crate::kernels::observe::{Observe, observe};
use crate::kernels::operand::Code;
use crate::kernels::quantise::quantise;
use crate::kernels::rms_norm::rms_norm;
use crate::kernels::rope_write::{Write, rope_write};
use crate::kv::policy::Observation;
use crate::kv::{Cache, TierRows};

/// What a decode step needs to know about one sequence's token.
#[derive(Debug)]
pub struct DecodeRow<'a> {
    /// The sequence's rows.
    pub cache: &'a mut Cache,
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
    /// Records the embedding of one token of each sequence: of `tokens[at]`, to the row of its place in the list.
    pub fn begin_step(
        &self,
        rec: &mut Recorder,
        d: &DecodeScratch,
        tokens: &[(&Tensor<u32>, usize)],
    ) -> Result<()> {
        let rows = tokens.iter().enumerate();
        let lookups: Vec<_> = rows.map(|(to, &(tokens, at))| Lookup { tokens, at, count: 1, to }).collect();
        embed(rec, &lookups, &self.embedding, 1.0, &d.hidden)
    }

    /// Records one layer of a decode step, for the first rows of the scratch; the last of the layers that share rows
    /// adds one to every cache.
    pub fn decode_layer(
        &self,
        rec: &mut Recorder,
        d: &DecodeScratch,
        rows: &mut [DecodeRow<'_>],
        l: usize,
    ) -> Result<()> {
        let (layer, epsilon, count) = (&self.layers[l], self.config.epsilon, rows.len());
        let group = l / self.config.kv_sharing;
        for row in &mut *rows {
            self.follow(rec, &d.q, row.cache, group, row.position)?;
        }
        let attention = Norm { weight: &layer.attention_norm, epsilon };
        match &d.operands {
            Some(operands) => self.project_by_dots(rec, d, operands, count, l)?,
            None => product(rec, d, &layer.qkv, &d.hidden, Some(attention), Epilogue::Store, &d.qkv, count)?,
        }
        self.write_rows(rec, d, rows, l)?;
        self.attend_rows(rec, d, rows, l)?;
        self.observe_rows(rec, d, rows, group)?;
        if let Some(operands) = &d.operands {
            self.feed_forward_by_dots(rec, d, operands, count, l)?;
        } else {
            product(rec, d, &layer.output, &d.attended, None, Epilogue::Add, &d.hidden, count)?;
            let ffn = Norm { weight: &layer.ffn_norm, epsilon };
            product(rec, d, &layer.gate_up, &d.hidden, Some(ffn), Epilogue::SwiGlu, &d.inner, count)?;
            product(rec, d, &layer.down, &d.inner, None, Epilogue::Add, &d.hidden, count)?;
        }
        if (l + 1).is_multiple_of(self.config.kv_sharing) {
            rows.iter_mut().for_each(|row| row.cache.add(group, TierRows::in_main(1)));
        }
        Ok(())
    }

    /// Queries, keys and values by packed dot products. A layer leaves the next one's operand; the first one makes its own.
    fn project_by_dots(
        &self,
        rec: &mut Recorder,
        d: &DecodeScratch,
        operands: &Operands,
        count: usize,
        l: usize,
    ) -> Result<()> {
        let Layer { attention_norm, qkv, .. } = &self.layers[l];
        if l == 0 {
            let code = Code::of(self.gpu.tuning(), qkv.format());
            quantise(rec, d.hidden.bind(), Some(attention_norm), count, &operands.stream, code)?;
        }
        matvec_dots(rec, qkv, &operands.stream, count, Some(self.config.epsilon), To::Store(&d.qkv))
    }

    /// What comes after attention, by packed dot products.
    fn feed_forward_by_dots(
        &self,
        rec: &mut Recorder,
        d: &DecodeScratch,
        Operands { stream, attended, inner }: &Operands,
        count: usize,
        l: usize,
    ) -> Result<()> {
        let code = |matrix: &Matrix| Code::of(self.gpu.tuning(), matrix.format());
        let Layer { output, ffn_norm, gate_up, down, .. } = &self.layers[l];
        let (next_norm, next_matrix) = match self.layers.get(l + 1) {
            Some(next) => (&next.attention_norm, &next.qkv),
            None => (&self.output_norm, &self.head),
        };
        let add = |weight, matrix| To::Add { stream: &d.hidden, weight, next: stream, code: code(matrix) };
        matvec_dots(rec, output, attended, count, None, add(ffn_norm, gate_up))?;
        let gated = To::SwiGlu { next: inner, code: code(down) };
        matvec_dots(rec, gate_up, stream, count, Some(self.config.epsilon), gated)?;
        matvec_dots(rec, down, inner, count, None, add(next_norm, next_matrix))
    }

    /// Queries, and keys and values on their way into the main tiers.
    fn write_rows(
        &self,
        rec: &mut Recorder,
        d: &DecodeScratch,
        rows: &[DecodeRow<'_>],
        l: usize,
    ) -> Result<()> {
        let (group, makes_kv) = (l / self.config.kv_sharing, self.config.makes_kv(l));
        let width = self.layers[l].qkv.rows();
        for (i, row) in rows.iter().enumerate().filter(|_| makes_kv) {
            if let Some(first) = row.cache.first_tokens(group).get(row.position) {
                rec.copy(&d.qkv, i * width, first, 0, width);
            }
        }
        let mut writes = Vec::with_capacity(rows.len());
        for (i, row) in rows.iter().enumerate() {
            let (main, qkv_from, q_from) = (row.cache.main(group), i * width, i * d.q_stride);
            let position = row.position;
            writes.push(Write { rows: &main.rows, entry: main.live, position, qkv_from, q_from });
        }
        rope_write(rec, &d.qkv, &self.rope(), makes_kv, &writes, &d.q)
    }

    /// Attention of the tokens whose rows are next in the main tiers, over all rows of their sequences.
    fn attend_rows<'a>(
        &self,
        rec: &mut Recorder,
        d: &DecodeScratch,
        rows: &'a [DecodeRow<'_>],
        layer: usize,
    ) -> Result<()> {
        let l = layer / self.config.kv_sharing;
        let token = |(i, row): (usize, &'a DecodeRow<'_>)| {
            let mut pools: Vec<_> = row.cache.readable(l).collect();
            // The token's own row is written, but not counted yet.
            pools.last_mut().into_iter().for_each(|(_, live)| *live += 1);
            Attend {
                pools,
                q_from: i * d.q_stride,
                out_from: i * self.config.heads.q_width(),
                left: d.left(i),
                wants_logits: row.window.is_some() || row.observation.is_some(),
            }
        };
        let tokens: Vec<_> = rows.iter().enumerate().map(token).collect();
        let DecodeScratch { rooms, attended: out, arrived, .. } = d;
        let code = Code::of(self.gpu.tuning(), self.layers[layer].output.format());
        let operand = d.operands.as_ref().map(|operands| (&operands.attended, code));
        let to = Attended { rooms, out, operand, arrived };
        attention_decode(rec, &d.q, self.attention_scale(), &tokens, to)
    }

    /// What the tokens' attention says of the rows that they read.
    fn observe_rows(
        &self,
        rec: &mut Recorder,
        d: &DecodeScratch,
        rows: &[DecodeRow<'_>],
        l: usize,
    ) -> Result<()> {
        let heads = self.config.heads;
        let (mut observed, mut accumulated) = (Vec::new(), Vec::new());
        for (i, row) in rows.iter().enumerate() {
            let (main, left) = (row.cache.main(l), d.left(i));
            let count = main.live + 1;
            if let Some(Observation { fade, weight }) = row.observation {
                observed.push(Observe { rows: &main.rows, count, left, fade, weight });
            }
            if let Some(DecodeWindow { prompt, block, first }) = row.window {
                let [prompt, block, position] = [prompt, block, row.position].map(|n| n as u32);
                let (book, window) = (&main.rows.book, Window { prompt, block, position });
                let entries = first.saturating_sub(row.cache.shared_main(l)).min(count)..count;
                accumulated.push(Accumulate { book, entries, heads: heads.query, left, window });
            }
            if row.asks {
                let q = d.q.view(i * d.q_stride, heads.q_width());
                let ends = d.ends(i, heads.query);
                row.cache.want_pages(rec, l, &q, self.attention_scale(), &ends)?;
            }
        }
        observe(rec, &d.rooms, &observed)?;
        accumulate(rec, &d.rooms, &accumulated)
    }

    /// Records the logits of the first `count` hidden rows.
    pub fn logits(&self, rec: &mut Recorder, d: &DecodeScratch, count: usize) -> Result<()> {
        let epsilon = self.config.epsilon;
        if let Some(Operands { stream, .. }) = &d.operands {
            // Not what the last layer left: the hidden rows may be those of a prompt.
            let code = Code::of(self.gpu.tuning(), self.head.format());
            quantise(rec, d.hidden.bind(), Some(&self.output_norm), count, stream, code)?;
            return matvec_dots(rec, &self.head, stream, count, Some(epsilon), To::Store(&d.logits));
        }
        let norm = Norm { weight: &self.output_norm, epsilon };
        product(rec, d, &self.head, &d.hidden, Some(norm), Epilogue::Store, &d.logits, count)
    }
}

/// A product with the first `count` rows of `x`. Where the scratch is made for one sequence, its one row has a kernel
/// of its own; where it is made for many, a row's result does not depend on how many there are.
#[expect(clippy::too_many_arguments, reason = "an operation, its operands and how many rows of them")]
fn product<'a>(
    rec: &mut Recorder,
    d: &'a DecodeScratch,
    matrix: &Matrix,
    x: impl Into<Values<'a>>,
    norm: Option<Norm<'_>>,
    epilogue: Epilogue,
    out: impl Into<Values<'a>>,
    count: usize,
) -> Result<()> {
    let x = x.into();
    let Some(normed) = &d.normed else { return matvec(rec, matrix, x, norm, epilogue, out) };
    let x = match norm {
        Some(Norm { weight, epsilon }) => {
            rms_norm(rec, x.single()?, weight, epsilon, normed, count, matrix.cols())?;
            normed.into()
        }
        None => x,
    };
    matmul(rec, matrix, x, count, Rows::Batch { most: d.sequences }, epilogue, out, &d.slices)
}
