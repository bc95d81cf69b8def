//! The peer wire: every message of BEP 3, 6 and 10, decoded incrementally and encoded.
//!
//! Payload is not this module's: a `piece` frame is decoded to its header
//! ([`Frame::Piece`]), and the driver takes `len` bytes from the socket itself.
//!
//! Invariants: a frame's length is checked against its id before anything is stored; what a
//! frame names lies inside the torrent; cutting the stream anywhere changes no result; neither
//! direction allocates per block or request (a bitfield or an extended payload does, once).
//!
//! What we refuse and what we let pass: a message that is not negotiated, out of range or of
//! the wrong length ends the connection, as in every other client. A request that is only
//! larger than we serve does not ([`Frame::Oversized`]), nor does an id that nobody has
//! defined: such a frame is skipped when it is short.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::bitfield::Bitfield;
use crate::geometry::{BLOCK_LEN, Block, Geometry, PieceIndex};

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
    /// A request inside the torrent for more bytes than we serve at once; consumed. Answered
    /// with [`Message::Reject`] when both sides speak BEP-6, else ignored (as libtorrent and
    /// Transmission do).
    Oversized(Block),
}

/// What a peer sent that no peer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The length prefix does not fit the message id.
    #[error("message {id} of {len} bytes")]
    Length {
        /// The message id.
        id: u8,
        /// The length prefix.
        len: u32,
    },
    /// The length prefix fits no message of this torrent.
    #[error("a message of {len} bytes, more than any may have")]
    TooLong {
        /// The length prefix.
        len: u32,
    },
    /// A message of BEP-6 or BEP-10 that the handshakes did not agree on.
    #[error("message {id} without its extension")]
    NotNegotiated {
        /// The message id.
        id: u8,
    },
    /// A piece number that the torrent does not have.
    #[error("message {id} names piece {piece}, which does not exist")]
    NoSuchPiece {
        /// The message id.
        id: u8,
        /// The number.
        piece: u32,
    },
    /// A range that does not lie inside its piece, or is empty.
    #[error("message {id} names {len} bytes from {begin} of piece {piece}, which do not exist")]
    NoSuchBlock {
        /// The message id.
        id: u8,
        /// The piece.
        piece: u32,
        /// First byte.
        begin: u32,
        /// Bytes.
        len: u32,
    },
    /// A `piece` with more payload than anybody asked for.
    #[error("a block of {len} bytes, more than was asked")]
    BlockTooLong {
        /// Bytes of payload.
        len: u32,
    },
}

mod id {
    pub(super) const CHOKE: u8 = 0;
    pub(super) const UNCHOKE: u8 = 1;
    pub(super) const INTERESTED: u8 = 2;
    pub(super) const NOT_INTERESTED: u8 = 3;
    pub(super) const HAVE: u8 = 4;
    pub(super) const BITFIELD: u8 = 5;
    pub(super) const REQUEST: u8 = 6;
    pub(super) const PIECE: u8 = 7;
    pub(super) const CANCEL: u8 = 8;
    pub(super) const PORT: u8 = 9;
    pub(super) const SUGGEST: u8 = 13;
    pub(super) const HAVE_ALL: u8 = 14;
    pub(super) const HAVE_NONE: u8 = 15;
    pub(super) const REJECT: u8 = 16;
    pub(super) const ALLOWED_FAST: u8 = 17;
    pub(super) const EXTENDED: u8 = 20;
}

/// Length prefix, id, piece and begin: what comes before a block's payload.
pub const PIECE_HEADER_LEN: usize = 13;

/// Length prefix of a whole extended message at most: a 16 KiB piece of metadata or a 16 KiB
/// handshake, and room for what stands around it.
pub const MAX_EXTENDED_LEN: u32 = 20 * 1024;

/// Length prefix of a message that nobody has defined, at most, to be skipped.
pub const MAX_UNKNOWN_LEN: u32 = 16 * 1024;

/// Decodes frames of one connection.
#[derive(Debug, Clone)]
pub struct Decoder {
    geometry: Geometry,
    fast: bool,
    extended: bool,
    max_block: u32,
}

impl Decoder {
    /// For a torrent of that geometry; `fast` and `extended` as both sides set them.
    pub fn new(geometry: Geometry, fast: bool, extended: bool) -> Self {
        Self {
            geometry,
            fast,
            extended,
            max_block: BLOCK_LEN,
        }
    }

    /// Lets a block have up to `max_block` bytes instead of 16 KiB: for peers that agreed on
    /// it, never for strangers.
    pub fn with_max_block(mut self, max_block: u32) -> Self {
        self.max_block = max_block;
        self
    }

