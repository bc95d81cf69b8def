//! Blobs as readers see them: whole, or growing while they are read.
//!
//! A growing blob has a length known from the start, and a verified part that grows. Many
//! readers stream it in order; each waits only for its own next byte. When it cannot go on,
//! the stream fails and the connection is cut, so that the client resumes by `Range`.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::error::RegistryError;

/// Bytes in order, or the reason they stopped.
pub type BlobStream = BoxStream<'static, Result<Bytes, BlobError>>;

/// Why a body was cut.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct BlobError(pub Arc<str>);

/// A blob that can be read. `length` is final and goes out as `Content-Length` at once.
pub trait Blob: Send + Sync + 'static {
    /// Bytes in all.
    fn length(&self) -> u64;
    /// Streams `range` (within the length), waiting for bytes that are not verified yet.
    /// Dropping the stream ends the reader's claim on the swarm.
    fn stream(self: Arc<Self>, range: Range<u64>) -> BlobStream;
    /// Why a new reader should be turned away with 503 (the last attempt failed), if so.
    fn trouble(&self) -> Option<RegistryError> {
        None
    }
}

/// A small blob in memory.
#[derive(Debug, Clone)]
pub struct BytesBlob(pub Bytes);

impl Blob for BytesBlob {
    fn length(&self) -> u64 {
        self.0.len() as u64
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> BlobStream {
        let within = |at: u64| usize::try_from(at).ok().filter(|at| *at <= self.0.len());
        let item = match (within(range.start), within(range.end)) {
            (Some(start), Some(end)) if start <= end => Ok(self.0.slice(start..end)),
            _ => Err(BlobError("bug: a range beyond the blob's end".into())),
        };
        Box::pin(futures_util::stream::iter([item]))
    }
}
