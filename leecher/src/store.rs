//! The local content store: partial and complete content by opaque name.
//!
//! A partial file becomes complete by fsync and rename, once its owner says so; both survive
//! `kill -9`, and a partial one resumes from its verified pieces. Layout and crash rules are
//! drawn below.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use torrents::{Info, InfoHash};

use crate::content::Content;

/// A directory of content. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LocalStore {
    _private: Arc<()>,
}

/// Something complete.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its opaque name.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Bytes.
    pub length: u64,
    /// Its swarm; `None` for content without a torrent (empty blobs).
    pub info_hash: Option<InfoHash>,
}

/// Why the store cannot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system said no; says on which path.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl LocalStore {
    /// Opens (or makes) the directory, takes its lock, sweeps what a crash left half-made.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let _ = dir;
        todo!()
    }
    /// What is complete, without touching content. From memory.
    pub fn complete(&self) -> Vec<Stored> {
        todo!()
    }
    /// One complete entry; marks it as used now.
    pub fn get(&self, name: &str) -> Option<Stored> {
        let _ = name;
        todo!()
    }
    /// By swarm.
    pub fn by_info_hash(&self, info_hash: InfoHash) -> Option<Stored> {
        let _ = info_hash;
        todo!()
    }
    /// The stored info dictionary of a complete or partial entry. Blocking.
    pub fn info(&self, name: &str) -> Result<Option<Info>, StoreError> {
        let _ = name;
        todo!()
    }
    /// Names with partial content, to be resumed.
    pub fn partial(&self) -> Vec<String> {
        todo!()
    }
    /// Opens partial content for a download, resuming what is verified. Blocking: what the
    /// record claims is hashed again unless the last shutdown was clean.
    pub fn begin(&self, name: &str, info: &Info) -> Result<Arc<Content>, StoreError> {
        let _ = (name, info);
        todo!()
    }
    /// The partial content is whole and its owner vouches for it: fsync, rename, directory
    /// fsync. Blocking. The open [`Content`] stays usable.
    pub fn commit(&self, name: &str) -> Result<Stored, StoreError> {
        let _ = name;
        todo!()
    }
    /// Stores small content in one step (temporary file, fsync, rename). Blocking.
    pub fn put(&self, name: &str, bytes: &[u8], info: Option<&Info>) -> Result<Stored, StoreError> {
        let _ = (name, bytes, info);
        todo!()
    }
    /// Removes complete or partial content. Open readers keep what they have open. Blocking.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        let _ = name;
        todo!()
    }
    /// Bytes of complete content.
    pub fn used(&self) -> u64 {
        todo!()
    }
    /// The least recently used entries to remove so that at most `capacity` bytes stay.
    pub fn over(&self, capacity: u64) -> Vec<Stored> {
        let _ = capacity;
        todo!()
    }
}