    /// The most bytes that may have to be in the buffer for one frame to be decoded. A block's
    /// payload does not count: the driver takes it.
    pub fn max_buffered(&self) -> usize {
        4 + self.bitfield_len().max(MAX_EXTENDED_LEN) as usize
    }

    /// Takes the next frame off `buffer`, or `None` when more bytes are needed.
    ///
    /// `buffer` never needs to hold more than one frame's bound; the decoder never reserves
    /// memory from a length prefix that it has not checked. After an error the connection is
    /// of no more use.
    pub fn decode(&self, buffer: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        loop {
            let Some(len) = peek_u32(buffer, 0) else {
                return Ok(None);
            };
            if len == 0 {
                buffer.advance(4);
                return Ok(Some(Frame::Message(Message::KeepAlive)));
            }
            self.check_any_length(len)?;
            let Some(&id) = buffer.get(4) else {
                return Ok(None);
            };
            self.check_length(id, len)?;
            if id == id::PIECE {
                return self.piece(buffer, len);
            }
            let end = 4 + len as usize;
            if buffer.len() < end {
                return Ok(None);
            }
            let frame = self.frame(id, &buffer[5..end])?;
            buffer.advance(end);
            if frame.is_some() {
                return Ok(frame);
            }
        }
    }

    /// Whatever the id, which may not be there yet: no frame is longer than the longest.
    fn check_any_length(&self, len: u32) -> Result<(), WireError> {
        let longest = self
            .bitfield_len()
            .max(MAX_EXTENDED_LEN)
            .max(self.max_block.saturating_add(9));
        if len > longest {
            return Err(WireError::TooLong { len });
        }
        Ok(())
    }

    /// Whether a message of that id may be negotiated and that long.
    fn check_length(&self, id: u8, len: u32) -> Result<(), WireError> {
        let fits = match id {
            id::CHOKE | id::UNCHOKE | id::INTERESTED | id::NOT_INTERESTED => len == 1,
            id::HAVE => len == 5,
            id::BITFIELD => len == self.bitfield_len(),
            id::REQUEST | id::CANCEL => len == 13,
            id::PIECE if len > self.max_block.saturating_add(9) => {
                return Err(WireError::BlockTooLong { len: len - 9 });
            }
            id::PIECE => len > 9,
            id::PORT => len == 3,
            id::SUGGEST..=id::ALLOWED_FAST if !self.fast => {
                return Err(WireError::NotNegotiated { id });
            }
            id::HAVE_ALL | id::HAVE_NONE => len == 1,
            id::SUGGEST | id::ALLOWED_FAST => len == 5,
            id::REJECT => len == 13,
            id::EXTENDED if !self.extended => return Err(WireError::NotNegotiated { id }),
            id::EXTENDED => (2..=MAX_EXTENDED_LEN).contains(&len),
            _ => len <= MAX_UNKNOWN_LEN,
        };
        if fits {
            Ok(())
        } else {
            Err(WireError::Length { id, len })
        }
    }

    fn bitfield_len(&self) -> u32 {
        1 + self.geometry.pieces().div_ceil(8)
    }

    fn piece(&self, buffer: &mut BytesMut, len: u32) -> Result<Option<Frame>, WireError> {
        let (Some(piece), Some(begin)) = (peek_u32(buffer, 5), peek_u32(buffer, 9)) else {
            return Ok(None);
        };
        let block = self.block(id::PIECE, piece, begin, len - 9)?;
        buffer.advance(PIECE_HEADER_LEN);
        Ok(Some(Frame::Piece(block)))
    }

    /// The frame of that id, whose body has the right length; `None` when it is to be skipped.
    fn frame(&self, id: u8, body: &[u8]) -> Result<Option<Frame>, WireError> {
        let message = match id {
            id::CHOKE => Message::Choke,
            id::UNCHOKE => Message::Unchoke,
            id::INTERESTED => Message::Interested,
            id::NOT_INTERESTED => Message::NotInterested,
            id::HAVE => Message::Have(self.index(id, body)?),
            id::BITFIELD => match Bitfield::from_wire(body, self.geometry.pieces()) {
                Ok(bitfield) => Message::Bitfield(bitfield),
                Err(_) => {
                    return Err(WireError::Length {
                        id,
                        len: self.bitfield_len(),
                    });
                }
            },
            id::REQUEST | id::CANCEL | id::REJECT => return self.about_block(id, body),
            id::PORT => Message::Port(u16::from_be_bytes([body[0], body[1]])),
            id::SUGGEST => Message::Suggest(self.index(id, body)?),
            id::HAVE_ALL => Message::HaveAll,
            id::HAVE_NONE => Message::HaveNone,
            id::ALLOWED_FAST => Message::AllowedFast(self.index(id, body)?),
            // Copied, because it may be kept: the read buffer behind it is far larger.
            id::EXTENDED => Message::Extended {
                id: body[0],
                payload: Bytes::copy_from_slice(&body[1..]),
            },
            _ => return Ok(None),
        };
        Ok(Some(Frame::Message(message)))
    }

