//! A tiny seeded Llama, as GGUF and as safetensors: real shapes in small, odd sizes, three tensor types.
//!
//! Every value is exact in f16 and in its own type, so that a decoder in f64 sees the very same weights. Gains
//! are chosen so that attention is peaked and logits are spread: a wrong row changes the answer.

use benben::kernels::check::Noise;
use benben::weights::{Dtype, ModelFile, Value};
use half::f16;
use safetensors::tensor::{Dtype as FileDtype, TensorView, serialize};
use serde_json::json;

use super::checkpoint::their_name;
use super::gguf_writer::GgufWriter;

pub const LAYERS: usize = 4;
pub const CONTEXT: usize = 2048;

/// The sizes that a shader may care about.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub width: usize,
    pub query: usize,
    pub kv: usize,
    pub dim: usize,
    pub ffn: usize,
}

/// The shape of most tests.
const USUAL: Shape = Shape { width: 64, query: 4, kv: 2, dim: 32, ffn: 96 };

/// ChatML, as most small chat models have it.
const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// One tensor, before it is encoded.
#[derive(Clone)]
pub struct TinyTensor {
    pub name: String,
    pub dtype: Dtype,
    /// Outermost first.
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// A model file in pieces, which tests may bend before it is written.
#[derive(Clone)]
pub struct Tiny {
    shape: Shape,
    /// Layers that share the keys and values of their first one; only a `config.json` can say so.
    sharing: usize,
    pub meta: Vec<(String, Value)>,
    pub tensors: Vec<TinyTensor>,
}

impl Tiny {
    pub fn new() -> Self {
        Self::shaped(USUAL)
    }

    pub fn shaped(shape: Shape) -> Self {
        Self { shape, sharing: 1, meta: metadata(shape), tensors: tensors(shape) }
    }

    /// Groups of `sharing` layers, of which only the first has projections of K and V.
    pub fn sharing(mut self, sharing: usize) -> Self {
        let makes_kv =
            |name: &str| (0..LAYERS).step_by(sharing).any(|l| name.starts_with(&format!("blk.{l}.")));
        let kv = |name: &str| name.contains("attn_k.") || name.contains("attn_v.");
        self.tensors.retain(|t| !kv(&t.name) || makes_kv(&t.name));
        Self { sharing, ..self }
    }

    /// Replaces a metadata value, or adds it.
    pub fn with_meta(mut self, key: &str, value: Value) -> Self {
        self.meta.retain(|(name, _)| name != key);
        self.meta.push((key.to_owned(), value));
        self
    }

    pub fn without_meta(mut self, key: &str) -> Self {
        self.meta.retain(|(name, _)| name != key);
        self
    }

    /// The tensor of this name, to be bent.
    pub fn tensor(&mut self, name: &str) -> &mut TinyTensor {
        self.tensors.iter_mut().find(|t| t.name == name).expect("a tensor of the tiny model")
    }

    /// The bytes of a GGUF file.
    pub fn gguf(&self) -> Vec<u8> {
        write(&self.meta, &self.tensors)
    }

    /// The GGUF file cut into shards as `llama-gguf-split` cuts it, each with its name.
    pub fn gguf_shards(&self, count: usize) -> Vec<(String, Vec<u8>)> {
        let shard = |(i, tensors): (usize, &[TinyTensor])| {
            let split = [
                ("split.no", Value::U16(i as u16)),
                ("split.count", Value::U16(count as u16)),
                ("split.tensors.count", Value::I32(self.tensors.len() as i32)),
            ];
            let split = split.map(|(key, value)| (key.to_owned(), value));
            let meta = if i == 0 { [self.meta.clone(), split.to_vec()].concat() } else { split.to_vec() };
            (format!("tiny-{:05}-of-{count:05}.gguf", i + 1), write(&meta, tensors))
        };
        self.tensors.chunks(self.tensors.len().div_ceil(count)).enumerate().map(shard).collect()
    }

    /// The GGUF file, open.
    pub fn file(&self) -> ModelFile {
        ModelFile::from_bytes(self.gguf()).expect("the tiny model is sound")
    }

    /// The same model as Hugging Face has it: f16 tensors, rotation by halves, files beside it.
    pub fn safetensors(&self) -> ModelFile {
        self.checkpoint_with(&self.config_json())
    }

    /// The same with another `config.json`.
    pub fn checkpoint_with(&self, config: &str) -> ModelFile {
        let file = ModelFile::from_safetensors_bytes(self.checkpoint(&self.tensors), config);
        file.expect("sound safetensors").with_sidecar("tokenizer.json", tokenizer_json().into_bytes())
    }

