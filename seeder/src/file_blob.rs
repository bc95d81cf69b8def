//! Stored content as a registry reader sees it: a file, read in large steps ahead of the
//! socket, on blocking threads.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use oci::{Blob, BlobError, BlobStream};
use tokio::task::JoinHandle;

/// Read at once. Two of these are in memory per reader.
const STEP: u64 = 512 * 1024;

/// Complete content in a file that never changes.
#[derive(Debug)]
pub(crate) struct FileBlob {
    file: File,
    length: u64,
    path: PathBuf,
}

impl FileBlob {
    /// The path is for error messages.
    pub(crate) fn new(file: File, length: u64, path: PathBuf) -> Self {
        Self { file, length, path }
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, BlobError> {
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        match self.file.read_exact_at(&mut bytes, range.start) {
            Ok(()) => Ok(bytes.into()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn failed(&self, error: &io::Error) -> BlobError {
        let path = self.path.display();
        tracing::error!(%path, %error, "cannot read stored content");
        BlobError(format!("the origin cannot read stored content: {error}").into())
    }
}

impl Blob for FileBlob {
    fn length(&self) -> u64 {
        self.length
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> BlobStream {
        debug_assert!(range.start <= range.end && range.end <= self.length);
        let first = next_step(&self, range.clone());
        Box::pin(stream::try_unfold(
            (self, range, first),
            |(blob, range, reading)| async move {
                let Some((reading, step)) = reading else {
                    return Ok(None);
                };
                let bytes = match reading.await {
                    Ok(read) => read?,
                    Err(_) => return Err(BlobError("the origin is stopping".into())),
                };
                let rest = step.end..range.end;
                let ahead = next_step(&blob, rest.clone());
                Ok(Some((bytes, (blob, rest, ahead))))
            },
        ))
    }
}

type Reading = (JoinHandle<Result<Bytes, BlobError>>, Range<u64>);

/// Starts to read the next step, if there is one.
fn next_step(blob: &Arc<FileBlob>, range: Range<u64>) -> Option<Reading> {
    if range.is_empty() {
        return None;
    }
    let step = range.start..range.end.min(range.start + STEP);
    let (blob, wanted) = (Arc::clone(blob), step.clone());
    Some((tokio::task::spawn_blocking(move || blob.read(wanted)), step))
}
