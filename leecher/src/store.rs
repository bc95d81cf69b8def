//! The local content store: partial and complete content by opaque name.
//!
//! A partial file becomes complete by fsync and rename, once its owner says so; both survive
//! `kill -9`, and a partial one resumes from its verified pieces.
//!
//! ```text
//!  DIR/lock            locked while a process has the store; says which
//!      info/NAME       how long it is, its swarm, its info dictionary; modified = last used
//!      partial/NAME    grows in place, sparse at its full length
//!      record/NAME     which pieces of a partial are verified: after a clean end only
//!      complete/NAME   whole, never changed again
//!      tmp/            half-written small files; emptied at the start
//!
//!           begin                    commit                       remove
//!  (none) ────────▶ info, partial ──────────▶ info, complete ──────────────▶ (none)
//!     └───────────────────────── put ───────────────▲
//! ```
//!
//! Crash rules: an info is written before its data has a name; both are durable before the data
//! is renamed to `complete`; data goes before its info. So at the start, an info without data is
//! the rest of a crash and is swept. Data without a usable info is what a power cut left of a
//! download, or somebody put it there or broke its info: it is never deleted, and
//! [`LocalStore::begin`] of that name takes it over, piece by piece as far as it is right.
//!
//! Operations on one name exclude each other and wait; those on different names do not. Lock
//! order: a name's lock, then the index; no disk is touched under the index lock.

mod index;
mod layout;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use torrents::{Info, InfoHash};

use crate::content::{Content, ContentError, Flusher, RecordPaths, Size, replace_file, sync_dir};
use index::{Entry, Index};
use layout::{Head, Layout};

/// A directory of content. Cheap to clone. The last clone unlocks the directory, and waits for
/// writing back that is under way.
#[derive(Debug, Clone)]
pub struct LocalStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    index: Mutex<Index>,
    /// One lock for each name that somebody works on.
    names: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    flusher: Arc<Flusher>,
    /// Held open for its lock.
    _lock: File,
}

/// Something complete.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Another process has the directory.
    #[error("{path} is in use by another process{}; give each its own data directory", holder(.pid))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who has it, if it said so.
        pid: Option<u32>,
    },
    /// The caller's fault: a name that is no single, short path component.
    #[error("{name:?} cannot name content")]
    Name {
        /// As given.
        name: String,
    },
    /// The disk cannot hold it: something must go first.
    #[error("{path} has {} free, but {} more are needed; free some space and try again", Size(*.free), Size(*.needed))]
    NoSpace {
        /// A path on the disk that is full.
        path: PathBuf,
        /// Bytes still to be written.
        needed: u64,
        /// Bytes left for us.
        free: u64,
    },
    /// The caller's fault: what the store has under this name is something else.
    #[error("{name} is stored, or being stored, with other content than asked for now")]
    Conflict {
        /// The name.
        name: String,
    },
    /// The caller's fault: pieces are missing.
    #[error("{name} cannot be complete: {missing} pieces are not verified")]
    Incomplete {
        /// The name.
        name: String,
        /// How many.
        missing: u32,
    },
    /// The caller's fault: there is nothing of that name.
    #[error("there is no {name} in the store")]
    Unknown {
        /// The name.
        name: String,
    },
    /// A file of the store is not what was written.
    #[error("{path} is damaged; remove {name} and fetch it again")]
    Damaged {
        /// The name.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// Something is in the way.
    #[error(transparent)]
    Content(ContentError),
}

fn has_len(path: &Path, length: u64) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == length)
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

impl From<ContentError> for StoreError {
    fn from(error: ContentError) -> Self {
        match error {
            ContentError::Io { path, source, .. } => Self::Io { path, source },
            ContentError::NoSpace { path, needed, free } => Self::NoSpace { path, needed, free },
            other => Self::Content(other),
        }
    }
}

impl StoreError {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.downcast::<ContentError>() {
            Ok(error) => error.into(),
            Err(source) => Self::Io { path, source },
        }
    }
}