    /// The same in shards with their index, as files of these names.
    pub fn safetensors_shards(&self, count: usize) -> Vec<(String, Vec<u8>)> {
        let name = |i: usize| format!("model-{:05}-of-{count:05}.safetensors", i + 1);
        let shards = self.tensors.chunks(self.tensors.len().div_ceil(count)).enumerate();
        let place = |(i, tensors): (usize, &[TinyTensor])| {
            tensors.iter().map(|t| (their_name(&t.name), name(i).into())).collect::<Vec<_>>()
        };
        let map: serde_json::Map<_, _> = shards.clone().flat_map(place).collect();
        let mut files: Vec<_> = shards.map(|(i, tensors)| (name(i), self.checkpoint(tensors))).collect();
        let index = json!({"metadata": {}, "weight_map": map}).to_string();
        files.push(("model.safetensors.index.json".to_owned(), index.into_bytes()));
        files.push(("config.json".to_owned(), self.config_json().into_bytes()));
        files.push(("tokenizer.json".to_owned(), tokenizer_json().into_bytes()));
        files
    }

    /// One safetensors file with these tensors.
    fn checkpoint(&self, tensors: &[TinyTensor]) -> Vec<u8> {
        let tensors: Vec<_> =
            tensors.iter().map(|t| (their_name(&t.name), t.shape.clone(), t.halved(self.shape))).collect();
        let views = tensors.iter().map(|(name, shape, bytes)| {
            (name.as_str(), TensorView::new(FileDtype::F16, shape.clone(), bytes).expect("a tensor"))
        });
        serialize(views, None).expect("safetensors")
    }

    /// The text of its `config.json`.
    pub fn config_json(&self) -> String {
        let config = json!({
            "model_type": "llama", "hidden_size": self.shape.width, "num_attention_heads": self.shape.query,
            "num_key_value_heads": self.shape.kv, "head_dim": self.shape.dim, "num_hidden_layers": LAYERS,
            "intermediate_size": self.shape.ffn, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0, "use_cla": self.sharing > 1, "cla_share_factor": self.sharing,
        });
        config.to_string()
    }
}

/// The bytes of a GGUF file with this metadata and these tensors.
fn write(meta: &[(String, Value)], tensors: &[TinyTensor]) -> Vec<u8> {
    let writer = meta.iter().fold(GgufWriter::new(), |writer, (key, value)| writer.meta(key, value.clone()));
    let tensors = tensors.iter();
    tensors.fold(writer, |writer, t| writer.tensor(&t.name, t.dtype, &t.shape, &t.encode())).finish()
}

impl TinyTensor {
    /// The bytes of its type.
    pub fn encode(&self) -> Vec<u8> {
        match self.dtype {
            Dtype::F32 => self.values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::F16 => halves(&self.values),
            Dtype::Q8_0 => self.values.chunks(32).flat_map(q8_block).collect(),
            other => panic!("the tiny model has no {other:?} tensors"),
        }
    }

    /// Its values in f16; the rows of Q and K in the order of a rotation by halves, not by neighbours.
    fn halved(&self, Shape { width, dim, .. }: Shape) -> Vec<u8> {
        let rotates = ["attn_q.", "attn_k."].iter().any(|part| self.name.contains(part));
        if !rotates {
            return halves(&self.values);
        }
        let heads = self.values.chunks_exact(dim * width);
        let row = |head: &[f32], i: usize| head[i * width..(i + 1) * width].to_vec();
        let order: Vec<usize> = (0..dim).map(|i| if i < dim / 2 { 2 * i } else { 2 * i - dim + 1 }).collect();
        let rows = heads.flat_map(|head| order.iter().flat_map(|&i| row(head, i)).collect::<Vec<_>>());
        halves(&rows.collect::<Vec<_>>())
    }
}

fn halves(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect()
}

/// A Q8_0 block: a scale in f16, which here is a power of two, and 32 signed bytes.
fn q8_block(values: &[f32]) -> Vec<u8> {
    let scale = q8_scale(values);
    let codes = values.iter().map(|v| (v / scale).round() as i8 as u8);
    f16::from_f32(scale).to_le_bytes().into_iter().chain(codes).collect()
}

/// The smallest power of two whose multiples up to 127 reach every value.
fn q8_scale(values: &[f32]) -> f32 {
    let most = values.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
    (most / 127.0).log2().ceil().exp2()
}

fn metadata(shape: Shape) -> Vec<(String, Value)> {
    let (tokens, types, merges) = vocabulary();
    let number = |n: usize| Value::U32(n as u32);
    let last = tokens.len() as u32 - 1;
    let strings = |list: Vec<String>| Value::Array(list.into_iter().map(Value::String).collect());
    let pairs = [
        ("general.architecture", Value::String("llama".into())),
        ("general.name", Value::String("tiny".into())),
        ("llama.block_count", number(LAYERS)),
        ("llama.embedding_length", number(shape.width)),
        ("llama.feed_forward_length", number(shape.ffn)),
        ("llama.context_length", number(CONTEXT)),
        ("llama.attention.head_count", number(shape.query)),
        ("llama.attention.head_count_kv", number(shape.kv)),
        ("llama.attention.key_length", number(shape.dim)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.dimension_count", number(shape.dim)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("gpt-2".into())),
        ("tokenizer.ggml.tokens", strings(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(types.into_iter().map(Value::I32).collect())),
        ("tokenizer.ggml.merges", strings(merges)),
        ("tokenizer.ggml.eos_token_id", Value::U32(last)),
        ("tokenizer.chat_template", Value::String(TEMPLATE.into())),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).to_vec()
}

/// Tokens, their types and the merges: 256 bytes, 36 pairs of letters, and the control tokens at the end.
fn vocabulary() -> (Vec<String>, Vec<i32>, Vec<String>) {
    let mut spare = 256;
    let character = |byte: u32| {
        let printable = (0x21..=0x7e).contains(&byte) || (0xa1..=0xac).contains(&byte) || byte >= 0xae;
        let code = if printable { byte } else { spare };
        spare += u32::from(!printable);
        char::from_u32(code).expect("a character").to_string()
    };
    let mut tokens: Vec<String> = (0..256).map(character).collect();
    let merges: Vec<String> =
        "aeiouy".chars().flat_map(|b| "bdlnrt".chars().map(move |a| format!("{a} {b}"))).collect();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let mut types = vec![1; tokens.len()];
    tokens.extend(CONTROL.map(str::to_owned));
    types.extend([3; CONTROL.len()]);
    (tokens, types, merges)
}

/// Entries of the vocabulary.
pub fn vocab() -> usize {
    vocabulary().0.len()
}

fn tokenizer_json() -> String {
    let (tokens, types, merges) = vocabulary();
    let ids: serde_json::Map<_, _> =
        tokens.iter().zip(0..).map(|(token, id): (_, u32)| (token.clone(), id.into())).collect();
    let added = tokens.iter().zip(&types).zip(0..).filter(|((_, kind), _)| **kind == 3).map(
        |((token, _), id): (_, u32)| {
            json!({"id": id, "content": token, "special": true, "normalized": false,
               "single_word": false, "lstrip": false, "rstrip": false})
        },
    );
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "added_tokens": added.collect::<Vec<_>>(), "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": ids, "merges": merges},
    })
    .to_string()
}

