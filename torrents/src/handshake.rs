//! The 68 bytes that open every connection, both directions.
//!
//! We set two reserved bits and no other: BEP-10 (`[5] & 0x10`) and BEP-6 (`[7] & 0x04`).
//! The bits of DHT and of the upgrade to v2 promise what a private v1 swarm does not have.

use crate::id::{InfoHash, PeerId};

/// Bytes of a handshake.
pub const HANDSHAKE_LEN: usize = 68;

/// The length of the protocol's name, and the name.
const PROTOCOL: [u8; 20] = *b"\x13BitTorrent protocol";

const EXTENDED: (usize, u8) = (5, 0x10);
const FAST: (usize, u8) = (7, 0x04);

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
    /// It begins like a handshake but names another protocol.
    #[error("a handshake of another protocol than BitTorrent")]
    OtherProtocol,
}

impl Handshake {
    /// The wire form.
    pub fn encode(&self) -> [u8; HANDSHAKE_LEN] {
        let mut reserved = [0; 8];
        for ((at, bit), set) in [(EXTENDED, self.extended), (FAST, self.fast)] {
            if set {
                reserved[at] |= bit;
            }
        }
        let mut bytes = [0; HANDSHAKE_LEN];
        bytes[..20].copy_from_slice(&PROTOCOL);
        bytes[20..28].copy_from_slice(&reserved);
        bytes[28..48].copy_from_slice(self.info_hash.as_bytes());
        bytes[48..].copy_from_slice(self.peer_id.as_bytes());
        bytes
    }

    /// Whether `prefix` (1 to 68 bytes) can still become a handshake; checked as bytes come.
    pub fn check_prefix(prefix: &[u8]) -> Result<(), HandshakeError> {
        match prefix.first() {
            None => return Ok(()),
            Some(&first) if first != PROTOCOL[0] => return Err(HandshakeError::NotPlain),
            Some(_) => {}
        }
        let named = prefix.len().min(PROTOCOL.len());
        if prefix[..named] != PROTOCOL[..named] {
            return Err(HandshakeError::OtherProtocol);
        }
        Ok(())
    }

    /// Reads the wire form. Reserved bits that we do not know are ignored.
    pub fn decode(bytes: &[u8; HANDSHAKE_LEN]) -> Result<Self, HandshakeError> {
        Self::check_prefix(bytes)?;
        let name = |at: usize| std::array::from_fn(|n| bytes[at + n]);
        let set = |(at, bit): (usize, u8)| bytes[20 + at] & bit != 0;
        Ok(Self {
            info_hash: InfoHash(name(28)),
            peer_id: PeerId(name(48)),
            fast: set(FAST),
            extended: set(EXTENDED),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDSHAKE: Handshake = Handshake {
        info_hash: InfoHash(*b"aaaaaaaaaaaaaaaaaaaa"),
        peer_id: PeerId(*b"-SW0100-bbbbbbbbbbbb"),
        fast: true,
        extended: true,
    };

    #[test]
    fn the_wire_form_is_that_of_the_beps() {
        let golden: &[u8; HANDSHAKE_LEN] =
            b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x04aaaaaaaaaaaaaaaaaaaa-SW0100-bbbbbbbbbbbb";
        assert_eq!(&HANDSHAKE.encode(), golden);
        assert_eq!(Handshake::decode(golden), Ok(HANDSHAKE));
        let plain = Handshake {
            fast: false,
            extended: false,
            ..HANDSHAKE
        };
        assert_eq!(&plain.encode()[20..28], &[0; 8]);
        assert_eq!(Handshake::decode(&plain.encode()), Ok(plain));
    }

    #[test]
    fn every_reserved_bit_may_be_set() {
        let mut bytes = HANDSHAKE.encode();
        bytes[20..28].fill(0xff);
        assert_eq!(Handshake::decode(&bytes), Ok(HANDSHAKE));
    }

    #[test]
    fn a_wrong_byte_is_seen_as_soon_as_it_comes() {
        let bytes = HANDSHAKE.encode();
        for length in 0..=HANDSHAKE_LEN {
            assert_eq!(Handshake::check_prefix(&bytes[..length]), Ok(()));
        }
        for wrong in 0..PROTOCOL.len() {
            let mut bytes = bytes;
            bytes[wrong] ^= 0x20;
            let error = match wrong {
                0 => HandshakeError::NotPlain,
                _ => HandshakeError::OtherProtocol,
            };
            assert_eq!(Handshake::check_prefix(&bytes[..wrong]), Ok(()));
            assert_eq!(Handshake::check_prefix(&bytes[..=wrong]), Err(error));
            assert_eq!(Handshake::decode(&bytes), Err(error));
        }
    }
}
