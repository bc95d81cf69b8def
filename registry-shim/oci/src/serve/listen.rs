//! From a listener to requests: accepting, the cap on connections, the end.
//!
//! Invariant: every connection is a task of the one [`JoinSet`] below, and none outlives
//! [`listen`]. Knows nothing of registries.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::connection_task;

/// A service from requests to responses.
pub trait Service: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn call(&self, request: Request<Body>) -> impl Future<Output = Response> + Send;
}

impl Service for axum::Router {
    async fn call(&self, request: Request<Body>) -> Response {
        // A router is always ready, and never fails.
        match tower_service::Service::call(&mut self.clone(), request).await {
            Ok(response) => response,
        }
    }
}

/// What a port grants its clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; later ones wait in the kernel's queue, unanswered.
    pub connections: usize,
    /// From a request's first byte to the end of its head, and for the first byte of all.
    pub head: Duration,
    /// Between requests. Longer than clients keep idle connections (Go: 90 s), so that it is
    /// they who close: a request sent into a connection being closed is lost.
    pub idle: Duration,
    /// Without a byte of a request's body while it is waited for.
    pub stalled_read: Duration,
    /// Without the client taking a byte of what is ready to be sent.
    pub stalled_write: Duration,
    /// For open requests, once the port is to be closed.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            head: Duration::from_secs(30),
            idle: Duration::from_secs(120),
            stalled_read: Duration::from_secs(300),
            stalled_write: Duration::from_secs(300),
            grace: Duration::from_secs(10),
        }
    }
}

/// Serves HTTP/1 on the listener until `stop` resolves, then lets open requests end within a
/// grace period. A connection whose first byte is a TLS hello (0x16) is answered and closed
/// at once; slow headers are bounded in time; bodies have no deadline, only idle ones. The
/// peer's address is in the request's extensions. Every connection task is joined.
pub async fn listen<S: Service>(
    listener: TcpListener,
    service: S,
    stop: impl Future<Output = ()> + Send,
) {
    listen_with(listener, service, Limits::default(), stop).await;
}

/// [`listen`] with limits of one's own.
pub async fn listen_with<S: Service>(
    listener: TcpListener,
    service: S,
    limits: Limits,
    stop: impl Future<Output = ()> + Send,
) {
    let closing = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let mut door = Door::new(listener, limits.connections);
    let mut stop = pin!(stop);
    loop {
        let (stream, peer, slot) = tokio::select! {
            () = &mut stop => break,
            guest = door.next() => guest,
        };
        // Ended connections are collected here, so that they do not pile up. A handler that
        // panicked took its connection down and was reported by the panic hook.
        while tasks.try_join_next().is_some() {}
        let (service, limits, closing) = (service.clone(), limits.clone(), closing.clone());
        tasks.spawn(async move {
            let _slot = slot;
            connection_task(stream, peer, service, limits, closing).await;
        });
    }
    drop(door);
    closing.cancel();
    let all = async { while tasks.join_next().await.is_some() {} };
    if timeout(limits.grace, all).await.is_err() {
        tracing::info!(
            connections = tasks.len(),
            "closing connections that are still busy"
        );
        tasks.shutdown().await;
    }
}

/// The listener and its cap.
struct Door {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    /// When a full house was last reported.
    reported: Option<Instant>,
    /// Accepts that failed in a row.
    failures: u32,
}

impl Door {
    fn new(listener: TcpListener, connections: usize) -> Self {
        Self {
            listener,
            slots: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
            reported: None,
            failures: 0,
        }
    }

    /// The next connection. Cancel-safe: what is lost on cancellation is a free slot.
    async fn next(&mut self) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
        if self.slots.available_permits() == 0 {
            self.report_full();
        }
        let slots = self.slots.clone();
        let slot = slots
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    self.failures = 0;
                    return (stream, peer, slot);
                }
                Err(error) => self.back_off(&error).await,
            }
        }
    }

    fn report_full(&mut self) {
        let now = Instant::now();
        let recently = |at: Instant| now - at < Duration::from_secs(60);
        if !self.reported.is_some_and(recently) {
            self.reported = Some(now);
            let addr = self.listener.local_addr().ok();
            tracing::warn!(?addr, "all connection slots are taken: new clients wait");
        }
    }

    /// A connection that ended before it was accepted says nothing about the next one; a
    /// lack of file descriptors or memory lasts, and must not become a busy loop.
    async fn back_off(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if matches!(
            error.kind(),
            ConnectionAborted | ConnectionReset | Interrupted
        ) {
            return;
        }
        self.failures += 1;
        let pause = Duration::from_millis(50 << self.failures.min(5));
        if self.failures.is_power_of_two() {
            tracing::warn!(%error, ?pause, "cannot accept connections for now");
        }
        sleep(pause).await;
    }
}
