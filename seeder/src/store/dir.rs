//! The embedded store: one directory, owned by one process.
//!
//! ```text
//! lock                                held by the process that owns the directory
//! format                              which layout this is
//! clean                               there only after a clean stop
//! spool/<n>/                          content on its way in, as below; swept at start
//! blobs/<algorithm>/<2 hex>/<hex>/    complete content, never written again
//!     data                            its bytes
//!     torrent-<info hash>-<length>    its raw info dictionary; none when it is empty
//! aside/<name>                        what turned out damaged, for a person to judge
//! repos/<name>/_blobs/<digest>        empty: the repository holds that blob
//! repos/<name>/_manifests/<digest>    its media type; the bytes are a blob
//! repos/<name>/_referrers/<digest>/<digest>   subject, and empty: who refers to it
//! repos/<name>/_tags/<tag>            a digest
//! ```
//!
//! Crash rules: content is written and synced inside `spool`, renamed as a directory, and its
//! new parent synced, so a digest is there with bytes and torrent or not at all. Small files
//! are replaced by rename the same way, and so are the bytes of a digest that is pushed again.
//! Only then is the index in memory changed, which answers `stat`, `linked` and `holders` without
//! touching the disk. A repository's link to content is made before the content comes and removed
//! after it has gone. A start reads names and lengths, never content. After an unclean stop it may read what the process that died had
//! not made durable yet; so the file system is synced in the background, and nothing new is
//! acknowledged before that is done.
//!
//! All blocking work runs on blocking threads.

mod blobs;
mod durable;
mod repos;
mod scan;
mod tags;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;

use oci::{Digest, RepoName};

use super::{BlobMeta, StoreError, Stores};

const FORMAT: &str = "groundswell store 1\n";

/// A store in a directory. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct DirStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Names for staged directories; `spool` is empty at start.
    staged: AtomicU64,
    index: RwLock<Index>,
    /// Held while a repository's directories are made, so that nobody puts a file into one
    /// whose own entry is not on disk yet.
    making: Mutex<()>,
    /// Whoever changes something waits until what was found at start is durable.
    settling: Mutex<Settling>,
    /// Held, by path, while a tag is compared and moved, or content comes or goes.
    moving: [Mutex<()>; 64],
    /// The lock on the directory lives as long as this.
    _lock: File,
}

/// How durable it is what was found at start.
#[derive(Debug)]
enum Settling {
    /// The stop before was clean, or it has been made so.
    Durable,
    /// After an unclean stop: it is being made so.
    Syncing(JoinHandle<Result<(), StoreError>>),
    /// That did not succeed, and whoever comes next tries again. What hangs on it is entries of
    /// directories, for files were synced before they were renamed: a file system that cannot
    /// write those down does not report success later, as it may of a file's bytes.
    Failed,
}

/// What the directory holds, in memory.
#[derive(Debug, Default)]
struct Index {
    blobs: HashMap<Digest, BlobMeta>,
    repos: BTreeMap<Arc<RepoName>, Held>,
    /// The other way round: who holds a blob.
    holders: HashMap<Digest, Vec<Arc<RepoName>>>,
}

/// What a repository holds.
#[derive(Debug, Default)]
struct Held {
    blobs: HashSet<Digest>,
    manifests: HashSet<Digest>,
    /// It has, or once had, a manifest: it is listed.
    known: bool,
}

/// Why a directory is no store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Another process owns it.
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    /// Something in it cannot be read or made.
    #[error("{path}: {source}")]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DirStore {
    /// Opens the directory, or makes it: takes the lock, sweeps what never became content,
    /// reads what is there. Blocking.
    pub(crate) fn open(root: &Path) -> Result<Self, OpenError> {
        durable::make_root(root)?;
        let lock = lock(root)?;
        let fresh = check_format(root)?;
        sweep(&root.join("spool"))?;
        lay_out(root)?;
        let clean = durable::remove(&root.join("clean"))?;
        let index = scan::read(root)?;
        let settling = if clean || fresh {
            Settling::Durable
        } else {
            let root = root.to_owned();
            Settling::Syncing(std::thread::spawn(move || durable::sync_all(&root)))
        };
        let inner = Inner {
            root: root.to_owned(),
            staged: AtomicU64::new(0),
            index: RwLock::new(index),
            making: Mutex::new(()),
            settling: Mutex::new(settling),
            moving: std::array::from_fn(|_| Mutex::new(())),
            _lock: lock,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The store behind its traits.
    pub(crate) fn stores(&self) -> Stores {
        let this = Arc::new(self.clone());
        Stores {
            blobs: this.clone(),
            repos: this.clone(),
            tags: this,
        }
    }

    /// Says that everything is on disk, so that the next start need not make sure. Blocking.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        self.inner.settle()?;
        durable::write_new(&self.inner.root.join("clean"), b"")?;
        durable::sync_dir(&self.inner.root)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(done) => done,
            Err(stopped) => match stopped.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(StoreError::Closing),
            },
        }
    }
}

impl Inner {
    /// Waits until what was found at start is durable: what is acknowledged from now on may
    /// rest on it. Fails for everybody until it is.
    fn settle(&self) -> Result<(), StoreError> {
        let mut settling = self
            .settling
            .lock()
            .expect("no panic while the start settles");
        let synced = match std::mem::replace(&mut *settling, Settling::Failed) {
            Settling::Durable => Ok(()),
            Settling::Syncing(sync) => sync
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Settling::Failed => durable::sync_all(&self.root),
        };
        if synced.is_ok() {
            *settling = Settling::Durable;
        }
        synced
    }

