//! Accepts peers and brings each to the torrent its handshake names.
//!
//! Strangers connect here, so everything is bounded: handshakes have a deadline, at most
//! [`MAX_PENDING`] wait at once (the oldest gives way: an honest peer needs milliseconds), and a
//! peer whose torrent we do not have is closed. Accept errors (no file descriptor left) pause
//! for moments, not seconds.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::connection::{Connection, read_handshake, write_handshake};
use crate::engine::Core;
use crate::torrent::Command;

/// Handshakes that may be under way at once, per listener.
const MAX_PENDING: usize = 256;

/// Connections the kernel keeps for us until we accept them.
const BACKLOG: i32 = 1024;

/// Bytes the kernel may hold for a peer beyond what is on the wire.
const UNSENT: u32 = 128 << 10;

/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often a peer is brought to a torrent that closes at that very moment.
const MAX_ROUTES: usize = 3;

/// Binds the peer port. An unspecified address means both families, on one port; a host without
/// IPv6 is served over IPv4 alone.
pub(crate) fn bind(addr: SocketAddr) -> io::Result<Vec<TcpListener>> {
    let first = listener(addr)?;
    let mut listeners = vec![first];
    if addr.ip().is_unspecified() {
        let port = listeners[0].local_addr()?.port();
        let other = if addr.is_ipv4() {
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
        } else {
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
        };
        match listener(other) {
            Ok(other) => listeners.push(other),
            Err(error) => tracing::debug!(%other, %error, "listening on one address family"),
        }
    }
    Ok(listeners)
}

/// A socket for one address family, to be bound.
pub(crate) fn socket(addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn listener(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(addr, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit these.
    socket.set_tcp_nodelay(true)?;
    limit_unsent(SockRef::from(&socket));
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Keeps what waits in the kernel short: a choke, a suggestion or a HAVE comes after all blocks
/// that were written before it, and on a slow line a default send buffer holds a second of them.
pub(crate) fn limit_unsent(socket: SockRef<'_>) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = socket.set_tcp_notsent_lowat(UNSENT) {
        tracing::debug!(%error, "the unsent bytes of a socket cannot be limited");
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = socket;
}

/// Accepts until the engine stops.
pub(crate) async fn accept_task(core: Arc<Core>, listener: TcpListener) {
    let mut pending = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            () = core.stop.cancelled() => break,
            Some(_) = pending.join_next() => {
                by_age.retain(|handshake| !handshake.is_finished());
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, addr)) => {
                if by_age.len() >= MAX_PENDING
                    && let Some(oldest) = by_age.pop_front()
                {
                    oldest.abort();
                }
                let core = Arc::clone(&core);
                by_age.push_back(pending.spawn(async move { greet(core, stream, addr).await }));
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a peer now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    pending.shutdown().await;
}

/// Shakes hands with a stranger and hands it over.
async fn greet(core: Arc<Core>, mut stream: TcpStream, addr: SocketAddr) {
    let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
    let handshake = match read_handshake(&mut stream).await {
        Ok(handshake) => handshake,
        Err(why) => {
            tracing::debug!(%addr, %why, "no handshake");
            return;
        }
    };
    let (info_hash, us) = (handshake.info_hash, core.config.peer_id);
    if handshake.peer_id == us {
        // Answered all the same: so the half of us that dialled learns whom it met.
        let _ = write_handshake(&mut stream, info_hash, us).await;
        return;
    }
    if !core.gate.admit(info_hash, addr, handshake.peer_id) {
        tracing::debug!(%addr, %info_hash, "the gate does not admit this peer");
        return;
    }
    let Some(place) = core.places.receive(addr.ip()) else {
        tracing::debug!(%addr, "all connections that it may have are in use");
        return;
    };
    let Some(mut torrent) = core.route(info_hash).await else {
        tracing::debug!(%addr, %info_hash, "a peer asks for a torrent that is not here");
        return;
    };
    if write_handshake(&mut stream, info_hash, us).await.is_err() {
        return;
    }
    let mut command = Command::Inbound(Box::new(Connection {
        stream,
        addr,
        handshake,
        inbound: true,
        place,
    }));
    for _ in 0..MAX_ROUTES {
        let Err(refused) = torrent.shared.commands.send(command).await else {
            return;
        };
        command = refused.0;
        match core.route(info_hash).await {
            Some(again) => torrent = again,
            None => return,
        }
    }
}
