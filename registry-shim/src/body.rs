//! Bodies: complete content from a file, and content that is read while it is downloaded.
//!
//! Bytes leave here only if they are verified: complete content was when it was stored; of a
//! download, each piece is before the reader may see it, and the last bytes wait until the
//! digest of the whole is right. Reads come from the page cache on the runtime's thread, and
//! from the disk on a blocking one.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use leecher::Reader;
use leecher::content::Content;
use oci::{Blob, BlobError, BlobStream, RegistryError};

use crate::fetch::{Fetch, Reading};
use crate::files::blocking;
use crate::metrics::Metrics;
use crate::shelf::Pin;

/// Given to the connection at once: large enough to be cheap, small enough that a thousand
/// readers fit in memory.
const CHUNK: u64 = 512 << 10;

/// The empty blob: it has no torrent and needs none.
#[derive(Debug)]
pub(crate) struct EmptyBlob;

/// A blob of which only the headers are asked.
#[derive(Debug)]
pub(crate) struct HeadOnly(pub(crate) u64);

/// Complete content.
#[derive(Debug)]
pub(crate) struct LocalBlob {
    content: Arc<Content>,
    length: u64,
    metrics: Arc<Metrics>,
    /// Not evicted while it is read.
    pin: Pin,
}

/// Content that is being downloaded.
#[derive(Debug)]
pub(crate) struct SwarmBlob {
    fetch: Arc<Fetch>,
    metrics: Arc<Metrics>,
    _pin: Pin,
}

impl LocalBlob {
    pub(crate) fn new(content: Content, length: u64, metrics: Arc<Metrics>, pin: Pin) -> Self {
        Self {
            content: Arc::new(content),
            length,
            metrics,
            pin,
        }
    }
}

impl SwarmBlob {
    pub(crate) fn new(fetch: Arc<Fetch>, metrics: Arc<Metrics>, pin: Pin) -> Self {
        Self {
            fetch,
            metrics,
            _pin: pin,
        }
    }
}

impl Blob for EmptyBlob {
    fn length(&self) -> u64 {
        0
    }
    fn stream(self: Arc<Self>, _: Range<u64>) -> BlobStream {
        Box::pin(stream::empty())
    }
}

impl Blob for HeadOnly {
    fn length(&self) -> u64 {
        self.0
    }
    fn stream(self: Arc<Self>, _: Range<u64>) -> BlobStream {
        let error = BlobError("only the headers were asked for".into());
        Box::pin(stream::once(async { Err(error) }))
    }
}

impl Blob for LocalBlob {
    fn length(&self) -> u64 {
        self.length
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> BlobStream {
        Box::pin(stream::try_unfold(
            (self, range.start),
            move |(blob, at)| async move {
                if at >= range.end {
                    return Ok(None);
                }
                let read = read(&blob.content, at, range.end).await;
                let bytes = read.inspect_err(|_| blob.pin.suspect())?;
                blob.metrics.served.inc_by(bytes.len() as u64);
                let at = at + bytes.len() as u64;
                Ok(Some((bytes, (blob, at))))
            },
        ))
    }
}

impl Blob for SwarmBlob {
    fn length(&self) -> u64 {
        self.fetch.length()
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> BlobStream {
        let body = Body {
            reader: self.fetch.torrent().reader(),
            _reading: self.fetch.reading(),
            at: range.start,
            ready: range.start,
            end: range.end,
            blob: self,
        };
        Box::pin(stream::try_unfold(body, |mut body| async move {
            Ok(body.next().await?.map(|bytes| (bytes, body)))
        }))
    }

    fn trouble(&self) -> Option<RegistryError> {
        self.fetch.trouble()
    }
}

/// One reader of a download.
struct Body {
    blob: Arc<SwarmBlob>,
    /// Steers the swarm to what is read next, while it lives.
    reader: Reader,
    _reading: Reading,
    at: u64,
    /// Verified without a gap from `at` to here.
    ready: u64,
    end: u64,
}

impl Body {
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        if self.at >= self.end {
            return Ok(None);
        }
        if self.at >= self.ready {
            self.ready = self.wait().await?;
        }
        let fetch = &self.blob.fetch;
        let bytes = read(fetch.content(), self.at, self.ready).await?;
        fetch.record().first_byte(&self.blob.metrics);
        self.blob.metrics.served.inc_by(bytes.len() as u64);
        self.at += bytes.len() as u64;
        Ok(Some(bytes))
    }

    /// Waits for the next byte; returns where the verified run from it ends.
    async fn wait(&mut self) -> Result<u64, BlobError> {
        let fetch = &self.blob.fetch;
        let open = self.end.min(fetch.held_from());
        if self.at >= open {
            fetch.verdict().await?;
            return Ok(self.end);
        }
        tokio::select! {
            biased;
            verdict = fetch.verdict() => verdict.map(|()| self.end),
            ready = self.reader.ready(self.at..open) => match ready {
                Ok(to) => {
                    fetch.saw_verified(self.at, to);
                    Ok(to)
                }
                Err(error) => Err(BlobError(error.to_string().into())),
            },
        }
    }
}

/// Some of the bytes from `at`, at least one, at most to `end`.
async fn read(content: &Arc<Content>, at: u64, end: u64) -> Result<Bytes, BlobError> {
    let length = usize::try_from(CHUNK.min(end - at)).unwrap_or(usize::MAX);
    let mut buffer = vec![0; length];
    let cached = content.read_cached(at, &mut buffer).unwrap_or(0);
    if cached > 0 {
        buffer.truncate(cached);
        return Ok(buffer.into());
    }
    let content = content.clone();
    blocking(move || content.read_at(at, &mut buffer).map(|()| buffer))
        .await
        .map(Bytes::from)
        .map_err(|error| BlobError(format!("cannot read the local store: {error}").into()))
}
