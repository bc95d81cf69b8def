//! Which pieces a peer has.
//!
//! Invariants: the length is fixed at construction; spare bits are zero (aria2 aborts when a
//! peer sets them); `count` always equals the number of ones.

use bytes::{BufMut, Bytes, BytesMut};

use crate::geometry::PieceIndex;

/// A fixed-length set of pieces.
#[derive(Clone, PartialEq, Eq)]
pub struct Bitfield {
    words: Box<[u64]>,
    len: u32,
    count: u32,
}

/// Bytes that are no bitfield of the expected length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BitfieldError {
    /// Not `ceil(pieces / 8)` bytes.
    #[error("a bitfield of {got} bytes where {want} are due")]
    Length {
        /// What came.
        got: usize,
        /// What was due.
        want: usize,
    },
}

impl Bitfield {
    /// No piece of `len`.
    pub fn empty(len: u32) -> Self {
        Self {
            words: vec![0; (len as usize).div_ceil(64)].into_boxed_slice(),
            len,
            count: 0,
        }
    }

    /// Every piece of `len`.
    pub fn full(len: u32) -> Self {
        let mut all = Self::empty(len);
        all.words.fill(u64::MAX);
        all.clear_spare_bits();
        all.count = len;
        all
    }

    /// Reads the wire form. Spare bits that a peer set are ignored, as most clients do.
    pub fn from_wire(bytes: &[u8], len: u32) -> Result<Self, BitfieldError> {
        let want = (len as usize).div_ceil(8);
        if bytes.len() != want {
            return Err(BitfieldError::Length {
                got: bytes.len(),
                want,
            });
        }
        let mut set = Self::empty(len);
        for (word, chunk) in set.words.iter_mut().zip(bytes.chunks(8)) {
            let mut eight = [0; 8];
            eight[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_be_bytes(eight);
        }
        set.clear_spare_bits();
        set.count = set.words.iter().map(|word| word.count_ones()).sum();
        Ok(set)
    }

    /// The wire form: high bit first, spare bits zero.
    pub fn to_wire(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        self.put_wire(&mut bytes);
        bytes.freeze()
    }

    /// Appends the wire form.
    pub fn put_wire(&self, out: &mut BytesMut) {
        let mut left = (self.len as usize).div_ceil(8);
        out.reserve(left);
        for word in &self.words {
            let bytes = word.to_be_bytes();
            out.put_slice(&bytes[..left.min(8)]);
            left = left.saturating_sub(8);
        }
    }

    /// How many pieces there are in all.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no piece is set.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether every piece is set.
    pub fn is_full(&self) -> bool {
        self.count == self.len
    }

    /// How many pieces are set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether the piece is set.
    pub fn contains(&self, piece: PieceIndex) -> bool {
        let (word, bit) = place(piece);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Sets the piece; true if it was not set before.
    pub fn insert(&mut self, piece: PieceIndex) -> bool {
        debug_assert!(piece.0 < self.len, "a piece of another torrent");
        let (word, bit) = place(piece);
        let word = &mut self.words[word];
        let fresh = *word & bit == 0;
        *word |= bit;
        self.count += u32::from(fresh);
        fresh
    }

    /// Clears the piece; true if it was set before.
    pub fn remove(&mut self, piece: PieceIndex) -> bool {
        let (word, bit) = place(piece);
        let word = &mut self.words[word];
        let had = *word & bit != 0;
        *word &= !bit;
        self.count -= u32::from(had);
        had
    }

    /// The pieces that are set, in order.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.words.iter().zip(0u32..).flat_map(|(&word, n)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let lead = rest.leading_zeros();
                rest &= !(1 << (63 - lead));
                Some(PieceIndex(n * 64 + lead))
            })
        })
    }

    /// Whether `other` has a piece that this set lacks.
    pub fn lacks_any_of(&self, other: &Self) -> bool {
        self.words
            .iter()
            .zip(&other.words)
            .any(|(mine, theirs)| theirs & !mine != 0)
    }

    fn clear_spare_bits(&mut self) {
        if let (Some(last), tail @ 1..) = (self.words.last_mut(), self.len % 64) {
            *last &= u64::MAX << (64 - tail);
        }
    }
}

impl std::fmt::Debug for Bitfield {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bitfield({}/{})", self.count, self.len)
    }
}

fn place(piece: PieceIndex) -> (usize, u64) {
    (piece.at() / 64, 1 << (63 - piece.0 % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_high_bit_first_with_zero_spare_bits() {
        let mut set = Bitfield::empty(10);
        set.insert(PieceIndex(0));
        set.insert(PieceIndex(9));
        assert_eq!(&set.to_wire()[..], &[0b1000_0000, 0b0100_0000]);
        assert_eq!(Bitfield::from_wire(&set.to_wire(), 10), Ok(set));
        let full = Bitfield::full(70);
        assert_eq!(full.to_wire().last(), Some(&0b1111_1100));
        assert!(full.is_full());
    }

    #[test]
    fn spare_bits_of_a_peer_are_ignored_and_lengths_are_exact() {
        let set = Bitfield::from_wire(&[0xff], 3).unwrap();
        assert_eq!(set.count(), 3);
        assert_eq!(set.iter().count(), 3);
        assert!(Bitfield::from_wire(&[0xff, 0], 3).is_err());
        assert!(Bitfield::from_wire(&[], 3).is_err());
    }
}
