//! The header of one file of a model, as far as it has been read.

use super::{Metadata, TensorInfo, gguf, safetensors};
use crate::Error;

/// How files begin that are no models for benben, and what they are.
const OTHER_FILES: [(&[u8], &str); 7] = [
    (
        b"algg",
        "an adapter (LoRA) of an older program, not a model; merge it into its base model and name the outcome",
    ),
    (b"lmgg", "a model in the GGML format from before GGUF; convert it to GGUF"),
    (b"fmgg", "a model in the GGMF format from before GGUF; convert it to GGUF"),
    (b"tjgg", "a model in the GGJT format from before GGUF; convert it to GGUF"),
    (b"PK\x03\x04", "an archive, as PyTorch writes its checkpoints; convert it to safetensors or to GGUF"),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS to a model that was not downloaded; run `git lfs pull`",
    ),
    (b"<", "a web page, not a model; download the file itself"),
];

/// What a file says of itself.
pub(super) enum Header {
    Gguf(Metadata, Vec<TensorInfo>),
    Safetensors(Vec<TensorInfo>),
    /// A file that belongs beside safetensors, as a whole.
    Side(Vec<u8>),
}

/// Why a header could not be read.
#[derive(Debug)]
pub(super) enum Stop {
    /// It goes on at least to this offset of the file, beyond the bytes that were given.
    Short(u64),
    /// It is damaged or not supported.
    Bad(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Bad(error)
    }
}

impl Stop {
    /// What this is to a caller who cannot give more bytes.
    pub fn into_error(self, file: &str) -> Error {
        match self {
            Self::Short(end) => Error::format(file, format!("its header takes {end} bytes or more")),
            Self::Bad(error) => error,
        }
    }
}

impl Header {
    /// Reads the header of `file`, whose first bytes are `head` and which has `size` bytes. A file named
    /// `.json` or `.jinja` belongs beside others, one named `.safetensors` holds tensors, all else is GGUF.
    ///
    /// # Errors
    /// [`Stop::Short`] if `head` is not long enough, [`Stop::Bad`] with [`Error::Format`] if it is damaged.
    pub fn parse(file: &str, head: &[u8], size: u64) -> Result<Self, Stop> {
        match file.rsplit_once('.').map(|(_, extension)| extension) {
            Some("json" | "jinja") if (head.len() as u64) < size => Err(Stop::Short(size)),
            Some("json" | "jinja") => Ok(Self::Side(head.to_vec())),
            Some("safetensors") => safetensors::parse(file, head, size).map(Self::Safetensors),
            _ if head.starts_with(gguf::MAGIC) => {
                gguf::parse(file, head, size).map(|(meta, tensors)| Self::Gguf(meta, tensors))
            }
            _ => {
                let what = OTHER_FILES.iter().find(|(start, _)| head.starts_with(start));
                let reason = what.map_or_else(
                    || "it is neither GGUF nor named .safetensors".to_owned(),
                    |(_, what)| format!("it is {what}"),
                );
                Err(Error::format(file, reason).into())
            }
        }
    }
}
