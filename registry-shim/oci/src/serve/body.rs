//! Bodies, each with one promise on top of what it wraps: a blob's body has the length that
//! was announced, a request's body keeps coming, a response's body fails politely.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::Stream;
use http_body::{Frame, SizeHint};

use super::pace::{Answering, Stall, too_slow};
use crate::blob::{Blob, BlobError, BlobStream};
use crate::digest::Digest;
use crate::name::RepoName;

/// A blob's body: exactly the length that was promised, or an error, upon which hyper cuts
/// the connection. This is where a cut is logged, once.
pub(super) struct BlobBody {
    /// Dropped as soon as nothing more is needed: it holds a claim on the swarm.
    stream: Option<BlobStream>,
    left: u64,
    end: u64,
    repo: RepoName,
    digest: Digest,
}

impl BlobBody {
    pub(super) fn new(
        blob: Arc<dyn Blob>,
        part: Range<u64>,
        repo: RepoName,
        digest: Digest,
    ) -> Self {
        Self {
            left: part.end - part.start,
            end: part.end,
            stream: Some(blob.stream(part)),
            repo,
            digest,
        }
    }

    fn cut(&mut self, reason: BlobError) -> BlobError {
        self.stream = None;
        tracing::warn!(
            repo = %self.repo,
            digest = %self.digest,
            offset = self.end - self.left,
            missing = self.left,
            reason = %reason,
            "cut a blob's body"
        );
        reason
    }

    fn accept(&mut self, bytes: Bytes) -> Result<Frame<Bytes>, BlobError> {
        match self.left.checked_sub(bytes.len() as u64) {
            Some(left) => {
                self.left = left;
                if left == 0 {
                    self.stream = None;
                }
                Ok(Frame::data(bytes))
            }
            None => Err(self.cut(BlobError("bug: the source gave more than was asked".into()))),
        }
    }
}

impl http_body::Body for BlobBody {
    type Data = Bytes;
    type Error = BlobError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BlobError>>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(None);
        };
        let item = ready!(Pin::new(stream).poll_next(cx));
        Poll::Ready(Some(match item {
            Some(Ok(bytes)) => self.accept(bytes),
            Some(Err(reason)) => Err(self.cut(reason)),
            None => Err(self.cut(BlobError("bug: the source ended early".into()))),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A request's body whose sender has to keep sending while the handler waits for it.
pub(super) struct PatientBody<B> {
    body: B,
    limit: Duration,
    stall: Stall,
}

impl<B> PatientBody<B> {
    pub(super) fn new(body: B, limit: Duration) -> Self {
        Self {
            body,
            limit,
            stall: Stall::default(),
        }
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for PatientBody<B>
where
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.stall.clear();
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(this.stall.poll(cx, this.limit));
        let error = too_slow("the client stopped sending the body");
        Poll::Ready(Some(Err(error.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body that keeps its request open until it is sent or dropped.
///
/// An error is held back for one turn: hyper drops what it has buffered the moment a body
/// fails, be it the very headers, and sends it when a body is merely not ready. A client that
/// has the headers resumes by `Range`; one that has none takes the server for broken.
pub(super) struct AnsweringBody {
    body: Body,
    failed: Option<axum::Error>,
    _answering: Answering,
}

impl AnsweringBody {
    pub(super) fn new(body: Body, answering: Answering) -> Self {
        Self {
            body,
            failed: None,
            _answering: answering,
        }
    }
}

impl http_body::Body for AnsweringBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Err(error)) = frame {
            this.failed = Some(error);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_is_timed_while_it_is_waited_for() {
        let (sent, received) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(1);
        let stream = futures_util::stream::unfold(received, |mut received| async move {
            Some((received.recv().await?, received))
        });
        let limit = Duration::from_secs(300);
        let mut body = PatientBody::new(Body::from_stream(stream), limit);
        let sending = async {
            for _ in 0..3 {
                sleep(limit - Duration::from_secs(1)).await;
                sent.send(Ok(Bytes::from_static(b"x"))).await.unwrap();
            }
        };
        let reading = async {
            for _ in 0..3 {
                let frame = http_body_util::BodyExt::frame(&mut body).await.unwrap();
                assert!(frame.is_ok());
                // What the handler does with it is its own time.
                sleep(limit * 12).await;
            }
            let begun = Instant::now();
            let frame = http_body_util::BodyExt::frame(&mut body).await.unwrap();
            assert!(frame.unwrap_err().to_string().contains("stopped sending"));
            begun.elapsed()
        };
        let ((), elapsed) = tokio::join!(sending, reading);
        assert!(elapsed >= limit && elapsed < limit + Duration::from_millis(5));
    }
}
