//! Activations: what a pass needs beside weights and cache, allocated once and used again.

use super::Config;
use crate::gpu::{Class, Gpu, Tensor, VIEW_ALIGNMENT};
use crate::kernels::activations::Activations;
use crate::kernels::attention_parts::{Left, Room};
use crate::kernels::attention_prefill::halves_len;
use crate::kernels::matmul::{Rows, slices_len};
use crate::kernels::matvec_dots;
use crate::kernels::moments::moments_len;
use crate::kernels::operand::Operand;
use crate::kv::{MOST_TIERS, Role};

/// Rows that run through a layer at a time; it bounds both the memory of what no later row needs and the time of one
/// dispatch.
pub(super) const CHUNK: usize = 512;

/// The list of rows that a layer's main tier gains,
pub(super) const MAIN: usize = 0;
/// that of its tail,
pub(super) const TAIL: usize = 1;
/// that of the rows that go on to the next layer,
pub(super) const ON: usize = 2;
/// and for each row, where it is merged into.
pub(super) const INTO: usize = 3;

/// Activations of a block of prompt rows. What all rows keep from one chunk to the next are hidden rows, keys and values;
/// all else is a chunk's own, or a few numbers a row.
#[derive(Debug)]
pub struct PrefillScratch {
    /// Rows that fit.
    pub(super) rows: usize,
    /// Earlier rows of a layer that fit beside them.
    pub(super) prefix: usize,
    pub(super) tokens: Tensor<u32>,
    /// `[rows, width]`
    pub(super) hidden: Tensor<f32>,
    /// Their positions. `[rows]`
    pub(super) positions: Tensor<u32>,
    /// `[prefix + rows, kv heads * dim]`
    pub(super) k: Tensor<f32>,
    /// `[prefix + rows, kv heads * dim]`
    pub(super) v: Tensor<f32>,
    /// Copies of K and V where attention reads halves.
    pub(super) kv_halves: [Tensor<u32>; 2],
    /// `[kv heads, rows]`
    pub(super) scores: Tensor<f32>,
    /// What a term gives that is not added up. `[kv heads, rows]`
    pub(super) term: Tensor<f32>,
    /// What is added up while chunks run. `[kv heads, rows]` each
    pub(super) tallies: Vec<Tensor<f32>>,
    /// Expected logits, or what pooling leaves of a term. `[query heads, rows]`
    pub(super) spread: Tensor<f32>,
    /// Mean and covariance of the queries, with a chunk and before it. `[query heads, 1 + dim, dim]`
    pub(super) moments: [Tensor<f32>; 2],
    /// Lists of rows, by [`MAIN`], [`TAIL`], [`ON`] and [`INTO`]. `[kv heads, rows]`
    pub(super) index: [Tensor<u32>; 4],
    /// What is added to the logits of earlier rows. `[prefix, kv heads]`
    pub(super) bias: Tensor<f32>,
    /// `[CHUNK, width]`
    pub(super) normed: Activations,
    /// Queries, keys and values, `[CHUNK, qkv width]`; or hidden rows that move up, `[CHUNK, width]`.
    pub(super) qkv: Tensor<f32>,
    /// `[CHUNK, query heads * dim]`
    pub(super) q: Tensor<f32>,
    /// `[CHUNK, query heads * dim]`
    pub(super) attended: Tensor<f32>,
    /// `[CHUNK, query heads]`
    pub(super) lse: Tensor<f32>,
    /// `[CHUNK, ffn]`
    pub(super) inner: Activations,
    /// What a product needs beside its outputs.
    pub(super) slices: Tensor<f32>,
}

/// Lengths of a prefill's tensors, in words of four bytes.
struct Lengths {
    /// One word a row.
    rows: usize,
    hidden: usize,
    kv: usize,
    kv_rows: usize,
    scores: usize,
    spread: usize,
    moments: usize,
    bias: usize,
    chunk: usize,
    qkv: usize,
    q: usize,
    lse: usize,
}