    /// A request, cancel or reject. We never ask for an oversized block, and never queue one:
    /// its cancel or reject concerns nothing.
    fn about_block(&self, id: u8, body: &[u8]) -> Result<Option<Frame>, WireError> {
        let [piece, begin, len] = [0, 4, 8].map(|at| peek_u32(body, at).unwrap_or_default());
        let block = self.block(id, piece, begin, len)?;
        let oversized = block.len > self.max_block;
        Ok(match id {
            id::REQUEST if oversized => Some(Frame::Oversized(block)),
            _ if oversized => None,
            id::REQUEST => Some(Frame::Message(Message::Request(block))),
            id::CANCEL => Some(Frame::Message(Message::Cancel(block))),
            _ => Some(Frame::Message(Message::Reject(block))),
        })
    }

    fn index(&self, id: u8, body: &[u8]) -> Result<PieceIndex, WireError> {
        let piece = peek_u32(body, 0).unwrap_or(u32::MAX);
        self.geometry
            .piece(piece)
            .ok_or(WireError::NoSuchPiece { id, piece })
    }

    fn block(&self, id: u8, piece: u32, begin: u32, len: u32) -> Result<Block, WireError> {
        self.geometry
            .block(piece, begin, len)
            .ok_or(WireError::NoSuchBlock {
                id,
                piece,
                begin,
                len,
            })
    }
}

/// The big-endian number at that place, when all of it is there.
fn peek_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}

/// Appends the wire form.
pub fn encode(message: &Message, out: &mut BytesMut) {
    match message {
        Message::KeepAlive => out.put_u32(0),
        Message::Choke => put_head(out, 1, id::CHOKE),
        Message::Unchoke => put_head(out, 1, id::UNCHOKE),
        Message::Interested => put_head(out, 1, id::INTERESTED),
        Message::NotInterested => put_head(out, 1, id::NOT_INTERESTED),
        Message::Have(piece) => put_piece(out, id::HAVE, *piece),
        Message::Bitfield(bitfield) => {
            put_head(out, 1 + bitfield.len().div_ceil(8), id::BITFIELD);
            bitfield.put_wire(out);
        }
        Message::Request(block) => put_block(out, id::REQUEST, *block),
        Message::Cancel(block) => put_block(out, id::CANCEL, *block),
        Message::Port(port) => {
            put_head(out, 3, id::PORT);
            out.put_u16(*port);
        }
        Message::Suggest(piece) => put_piece(out, id::SUGGEST, *piece),
        Message::HaveAll => put_head(out, 1, id::HAVE_ALL),
        Message::HaveNone => put_head(out, 1, id::HAVE_NONE),
        Message::Reject(block) => put_block(out, id::REJECT, *block),
        Message::AllowedFast(piece) => put_piece(out, id::ALLOWED_FAST, *piece),
        Message::Extended { id, payload } => {
            let len = u32::try_from(payload.len() + 2).expect("an extended payload is short");
            put_head(out, len, id::EXTENDED);
            out.put_u8(*id);
            out.put_slice(payload);
        }
    }
}

fn put_head(out: &mut BytesMut, len: u32, id: u8) {
    out.put_u32(len);
    out.put_u8(id);
}

fn put_piece(out: &mut BytesMut, id: u8, piece: PieceIndex) {
    put_head(out, 5, id);
    out.put_u32(piece.get());
}

fn put_block(out: &mut BytesMut, id: u8, block: Block) {
    put_head(out, 13, id);
    out.put_u32(block.piece.get());
    out.put_u32(block.begin);
    out.put_u32(block.len);
}

/// The 13 bytes in front of a block's payload.
pub fn piece_header(block: Block) -> [u8; PIECE_HEADER_LEN] {
    let mut header = [0; PIECE_HEADER_LEN];
    header[..4].copy_from_slice(&(block.len + 9).to_be_bytes());
    header[4] = id::PIECE;
    header[5..9].copy_from_slice(&block.piece.get().to_be_bytes());
    header[9..].copy_from_slice(&block.begin.to_be_bytes());
    header
}

#[cfg(test)]
mod tests;
