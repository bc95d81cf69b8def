//! Where one torrent's bytes live: one file (ours) or several (foreign torrents), read and
//! written at offsets, with a record of verified pieces that survives a crash.
//!
//! Blocking calls: the engine runs them on blocking threads; only [`Content::read_cached`]
//! may be called on a runtime thread.

use std::io::{self, IoSlice};
use std::path::Path;

use torrents::{Bitfield, Info, PieceIndex};

/// A torrent's bytes on disk.
#[derive(Debug)]
pub struct Content {
    _private: (),
}

impl Content {
    /// Complete content in one file, read only. Checks that the length fits, nothing else.
    pub fn complete(path: &Path, info: &Info) -> io::Result<Self> {
        let _ = (path, info);
        todo!()
    }
    /// What `swell leech` uses: the torrent's files below `dir`, created when missing; what
    /// is there already is hashed and kept.
    pub fn output(dir: &Path, info: &Info, checked: impl FnMut(u64)) -> io::Result<Self> {
        let _ = (dir, info, checked);
        todo!()
    }
    /// What is verified at the time of opening.
    pub fn have(&self) -> Bitfield {
        todo!()
    }
    /// Reads exactly `buf.len()` bytes. Blocking.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let _ = (offset, buf);
        todo!()
    }
    /// Reads what the page cache holds without blocking: the bytes read, fewer than asked
    /// (or 0) when the rest must come from the disk.
    pub fn read_cached(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let _ = (offset, buf);
        todo!()
    }
    /// Writes the slices one after the other, in as few calls as possible. Blocking.
    pub fn write_at(&self, offset: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        let _ = (offset, slices);
        todo!()
    }
    /// Records that a piece is written and verified. Cheap; the record is made durable in
    /// batches, data before record.
    pub fn record(&self, piece: PieceIndex) {
        let _ = piece;
        todo!()
    }
    /// Makes everything recorded so far durable (data, then record). Blocking.
    pub fn sync(&self) -> io::Result<()> {
        todo!()
    }
}
