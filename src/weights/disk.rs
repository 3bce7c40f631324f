//! Model files on disk: which files a path means, mapped into memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use super::file::{PROFILE, Source};
use super::{ModelFile, gguf, names};
use crate::{Error, Result};

/// The index of a sharded checkpoint.
const INDEX: &str = "model.safetensors.index.json";

/// What may lie beside safetensors and is read along with them.
const SIDECARS: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"];

impl ModelFile {
    /// Opens a GGUF file, a safetensors file, a safetensors index, or a directory with `config.json` and
    /// one of `model.safetensors.index.json` and `model.safetensors`.
    ///
    /// # Errors
    /// [`Error::File`] if a file cannot be read, [`Error::Format`] if one is damaged or not supported.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            // Weights alone are no model; say so before mapping gigabytes.
            read(&path.join("config.json"))?;
            return Self::open(&weights_path(path));
        }
        let file = Self::open_weights(path)?;
        Ok(match read_if_there(&profile_path(path))? {
            Some(profile) => file.with_sidecar(PROFILE, profile),
            None => file,
        })
    }

    /// Opens a file and, for safetensors, what belongs to them.
    fn open_weights(path: &Path) -> Result<Self> {
        let label = path.display().to_string();
        let source = map(path)?;
        if source.starts_with(gguf::MAGIC) {
            return Self::gguf(&label, source);
        }
        let directory = path.parent().unwrap_or(Path::new(""));
        let mut file = match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => open_shards(&label, directory, &source)?,
            Some("safetensors") => Self::safetensors(&label, vec![(label.clone(), source)])?,
            _ => return Err(Error::format(label, "it is neither GGUF nor named .safetensors")),
        };
        let config = directory.join("config.json");
        if let Some(json) = read_if_there(&config)? {
            file.set_config(&config.display().to_string(), &json)?;
        }
        for name in SIDECARS {
            if let Some(bytes) = read_if_there(&directory.join(name))? {
                file = file.with_sidecar(name, bytes);
            }
        }
        Ok(file)
    }
}

/// The file that a path means: in a directory the index, or the one file there is without.
fn weights_path(path: &Path) -> PathBuf {
    let index = path.join(INDEX);
    match path.is_dir() {
        true if index.is_file() => index,
        true => path.join("model.safetensors"),
        false => path.to_owned(),
    }
}

/// Where the layer profile of the model at `path` belongs: beside its file, with another extension.
pub fn profile_path(path: &Path) -> PathBuf {
    weights_path(path).with_extension(PROFILE)
}

/// Opens every shard of an index and checks that each tensor is where the index says.
fn open_shards(label: &str, directory: &Path, index: &[u8]) -> Result<ModelFile> {
    let shards = shards(label, index)?;
    let mut files = Vec::new();
    for name in shards.keys() {
        let path = directory.join(name);
        files.push((path.display().to_string(), map(&path)?));
    }
    let file = ModelFile::safetensors(label, files)?;
    for (i, (shard, tensors)) in shards.iter().enumerate() {
        let absent = |name: &&String| file.tensor(name).is_none_or(|tensor| tensor.location.source != i);
        if let Some(name) = tensors.iter().find(absent) {
            return Err(Error::format(
                label,
                format!("tensor '{name}' is not in '{shard}', where it should be"),
            ));
        }
    }
    Ok(file)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::File { path: path.display().to_string(), reason: error.to_string() }
}

/// The shards that an index (`model.safetensors.index.json`) names, each with the tensors it should hold.
///
/// # Errors
/// [`Error::Format`] if the index is not one, or names a shard that is not simply a file beside it.
fn shards(file: &str, index: &[u8]) -> Result<BTreeMap<String, Vec<String>>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index)
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

fn map(path: &Path) -> Result<Source> {
    let map = File::open(path).and_then(|file| crate::trusted::map_file(&file));
    map.map(Source::Mapped).map_err(|error| unreadable(path, &error))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| unreadable(path, &error))
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
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
