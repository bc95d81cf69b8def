//! The store's directory: names, the info files, the lock, and what is found at the start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::FlockOperation;
use torrents::{Info, InfoHash};

use super::StoreError;
use super::index::Index;
use crate::content::{ContentError, make_durable, replace_file_lazily};

const MAGIC: &[u8; 8] = b"SWINFO1\n";
/// Magic, length, length of the info, info hash; then SHA-1 over these, then the info.
const HEAD: usize = 8 + 8 + 8 + 20;
const SUM: usize = 20;
/// A component may have 255 bytes; what is made of names elsewhere has room.
const MAX_NAME: usize = 200;
/// What libtorrent takes as a whole metainfo; no info is larger.
const MAX_INFO: u64 = 10 << 20;

/// Paths below the store's directory.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    dir: PathBuf,
}

/// What an info file says without its info.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: u64,
    /// `None` for content without a torrent.
    pub(super) info_hash: Option<InfoHash>,
}

impl Head {
    pub(super) fn new(length: u64, info: Option<&Info>) -> Self {
        Self {
            length,
            info_hash: info.map(Info::hash),
        }
    }
}

/// Whether a name is one path component that needs no escape and leaves room for suffixes.
pub(super) fn check_name(name: &str) -> Result<(), StoreError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+=@:,".contains(&byte);
    let fits = (1..=MAX_NAME).contains(&name.len());
    if fits && name.bytes().all(plain) && !name.starts_with('.') {
        return Ok(());
    }
    Err(StoreError::Name { name: name.into() })
}

/// Removes a file that may be gone already.
pub(super) fn unlink(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io(path)(error)),
        _ => Ok(()),
    }
}

