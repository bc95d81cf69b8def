//! One piece that is being fetched: which of its blocks are free, requested or received.
//!
//! ```text
//!         request            receive
//!  Free ───────────▶ Asked(n) ──────▶ Received(from)
//!    ▲                │  ▲
//!    └──── release ───┘  └ a second request in the endgame
//! ```
//!
//! Invariants: `free` and `missing` count the cells; `cursor` is no further than the first free
//! one; every received cell names one of `sources`.

use smallvec::SmallVec;

use super::{Now, PeerKey, Slot};
use crate::geometry::{Block, PieceIndex};

const FREE: u8 = 0;
/// 1..=3: by how many peers the block is owed.
const MOST_ASKED: u8 = 3;
/// From here on: received, by the number of its source.
const RECEIVED: u8 = MOST_ASKED + 1;

/// How many peers may contribute to one piece.
pub(super) const MAX_SOURCES: usize = (u8::MAX - RECEIVED) as usize;

/// A piece on its way.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) piece: PieceIndex,
    /// Bytes of the piece.
    pub(super) size: u32,
    block_len: u32,
    cells: Vec<u8>,
    pub(super) free: u32,
    pub(super) missing: u32,
    cursor: u32,
    /// Who opened it and gets the rest of it by preference.
    pub(super) owner: Option<Slot>,
    /// Nobody but the owner may contribute: there was a wrong hash.
    pub(super) exclusive: bool,
    /// Who contributed.
    pub(super) sources: SmallVec<[PeerKey; 2]>,
    /// All blocks are in and the hash is being checked.
    pub(super) verifying: bool,
    /// When a block last came.
    pub(super) touched: Now,
}

/// What a received block was good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receipt {
    /// Nothing.
    Useless,
    /// It is in.
    Useful {
        /// Others owe it too.
        rivals: bool,
        /// It was the last of its piece.
        complete: bool,
    },
}

impl Partial {
    pub(super) fn new(
        piece: PieceIndex,
        size: u32,
        block_len: u32,
        mut cells: Vec<u8>,
        now: Now,
    ) -> Self {
        let blocks = size.div_ceil(block_len);
        cells.clear();
        cells.resize(blocks as usize, FREE);
        Self {
            piece,
            size,
            block_len,
            cells,
            free: blocks,
            missing: blocks,
            cursor: 0,
            owner: None,
            exclusive: false,
            sources: SmallVec::new(),
            verifying: false,
            touched: now,
        }
    }

    /// Hands the cells back for the next piece.
    pub(super) fn into_cells(self) -> Vec<u8> {
        self.cells
    }

    pub(super) fn blocks(&self) -> u32 {
        self.size.div_ceil(self.block_len)
    }

    /// Nothing is requested and nothing received.
    pub(super) fn is_untouched(&self) -> bool {
        self.free == self.blocks()
    }

    /// Some blocks are owed by peers.
    pub(super) fn is_owed(&self) -> bool {
        self.free < self.missing
    }

    /// Whether the peer may contribute.
    pub(super) fn admits(&self, slot: Slot) -> bool {
        !self.exclusive || self.owner == Some(slot)
    }

    /// Whether the peer may be asked for more of it.
    pub(super) fn asks(&self, slot: Slot) -> bool {
        self.admits(slot) && !self.is_crowded()
    }

    /// So many contributed that no more can be told apart: it is finished by those who owe the
    /// rest, or must begin anew.
    pub(super) fn is_crowded(&self) -> bool {
        self.sources.len() >= MAX_SOURCES
    }

    /// Takes up to `most` free blocks.
    pub(super) fn take(&mut self, most: usize, out: &mut Vec<Block>) {
        let mut left = most.min(self.free as usize);
        let mut at = self.cursor as usize;
        while left > 0 {
            let Some(skip) = self.cells[at..].iter().position(|&cell| cell == FREE) else {
                debug_assert!(false, "free cells are counted wrong");
                return;
            };
            at += skip;
            self.cells[at] = 1;
            out.push(self.block(at));
            self.free -= 1;
            left -= 1;
            at += 1;
        }
        self.cursor = u32::try_from(at).unwrap_or(u32::MAX);
    }

