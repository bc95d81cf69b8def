//! Gives a connection to the general server when it asks for more than announces.
//!
//! What was read already is put back in front. A client that takes no bytes is cut off, and so is
//! one whose request drips in: its head has one deadline from the first byte on. One that merely
//! rests between requests is left to hyper's own timer, which knows no difference between the
//! two: a head that begins as the rest ends is cut off with it.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Extension;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, timeout};

use super::connection::Serving;
use super::routes::ConnectedFrom;

/// Serves `stream` by the routes for people until either side is done with it.
pub(crate) async fn serve(serving: &Serving, stream: TcpStream, peer: IpAddr, unread: Vec<u8>) {
    let limits = &serving.service.limits;
    let patience = limits.request_time;
    let router = serving
        .routes
        .router()
        .layer(Extension(ConnectedFrom(peer)));
    let turns = Turns::default();
    let handed = Handed::new(stream, unread, patience, turns.clone());
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request| {
        turns.pass();
        let answer = router.call(request);
        let turns = turns.clone();
        async move {
            let answer = answer.await;
            turns.pass();
            answer
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_time)
        .max_buf_size(super::lane::MAX_HEAD * 4)
        .serve_connection(TokioIo::new(handed), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = serving.shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(patience, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}

/// Whose turn it is: even while the client has to send a head, odd while the routes answer.
#[derive(Clone, Default)]
struct Turns(Arc<AtomicUsize>);

impl Turns {
    fn pass(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The stream with what was read of it in front, and an end to a client's stall.
struct Handed {
    unread: Vec<u8>,
    stream: TcpStream,
    patience: Duration,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    turns: Turns,
    /// The turn that `dripping` belongs to.
    turn: usize,
    /// Runs while a head comes in.
    dripping: Option<Pin<Box<Sleep>>>,
}

impl Handed {
    fn new(stream: TcpStream, unread: Vec<u8>, patience: Duration, turns: Turns) -> Self {
        Self {
            unread,
            stream,
            patience,
            stalled: None,
            turn: turns.count(),
            turns,
            dripping: Some(Box::pin(tokio::time::sleep(patience))),
        }
    }
}

impl Handed {
    fn poll_stream(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let turn = self.turns.count();
        if std::mem::replace(&mut self.turn, turn) != turn {
            self.dripping = None;
        }
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buffer) {
            if turn.is_multiple_of(2) && self.dripping.is_none() {
                self.dripping = Some(Box::pin(tokio::time::sleep(self.patience)));
            }
            return Poll::Ready(read);
        }
        let Some(dripping) = &mut self.dripping else {
            return Poll::Pending;
        };
        ready!(dripping.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Handed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return self.poll_stream(cx, buffer);
        }
        let n = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread[..n]);
        self.unread.drain(..n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Handed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, bytes) {
            self.stalled = None;
            return Poll::Ready(written);
        }
        let until = Instant::now() + self.patience;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
