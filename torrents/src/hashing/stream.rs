//! The pieces of an upload whose length is not known until it ends.
//!
//! Until 128 MiB both small piece lengths are hashed: both start together and are whole
//! blocks long, so that each block is read once and mixed into both states at once. Whatever
//! the length turns out to be, the end costs a block or two.

use std::fmt;

use super::compress::{BLOCK, Block, INITIAL, State, compress, digest, last_blocks};
use super::{MEDIUM, PieceHash, SMALL, SMALL_UP_TO, piece_len_for};

/// Hashes an upload of unknown length as it streams: SHA-1 for both small piece lengths until
/// 128 MiB, then for 1 MiB only. (The caller runs SHA-256, which needs no geometry, beside it.)
///
/// Above 96 GiB `finish` says that the torrent must be re-hashed at 16 MiB.
#[derive(Clone)]
pub struct StreamHasher {
    length: u64,
    /// The beginning of a block, and how many bytes of it have come: never all.
    partial: Block,
    held: usize,
    /// Gone as soon as the length is beyond small pieces.
    small: Option<Pieces>,
    medium: Pieces,
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
        Self {
            length: 0,
            partial: [0; BLOCK],
            held: 0,
            small: Some(Pieces::new(SMALL)),
            medium: Pieces::new(MEDIUM),
        }
    }

    /// The next bytes, of any length.
    pub fn update(&mut self, bytes: &[u8]) {
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
        if self.length > SMALL_UP_TO {
            self.small = None;
        }
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The hashes for the final length. Empty input gives no pieces.
    pub fn finish(mut self) -> HashedPieces {
        let wanted = piece_len_for(self.length);
        let chosen = match self.small.take() {
            Some(small) if wanted == SMALL => small,
            _ => self.medium,
        };
        HashedPieces {
            piece_len: chosen.piece_len,
            rehash: wanted != chosen.piece_len,
            pieces: chosen.finish(&self.partial[..self.held]),
        }
    }

    /// Keeps bytes of a block that is not whole; they fit.
    fn hold(&mut self, bytes: &[u8]) {
        let end = self.held + bytes.len();
        self.partial[self.held..end].copy_from_slice(bytes);
        self.held = end;
    }

    fn mix(&mut self, mut blocks: &[Block]) {
        while !blocks.is_empty() {
            let room = self.small.as_ref().unwrap_or(&self.medium).room();
            let (now, later) = blocks.split_at(room.min(blocks.len()));
            if let Some(small) = &mut self.small {
                let mut states = [small.state, self.medium.state];
                compress(&mut states, [now; 2]);
                [small.state, self.medium.state] = states;
                small.advance(now.len());
            } else {
                compress(std::array::from_mut(&mut self.medium.state), [now]);
            }
            self.medium.advance(now.len());
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
                small: None,
                ..StreamHasher::new()
            };
            let hashed = hasher.finish();
            assert_eq!((hashed.piece_len, hashed.rehash), (MEDIUM, rehash));
        }
    }
}
