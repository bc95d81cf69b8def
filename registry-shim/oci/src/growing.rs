//! A blob that grows while it is read: any source of verified bytes as a [`Blob`].
//!
//! ```text
//!            0          verified run            length
//!   source   ├──────────────┬─────┬───────────────┤
//!   reader         ▲at ─────▶     └ more verified pieces, out of order
//!                  ready(at..end) waits for the byte at `at`, then tells where the run ends
//!                  read(part of the run), a chunk at a time, one chunk ahead of the client
//! ```
//!
//! Each stream has a [`SourceReader`] of its own and a task that keeps it one chunk ahead of
//! what the connection takes, so that disk and socket work at the same time and a stalled
//! client holds back nothing but itself. The task belongs to the stream: dropping the stream
//! aborts it, which drops the reader and with it the claim on the swarm.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::blob::{Blob, BlobError, BlobStream};
use crate::chunks::CHUNK;
use crate::error::RegistryError;

/// Where the bytes of a growing blob come from.
pub trait Source: Send + Sync + 'static {
    /// What one stream reads by.
    type Reader: SourceReader;

    /// Bytes in all, known from the start.
    fn length(&self) -> u64;

    /// A reader of `range`, with a claim of its own.
    fn reader(&self, range: Range<u64>) -> Self::Reader;

    /// Why a new reader should be turned away with 503, if so.
    fn trouble(&self) -> Option<RegistryError> {
        None
    }
}

/// One stream's view of a source. Dropping it gives the claim up, at any await.
#[async_trait]
pub trait SourceReader: Send + 'static {
    /// Waits until the byte at `range.start` is verified and returns where the verified run
    /// from there ends: beyond the start, not beyond the end. An error ends the stream, and
    /// says what a person should know.
    async fn ready(&mut self, range: Range<u64>) -> Result<u64, BlobError>;

    /// Reads verified bytes: exactly this range, at most [`CHUNK`] of them.
    async fn read(&mut self, range: Range<u64>) -> Result<Bytes, BlobError>;
}

/// A [`Source`] as a [`Blob`].
#[derive(Debug)]
pub struct GrowingBlob<S>(pub S);

