//! Files that the program writes: checked before work starts, kept from a second writer, and written whole.
//!
//! What is there already is only ever replaced by another one of its kind. The bytes go to a file beside it first, which
//! also is the lock.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use benben::Error;
use benben::kv::Profile;
use serde_json::Value;

use super::{Failure, Outcome, signals};

/// The first lines of a page, and more than all of a profile.
const HEAD: u64 = 1 << 20;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What `chat` saves: safetensors that say so in their metadata.
    Conversation,
    /// What `calibrate` measures.
    Profile,
    /// A report for programs.
    Json,
    /// A report for people, in HTML.
    Page,
    /// The same in Markdown.
    Markdown,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Conversation => "a conversation",
            Self::Profile => "a layer profile",
            Self::Json | Self::Page | Self::Markdown => "a report",
        }
    }

    /// True if `file` holds one of this kind.
    fn is(self, file: &mut File) -> io::Result<bool> {
        let mut head = Vec::new();
        let most = if self == Self::Json { u64::MAX } else { HEAD };
        file.take(most).read_to_end(&mut head)?;
        let text = || String::from_utf8_lossy(&head);
        Ok(match self {
            Self::Conversation => return conversation(&head, file),
            Self::Profile => Profile::from_json("", &head).is_ok(),
            Self::Json => serde_json::from_slice::<Value>(&head)
                .is_ok_and(|report| report["adapter"].is_string() && report["model"].is_string()),
            Self::Page => text().contains("<meta name=\"generator\" content=\"benben\">"),
            Self::Markdown => text().starts_with("# KV cache policies on "),
        })
    }
}

/// True for a conversation whose first bytes are `head`; the rest of its header comes from `rest`.
fn conversation(head: &[u8], rest: &mut File) -> io::Result<bool> {
    let Some((size, begun)) = head.split_first_chunk() else { return Ok(false) };
    let size = u64::from_le_bytes(*size);
    if !begun.starts_with(b"{") || size > rest.metadata()?.len() {
        return Ok(false);
    }
    let mut header = begun.to_vec();
    rest.take(size.saturating_sub(header.len() as u64)).read_to_end(&mut header)?;
    header.truncate(size as usize);
    let header = serde_json::from_slice::<Value>(&header).unwrap_or_default();
    Ok(header["__metadata__"]["format"] == "benben conversation")
}

/// A file to be written, any number of times.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    part: PathBuf,
    /// The part, open and locked.
    file: File,
}

impl Output {
    /// Makes sure that a file of this kind can be written to `path`, and that nobody else is about to.
    ///
    /// # Errors
    /// [`Failure`] if there is no such folder, something else is in the file's place, or it cannot be written.
    pub fn claim(path: &Path, kind: Kind) -> Outcome<Self> {
        let refuse = |reason: String| {
            Err(Failure::Library(Error::Invalid(format!("cannot write {}: {reason}", path.display()))))
        };
        has_folder(path)?;
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::save(path, error)),
            Ok(there) if there.is_dir() => return refuse("it is a folder; name a file in it".to_owned()),
            Ok(there) if !there.is_file() => {
                return refuse("it is no plain file; choose another name".to_owned());
            }
            Ok(there) => {
                let open = OpenOptions::new().read(true).write(true).open(path);
                let own = open
                    .and_then(|mut file| kind.is(&mut file))
                    .map_err(|error| Failure::save(path, error))?;
                if there.len() > 0 && !own {
                    let what = kind.name();
                    return refuse(format!(
                        "what is there is not {what} of benben's; choose another name, or delete the file"
                    ));
                }
            }
        }
        // A link stays one: its target is what gets replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let part = path.with_added_extension("benben-part");
        // Without signals a part may be left behind, which the next run takes over.
        let _ = signals::watch();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part);
        let file = file.map_err(|error| Failure::save(&path, error))?;
        lock(&file, &path)?;
        parts().insert(part.clone());
        Ok(Self { path, part, file })
    }

    /// True for the output to this path.
    pub fn is(&self, path: &Path) -> bool {
        self.path == path || fs::canonicalize(path).is_ok_and(|path| path == self.path)
    }

    /// Writes the file, which is there as a whole afterwards or as it was before.
    ///
    /// # Errors
    /// [`Failure::Save`] with the system's words.
    pub fn write(&mut self, bytes: &[u8]) -> Outcome {
        let mut write = || {
            self.file.set_len(0)?;
            io::Seek::rewind(&mut self.file)?;
            self.file.write_all(bytes)?;
            self.file.sync_all()?;
            fs::rename(&self.part, &self.path)?;
            // The part has become the file; the next one is another.
            OpenOptions::new().read(true).write(true).create_new(true).open(&self.part)
        };
        self.file = write().map_err(|error| Failure::save(&self.path, error))?;
        lock(&self.file, &self.path)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        parts().remove(&self.part);
        let _ = fs::remove_file(&self.part);
    }
}

