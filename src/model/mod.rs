//! The decoder: a model's shape, its weights on the device, and one forward pass over them.
//!
//! ```text
//! config.rs, rope.rs   shape; from_gguf.rs, from_json.rs read it, and refuse what they do not know
//! fields.rs            what is known of config.json's fields
//! leftovers.rs         tensors that no part of a model reads
//! load.rs              file → matrices on the device
//! stand_in.rs          the same without weights, to find what will run
//! scratch.rs           activations, sized once
//! prefill.rs           many rows through one layer
//! tally.rs             what their queries say of them
//! choose.rs            which of them the plan's counts let live
//! expect.rs            what later queries may attend to
//! keep.rs              where they go
//! merge.rs             what becomes of the others, where they are merged
//! decode.rs            a row of each of some sequences through one layer
//! checksum.rs          what tells a model from another, and its formats
//! refresh.rs           which rows leave while a session goes on
//! ```

mod checksum;
mod choose;
mod config;
mod decode;
mod expect;
mod fields;
mod from_gguf;
mod from_json;
mod keep;
mod leftovers;
mod load;
mod merge;
mod prefill;
#[cfg(test)]
mod probes;
mod refresh;
mod rope;
mod scratch;
mod stand_in;
mod synthetic;
mod tally;

use std::sync::Mutex;

pub use config::Config;
pub use decode::{DecodeRow, DecodeWindow};
pub use load::Progress;
pub use prefill::Block;
pub use rope::{RopeConfig, Scaling};
pub use scratch::{DecodeScratch, PrefillScratch};
pub use synthetic::{PRESETS, SyntheticPreset};

pub(crate) use config::MOST_CONTEXT;
pub(crate) use load::{Loader, stacks};
pub(crate) use prefill::LOGIT_ROWS;
pub(crate) use tally::most as most_tallies;

use crate::gpu::{Gpu, Tensor};
use crate::kernels::matrix::Matrix;
use crate::kernels::rope_split::Rope;
use crate::kv::Prefixes;
use crate::text::Text;

/// A model on the device, ready for any number of sessions.
#[derive(Debug)]
pub struct Model {
    pub(crate) gpu: Gpu,
    pub(crate) config: Config,
    pub(crate) text: Text,
    embedding: Matrix,
    head: Matrix,
    layers: Vec<Layer>,
    output_norm: Tensor<f32>,
    frequencies: Tensor<f32>,
    /// Rows that sessions leave to later ones.
    pub(crate) prefixes: Mutex<Prefixes>,
}

/// The weights of one layer.
#[derive(Debug)]
struct Layer {
    attention_norm: Tensor<f32>,
    /// Query, key and value rows, one under the other.
    qkv: Matrix,
    output: Matrix,
    ffn_norm: Tensor<f32>,
    /// Gate rows and up rows, in equal blocks.
    gate_up: Matrix,
    down: Matrix,
}

impl Model {
    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its tokenizer and chat template.
    pub fn text(&self) -> &Text {
        &self.text
    }

    /// The device it lives on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Bytes of weights that one decode step reads: all matrices, of the embedding only the head's use of it.
    pub fn bytes_per_step(&self) -> u64 {
        let layer = |l: &Layer| l.qkv.bytes() + l.output.bytes() + l.gate_up.bytes() + l.down.bytes();
        self.layers.iter().map(layer).sum::<u64>() + self.head.bytes()
    }

    /// The matrices of a layer (below `config().layers`) in the order in which a token meets them: of queries, keys
    /// and values, of attention's output, of gates and ups, and down.
    pub fn matrices(&self, layer: usize) -> [&Matrix; 4] {
        let layer = &self.layers[layer];
        [&layer.qkv, &layer.output, &layer.gate_up, &layer.down]
    }

    /// The matrix that makes logits.
    pub fn head(&self) -> &Matrix {
        &self.head
    }

    fn rope(&self) -> Rope<'_> {
        Rope {
            frequencies: &self.frequencies,
            interleaved: self.config.rope.interleaved,
            scale: self.config.rope.magnitude,
        }
    }

    fn attention_scale(&self) -> f32 {
        1.0 / (self.config.heads.dim as f32).sqrt()
    }
}
