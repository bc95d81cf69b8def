//! Hashing at the speed of the disk: SHA-1 per piece, several pieces at once where the CPU
//! can, and the one-pass hasher of an upload (SHA-1 per piece; its SHA-256 runs beside it).
//!
//! `multi` and `wide` hold the instructions, `compress` chooses between them and the `sha1` crate,
//! `message` cuts segments into blocks, `stream` cuts an upload into pieces.

mod compress;
mod message;
#[cfg(target_arch = "x86_64")]
mod multi;
mod stream;
#[cfg(target_arch = "x86_64")]
mod wide;

use bytes::Bytes;
use sha1::{Digest, Sha1};

use crate::metainfo::PieceHash;

pub use stream::{HashedPieces, StreamHasher};

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Up to this length pieces are small, so that even a small blob is shared while it arrives.
const SMALL_UP_TO: u64 = 128 * MIB as u64;
/// Up to this length pieces are [`MEDIUM`]; above, there would be too many.
const MEDIUM_UP_TO: u64 = 96 * GIB;

const SMALL: u32 = 256 * KIB;
const MEDIUM: u32 = MIB;
const LARGE: u32 = 16 * MIB;

/// Piece length for a new torrent: 256 KiB up to 128 MiB, 1 MiB up to 96 GiB, 16 MiB above.
pub fn piece_len_for(length: u64) -> u32 {
    if length <= SMALL_UP_TO {
        SMALL
    } else if length <= MEDIUM_UP_TO {
        MEDIUM
    } else {
        LARGE
    }
}

/// SHA-1 of one piece given as segments in order.
pub fn piece_hash(segments: &[impl AsRef<[u8]>]) -> PieceHash {
    let mut hasher = Sha1::new();
    for segment in segments {
        hasher.update(segment);
    }
    hasher.finalize().into()
}

/// How many messages this CPU hashes fastest together: 4 or 8.
pub fn at_once() -> u32 {
    compress::lanes()
}

/// SHA-1 of several independent messages at once, where the CPU can.
/// Each message is a list of segments in order.
///
/// [`at_once`] of them keep one core busy; messages of any length and number are fine.
pub fn piece_hashes(messages: &[&[Bytes]]) -> Vec<PieceHash> {
    message::hash_all(messages)
}

/// SHA-1 of the pieces that these bytes are, one after the other; the last may be shorter.
pub fn hashes_of(bytes: &Bytes, piece_len: u32) -> Vec<PieceHash> {
    let piece_len = piece_len.max(1) as usize;
    let piece = |at: usize| bytes.slice(at..bytes.len().min(at + piece_len));
    let pieces: Vec<Bytes> = (0..bytes.len()).step_by(piece_len).map(piece).collect();
    let messages: Vec<&[Bytes]> = pieces.iter().map(std::slice::from_ref).collect();
    piece_hashes(&messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piece_lengths_are_those_every_origin_uses() {
        for (length, piece_len) in [
            (0, 256 << 10),
            (1, 256 << 10),
            (128 << 20, 256 << 10),
            ((128 << 20) + 1, 1 << 20),
            (96 << 30, 1 << 20),
            ((96 << 30) + 1, 16 << 20),
            (u64::MAX, 16 << 20),
        ] {
            assert_eq!(piece_len_for(length), piece_len, "{length}");
        }
    }

    #[test]
    fn a_run_of_bytes_is_cut_into_pieces() {
        let bytes = Bytes::from_static(b"abcabcab");
        let [abc, ab] = ["abc", "ab"].map(|piece| piece_hash(&[piece]));
        assert_eq!(hashes_of(&bytes, 3), [abc, abc, ab]);
        assert_eq!(hashes_of(&bytes.slice(..6), 3), [abc, abc]);
        assert_eq!(hashes_of(&Bytes::new(), 3), [] as [PieceHash; 0]);
    }

    #[test]
    fn a_piece_is_its_segments_joined() {
        let abc = "a9993e364706816aba3e25717850c26c9cd0d89d";
        assert_eq!(hex::encode(piece_hash(&["a", "", "bc"])), abc);
        let none: [&[u8]; 0] = [];
        let empty = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
        assert_eq!(hex::encode(piece_hash(&none)), empty);
    }
}
