//! Hashes what is on the disk already, as fast as the disk or the CPU allows: several pieces at
//! once on every core, holes skipped.
//!
//! A hole reads as zeros, so a piece that is one hole is right exactly if the torrent wants
//! zeros there, and that is known without reading it.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, SyncSender};

use bytes::{Bytes, BytesMut};
use sha1::{Digest, Sha1};
use torrents::hashing::{at_once, piece_hashes};
use torrents::metainfo::PieceHash;
use torrents::{Bitfield, Info, PieceIndex};

use super::files::Files;

/// Pieces beyond this are hashed one at a time through a small buffer.
const LANE_LEN: u32 = 16 << 20;
/// The buffer for such pieces.
const CHUNK: usize = 1 << 20;
/// More threads than this only queue at the disk.
const MAX_THREADS: usize = 8;
/// Bytes in memory at most, all threads together.
const MEMORY: usize = 128 << 20;

/// The pieces whose data is right. `checked` is called on this thread with the bytes behind
/// the check so far.
pub(super) fn verify(
    files: &Files,
    info: &Info,
    checked: &mut dyn FnMut(u64),
) -> io::Result<Bitfield> {
    let check = Check {
        files,
        info,
        lanes: at_once(),
        next: AtomicU32::new(0),
        stop: AtomicBool::new(false),
        zeros: [OnceLock::new(), OnceLock::new()],
    };
    let pieces = info.geometry().pieces();
    let threads = threads(info.geometry().piece_len(), pieces, check.lanes);
    let mut have = Bitfield::empty(pieces);
    let mut done = 0;
    std::thread::scope(|scope| {
        let (results, found) = mpsc::sync_channel(64);
        for _ in 0..threads {
            let (results, check) = (results.clone(), &check);
            scope.spawn(move || check.run(&results));
        }
        drop(results);
        let outcome = found.iter().try_for_each(|result: Found| {
            let (piece, right) = result?;
            if right {
                have.insert(piece);
            }
            done += u64::from(info.geometry().piece_size(piece));
            checked(done);
            Ok::<_, io::Error>(())
        });
        check.stop.store(true, Ordering::Relaxed);
        outcome
    })?;
    Ok(have)
}

/// As many as the machine, the work and the memory allow.
fn threads(piece_len: u32, pieces: u32, lanes: u32) -> usize {
    let each = match piece_len <= LANE_LEN {
        true => (piece_len * lanes) as usize,
        false => CHUNK,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let work = pieces.div_ceil(lanes) as usize;
    cores.min(MAX_THREADS).min(work).min((MEMORY / each).max(1))
}

struct Check<'a> {
    files: &'a Files,
    info: &'a Info,
    /// Pieces hashed together by one thread.
    lanes: u32,
    next: AtomicU32,
    stop: AtomicBool,
    /// The hash of a full piece of zeros, and of the last piece.
    zeros: [OnceLock<PieceHash>; 2],
}

type Found = io::Result<(PieceIndex, bool)>;

impl Check<'_> {
    /// One thread: takes the next few pieces until there are none. Ends early when nobody
    /// listens any more.
    fn run(&self, results: &SyncSender<Found>) {
        let mut buffers = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let first = self.next.fetch_add(self.lanes, Ordering::Relaxed);
            let geometry = self.info.geometry();
            let batch: Vec<_> = (first..first.saturating_add(self.lanes))
                .map_while(|index| geometry.piece(index))
                .collect();
            if batch.is_empty() {
                return;
            }
            let outcome = match geometry.piece_len() <= LANE_LEN {
                true => self.several(&batch, &mut buffers, results),
                false => self.one_by_one(&batch, results),
            };
            if let Err(error) = outcome {
                // A receiver that is gone has its error already.
                drop(results.send(Err(error)));
                return;
            }
        }
    }

    fn several(
        &self,
        batch: &[PieceIndex],
        buffers: &mut Vec<BytesMut>,
        results: &SyncSender<Found>,
    ) -> io::Result<()> {
        let mut read: Vec<(PieceIndex, Bytes)> = Vec::with_capacity(batch.len());
        for &piece in batch {
            if let Some(right) = self.hole(piece)? {
                drop(results.send(Ok((piece, right))));
                continue;
            }
            let range = self.info.geometry().piece_range(piece);
            let mut buffer = buffers.pop().unwrap_or_default();
            buffer.resize(self.info.geometry().piece_size(piece) as usize, 0);
            match readable(self.files.read_at(range.start, &mut buffer))? {
                true => read.push((piece, buffer.freeze())),
                false => drop(results.send(Ok((piece, false)))),
            }
        }
        let messages: Vec<_> = read
            .iter()
            .map(|(_, bytes)| std::slice::from_ref(bytes))
            .collect();
        let hashes = piece_hashes(&messages);
        for ((piece, bytes), hash) in read.into_iter().zip(hashes) {
            drop(results.send(Ok((piece, hash == self.wanted(piece)))));
            buffers.extend(bytes.try_into_mut());
        }
        Ok(())
    }

    fn one_by_one(&self, batch: &[PieceIndex], results: &SyncSender<Found>) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        for &piece in batch {
            let right = match self.hole(piece)? {
                Some(right) => right,
                None => self.stream(piece, &mut buffer)?,
            };
            drop(results.send(Ok((piece, right))));
        }
        Ok(())
    }

    fn stream(&self, piece: PieceIndex, buffer: &mut [u8]) -> io::Result<bool> {
        let range = self.info.geometry().piece_range(piece);
        let mut hash = Sha1::new();
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from(range.end - at).map_or(CHUNK, |left| left.min(CHUNK));
            if !readable(self.files.read_at(at, &mut buffer[..len]))? {
                return Ok(false);
            }
            hash.update(&buffer[..len]);
            at += len as u64;
        }
        let hash: PieceHash = hash.finalize().into();
        Ok(hash == self.wanted(piece))
    }

    /// Whether a piece that is one hole is right; `None` when there is data.
    fn hole(&self, piece: PieceIndex) -> io::Result<Option<bool>> {
        let geometry = self.info.geometry();
        if !self.files.is_hole(geometry.piece_range(piece))? {
            return Ok(None);
        }
        let size = geometry.piece_size(piece);
        let known = &self.zeros[usize::from(size != geometry.piece_len())];
        Ok(Some(
            *known.get_or_init(|| zeros(size)) == self.wanted(piece),
        ))
    }

    fn wanted(&self, piece: PieceIndex) -> PieceHash {
        self.info.pieces()[piece.at()]
    }
}

/// A bad sector is a piece to fetch again, not the end of the torrent.
fn readable(read: io::Result<()>) -> io::Result<bool> {
    let Err(error) = read else { return Ok(true) };
    if is_bad_sector(&error) {
        tracing::warn!(%error, "a piece cannot be read and counts as missing");
        return Ok(false);
    }
    Err(error)
}

/// Whether the disk cannot give what it holds there, and the rest may be well.
pub(crate) fn is_bad_sector(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let os = match inner {
        Some(super::ContentError::Io { source, .. }) => source.raw_os_error(),
        _ => error.raw_os_error(),
    };
    os == Some(rustix::io::Errno::IO.raw_os_error())
}

fn zeros(len: u32) -> PieceHash {
    const ZEROS: [u8; 16 << 10] = [0; 16 << 10];
    let mut hash = Sha1::new();
    let mut left = len as usize;
    while left > 0 {
        let now = left.min(ZEROS.len());
        hash.update(&ZEROS[..now]);
        left -= now;
    }
    hash.finalize().into()
}
