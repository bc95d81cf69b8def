//! Where one torrent's bytes live: one file (ours) or several (foreign torrents), read and
//! written at offsets, and which of its pieces are verified.
//!
//! Three kinds, one face:
//!
//! | made by | files | who says what is verified at the start |
//! |---|---|---|
//! | [`Content::complete`] | one, read only | the caller: everything |
//! | [`Content::output`] | the torrent's own tree | SHA-1 over what is there |
//! | the store's `begin` | one, growing in place | a record after a clean end, else SHA-1 |
//!
//! **The data is the record.** While content grows, nothing but data is written: after a crash
//! every piece that is not a hole is hashed again, so a killed process loses no verified piece
//! and a lying disk fools nobody. Only a clean [`Content::sync`] leaves a record that spares the
//! hashing, and the first write after it takes the record away.
//!
//! Invariants: bytes outside the torrent are never written; a symbolic link below the output
//! directory is never followed; a file that is longer than its place in the torrent is an error,
//! never cut; pad files (BEP-47) read as zeros and exist nowhere.
//!
//! Blocking calls: the engine runs them on blocking threads; only [`Content::read_cached`],
//! [`Content::record`] and [`Content::have`] may be called on a runtime thread.

mod check;
mod direct;
mod durable;
mod files;
mod flush;
mod output;
mod record;

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use torrents::{Bitfield, Geometry, Info, PieceIndex};

use files::Files;
use record::Record;

pub(crate) use check::is_bad_sector;
pub(crate) use direct::DISK_ALIGN;
pub(crate) use durable::{make_durable, replace_file, replace_file_lazily, sync_dir};
pub(crate) use flush::Flusher;
pub(crate) use record::RecordPaths;

/// Dirty bytes after which writing back starts, so that the last flush has little to do.
const FLUSH_AFTER: u64 = 64 << 20;

/// A torrent's bytes on disk.
#[derive(Debug)]
pub struct Content {
    geometry: Geometry,
    files: Arc<Dirty>,
    have: Mutex<Bitfield>,
    writable: bool,
    /// Only partial content of the store is made durable.
    durable: Option<Durable>,
    /// It became complete while it was open.
    sealed: AtomicBool,
}

/// What lets the next start believe what is there.
#[derive(Debug)]
struct Durable {
    /// Starts write-back early.
    flusher: Arc<Flusher>,
    /// What a clean end leaves behind.
    record: Record,
}

/// Files and how much of them waits to be written back; the flusher's view of a content.
#[derive(Debug)]
pub(crate) struct Dirty {
    files: Files,
    bytes: AtomicU64,
    queued: AtomicBool,
    /// Set once writing back failed. The kernel tells only once and then takes the lost pages
    /// for clean, so from here on nothing may be called durable any more.
    failed: OnceLock<(io::ErrorKind, String)>,
}

/// Why content cannot be opened or used; travels inside an [`io::Error`] of the same kind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// The operating system said no.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The disk cannot hold what is still missing.
    #[error("{path} has {} free, but {} more are needed; free some space and try again", Size(*.free), Size(*.needed))]
    NoSpace {
        /// A path on the file system that is full.
        path: PathBuf,
        /// Bytes still to be written.
        needed: u64,
        /// Bytes left for us.
        free: u64,
    },
    /// A file is not as long as the torrent says.
    #[error(
        "{path} has {found} bytes where the torrent has {expected}; move it away or choose another place"
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// Its length in the torrent.
        expected: u64,
    },
    /// Something that is no regular file (a link, a directory, a device) is in the way.
    #[error("{path} is {found}; move it away or choose another place")]
    InTheWay {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// Bytes outside the torrent.
    #[error("bytes {offset}+{len} are outside of a torrent of {length}")]
    OutOfBounds {
        /// First byte asked.
        offset: u64,
        /// Bytes asked.
        len: u64,
        /// Bytes there are.
        length: u64,
    },
    /// Read-only content was written to.
    #[error("complete content is read only")]
    ReadOnly,
}

/// Bytes as people read them.
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut whole, mut tenths, mut unit) = (self.0, 0, "B");
        for larger in ["KiB", "MiB", "GiB", "TiB"] {
            if whole < 1024 {
                break;
            }
            (whole, tenths, unit) = (whole / 1024, whole % 1024 * 10 / 1024, larger);
        }
        match unit {
            "B" => write!(f, "{whole} B"),
            unit => write!(f, "{whole}.{tenths} {unit}"),
        }
    }
}

impl From<ContentError> for io::Error {
    fn from(error: ContentError) -> Self {
        let kind = match &error {
            ContentError::Io { source, .. } => source.kind(),
            ContentError::NoSpace { .. } => io::ErrorKind::StorageFull,
            ContentError::Length { .. } => io::ErrorKind::InvalidData,
            ContentError::InTheWay { .. } => io::ErrorKind::AlreadyExists,
            ContentError::OutOfBounds { .. } => io::ErrorKind::InvalidInput,
            ContentError::ReadOnly => io::ErrorKind::PermissionDenied,
        };
        Self::new(kind, error)
    }
}

