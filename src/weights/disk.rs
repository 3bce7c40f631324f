//! Model files on disk: which files a path means, mapped into memory.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::ModelFile;
use super::file::PROFILE;
use super::gather::shards;
use super::header::Header;
use super::source::{Part, Source};
use crate::{Error, Result};

/// The index of a sharded checkpoint.
const INDEX: &str = "model.safetensors.index.json";

/// What lies beside an adapter's weights.
const ADAPTER: &str = "adapter_config.json";

/// What may lie beside safetensors and is read along with them.
const SIDECARS: [&str; 6] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
];

impl ModelFile {
    /// Opens a GGUF file (any of its shards stands for all), a safetensors file, a safetensors index, or a
    /// directory with `config.json` and one of `model.safetensors.index.json` and `model.safetensors`.
    ///
    /// # Errors
    /// [`Error::File`] if a file cannot be read, [`Error::Format`] if one is damaged or not supported.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            // Weights alone are no model; say so before mapping gigabytes.
            let config = path.join("config.json");
            if !config.exists() && path.join(ADAPTER).exists() {
                let reason = format!(
                    "it holds an adapter (LoRA, {ADAPTER}), not a model; merge it into its base model and name the \
                     outcome"
                );
                return Err(Error::format(path.display().to_string(), reason));
            }
            fs::metadata(&config).map_err(|error| unreadable(&config, &error))?;
            return Self::open(&weights_path(path));
        }
        let shard = numbered(path, ".safetensors").filter(|(_, count, _)| *count > 1);
        if let Some((number, count, _)) = shard {
            let index = path.with_file_name(INDEX);
            if index.is_file() {
                return Self::open(&index);
            }
            let reason = format!("it is shard {number} of {count}; put {INDEX} and all shards beside it");
            return Err(Error::format(path.display().to_string(), reason));
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
        let directory = path.parent().unwrap_or(Path::new(""));
        let mut parts = vec![map(path)?];
        match &parts[0].header {
            Header::Gguf(..) => {
                let (number, shards) = gguf_shards(path);
                let other = |shard: PathBuf| match map(&shard) {
                    Err(Error::File { reason, .. }) => Err(Error::format(
                        &label,
                        format!(
                            "it is shard {number} of {}, and {} is not there ({reason}); all are needed together",
                            shards.len(),
                            shard.display()
                        ),
                    )),
                    mapped => mapped,
                };
                let others = shards.clone().into_iter().filter(|shard| shard != path);
                parts.extend(others.map(other).collect::<Result<Vec<_>>>()?);
                return Self::gather(&label, parts);
            }
            Header::Side(index) => {
                let shards = shards(&label, index)?;
                parts.extend(
                    shards.keys().map(|name| map(&directory.join(name))).collect::<Result<Vec<_>>>()?,
                );
            }
            Header::Safetensors(_) => {}
        }
        for name in SIDECARS {
            let path = directory.join(name);
            if let Some(bytes) = read_if_there(&path)? {
                parts.push(part(&path, Source::Owned(bytes))?);
            }
        }
        Self::gather(&label, parts)
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

/// Which shard of how many the name of one (`model-00001-of-00003.gguf`) speaks of, and how the name begins.
fn numbered<'a>(path: &'a Path, extension: &str) -> Option<(u32, u32, &'a str)> {
    let (shard, count) = path.file_name()?.to_str()?.strip_suffix(extension)?.rsplit_once("-of-")?;
    let (stem, number) = shard.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let both = digits(number) && digits(count);
    both.then(|| Some((number.parse().ok()?, count.parse().ok()?, stem))).flatten()
}

/// Which shard a path names, and all that there are; none for another name.
fn gguf_shards(path: &Path) -> (u32, Vec<PathBuf>) {
    let Some((number, count, stem)) = numbered(path, ".gguf") else { return (0, Vec::new()) };
    let name = |i: u32| path.with_file_name(format!("{stem}-{i:05}-of-{count:05}.gguf"));
    (number, (1..=count).map(name).collect())
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::File { path: path.display().to_string(), reason: error.to_string() }
}

fn map(path: &Path) -> Result<Part> {
    let map = File::open(path).and_then(|file| crate::trusted::map_file(&file));
    let map = map.map_err(|error| unreadable(path, &error))?;
    part(path, Source::Mapped(map))
}

/// A file whose bytes are all at hand.
fn part(path: &Path, source: Source) -> Result<Part> {
    let name = path.display().to_string();
    let bytes = source.all().unwrap_or_default();
    match Header::parse(&name, bytes, bytes.len() as u64) {
        Ok(header) => Ok(Part { name, source, header }),
        Err(stop) => Err(stop.into_error(&name)),
    }
}