impl LocalStore {
    /// Opens (or makes) the directory, takes its lock, sweeps what a crash left half-made.
    /// Blocking; reads one small file per entry and no content.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let layout = Layout::new(dir);
        layout.create()?;
        let lock = layout.lock()?;
        let index = layout.scan()?;
        Ok(Self {
            inner: Arc::new(Inner {
                flusher: Flusher::start().map_err(StoreError::io(dir))?,
                layout,
                index: Mutex::new(index),
                names: Mutex::default(),
                _lock: lock,
            }),
        })
    }

    /// What is complete, without touching content. From memory.
    pub fn complete(&self) -> Vec<Stored> {
        let index = self.index();
        index
            .iter()
            .map(|(name, entry)| self.stored(name, entry))
            .collect()
    }

    /// One complete entry; marks it as used now. From memory.
    pub fn get(&self, name: &str) -> Option<Stored> {
        let mut index = self.index();
        let persist = index.touch(name, SystemTime::now());
        let stored = self.stored(name, index.get(name)?);
        drop(index);
        if let Some(at) = persist {
            self.inner.flusher.touch(self.inner.layout.info(name), at);
        }
        Some(stored)
    }

    /// By swarm. From memory.
    pub fn by_info_hash(&self, info_hash: InfoHash) -> Option<Stored> {
        let index = self.index();
        let name = index.named(info_hash)?;
        Some(self.stored(name, index.get(name)?))
    }

    /// The stored info dictionary of a complete or partial entry. Blocking.
    pub fn info(&self, name: &str) -> Result<Option<Info>, StoreError> {
        layout::check_name(name)?;
        self.inner.layout.read_info(name)
    }

    /// Names with partial content, to be resumed. From memory.
    pub fn partial(&self) -> Vec<String> {
        self.index().partial_names()
    }

    /// Opens partial content for a download, resuming what is verified. Blocking: unless the
    /// last end was clean, everything that is there is hashed again.
    ///
    /// Whoever begins what is begun already shares its content; whoever begins what is
    /// complete gets it complete.
    pub fn begin(&self, name: &str, info: &Info) -> Result<Arc<Content>, StoreError> {
        layout::check_name(name)?;
        self.exclusively(name, || self.begin_locked(name, info))
    }

    /// The partial content is whole and its owner vouches for it: fsync, rename, directory
    /// fsync. Blocking. The open [`Content`] stays usable, read only. Again is no error.
    pub fn commit(&self, name: &str) -> Result<Stored, StoreError> {
        layout::check_name(name)?;
        self.exclusively(name, || self.commit_locked(name))
    }

    /// Stores small content in one step (temporary file, fsync, rename), in place of whatever
    /// had the name. Blocking.
    pub fn put(&self, name: &str, bytes: &[u8], info: Option<&Info>) -> Result<Stored, StoreError> {
        layout::check_name(name)?;
        let length = bytes.len() as u64;
        if info.is_some_and(|info| info.geometry().length() != length) {
            return Err(StoreError::Conflict { name: name.into() });
        }
        self.exclusively(name, || {
            let layout = &self.inner.layout;
            layout.write_info(name, length, info)?;
            layout.make_info_durable(name)?;
            replace_file(&layout.tmp(), &layout.complete(name), &[bytes])?;
            self.drop_partial(name)?;
            Ok(self.completed(name, Head::new(length, info)))
        })
    }

    /// Removes complete or partial content; what is not there is no error. Open readers keep
    /// what they have open. Blocking.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        layout::check_name(name)?;
        self.exclusively(name, || {
            self.index().forget(name);
            layout::unlink(&self.inner.layout.complete(name))?;
            self.drop_partial(name)?;
            layout::unlink(&self.inner.layout.info(name))
        })
    }

    /// Bytes of complete content. From memory.
    pub fn used(&self) -> u64 {
        self.index().used()
    }

    /// The least recently used entries to remove so that at most `capacity` bytes stay.
    pub fn over(&self, capacity: u64) -> Vec<Stored> {
        let index = self.index();
        let names = index.over(capacity);
        names
            .iter()
            .filter_map(|name| Some(self.stored(name, index.get(name)?)))
            .collect()
    }

    /// Makes what is verified of every open partial content durable, so that the next start
    /// need not hash it: for a clean end. Blocking.
    pub fn sync(&self) -> Result<(), StoreError> {
        let open = self.index().open_partials();
        open.into_iter().try_for_each(|(name, content)| {
            content
                .sync()
                .map_err(StoreError::io(self.inner.layout.partial(&name)))
        })
    }

    fn begin_locked(&self, name: &str, info: &Info) -> Result<Arc<Content>, StoreError> {
        let layout = &self.inner.layout;
        let complete = self
            .index()
            .get(name)
            .map(|entry| (entry.length, entry.info_hash));
        if let Some((length, info_hash)) = complete
            && let Some(content) = self.open_complete(name, info, length, info_hash)?
        {
            return Ok(content);
        }
        if let Some((begun, content)) = self.index().open_partial(name) {
            return match begun == *info {
                true => Ok(content),
                false => Err(StoreError::Conflict { name: name.into() }),
            };
        }
        if complete.is_none() && layout.takes_over(name)? {
            tracing::info!(
                name,
                "content without a usable info is taken over and checked"
            );
        }
        layout.ensure_info(name, info)?;
        let path = layout.partial(name);
        let record = RecordPaths {
            path: layout.record(name),
            tmp: layout.tmp(),
        };
        let opened = Content::partial(&path, record, info, self.inner.flusher.clone());
        let content = match opened {
            Ok(content) => Arc::new(content),
            Err(error) => {
                if !path.exists() {
                    layout::unlink(&layout.info(name))?;
                }
                return Err(StoreError::io(path)(error));
            }
        };
        self.index()
            .begun(name, info.clone(), Arc::downgrade(&content));
        Ok(content)
    }

    /// Complete content for somebody who knows it by `info`. `None` when its file is gone or
    /// changed behind our back: then it is forgotten, and what is left of it can be resumed.
    fn open_complete(
        &self,
        name: &str,
        info: &Info,
        length: u64,
        info_hash: Option<InfoHash>,
    ) -> Result<Option<Arc<Content>>, StoreError> {
        if info.geometry().length() != length {
            return Err(StoreError::Conflict { name: name.into() });
        }
        let layout = &self.inner.layout;
        let path = layout.complete(name);
        match Content::complete(&path, info) {
            Ok(content) if info_hash == Some(info.hash()) => {
                layout.ensure_info(name, info)?;
                Ok(Some(Arc::new(content)))
            }
            // The same bytes may have another info: other piece lengths. Only hashing tells.
            Ok(content) if content.matches(info).map_err(StoreError::io(&path))? => {
                layout.write_info(name, length, Some(info))?;
                layout.make_info_durable(name)?;
                self.completed(name, Head::new(length, Some(info)));
                Ok(Some(Arc::new(content)))
            }
            Ok(_) => Err(StoreError::Conflict { name: name.into() }),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidData
                ) =>
            {
                tracing::warn!(%error, "stored content was changed by somebody else");
                self.index().forget(name);
                layout.takes_over(name)?;
                Ok(None)
            }
            Err(error) => Err(StoreError::io(path)(error)),
        }
    }

    fn commit_locked(&self, name: &str) -> Result<Stored, StoreError> {
        let layout = &self.inner.layout;
        let live = self.index().open_partial(name);
        let (info, content) = match live {
            Some(live) => live,
            None => {
                if let Some(entry) = self.index().get(name) {
                    return Ok(self.stored(name, entry));
                }
                let known = self.index().is_partial(name);
                let info = layout.read_info(name)?.filter(|_| known);
                let info = info.ok_or_else(|| StoreError::Unknown { name: name.into() })?;
                let content = self.begin_locked(name, &info)?;
                (info, content)
            }
        };
        let have = content.have();
        if !have.is_full() {
            return Err(StoreError::Incomplete {
                name: name.into(),
                missing: have.len() - have.count(),
            });
        }
        layout.ensure_info(name, &info)?;
        layout.make_info_durable(name)?;
        let (from, to) = (layout.partial(name), layout.complete(name));
        content.flush().map_err(StoreError::io(&from))?;
        match std::fs::rename(&from, &to) {
            // An earlier commit came so far and failed at the directory.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && has_len(&to, content.length()) => {}
            renamed => renamed.map_err(StoreError::io(&from))?,
        }
        content.seal();
        sync_dir(&layout.completes())?;
        sync_dir(&layout.partials())?;
        self.drop_partial(name)?;
        Ok(self.completed(name, Head::new(content.length(), Some(&info))))
    }

    /// Takes partial content out of the world; whoever has it open keeps its bytes.
    fn drop_partial(&self, name: &str) -> Result<(), StoreError> {
        if let Some(content) = self.index().drop_partial(name) {
            content.detach();
        }
        layout::unlink(&self.inner.layout.record(name))?;
        layout::unlink(&self.inner.layout.partial(name))
    }

    fn completed(&self, name: &str, head: Head) -> Stored {
        let mut index = self.index();
        let entry = index.completed(name, head, SystemTime::now());
        self.stored(name, entry)
    }

    fn stored(&self, name: &str, entry: &Entry) -> Stored {
        Stored {
            name: name.into(),
            path: self.inner.layout.complete(name),
            length: entry.length,
            info_hash: entry.info_hash,
        }
    }

    /// Runs alone among all operations on this name.
    fn exclusively<T>(&self, name: &str, run: impl FnOnce() -> T) -> T {
        let names = || {
            self.inner
                .names
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let lock = names().entry(name.into()).or_default().clone();
        // Nothing is kept under it that a panic could leave broken: the disk is the state.
        let held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let done = run();
        drop(held);
        let mut names = names();
        // Two: the map's and ours. Nobody can get a third while the map is locked.
        if Arc::strong_count(&lock) <= 2 {
            names.remove(name);
        }
        done
    }

    fn index(&self) -> std::sync::MutexGuard<'_, Index> {
        self.inner
            .index
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
