//! Writes past the page cache, for whoever fetches a file and goes: memory that nobody will read
//! again is not filled, and nothing waits to be written back at the end.
//!
//! Only whole, aligned runs go this way, by way of a staging buffer of the writing thread; the
//! rest and everything after a refusal is left to the ordinary write. The kernel keeps both
//! views of a file the same.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// What every block device and file system is content with.
const ALIGN: usize = 4096;
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
}

impl Direct {
    /// Opens the same file again; `None` where there is no such thing.
    pub(super) fn open(file: &File) -> Option<Self> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Some(Self {
                file: fd.into(),
                refused: AtomicBool::new(false),
            }),
            Err(error) => {
                tracing::debug!(%error, "writing through the page cache");
                None
            }
        }
    }

    /// Writes all of it; false when this is not the way for it, and all of it is to be written
    /// the ordinary way, whatever part is on disk already.
    pub(super) fn write(&self, at: u64, slices: &[IoSlice<'_>]) -> io::Result<bool> {
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        let aligned = len > 0 && len.is_multiple_of(ALIGN) && at.is_multiple_of(ALIGN as u64);
        if !aligned || self.refused.load(Ordering::Relaxed) {
            return Ok(false);
        }
        STAGING.with_borrow_mut(|staging| {
            staging.resize(STAGE + ALIGN, 0);
            let skip = staging.as_ptr().align_offset(ALIGN);
            let stage = &mut staging[skip..skip + STAGE];
            let (mut filled, mut offset) = (0, at);
            for mut slice in slices.iter().map(|slice| &slice[..]) {
                while !slice.is_empty() {
                    let (now, later) = slice.split_at(slice.len().min(STAGE - filled));
                    stage[filled..filled + now.len()].copy_from_slice(now);
                    filled += now.len();
                    slice = later;
                    if filled == STAGE {
                        if !self.put(offset, stage)? {
                            return Ok(false);
                        }
                        offset += STAGE as u64;
                        filled = 0;
                    }
                }
            }
            self.put(offset, &stage[..filled])
        })
    }

    /// False when the file system does not take it like this; it is not tried again.
    fn put(&self, mut at: u64, mut bytes: &[u8]) -> io::Result<bool> {
        while !bytes.is_empty() {
            match rustix::io::pwrite(&self.file, bytes, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                // A short write may end anywhere: the ordinary way takes over.
                Ok(written) if !written.is_multiple_of(ALIGN) => return Ok(false),
                Ok(written) => {
                    at += written as u64;
                    bytes = &bytes[written..];
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
        let Some(direct) = Direct::open(&file) else {
            return;
        };
        // Odd slices over the end of a stage.
        let cut: Vec<IoSlice<'_>> = bytes.chunks(16_384 * 3 + 5).map(IoSlice::new).collect();
        let taken = direct.write(1 << 20, &cut).unwrap();
        assert!(!direct.write(1, &[IoSlice::new(&bytes[..4096])]).unwrap());
        assert!(!direct.write(0, &[IoSlice::new(&bytes[..4095])]).unwrap());
        if taken {
            let read = std::fs::read(&path).unwrap();
            assert_eq!(&read[1 << 20..4 << 20], &bytes[..]);
            assert!(read[..1 << 20].iter().all(|&byte| byte == 0));
            assert_eq!(read.len(), 5 << 20);
        }
    }
}