    fn staging_dir(&self) -> PathBuf {
        let n = self.staged.fetch_add(1, Ordering::Relaxed);
        self.root.join("spool").join(n.to_string())
    }

    fn repo_dir(&self, repo: &RepoName) -> PathBuf {
        self.root.join("repos").join(repo.as_str())
    }

    fn index(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.index.read().expect("no panic while the index is held")
    }

    fn index_mut(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.index
            .write()
            .expect("no panic while the index is held")
    }
}

impl Index {
    fn has_blob(&self, repo: &RepoName, digest: &Digest) -> bool {
        self.repos
            .get(repo)
            .is_some_and(|held| held.blobs.contains(digest))
    }

    fn has_manifest(&self, repo: &RepoName, digest: &Digest) -> bool {
        self.repos
            .get(repo)
            .is_some_and(|held| held.manifests.contains(digest))
    }

    fn add_blob(&mut self, repo: &RepoName, digest: &Digest) {
        let (name, held) = self.repo(repo);
        if held.blobs.insert(digest.clone()) {
            self.holders.entry(digest.clone()).or_default().push(name);
        }
    }

    fn remove_blob(&mut self, repo: &RepoName, digest: &Digest) {
        if let Some(held) = self.repos.get_mut(repo) {
            held.blobs.remove(digest);
        }
        if let Some(holders) = self.holders.get_mut(digest) {
            holders.retain(|holder| **holder != *repo);
            if holders.is_empty() {
                self.holders.remove(digest);
            }
        }
    }

    /// The repository's entry, and its name as it is kept once.
    fn repo(&mut self, repo: &RepoName) -> (Arc<RepoName>, &mut Held) {
        let known = self
            .repos
            .get_key_value(repo)
            .map(|(name, _)| Arc::clone(name));
        let name = known.unwrap_or_else(|| Arc::new(repo.clone()));
        let held = self.repos.entry(Arc::clone(&name)).or_default();
        (name, held)
    }
}

/// A digest as a file name.
fn file_name(digest: &Digest) -> String {
    digest.to_string().replacen(':', "-", 1)
}

/// A file name that is a digest.
fn from_file_name(name: &str) -> Option<Digest> {
    name.replacen('-', ":", 1).parse().ok()
}

fn lock(root: &Path) -> Result<File, OpenError> {
    use rustix::fs::{FlockOperation, flock};
    let path = root.join("lock");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| OpenError::Io {
            path: path.clone(),
            source,
        })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked(root.to_owned())),
        Err(errno) => Err(OpenError::Io {
            path,
            source: errno.into(),
        }),
    }
}

/// `true` when the directory was no store before.
fn check_format(root: &Path) -> Result<bool, OpenError> {
    let path = root.join("format");
    let found = match fs::read_to_string(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            durable::replace(&root.join("format.new"), &path, FORMAT.as_bytes())?;
            return Ok(true);
        }
        Err(source) => return Err(OpenError::Io { path, source }),
    };
    if found == FORMAT {
        return Ok(false);
    }
    let source = io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "it was written by another version ({})",
            found.trim().escape_default()
        ),
    );
    Err(OpenError::Io { path, source })
}

/// Removes what a crash left half-made.
fn sweep(spool: &Path) -> Result<(), OpenError> {
    match fs::remove_dir_all(spool) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(OpenError::Io {
            path: spool.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Makes every directory that content needs, durably, once: a commit then only renames.
fn lay_out(root: &Path) -> Result<(), OpenError> {
    for dir in [
        "spool",
        "blobs",
        "blobs/sha256",
        "blobs/sha512",
        "aside",
        "repos",
    ] {
        durable::make_dir(&root.join(dir))?;
    }
    for algorithm in ["sha256", "sha512"] {
        let parent = root.join("blobs").join(algorithm);
        for shard in 0..=u8::MAX {
            durable::make_dir(&parent.join(format!("{shard:02x}")))?;
        }
        durable::sync_dir(&parent)?;
    }
    durable::sync_dir(&root.join("blobs"))?;
    durable::sync_dir(root)?;
    Ok(())
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io { path, source } => Self::Io { path, source },
            other => Self::Io {
                path: PathBuf::new(),
                source: io::Error::other(other.to_string()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing rests on what could not be made durable, however many have been told so.
    #[tokio::test]
    async fn a_start_that_could_not_settle_is_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (root, elsewhere) = (dir.path().join("data"), dir.path().join("elsewhere"));
        let repo: RepoName = "p/x".parse().unwrap();
        let digest = Digest::sha256_of(b"blob");
        let store = DirStore::open(&root).unwrap();
        store.stores().repos.link(&repo, &digest).await.unwrap();
        // What is not there cannot be synced.
        fs::rename(&root, &elsewhere).unwrap();
        let failing = root.clone();
        let sync = std::thread::spawn(move || durable::sync_all(&failing));
        *store.inner.settling.lock().unwrap() = Settling::Syncing(sync);
        for _ in 0..3 {
            let linked = store.stores().repos.link(&repo, &digest).await;
            assert!(matches!(linked, Err(StoreError::Io { .. })), "{linked:?}");
        }
        store.close().unwrap_err();
        fs::rename(&elsewhere, &root).unwrap();
        assert!(!root.join("clean").exists());

        store.stores().repos.link(&repo, &digest).await.unwrap();
        store.close().unwrap();
        assert!(root.join("clean").exists());
    }
}