impl Lengths {
    fn new(config: &Config, rows: usize, prefix: usize) -> Self {
        // Views of these tensors are cut at whole rows, whose count is then aligned whatever their width.
        let rows = rows.next_multiple_of(VIEW_ALIGNMENT);
        let (heads, chunk) = (config.heads, CHUNK.min(rows));
        Self {
            rows,
            hidden: rows * config.width,
            kv: (rows + prefix) * heads.kv_width(),
            kv_rows: rows + prefix,
            scores: heads.kv * rows,
            spread: heads.query * rows,
            moments: moments_len(heads.query, heads.dim),
            bias: prefix * heads.kv,
            chunk,
            qkv: chunk * heads.qkv_width().max(config.width),
            q: chunk * heads.q_width(),
            lse: chunk * heads.query,
        }
    }
}

impl PrefillScratch {
    /// Room for blocks of `rows` rows beside `prefix` earlier ones, for which a layer adds up as many as `tallies` scores
    /// (see `tally::most`).
    pub fn new(gpu: &Gpu, config: &Config, rows: usize, prefix: usize, tallies: usize) -> Self {
        let n = Lengths::new(config, rows, prefix);
        let f = |label: &str, len: usize| gpu.tensor::<f32>(Class::Scratch, label, len);
        let u = |label: &str, len: usize| gpu.tensor::<u32>(Class::Scratch, label, len);
        Self {
            rows,
            prefix,
            tokens: u("tokens", n.rows),
            hidden: f("hidden", n.hidden),
            positions: u("positions", n.rows),
            k: f("k", n.kv),
            v: f("v", n.kv),
            kv_halves: [(); 2].map(|()| u("halves", halves_len(gpu.tuning(), config.heads, n.kv_rows))),
            scores: f("scores", n.scores),
            term: f("term", n.scores),
            tallies: (0..tallies).map(|_| f("tally", n.scores)).collect(),
            spread: f("spread", n.spread),
            moments: [(); 2].map(|()| f("moments", n.moments)),
            index: [(); 4].map(|()| u("index", n.scores)),
            bias: f("bias", n.bias),
            normed: Activations::new(gpu, "normed", n.chunk * config.width, Rows::Block),
            qkv: f("qkv", n.qkv),
            q: f("q", n.q),
            attended: f("attended", n.q),
            lse: f("lse", n.lse),
            inner: Activations::new(gpu, "inner", n.chunk * config.ffn, Rows::Block),
            slices: f("slices", slices_len(gpu.tuning(), n.chunk, Rows::Block)),
        }
    }

    /// Bytes of such a scratch, and of its largest tensor, on a device without matrix units. With them the slices are 8
    /// MiB, what products read is half as large, and attention reads copies of K and V in halves.
    pub fn bytes(config: &Config, rows: usize, prefix: usize, tallies: usize) -> (u64, u64) {
        let n = Lengths::new(config, rows, prefix);
        let inner = n.chunk * config.ffn;
        let of_block = 2 * n.rows + n.hidden + 2 * n.kv + (6 + tallies) * n.scores + n.spread + n.bias;
        let of_chunk = n.chunk * config.width + n.qkv + 2 * n.q + n.lse + inner;
        let largest = n.hidden.max(n.kv).max(n.qkv).max(inner);
        (4 * (of_block + of_chunk + 2 * n.moments) as u64, 4 * largest as u64)
    }

    /// True when a block of `rows` rows beside `prefix` earlier ones fits, with so many tallies.
    pub fn fits(&self, rows: usize, prefix: usize, tallies: usize) -> bool {
        rows <= self.rows && prefix <= self.prefix && tallies <= self.tallies.len()
    }
}