impl Layout {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.into() }
    }

    pub(super) fn info(&self, name: &str) -> PathBuf {
        self.dir.join("info").join(name)
    }

    pub(super) fn partials(&self) -> PathBuf {
        self.dir.join("partial")
    }

    pub(super) fn partial(&self, name: &str) -> PathBuf {
        self.partials().join(name)
    }

    pub(super) fn record(&self, name: &str) -> PathBuf {
        self.dir.join("record").join(name)
    }

    pub(super) fn completes(&self) -> PathBuf {
        self.dir.join("complete")
    }

    pub(super) fn complete(&self, name: &str) -> PathBuf {
        self.completes().join(name)
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    pub(super) fn create(&self) -> Result<(), StoreError> {
        for sub in ["info", "partial", "record", "complete", "tmp"] {
            let path = self.dir.join(sub);
            fs::create_dir_all(&path).map_err(StoreError::io(path))?;
        }
        Ok(())
    }

    /// Takes the lock of the directory and says in it who has it.
    pub(super) fn lock(&self) -> Result<File, StoreError> {
        let path = self.dir.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(StoreError::io(&path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // Only a hint; whoever holds the lock may be about to write it.
                drop(file.take(32).read_to_string(&mut text));
                return Err(StoreError::Locked {
                    path: self.dir.clone(),
                    pid: text.trim().parse().ok(),
                });
            }
            Err(error) => return Err(StoreError::io(path)(error.into())),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(StoreError::io(path))?;
        Ok(file)
    }

    /// Writes an info file. It is durable once [`Layout::make_info_durable`] was called: a
    /// download must not wait for the disk before its first byte.
    pub(super) fn write_info(
        &self,
        name: &str,
        length: u64,
        info: Option<&Info>,
    ) -> Result<(), StoreError> {
        let raw: &[u8] = info.map_or(&[], |info| info.raw());
        let hash = info.map_or(InfoHash([0; 20]), Info::hash);
        let mut head = Vec::with_capacity(HEAD + SUM);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&length.to_be_bytes());
        head.extend_from_slice(&(raw.len() as u64).to_be_bytes());
        head.extend_from_slice(hash.as_bytes());
        let sum = InfoHash::of(&head);
        head.extend_from_slice(sum.as_bytes());
        replace_file_lazily(&self.tmp(), &self.info(name), &[&head, raw])?;
        Ok(())
    }

    pub(super) fn make_info_durable(&self, name: &str) -> Result<(), StoreError> {
        Ok(make_durable(&self.info(name))?)
    }

    /// Writes an info file unless a sound one says the same already.
    pub(super) fn ensure_info(&self, name: &str, info: &Info) -> Result<(), StoreError> {
        match self.read_info(name) {
            Ok(Some(stored)) if stored == *info => Ok(()),
            _ => self.write_info(name, info.geometry().length(), Some(info)),
        }
    }

    /// The info dictionary, checked against its hash; `None` when there is none to have.
    pub(super) fn read_info(&self, name: &str) -> Result<Option<Info>, StoreError> {
        let path = self.info(name);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io(path)(error)),
        };
        let info = match read_head(&mut file) {
            Some((head, 0)) if head.info_hash.is_none() => return Ok(None),
            Some((head, len)) if len <= MAX_INFO => {
                let mut raw = Vec::new();
                file.take(len)
                    .read_to_end(&mut raw)
                    .map_err(StoreError::io(&path))?;
                let info = Info::parse(raw.into()).ok();
                info.filter(|info| Head::new(info.geometry().length(), Some(info)) == head)
            }
            _ => None,
        };
        let name = name.to_owned();
        info.map(Some).ok_or(StoreError::Damaged { name, path })
    }

    /// Makes a complete file that the index does not vouch for partial, to be checked piece by
    /// piece. False when there is no such file.
    pub(super) fn takes_over(&self, name: &str) -> Result<bool, StoreError> {
        let path = self.complete(name);
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io(path)(error)),
            Ok(meta) if meta.is_file() => {
                fs::rename(&path, self.partial(name)).map_err(StoreError::io(path))?;
                unlink(&self.record(name))?;
                Ok(true)
            }
            Ok(_) => Err(StoreError::Content(ContentError::InTheWay {
                path,
                found: "no regular file",
            })),
        }
    }

    /// Sweeps what a crash left, and finds what is there. Reads info heads only.
    pub(super) fn scan(&self) -> Result<Index, StoreError> {
        for (path, _) in list(&self.tmp())? {
            unlink(&path)?;
        }
        let mut index = Index::default();
        for (path, name) in list(&self.completes())? {
            match (self.used_head(&name), path.symlink_metadata()) {
                (Some((head, used)), Ok(meta)) if meta.is_file() && meta.len() == head.length => {
                    index.found_complete(&name, head, used);
                }
                _ => ignored(&path),
            }
        }
        for (path, name) in list(&self.partials())? {
            match self.used_head(&name) {
                // A crash between making room for the new and removing the old.
                Some(_) if index.get(&name).is_some() => unlink(&path)?,
                Some(_) => index.found_partial(&name),
                None => ignored(&path),
            }
        }
        for (path, name) in list(&self.dir.join("record"))? {
            if !index.is_partial(&name) {
                unlink(&path)?;
            }
        }
        for (path, name) in list(&self.dir.join("info"))? {
            let gone = |path: PathBuf| path.symlink_metadata().is_err();
            if gone(self.complete(&name)) && gone(self.partial(&name)) {
                unlink(&path)?;
            }
        }
        Ok(index)
    }

    fn used_head(&self, name: &str) -> Option<(Head, SystemTime)> {
        let mut file = File::open(self.info(name)).ok()?;
        let (head, len) = read_head(&mut file)?;
        let meta = file.metadata().ok()?;
        let whole = meta.len() == (HEAD + SUM) as u64 + len;
        whole.then_some((head, meta.modified().ok()?))
    }
}

fn ignored(path: &Path) {
    tracing::warn!(
        path = %path.display(),
        "a file without a usable info is ignored; it is checked when it is asked for again"
    );
}

/// The plain files of a directory whose names could be ours. Others are left alone.
fn list(dir: &Path) -> Result<Vec<(PathBuf, String)>, StoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(StoreError::io(dir))? {
        let entry = entry.map_err(StoreError::io(dir))?;
        let path = entry.path();
        let name = entry.file_name().into_string().ok();
        let name = name.filter(|name| check_name(name).is_ok());
        match (name, entry.file_type()) {
            (Some(name), Ok(kind)) if kind.is_file() => found.push((path, name)),
            _ => tracing::warn!(path = %path.display(), "this is not the store's; left alone"),
        }
    }
    Ok(found)
}

/// The head and the length of the info that follows; `None` when it is not sound. Leaves the
/// file at the info.
fn read_head(file: &mut File) -> Option<(Head, u64)> {
    let mut bytes = [0; HEAD + SUM];
    file.rewind().ok()?;
    file.read_exact(&mut bytes).ok()?;
    let (body, sum) = bytes.split_at(HEAD);
    if !body.starts_with(MAGIC) || InfoHash::of(body).as_bytes() != sum {
        return None;
    }
    let number = |at: usize| Some(u64::from_be_bytes(body.get(at..at + 8)?.try_into().ok()?));
    let (length, len) = (number(8)?, number(16)?);
    let hash = InfoHash(body[24..].try_into().ok()?);
    let info_hash = (len > 0).then_some(hash);
    Some((Head { length, info_hash }, len))
}
