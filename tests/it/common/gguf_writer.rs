//! A small GGUF writer for tests: metadata and tensors in, the bytes of a version 3 file out.

use benben::weights::{Dtype, Value};

/// Offsets of tensor data are multiples of this, GGUF's default.
const ALIGNMENT: usize = 32;

/// Collects metadata and tensors; [`GgufWriter::finish`] lays them out.
#[derive(Default)]
pub struct GgufWriter {
    keys: Vec<u8>,
    key_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

impl GgufWriter {
    /// A file without keys and tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metadata value; the elements of an array must be of one type.
    pub fn meta(mut self, key: &str, value: Value) -> Self {
        put_string(&mut self.keys, key);
        put_u32(&mut self.keys, type_id(&value));
        put_value(&mut self.keys, &value);
        self.key_count += 1;
        self
    }

    /// Adds a tensor of `shape`, outermost dimension first, from bytes in `dtype`'s own layout.
    pub fn tensor(self, name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Self {
        let dims: Vec<u64> = shape.iter().rev().map(|n| *n as u64).collect();
        self.raw_tensor(name, dtype.ggml_id(), &dims, bytes)
    }

    /// Adds an F32 tensor.
    pub fn tensor_f32(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, Dtype::F32, shape, &bytes)
    }

    /// Adds a tensor with any type number and any dimensions (innermost first), sensible or not.
    pub fn raw_tensor(mut self, name: &str, type_id: u32, dims: &[u64], bytes: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(ALIGNMENT), 0);
        put_string(&mut self.tensors, name);
        put_u32(&mut self.tensors, dims.len() as u32);
        dims.iter().for_each(|n| put_u64(&mut self.tensors, *n));
        put_u32(&mut self.tensors, type_id);
        put_u64(&mut self.tensors, self.data.len() as u64);
        self.data.extend(bytes);
        self.tensor_count += 1;
        self
    }

    /// The file; it ends with the last tensor's last byte.
    pub fn finish(self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        put_u32(&mut file, 3);
        put_u64(&mut file, self.tensor_count);
        put_u64(&mut file, self.key_count);
        file.extend(self.keys);
        file.extend(self.tensors);
        if !self.data.is_empty() {
            file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        }
        file.extend(self.data);
        file
    }
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend(value.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend(value.to_le_bytes());
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_u64(out, text.len() as u64);
    out.extend(text.as_bytes());
}

/// GGUF's number for the type of `value`.
fn type_id(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_string(out, v),
        Value::Array(items) => {
            put_u32(out, items.first().map_or(0, type_id));
            put_u64(out, items.len() as u64);
            items.iter().for_each(|item| put_value(out, item));
        }
    }
}
