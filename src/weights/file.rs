//! A model file, whatever its kind: names, shapes and bytes of its tensors, and what lies beside it.
//!
//! Opening reads headers, packing reads each tensor once. Reading waits for nothing where files are mapped or in
//! memory; where they are fetched by ranges, no more is in memory than the rows that were asked for.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use super::header::Header;
use super::source::{Part, Source};
use super::{
    ByteSource, Metadata, PackedRows, RowFormat, TensorInfo, dequantize_row, gguf, rows::pack_from,
    safetensors,
};
use crate::{Error, Result};

/// Which kind of file a model came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// One file with everything in it, or the shards of one.
    Gguf,
    /// One file or several, with configuration and tokenizer beside them.
    Safetensors,
}

/// The layer profile among a model's sidecars, and the extension of its file.
pub const PROFILE: &str = "profile.json";

/// The label of a model that has no path.
const MEMORY: &str = "the model in memory";

/// An open model file.
pub struct ModelFile {
    pub(super) label: String,
    pub(super) kind: FileKind,
    pub(super) meta: Metadata,
    pub(super) config: Option<serde_json::Value>,
    pub(super) sidecars: BTreeMap<String, Vec<u8>>,
    /// Each with its name.
    pub(super) sources: Vec<(String, Source)>,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) index: HashMap<String, usize>,
}

/// A text without the byte order mark that some editors put in front of UTF-8.
pub(super) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

impl ModelFile {
    /// A GGUF file, or a single safetensors file without configuration, in memory.
    ///
    /// # Errors
    /// [`Error::Format`] if it is neither, damaged, or of an unsupported type.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let size = bytes.len() as u64;
        let header = if bytes.starts_with(gguf::MAGIC) {
            gguf::parse(MEMORY, &bytes, size).map(|(meta, tensors)| Header::Gguf(meta, tensors))
        } else {
            safetensors::parse(MEMORY, &bytes, size).map(Header::Safetensors)
        };
        let header = header.map_err(|stop| stop.into_error(MEMORY))?;
        Self::gather(MEMORY, vec![Part { name: MEMORY.to_owned(), source: Source::Owned(bytes), header }])
    }

    /// A single safetensors file in memory, with the text of its `config.json`.
    ///
    /// # Errors
    /// As [`ModelFile::from_bytes`]; also if the configuration is no JSON.
    pub fn from_safetensors_bytes(bytes: Vec<u8>, config_json: &str) -> Result<Self> {
        let mut file = Self::from_bytes(bytes)?;
        file.set_config("config.json", config_json.as_bytes())?;
        Ok(file)
    }

    /// The files of one model, each with its name: a GGUF file or all its shards; or safetensors with what lies
    /// beside them (`config.json`, `tokenizer.json` and so on), and with their index where there is one. Reads
    /// headers and what is beside; tensors stay where they are until they are asked for.
    ///
    /// # Errors
    /// [`Error::Format`] if the files are damaged, not supported or not one whole model; [`Error::File`] when a
    /// source fails.
    pub async fn fetch(files: Vec<(String, Box<dyn ByteSource>)>) -> Result<Self> {
        let mut parts = Vec::new();
        for (name, source) in files {
            parts.push(Part::fetch(name, source).await?);
        }
        let label = parts.first().map_or_else(String::new, |part| part.name.clone());
        Self::gather(&label, parts)
    }

    /// Adds a file that belongs beside this one, for example `tokenizer.json`.
    pub fn with_sidecar(mut self, name: &str, bytes: Vec<u8>) -> Self {
        self.sidecars.insert(name.to_owned(), without_mark(&bytes).to_vec());
        self
    }

    /// Takes the text of `config.json`.
    pub(super) fn set_config(&mut self, file: &str, json: &[u8]) -> Result<()> {
        let config = serde_json::from_slice(without_mark(json))
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
    /// `special_tokens_map.json`, `generation_config.json` or `chat_template.jinja`.
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

    /// A tensor's bytes as the file stores them.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `tensor` is not from this file; [`Error::File`] when its source fails.
    pub async fn bytes(&self, tensor: &TensorInfo) -> Result<Cow<'_, [u8]>> {
        self.read(tensor, 0, tensor.byte_len()).await
    }

    /// `len` bytes of a tensor, from its byte `first` on.
    async fn read(&self, tensor: &TensorInfo, first: usize, len: usize) -> Result<Cow<'_, [u8]>> {
        let location = tensor.location;
        let Some((name, source)) = self.sources.get(location.source).filter(|_| self.has(tensor)) else {
            return Err(Error::Invalid(format!("tensor '{}' is not from {}", tensor.name, self.label)));
        };
        source.read(name, location.offset + first as u64, len).await
    }

    fn has(&self, tensor: &TensorInfo) -> bool {
        self.tensor(&tensor.name) == Some(tensor)
    }

    /// A whole tensor as f32, for norms and biases.
    ///
    /// # Errors
    /// As [`ModelFile::bytes`].
    pub async fn dequantize(&self, tensor: &TensorInfo) -> Result<Vec<f32>> {
        let bytes = self.bytes(tensor).await?;
        let mut values = vec![0.0; bytes.len() / tensor.dtype.block_bytes() * tensor.dtype.block_len()];
        dequantize_row(tensor.dtype, &bytes, &mut values)?;
        Ok(values)
    }

    /// Packs rows `first_row .. first_row + rows` of a tensor; see [`pack`](super::pack).
    ///
    /// # Errors
    /// As [`pack`](super::pack), with the tensor's name; [`Error::Invalid`] if there are no such rows;
    /// [`Error::File`] when the tensor's source fails.
    pub async fn pack(
        &self,
        tensor: &TensorInfo,
        first_row: usize,
        rows: usize,
        format: RowFormat,
    ) -> Result<PackedRows> {
        let (name, cols) = (&tensor.name, tensor.cols());
        let range = tensor.dtype.row_bytes(cols).and_then(|row_bytes| {
            let (first, len) = (first_row.checked_mul(row_bytes)?, rows.checked_mul(row_bytes)?);
            (first.checked_add(len)? <= tensor.byte_len()).then_some((first, len))
        });
        let Some((first, len)) = range else {
            let have = tensor.rows();
            return Err(Error::Invalid(format!("tensor '{name}' has {have} rows, not {first_row} + {rows}")));
        };
        let bytes = self.read(tensor, first, len).await?;
        pack_from(first_row, tensor.dtype, &bytes, rows, cols, format).map_err(|error| match error {
            Error::Format { reason, .. } => {
                Error::format(format!("tensor '{name}' of {}", self.label), reason)
            }
            other => other,
        })
    }
}
