//! What a clean end leaves beside partial content, so that the next start need not hash it.
//!
//! ```text
//!            first write                       sync: data flushed, then the record
//!   clean ───────────────▶ in use ───────────────────────────────▶ clean
//!  (record exists)        (no record)                            (record exists)
//! ```
//!
//! Invariant: a record never claims a piece whose data is not on the disk. It may claim too
//! little: then the data file was modified after it, the times differ, and everything is hashed.
//! It is believed only if it is whole, names the same torrent, and the data file has the length
//! and the modification time it had then.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use torrents::{Bitfield, Geometry, Info, InfoHash};

use super::durable::replace_file;

const MAGIC: &[u8; 8] = b"SWHAVE1\n";
/// Magic, info hash, length, modification time.
const HEAD: usize = 8 + 20 + 8 + 8 + 8;
/// SHA-1 over what comes before it.
const SUM: usize = 20;

/// Where a record lives, and where it is staged.
#[derive(Debug, Clone)]
pub(crate) struct RecordPaths {
    pub(crate) path: PathBuf,
    pub(crate) tmp: PathBuf,
}

/// The record of one open content.
#[derive(Debug)]
pub(super) struct Record {
    paths: RecordPaths,
    info_hash: InfoHash,
    /// Whether a record may exist; spares the lock on every write but the first.
    exists: AtomicBool,
    /// Serialises writing and removing it. True once nobody keeps it any more.
    detached: Mutex<bool>,
}

impl Record {
    pub(super) fn new(paths: RecordPaths, info_hash: InfoHash, exists: bool) -> Self {
        Self {
            paths,
            info_hash,
            exists: AtomicBool::new(exists),
            detached: Mutex::new(false),
        }
    }

    /// The data is about to change: the record goes.
    pub(super) fn invalidate(&self) -> io::Result<()> {
        if !self.exists.load(Ordering::Acquire) {
            return Ok(());
        }
        let detached = self.lock();
        if *detached || !self.exists.load(Ordering::Acquire) {
            return Ok(());
        }
        match std::fs::remove_file(&self.paths.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(super::ContentError::io("remove", &self.paths.path)(error).into());
            }
        }
        self.exists.store(false, Ordering::Release);
        Ok(())
    }

    /// The data of `have` is on the disk: says so, durably.
    ///
    /// A write that races with this changes the modification time after it was noted here, so
    /// at worst the next start hashes.
    pub(super) fn write(
        &self,
        data: &File,
        geometry: &Geometry,
        have: &Bitfield,
    ) -> io::Result<()> {
        let detached = self.lock();
        if *detached {
            return Ok(());
        }
        let mut bytes = head(data, self.info_hash, geometry.length())?;
        bytes.extend_from_slice(&have.to_wire());
        let sum = InfoHash::of(&bytes);
        self.exists.store(true, Ordering::Release);
        replace_file(&self.paths.tmp, &self.paths.path, &[&bytes, sum.as_bytes()])?;
        Ok(())
    }

    /// From now on the files belong to somebody else.
    pub(super) fn detach(&self) {
        *self.lock() = true;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, bool> {
        self.detached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pieces a believable record claims. Anything else (none, torn, another torrent's, stale)
/// is no error: the data is hashed instead.
pub(super) fn load(paths: &RecordPaths, data: &File, info: &Info) -> Option<Bitfield> {
    let bytes = std::fs::read(&paths.path).ok()?;
    let pieces = info.geometry().pieces();
    let field = (pieces as usize).div_ceil(8);
    let (body, sum) = bytes.split_at_checked(HEAD + field)?;
    if sum.len() != SUM || InfoHash::of(body).as_bytes() != sum {
        return None;
    }
    let (found, field) = body.split_at(HEAD);
    if data.metadata().ok()?.len() != info.geometry().length() {
        return None;
    }
    let expected = head(data, info.hash(), info.geometry().length()).ok()?;
    (found == expected).then_some(())?;
    Bitfield::from_wire(field, pieces).ok()
}

fn head(data: &File, info_hash: InfoHash, length: u64) -> io::Result<Vec<u8>> {
    let meta = data.metadata()?;
    let mut head = Vec::with_capacity(HEAD);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(info_hash.as_bytes());
    head.extend_from_slice(&length.to_be_bytes());
    head.extend_from_slice(&meta.mtime().to_be_bytes());
    head.extend_from_slice(&meta.mtime_nsec().to_be_bytes());
    Ok(head)
}
