//! Content in the directory store.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use oci::{Blob, Digest, FileBlob};
use torrents::{Info, InfoHash};

use super::{DirStore, Inner, durable, scan};
use crate::store::staged::{DATA, discard};
use crate::store::{BlobMeta, BlobStore, LocalTorrent, NewBlob, Staged, StoreError};

#[async_trait]
impl BlobStore for DirStore {
    async fn stage(&self) -> Result<Staged, StoreError> {
        self.blocking(|inner| Staged::create(inner.staging_dir()))
            .await
    }

    async fn put(&self, blob: NewBlob) -> Result<BlobMeta, StoreError> {
        self.blocking(move |inner| inner.put(blob)).await
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<BlobMeta>, StoreError> {
        Ok(self.inner.index().blobs.get(digest).cloned())
    }

    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn Blob>>, StoreError> {
        let Some(meta) = self.inner.index().blobs.get(digest).cloned() else {
            return Ok(None);
        };
        self.blocking(move |inner| {
            let file = inner.file(&meta)?;
            Ok(file.map(|file| Arc::new(FileBlob::new(file, meta.length)) as Arc<dyn Blob>))
        })
        .await
    }

    async fn file(&self, digest: &Digest) -> Result<Option<(BlobMeta, Arc<File>)>, StoreError> {
        let Some(meta) = self.inner.index().blobs.get(digest).cloned() else {
            return Ok(None);
        };
        self.blocking(move |inner| Ok(inner.file(&meta)?.map(|file| (meta, Arc::new(file)))))
            .await
    }

    async fn torrent(
        &self,
        digest: &Digest,
        info_hash: InfoHash,
    ) -> Result<Option<LocalTorrent>, StoreError> {
        let Some(meta) = self.inner.index().blobs.get(digest).cloned() else {
            return Ok(None);
        };
        self.blocking(move |inner| inner.torrent(&meta, info_hash))
            .await
    }

    async fn retorrent(&self, digest: &Digest, info: Info) -> Result<(), StoreError> {
        let digest = digest.clone();
        self.blocking(move |inner| inner.retorrent(&digest, &info))
            .await
    }

    async fn set_aside(
        &self,
        digest: &Digest,
        read: Option<Arc<File>>,
        what: &'static str,
    ) -> Result<bool, StoreError> {
        let digest = digest.clone();
        self.blocking(move |inner| inner.set_aside(&digest, read.as_deref(), what))
            .await
    }

    async fn remove(&self, digest: &Digest) -> Result<bool, StoreError> {
        let digest = digest.clone();
        self.blocking(move |inner| inner.remove_blob(&digest)).await
    }

    fn local(&self) -> Vec<BlobMeta> {
        self.inner.index().blobs.values().cloned().collect()
    }

    fn totals(&self) -> (u64, u64) {
        let index = self.inner.index();
        let bytes = index.blobs.values().map(|meta| meta.length).sum();
        (index.blobs.len() as u64, bytes)
    }
}

impl Inner {
    fn put(&self, mut blob: NewBlob) -> Result<BlobMeta, StoreError> {
        self.settle()?;
        blob.staged
            .file()
            .sync_data()
            .map_err(|error| blob.staged.failed(error))?;
        if let Some(info) = &blob.info {
            write_torrent(blob.staged.dir(), info)?;
        }
        durable::sync_dir(blob.staged.dir())?;
        let home = blob_dir(&self.root, &blob.digest);
        let _moving = self.moving(&home);
        let stored = self.index().blobs.get(&blob.digest).cloned();
        if let Some(stored) = stored.filter(|stored| self.looks_sound(stored)) {
            // What is stored was right when it came; whether it still is, only reading all of
            // it would tell. What has just come is right, and a rename costs nothing. Whoever
            // reads the old bytes goes on with them.
            durable::rename(&blob.staged.dir().join(DATA), &home.join(DATA))?;
            return Ok(stored);
        }
        if is_there(&home)? {
            let (name, what) = (blob.digest.hex(), "its bytes or its torrent were damaged");
            scan::set_aside(&self.root, &home, &name, what)?;
        }
        durable::rename(blob.staged.dir(), &home)?;
        blob.staged.taken();
        let meta = BlobMeta {
            digest: blob.digest.clone(),
            length: blob.length,
            info_hash: blob.info.as_ref().map(Info::hash),
        };
        self.index_mut().blobs.insert(blob.digest, meta.clone());
        Ok(meta)
    }

