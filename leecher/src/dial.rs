//! Opens connections: TCP, then our handshake, then theirs.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use torrents::InfoHash;
use torrents::handshake::HandshakeError;

use crate::connection::{Connection, HandshakeFailure, read_handshake, write_handshake};
use crate::engine::Core;
use crate::listen::limit_unsent;

/// How long a TCP connection may take to open: a host that is there answers in milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// Why a dial came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialFailure {
    #[error("all connections of this process are in use")]
    Full,
    #[error("no connection within {} s", CONNECT_TIMEOUT.as_secs())]
    Slow,
    #[error(transparent)]
    Connect(io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeFailure),
    #[error("it serves another torrent")]
    OtherTorrent,
    #[error("it is ourselves")]
    Ourselves,
    #[error("the gate does not admit it")]
    NotAdmitted,
}

impl DialFailure {
    /// Whether trying again is in vain.
    pub(crate) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Ourselves
                | Self::OtherTorrent
                | Self::NotAdmitted
                | Self::Handshake(HandshakeFailure::Malformed(
                    HandshakeError::NotPlain | HandshakeError::OtherProtocol
                ))
        )
    }
}

/// Connects to `addr` for that torrent.
pub(crate) async fn dial(
    core: Arc<Core>,
    info_hash: InfoHash,
    addr: SocketAddr,
) -> Result<Connection, DialFailure> {
    let place = core.places.dial().ok_or(DialFailure::Full)?;
    let mut stream = tokio::time::timeout(CONNECT_TIMEOUT, connect(core.local_addr.ip(), addr))
        .await
        .map_err(|_| DialFailure::Slow)?
        .map_err(DialFailure::Connect)?;
    write_handshake(&mut stream, info_hash, core.config.peer_id).await?;
    let handshake = read_handshake(&mut stream).await?;
    if handshake.peer_id == core.config.peer_id {
        return Err(DialFailure::Ourselves);
    }
    if handshake.info_hash != info_hash {
        return Err(DialFailure::OtherTorrent);
    }
    if !core.gate.admit(info_hash, addr, handshake.peer_id) {
        return Err(DialFailure::NotAdmitted);
    }
    Ok(Connection {
        stream,
        addr,
        handshake,
        inbound: false,
        place,
    })
}

/// Connects from the address we listen on, when that is one certain address and can reach
/// `to`: so that a host with several shows the one that is announced.
async fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    let fits = from.is_ipv4() == to.is_ipv4() && from.is_loopback() == to.ip().is_loopback();
    if fits && !from.is_unspecified() {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    socket.set_nodelay(true)?;
    limit_unsent(SockRef::from(&socket));
    socket.connect(to).await
}
