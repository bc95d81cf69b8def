//! Small files that are there whole or not at all, whatever happens meanwhile.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::ContentError;

/// Writes `path` by way of a temporary file in `tmp` (same file system): written, flushed,
/// renamed, and the directory flushed.
pub(crate) fn replace_file(tmp: &Path, path: &Path, parts: &[&[u8]]) -> Result<(), ContentError> {
    let file = write_file(tmp, path, parts, File::sync_all)?;
    drop(file);
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// As [`replace_file`], but in no hurry: a killed process leaves all or nothing, a power cut may
/// leave anything, until [`make_durable`].
pub(crate) fn replace_file_lazily(
    tmp: &Path,
    path: &Path,
    parts: &[&[u8]],
) -> Result<(), ContentError> {
    write_file(tmp, path, parts, |_| Ok(())).map(drop)
}

/// What [`replace_file_lazily`] wrote survives a power cut from now on.
pub(crate) fn make_durable(path: &Path) -> Result<(), ContentError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(ContentError::io("flush", path))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

fn write_file(
    tmp: &Path,
    path: &Path,
    parts: &[&[u8]],
    flush: impl FnOnce(&File) -> io::Result<()>,
) -> Result<File, ContentError> {
    let staged = Staged::new(tmp);
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .open(&staged.0)
        .map_err(ContentError::io("create", &staged.0))?;
    let written = parts.iter().try_for_each(|part| file.write_all(part));
    written
        .and_then(|()| flush(&file))
        .map_err(ContentError::io("write", &staged.0))?;
    // From here on the drop of `staged` finds nothing to sweep.
    std::fs::rename(&staged.0, path).map_err(ContentError::io("rename a file to", path))?;
    Ok(file)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), ContentError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(ContentError::io("flush", dir))
}

/// A temporary name, unlinked when it was not renamed away.
struct Staged(PathBuf);

impl Staged {
    fn new(tmp: &Path) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(tmp.join(format!("{}-{number}", std::process::id())))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "a temporary file stays");
        }
    }
}
