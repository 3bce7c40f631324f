//! From a model file to matrices on the device.
//!
//! Tensors that are used together are stacked: Q, K and V into one matrix, gate and up into another, so that
//! decode needs one dispatch for each. A matrix larger than a binding is split by rows. Tensors are read and
//! repacked a few mebibytes at a time, so that the host never holds more than that, however large the file.

use std::sync::Mutex;

use super::config::Config;
use super::{Layer, Model};
use crate::gpu::{Class, Gpu, Recorder, Tensor};
use crate::kernels::matrix::{GROUP, Matrix, RowFormat};
use crate::kernels::part::Part;
use crate::text::Text;
use crate::weights::{ModelFile, TensorInfo, natural_format};
use crate::{Error, Result};

/// How far loading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the file that are on the device.
    pub done: u64,
    /// Bytes of the file that belong there.
    pub total: u64,
}

/// The tensor that a model with a tied head does not have.
const HEAD: &str = "output.weight";

/// Bytes handed to the driver before it is asked to free its staging memory.
const FLUSH_BYTES: u64 = 32 << 20;

/// The most that is read, and that is repacked, at a time; a single row may be longer.
const CHUNK_BYTES: usize = 4 << 20;

/// Tensors of one matrix: their rows follow each other, or alternate in blocks for a gated layer.
pub(crate) struct Stack {
    /// Each tensor's name and rows.
    tensors: Vec<(String, usize)>,
    pub(super) cols: usize,
    gated: bool,
}

/// The matrices of a model: embedding and head, then qkv, output, gate and up, and down of every layer.
pub(crate) fn stacks(config: &Config) -> Vec<Stack> {
    let (width, vocab, ffn, heads) = (config.width, config.vocab, config.ffn, config.heads);
    let (q, kv) = (heads.q_width(), heads.kv_width());
    let stack = |tensors: &[(String, usize)], cols, gated| Stack { tensors: tensors.to_vec(), cols, gated };
    let single = |name: &str, rows, cols| stack(&[(format!("{name}.weight"), rows)], cols, false);
    let mut all = vec![single("token_embd", vocab, width), stack(&[(HEAD.to_owned(), vocab)], width, false)];
    for l in 0..config.layers {
        let name = |part: &str| format!("blk.{l}.{part}.weight");
        let qkv = [(name("attn_q"), q), (name("attn_k"), kv), (name("attn_v"), kv)];
        let own = if config.makes_kv(l) { 3 } else { 1 };
        all.push(stack(&qkv[..own], width, false));
        all.push(stack(&[(name("attn_output"), width)], q, false));
        all.push(stack(&[(name("ffn_gate"), ffn), (name("ffn_up"), ffn)], width, true));
        all.push(stack(&[(name("ffn_down"), width)], ffn, false));
    }
    all
}

/// Where a model's weights come from.
pub(super) trait Source {
    /// The matrix of a stack; `None` for a head that is tied to the embedding.
    async fn matrix(&mut self, stack: &Stack) -> Result<Option<Matrix>>;
    /// A vector of hidden width, in f32.
    async fn vector(&mut self, name: &str) -> Result<Tensor<f32>>;
}

/// Takes a model's weights from their source, layer by layer as files have them.
pub(super) async fn assemble(
    gpu: &Gpu,
    config: &Config,
    text: Text,
    source: &mut impl Source,
) -> Result<Model> {
    let stacks = stacks(config);
    let missing = || Error::Invalid("a model's source left out one of its matrices".to_owned());
    let [embedding, head, rest @ ..] = stacks.as_slice() else { return Err(missing()) };
    let embedding = source.matrix(embedding).await?.ok_or_else(missing)?;
    let head = source.matrix(head).await?.unwrap_or_else(|| embedding.clone());
    let mut layers = Vec::with_capacity(config.layers);
    for (l, [qkv, output, gate_up, down]) in rest.as_chunks().0.iter().enumerate() {
        layers.push(Layer {
            attention_norm: source.vector(&format!("blk.{l}.attn_norm.weight")).await?,
            qkv: source.matrix(qkv).await?.ok_or_else(missing)?,
            output: source.matrix(output).await?.ok_or_else(missing)?,
            ffn_norm: source.vector(&format!("blk.{l}.ffn_norm.weight")).await?,
            gate_up: source.matrix(gate_up).await?.ok_or_else(missing)?,
            down: source.matrix(down).await?.ok_or_else(missing)?,
        });
    }
    let output_norm = source.vector("output_norm.weight").await?;
    let frequencies = gpu.tensor_with(Class::Weights, "rope frequencies", &config.rope.frequencies());
    gpu.flush();
    gpu.check()?;
    let (gpu, config) = (gpu.clone(), config.clone());
    let prefixes = Mutex::default();
    Ok(Model { gpu, config, text, embedding, head, layers, output_norm, frequencies, prefixes })
}

