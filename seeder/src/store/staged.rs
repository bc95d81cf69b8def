//! Content on its way in: a directory of its own with one file, gone again unless a store
//! takes it over. Whatever ends an upload, nothing half-made stays.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StoreError;

/// The name of the content inside a staged (and a stored) directory.
pub(super) const DATA: &str = "data";

/// A temporary directory with a `data` file.
#[derive(Debug)]
pub(crate) struct Staged {
    dir: PathBuf,
    file: Arc<File>,
    owned: bool,
}

impl Staged {
    /// Makes the directory and its empty file. Blocking.
    pub(super) fn create(dir: PathBuf) -> Result<Self, StoreError> {
        fs::create_dir(&dir).map_err(StoreError::at(&dir))?;
        let data = dir.join(DATA);
        let opened = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&data);
        match opened {
            Ok(file) => Ok(Self {
                dir,
                file: Arc::new(file),
                owned: true,
            }),
            Err(source) => {
                let _ = fs::remove_dir(&dir);
                Err(StoreError::Io { path: data, source })
            }
        }
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file, to be written at offsets.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Names the file in an I/O error.
    pub(crate) fn failed(&self, source: io::Error) -> StoreError {
        StoreError::Io {
            path: self.dir.join(DATA),
            source,
        }
    }

    /// The directory has become somebody else's: nothing is removed any more.
    pub(super) fn taken(&mut self) {
        self.owned = false;
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        let dir = std::mem::take(&mut self.dir);
        // Unlinking many gigabytes takes a while: not on a thread that serves others.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || discard(&dir))),
            Err(_) => discard(&dir),
        }
    }
}

/// Frees what lies in the spool. Blocking.
pub(super) fn discard(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %dir.display(), %error, "cannot remove a temporary directory; the next start will");
    }
}