fn tensors(shape: Shape) -> Vec<TinyTensor> {
    let Shape { width, query, kv, dim, ffn } = shape;
    let (q, kv, vocab) = (query * dim, kv * dim, vocab());
    let mut noise = Noise::new(7);
    // The amplitude gives a product with a row of variance 1 the variance gain².
    let mut matrix = |name: String, dtype, rows: usize, cols: usize, gain: f32| {
        let dtype = if cols.is_multiple_of(32) { dtype } else { Dtype::F16 };
        let amplitude = gain * (3.0 / cols as f32).sqrt();
        let drawn: Vec<f32> = noise.values(rows * cols).iter().map(|v| v * amplitude).collect();
        let values = match dtype {
            Dtype::Q8_0 => drawn
                .chunks(32)
                .flat_map(|block| {
                    let scale = q8_scale(block);
                    block.iter().map(move |v| (v / scale).round() * scale).collect::<Vec<_>>()
                })
                .collect(),
            _ => drawn.iter().map(|v| f16::from_f32(*v).to_f32()).collect(),
        };
        TinyTensor { name: format!("{name}.weight"), dtype, shape: vec![rows, cols], values }
    };
    let mut all = vec![
        matrix("token_embd".into(), Dtype::F16, vocab, width, 8.0),
        matrix("output".into(), Dtype::Q8_0, vocab, width, 3.0),
    ];
    for l in 0..LAYERS {
        let name = |part: &str| format!("blk.{l}.{part}");
        all.push(matrix(name("attn_q"), Dtype::Q8_0, q, width, 1.5));
        all.push(matrix(name("attn_k"), Dtype::F16, kv, width, 1.5));
        all.push(matrix(name("attn_v"), Dtype::Q8_0, kv, width, 1.5));
        all.push(matrix(name("attn_output"), Dtype::Q8_0, width, q, 1.0));
        all.push(matrix(name("ffn_gate"), Dtype::F16, ffn, width, 1.5));
        all.push(matrix(name("ffn_up"), Dtype::F16, ffn, width, 1.5));
        all.push(matrix(name("ffn_down"), Dtype::F32, width, ffn, 1.0));
    }
    let norms = (0..LAYERS).flat_map(|l| [format!("blk.{l}.attn_norm"), format!("blk.{l}.ffn_norm")]);
    for name in norms.chain(["output_norm".to_owned()]) {
        let near_one = noise.values(width).iter().map(|v| f16::from_f32(1.0 + 0.25 * v).to_f32()).collect();
        all.push(TinyTensor {
            name: format!("{name}.weight"),
            dtype: Dtype::F32,
            shape: vec![width],
            values: near_one,
        });
    }
    all
}

/// A prompt of `len` drawn tokens, none of them a control token.
pub fn prompt(seed: u64, len: usize) -> Vec<u32> {
    let mut noise = Noise::new(seed);
    (0..len).map(|_| noise.below((vocab() - CONTROL.len()) as u32)).collect()
}