impl ContentError {
    /// Wraps what the operating system said about `path`.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

impl Content {
    /// Complete content in one file, read only. Checks that the length fits, nothing else.
    pub fn complete(path: &Path, info: &Info) -> io::Result<Self> {
        let geometry = *info.geometry();
        let file = std::fs::File::open(path).map_err(ContentError::io("open", path))?;
        let meta = file.metadata().map_err(ContentError::io("look at", path))?;
        if !meta.is_file() {
            let (path, found) = (path.into(), "no regular file");
            return Err(ContentError::InTheWay { path, found }.into());
        }
        if meta.len() != geometry.length() {
            return Err(ContentError::Length {
                path: path.into(),
                found: meta.len(),
                expected: geometry.length(),
            }
            .into());
        }
        let have = Bitfield::full(geometry.pieces());
        let files = Files::one(file, path.into());
        Ok(Self::new(geometry, files, have, false, None))
    }

    /// What `swell leech` uses: the torrent's files below `dir`, created when missing; what
    /// is there already is hashed and kept. `checked` hears how many bytes are behind the
    /// check, from this thread.
    ///
    /// Files grow in place under their final names and nothing else is created. Complete
    /// files that cannot be written (a read-only medium) can still be seeded.
    ///
    /// With `keep_cached` what is written stays in memory for those who will read it: peers,
    /// while it is seeded. Without, a single file is written past the page cache as far as the
    /// disk keeps up.
    pub fn output(
        dir: &Path,
        info: &Info,
        keep_cached: bool,
        mut checked: impl FnMut(u64),
    ) -> io::Result<Self> {
        let mut opened = output::open(dir, info)?;
        let geometry = *info.geometry();
        let have = if opened.fresh {
            Bitfield::empty(geometry.pieces())
        } else {
            check::verify(&opened.files, info, &mut checked)?
        };
        if let (Some(path), false) = (opened.read_only, have.is_full()) {
            let source = io::Error::from(io::ErrorKind::PermissionDenied);
            return Err(ContentError::io("write to", path)(source).into());
        }
        if !keep_cached && !have.is_full() {
            opened.files.go_past_cache()?;
        }
        let writable = !have.is_full();
        Ok(Self::new(geometry, opened.files, have, writable, None))
    }

    /// Growing content of the store: one file, created sparse at its full length.
    pub(crate) fn partial(
        path: &Path,
        record: RecordPaths,
        info: &Info,
        flusher: Arc<Flusher>,
    ) -> io::Result<Self> {
        let geometry = *info.geometry();
        let (file, existed) = output::open_partial(path, geometry.length())?;
        let recorded = existed.and_then(|_| record::load(&record, &file, info));
        // Only now: it changes the modification time that the record is compared with.
        if existed != Some(geometry.length()) {
            file.set_len(geometry.length())
                .map_err(ContentError::io("extend", path))?;
        }
        let files = Files::one(file, path.into());
        let clean = recorded.is_some();
        if !clean {
            // A process that was killed may have left it in memory only.
            files.distrust();
        }
        let have = match recorded {
            Some(have) => have,
            None if existed.is_some_and(|length| length > 0) => {
                check::verify(&files, info, &mut |_| ())?
            }
            None => Bitfield::empty(geometry.pieces()),
        };
        let record = Record::new(record, info.hash(), clean);
        let durable = Durable { flusher, record };
        Ok(Self::new(geometry, files, have, true, Some(durable)))
    }

    fn new(
        geometry: Geometry,
        files: Files,
        have: Bitfield,
        writable: bool,
        durable: Option<Durable>,
    ) -> Self {
        Self {
            geometry,
            files: Arc::new(Dirty {
                files,
                bytes: AtomicU64::new(0),
                queued: AtomicBool::new(false),
                failed: OnceLock::new(),
            }),
            have: Mutex::new(have),
            writable,
            durable,
            sealed: AtomicBool::new(false),
        }
    }

    /// What is verified: at the time of opening, and what was recorded since.
    pub fn have(&self) -> Bitfield {
        self.lock_have().clone()
    }

    /// Bytes in all.
    pub fn length(&self) -> u64 {
        self.geometry.length()
    }

    /// Reads exactly `buf.len()` bytes. Blocking.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.bounds(offset, buf.len() as u64)?;
        self.files.files.read_at(offset, buf)
    }

    /// Reads what the page cache holds without blocking: the bytes read, fewer than asked
    /// (or 0) when the rest must come from the disk, or when the file system cannot say.
    pub fn read_cached(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.bounds(offset, buf.len() as u64)?;
        self.files.files.read_cached(offset, buf)
    }

