//! A model file, whatever its kind: names, shapes and bytes of its tensors, and what lies beside it.
//!
//! Natively files are mapped (`disk.rs`), so that opening reads the header and packing reads each tensor
//! once; on the web they are handed over as bytes. Every range was checked at opening, so reading cannot fail.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;

use super::{
    Metadata, PackedRows, RowFormat, TensorInfo, dequantize_row, gguf, rows::pack_from, safetensors,
};
use crate::{Error, Result};

/// Which kind of file a model came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// One file with everything in it.
    Gguf,
    /// One file or several, with configuration and tokenizer beside them.
    Safetensors,
}

/// The layer profile among a model's sidecars, and the extension of its file.
pub const PROFILE: &str = "profile.json";

/// The label of a model that has no path.
const MEMORY: &str = "the model in memory";

/// The bytes of one file.
pub(super) enum Source {
    Owned(Vec<u8>),
    #[cfg(not(target_arch = "wasm32"))]
    Mapped(memmap2::Mmap),
}

impl Deref for Source {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            #[cfg(not(target_arch = "wasm32"))]
            Self::Mapped(map) => map,
        }
    }
}

/// An open model file.
pub struct ModelFile {
    label: String,
    kind: FileKind,
    meta: Metadata,
    config: Option<serde_json::Value>,
    sidecars: BTreeMap<String, Vec<u8>>,
    sources: Vec<Source>,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
}

impl ModelFile {
    /// A GGUF file, or a single safetensors file without configuration, in memory.
    ///
    /// # Errors
    /// [`Error::Format`] if it is neither, damaged, or of an unsupported type.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        if bytes.starts_with(gguf::MAGIC) {
            Self::gguf(MEMORY, Source::Owned(bytes))
        } else {
            Self::safetensors(MEMORY, vec![(MEMORY.into(), Source::Owned(bytes))])
        }
    }

    /// A single safetensors file in memory, with the text of its `config.json`.
    ///
    /// # Errors
    /// As [`ModelFile::from_bytes`]; also if the configuration is no JSON.
    pub fn from_safetensors_bytes(bytes: Vec<u8>, config_json: &str) -> Result<Self> {
        let mut file = Self::safetensors(MEMORY, vec![(MEMORY.into(), Source::Owned(bytes))])?;
        file.set_config("config.json", config_json.as_bytes())?;
        Ok(file)
    }

    /// Adds a file that belongs beside this one, for example `tokenizer.json`.
    pub fn with_sidecar(mut self, name: &str, bytes: Vec<u8>) -> Self {
        self.sidecars.insert(name.to_owned(), bytes);
        self
    }

    /// Opens a GGUF file.
    pub(super) fn gguf(label: &str, source: Source) -> Result<Self> {
        let (meta, tensors) = gguf::parse(label, &source)?;
        Self::assemble(label, FileKind::Gguf, meta, vec![source], tensors)
    }

    /// Opens all files of a safetensors model, each with its name.
    pub(super) fn safetensors(label: &str, files: Vec<(String, Source)>) -> Result<Self> {
        let mut tensors = Vec::new();
        let mut sources = Vec::new();
        for (i, (name, source)) in files.into_iter().enumerate() {
            tensors.extend(safetensors::parse(&name, i, &source)?);
            sources.push(source);
        }
        Self::assemble(label, FileKind::Safetensors, Metadata::new(label), sources, tensors)
    }

    fn assemble(
        label: &str,
        kind: FileKind,
        meta: Metadata,
        sources: Vec<Source>,
        tensors: Vec<TensorInfo>,
    ) -> Result<Self> {
        let mut index = HashMap::new();
        for (i, tensor) in tensors.iter().enumerate() {
            if index.insert(tensor.name.clone(), i).is_some() {
                return Err(Error::format(label, format!("tensor '{}' appears twice", tensor.name)));
            }
        }
        let (label, config, sidecars) = (label.to_owned(), None, BTreeMap::new());
        Ok(Self { label, kind, meta, config, sidecars, sources, tensors, index })
    }

    /// Takes the text of `config.json`.
    pub(super) fn set_config(&mut self, file: &str, json: &[u8]) -> Result<()> {
        let config = serde_json::from_slice(json)
            .map_err(|error| Error::format(file, format!("it is no JSON: {error}")))?;
        self.config = Some(config);
        Ok(())
    }

    /// Which kind of file this is.
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// The path as it was given, or a phrase in its place; for messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// GGUF's metadata; empty for safetensors.
    pub fn meta(&self) -> &Metadata {
        &self.meta
    }

    /// The `config.json` beside safetensors.
    pub fn config(&self) -> Option<&serde_json::Value> {
        self.config.as_ref()
    }

    /// A file beside the model's: [`PROFILE`]; beside safetensors also `tokenizer.json`, `tokenizer_config.json`,
    /// `generation_config.json` or `chat_template.jinja`.
    pub fn sidecar(&self, name: &str) -> Option<&[u8]> {
        self.sidecars.get(name).map(Vec::as_slice)
    }

    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// The tensor with this name, which is GGUF's also for safetensors.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(*self.index.get(name)?)
    }

    /// The bytes of all tensors together.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.byte_len() as u64).sum()
    }

    /// A tensor's bytes as the file stores them; empty if `tensor` is not from this file.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        let location = tensor.location;
        let bytes = self.sources.get(location.source).and_then(|source| source.get(location.offset..));
        bytes.and_then(|bytes| bytes.get(..location.len)).unwrap_or_default()
    }

    /// A whole tensor as f32, for norms and biases.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `tensor` is not from this file.
    pub fn dequantize(&self, tensor: &TensorInfo) -> Result<Vec<f32>> {
        let bytes = self.bytes(tensor);
        if bytes.is_empty() {
            return Err(Error::Invalid(format!("tensor '{}' is not from {}", tensor.name, self.label)));
        }
        let mut values = vec![0.0; bytes.len() / tensor.dtype.block_bytes() * tensor.dtype.block_len()];
        dequantize_row(tensor.dtype, bytes, &mut values)?;
        Ok(values)
    }

    /// Packs rows `first_row .. first_row + rows` of a tensor; see [`pack`](super::pack).
    ///
    /// # Errors
    /// As [`pack`](super::pack), with the tensor's name; [`Error::Invalid`] if there are no such rows.
    pub fn pack(
        &self,
        tensor: &TensorInfo,
        first_row: usize,
        rows: usize,
        format: RowFormat,
    ) -> Result<PackedRows> {
        let (name, cols) = (&tensor.name, tensor.cols());
        let range = tensor.dtype.row_bytes(cols).and_then(|row_bytes| {
            let begin = first_row.checked_mul(row_bytes)?;
            Some(begin..begin.checked_add(rows.checked_mul(row_bytes)?)?)
        });
        let Some(bytes) = range.and_then(|range| self.bytes(tensor).get(range)) else {
            let have = tensor.rows();
            return Err(Error::Invalid(format!("tensor '{name}' has {have} rows, not {first_row} + {rows}")));
        };
        pack_from(first_row, tensor.dtype, bytes, rows, cols, format).map_err(|error| match error {
            Error::Format { reason, .. } => {
                Error::format(format!("tensor '{name}' of {}", self.label), reason)
            }
            other => other,
        })
    }
}
