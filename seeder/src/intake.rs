//! Bytes of an upload on their way to a staged file: written and hashed while they arrive.
//!
//! Batches of half a mebibyte go to three blocking threads at once (write, digest, piece
//! hashes) while the next batch is received; so a slow client holds no thread, and memory is
//! two batches, however small the pieces a body comes in: they are copied side by side, and the
//! buffers they were slices of are free again at once. Written data is made durable every 64 MiB in the background, and never lags
//! by more than two such stretches: at the end only the tail is left to sync, whatever the
//! length of the upload. Of one beyond small pieces, the beginning is read back and hashed again
//! then.
//!
//! Invariant: between [`Intake::settle`] and the next byte, the file, both hashes and the
//! length agree. [`Intake::rewind`] goes back to such a moment.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use oci::digest::Algorithm;
use oci::{Digest, Verifier};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use torrents::hashing::{StreamHasher, at_once, hashes_of};
use torrents::metainfo::PieceHash;
use torrents::{Geometry, Info};

use crate::store::{BlobStore, NewBlob, Staged, StoreError};

/// Handed to the blocking threads at once.
const BATCH: usize = 512 << 10;
/// Written before it is made durable in the background.
const STRETCH: u64 = 64 << 20;
/// Read at once when a finished file is hashed by another algorithm.
const REREAD: usize = 1 << 20;

