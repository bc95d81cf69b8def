//! Time limits of a connection that cost honest clients nothing.
//!
//! There is no deadline on a request as a whole: a layer may take hours to push or to pull.
//! What is bounded is the time in which *nothing* moves although it is the client's turn:
//!
//! ```text
//!            first byte             head complete            response sent
//!   idle ───────────────▶ in a head ─────────────▶ answering ─────────────▶ idle
//!   `idle` to the end      `head` to the end        no limit on reads here: a request's body
//!                                                   is watched by `PatientBody` while the
//!                                                   handler waits for it
//! ```
//!
//! Writes are watched throughout: the clock runs only while the socket takes nothing, so a
//! body that waits for the swarm is not held against the client.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::listen::Limits;

/// How many requests a connection has had, and how many are being answered. Written by the
/// requests, read by [`Paced`]; both live in one task, atomics only make that checkable.
#[derive(Debug, Default)]
pub(super) struct Requests {
    begun: AtomicU64,
    ended: AtomicU64,
    /// The connection, when it looked for a next request while one was being answered. Hyper
    /// does not look again of itself, and idleness would go unnoticed.
    connection: AtomicWaker,
}

/// A request being answered: from its head to the end of its response's body.
#[derive(Debug)]
pub(super) struct Answering(Arc<Requests>);

impl Requests {
    pub(super) fn begin(self: &Arc<Self>) -> Answering {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Answering(self.clone())
    }

    fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    fn is_answering(&self) -> bool {
        self.begun() != self.ended.load(Ordering::Relaxed)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
        self.0.connection.wake();
    }
}

/// Time in which nothing moved. Checked against a lazily moved timer: progress is recorded by
/// forgetting a start, not by touching the timer wheel.
#[derive(Debug, Default)]
struct Stall {
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    fn clear(&mut self) {
        self.since = None;
    }

    /// Ready when `limit` has passed since the first call after [`Stall::clear`].
    fn poll(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let at = *self.since.get_or_insert_with(Instant::now) + limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        loop {
            // A timer left from an earlier stall fires early, or was set for a longer limit.
            if timer.deadline() > at {
                timer.as_mut().reset(at);
            }
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
    }
}

/// A socket whose peer has to keep moving.
#[derive(Debug)]
pub(super) struct Paced<Io> {
    io: Io,
    limits: Limits,
    requests: Arc<Requests>,
    /// Requests seen when `in_head` was last set.
    seen: u64,
    in_head: bool,
    reading: Stall,
    writing: Stall,
}

impl<Io> Paced<Io> {
    pub(super) fn new(io: Io, limits: Limits, requests: Arc<Requests>) -> Self {
        Self {
            io,
            limits,
            requests,
            seen: 0,
            in_head: false,
            reading: Stall::default(),
            writing: Stall::default(),
        }
    }

    /// Waiting for the client to send: how long, if it is its turn.
    fn patience(&mut self) -> Option<Duration> {
        if self.seen != self.requests.begun() {
            self.seen = self.requests.begun();
            self.in_head = false;
            self.reading.clear();
        }
        if self.requests.is_answering() {
            self.reading.clear();
            None
        } else if self.in_head {
            Some(self.limits.head)
        } else {
            Some(self.limits.idle)
        }
    }

    fn poll_stalled_write(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.writing.clear();
            return written;
        }
        ready!(self.writing.poll(cx, self.limits.stalled_write));
        Poll::Ready(Err(too_slow("the client stopped reading")))
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Paced<Io> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let patience = this.patience();
        if let Poll::Ready(result) = Pin::new(&mut this.io).poll_read(cx, buf) {
            let first_of_a_head = patience.is_some() && !this.in_head;
            if first_of_a_head && buf.filled().len() > before {
                this.in_head = true;
                this.reading.clear();
            }
            return Poll::Ready(result);
        }
        match patience {
            None => {
                this.requests.connection.register(cx.waker());
                Poll::Pending
            }
            Some(limit) => {
                ready!(this.reading.poll(cx, limit));
                Poll::Ready(Err(too_slow("the client sent no complete request")))
            }
        }
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Paced<Io> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.poll_stalled_write(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.poll_stalled_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
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

fn too_slow(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}