impl<S: Source> Blob for GrowingBlob<S> {
    fn length(&self) -> u64 {
        self.0.length()
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> BlobStream {
        let (ahead, mut chunks) = mpsc::channel(1);
        let reader = self.0.reader(range.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(read_ahead_task(reader, range, ahead)));
        stream::poll_fn(move |cx| {
            let _owned_by_this_stream = &task;
            chunks.poll_recv(cx)
        })
        .boxed()
    }

    fn trouble(&self) -> Option<RegistryError> {
        self.0.trouble()
    }
}

async fn read_ahead_task(
    mut reader: impl SourceReader,
    range: Range<u64>,
    ahead: mpsc::Sender<Result<Bytes, BlobError>>,
) {
    if let Err(error) = read_in_order(&mut reader, range, &ahead).await {
        // Nobody hears it when the stream was dropped meanwhile, and nobody needs to.
        let _ = ahead.send(Err(error)).await;
    }
}

async fn read_in_order(
    reader: &mut impl SourceReader,
    range: Range<u64>,
    ahead: &mpsc::Sender<Result<Bytes, BlobError>>,
) -> Result<(), BlobError> {
    let mut at = range.start;
    while at < range.end {
        let verified = reader.ready(at..range.end).await?.min(range.end);
        if verified <= at {
            return Err(BlobError("bug: the source is ready with no byte".into()));
        }
        while at < verified {
            let end = chunk_end(at).min(verified);
            // Nothing is read before there is a place for it.
            let Ok(place) = ahead.reserve().await else {
                return Ok(());
            };
            let bytes = reader.read(at..end).await?;
            if bytes.len() as u64 != end - at {
                return Err(BlobError("bug: the source read less than was asked".into()));
            }
            at = end;
            place.send(Ok(bytes));
        }
    }
    Ok(())
}

/// Chunks end at multiples of their size, so that reads after the first are aligned.
fn chunk_end(at: u64) -> u64 {
    let chunk = CHUNK as u64;
    (at / chunk + 1).saturating_mul(chunk)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;
    use tokio::sync::watch;

    use super::*;

    /// Bytes that become verified when the test says so.
    struct Slow {
        bytes: Vec<u8>,
        verified: watch::Receiver<Result<u64, BlobError>>,
        claims: Arc<AtomicUsize>,
    }

    struct SlowReader {
        bytes: Vec<u8>,
        verified: watch::Receiver<Result<u64, BlobError>>,
        claims: Arc<AtomicUsize>,
    }

    impl Source for Slow {
        type Reader = SlowReader;

        fn length(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn reader(&self, _: Range<u64>) -> SlowReader {
            self.claims.fetch_add(1, Ordering::Relaxed);
            SlowReader {
                bytes: self.bytes.clone(),
                verified: self.verified.clone(),
                claims: self.claims.clone(),
            }
        }
    }

    impl Drop for SlowReader {
        fn drop(&mut self) {
            self.claims.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[async_trait]
    impl SourceReader for SlowReader {
        async fn ready(&mut self, range: Range<u64>) -> Result<u64, BlobError> {
            let far = |v: &Result<u64, BlobError>| v.as_ref().map_or(true, |v| *v > range.start);
            self.verified.wait_for(far).await.unwrap().clone()
        }

        async fn read(&mut self, range: Range<u64>) -> Result<Bytes, BlobError> {
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            Ok(Bytes::copy_from_slice(&self.bytes[range]))
        }
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length)
            .map(|i| u8::try_from(i * 31 % 251).unwrap())
            .collect()
    }

    type Grow = watch::Sender<Result<u64, BlobError>>;

    fn slow(length: usize) -> (Grow, Arc<AtomicUsize>, Arc<GrowingBlob<Slow>>) {
        let (grow, verified) = watch::channel(Ok(0));
        let claims = Arc::default();
        let blob = GrowingBlob(Slow {
            bytes: content(length),
            verified,
            claims: Arc::clone(&claims),
        });
        (grow, claims, Arc::new(blob))
    }

    async fn collect(mut stream: BlobStream) -> (Vec<u8>, Option<BlobError>) {
        let mut all = Vec::new();
        while let Some(item) = stream.next().await {
            match item {
                Ok(bytes) => all.extend_from_slice(&bytes),
                Err(error) => return (all, Some(error)),
            }
        }
        (all, None)
    }

    #[tokio::test]
    async fn streams_what_is_there_and_waits_for_the_rest() {
        let (grow, _, blob) = slow(1000);
        let mut stream = blob.stream(0..1000);
        assert!(futures_util::poll!(stream.next()).is_pending());
        grow.send(Ok(10)).unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), content(10));
        assert!(futures_util::poll!(stream.next()).is_pending());
        grow.send(Ok(1000)).unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), content(1000)[10..]);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn many_readers_each_in_order() {
        let length = 3 * CHUNK + 17;
        let (grow, claims, blob) = slow(length);
        let readers = (0..8).map(|i| {
            let from = i * length / 10;
            let stream = blob.clone().stream(from as u64..length as u64);
            tokio::spawn(async move { (from, collect(stream).await) })
        });
        let readers: Vec<_> = readers.collect();
        let mut verified = 0;
        while verified < length {
            verified = (verified + 100_000).min(length);
            grow.send(Ok(verified as u64)).unwrap();
            tokio::task::yield_now().await;
        }
        for reader in readers {
            let (from, (bytes, error)) = reader.await.unwrap();
            assert!(error.is_none());
            assert!(bytes == content(length)[from..]);
        }
        assert_eq!(claims.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_failure_comes_after_the_bytes_before_it() {
        let (grow, claims, blob) = slow(1000);
        let mut stream = blob.stream(0..1000);
        grow.send(Ok(10)).unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), content(10));
        grow.send(Err(BlobError("stalled".into()))).unwrap();
        let error = stream.next().await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "stalled");
        assert!(stream.next().await.is_none());
        assert_eq!(claims.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn dropping_the_stream_gives_the_claim_up() {
        let (_grow, claims, blob) = slow(1000);
        let stream = blob.stream(0..1000);
        assert_eq!(claims.load(Ordering::Relaxed), 1);
        drop(stream);
        while claims.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn reads_no_more_than_a_chunk_ahead() {
        struct Counting(Arc<Mutex<u64>>);
        impl Source for Counting {
            type Reader = Self;
            fn length(&self) -> u64 {
                1 << 40
            }
            fn reader(&self, _: Range<u64>) -> Self {
                Self(self.0.clone())
            }
        }
        #[async_trait]
        impl SourceReader for Counting {
            async fn ready(&mut self, range: Range<u64>) -> Result<u64, BlobError> {
                Ok(range.end)
            }
            async fn read(&mut self, range: Range<u64>) -> Result<Bytes, BlobError> {
                *self.0.lock().unwrap() = range.end;
                Ok(vec![0; CHUNK].into())
            }
        }
        let read = Arc::new(Mutex::new(0));
        let mut stream = Arc::new(GrowingBlob(Counting(read.clone()))).stream(0..1 << 40);
        stream.next().await.unwrap().unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(*read.lock().unwrap() <= 2 * CHUNK as u64);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_range_of_any_growth(
            (length, from, to) in (1..2 * CHUNK).prop_flat_map(|length| (Just(length), 0..length))
                .prop_flat_map(|(length, from)| (Just(length), Just(from), from + 1..=length)),
            steps in proptest::collection::vec(1..CHUNK, 1..8),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (bytes, error) = runtime.block_on(async {
                let (grow, _, blob) = slow(length);
                let reader = tokio::spawn(collect(blob.stream(from as u64..to as u64)));
                let mut verified = 0;
                for step in steps {
                    verified = (verified + step).min(length);
                    let _ = grow.send(Ok(verified as u64));
                    tokio::task::yield_now().await;
                }
                let _ = grow.send(Ok(length as u64));
                reader.await.unwrap()
            });
            prop_assert!(error.is_none());
            prop_assert!(bytes == content(length)[from..to]);
        }
    }
}
