//! Maps the bytes of a torrent onto files: positional reads and writes that cross file
//! boundaries, pad files, short reads and writes.
//!
//! One file (all of our own torrents) is the fast path: no lock, no lookup. A tree keeps a
//! bounded number of files open, because foreign torrents may have more files than the process
//! may have descriptors.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Advice, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};
use smallvec::SmallVec;

use torrents::metainfo::FileSpan;

use super::ContentError;
use super::direct::Direct;
use super::output::Root;

/// Slices in one call; Linux refuses more.
pub(super) const IOV_MAX: usize = 1024;
/// Files of a tree open at once.
const OPEN_FILES: usize = 128;

/// Where a torrent's bytes are.
#[derive(Debug)]
pub(super) enum Files {
    One {
        file: File,
        path: PathBuf,
        dirty: AtomicBool,
        direct: Option<Direct>,
    },
    Many(Tree),
}

/// The files of a foreign torrent.
#[derive(Debug)]
pub(super) struct Tree {
    root: Root,
    /// Without empty files, so that every byte lies in exactly one.
    entries: Vec<Entry>,
    open: Mutex<OpenFiles>,
}

/// One file of a tree.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<String>,
    pub(super) bytes: Range<u64>,
    /// Reads as zeros, exists nowhere.
    pub(super) pad: bool,
    pub(super) writable: bool,
    /// Written since the last flush, whether open or not.
    pub(super) dirty: AtomicBool,
}

/// Open files, least recently used first.
#[derive(Debug, Default)]
struct OpenFiles(Vec<(usize, Arc<File>)>);

/// A part of a request that lies in one file.
struct Part<'a> {
    /// `None` reads as zeros.
    file: Option<(FileRef<'a>, &'a AtomicBool)>,
    at: u64,
    len: usize,
}

enum FileRef<'a> {
    Borrowed(&'a File),
    Shared(Arc<File>),
}

impl std::ops::Deref for FileRef<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Self::Borrowed(file) => file,
            Self::Shared(file) => file,
        }
    }
}

impl Files {
    pub(super) fn one(file: File, path: PathBuf) -> Self {
        Self::One {
            file,
            path,
            dirty: AtomicBool::new(false),
            direct: None,
        }
    }

    /// Writes one file past the page cache from now on, where that can be done.
    pub(super) fn go_past_cache(&mut self) -> io::Result<()> {
        if let Self::One {
            file, path, direct, ..
        } = self
        {
            *direct = Direct::open(file).map_err(ContentError::io("allocate", &*path))?;
        }
        Ok(())
    }

    /// Whether most of what is written goes past the page cache.
    pub(super) fn goes_past_cache(&self) -> bool {
        matches!(
            self,
            Self::One {
                direct: Some(_),
                ..
            }
        )
    }

    /// Takes nothing that is there for written back.
    pub(super) fn distrust(&self) {
        if let Self::One { dirty, .. } = self {
            dirty.store(true, Ordering::Release);
        }
    }

    pub(super) fn many(root: Root, entries: Vec<Entry>) -> Self {
        Self::Many(Tree {
            root,
            entries,
            open: Mutex::default(),
        })
    }

    /// The file when there is exactly one.
    pub(super) fn sole(&self) -> Option<&File> {
        match self {
            Self::One { file, .. } => Some(file),
            Self::Many(_) => None,
        }
    }

    pub(super) fn read_at(&self, offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        self.parts(offset, buf.len(), |part, path| {
            let (mine, rest) = std::mem::take(&mut buf).split_at_mut(part.len);
            buf = rest;
            match part.file {
                None => mine.fill(0),
                Some((file, _)) => file
                    .read_exact_at(mine, part.at)
                    .map_err(ContentError::io("read", path()))?,
            }
            Ok(true)
        })
    }

