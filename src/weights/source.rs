//! Where a file's bytes are: in memory, mapped from disk, or with a [`ByteSource`] that fetches them by ranges.

use std::borrow::Cow;
use std::pin::Pin;

use super::header::{Header, Stop};
use crate::{Error, Result};

/// What a browser keeps on its thread and everything else shares: `Send + Sync` natively, nothing on the web.
#[cfg(not(target_arch = "wasm32"))]
pub trait Threads: Send + Sync {}
#[cfg(not(target_arch = "wasm32"))]
impl<T: Send + Sync> Threads for T {}

/// What a browser keeps on its thread and everything else shares: `Send + Sync` natively, nothing on the web.
#[cfg(target_arch = "wasm32")]
pub trait Threads {}
#[cfg(target_arch = "wasm32")]
impl<T> Threads for T {}

/// The bytes of a range, once they are there.
#[cfg(not(target_arch = "wasm32"))]
pub type Reading<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>>> + Send + 'a>>;
/// The bytes of a range, once they are there.
#[cfg(target_arch = "wasm32")]
pub type Reading<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>>> + 'a>>;

/// A file that is read range by range, for example over a network.
pub trait ByteSource: Threads {
    /// Bytes of the whole file.
    fn size(&self) -> u64;

    /// Reads `len` bytes from `offset` on; the range is inside the file.
    ///
    /// # Errors
    /// [`Error::File`] in the source's own words.
    fn read(&self, offset: u64, len: usize) -> Reading<'_>;
}

/// A header is fetched in pieces: first this many bytes, then twice as many, and so on.
const FIRST_BYTES: u64 = 1 << 20;

/// A vocabulary of a million tokens takes a tenth of this; a longer header is a damaged or hostile file's.
const MOST_HEADER_BYTES: u64 = 1 << 28;

/// The bytes of one file.
pub(super) enum Source {
    Owned(Vec<u8>),
    #[cfg(not(target_arch = "wasm32"))]
    Mapped(memmap2::Mmap),
    Ranges(Box<dyn ByteSource>),
}

impl Source {
    /// Bytes of the whole file.
    fn size(&self) -> u64 {
        match self {
            Self::Ranges(ranges) => ranges.size(),
            local => local.all().map_or(0, |bytes| bytes.len() as u64),
        }
    }

    /// All bytes, if they can be had without waiting.
    pub fn all(&self) -> Option<&[u8]> {
        match self {
            Self::Owned(bytes) => Some(bytes),
            #[cfg(not(target_arch = "wasm32"))]
            Self::Mapped(map) => Some(map),
            Self::Ranges(_) => None,
        }
    }

    /// The bytes of a range; `name` is the file's, for messages.
    ///
    /// # Errors
    /// [`Error::File`] if the source fails, or the range is not all there.
    pub async fn read(&self, name: &str, offset: u64, len: usize) -> Result<Cow<'_, [u8]>> {
        let bytes = match self {
            Self::Ranges(ranges) => Cow::Owned(ranges.read(offset, len).await?),
            local => {
                let all = local.all().unwrap_or_default();
                let rest = usize::try_from(offset).ok().and_then(|offset| all.get(offset..));
                Cow::Borrowed(rest.and_then(|rest| rest.get(..len)).unwrap_or_default())
            }
        };
        if bytes.len() != len {
            let reason = format!("{} of {len} bytes came from offset {offset}", bytes.len());
            return Err(Error::File { path: name.to_owned(), reason });
        }
        Ok(bytes)
    }
}

/// A file of a model: its name, its bytes and what its header says.
pub(super) struct Part {
    pub name: String,
    pub source: Source,
    pub header: Header,
}

impl Part {
    /// A file that is fetched as far as its header goes.
    ///
    /// # Errors
    /// [`Error::Format`] if it is damaged or of no known kind; [`Error::File`] if the source fails.
    pub async fn fetch(name: String, ranges: Box<dyn ByteSource>) -> Result<Self> {
        let source = Source::Ranges(ranges);
        let size = source.size();
        let mut head = Vec::new();
        let mut wanted = FIRST_BYTES;
        loop {
            let more = wanted.min(size) - head.len() as u64;
            head.extend_from_slice(&source.read(&name, head.len() as u64, more as usize).await?);
            match Header::parse(&name, &head, size) {
                Ok(header) => return Ok(Self { name, source, header }),
                Err(Stop::Short(end)) if end <= size.min(MOST_HEADER_BYTES) => wanted = end.max(2 * wanted),
                Err(stop) => return Err(stop.into_error(&name)),
            }
        }
    }
}
