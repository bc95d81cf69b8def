//! Writes past the page cache, for whoever fetches a file and goes: memory that nobody will read
//! again is not filled, and little waits to be written back at the end.
//!
//! One write at a time: what comes while the disk is at it is left to the ordinary write, so that
//! memory takes what is too much for the disk.
//!
//! Only whole disk blocks go this way: from where they are when they are aligned in memory too,
//! else by way of a staging buffer of the writing thread. The rest and everything after a refusal
//! is left to the ordinary write. The kernel keeps both views of a file the same.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::files::IOV_MAX;

/// What every block device and file system is content with: of places in files and in memory, and
/// of lengths.
pub(crate) const DISK_ALIGN: usize = 4096;
/// How Linux calls the kind of file system that is nothing but page cache.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;
/// Bytes staged at once.
const STAGE: usize = 1 << 20;

thread_local! {
    static STAGING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A second handle of a file that does not go through the page cache.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    refused: AtomicBool,
    busy: AtomicBool,
}

/// The one write that is under way.
struct Turn<'a>(&'a AtomicBool);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Direct {
    /// Opens the same file again and allocates it; `None` where there is no such thing, and
    /// where files are in memory anyway.
    pub(super) fn open(file: &File) -> io::Result<Option<Self>> {
        if rustix::fs::fstatfs(file).is_ok_and(|fs| fs.f_type == TMPFS) {
            return Ok(None);
        }
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let direct = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Self {
                file: fd.into(),
                refused: AtomicBool::new(false),
                busy: AtomicBool::new(false),
            },
            Err(error) => {
                tracing::debug!(%error, "writing through the page cache");
                return Ok(None);
            }
        };
        // What is allocated lies in one place, and need not be found room for at every write. Not
        // every file system can do it.
        let length = file.metadata()?.len();
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, length) {
            Err(error @ (Errno::NOSPC | Errno::DQUOT)) => Err(error.into()),
            _ => Ok(Some(direct)),
        }
    }

    /// Writes all of it; false when this is not the way for it, and all of it is to be written
    /// the ordinary way, whatever part is on disk already.
    pub(super) fn write(&self, mut at: u64, slices: &[IoSlice<'_>]) -> io::Result<bool> {
        let whole = |len: usize| len.is_multiple_of(DISK_ALIGN);
        let fits = at.is_multiple_of(DISK_ALIGN as u64) && slices.iter().all(|s| whole(s.len()));
        if !fits || self.refused.load(Ordering::Relaxed) {
            return Ok(false);
        }
        if self.busy.swap(true, Ordering::Acquire) {
            return Ok(false);
        }
        let _turn = Turn(&self.busy);
        let parts: Vec<&[u8]> = slices
            .iter()
            .flat_map(|slice| slice.chunks(STAGE))
            .collect();
        STAGING.with_borrow_mut(|staging| {
            staging.resize(STAGE + DISK_ALIGN, 0);
            let skip = staging.as_ptr().align_offset(DISK_ALIGN);
            let stage = &mut staging[skip..skip + STAGE];
            let mut parts = &parts[..];
            while !parts.is_empty() {
                let (now, later) = parts.split_at(fitting(parts));
                let bytes: usize = now.iter().map(|part| part.len()).sum();
                if !self.put(at, &mut staged(now, stage))? {
                    return Ok(false);
                }
                at += bytes as u64;
                parts = later;
            }
            Ok(true)
        })
    }

    /// False when the file system does not take it like this; it is not tried again.
    fn put(&self, mut at: u64, mut slices: &mut [IoSlice<'_>]) -> io::Result<bool> {
        while !slices.is_empty() {
            match rustix::io::pwritev(&self.file, slices, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                // A short write may end anywhere: the ordinary way takes over.
                Ok(written) if !written.is_multiple_of(DISK_ALIGN) => return Ok(false),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut slices, written);
                }
                Err(Errno::INTR) => {}
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                    self.refused.store(true, Ordering::Relaxed);
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

/// Whether the disk can take it from where it is.
fn in_place(part: &[u8]) -> bool {
    part.as_ptr().align_offset(DISK_ALIGN) == 0
}

/// How many parts go in one call: as many as the stage can take of those that need it.
fn fitting(parts: &[&[u8]]) -> usize {
    let mut room = STAGE;
    parts
        .iter()
        .take(IOV_MAX)
        .take_while(|part| {
            let needed = if in_place(part) { 0 } else { part.len() };
            let fits = needed <= room;
            room -= needed.min(room);
            fits
        })
        .count()
}

/// The parts, those that are not aligned moved to the stage.
fn staged<'a>(parts: &[&'a [u8]], stage: &'a mut [u8]) -> Vec<IoSlice<'a>> {
    let mut rest = stage;
    parts
        .iter()
        .map(|&part| {
            if in_place(part) {
                return IoSlice::new(part);
            }
            let (mine, later) = std::mem::take(&mut rest).split_at_mut(part.len());
            rest = later;
            mine.copy_from_slice(part);
            IoSlice::new(mine)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_runs_are_written_and_others_are_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = File::create(&path).unwrap();
        file.set_len(5 << 20).unwrap();
        let bytes: Vec<u8> = (0..3u32 << 20).map(|n| (n / 7).to_le_bytes()[0]).collect();
        let Some(direct) = Direct::open(&file).unwrap() else {
            return;
        };
        // Blocks in place, blocks anywhere, and one that is longer than the stage.
        let begin = bytes.as_ptr().align_offset(DISK_ALIGN);
        let (placed, loose) = bytes[begin..].split_at(16 * DISK_ALIGN);
        let loose = &loose[1..];
        let mut expected = Vec::new();
        let mut cut = Vec::new();
        for n in 0..16 {
            let from = n * DISK_ALIGN..(n + 1) * DISK_ALIGN;
            let part = if n % 3 == 0 {
                &loose[from]
            } else {
                &placed[from]
            };
            expected.extend_from_slice(part);
            cut.push(IoSlice::new(part));
        }
        let long = &loose[..STAGE + 2 * DISK_ALIGN];
        expected.extend_from_slice(long);
        cut.push(IoSlice::new(long));
        let taken = direct.write(1 << 20, &cut).unwrap();
        assert!(!direct.write(1, &[IoSlice::new(&bytes[..4096])]).unwrap());
        assert!(!direct.write(0, &[IoSlice::new(&bytes[..4095])]).unwrap());
        if taken {
            let read = std::fs::read(&path).unwrap();
            assert_eq!(&read[1 << 20..(1 << 20) + expected.len()], &expected[..]);
            assert!(read[..1 << 20].iter().all(|&byte| byte == 0));
            assert_eq!(read.len(), 5 << 20);
        }
    }
}
