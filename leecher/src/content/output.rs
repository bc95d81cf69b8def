//! Opens the files that a torrent is written to, without ever leaving the given directory:
//! every name below it is opened relative to its parent and never through a link.
//!
//! First everything is looked at and nothing changed (what is in the way, what is too long,
//! whether the disk can hold it), then everything is created.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use torrents::Info;

use super::ContentError;
use super::files::{Entry, Files};

/// The directory that nothing escapes.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    dir: PathBuf,
}

/// What [`open`] found.
pub(super) struct Opened {
    pub(super) files: Files,
    /// Nothing was there: no need to hash.
    pub(super) fresh: bool,
    /// A file that cannot be written, if any: fine as long as everything is verified.
    pub(super) read_only: Option<PathBuf>,
}

/// Opens or creates all files of a torrent below `dir`.
pub(super) fn open(dir: &Path, info: &Info) -> io::Result<Opened> {
    let mut entries = entries(info);
    let root = Root::open(dir)?;
    let mut found = Vec::with_capacity(entries.len());
    let mut needed = 0;
    for entry in &entries {
        let stat = root.look(entry)?;
        let length = entry.bytes.end - entry.bytes.start;
        needed += length.saturating_sub(stat.as_ref().map_or(0, allocated));
        found.push(stat);
    }
    check_space(root.fd.as_fd(), dir, needed)?;
    let fresh = found.iter().flatten().all(|stat| stat.st_size == 0);
    let mut read_only = None;
    let mut sole = None;
    for (entry, stat) in entries.iter_mut().zip(found) {
        let file = root.create(entry, stat.is_some())?;
        if !entry.writable {
            read_only = Some(entry.shown(dir));
        }
        sole = Some(file);
    }
    // Of many, files are opened again when they are used; the one that is the whole torrent
    // stays open.
    let files = match (&entries[..], sole) {
        ([only], Some(file)) if info.files().len() == 1 => Files::one(file, only.shown(dir)),
        _ => {
            entries.extend(pads(info));
            entries.retain(|entry| !entry.bytes.is_empty());
            entries.sort_by_key(|entry| entry.bytes.start);
            Files::many(root, entries)
        }
    };
    Ok(Opened {
        files,
        fresh,
        read_only,
    })
}

/// Opens or creates one growing file, and says how long it was.
pub(super) fn open_partial(path: &Path, length: u64) -> io::Result<(File, Option<u64>)> {
    let stat = match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Some(stat),
        Err(Errno::NOENT) => None,
        Err(error) => return Err(ContentError::io("look at", path)(error.into()).into()),
    };
    if let Some(stat) = &stat {
        regular(stat, || path.into())?;
    }
    if let Some(parent) = path.parent() {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, parent, flags, Mode::empty())
            .map_err(|error| ContentError::io("open", parent)(error.into()))?;
        let needed = length.saturating_sub(stat.as_ref().map_or(0, allocated));
        check_space(fd.as_fd(), parent, needed)?;
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o666))
        .map_err(|error| ContentError::io("open", path)(error.into()))?;
    Ok((fd.into(), stat.map(|stat| size(&stat))))
}