    /// As far as can be told without reading content.
    fn looks_sound(&self, meta: &BlobMeta) -> bool {
        let torrent = meta.info_hash.map(|hash| self.torrent(meta, hash));
        matches!(self.file(meta), Ok(Some(_))) && matches!(torrent, None | Some(Ok(Some(_))))
    }

    fn file(&self, meta: &BlobMeta) -> Result<Option<File>, StoreError> {
        let path = blob_dir(&self.root, &meta.digest).join(DATA);
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
        match opened {
            Ok((found, file)) => {
                Ok((found.is_file() && found.len() == meta.length).then_some(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Io { path, source }),
        }
    }

    fn set_aside(
        &self,
        digest: &Digest,
        read: Option<&File>,
        what: &str,
    ) -> Result<bool, StoreError> {
        let home = blob_dir(&self.root, digest);
        let _moving = self.moving(&home);
        let Some(meta) = self.index().blobs.get(digest).cloned() else {
            return Ok(false);
        };
        // A push may have healed it since.
        let still = match (self.file(&meta)?, read) {
            (None, None) => true,
            (Some(found), Some(read)) => is_same(&found, read).map_err(StoreError::at(&home))?,
            _ => false,
        };
        if !still {
            return Ok(false);
        }
        if is_there(&home)? {
            scan::set_aside(&self.root, &home, &digest.hex(), what)?;
        }
        self.index_mut().blobs.remove(digest);
        Ok(true)
    }

    fn torrent(
        &self,
        meta: &BlobMeta,
        info_hash: InfoHash,
    ) -> Result<Option<LocalTorrent>, StoreError> {
        let dir = blob_dir(&self.root, &meta.digest);
        let path = dir.join(torrent_name(info_hash, meta.length));
        let raw = match fs::read(&path) {
            Ok(raw) => raw,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { path, source }),
        };
        let info = parse_torrent(&path, raw)?;
        if info.hash() != info_hash {
            let what = format!("it hashes to {}", info.hash());
            return Err(StoreError::Damaged { path, what });
        }
        Ok(Some(LocalTorrent {
            path: dir.join(DATA),
            info,
        }))
    }

    fn retorrent(&self, digest: &Digest, info: &Info) -> Result<(), StoreError> {
        let dir = blob_dir(&self.root, digest);
        let name = torrent_name(info.hash(), info.geometry().length());
        self.replace(&dir.join(name), info.raw())?;
        if let Some(meta) = self.index_mut().blobs.get_mut(digest) {
            meta.info_hash = Some(info.hash());
        }
        Ok(())
    }

    fn remove_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        let home = blob_dir(&self.root, digest);
        let gone = self.staging_dir();
        {
            let _moving = self.moving(&home);
            if !self.index().blobs.contains_key(digest) {
                return Ok(false);
            }
            if is_there(&home)? {
                fs::rename(&home, &gone).map_err(StoreError::at(&home))?;
            }
            self.index_mut().blobs.remove(digest);
            durable::sync_dir(home.parent().unwrap_or(&home))?;
        }
        discard(&gone);
        Ok(true)
    }
}

fn is_there(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(StoreError::at(path))
}

fn is_same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// Where content of that digest lives.
pub(super) fn blob_dir(root: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    root.join("blobs")
        .join(digest.algorithm().name())
        .join(&hex[..2])
        .join(hex)
}

/// The file name of a torrent: a start learns the hash and the length without opening it.
pub(super) fn torrent_name(info_hash: InfoHash, length: u64) -> String {
    format!("torrent-{info_hash}-{length}")
}

/// The way back.
pub(super) fn from_torrent_name(name: &str) -> Option<(InfoHash, u64)> {
    let (hash, length) = name.strip_prefix("torrent-")?.split_once('-')?;
    Some((hash.parse().ok()?, length.parse().ok()?))
}

/// Reads a stored info dictionary.
pub(super) fn parse_torrent(path: &Path, raw: Vec<u8>) -> Result<Info, StoreError> {
    Info::parse(Bytes::from(raw)).map_err(|error| StoreError::Damaged {
        path: path.to_owned(),
        what: error.to_string(),
    })
}

fn write_torrent(dir: &Path, info: &Info) -> Result<(), StoreError> {
    let name = torrent_name(info.hash(), info.geometry().length());
    durable::write_new(&dir.join(name), info.raw())
}
