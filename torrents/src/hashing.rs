//! Hashing at the speed of the disk: SHA-1 per piece, several pieces at once where the CPU
//! can, and the one-pass hasher of an upload (SHA-1 per piece and SHA-256 of the whole).

use crate::metainfo::PieceHash;

/// Piece length for a new torrent: 256 KiB up to 128 MiB, 1 MiB up to 96 GiB, 16 MiB above.
pub fn piece_len_for(length: u64) -> u32 {
    let _ = length;
    todo!()
}

/// SHA-1 of one piece given as segments in order.
pub fn piece_hash(segments: &[impl AsRef<[u8]>]) -> PieceHash {
    let _ = segments.len();
    todo!()
}

/// SHA-1 of several independent messages at once, interleaved when the CPU has SHA-NI.
/// Each message is a list of segments in order.
pub fn piece_hashes(messages: &[&[bytes::Bytes]]) -> Vec<PieceHash> {
    let _ = messages;
    todo!()
}

/// Hashes an upload of unknown length as it streams: SHA-1 for both small piece lengths until
/// 128 MiB, then for 1 MiB only. (The caller runs SHA-256, which needs no geometry, beside it.)
///
/// Above 96 GiB `finish` says that the torrent must be re-hashed at 16 MiB.
#[derive(Debug)]
pub struct StreamHasher {
    _private: (),
}

/// What an upload's pieces hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashedPieces {
    /// The piece length that `piece_len_for` names for the length, or the largest hashed.
    pub piece_len: u32,
    /// One hash a piece.
    pub pieces: Vec<PieceHash>,
    /// The table wants larger pieces: hash again in the background.
    pub rehash: bool,
}

impl StreamHasher {
    /// Nothing hashed yet.
    pub fn new() -> Self {
        todo!()
    }
    /// The next bytes, of any length.
    pub fn update(&mut self, bytes: &[u8]) {
        let _ = bytes;
        todo!()
    }
    /// Bytes so far.
    pub fn length(&self) -> u64 {
        todo!()
    }
    /// The hashes for the final length. Empty input gives no pieces.
    pub fn finish(self) -> HashedPieces {
        todo!()
    }
}

impl Default for StreamHasher {
    fn default() -> Self {
        Self::new()
    }
}
