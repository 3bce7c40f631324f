//! Files that outlive the program: where they lie, and how they are written whole and read with care.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::{env, fs};

/// The user's folder for what benben keeps: $BENBEN_CACHE, else `benben` in $XDG_CACHE_HOME or in `~/.cache`. `None`
/// where none of them is set.
pub fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = || set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    set("BENBEN_CACHE").or_else(|| caches().map(|folder| folder.join("benben")))
}

/// The bytes of a file, unless it is longer than `most` or somebody other than the folder's owner could have written
/// it.
pub(super) fn read(path: &Path, most: u64) -> Option<Vec<u8>> {
    let file = fs::File::open(path).ok()?;
    let (meta, folder) = (file.metadata().ok()?, fs::metadata(path.parent()?).ok()?);
    if !meta.is_file() || !owned(&meta, &folder) {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= most).then_some(bytes)
}

/// Writes a file that is there as a whole or, if the program ends meanwhile, as it was.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    // Neither programs nor threads that write the same file at once share a part.
    static PARTS: AtomicU32 = AtomicU32::new(0);
    let part = path.with_extension(format!("{}-{}.part", std::process::id(), PARTS.fetch_add(1, Relaxed)));
    let written = create(&part).and_then(|mut file| io::Write::write_all(&mut file, bytes));
    let moved = written.and_then(|()| fs::rename(&part, path));
    if moved.is_err() {
        let _ = fs::remove_file(&part);
    }
    moved
}

#[cfg(unix)]
fn create(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(unix)]
fn owned(file: &fs::Metadata, folder: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    file.uid() == folder.uid() && file.mode() & 0o022 == 0
}

#[cfg(not(unix))]
fn create(path: &Path) -> io::Result<fs::File> {
    fs::File::create(path)
}

/// A user's folder is the user's own where files have no mode.
#[cfg(not(unix))]
fn owned(_file: &fs::Metadata, _folder: &fs::Metadata) -> bool {
    true
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A folder that is gone after the test.
    pub struct Scratch(pub PathBuf);

    impl Scratch {
        pub fn new(name: &str) -> Self {
            let folder = env::temp_dir().join(format!("benben-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).expect("a temporary folder");
            Self(folder)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_comes_back_within_its_bound() {
        let folder = Scratch::new("folder");
        let path = folder.0.join("deeper/file");
        assert_eq!(read(&path, 9), None);
        write(&path, b"first").expect("written");
        write(&path, b"second").expect("written over");
        assert_eq!(read(&path, 6).as_deref(), Some(&b"second"[..]));
        assert_eq!(read(&path, 5), None);
        let files = fs::read_dir(folder.0.join("deeper")).expect("a folder").count();
        assert_eq!(files, 1, "a part was left behind");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_write_is_not_read() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Scratch::new("others");
        let path = folder.0.join("file");
        write(&path, b"mine").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("a mode");
        assert_eq!(read(&path, 9), None);
    }
}
