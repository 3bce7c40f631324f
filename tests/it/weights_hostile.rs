//! Damaged and malicious model files: one clear sentence each, never a panic.

use std::fs;
use std::path::PathBuf;

use crate::common::gguf_writer::GgufWriter;
use benben::Error;
use benben::weights::{Dtype, FileKind, ModelFile, RowFormat, Value};
use pollster::block_on;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use safetensors::tensor::{Dtype as FileDtype, TensorView, serialize};

/// A sound file with every kind of value and two tensors.
fn small_gguf() -> Vec<u8> {
    let strings = ["<s>", "é", ""].map(|text| Value::String(text.into())).to_vec();
    let nested = Value::Array(vec![Value::Array(vec![Value::I8(-1)]), Value::Array(vec![])]);
    GgufWriter::new()
        .meta("general.architecture", Value::String("llama".into()))
        .meta("a.u8", Value::U8(1))
        .meta("a.u16", Value::U16(2))
        .meta("a.i16", Value::I16(-2))
        .meta("a.u32", Value::U32(3))
        .meta("a.i32", Value::I32(-3))
        .meta("a.u64", Value::U64(4))
        .meta("a.i64", Value::I64(-4))
        .meta("a.f32", Value::F32(0.5))
        .meta("a.f64", Value::F64(0.25))
        .meta("a.bool", Value::Bool(true))
        .meta("tokens", Value::Array(strings))
        .meta("nested", nested)
        .tensor("blk.0.attn_q.weight", Dtype::Q8_0, &[3, 64], &[7; 3 * 68])
        .tensor_f32("output_norm.weight", &[5], &[1.0, 2.0, 3.0, 4.0, 5.0])
        .finish()
}

fn small_safetensors() -> Vec<u8> {
    let data: Vec<u8> = (0..24u8).collect();
    let tensor = |dtype, shape, data| TensorView::new(dtype, shape, data).unwrap();
    let tensors = [
        ("model.norm.weight", tensor(FileDtype::F32, vec![3], &data[..12])),
        ("model.layers.0.mlp.up_proj.weight", tensor(FileDtype::F16, vec![2, 3], &data[12..])),
    ];
    serialize(tensors, None).unwrap()
}

/// The sentence with which `bytes` are refused.
fn refusal(bytes: Vec<u8>) -> String {
    match ModelFile::from_bytes(bytes) {
        Err(Error::Format { reason, .. }) => reason,
        Err(other) => panic!("not a format error: {other}"),
        Ok(_) => panic!("accepted"),
    }
}

/// Reads all that a file offers, as a loader would.
fn exercise(bytes: Vec<u8>) {
    let Ok(file) = ModelFile::from_bytes(bytes) else { return };
    for tensor in file.tensors() {
        assert_eq!(block_on(file.bytes(tensor)).unwrap().len(), tensor.byte_len());
        assert_eq!(block_on(file.dequantize(tensor)).unwrap().len(), tensor.rows() * tensor.cols());
        for format in [RowFormat::F16, RowFormat::Q8, RowFormat::Q4] {
            let _ = block_on(file.pack(tensor, 0, tensor.rows(), format));
        }
    }
}

