//! A complete blob in a file.
//!
//! What the page cache holds is read on the spot; what must come from the disk is read on a
//! blocking thread, so that a slow disk never holds up other connections. The file stays open
//! as long as the blob is in use: it can be evicted from its store meanwhile.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{Advice, fadvise};
use rustix::io::{ReadWriteFlags, preadv2};

use crate::blob::{Blob, BlobError, BlobStream};
use crate::chunks::{Chunk, ChunkPool};
use crate::growing::{GrowingBlob, Source, SourceReader};

/// A complete file as a [`Blob`]. Meant to be opened once per request: the kernel's read-ahead
/// follows one reader of an open file at a time.
#[derive(Debug)]
pub struct FileBlob(Arc<GrowingBlob<Open>>);

impl FileBlob {
    /// Opens it. Blocking, shortly.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self::new(file, length))
    }

    /// An open file, of which the first `length` bytes are the blob.
    pub fn new(file: File, length: u64) -> Self {
        // Doubles the kernel's read-ahead. Advice: a file system may decline.
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        let file = Arc::new(file);
        Self(Arc::new(GrowingBlob(Open { file, length })))
    }
}

impl Blob for FileBlob {
    fn length(&self) -> u64 {
        self.0.length()
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> BlobStream {
        self.0.clone().stream(range)
    }
}

#[derive(Debug)]
struct Open {
    file: Arc<File>,
    length: u64,
}

impl Source for Open {
    type Reader = FileReader;

    fn length(&self) -> u64 {
        self.length
    }

    fn reader(&self, _: Range<u64>) -> FileReader {
        FileReader {
            file: self.file.clone(),
            pool: ChunkPool::new(),
        }
    }
}

struct FileReader {
    file: Arc<File>,
    pool: ChunkPool,
}

#[async_trait]
impl SourceReader for FileReader {
    async fn ready(&mut self, range: Range<u64>) -> Result<u64, BlobError> {
        Ok(range.end)
    }

    async fn read(&mut self, range: Range<u64>) -> Result<Bytes, BlobError> {
        let length = usize::try_from(range.end - range.start);
        let mut chunk = self.pool.take(length.expect("a chunk fits in memory"));
        let cached = read_cached(&self.file, &mut chunk, range.start);
        if cached == chunk.len() {
            return Ok(chunk.freeze());
        }
        let file = self.file.clone();
        let read = move || -> io::Result<Chunk> {
            file.read_exact_at(&mut chunk[cached..], range.start + cached as u64)?;
            Ok(chunk)
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(chunk)) => Ok(chunk.freeze()),
            Ok(Err(error)) => Err(failed(&range, &error)),
            Err(gone) => Err(failed(&range, &gone)),
        }
    }
}

/// What the page cache gives without waiting; 0 also where the file system cannot say.
fn read_cached(file: &File, buffer: &mut [u8], offset: u64) -> usize {
    let mut slices = [IoSliceMut::new(buffer)];
    preadv2(file, &mut slices, offset, ReadWriteFlags::NOWAIT).unwrap_or(0)
}

fn failed(range: &Range<u64>, why: &dyn std::fmt::Display) -> BlobError {
    let text = format!(
        "cannot read the stored file at offset {}: {why}",
        range.start
    );
    BlobError(text.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures_util::TryStreamExt;

    use super::*;
    use crate::chunks::CHUNK;

    fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file.flush().unwrap();
        file
    }

    async fn read(blob: &Arc<FileBlob>, range: Range<u64>) -> Result<Vec<u8>, BlobError> {
        let chunks: Vec<Bytes> = blob.clone().stream(range).try_collect().await?;
        Ok(chunks.concat())
    }

    #[tokio::test]
    async fn whole_and_in_parts() {
        let content: Vec<u8> = (0..=252).cycle().take(3 * CHUNK + 5).collect();
        let file = file_of(&content);
        let blob = Arc::new(FileBlob::open(file.path()).unwrap());
        let length = blob.length();
        assert_eq!(length, content.len() as u64);
        // An evicted file can be read to its end.
        file.close().unwrap();
        for range in [
            0..length,
            0..1,
            5..6,
            CHUNK as u64 - 1..length,
            length - 1..length,
            9..9,
        ] {
            let bytes = read(&blob, range.clone()).await.unwrap();
            let start = usize::try_from(range.start).unwrap();
            let end = usize::try_from(range.end).unwrap();
            assert!(bytes == content[start..end], "{range:?}");
        }
    }

    #[tokio::test]
    async fn a_file_that_shrank_is_an_error_and_not_silence() {
        let file = file_of(&[7; 100]);
        let blob = Arc::new(FileBlob::open(file.path()).unwrap());
        file.as_file().set_len(50).unwrap();
        let error = read(&blob, 0..100).await.unwrap_err();
        assert!(error.to_string().contains("offset 0"), "{error}");
    }
}
