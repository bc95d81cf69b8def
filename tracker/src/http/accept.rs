//! Takes connections in.
//!
//! Most announces come on a connection of their own, so the first request is served right at
//! the accept: when it is there whole and the client wants no keep-alive, the connection never
//! meets the reactor or a task. Everything else becomes a task that this one owns and joins.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::net::SocketFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::connection::{self, Serving, Socket, connection_task};
use crate::service::Service;

/// Connections taken in before other tasks of this thread get their turn.
const BURST: usize = 64;

/// Rest after an accept that failed for want of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Between two warnings about the same trouble.
const WARN_AGAIN: Duration = Duration::from_secs(10);

/// How many connections are open, over all listeners.
#[derive(Debug, Clone, Default)]
pub(crate) struct Open(Arc<AtomicUsize>);

/// Counts one connection for as long as it lives.
struct Counted {
    open: Open,
    service: Arc<Service>,
    /// Unless it is exempt.
    ip: Option<IpAddr>,
}

impl Open {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Admits one more unless too many are open, in all or from this address.
    fn admit(&self, service: &Arc<Service>, peer: IpAddr) -> Option<Counted> {
        if self.0.fetch_add(1, Ordering::Relaxed) < service.limits.connections
            && let Some(ip) = service.table.connect(peer)
        {
            let (open, service) = (self.clone(), Arc::clone(service));
            return Some(Counted { open, service, ip });
        }
        self.0.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.0.fetch_sub(1, Ordering::Relaxed);
        if let Some(ip) = self.ip {
            self.service.table.disconnect(ip);
        }
    }
}

/// Accepts until the shutdown, then waits for the connections it started.
pub(crate) async fn accept_task(
    serving: Serving,
    listener: TcpListener,
    open: Open,
) -> io::Result<()> {
    let listener = watch(listener)?;
    let tasks = TaskTracker::new();
    let mut warned = None;
    loop {
        let ready = tokio::select! {
            ready = listener.readable() => ready,
            () = serving.shutdown.cancelled() => break,
        };
        let mut ready = ready?;
        for taken in 0.. {
            if taken == BURST {
                tokio::task::yield_now().await;
                break;
            }
            match accept(listener.get_ref()) {
                Ok((socket, peer)) => take_in(&serving, &open, &tasks, socket, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    break;
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    if warned.is_none_or(|at: Instant| at.elapsed() > WARN_AGAIN) {
                        tracing::warn!(%error, "cannot accept connections");
                        warned = Some(Instant::now());
                    }
                    tokio::time::sleep(BACK_OFF).await;
                    break;
                }
            }
        }
    }
    // Who comes now is refused and goes elsewhere, instead of waiting for what never comes.
    drop(listener);
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// The listener itself is watched, not tokio's: that one enters every connection into the
/// reactor before a byte of it is read.
fn watch(listener: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    #[allow(
        deprecated,
        reason = "its successor is unsafe because a type may change its descriptor under way; \
                  std's listener never does, and this room has no unsafe code"
    )]
    AsyncFd::with_interest(listener, Interest::READABLE)
}

/// Serves what a new connection brought with it; what is left to do becomes a task.
fn take_in(serving: &Serving, open: &Open, tasks: &TaskTracker, socket: Accepted, peer: IpAddr) {
    let service = &serving.service;
    let counted = open.admit(service, peer);
    service.metrics.connection(counted.is_some());
    let Some(counted) = counted else { return };
    // A task that panics ends alone; a panic here would end the listener.
    let served = catch_unwind(AssertUnwindSafe(|| {
        connection::advance(service, &socket, peer, Vec::new())
    }));
    let Ok(step) = served else { return };
    if step.is_over() {
        return;
    }
    let stream = match TcpStream::from_std(std::net::TcpStream::from(socket.0)) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, "cannot watch a connection");
            return;
        }
    };
    let serving = serving.clone();
    tasks.spawn(async move {
        connection_task(serving, stream, peer, step).await;
        drop(counted);
    });
}

/// A socket not yet known to the reactor; non-blocking.
struct Accepted(OwnedFd);

impl Socket for Accepted {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.0, buffer, rustix::net::RecvFlags::empty())?.0)
    }
    fn try_write(&self, bytes: &[u8], last: bool) -> io::Result<usize> {
        connection::send(&self.0, bytes, last)
    }
}

fn accept(listener: &TcpListener) -> io::Result<(Accepted, IpAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    let peer = peer.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))?;
    Ok((Accepted(socket), peer.ip()))
}

/// Faults of one connection that was gone before it was taken; the listener is well.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, NetworkDown};
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, PermissionDenied, TimedOut};
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionReset
            | Interrupted
            | NetworkDown
            | HostUnreachable
            | NetworkUnreachable
            | PermissionDenied
            | TimedOut
    )
}

/// Binds a listener; `shared` lets several threads listen on one port.
pub(crate) fn bind(addr: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    // Inherited by what is accepted: a reply is one write, and must not wait for more.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A whole fleet connects in one second; the kernel caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 16_384;