/// Uploads one model.
pub(crate) struct Loader<'a, F> {
    gpu: &'a Gpu,
    rec: Recorder,
    file: &'a ModelFile,
    config: &'a Config,
    weights: Option<RowFormat>,
    progress: F,
    done: u64,
    unflushed: u64,
}

impl<'a, F: FnMut(Progress)> Loader<'a, F> {
    pub fn new(
        gpu: &'a Gpu,
        file: &'a ModelFile,
        config: &'a Config,
        weights: Option<RowFormat>,
        progress: F,
    ) -> Self {
        Self { gpu, rec: Recorder::new(gpu), file, config, weights, progress, done: 0, unflushed: 0 }
    }

    /// Uploads everything.
    pub async fn load(mut self, text: Text) -> Result<Model> {
        assemble(self.gpu, self.config, text, &mut self).await
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<&'a TensorInfo> {
        let tensor = self.file.tensor(name).ok_or_else(|| Error::MissingTensor(name.to_owned()))?;
        if tensor.shape != shape {
            let (expected, found) = (shape.to_vec(), tensor.shape.clone());
            return Err(Error::Shape { tensor: name.to_owned(), expected, found });
        }
        Ok(tensor)
    }

    /// Uploads slices of tensors, one under the other, as one part.
    async fn part(&mut self, first_row: usize, slices: &[Slice<'_>], format: RowFormat) -> Result<Part> {
        let rows = slices.iter().map(|s| s.rows).sum();
        let found = |name: &str| self.file.tensor(name).ok_or_else(|| Error::MissingTensor(name.to_owned()));
        let label = slices.first().map_or("", |s| s.name);
        let cols = found(label)?.cols();
        let (row_words, row_scales) = (format.words_per_row(cols), format.scales_per_row(cols));
        let words = self.gpu.tensor(Class::Weights, label, rows * row_words);
        let scales = self.gpu.tensor(Class::Weights, label, rows * row_scales);
        let mut row = 0;
        for slice in slices {
            let tensor = found(slice.name)?;
            let row_bytes = tensor.byte_len() / tensor.rows();
            let chunk = (CHUNK_BYTES / row_bytes.max(4 * (row_words + row_scales))).max(1);
            let end = slice.first + slice.rows;
            for first in (slice.first..end).step_by(chunk) {
                let rows = chunk.min(end - first);
                let packed = self.file.pack(tensor, first, rows, format).await?;
                self.gpu.write(&words, row * row_words, &packed.words);
                if !packed.scales.is_empty() {
                    self.gpu.write(&scales, row * row_scales, &packed.scales);
                }
                row += rows;
                self.advance((row_bytes * rows) as u64);
            }
        }
        Part::new(&mut self.rec, first_row, rows, format, words, scales)
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        self.unflushed += bytes;
        if self.unflushed >= FLUSH_BYTES {
            self.gpu.flush();
            self.unflushed = 0;
        }
        (self.progress)(Progress { done: self.done, total: self.file.total_bytes() });
    }
}

impl<F: FnMut(Progress)> Source for Loader<'_, F> {
    async fn vector(&mut self, name: &str) -> Result<Tensor<f32>> {
        let tensor = self.find(name, &[self.config.width])?;
        let values = self.file.dequantize(tensor).await?;
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            let reason = format!("tensor '{name}' has a NaN or infinite weight at index {i}");
            return Err(Error::format(self.file.label(), reason));
        }
        let tensor_bytes = tensor.byte_len() as u64;
        let tensor = self.gpu.tensor_with(Class::Weights, name, &values);
        self.advance(tensor_bytes);
        Ok(tensor)
    }

    async fn matrix(&mut self, stack: &Stack) -> Result<Option<Matrix>> {
        if stack.is_tied(self.file) {
            return Ok(None);
        }
        for (name, rows) in &stack.tensors {
            self.find(name, &[*rows, stack.cols])?;
        }
        let format = stack.format(self.file, self.weights);
        let mut parts: Vec<Part> = Vec::new();
        for slices in stack.slices(self.gpu, format) {
            let first_row = parts.iter().map(|p| p.rows).sum();
            parts.push(self.part(first_row, &slices, format).await?);
        }
        Ok(Some(Matrix::new(stack.cols, parts)))
    }
}

/// Rows of one tensor.
pub(super) struct Slice<'a> {
    name: &'a str,
    first: usize,
    pub rows: usize,
}