impl Root {
    fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir).map_err(ContentError::io("create", dir))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, dir, flags, Mode::empty())
            .map_err(|error| ContentError::io("open", dir)(error.into()))?;
        let dir = dir.into();
        Ok(Self { fd, dir })
    }

    /// Where a file is, for people.
    pub(super) fn path_of(&self, path: &[String]) -> PathBuf {
        path.iter()
            .fold(self.dir.clone(), |path, part| path.join(part))
    }

    /// A file that [`open`] has opened or created before.
    pub(super) fn reopen(&self, path: &[String], writable: bool) -> io::Result<File> {
        let flags = if writable {
            OFlags::RDWR
        } else {
            OFlags::RDONLY
        };
        let shown = || self.path_of(path);
        let (parent, name) = self.parent(path, false)?;
        let fd = parent.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::openat(fd, name, flags, Mode::empty())
            .map(File::from)
            .map_err(|error| ContentError::io("open", shown())(error.into()).into())
    }

    /// What is there, if anything; an error if it cannot become this file.
    fn look(&self, entry: &Entry) -> io::Result<Option<Stat>> {
        let shown = || self.path_of(&entry.path);
        let (parent, name) = match self.parent(&entry.path, false) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let fd = parent.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
        let stat = match rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(ContentError::io("look at", shown())(error.into()).into()),
        };
        regular(&stat, shown)?;
        let expected = entry.bytes.end - entry.bytes.start;
        if size(&stat) > expected {
            return Err(ContentError::Length {
                path: shown(),
                found: size(&stat),
                expected,
            }
            .into());
        }
        Ok(Some(stat))
    }

    /// Opens a file at its full length, creating it and its directories. One that is already
    /// long enough may be read only.
    fn create(&self, entry: &mut Entry, exists: bool) -> io::Result<File> {
        let shown = self.path_of(&entry.path);
        let length = entry.bytes.end - entry.bytes.start;
        let (parent, name) = self.parent(&entry.path, true)?;
        let fd = parent.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = Mode::from_raw_mode(0o666);
        let opened = rustix::fs::openat(fd, name, flags | OFlags::RDWR | OFlags::CREATE, mode);
        let file = match opened {
            Ok(fd) => File::from(fd),
            Err(Errno::ACCESS | Errno::ROFS | Errno::PERM | Errno::TXTBSY) if exists => {
                entry.writable = false;
                rustix::fs::openat(fd, name, flags | OFlags::RDONLY, mode)
                    .map(File::from)
                    .map_err(|error| ContentError::io("open", &shown)(error.into()))?
            }
            Err(error) => return Err(ContentError::io("create", shown)(error.into()).into()),
        };
        let meta = file
            .metadata()
            .map_err(ContentError::io("look at", &shown))?;
        if meta.len() != length {
            file.set_len(length)
                .map_err(ContentError::io("extend", shown))?;
        }
        Ok(file)
    }

    /// The directory that holds a file (`None`: the root), and the file's own name.
    fn parent<'p>(
        &self,
        path: &'p [String],
        create: bool,
    ) -> io::Result<(Option<OwnedFd>, &'p str)> {
        let Some((name, dirs)) = path.split_last() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut at: Option<OwnedFd> = None;
        for (depth, dir) in dirs.iter().enumerate() {
            let fd = at.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            at = Some(self.enter(fd, dir, create, &path[..=depth])?);
        }
        Ok((at, name))
    }

    fn enter(
        &self,
        fd: BorrowedFd<'_>,
        dir: &str,
        create: bool,
        path: &[String],
    ) -> io::Result<OwnedFd> {
        let shown = || self.path_of(path);
        if create {
            match rustix::fs::mkdirat(fd, dir, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(ContentError::io("create", shown())(error.into()).into()),
            }
        }
        // O_PATH with O_NOFOLLOW opens a link itself, which then is no directory.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(fd, dir, flags, Mode::empty()) {
            Ok(fd) => Ok(fd),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(ContentError::InTheWay {
                path: shown(),
                found: "no directory",
            }
            .into()),
            Err(error) => Err(ContentError::io("open", shown())(error.into()).into()),
        }
    }
}

/// The files to be made. That their names are safe components and that none collide is what
/// [`Info`] promises; that no link leads them astray is up to [`Root`].
fn entries(info: &Info) -> Vec<Entry> {
    let files = info.files().iter().filter(|file| !file.pad);
    files.map(Entry::new).collect()
}

fn pads(info: &Info) -> impl Iterator<Item = Entry> {
    let pads = info.files().iter().filter(|file| file.pad);
    pads.map(Entry::new)
}

fn regular(stat: &Stat, path: impl FnOnce() -> PathBuf) -> Result<(), ContentError> {
    let found = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Symlink => "a symbolic link",
        FileType::Directory => "a directory",
        _ => "no regular file",
    };
    Err(ContentError::InTheWay {
        path: path(),
        found,
    })
}

/// Refuses at once what the disk cannot hold. Others may still fill it later: then the write
/// fails, and what was written stays to be resumed.
fn check_space(fd: BorrowedFd<'_>, path: &Path, needed: u64) -> Result<(), ContentError> {
    let Ok(disk) = rustix::fs::fstatvfs(fd) else {
        return Ok(());
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    // Some network and overlay file systems do not know their size.
    if disk.f_blocks == 0 || needed <= free {
        return Ok(());
    }
    Err(ContentError::NoSpace {
        path: path.into(),
        needed,
        free,
    })
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn allocated(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks)
        .unwrap_or(0)
        .saturating_mul(512)
}