/// Activations of one decode step, with a row for each of some sequences.
#[derive(Debug)]
pub struct DecodeScratch {
    /// Sequences that it is made for.
    pub(super) sequences: usize,
    /// The hidden rows. `[sequences, width]`
    pub(super) hidden: Tensor<f32>,
    /// What a product with many rows reads, where there may be many. `[sequences, width]`
    pub(super) normed: Option<Activations>,
    /// What products by packed dot products read, where those serve.
    pub(super) operands: Option<Operands>,
    pub(super) qkv: Tensor<f32>,
    pub(super) q: Tensor<f32>,
    pub(super) attended: Tensor<f32>,
    /// What attention leaves beside its output.
    pub(super) rooms: Tensor<f32>,
    room: Room,
    /// What attention counts in, zero between its dispatches. `[sequences, query heads]`
    pub(super) arrived: Tensor<u32>,
    pub(super) inner: Activations,
    /// What a product needs beside its outputs.
    pub(super) slices: Tensor<f32>,
    /// Row tables under repair, while rows leave them.
    pub(super) tables: Tensor<u32>,
    /// Values from one sequence's row to the next, where views are cut.
    pub(super) q_stride: usize,
    room_stride: usize,
    /// Rows that `rooms` and `tables` have room for, where they leave.
    pub(super) capacity: usize,
    /// `[sequences, vocab]`
    pub(crate) logits: Tensor<f32>,
}

impl DecodeScratch {
    /// Room for a step of `sequences` sequences; where rows leave while they go on, over at most `capacity` rows a layer.
    pub fn new(gpu: &Gpu, config: &Config, sequences: usize, capacity: usize) -> Self {
        let heads = config.heads;
        let f = |label: &str, len: usize| gpu.tensor::<f32>(Class::Scratch, label, sequences * len);
        let strides = Strides::new(gpu, config, sequences, capacity);
        let operands =
            matvec_dots::serves(gpu.tuning(), sequences).then(|| Operands::new(gpu, config, sequences));
        let rows = Rows::Batch { most: sequences };
        let read = |label: &str, len: usize| Activations::new(gpu, label, sequences * len, rows);
        Self {
            sequences,
            hidden: f("hidden", config.width),
            normed: (sequences > 1 && operands.is_none()).then(|| read("normed", config.width)),
            operands,
            qkv: f("qkv", heads.qkv_width()),
            q: f("q", strides.q),
            attended: f("attended", heads.q_width()),
            rooms: f("rooms", strides.room),
            room: room(gpu, config, sequences, capacity),
            arrived: gpu.tensor(Class::Scratch, "arrived", sequences * heads.query),
            inner: read("inner", config.ffn),
            slices: gpu.tensor(Class::Scratch, "slices", slices_len(gpu.tuning(), sequences, rows)),
            q_stride: strides.q,
            room_stride: strides.room,
            tables: gpu.tensor(Class::Scratch, "row tables", sequences * heads.kv * capacity),
            capacity,
            logits: f("logits", config.vocab),
        }
    }

    /// Bytes of such a scratch, and of its largest tensor.
    pub fn bytes(gpu: &Gpu, config: &Config, sequences: usize, capacity: usize) -> (u64, u64) {
        let (heads, strides) = (config.heads, Strides::new(gpu, config, sequences, capacity));
        let strided = strides.q + strides.room + heads.kv * capacity;
        let dense =
            2 * config.width + heads.qkv_width() + heads.q_width() + heads.query + config.ffn + config.vocab;
        let largest = strides.room.max(config.ffn).max(config.vocab);
        let slices = slices_len(gpu.tuning(), sequences, Rows::Batch { most: sequences });
        let total = sequences * (strided + dense) + slices;
        let operands =
            if matvec_dots::serves(gpu.tuning(), sequences) { Operands::bytes(config, sequences) } else { 0 };
        (4 * total as u64 + operands, 4 * (sequences * largest) as u64)
    }

    /// True when rows may leave pools of `capacity` rows.
    pub fn fits(&self, capacity: usize) -> bool {
        capacity <= self.capacity
    }

    /// Where in `rooms` lies what attention leaves of one sequence's token.
    pub(super) fn left(&self, sequence: usize) -> Left {
        self.room.at(sequence * self.room_stride)
    }

