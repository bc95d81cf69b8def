//! Where pieces and blocks lie in a torrent's bytes.
//!
//! Owns the arithmetic. Invariant: a [`PieceIndex`] or [`Block`] made by [`Geometry`] lies
//! inside the torrent, so nobody else checks again. Wire integers become these types at the
//! edge, through [`Geometry::piece`] and [`Geometry::block`].

use std::fmt;
use std::ops::Range;

/// The universal request size of BEP-3 clients.
pub const BLOCK_LEN: u32 = 16 * 1024;

/// The number of a piece that exists in its torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PieceIndex(pub(crate) u32);

/// A range of bytes inside one piece: what one request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block {
    /// The piece it lies in.
    pub piece: PieceIndex,
    /// First byte, counted from the start of the piece.
    pub begin: u32,
    /// Number of bytes; never 0.
    pub len: u32,
}

/// Length, piece length and what follows from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    length: u64,
    piece_len: u32,
    pieces: u32,
}

/// Why a length and a piece length make no torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// An empty torrent has no swarm.
    #[error("the torrent is empty")]
    Empty,
    /// The piece length is 0 or beyond what clients accept.
    #[error("piece length {0} is not between 1 and 536854528")]
    PieceLength(u64),
    /// More pieces than any client accepts.
    #[error("{0} pieces are more than 2097152")]
    TooManyPieces(u64),
}

impl PieceIndex {
    /// The number as it travels.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The number as an index.
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Block {
    /// One past the last byte, counted from the start of the piece.
    pub fn end(&self) -> u32 {
        self.begin + self.len
    }
}

impl Geometry {
    /// libtorrent's limit, the tightest of the clients that matter.
    pub const MAX_PIECE_LEN: u32 = 536_854_528;
    /// libtorrent's limit on the number of pieces.
    pub const MAX_PIECES: u32 = 0x20_0000;

    /// Checks the two lengths and derives the number of pieces.
    pub fn new(length: u64, piece_len: u64) -> Result<Self, GeometryError> {
        if length == 0 {
            return Err(GeometryError::Empty);
        }
        let short = u32::try_from(piece_len).map_err(|_| GeometryError::PieceLength(piece_len))?;
        if short == 0 || short > Self::MAX_PIECE_LEN {
            return Err(GeometryError::PieceLength(piece_len));
        }
        let pieces = length.div_ceil(piece_len);
        let pieces = u32::try_from(pieces)
            .ok()
            .filter(|&n| n <= Self::MAX_PIECES)
            .ok_or(GeometryError::TooManyPieces(pieces))?;
        Ok(Self {
            length,
            piece_len: short,
            pieces,
        })
    }

    /// Bytes in all.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of every piece but perhaps the last.
    pub fn piece_len(&self) -> u32 {
        self.piece_len
    }

    /// How many pieces there are; never 0.
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// All pieces in order.
    pub fn all_pieces(
        &self,
    ) -> impl DoubleEndedIterator<Item = PieceIndex> + ExactSizeIterator + use<> {
        (0..self.pieces).map(PieceIndex)
    }

    /// The piece of that number, if the torrent has it.
    pub fn piece(&self, index: u32) -> Option<PieceIndex> {
        (index < self.pieces).then_some(PieceIndex(index))
    }

    /// The piece that holds the byte at `offset`.
    pub fn piece_at(&self, offset: u64) -> Option<PieceIndex> {
        if offset >= self.length {
            return None;
        }
        u32::try_from(offset / u64::from(self.piece_len))
            .ok()
            .map(PieceIndex)
    }

    /// Bytes of this piece: short only for the last.
    pub fn piece_size(&self, piece: PieceIndex) -> u32 {
        let start = self.piece_offset(piece);
        let left = self.length - start;
        u32::try_from(left).map_or(self.piece_len, |left| left.min(self.piece_len))
    }

    /// Where the piece starts in the torrent.
    pub fn piece_offset(&self, piece: PieceIndex) -> u64 {
        u64::from(piece.0) * u64::from(self.piece_len)
    }

    /// The bytes of the torrent that the piece covers.
    pub fn piece_range(&self, piece: PieceIndex) -> Range<u64> {
        let start = self.piece_offset(piece);
        start..start + u64::from(self.piece_size(piece))
    }

    /// A range inside one piece, if it lies wholly inside it and is not empty.
    pub fn block(&self, piece: u32, begin: u32, len: u32) -> Option<Block> {
        let piece = self.piece(piece)?;
        let end = begin.checked_add(len)?;
        (len > 0 && end <= self.piece_size(piece)).then_some(Block { piece, begin, len })
    }

    /// Where a block starts in the torrent.
    pub fn block_offset(&self, block: Block) -> u64 {
        self.piece_offset(block.piece) + u64::from(block.begin)
    }

    /// The piece cut into blocks of `block_len` (the last may be short).
    pub fn blocks(&self, piece: PieceIndex, block_len: u32) -> impl Iterator<Item = Block> + use<> {
        let size = self.piece_size(piece);
        (0..size.div_ceil(block_len)).map(move |n| {
            let begin = n * block_len;
            Block {
                piece,
                begin,
                len: block_len.min(size - begin),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_piece_and_block_are_short() {
        let g = Geometry::new(100_000, 65_536).unwrap();
        assert_eq!(g.pieces(), 2);
        let last = g.piece(1).unwrap();
        assert_eq!(g.piece_size(last), 34_464);
        let blocks: Vec<_> = g.blocks(last, BLOCK_LEN).collect();
        assert_eq!(blocks.len(), 3);
        assert_eq!(blocks[2].len, 1_696);
        assert_eq!(g.block(1, 34_463, 1).map(|b| b.end()), Some(34_464));
        assert_eq!(g.block(1, 34_464, 1), None);
        assert_eq!(g.block(0, u32::MAX, 2), None);
        assert_eq!(g.piece(2), None);
        assert_eq!(g.piece_at(100_000), None);
    }

    #[test]
    fn absurd_lengths_are_refused() {
        assert_eq!(Geometry::new(0, 16_384), Err(GeometryError::Empty));
        assert_eq!(Geometry::new(1, 0), Err(GeometryError::PieceLength(0)));
        assert!(matches!(
            Geometry::new(u64::MAX, 1),
            Err(GeometryError::TooManyPieces(_))
        ));
        assert!(matches!(
            Geometry::new(1, u64::MAX),
            Err(GeometryError::PieceLength(_))
        ));
    }
}