#[test]
fn a_sound_file_reads_back() {
    let file = ModelFile::from_bytes(small_gguf()).unwrap();
    assert_eq!(file.kind(), FileKind::Gguf);
    assert_eq!(file.total_bytes(), 3 * 68 + 20);
    assert_eq!(file.meta().u64("a.u16").unwrap(), 2);
    assert_eq!(file.meta().f32("a.f64").unwrap(), 0.25);
    assert_eq!(file.meta().strings("tokens").unwrap(), ["<s>", "é", ""]);
    assert_eq!(file.meta().get("a.i64"), Some(&Value::I64(-4)));
    let q = file.tensor("blk.0.attn_q.weight").unwrap();
    assert_eq!((q.dtype, q.rows(), q.cols()), (Dtype::Q8_0, 3, 64));
    let norm = file.tensor("output_norm.weight").unwrap();
    assert_eq!((norm.rows(), norm.cols()), (1, 5));
    assert_eq!(block_on(file.dequantize(norm)).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn every_truncation_is_refused() {
    for whole in [small_gguf(), small_safetensors()] {
        for len in 0..whole.len() {
            assert!(!refusal(whole[..len].to_vec()).is_empty(), "cut to {len}");
        }
    }
}

#[test]
fn other_versions_and_byte_orders_are_named() {
    let with_version = |version: u32| {
        let mut file = small_gguf();
        file[4..8].copy_from_slice(&version.to_le_bytes());
        file
    };
    assert!(ModelFile::from_bytes(with_version(2)).is_ok());
    assert!(refusal(with_version(1)).contains("version 1"));
    assert!(refusal(with_version(3u32.swap_bytes())).contains("big-endian"));
}

#[test]
fn counts_beyond_the_file_allocate_nothing() {
    for (at, what) in [(8, "tensors"), (16, "metadata keys")] {
        for count in [1 << 20, 1 << 40, u64::MAX] {
            let mut file = small_gguf();
            file[at..at + 8].copy_from_slice(&count.to_le_bytes());
            let reason = refusal(file);
            assert!(reason.contains(&format!("claims {count} {what}")), "{reason}");
        }
    }
}

#[test]
fn shapes_must_make_sense() {
    let tensor =
        |type_id, dims: &[u64]| refusal(GgufWriter::new().raw_tensor("t", type_id, dims, &[0; 64]).finish());
    assert!(tensor(0, &[]).contains("'t' has 0 dimensions"));
    assert!(tensor(0, &[1, 1, 1, 1, 1]).contains("5 dimensions"));
    assert!(tensor(0, &[4, 0]).contains("none may be 0"));
    assert!(tensor(2, &[48]).contains("multiple of 32"));
    assert!(tensor(0, &[1 << 62, 4]).contains("must fit in memory"));
    assert!(tensor(0, &[u64::MAX]).contains("must fit in memory"));
    assert!(tensor(0, &[17]).contains("'t' has 68 bytes at offset 0 of the data"));
}

#[test]
fn unsupported_types_are_named_with_the_supported_ones() {
    let reason = refusal(GgufWriter::new().raw_tensor("t", 10, &[256], &[0; 84]).finish());
    assert!(reason.contains("tensor 't' has type Q2_K") && reason.contains("Q4_K"), "{reason}");
    assert!(refusal(GgufWriter::new().raw_tensor("t", 99, &[256], &[]).finish()).contains("number 99"));
}

#[test]
fn names_are_unique() {
    let twice = GgufWriter::new().tensor_f32("t", &[1], &[0.0]).tensor_f32("t", &[1], &[0.0]);
    assert!(refusal(twice.finish()).contains("'t' appears twice"));
    let twice = GgufWriter::new().meta("k", Value::U8(0)).meta("k", Value::U8(0));
    assert!(refusal(twice.finish()).contains("'k' appears twice"));
}

#[test]
fn alignment_is_a_power_of_two() {
    for alignment in [0, 48] {
        let file = GgufWriter::new().meta("general.alignment", Value::U32(alignment));
        assert!(refusal(file.finish()).contains(&format!("{alignment}, which is no power of two")));
    }
    let file = GgufWriter::new().meta("general.alignment", Value::U64(1 << 63)).tensor_f32("t", &[1], &[0.0]);
    assert!(refusal(file.finish()).contains("beyond the file"));
}

#[test]
fn offsets_are_aligned() {
    let mut file = GgufWriter::new().tensor_f32("t", &[1], &[0.0; 8]).finish();
    // Behind the preamble of 24 bytes: name, rank, one dimension, type.
    let offset = 24 + 9 + 4 + 8 + 4;
    file[offset] = 4;
    assert!(refusal(file).contains("'t' has offset 4, no multiple of 32"));
}

#[test]
fn arrays_are_only_as_long_as_the_file_and_the_limit_allow() {
    let mut file = GgufWriter::new().meta("k", Value::Array(vec![Value::U8(1)])).finish();
    let count = file.len() - 9;
    file[count..count + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(
        refusal(file.clone())
            .contains(&format!("claims {} elements of 'k', but only 1 bytes follow", u64::MAX))
    );
    let too_many: u64 = (1 << 24) + 1;
    file[count..count + 8].copy_from_slice(&too_many.to_le_bytes());
    file.resize(count + 8 + too_many as usize, 0);
    assert!(refusal(file).contains("beyond 16777216 values"));
}

#[test]
fn arrays_nest_only_so_deep() {
    let nested = |depth| (0..depth).fold(Value::U8(1), |value, _| Value::Array(vec![value]));
    assert!(ModelFile::from_bytes(GgufWriter::new().meta("k", nested(3)).finish()).is_ok());
    assert!(refusal(GgufWriter::new().meta("k", nested(500)).finish()).contains("nests arrays deeper"));
}

#[test]
fn bad_weights_name_their_tensor_and_row() {
    let mut values = [0.5; 3 * 32];
    values[70] = f32::NAN;
    let file = ModelFile::from_bytes(
        GgufWriter::new().tensor_f32("blk.0.ffn_up.weight", &[3, 32], &values).finish(),
    );
    let file = file.unwrap();
    let tensor = file.tensor("blk.0.ffn_up.weight").unwrap();
    assert!(block_on(file.pack(tensor, 0, 2, RowFormat::F16)).is_ok());
    let message = block_on(file.pack(tensor, 1, 2, RowFormat::F16)).unwrap_err().to_string();
    assert!(message.contains("'blk.0.ffn_up.weight'") && message.contains("row 2 holds a NaN"), "{message}");
    assert!(matches!(block_on(file.pack(tensor, 2, 2, RowFormat::F16)), Err(Error::Invalid(_))));
    assert!(matches!(block_on(file.pack(tensor, usize::MAX, 2, RowFormat::F16)), Err(Error::Invalid(_))));
}

/// A directory of its own under the target directory, empty at first.
fn directory(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn shards_open_together_or_say_what_is_missing() {
    let path = directory("shards");
    let index = path.join("model.safetensors.index.json");
    let write_index = |shard: &str| {
        let map = serde_json::json!({ "weight_map": { "model.norm.weight": "a.safetensors", "lm_head.weight": shard } });
        fs::write(&index, map.to_string()).unwrap();
    };
    let head = TensorView::new(FileDtype::BF16, vec![1, 2], &[0, 0x3F, 0, 0x40]).unwrap();
    fs::write(path.join("a.safetensors"), small_safetensors()).unwrap();
    fs::write(path.join("b.safetensors"), serialize([("lm_head.weight", head)], None).unwrap()).unwrap();
    let refused = || ModelFile::open(&path).err().unwrap().to_string();

    write_index("b.safetensors");
    assert!(refused().contains("config.json"), "weights without configuration are no model");
    fs::write(path.join("config.json"), r#"{"hidden_size": 3}"#).unwrap();
    fs::write(path.join("tokenizer.json"), "{}").unwrap();
    let file = ModelFile::open(&path).unwrap();
    assert_eq!(file.kind(), FileKind::Safetensors);
    assert_eq!(file.config().unwrap()["hidden_size"], 3);
    assert_eq!(file.sidecar("tokenizer.json"), Some(b"{}".as_slice()));
    assert_eq!(file.sidecar("chat_template.jinja"), None);
    assert_eq!(block_on(file.dequantize(file.tensor("output.weight").unwrap())).unwrap(), [0.5, 2.0]);
    assert_eq!(file.tensor("blk.0.ffn_up.weight").unwrap().shape, [2, 3]);

    write_index("a.safetensors");
    assert!(refused().contains("'output.weight' is not in 'a.safetensors'"));
    write_index("c.safetensors");
    assert!(refused().contains("c.safetensors"));
    write_index("../shards/b.safetensors");
    assert!(refused().contains("not a file name in the same directory"));
    fs::write(path.join("config.json"), "{").unwrap();
    write_index("b.safetensors");
    assert!(refused().contains("no JSON"));
}

#[test]
fn configuration_can_come_from_memory() {
    let file = ModelFile::from_safetensors_bytes(small_safetensors(), r#"{"a": 1}"#).unwrap();
    let file = file.with_sidecar("tokenizer.json", b"{}".to_vec());
    assert_eq!(file.config().unwrap()["a"], 1);
    assert_eq!(file.sidecar("tokenizer.json"), Some(b"{}".as_slice()));
    assert!(ModelFile::from_safetensors_bytes(small_safetensors(), "").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() })]

    #[test]
    fn mutations_never_panic(
        gguf in any::<bool>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = if gguf { small_gguf() } else { small_safetensors() };
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        exercise(bytes);
    }

    #[test]
    fn large_numbers_anywhere_never_panic(gguf in any::<bool>(), at in any::<prop::sample::Index>(), shift in 0..64u32) {
        let mut bytes = if gguf { small_gguf() } else { small_safetensors() };
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&(u64::MAX >> shift).to_le_bytes());
        exercise(bytes);
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        exercise([b"GGUF\x03\0\0\0".as_slice(), &noise].concat());
        exercise(noise);
    }
}