    /// The ends of one sequence's token. `[query heads, 2]`
    pub(super) fn ends(&self, sequence: usize, heads: usize) -> Tensor<f32> {
        self.rooms.view(self.left(sequence).ends_from, 2 * heads)
    }
}

/// The activations of a decode step as packed dot products read them.
#[derive(Debug)]
pub(super) struct Operands {
    /// The residual stream times the weights of the norm that comes next.
    pub stream: Operand,
    /// Attention's output.
    pub attended: Operand,
    /// Inside the feed-forward part.
    pub inner: Operand,
}

impl Operands {
    fn new(gpu: &Gpu, config: &Config, sequences: usize) -> Self {
        let [stream, attended, inner] = Self::widths(config).map(|width| Operand::new(gpu, sequences, width));
        Self { stream, attended, inner }
    }

    fn bytes(config: &Config, sequences: usize) -> u64 {
        Self::widths(config).map(|width| Operand::bytes(sequences, width)).iter().sum()
    }

    fn widths(config: &Config) -> [usize; 3] {
        [config.width, config.heads.q_width(), config.ffn]
    }
}

/// Values of one sequence's row, rounded up to where the next one can begin.
struct Strides {
    q: usize,
    room: usize,
}

/// What attention needs for one token.
fn room(gpu: &Gpu, config: &Config, sequences: usize, capacity: usize) -> Room {
    // Only a session alone reads shared tiers and recalled rows.
    let pools = if sequences > 1 { Role::ALL.len() } else { MOST_TIERS + 1 };
    Room::new(config.heads, pools * gpu.tuning().attention_splits as usize, capacity)
}

impl Strides {
    fn new(gpu: &Gpu, config: &Config, sequences: usize, capacity: usize) -> Self {
        let widths = [config.heads.q_width(), room(gpu, config, sequences, capacity).values()];
        let [q, room] = widths.map(|len| len.next_multiple_of(VIEW_ALIGNMENT));
        Self { q, room }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AdapterChoice;
    use crate::kernels::kv_row::Heads;
    use crate::kv::policy::{Budget, Joint, Policy};
    use crate::model::{SyntheticPreset, tally};

    /// An 8B shape, and what a layer adds up under a policy with two terms.
    fn large() -> (Config, usize) {
        let config = SyntheticPreset::named("llama3-8b").expect("a preset").config();
        let plan = Joint::new(Budget::Share(0.5)).plan(8192, config.layers).expect("a plan");
        (config, tally::most(&plan, false))
    }

    #[test]
    fn little_is_kept_of_long_prompts() {
        let (config, tallies) = large();
        let bytes = |rows| PrefillScratch::bytes(&config, rows, 0, tallies).0;
        // Hidden rows take 16 KiB each, keys and values 8 KiB, all else under half a KiB.
        let row = (bytes(16_384) - bytes(8192)) / 8192;
        assert!((24 * 1024..24 * 1024 + 512).contains(&row), "{row} bytes a row");
        // With all rows of queries, of what attention leaves and of a second hidden buffer it was 659 MB.
        assert!(bytes(8192) < 280_000_000, "{}", bytes(8192));
    }

    #[test]
    fn bytes_are_those_of_the_device() {
        let gpu = pollster::block_on(Gpu::open(&AdapterChoice::Best)).expect("an adapter");
        let (config, tallies) = large();
        let config = Config { width: 72, ffn: 40, heads: Heads { query: 3, kv: 3, dim: 24 }, ..config };
        for (rows, prefix) in [(1, 0), (70, 3), (700, 512)] {
            let before = gpu.bytes().scratch;
            let scratch = PrefillScratch::new(&gpu, &config, rows, prefix, tallies);
            let (bytes, _) = PrefillScratch::bytes(&config, rows, prefix, tallies);
            let made = gpu.bytes().scratch - before;
            // Four tensors hold nothing here, in 16 bytes each.
            assert!((bytes..=bytes + 64).contains(&made), "{made} bytes, not {bytes}");
            drop(scratch);
        }
    }
}
