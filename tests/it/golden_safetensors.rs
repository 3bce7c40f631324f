//! The GGUF file's weights once more, as a Hugging Face checkpoint in f16: another reader, another rotation and
//! another row format must say the same. Takes 270 MB in the temporary directory while it runs.

use crate::common::checkpoint;
use crate::common::device;
use crate::common::files;
use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::files::{f32s, golden_arrays, golden_json, max_error, u32s};
use benben::kv::{Format, policy::Full};
use benben::model::Config;
use benben::weights::{ModelFile, TensorInfo};
use benben::{AdapterChoice, Gpu, LoadOptions, Model};
use half::f16;
use pollster::block_on;
use safetensors::{Dtype, View, serialize_to_file};
use serde_json::{Map, json};

/// Weights rounded to f16 move logits. Measured: 0.012.
const LOGITS: f32 = 0.03;

/// A tensor on its way into the checkpoint, read when it is written.
struct Rounded<'a> {
    file: &'a ModelFile,
    tensor: &'a TensorInfo,
    /// Rows of a head, for the tensors that a GGUF file permutes for rotation in pairs.
    head: Option<usize>,
}

impl View for Rounded<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F16
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let (values, cols) =
            (block_on(self.file.dequantize(self.tensor)).expect("readable"), self.tensor.cols());
        let source = |row: usize| match self.head {
            Some(head) => row / head * head + row % (head / 2) * 2 + row % head / (head / 2),
            None => row,
        };
        let rows = (0..self.tensor.rows()).flat_map(|row| &values[source(row) * cols..][..cols]);
        rows.flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        2 * self.tensor.shape.iter().product::<usize>()
    }
}

fn write_checkpoint(gguf: &Path, directory: &Path) {
    let file = ModelFile::open(gguf).expect("the model file opens");
    let config = block_on(Config::read(&file)).expect("a configuration");
    let tensors = file.tensors().map(|tensor| {
        let permuted = tensor.name.contains("attn_q.") || tensor.name.contains("attn_k.");
        (
            checkpoint::their_name(&tensor.name),
            Rounded { file: &file, tensor, head: permuted.then_some(config.heads.dim) },
        )
    });
    serialize_to_file(tensors, None, &directory.join("model.safetensors")).expect("room for 270 MB");
    let json = json!({
        "model_type": "llama",
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads.query,
        "num_key_value_heads": config.heads.kv,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.epsilon,
        "rope_theta": config.rope.base,
        "tie_word_embeddings": true,
    });
    fs::write(directory.join("config.json"), json.to_string()).expect("written");
    // Prompts come as ids, so any names will do.
    let vocab: Map<_, _> = (0..config.vocab).map(|id| (format!("<{id}>"), id.into())).collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<0>" },
    });
    fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).expect("written");
}

/// A directory that goes when the test does, however that ends.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

#[test]
fn a_checkpoint_of_the_same_weights_answers_alike() {
    let (Some(gguf), Some(golden), Some(arrays)) =
        (files::model_file(), golden_json("prompts_greedy.json"), golden_arrays("logits.safetensors"))
    else {
        return;
    };
    let scratch = Scratch(std::env::temp_dir().join(format!("benben-checkpoint-{}", std::process::id())));
    fs::create_dir_all(&scratch.0).expect("a directory");
    write_checkpoint(&gguf, &scratch.0);
    let gpu = block_on(Gpu::open(&AdapterChoice::Best)).expect("an adapter");
    let model = block_on(Model::load(&gpu, &scratch.0, &LoadOptions::default(), |_| ()))
        .expect("the checkpoint loads");
    assert!(!model.config().rope.interleaved);
    for p in [0, 1] {
        let prompt = &golden["prompts"][p];
        let mut session = device::session(&model, Full, Format::F16);
        session.append(&u32s(&prompt["ids"])).expect("the prompt fits");
        let logits = block_on(session.logits()).expect("logits");
        let top = arrays.u32s(&format!("p{p}.top32_ids"));
        let found: Vec<f32> = top.iter().map(|&id| logits[id as usize]).collect();
        let error = max_error(&found, &arrays.f32s(&format!("p{p}.top32_logits")));
        assert!(error <= LOGITS, "prompt {p}: the best 32 logits are off by {error}");
        let (wanted, margins) = (u32s(&prompt["greedy"]), f32s(&prompt["margins"]));
        let clear = margins.iter().position(|&m| m < 2.0 * LOGITS).unwrap_or(margins.len());
        assert!(clear >= 6, "prompt {p} says little: its first tie is at {clear}");
        assert_eq!(device::greedy(&mut session, clear), wanted[..clear], "prompt {p}");
    }
}
