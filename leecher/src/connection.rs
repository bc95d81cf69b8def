//! One connection that shook hands, and how both sides do it.
//!
//! The 68 bytes of a handshake are read as they come and refused at the first wrong one: an
//! encrypted hello is closed at once so that its client retries in clear. Nothing beyond them
//! is read, so what follows stays in the socket.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use torrents::handshake::{HANDSHAKE_LEN, Handshake, HandshakeError};
use torrents::{InfoHash, PeerId};

use crate::places::Place;

/// How long the other side may take to say 68 bytes.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A TCP stream on which both handshakes are done.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) addr: SocketAddr,
    /// What the other side said.
    pub(crate) handshake: Handshake,
    /// It dialled us.
    pub(crate) inbound: bool,
    /// Its place among the process's connections.
    pub(crate) place: Place,
}

/// Why there was no handshake.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeFailure {
    #[error(transparent)]
    Malformed(#[from] HandshakeError),
    #[error("closed after {0} bytes of its handshake")]
    Closed(usize),
    #[error("no handshake within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Slow,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What we say when a connection opens.
pub(crate) fn our_handshake(info_hash: InfoHash, peer_id: PeerId) -> [u8; HANDSHAKE_LEN] {
    Handshake {
        info_hash,
        peer_id,
        fast: true,
        extended: true,
    }
    .encode()
}

/// Reads the other side's handshake, within its deadline.
pub(crate) async fn read_handshake(stream: &mut TcpStream) -> Result<Handshake, HandshakeFailure> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, read_prefixes(stream))
        .await
        .unwrap_or(Err(HandshakeFailure::Slow))
}

async fn read_prefixes(stream: &mut TcpStream) -> Result<Handshake, HandshakeFailure> {
    let mut bytes = [0; HANDSHAKE_LEN];
    let mut filled = 0;
    while filled < HANDSHAKE_LEN {
        match stream.read(&mut bytes[filled..]).await? {
            0 => return Err(HandshakeFailure::Closed(filled)),
            n => filled += n,
        }
        Handshake::check_prefix(&bytes[..filled])?;
    }
    Ok(Handshake::decode(&bytes)?)
}

/// Says ours, within a deadline of its own.
pub(crate) async fn write_handshake(
    stream: &mut TcpStream,
    info_hash: InfoHash,
    peer_id: PeerId,
) -> Result<(), HandshakeFailure> {
    let ours = our_handshake(info_hash, peer_id);
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.write_all(&ours)).await {
        Ok(written) => Ok(written?),
        Err(_) => Err(HandshakeFailure::Slow),
    }
}