/// What arrived so far.
pub(crate) struct Intake {
    store: Arc<dyn BlobStore>,
    /// Made with the first byte, so that a session without bytes costs no file.
    staged: Option<Staged>,
    hashes: Hashes,
    /// Bytes handed to the threads.
    length: u64,
    /// Less than [`BATCH`] between calls.
    batch: BytesMut,
    working: Option<Working>,
    /// Bytes below this are durable or being made so.
    synced: u64,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

/// Where an intake stood; see [`Intake::rewind`].
pub(crate) struct Mark {
    hashes: Hashes,
    length: u64,
}

/// Absent while they are on a blocking thread.
#[derive(Clone)]
struct Hashes {
    algorithm: Algorithm,
    digest: Option<Verifier>,
    pieces: Option<StreamHasher>,
}

/// A batch on the blocking threads.
struct Working {
    write: JoinHandle<io::Result<()>>,
    digest: JoinHandle<Verifier>,
    pieces: JoinHandle<StreamHasher>,
}

/// Why an upload does not become content.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FinishError {
    /// The bytes are not what their digest says.
    #[error("the bytes hash to {actual}, not to {wanted}")]
    Mismatch {
        /// What the client said.
        wanted: Digest,
        /// What came.
        actual: Digest,
    },
    /// No torrent can be that large.
    #[error("the blob is too large: {0}")]
    TooLarge(#[from] torrents::geometry::GeometryError),
    /// Our own torrent is not one.
    #[error("no torrent can be made of the blob: {0}")]
    Torrent(#[from] torrents::metainfo::MetainfoError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Content that can be stored.
pub(crate) struct Finished {
    /// It.
    pub(crate) blob: NewBlob,
    /// Its torrent should have larger pieces than could be hashed on the way.
    pub(crate) rehash: bool,
}

impl Intake {
    /// Nothing yet; the digest will be asked for in this algorithm.
    pub(crate) fn new(store: Arc<dyn BlobStore>, algorithm: Algorithm) -> Self {
        Self {
            store,
            staged: None,
            hashes: Hashes::new(algorithm),
            length: 0,
            batch: BytesMut::new(),
            working: None,
            synced: 0,
            syncing: None,
        }
    }

    /// The digest will be asked for in this algorithm; said before the first byte, it saves
    /// reading everything again.
    pub(crate) fn expect(&mut self, algorithm: Algorithm) {
        if self.length() == 0 {
            self.hashes = Hashes::new(algorithm);
        }
    }

    /// Bytes taken in.
    pub(crate) fn length(&self) -> u64 {
        self.length + self.batch.len() as u64
    }

    /// Takes the next bytes in.
    pub(crate) async fn take(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            if self.batch.is_empty() {
                self.batch.reserve(BATCH);
            }
            let room = BATCH - self.batch.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.batch.extend_from_slice(now);
            bytes = later;
            if self.batch.len() == BATCH {
                self.dispatch().await?;
            }
        }
        Ok(())
    }

    /// Waits until everything taken in is written and hashed.
    pub(crate) async fn settle(&mut self) -> Result<(), StoreError> {
        self.dispatch().await?;
        self.collect().await
    }

    /// Remembers where it stands. Only between bodies, when it is settled.
    pub(crate) fn mark(&self) -> Mark {
        debug_assert!(self.working.is_none() && self.batch.is_empty());
        Mark {
            hashes: self.hashes.clone(),
            length: self.length,
        }
    }

    /// Forgets everything after the mark, also after a failure.
    pub(crate) async fn rewind(&mut self, mark: Mark) -> Result<(), StoreError> {
        self.batch = BytesMut::new();
        if let Some(working) = self.working.take() {
            let _ = working.write.await;
        }
        if let Some(syncing) = self.syncing.take() {
            let _ = syncing.await;
        }
        self.hashes = mark.hashes;
        self.length = mark.length;
        self.synced = self.synced.min(mark.length);
        if mark.length == 0 {
            self.staged = None;
        } else if let Some(staged) = &self.staged {
            let file = staged.file();
            let cut = move || file.set_len(mark.length);
            joined(spawn_blocking(cut).await)?.map_err(|error| staged.failed(error))?;
        }
        Ok(())
    }

    /// Everything has come: checks the digest and builds the torrent. What was staged is gone
    /// again unless it succeeds.
    pub(crate) async fn finish(mut self, wanted: &Digest) -> Result<Finished, FinishError> {
        self.settle().await?;
        self.collect_sync().await?;
        let staged = match self.staged.take() {
            Some(staged) => staged,
            None => self.store.stage().await?,
        };
        let actual = if self.hashes.algorithm == wanted.algorithm() {
            self.hashes.digest().finish()
        } else {
            let file = staged.file();
            let read = hash_file(file, self.length, wanted.verifier());
            read.await?.map_err(|error| staged.failed(error))?
        };
        if actual != *wanted {
            return Err(FinishError::Mismatch {
                wanted: wanted.clone(),
                actual,
            });
        }
        let mut hashed = self.hashes.pieces().finish();
        if hashed.missing > 0 {
            let read = hash_beginning(staged.file(), hashed.missing, hashed.piece_len);
            let beginning = read.await?.map_err(|error| staged.failed(error))?;
            hashed.pieces.splice(..0, beginning);
        }
        let info = if self.length == 0 {
            None
        } else {
            let geometry = Geometry::new(self.length, u64::from(hashed.piece_len))?;
            Some(Info::build(
                &wanted.torrent_name(),
                geometry,
                &hashed.pieces,
            )?)
        };
        let blob = NewBlob {
            digest: actual,
            length: self.length,
            info,
            staged,
        };
        Ok(Finished {
            blob,
            rehash: hashed.rehash,
        })
    }

    /// Hands the batch to the threads, once they are done with the one before.
    async fn dispatch(&mut self) -> Result<(), StoreError> {
        self.collect().await?;
        if self.batch.is_empty() {
            return Ok(());
        }
        let file = match &self.staged {
            Some(staged) => staged.file(),
            None => self.staged.insert(self.store.stage().await?).file(),
        };
        self.sync_behind(&file).await?;
        let batch = std::mem::take(&mut self.batch).freeze();
        let offset = self.length;
        self.length += batch.len() as u64;
        let (mut digest, mut pieces) = (self.hashes.digest(), self.hashes.pieces());
        let (to_write, to_digest) = (batch.clone(), batch.clone());
        self.working = Some(Working {
            write: spawn_blocking(move || file.write_all_at(&to_write, offset)),
            digest: spawn_blocking(move || {
                digest.update(&to_digest);
                digest
            }),
            pieces: spawn_blocking(move || {
                pieces.update(&batch);
                pieces
            }),
        });
        Ok(())
    }

    /// Waits for the batch that is on the threads.
    async fn collect(&mut self) -> Result<(), StoreError> {
        let Some(working) = self.working.take() else {
            return Ok(());
        };
        let written = joined(working.write.await)?;
        self.hashes.digest = Some(joined(working.digest.await)?);
        self.hashes.pieces = Some(joined(working.pieces.await)?);
        written.map_err(|error| self.failed(error))
    }

    /// Starts to make a stretch durable, once the one before is. A disk slower than the client
    /// slows the client down here, so that the end never has more than two to wait for.
    async fn sync_behind(&mut self, file: &Arc<File>) -> Result<(), StoreError> {
        if self.length - self.synced < STRETCH {
            return Ok(());
        }
        self.collect_sync().await?;
        self.synced = self.length;
        let file = Arc::clone(file);
        self.syncing = Some(spawn_blocking(move || file.sync_data()));
        Ok(())
    }

    async fn collect_sync(&mut self) -> Result<(), StoreError> {
        let Some(syncing) = self.syncing.take() else {
            return Ok(());
        };
        joined(syncing.await)?.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> StoreError {
        match &self.staged {
            Some(staged) => staged.failed(error),
            None => StoreError::Io {
                path: "spool".into(),
                source: error,
            },
        }
    }
}

impl Hashes {
    fn new(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            digest: Some(Verifier::new(algorithm)),
            pieces: Some(StreamHasher::new()),
        }
    }

    fn digest(&mut self) -> Verifier {
        self.digest
            .take()
            .expect("it comes back before it is needed again")
    }

    fn pieces(&mut self) -> StreamHasher {
        self.pieces
            .take()
            .expect("it comes back before it is needed again")
    }
}

/// Hashes the first `length` bytes of a file.
async fn hash_file(
    file: Arc<File>,
    length: u64,
    mut verifier: Verifier,
) -> Result<io::Result<Digest>, StoreError> {
    let read = move || {
        let mut buffer = vec![0; REREAD];
        let mut at = 0;
        while at < length {
            let step = usize::try_from(length - at).map_or(REREAD, |left| left.min(REREAD));
            file.read_exact_at(&mut buffer[..step], at)?;
            verifier.update(&buffer[..step]);
            at += step as u64;
        }
        Ok(verifier.finish())
    };
    joined(spawn_blocking(read).await)
}

/// Hashes the first pieces of a file, as many at once as the CPU likes.
async fn hash_beginning(
    file: Arc<File>,
    pieces: u32,
    piece_len: u32,
) -> Result<io::Result<Vec<PieceHash>>, StoreError> {
    let read = move || {
        let mut hashes = Vec::with_capacity(pieces as usize);
        while hashes.len() < pieces as usize {
            let batch = (at_once() as usize).min(pieces as usize - hashes.len());
            let mut buffer = vec![0; batch * piece_len as usize];
            file.read_exact_at(&mut buffer, hashes.len() as u64 * u64::from(piece_len))?;
            hashes.extend(hashes_of(&Bytes::from(buffer), piece_len));
        }
        Ok(hashes)
    };
    joined(spawn_blocking(read).await)
}

/// A panic on a blocking thread goes on here; a thread that never ran means the end is near.
fn joined<T>(result: Result<T, JoinError>) -> Result<T, StoreError> {
    result.map_err(|stopped| match stopped.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => StoreError::Closing,
    })
}

#[cfg(test)]
mod tests {
    use torrents::hashing::piece_hash;

