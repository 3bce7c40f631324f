//! Files that belong together: the shards of a model, and the files beside it.
//!
//! A GGUF file in shards has all its metadata in the first one (`split.no` 0) and says everywhere how many there
//! are (`split.count`), as `llama-gguf-split` writes it. Safetensors in shards have an index that says which
//! tensor is in which.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path};

use super::file::without_mark;
use super::header::Header;
use super::source::{Part, Source};
use super::{FileKind, Metadata, ModelFile, TensorInfo, names};
use crate::{Error, Result};

/// How the index of a sharded checkpoint ends.
const INDEX: &str = ".index.json";

impl ModelFile {
    /// Makes one model of its files.
    ///
    /// # Errors
    /// [`Error::Format`] if they are none, or not a whole one.
    pub(super) fn gather(label: &str, parts: Vec<Part>) -> Result<Self> {
        let fail = |reason: &str| Err(Error::format(label, reason));
        let (mut ggufs, mut tensors, mut beside) = (Vec::new(), Vec::new(), Vec::new());
        for Part { name, source, header } in parts {
            match header {
                Header::Gguf(meta, found) => ggufs.push(Shard { name, source, meta, tensors: found }),
                Header::Safetensors(found) => tensors.push((name, source, found)),
                Header::Side(bytes) => beside.push((name, bytes)),
            }
        }
        let kind = match (ggufs.is_empty(), tensors.is_empty()) {
            (true, true) => return fail("there is no GGUF and no .safetensors file among its files"),
            (false, false) => return fail("GGUF and safetensors together are not one model"),
            (false, true) => FileKind::Gguf,
            (true, false) => FileKind::Safetensors,
        };
        let mut meta = Metadata::new(label);
        if kind == FileKind::Gguf {
            for (i, shard) in in_order(ggufs)?.into_iter().enumerate() {
                if i == 0 {
                    meta = shard.meta;
                }
                tensors.push((shard.name, shard.source, shard.tensors));
            }
        }
        let mut file = Self {
            label: label.to_owned(),
            kind,
            meta,
            config: None,
            sidecars: BTreeMap::new(),
            sources: Vec::new(),
            tensors: Vec::new(),
            index: HashMap::new(),
        };
        for (name, source, found) in tensors {
            file.add(name, source, found)?;
        }
        for (name, bytes) in beside {
            match base(&name) {
                "config.json" => file.set_config(&name, &bytes)?,
                index if index.ends_with(INDEX) => file.check_index(&name, &bytes)?,
                plain => file = file.with_sidecar(plain, bytes),
            }
        }
        Ok(file)
    }

    /// Adds a file with tensors, whose names must be new.
    fn add(&mut self, name: String, source: Source, tensors: Vec<TensorInfo>) -> Result<()> {
        for mut tensor in tensors {
            tensor.location.source = self.sources.len();
            if self.index.insert(tensor.name.clone(), self.tensors.len()).is_some() {
                return Err(Error::format(name, format!("tensor '{}' appears twice", tensor.name)));
            }
            self.tensors.push(tensor);
        }
        self.sources.push((name, source));
        Ok(())
    }

    /// Checks that each tensor is where the index says.
    fn check_index(&self, label: &str, index: &[u8]) -> Result<()> {
        for (shard, tensors) in shards(label, index)? {
            let is_in = |tensor: &TensorInfo| {
                self.sources.get(tensor.location.source).is_some_and(|(name, _)| base(name) == shard)
            };
            if let Some(name) = tensors.iter().find(|name| !self.tensor(name).is_some_and(is_in)) {
                let reason = format!("tensor '{name}' is not in '{shard}', where it should be");
                return Err(Error::format(label, reason));
            }
        }
        Ok(())
    }
}

/// One GGUF file of a model.
struct Shard {
    name: String,
    source: Source,
    meta: Metadata,
    tensors: Vec<TensorInfo>,
}

/// Sorts the shards of a GGUF file and checks that none is missing.
fn in_order(shards: Vec<Shard>) -> Result<Vec<Shard>> {
    let have = shards.len() as u64;
    let mut sorted = BTreeMap::new();
    for shard in shards {
        let (count, number) = (shard.meta.opt_u64("split.count")?, shard.meta.opt_u64("split.no")?);
        let (count, number) = (count.unwrap_or(1).max(1), number.unwrap_or(0));
        if count != have || number >= count {
            let reason = format!(
                "it is shard {} of {count}, and {have} came; all are needed together",
                number.saturating_add(1)
            );
            return Err(Error::format(shard.name, reason));
        }
        if let Some(twin) = sorted.insert(number, shard) {
            return Err(Error::format(twin.name, format!("shard {} of {count} came twice", number + 1)));
        }
    }
    Ok(sorted.into_values().collect())
}

/// The last segment of a path or a URL's path.
fn base(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

/// The shards that an index (`model.safetensors.index.json`) names, each with the tensors it should hold.
///
/// # Errors
/// [`Error::Format`] if the index is not one, or names a shard that is not simply a file beside it.
pub(super) fn shards(file: &str, index: &[u8]) -> Result<BTreeMap<String, Vec<String>>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(without_mark(index))
        .map_err(|error| Error::format(file, format!("it is no safetensors index: {error}")))?;
    let mut shards = BTreeMap::<String, Vec<String>>::new();
    for (tensor, shard) in index.weight_map {
        let mut parts = Path::new(&shard).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || shard.contains(['/', '\\', ':']) {
            return Err(Error::format(
                file,
                format!("tensor '{tensor}' is in '{shard}', which is not a file name in the same directory"),
            ));
        }
        shards.entry(shard).or_default().push(names::canonical(&tensor));
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_names_files_beside_it() {
        let index =
            |shard: &str| serde_json::json!({ "weight_map": { "lm_head.weight": shard } }).to_string();
        let good = shards("test", index("model-1.safetensors").as_bytes()).unwrap();
        assert_eq!(good["model-1.safetensors"], ["output.weight"]);
        for bad in ["../secret", "/etc/passwd", "a/b", "", ".", "..", "a\\b", "C:x"] {
            let message = shards("test", index(bad).as_bytes()).unwrap_err().to_string();
            assert!(message.contains("not a file name"), "{bad}: {message}");
        }
        assert!(shards("test", b"{}").is_err());
    }
}