/// The parts of all outputs.
fn parts() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    static PARTS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    PARTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what is unfinished, before the program ends in the middle.
pub fn remove_parts() {
    for part in &*parts() {
        let _ = fs::remove_file(part);
    }
}

/// Fails before work begins whose outcome could not be written.
pub fn has_folder(path: &Path) -> Outcome {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        Some(folder) => {
            let (path, folder) = (path.display(), folder.display());
            let reason = format!("cannot write {path}: there is no folder {folder}; create it first");
            Err(Error::Invalid(reason).into())
        }
        None => Ok(()),
    }
}

/// Keeps `file` from other programs as long as it is open; `path` is what messages call it.
pub fn lock(file: &File, path: &Path) -> Outcome {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Failure::Library(Error::Invalid(format!(
            "cannot write {}: another program writes it; wait for that, or choose another name",
            path.display()
        )))),
        // Some file systems have no locks; without them all goes as before.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(error)) => Err(Failure::save(path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is gone after the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("benben-output-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn files(&self) -> Vec<String> {
            let names = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name());
            names.map(|name| name.into_string().unwrap()).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn refusal(path: &Path, kind: Kind) -> String {
        Output::claim(path, kind).unwrap_err().to_string()
    }

    #[test]
    fn only_a_file_of_its_kind_is_replaced() {
        let folder = Folder::new("kinds");
        let path = folder.0.join("file");
        assert!(refusal(&folder.0, Kind::Profile).contains("is a folder"));
        assert!(refusal(&folder.0.join("no/file"), Kind::Page).contains("there is no folder"));
        let sound = [
            (Kind::Page, "<html>\n<meta name=\"generator\" content=\"benben\">"),
            (Kind::Json, r#"{"model": "m", "adapter": "a"}"#),
            (Kind::Markdown, "# KV cache policies on m"),
            (Kind::Profile, r#"{"model":"m","fingerprint":"f","measured":"x","weights":[1.0]}"#),
        ];
        let header = r#"{"__metadata__":{"format":"benben conversation"}}"#;
        let saved = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), b"rows"].concat();
        let sound = sound.map(|(kind, text)| (kind, text.as_bytes().to_vec()));
        for (kind, bytes) in sound.into_iter().chain([(Kind::Conversation, saved)]) {
            fs::write(&path, b"notes that exist only here").unwrap();
            assert!(refusal(&path, kind).contains("choose another name"), "{kind:?}");
            fs::write(&path, &bytes).unwrap();
            let mut output = Output::claim(&path, kind).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes, "it stays until another one is there");
            output.write(b"new").unwrap();
            output.write(b"newer").unwrap();
            drop(output);
            assert_eq!(fs::read(&path).unwrap(), b"newer");
        }
        assert_eq!(folder.files(), ["file"]);
    }

    #[test]
    fn a_second_writer_is_turned_away() {
        let folder = Folder::new("lock");
        let path = folder.0.join("file");
        let mut first = Output::claim(&path, Kind::Page).unwrap();
        assert!(refusal(&path, Kind::Page).contains("another program writes it"));
        first.write(b"").unwrap();
        assert!(
            refusal(&path, Kind::Page).contains("another program writes it"),
            "after the first time as well"
        );
        drop(first);
        assert!(Output::claim(&path, Kind::Page).is_ok());
        assert_eq!(folder.files(), ["file"]);
    }
}
