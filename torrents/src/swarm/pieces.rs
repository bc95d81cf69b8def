//! What a peer has: nothing and everything cost no memory, since most peers of a young swarm
//! have one and all seeds the other.

use crate::bitfield::Bitfield;
use crate::geometry::PieceIndex;

/// A peer's pieces.
#[derive(Debug, Clone)]
pub(super) enum Pieces {
    /// None so far.
    None,
    /// Some; never all.
    Some(Bitfield),
    /// All.
    All,
}

impl Pieces {
    /// From a whole bitfield.
    pub(super) fn new(bitfield: Bitfield) -> Self {
        match bitfield {
            all if all.is_full() => Self::All,
            none if none.is_empty() => Self::None,
            some => Self::Some(some),
        }
    }

    pub(super) fn contains(&self, piece: PieceIndex) -> bool {
        match self {
            Self::None => false,
            Self::Some(set) => set.contains(piece),
            Self::All => true,
        }
    }

    pub(super) fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    /// How many of `total`.
    pub(super) fn count(&self, total: u32) -> u32 {
        match self {
            Self::None => 0,
            Self::Some(set) => set.count(),
            Self::All => total,
        }
    }

    /// Adds a piece of `total`; true if it is new.
    pub(super) fn insert(&mut self, piece: PieceIndex, total: u32) -> bool {
        if let Self::None = self {
            *self = Self::Some(Bitfield::empty(total));
        }
        let Self::Some(set) = self else {
            return false;
        };
        let fresh = set.insert(piece);
        if set.is_full() {
            *self = Self::All;
        }
        fresh
    }

    /// Takes a piece of `total` away; true if it was there.
    pub(super) fn remove(&mut self, piece: PieceIndex, total: u32) -> bool {
        if let Self::All = self {
            *self = Self::Some(Bitfield::full(total));
        }
        let Self::Some(set) = self else {
            return false;
        };
        let had = set.remove(piece);
        if set.is_empty() {
            *self = Self::None;
        }
        had
    }

    /// How many of them `have` lacks.
    pub(super) fn missing_in(&self, have: &Bitfield) -> u32 {
        match self {
            Self::None => 0,
            Self::Some(set) => {
                let lacks = set.iter().filter(|&piece| !have.contains(piece)).count();
                u32::try_from(lacks).unwrap_or(u32::MAX)
            }
            Self::All => have.len() - have.count(),
        }
    }
}
