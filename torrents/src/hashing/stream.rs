//! The pieces of an upload whose length is not known until it ends.
//!
//! Most uploads are small, so small pieces are hashed until 128 MiB and larger ones from there
//! on; what an upload that goes on had hashed in vain is less than hashing everything twice.

use std::fmt;

use super::compress::{BLOCK, Block, INITIAL, State, compress, digest, last_blocks};
use super::{MEDIUM, PieceHash, SMALL, SMALL_UP_TO, piece_len_for};

/// Hashes an upload of unknown length as it streams: SHA-1 for pieces of 256 KiB until 128 MiB,
/// then for 1 MiB. (The caller runs SHA-256, which needs no geometry, beside it.)
///
/// Beyond 128 MiB `finish` says that the beginning is to be hashed again, several pieces at
/// once; above 96 GiB, that the torrent must be re-hashed at 16 MiB.
#[derive(Clone)]
pub struct StreamHasher {
    length: u64,
    /// The beginning of a block, and how many bytes of it have come: never all.
    partial: Block,
    held: usize,
    pieces: Pieces,
    /// What the pieces at hand begin after: nothing, or everything that was hashed as small ones.
    begin: u64,
}

/// What an upload's pieces hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashedPieces {
    /// The piece length that `piece_len_for` names for the length, or the largest hashed.
    pub piece_len: u32,
    /// So many pieces at the beginning are not among the hashed: they came before it was known
    /// how long theirs would be. [`super::piece_hashes`] is the fastest way to catch up.
    pub missing: u32,
    /// The hashes of the others.
    pub pieces: Vec<PieceHash>,
    /// The table wants larger pieces: hash again in the background.
    pub rehash: bool,
}

impl StreamHasher {
    /// Nothing hashed yet.
    pub fn new() -> Self {
        Self {
            length: 0,
            partial: [0; BLOCK],
            held: 0,
            pieces: Pieces::new(SMALL),
            begin: 0,
        }
    }

    /// The next bytes, of any length.
    pub fn update(&mut self, bytes: &[u8]) {
        let small_ones = usize::try_from(SMALL_UP_TO.saturating_sub(self.length));
        let small_ones = small_ones.unwrap_or(usize::MAX).min(bytes.len());
        let (small_ones, later) = bytes.split_at(small_ones);
        self.take(small_ones);
        if !later.is_empty() {
            self.go_beyond_small();
            self.take(later);
        }
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The hashes for the final length. Empty input gives no pieces.
    pub fn finish(self) -> HashedPieces {
        let piece_len = self.pieces.piece_len;
        let missing = u32::try_from(self.begin / u64::from(piece_len));
        HashedPieces {
            piece_len,
            missing: missing.expect("small pieces end early"),
            rehash: piece_len_for(self.length) != piece_len,
            pieces: self.pieces.finish(&self.partial[..self.held]),
        }
    }

    /// At the border, where a piece of either length ends.
    fn go_beyond_small(&mut self) {
        if self.pieces.piece_len == SMALL {
            debug_assert_eq!((self.length, self.held), (SMALL_UP_TO, 0));
            self.pieces = Pieces::new(MEDIUM);
            self.begin = self.length;
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        let (head, bytes) = bytes.split_at(bytes.len().min((BLOCK - self.held) % BLOCK));
        self.hold(head);
        if self.held == BLOCK {
            let block = self.partial;
            self.held = 0;
            self.mix(&[block]);
        }
        let (blocks, tail) = bytes.as_chunks();
        self.mix(blocks);
        self.hold(tail);
    }

    /// Keeps bytes of a block that is not whole; they fit.
    fn hold(&mut self, bytes: &[u8]) {
        let end = self.held + bytes.len();
        self.partial[self.held..end].copy_from_slice(bytes);
        self.held = end;
    }

    fn mix(&mut self, mut blocks: &[Block]) {
        while !blocks.is_empty() {
            let room = self.pieces.room();
            let (now, later) = blocks.split_at(room.min(blocks.len()));
            compress(std::array::from_mut(&mut self.pieces.state), [now]);
            self.pieces.advance(now.len());
            blocks = later;
        }
    }
}

impl Default for StreamHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for StreamHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamHasher")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// The pieces of one length.
#[derive(Clone)]
struct Pieces {
    piece_len: u32,
    done: Vec<PieceHash>,
    /// The piece at hand, and how many of its bytes are mixed in: never all of them.
    state: State,
    mixed: u32,
}

impl Pieces {
    fn new(piece_len: u32) -> Self {
        Self {
            piece_len,
            done: Vec::new(),
            state: INITIAL,
            mixed: 0,
        }
    }

    /// Blocks until the piece at hand is whole; never 0.
    fn room(&self) -> usize {
        (self.piece_len - self.mixed) as usize / BLOCK
    }

    /// That many blocks, at most the room, are mixed in.
    fn advance(&mut self, blocks: usize) {
        self.mixed += u32::try_from(blocks * BLOCK).expect("no more than the room");
        if self.mixed == self.piece_len {
            self.end_piece(&[]);
        }
    }

    fn end_piece(&mut self, left: &[u8]) {
        let length = u64::from(self.mixed) + left.len() as u64;
        let (last, count) = last_blocks(left, length);
        compress(std::array::from_mut(&mut self.state), [&last[..count]]);
        self.done.push(digest(self.state));
        self.state = INITIAL;
        self.mixed = 0;
    }

    fn finish(mut self, left: &[u8]) -> Vec<PieceHash> {
        if self.mixed > 0 || !left.is_empty() {
            self.end_piece(left);
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn above_the_table_of_medium_pieces_the_caller_is_told_to_hash_again() {
        for (length, rehash) in [(96 << 30, false), ((96 << 30) + 64, true)] {
            let hasher = StreamHasher {
                length,
                pieces: Pieces::new(MEDIUM),
                begin: SMALL_UP_TO,
                ..StreamHasher::new()
            };
            let hashed = hasher.finish();
            assert_eq!((hashed.piece_len, hashed.rehash), (MEDIUM, rehash));
            assert_eq!(hashed.missing, 128);
        }
    }
}
