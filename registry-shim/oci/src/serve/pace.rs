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
//!
//! Closing lingers: a refusal is often sent while the client is still sending its body, and
//! closing a socket with unread bytes resets the connection, whereupon the client may lose
//! the very answer that says why. So what still comes is read and thrown away for a moment.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::listen::Limits;

/// How long a closed connection is read on, at most.
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// Bytes thrown away at most: more than what is in flight when a client hears a refusal.
const MAX_DRAINED: usize = 16 * 1024 * 1024;

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
pub(super) struct Stall {
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    pub(super) fn clear(&mut self) {
        self.since = None;
    }

    /// Ready when `limit` has passed since the first call after [`Stall::clear`].
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
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
    /// Nothing more will be written.
    is_shut: bool,
    drained: usize,
    lingering: Stall,
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
            is_shut: false,
            drained: 0,
            lingering: Stall::default(),
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

impl<Io: AsyncRead + Unpin> Paced<Io> {
    /// Ready when the client has closed its side as well, or had its moment.
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut space = [MaybeUninit::uninit(); 8192];
        while self.drained < MAX_DRAINED {
            let mut buf = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    self.drained += buf.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.lingering.poll(cx, LINGER),
            }
        }
        Poll::Ready(())
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

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<Io> {
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
        let this = self.get_mut();
        if !this.is_shut {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            this.is_shut = true;
        }
        this.poll_drained(cx).map(Ok)
    }
}

pub(super) fn too_slow(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::sleep;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn connection(buffer: usize) -> (DuplexStream, Paced<DuplexStream>, Arc<Requests>) {
        let (client, server) = duplex(buffer);
        let requests = Arc::new(Requests::default());
        let paced = Paced::new(server, Limits::default(), requests.clone());
        (client, paced, requests)
    }

    async fn timed<T>(step: impl Future<Output = io::Result<T>>) -> (Option<T>, Duration) {
        let begun = Instant::now();
        match step.await {
            Ok(value) => (Some(value), begun.elapsed()),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                (None, begun.elapsed())
            }
        }
    }

    /// Within a tick of the timer.
    fn assert_about(elapsed: Duration, limit: Duration) {
        assert!(
            elapsed >= limit && elapsed < limit + Duration::from_millis(5),
            "{elapsed:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_client_has_its_time() {
        let (_client, mut paced, _) = connection(64);
        let (read, elapsed) = timed(paced.read_u8()).await;
        assert_eq!(read, None);
        assert_about(elapsed, Limits::default().idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_timed_from_its_first_byte_and_drips_win_nothing() {
        let (mut client, mut paced, _) = connection(64);
        sleep(Duration::from_secs(60)).await;
        client.write_all(b"G").await.unwrap();
        assert_eq!(paced.read_u8().await.unwrap(), b'G');
        let drip = async {
            loop {
                sleep(Duration::from_secs(7)).await;
                client.write_all(b"x").await.unwrap();
            }
        };
        let read = async {
            let mut all = Vec::new();
            paced.read_to_end(&mut all).await
        };
        let (read, elapsed) = tokio::select! {
            timed = timed(read) => timed,
            () = drip => unreachable!(),
        };
        assert_eq!(read, None);
        assert_about(elapsed, Limits::default().head);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_timed_while_a_request_is_answered() {
        let (mut client, mut paced, requests) = connection(64);
        client.write_all(b"G").await.unwrap();
        paced.read_u8().await.unwrap();
        let answering = requests.begin();
        let answered = async {
            sleep(HOUR).await;
            drop(answering);
            std::future::pending::<()>().await;
        };
        let (read, elapsed) = tokio::select! {
            timed = timed(paced.read_u8()) => timed,
            () = answered => unreachable!(),
        };
        // Idle from the end of the answer, noticed without a byte.
        assert_eq!(read, None);
        assert_about(elapsed, HOUR + Limits::default().idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_request_has_its_own_time() {
        let (mut client, mut paced, requests) = connection(64);
        for _ in 0..3 {
            sleep(Duration::from_secs(25)).await;
            client.write_all(b"G").await.unwrap();
            assert_eq!(paced.read_u8().await.unwrap(), b'G');
            drop(requests.begin());
        }
        let (read, elapsed) = timed(paced.read_u8()).await;
        assert_eq!(read, None);
        assert_about(elapsed, Limits::default().idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_is_timed_from_its_last_progress() {
        let (mut client, mut paced, _) = connection(10);
        let limit = Limits::default().stalled_write;
        let taking = async {
            for _ in 0..5 {
                sleep(limit - Duration::from_secs(1)).await;
                client.read_u8().await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let (written, elapsed) = tokio::select! {
            timed = timed(paced.write_all(&[0; 100])) => timed,
            () = taking => unreachable!(),
        };
        assert_eq!(written, None);
        assert_about(elapsed, (limit - Duration::from_secs(1)) * 5 + limit);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_reads_on_for_a_moment() {
        let (mut client, mut paced, _) = connection(16);
        let sending = async {
            client.write_all(&[0; 1000]).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let (closed, ()) = tokio::join!(timed(paced.shutdown()), sending);
        assert_eq!(closed, (Some(()), Duration::ZERO));

        let (_client, mut paced, _) = connection(16);
        let (closed, elapsed) = timed(paced.shutdown()).await;
        assert_eq!(closed, Some(()));
        assert_about(elapsed, LINGER);
    }
}