impl Stack {
    /// One format for the whole stack: the widest that any of its tensors asks for.
    pub(super) fn format(&self, file: &ModelFile, wanted: Option<RowFormat>) -> RowFormat {
        let each = self.tensors.iter().filter_map(|(name, _)| file.tensor(name)).map(|tensor| match wanted {
            Some(format) => format.for_cols(tensor.cols()),
            None => natural_format(tensor.dtype, tensor.cols()),
        });
        each.max_by_key(|format| format.bits()).unwrap_or(RowFormat::F16)
    }

    /// The names of its tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(name, _)| name.as_str())
    }

    /// Bytes on the device; none when the file has no such tensor, as with a tied head.
    pub(crate) fn bytes(&self, file: &ModelFile, wanted: Option<RowFormat>) -> u64 {
        let format = self.format(file, wanted);
        let there = self.tensors.iter().filter(|(name, _)| file.tensor(name).is_some());
        let rows: usize = there.map(|(_, rows)| rows).sum();
        4 * (rows * (format.words_per_row(self.cols) + format.scales_per_row(self.cols))) as u64
    }

    /// True for the matrix that turns hidden rows into logits.
    pub(super) fn is_head(&self) -> bool {
        self.tensors[0].0 == HEAD
    }

    /// True for the head of a model in `file` that has none of its own and uses its embedding.
    pub(super) fn is_tied(&self, file: &ModelFile) -> bool {
        self.is_head() && file.tensor(HEAD).is_none()
    }

    /// The stack cut into parts that a binding can cover.
    pub(super) fn slices(&self, gpu: &Gpu, format: RowFormat) -> Vec<Vec<Slice<'_>>> {
        self.cut(Part::most_rows(gpu, format, self.cols).max(2))
    }

    /// The stack cut into parts of at most `per_part` rows.
    fn cut(&self, per_part: usize) -> Vec<Vec<Slice<'_>>> {
        if self.gated {
            // Every part holds rows of the gate and as many of up, so that one kernel sees both.
            // Whole groups of outputs, where there is room for one: the next product reads them by groups.
            let (rows, half) = (self.tensors[0].1, per_part / 2);
            let half = if half < GROUP { half } else { half / GROUP * GROUP };
            let part = |first: usize| {
                let rows = half.min(rows - first);
                self.tensors.iter().map(|(name, _)| Slice { name, first, rows }).collect()
            };
            return (0..rows).step_by(half).map(part).collect();
        }
        let mut parts: Vec<Vec<Slice<'_>>> = Vec::new();
        let mut room = 0;
        for (name, tensor_rows) in &self.tensors {
            let mut first = 0;
            while first < *tensor_rows {
                if room == 0 {
                    parts.push(Vec::new());
                    room = per_part;
                }
                let rows = room.min(tensor_rows - first);
                if let Some(part) = parts.last_mut() {
                    part.push(Slice { name, first, rows });
                }
                (first, room) = (first + rows, room - rows);
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(rows: &[usize], gated: bool) -> Stack {
        let tensors = rows.iter().enumerate().map(|(i, &rows)| (format!("t{i}"), rows)).collect();
        Stack { tensors, cols: 32, gated }
    }

    /// Each part as (tensor, first row, rows).
    fn cut(stack: &Stack, per_part: usize) -> Vec<Vec<(&str, usize, usize)>> {
        let parts = stack.cut(per_part);
        parts.iter().map(|p| p.iter().map(|s| (s.name, s.first, s.rows)).collect()).collect()
    }

    #[test]
    fn a_stack_within_the_limit_is_one_part() {
        let qkv = stack(&[9, 3, 3], false);
        assert_eq!(cut(&qkv, 15), [[("t0", 0, 9), ("t1", 0, 3), ("t2", 0, 3)]]);
    }

    #[test]
    fn a_larger_one_is_cut_anywhere_between_rows() {
        let qkv = stack(&[9, 3, 3], false);
        let parts = cut(&qkv, 7);
        assert_eq!(parts[0], [("t0", 0, 7)]);
        assert_eq!(parts[1], [("t0", 7, 2), ("t1", 0, 3), ("t2", 0, 2)]);
        assert_eq!(parts[2], [("t2", 2, 1)]);
    }

    #[test]
    fn gates_stay_with_their_ups() {
        let gate_up = stack(&[10, 10], true);
        let parts = cut(&gate_up, 9);
        assert_eq!(parts[0], [("t0", 0, 4), ("t1", 0, 4)]);
        assert_eq!(parts[2], [("t0", 8, 2), ("t1", 8, 2)]);
    }
}