    use super::*;
    use crate::store::DirStore;

    /// Small and repeatable: the seed is in every message.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % sides as u64).unwrap()
        }
    }

    fn store() -> (tempfile::TempDir, Arc<dyn BlobStore>) {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::open(&dir.path().join("data")).unwrap();
        (dir, store.stores().blobs)
    }

    async fn feed(intake: &mut Intake, dice: &mut Dice, mut body: &[u8]) {
        while !body.is_empty() {
            let (step, rest) = body.split_at((1 + dice.roll(300_000)).min(body.len()));
            intake.take(step).await.unwrap();
            body = rest;
        }
    }

    /// Bodies in steps of any size, some of them taken back: what is left is the others, on
    /// disk, in the digest and in the pieces.
    #[tokio::test(flavor = "multi_thread")]
    async fn bodies_count_whole_or_not_at_all() {
        let (_dir, store) = store();
        for seed in 1..=12 {
            let mut dice = Dice(seed * 0x9e37_79b9);
            let mut intake = Intake::new(Arc::clone(&store), Algorithm::Sha256);
            let mut kept = Vec::new();
            for _ in 0..5 {
                let length = [0, 1, 4_000, BATCH, BATCH + 1, 3_000_000][dice.roll(6)];
                let byte = u8::try_from(dice.roll(256)).unwrap();
                let body = vec![byte; length];
                let mark = intake.mark();
                feed(&mut intake, &mut dice, &body).await;
                if dice.roll(3) == 0 {
                    intake.rewind(mark).await.unwrap();
                } else {
                    intake.settle().await.unwrap();
                    kept.extend_from_slice(&body);
                }
                assert_eq!(intake.length(), kept.len() as u64, "seed {seed}");
            }
            let wanted = Digest::sha256_of(&kept);
            let Finished { blob, rehash } = intake.finish(&wanted).await.unwrap();
            assert!(!rehash);
            let mut hasher = StreamHasher::new();
            hasher.update(&kept);
            let pieces = blob.info.as_ref().map_or(&[][..], Info::pieces);
            assert_eq!(pieces, hasher.finish().pieces, "seed {seed}");
            let digest = hash_file(blob.staged.file(), blob.length, wanted.verifier());
            assert_eq!(digest.await.unwrap().unwrap(), wanted, "seed {seed}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_long_body_is_synced_behind_its_writer() {
        let (_dir, store) = store();
        let mut intake = Intake::new(store, Algorithm::Sha256);
        let block = vec![7; BATCH];
        let mut verifier = Verifier::new(Algorithm::Sha256);
        let blocks = 5 * STRETCH / 2 / BATCH as u64;
        for _ in 0..blocks {
            verifier.update(&block);
            intake.take(&block).await.unwrap();
        }
        assert!(intake.length - intake.synced <= STRETCH + BATCH as u64);
        let finished = intake.finish(&verifier.finish()).await.unwrap();
        // Beyond 128 MiB, pieces of 1 MiB.
        let info = finished.blob.info.unwrap();
        assert_eq!(u64::from(info.geometry().pieces()), (5 * STRETCH / 2) >> 20);
        let piece = piece_hash(&[[7; 1 << 20]]);
        assert!(info.pieces().iter().all(|hash| *hash == piece));
    }

    #[tokio::test]
    async fn the_wrong_digest_removes_what_came() {
        let (dir, store) = store();
        let mut intake = Intake::new(store, Algorithm::Sha256);
        intake.take(b"bytes").await.unwrap();
        let refused = intake.finish(&Digest::sha256_of(b"others")).await;
        assert!(matches!(refused, Err(FinishError::Mismatch { .. })));
        let spool = dir.path().join("data/spool");
        while std::fs::read_dir(&spool).unwrap().count() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}
