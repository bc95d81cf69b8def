//! BEP-10 extended handshake, and the messages we put on it: `ut_metadata` (BEP-9, between
//! our own peers) and `lt_donthave` (BEP-54). `upload_only` (BEP-21) rides in the handshake.
//!
//! Invariant: our handshake stays under 500 bytes (rTorrent's buffer); others' are decoded
//! leniently, up to 16 KiB and a shallow depth.

use std::net::IpAddr;

use bytes::Bytes;

use crate::geometry::PieceIndex;

/// How we number `ut_metadata` for the messages we receive.
pub const OUR_UT_METADATA: u8 = 1;
/// How we number `lt_donthave` for the messages we receive.
pub const OUR_LT_DONTHAVE: u8 = 2;

/// What a peer says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtendedHandshake {
    /// `v`: client and version, cleaned for display and bounded.
    pub client: Option<String>,
    /// `p`: the port it listens on.
    pub listen_port: Option<u16>,
    /// `reqq`: requests it queues.
    pub reqq: Option<u32>,
    /// `yourip`: how it sees us.
    pub your_ip: Option<IpAddr>,
    /// BEP-21: it downloads nothing.
    pub upload_only: bool,
    /// Its number for `ut_metadata`; `None` or 0 is "not spoken".
    pub ut_metadata: Option<u8>,
    /// Its number for `lt_donthave`.
    pub lt_donthave: Option<u8>,
    /// Length of the info dictionary.
    pub metadata_size: Option<u32>,
}

/// A BEP-9 message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in BEP 9")]
pub enum MetadataMessage {
    Request {
        piece: u32,
    },
    Data {
        piece: u32,
        total_size: u32,
        bytes: Bytes,
    },
    Reject {
        piece: u32,
    },
}

/// BEP-9 cuts the info dictionary into pieces of this length.
pub const METADATA_PIECE_LEN: u32 = 16 * 1024;

/// A payload that is not what its message id promises.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExtendedError {}

impl ExtendedHandshake {
    /// The payload of extended message 0. `ut_metadata` and `lt_donthave` are numbered by the
    /// constants above when they are `Some`.
    pub fn encode(&self) -> Bytes {
        todo!()
    }
    /// Reads the payload of extended message 0.
    pub fn decode(payload: &[u8]) -> Result<Self, ExtendedError> {
        let _ = payload;
        todo!()
    }
}

impl MetadataMessage {
    /// The payload of the extended message.
    pub fn encode(&self) -> Bytes {
        todo!()
    }
    /// Reads the payload of the extended message.
    pub fn decode(payload: &Bytes) -> Result<Self, ExtendedError> {
        let _ = payload;
        todo!()
    }
}

/// The payload of `lt_donthave`.
pub fn encode_donthave(piece: PieceIndex) -> Bytes {
    let _ = piece;
    todo!()
}
/// Reads the payload of `lt_donthave`: a piece number, yet unchecked.
pub fn decode_donthave(payload: &[u8]) -> Result<u32, ExtendedError> {
    let _ = payload;
    todo!()
}
