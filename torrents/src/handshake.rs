//! The 68 bytes that open every connection, both directions.

use crate::id::{InfoHash, PeerId};

/// Bytes of a handshake.
pub const HANDSHAKE_LEN: usize = 68;

/// What a handshake says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// Which torrent.
    pub info_hash: InfoHash,
    /// Who.
    pub peer_id: PeerId,
    /// BEP-6.
    pub fast: bool,
    /// BEP-10.
    pub extended: bool,
}

/// Bytes that open no BitTorrent connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The first byte is not 19: encrypted, or another protocol. Close at once, so that the
    /// peer retries in clear.
    #[error("not a plain BitTorrent handshake")]
    NotPlain,
}

impl Handshake {
    /// The wire form.
    pub fn encode(&self) -> [u8; HANDSHAKE_LEN] {
        todo!()
    }
    /// Whether `prefix` (1 to 68 bytes) can still become a handshake; checked as bytes come.
    pub fn check_prefix(prefix: &[u8]) -> Result<(), HandshakeError> {
        let _ = prefix;
        todo!()
    }
    /// Reads the wire form.
    pub fn decode(bytes: &[u8; HANDSHAKE_LEN]) -> Result<Self, HandshakeError> {
        let _ = bytes;
        todo!()
    }
}