    /// Writes the slices one after the other, in as few calls as possible. Blocking.
    ///
    /// On an error any part of them may be written: the piece is not verified until it was
    /// written whole, so trying again is safe.
    pub fn write_at(&self, offset: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        let len = slices.iter().map(|slice| slice.len() as u64).sum();
        self.bounds(offset, len)?;
        if !self.writable || self.sealed() {
            return Err(ContentError::ReadOnly.into());
        }
        let Some(Durable { flusher, record }) = &self.durable else {
            return self.files.files.write_at(offset, slices);
        };
        self.files.check()?;
        record.invalidate()?;
        self.files.files.write_at(offset, slices)?;
        let dirty = self.files.bytes.fetch_add(len, Ordering::Relaxed) + len;
        if dirty >= FLUSH_AFTER && !self.files.queued.swap(true, Ordering::AcqRel) {
            flusher.flush(&self.files);
        }
        Ok(())
    }

    /// Remembers that a piece is written and verified. Cheap: memory only, because after a
    /// crash the data itself says so; [`Content::sync`] spares the hashing where it can.
    pub fn record(&self, piece: PieceIndex) {
        self.lock_have().insert(piece);
        if let Some(Durable { record, .. }) = &self.durable {
            // A failure leaves a record that claims less than there is, never more.
            drop(record.invalidate());
        }
    }

    /// Makes everything recorded so far durable (data, then record), so that the next start
    /// need not hash it. Blocking.
    ///
    /// Content without a record is hashed at the next start anyway. Where most of it went to the
    /// disk past the page cache, the rest is left to the kernel; else it is flushed, so that
    /// failures are heard of.
    pub fn sync(&self) -> io::Result<()> {
        if !self.writable || self.sealed() {
            return Ok(());
        }
        let Some(Durable { record, .. }) = &self.durable else {
            return match self.files.files.goes_past_cache() {
                true => Ok(()),
                false => self.files.flush(),
            };
        };
        // Taken before the flush: what is recorded later may not be on disk yet.
        let have = self.have();
        self.files.flush()?;
        match self.files.files.sole() {
            Some(file) => record.write(file, &self.geometry, &have),
            None => Ok(()),
        }
    }

    /// Whether every piece is what `info` says. Reads and hashes everything.
    pub(crate) fn matches(&self, info: &Info) -> io::Result<bool> {
        check::verify(&self.files.files, info, &mut |_| ()).map(|have| have.is_full())
    }

    /// It is complete and has its final name: nothing is written any more.
    pub(crate) fn seal(&self) {
        self.sealed.store(true, Ordering::Release);
        self.detach();
    }

    /// The files are no longer where they were opened (committed or removed): whoever still
    /// holds this may read and write them, but no record is kept any more.
    pub(crate) fn detach(&self) {
        if let Some(Durable { record, .. }) = &self.durable {
            record.detach();
        }
    }

    /// Writes back what is dirty, and waits for the disk.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.files.flush()
    }

    fn sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    fn bounds(&self, offset: u64, len: u64) -> io::Result<()> {
        let length = self.geometry.length();
        match offset.checked_add(len) {
            Some(end) if end <= length => Ok(()),
            _ => Err(ContentError::OutOfBounds {
                offset,
                len,
                length,
            }
            .into()),
        }
    }

    fn lock_have(&self) -> std::sync::MutexGuard<'_, Bitfield> {
        // A bitfield is whole after every operation, whoever panicked meanwhile.
        self.have.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dirty {
    /// Writes back everything written before the call.
    fn flush(&self) -> io::Result<()> {
        self.check()?;
        self.bytes.store(0, Ordering::Relaxed);
        self.files.sync_data().inspect_err(|error| {
            // What could not be written must not be read back from memory as if it were on
            // the disk: whoever opens this again hashes what the disk really has.
            self.files.forget_cached();
            // Lost only against another failure, which tells the same.
            drop(self.failed.set((error.kind(), error.to_string())));
        })
    }

    /// The flusher's turn. The failure is not lost: every later write and flush repeats it.
    pub(crate) fn flush_in_background(&self) {
        self.queued.store(false, Ordering::Release);
        if let Err(error) = self.flush() {
            tracing::warn!(%error, "writing back failed");
        }
    }

    /// The flusher could not take it; a later write asks again.
    pub(crate) fn not_queued(&self) {
        self.queued.store(false, Ordering::Release);
    }

    fn check(&self) -> io::Result<()> {
        match self.failed.get() {
            None => Ok(()),
            Some((kind, why)) => Err(io::Error::new(*kind, why.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        let shown = |bytes| Size(bytes).to_string();
        assert_eq!(shown(0), "0 B");
        assert_eq!(shown(1023), "1023 B");
        assert_eq!(shown(1536), "1.5 KiB");
        assert_eq!(shown(10 << 30), "10.0 GiB");
        assert_eq!(shown(u64::MAX), "16777215.9 TiB");
    }
}
