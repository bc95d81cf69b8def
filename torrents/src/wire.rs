//! The peer wire: every message of BEP 3, 6 and 10, decoded incrementally and encoded.
//!
//! Payload is not this module's: a `piece` frame is decoded to its header
//! ([`Frame::Piece`]), and the driver takes `len` bytes from the socket itself.
//! Invariant: a frame's length is checked against its id before anything is stored.

use bytes::{Bytes, BytesMut};

use crate::bitfield::Bitfield;
use crate::geometry::{Block, Geometry, PieceIndex};

/// A message without payload, valid for its torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in BEP 3 and BEP 6")]
pub enum Message {
    KeepAlive,
    Choke,
    Unchoke,
    Interested,
    NotInterested,
    Have(PieceIndex),
    Bitfield(Bitfield),
    Request(Block),
    Cancel(Block),
    /// BEP-5; ignored.
    Port(u16),
    Suggest(PieceIndex),
    HaveAll,
    HaveNone,
    Reject(Block),
    AllowedFast(PieceIndex),
    /// BEP-10: 0 is the handshake, others as the receiver numbered them.
    Extended {
        id: u8,
        payload: Bytes,
    },
}

/// What the decoder found at the front of the buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A whole message; its bytes are consumed.
    Message(Message),
    /// The 13-byte header of a `piece` message; consumed. `block.len` payload bytes follow.
    Piece(Block),
}

/// What a peer sent that no peer may send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {}

/// Decodes frames of one connection.
#[derive(Debug, Clone)]
pub struct Decoder {
    geometry: Geometry,
    fast: bool,
    extended: bool,
}

impl Decoder {
    /// For a torrent of that geometry; `fast` and `extended` as both sides set them.
    pub fn new(geometry: Geometry, fast: bool, extended: bool) -> Self {
        Self {
            geometry,
            fast,
            extended,
        }
    }
    /// Takes the next frame off `buffer`, or `None` when more bytes are needed.
    ///
    /// `buffer` never needs to hold more than one frame's bound; the decoder never reserves
    /// memory from a length prefix that it has not checked.
    pub fn decode(&self, buffer: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        let _ = (buffer, &self.geometry, self.fast, self.extended);
        todo!()
    }
}

/// Appends the wire form.
pub fn encode(message: &Message, out: &mut BytesMut) {
    let _ = (message, out);
    todo!()
}

/// The 13 bytes in front of a block's payload.
pub fn piece_header(block: Block) -> [u8; 13] {
    let _ = block;
    todo!()
}
