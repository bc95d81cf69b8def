//! Bodies: complete content from a file, and content that is read while it is downloaded.
//!
//! Bytes leave here only if they are verified: complete content was when it was stored; of a
//! download, each piece is before a reader may see it, and the last bytes wait until the
//! digest of the whole is right.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use leecher::Reader;
use leecher::content::Content;
use oci::chunks::{Chunk, ChunkPool};
use oci::growing::{GrowingBlob, Source, SourceReader};
use oci::{Blob, BlobError, BlobStream, FileBlob, RegistryError};

use crate::fetch::{Fetch, Reading};
use crate::files::blocking;
use crate::metrics::Metrics;
use crate::shelf::Pin;

/// Complete content.
#[derive(Debug)]
pub(crate) struct LocalBlob {
    file: Arc<FileBlob>,
    metrics: Arc<Metrics>,
    /// Not evicted while it is read.
    pin: Arc<Pin>,
}

impl LocalBlob {
    pub(crate) fn new(file: FileBlob, metrics: Arc<Metrics>, pin: Pin) -> Self {
        Self {
            file: Arc::new(file),
            metrics,
            pin: Arc::new(pin),
        }
    }
}

impl Blob for LocalBlob {
    fn length(&self) -> u64 {
        self.file.length()
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> BlobStream {
        let bytes = self.file.clone().stream(range);
        let counted = bytes.inspect(move |item| match item {
            Ok(bytes) => drop(self.metrics.served.inc_by(bytes.len() as u64)),
            Err(_) => self.pin.suspect(),
        });
        counted.boxed()
    }
}

/// Content that is being downloaded.
#[derive(Debug)]
pub(crate) struct SwarmBlob {
    growing: Arc<GrowingBlob<Swarm>>,
    metrics: Arc<Metrics>,
    /// Not evicted while it is read, when it is complete at last.
    _pin: Pin,
}

impl SwarmBlob {
    pub(crate) fn new(fetch: Arc<Fetch>, metrics: Arc<Metrics>, pin: Pin) -> Self {
        let swarm = Swarm {
            fetch,
            metrics: metrics.clone(),
        };
        Self {
            growing: Arc::new(GrowingBlob(swarm)),
            metrics,
            _pin: pin,
        }
    }
}

impl Blob for SwarmBlob {
    fn length(&self) -> u64 {
        self.growing.length()
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> BlobStream {
        let bytes = self.growing.clone().stream(range);
        let counted = bytes.inspect(move |item| {
            if let Ok(bytes) = item {
                self.metrics.served.inc_by(bytes.len() as u64);
            }
        });
        counted.boxed()
    }

    fn trouble(&self) -> Option<RegistryError> {
        self.growing.trouble()
    }
}

/// A download as a source of verified bytes.
#[derive(Debug)]
struct Swarm {
    fetch: Arc<Fetch>,
    metrics: Arc<Metrics>,
}

/// One reader of a download.
struct SwarmReader {
    fetch: Arc<Fetch>,
    metrics: Arc<Metrics>,
    /// Steers the swarm to what is read next, while it lives.
    reader: Reader,
    pool: ChunkPool,
    _reading: Reading,
}

impl Source for Swarm {
    type Reader = SwarmReader;

    fn length(&self) -> u64 {
        self.fetch.length()
    }

    fn reader(&self, _: Range<u64>) -> SwarmReader {
        SwarmReader {
            reader: self.fetch.torrent().reader(),
            _reading: self.fetch.reading(),
            pool: ChunkPool::new(),
            fetch: self.fetch.clone(),
            metrics: self.metrics.clone(),
        }
    }

    fn trouble(&self) -> Option<RegistryError> {
        self.fetch.trouble()
    }
}

#[async_trait]
impl SourceReader for SwarmReader {
    async fn ready(&mut self, range: Range<u64>) -> Result<u64, BlobError> {
        let open = range.end.min(self.fetch.held_from());
        if range.start >= open {
            self.fetch.verdict().await?;
            return Ok(range.end);
        }
        tokio::select! {
            biased;
            verdict = self.fetch.verdict() => verdict.map(|()| range.end),
            ready = self.reader.ready(range.start..open) => match ready {
                Ok(to) => {
                    self.fetch.saw_verified(range.start, to);
                    Ok(to)
                }
                Err(error) => Err(BlobError(error.to_string().into())),
            },
        }
    }

    async fn read(&mut self, range: Range<u64>) -> Result<Bytes, BlobError> {
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let chunk = self.pool.take(length);
        let chunk = read(self.fetch.content(), range.start, chunk).await?;
        self.fetch.record().first_byte(&self.metrics);
        Ok(chunk.freeze())
    }
}

/// Fills the chunk: from the page cache on the runtime's thread, from the disk on another.
async fn read(content: &Arc<Content>, at: u64, mut chunk: Chunk) -> Result<Chunk, BlobError> {
    let cached = content.read_cached(at, &mut chunk).unwrap_or(0);
    if cached == chunk.len() {
        return Ok(chunk);
    }
    let content = content.clone();
    let rest = at + cached as u64;
    blocking(move || content.read_at(rest, &mut chunk[cached..]).map(|()| chunk))
        .await
        .map_err(|error| BlobError(format!("cannot read the local store: {error}").into()))
}
