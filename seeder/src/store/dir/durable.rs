//! Small steps that survive power loss when they return. Blocking.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::StoreError;

/// The store's directory itself, and above it what is missing.
pub(super) fn make_root(root: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(root).map_err(StoreError::at(root))
}

/// One directory; the caller syncs its parent.
pub(super) fn make_dir(dir: &Path) -> Result<bool, StoreError> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(false),
        Err(source) => Err(StoreError::Io {
            path: dir.to_owned(),
            source,
        }),
    }
}

/// A directory and all that is missing between it and `root`, each entry synced.
pub(super) fn make_dirs(root: &Path, dir: &Path) -> Result<(), StoreError> {
    if dir == root || dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().unwrap_or(root);
    make_dirs(root, parent)?;
    make_dir(dir)?;
    sync_dir(parent)
}

/// A file that was not there, with these bytes; the caller syncs its directory.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(StoreError::at(path))
}

/// A file with these bytes in the place of whatever was there. `fresh` is on the same file
/// system and nobody else's.
pub(super) fn replace(fresh: &Path, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let result = write_new(fresh, bytes).and_then(|()| rename(fresh, path));
    if result.is_err() {
        let _ = fs::remove_file(fresh);
    }
    result
}

/// Moves a file or directory; its new place is durable.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(StoreError::at(to))?;
    sync_dir(to.parent().unwrap_or(to))
}

/// Removes a file. `false` when there was none.
pub(super) fn remove(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(path.parent().unwrap_or(path)).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(StoreError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Makes a directory's entries durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(StoreError::at(dir))
}

/// Makes the whole file system durable.
pub(super) fn sync_all(root: &Path) -> Result<(), StoreError> {
    let sync = || Ok(rustix::fs::syncfs(File::open(root)?)?);
    sync().map_err(StoreError::at(root))
}