    /// Takes the first free blocks that are neighbours.
    pub(super) fn take_neighbours(&mut self, out: &mut Vec<Block>) {
        let start = self.cells.iter().position(|&cell| cell == FREE);
        for at in start.unwrap_or(self.cells.len())..self.cells.len() {
            if self.cells[at] != FREE {
                return;
            }
            self.cells[at] = 1;
            self.free -= 1;
            out.push(self.block(at));
        }
    }

    /// Whether one more peer may be asked for a block that others owe.
    pub(super) fn may_double(&self, block: Block, most: u8) -> bool {
        self.index(block)
            .is_some_and(|at| (1..most.min(MOST_ASKED)).contains(&self.cells[at]))
    }

    /// One more peer is asked for the block.
    pub(super) fn double(&mut self, block: Block) {
        if let Some(at) = self.index(block) {
            debug_assert!((1..MOST_ASKED).contains(&self.cells[at]));
            self.cells[at] += 1;
        }
    }

    /// A peer does not owe the block any more; true if it is free again.
    pub(super) fn release(&mut self, block: Block) -> bool {
        let Some(at) = self.index(block) else {
            debug_assert!(false, "a block of another grid is released");
            return false;
        };
        match self.cells[at] {
            1 => {
                self.cells[at] = FREE;
                self.free += 1;
                self.cursor = self.cursor.min(u32::try_from(at).unwrap_or(u32::MAX));
                true
            }
            asked @ 2..=MOST_ASKED => {
                self.cells[at] = asked - 1;
                false
            }
            _ => false,
        }
    }

    /// A block came. `owed` tells whether the sender owed it.
    pub(super) fn receive(&mut self, block: Block, from: PeerKey, owed: bool, now: Now) -> Receipt {
        let Some(at) = self.index(block) else {
            return Receipt::Useless;
        };
        let cell = self.cells[at];
        if cell >= RECEIVED || self.verifying {
            return Receipt::Useless;
        }
        let source = match self.sources.iter().rposition(|&source| source == from) {
            Some(known) => known,
            None if self.sources.len() < MAX_SOURCES => {
                self.sources.push(from);
                self.sources.len() - 1
            }
            None => return Receipt::Useless,
        };
        self.cells[at] = RECEIVED + u8::try_from(source).unwrap_or(u8::MAX - RECEIVED);
        self.free -= u32::from(cell == FREE);
        self.missing -= 1;
        self.touched = now;
        self.verifying = self.missing == 0;
        Receipt::Useful {
            rivals: cell > u8::from(owed),
            complete: self.verifying,
        }
    }

    /// What was received, by whom.
    pub(super) fn received(&self) -> impl Iterator<Item = (PeerKey, Block)> + '_ {
        (0..self.cells.len())
            .filter(|&at| self.cells[at] >= RECEIVED)
            .map(|at| {
                (
                    self.sources[usize::from(self.cells[at] - RECEIVED)],
                    self.block(at),
                )
            })
    }

    fn block(&self, at: usize) -> Block {
        let begin = u32::try_from(at).unwrap_or(u32::MAX) * self.block_len;
        Block {
            piece: self.piece,
            begin,
            len: self.block_len.min(self.size - begin),
        }
    }

    fn index(&self, block: Block) -> Option<usize> {
        let at = (block.begin / self.block_len) as usize;
        (block.begin.is_multiple_of(self.block_len)
            && at < self.cells.len()
            && block.len == self.block_len.min(self.size - block.begin))
        .then_some(at)
    }

    /// Panics when an invariant does not hold.
    pub(super) fn check_invariants(&self) {
        let free = self.cells.iter().filter(|&&cell| cell == FREE).count();
        let missing = self.cells.iter().filter(|&&cell| cell < RECEIVED).count();
        assert_eq!((free, missing), (self.free as usize, self.missing as usize));
        assert!(
            self.cells[..self.cursor as usize]
                .iter()
                .all(|&cell| cell != FREE)
        );
        assert_eq!(self.verifying, self.missing == 0);
    }
}