    pub(super) fn read_cached(&self, offset: u64, mut buf: &mut [u8]) -> io::Result<usize> {
        let mut total = 0;
        self.parts(offset, buf.len(), |part, path| {
            let (mine, rest) = std::mem::take(&mut buf).split_at_mut(part.len);
            buf = rest;
            let read = match part.file {
                None => {
                    mine.fill(0);
                    part.len
                }
                Some((file, _)) => {
                    read_nowait(&file, part.at, mine).map_err(ContentError::io("read", path()))?
                }
            };
            total += read;
            Ok(read == part.len)
        })?;
        Ok(total)
    }

    /// Writes everything.
    pub(super) fn write_at(&self, offset: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        if let Self::One {
            file,
            path,
            dirty,
            direct,
        } = self
        {
            dirty.store(true, Ordering::Release);
            if let Some(direct) = direct
                && direct
                    .write(offset, slices)
                    .map_err(ContentError::io("write", path))?
            {
                return Ok(());
            }
            return write_all(file, offset, slices)
                .map_err(|source| ContentError::io("write", path)(source).into());
        }
        let len = slices.iter().map(|slice| slice.len()).sum();
        let mut rest = Cursor::new(slices);
        self.parts(offset, len, |part, path| {
            let mut mine = rest.take(part.len);
            if let Some((file, dirty)) = part.file {
                dirty.store(true, Ordering::Release);
                write_all(&file, part.at, &mut mine).map_err(ContentError::io("write", path()))?;
            }
            Ok(true)
        })
    }

    /// Flushes the data of every file written since the last time.
    pub(super) fn sync_data(&self) -> io::Result<()> {
        match self {
            Self::One {
                file, path, dirty, ..
            } => sync_if(dirty, || file.sync_data(), || path.clone()),
            Self::Many(tree) => (0..tree.entries.len()).try_for_each(|index| {
                let entry = &tree.entries[index];
                let flush = || tree.file(index)?.sync_data();
                sync_if(&entry.dirty, flush, || tree.root.path_of(&entry.path))
            }),
        }
    }

    /// Asks the kernel to forget what it holds in memory, so that the next read asks the disk.
    pub(super) fn forget_cached(&self) {
        // Advice: where it is not taken, nothing else would help either.
        let forget = |file: &File| {
            let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
        };
        match self {
            Self::One { file, .. } => forget(file),
            Self::Many(tree) => tree.lock().0.iter().for_each(|(_, file)| forget(file)),
        }
    }

    /// Whether there is nothing but holes in a range; false when that cannot be known.
    pub(super) fn is_hole(&self, range: Range<u64>) -> io::Result<bool> {
        let mut hole = true;
        let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        self.parts(range.start, len, |part, _| {
            if let Some((file, _)) = part.file {
                hole = match rustix::fs::seek(&*file, SeekFrom::Data(part.at)) {
                    Ok(data) => data >= part.at + part.len as u64,
                    Err(Errno::NXIO) => true,
                    Err(_) => false,
                };
            }
            Ok(hole)
        })?;
        Ok(hole)
    }

