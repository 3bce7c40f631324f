//! Where the tests find the model file and the golden data, and how they say that one is absent.
//!
//! The model is BENBEN_MODEL, or lies in the cache directory; the data is BENBEN_SHARED, or lies in `shared`
//! beside the repository. Uses nothing of benben, so that tests inside the crate can share it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::{env, fs};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// Written past the test harness, which would swallow `eprintln!` in a test that passes.
pub fn note(text: &str) {
    writeln!(io::stderr(), "{text}").expect("standard error is open");
}

pub fn skipped(reason: &str) {
    note(&format!("SKIPPED: {reason}"));
}

/// The GGUF file of SmolLM2-135M-Instruct in Q4_1.
pub fn model_file() -> Option<PathBuf> {
    let cached = || {
        let home = env::var_os("HOME")?;
        Some(Path::new(&home).join(".cache/benben/SmolLM2-135M-Instruct.Q4_1.gguf"))
    };
    let path = env::var_os("BENBEN_MODEL").map(PathBuf::from).or_else(cached).unwrap_or_default();
    if !path.is_file() {
        skipped(&format!("no model at '{}' (set BENBEN_MODEL)", path.display()));
        return None;
    }
    Some(path)
}

/// A file of the golden data.
pub fn golden(name: &str) -> Option<Vec<u8>> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let path = env::var_os("BENBEN_SHARED").map_or_else(beside, PathBuf::from).join("golden").join(name);
    let bytes = fs::read(&path).ok();
    if bytes.is_none() {
        skipped(&format!("no golden data at {} (set BENBEN_SHARED)", path.display()));
    }
    bytes
}

pub fn golden_json(name: &str) -> Option<Value> {
    // Python writes infinity as a word that JSON does not know.
    let text = golden_text(name)?.replace(": Infinity", ": null");
    Some(serde_json::from_str(&text).expect("golden data is JSON"))
}

pub fn golden_text(name: &str) -> Option<String> {
    golden(name).map(|bytes| String::from_utf8(bytes).expect("golden text is UTF-8"))
}

pub fn golden_arrays(name: &str) -> Option<Arrays> {
    golden(name).map(Arrays)
}

/// The numbers of a safetensors file, by name.
pub struct Arrays(Vec<u8>);

impl Arrays {
    fn words(&self, name: &str, dtype: Dtype) -> Vec<[u8; 4]> {
        let file = SafeTensors::deserialize(&self.0).expect("golden data is sound");
        let tensor = file.tensor(name).unwrap_or_else(|_| panic!("no array {name}"));
        assert_eq!(tensor.dtype(), dtype, "{name}");
        tensor.data().as_chunks().0.to_vec()
    }

    pub fn f32s(&self, name: &str) -> Vec<f32> {
        self.words(name, Dtype::F32).into_iter().map(f32::from_le_bytes).collect()
    }

    pub fn u32s(&self, name: &str) -> Vec<u32> {
        self.words(name, Dtype::I32).into_iter().map(u32::from_le_bytes).collect()
    }
}

/// A JSON list of token ids, row counts or the like.
pub fn u32s(list: &Value) -> Vec<u32> {
    list.as_array().expect("a list").iter().map(|n| n.as_u64().expect("a count") as u32).collect()
}

/// A JSON list of numbers.
pub fn f32s(list: &Value) -> Vec<f32> {
    list.as_array().expect("a list").iter().map(|n| n.as_f64().expect("a number") as f32).collect()
}

/// The largest difference of two rows; NaN when either holds one.
pub fn max_error(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    let worse = |most: f32, d: f32| if d <= most { most } else { d };
    found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, worse)
}
