//! What is in doubt is looked into: content that is what its name says gets back a torrent that
//! was damaged; content that is not is set aside and no longer seeded, so that a push brings it
//! again.
//!
//! It costs a read of the content, so it is done one after the other, in the background, and
//! only when somebody noticed something. Never judges by a read that failed: a disk that does
//! not answer says nothing about the bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use oci::{Digest, Verifier};
use torrents::hashing::{piece_hash, piece_len_for};
use torrents::{Geometry, Info};

use super::Registry;
use crate::store::{BlobMeta, StoreError};

/// What reading content again said about it.
enum Read {
    /// It is right, and this is its torrent; empty content has none.
    Right(Option<Info>),
    /// It is not what its name says.
    Wrong,
    /// The origin is stopping.
    Stopped,
}

impl Registry {
    /// Looks into what is doubted until the origin stops.
    pub(crate) fn mend_doubted(self: &Arc<Self>) {
        let this = Arc::clone(self);
        self.background.spawn(async move {
            let doubts = this.publisher.doubts();
            loop {
                let digest = tokio::select! {
                    () = this.stop.cancelled() => return,
                    digest = doubts.next() => digest,
                };
                if let Err(error) = this.mend(&digest).await {
                    tracing::error!(%digest, %error, "cannot look into stored content");
                }
                doubts.settled(&digest);
            }
        });
    }

    async fn mend(&self, digest: &Digest) -> Result<(), StoreError> {
        let Some((meta, file)) = self.stores.blobs.file(digest).await? else {
            return self
                .give_up(digest, None, "its data is missing or of another length")
                .await;
        };
        let (read, stop) = (Arc::clone(&file), self.stop.clone());
        let (wanted, length) = (digest.clone(), meta.length);
        let reading = move || read_again(&read, &wanted, length, || stop.is_cancelled());
        let read = tokio::task::spawn_blocking(reading).await;
        let read = read.map_err(|_| StoreError::Closing)?;
        let failed = |source| StoreError::Io {
            path: digest.to_string().into(),
            source,
        };
        match read.map_err(failed)? {
            Read::Right(info) => self.mend_torrent(&meta, info).await,
            Read::Wrong => {
                let what = "its bytes are not what its name says";
                self.give_up(digest, Some(file), what).await
            }
            Read::Stopped => Ok(()),
        }
    }

    /// Content is right; whether its torrent can be read is seen by reading it.
    async fn mend_torrent(&self, meta: &BlobMeta, info: Option<Info>) -> Result<(), StoreError> {
        let (Some(info), Some(before)) = (info, meta.info_hash) else {
            return Ok(());
        };
        let (blobs, digest) = (&self.stores.blobs, &meta.digest);
        let _lock = self.locks.digest(digest).await;
        if blobs.stat(digest).await?.is_none()
            || matches!(blobs.torrent(digest, before).await, Ok(Some(_)))
        {
            return Ok(());
        }
        let meta = BlobMeta {
            info_hash: Some(info.hash()),
            ..meta.clone()
        };
        blobs.retorrent(digest, info).await?;
        if meta.info_hash != Some(before) {
            self.publisher.withdraw(digest).await;
        }
        self.publisher.publish(&meta);
        tracing::warn!(%digest, "a torrent was damaged, and was made anew from its content");
        Ok(())
    }

    async fn give_up(
        &self,
        digest: &Digest,
        read: Option<Arc<File>>,
        what: &'static str,
    ) -> Result<(), StoreError> {
        let _lock = self.locks.digest(digest).await;
        if self.stores.blobs.set_aside(digest, read, what).await? {
            self.publisher.withdraw(digest).await;
        }
        Ok(())
    }
}

/// Hashes a file twice over: as its name says, and in pieces. Blocking.
fn read_again(
    file: &File,
    wanted: &Digest,
    length: u64,
    stop: impl Fn() -> bool,
) -> io::Result<Read> {
    let mut verifier: Verifier = wanted.verifier();
    let (mut pieces, mut at) = (Vec::new(), 0);
    let piece_len = piece_len_for(length);
    let mut buffer = vec![0; piece_len as usize];
    while at < length {
        if stop() {
            return Ok(Read::Stopped);
        }
        let left = usize::try_from(length - at).unwrap_or(usize::MAX);
        let piece = &mut buffer[..left.min(piece_len as usize)];
        file.read_exact_at(piece, at)?;
        verifier.update(piece);
        pieces.push(piece_hash(&[&*piece]));
        at += piece.len() as u64;
    }
    if verifier.finish() != *wanted {
        return Ok(Read::Wrong);
    }
    if length == 0 {
        return Ok(Read::Right(None));
    }
    let geometry = Geometry::new(length, u64::from(piece_len)).map_err(io::Error::other)?;
    let info = Info::build(&wanted.torrent_name(), geometry, &pieces);
    Ok(Read::Right(Some(info.map_err(io::Error::other)?)))
}