    /// Calls `each` for every part of a range in order, until it says false. The path is made
    /// for errors only.
    fn parts(
        &self,
        offset: u64,
        len: usize,
        mut each: impl FnMut(Part<'_>, &dyn Fn() -> PathBuf) -> io::Result<bool>,
    ) -> io::Result<()> {
        match self {
            Self::One {
                file, path, dirty, ..
            } => {
                let part = Part {
                    file: Some((FileRef::Borrowed(file), dirty)),
                    at: offset,
                    len,
                };
                each(part, &|| path.clone()).map(drop)
            }
            Self::Many(tree) => tree.parts(offset, len, each),
        }
    }
}

impl Tree {
    fn parts(
        &self,
        mut offset: u64,
        len: usize,
        mut each: impl FnMut(Part<'_>, &dyn Fn() -> PathBuf) -> io::Result<bool>,
    ) -> io::Result<()> {
        let end = offset + len as u64;
        let mut index = self
            .entries
            .partition_point(|entry| entry.bytes.end <= offset);
        while offset < end {
            let entry = self
                .entries
                .get(index)
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            let until = entry.bytes.end.min(end);
            let file = match entry.pad {
                true => None,
                false => Some((FileRef::Shared(self.file(index)?), &entry.dirty)),
            };
            let part = Part {
                file,
                at: offset - entry.bytes.start,
                len: usize::try_from(until - offset).map_err(io::Error::other)?,
            };
            if !each(part, &|| self.root.path_of(&entry.path))? {
                break;
            }
            offset = until;
            index += 1;
        }
        Ok(())
    }

    /// The open file, opened again if it had to give way. Closing one that is in use only
    /// drops a handle: whoever uses it has its own.
    fn file(&self, index: usize) -> io::Result<Arc<File>> {
        let mut open = self.lock();
        if let Some(at) = open.0.iter().rposition(|(of, _)| *of == index) {
            let found = open.0.remove(at);
            let file = found.1.clone();
            open.0.push(found);
            return Ok(file);
        }
        let entry = &self.entries[index];
        let file = Arc::new(self.root.reopen(&entry.path, entry.writable)?);
        if open.0.len() >= OPEN_FILES {
            open.0.remove(0);
        }
        open.0.push((index, file.clone()));
        Ok(file)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, OpenFiles> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Flushes if dirty. A failure leaves it dirty: the flush was not done.
fn sync_if(
    dirty: &AtomicBool,
    flush: impl FnOnce() -> io::Result<()>,
    path: impl FnOnce() -> PathBuf,
) -> io::Result<()> {
    // Cleared first: what is written during the flush is dirty again.
    if !dirty.swap(false, Ordering::AcqRel) {
        return Ok(());
    }
    flush().map_err(|source| {
        dirty.store(true, Ordering::Release);
        ContentError::io("flush", path())(source).into()
    })
}

/// What the page cache holds at once; 0 when the file system cannot tell.
fn read_nowait(file: &File, at: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        let slice = &mut [IoSliceMut::new(&mut buf[done..])];
        match rustix::io::preadv2(file, slice, at + done as u64, ReadWriteFlags::NOWAIT) {
            // The end of the file: the caller's blocking read says what is wrong with it.
            Ok(0) => break,
            Ok(read) => done += read,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

fn write_all(file: &File, mut at: u64, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let batch = &slices[..slices.len().min(IOV_MAX)];
        match rustix::io::pwritev(file, batch, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut slices, written);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Hands out consecutive bytes of a list of slices as lists of slices.
struct Cursor<'a, 'b> {
    slices: &'a [IoSlice<'b>],
    /// Bytes of the first slice that are handed out already.
    used: usize,
}

impl<'a, 'b> Cursor<'a, 'b> {
    fn new(slices: &'a [IoSlice<'b>]) -> Self {
        Self { slices, used: 0 }
    }

    fn take(&mut self, mut len: usize) -> SmallVec<[IoSlice<'a>; 16]> {
        let mut taken = SmallVec::new();
        while len > 0
            && let Some((first, rest)) = self.slices.split_first()
        {
            let left = &first[self.used..];
            let mine = &left[..left.len().min(len)];
            len -= mine.len();
            self.used += mine.len();
            if self.used == first.len() {
                (self.slices, self.used) = (rest, 0);
            }
            if !mine.is_empty() {
                taken.push(IoSlice::new(mine));
            }
        }
        taken
    }
}

impl Entry {
    pub(super) fn new(file: &FileSpan) -> Self {
        Self {
            path: file.path.clone(),
            bytes: file.offset..file.offset + file.length,
            pad: file.pad,
            writable: !file.pad,
            dirty: AtomicBool::new(false),
        }
    }

    /// For errors.
    pub(super) fn shown(&self, dir: &Path) -> PathBuf {
        self.path
            .iter()
            .fold(dir.into(), |path, part| path.join(part))
    }
}
