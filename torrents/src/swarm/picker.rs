//! Chooses which blocks to ask of which peer (BEP 3).
//!
//! Owns the states of the pieces of an incomplete torrent. Returns decisions; never sends,
//! never reads a clock.
//!
//! ```text
//!            open               last block           hash right
//!  Missing ────────▶ Requested ────────────▶ Verifying ────────▶ Have
//!    ▲ ▲                 │                       │                │
//!    │ └──── released ───┘                       │                │
//!    └──────────────── hash wrong ───────────────┴──── lost ──────┘
//! ```
//!
//! What is chosen of these, and in which order, is `choose`; what becomes of it, `outcome`.
//!
//! Invariants: the sizes of the pieces that are Requested or Verifying sum to `open_bytes`,
//! which exceeds the budget only when there is a single one; exactly the Missing pieces are
//! listed in `rarity`; exactly the partials with free blocks are in `loose`.

mod choose;
mod outcome;

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::partial::Partial;
use super::pieces::Pieces;
use super::rarity::Rarity;
use super::{Now, PeerKey, Slot};
use crate::bitfield::Bitfield;
use crate::geometry::{Block, Geometry, PieceIndex};

/// A reader is starved after one to three times so long without its next piece.
const STARVED: Now = Now::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Missing,
    /// Missing, but not to be picked yet.
    Shelved,
    Open(u32),
    Have,
}

#[derive(Debug)]
struct Window {
    reader: u64,
    pieces: Range<u32>,
    /// From when on its reader counts as starved.
    starves: Now,
}

/// The picker of one incomplete torrent.
#[derive(Debug)]
pub(super) struct Picker {
    geometry: Geometry,
    block_len: u32,
    states: Vec<State>,
    rarity: Rarity,
    /// Peers that have everything; not counted piece by piece.
    seeds: u32,
    partials: Vec<Option<Partial>>,
    vacant: Vec<u32>,
    loose: Vec<u32>,
    open: u32,
    open_bytes: u64,
    budget: u64,
    windows: Vec<Window>,
    /// Pieces whose hash was wrong with several contributors: next time from one alone.
    parole: BTreeSet<PieceIndex>,
    cells: Vec<Vec<u8>>,
    epoch: u64,
    refused: bool,
    rng: Xoshiro256PlusPlus,
}

/// Who contributed to a piece.
pub(super) type Sources = smallvec::SmallVec<[PeerKey; 2]>;

/// A peer that could take requests.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) slot: Slot,
    pub(super) pieces: &'a Pieces,
    /// What it suggests, taken as it is used.
    pub(super) suggestions: &'a mut VecDeque<PieceIndex>,
    /// It says what to take and will say more soon: nothing is to be chosen for it.
    pub(super) guided: bool,
    /// It has suggested pieces before.
    pub(super) guide: bool,
    /// How many blocks at most.
    pub(super) blocks: usize,
    /// Much slower than others: it shares pieces instead of holding one for long.
    pub(super) slow: bool,
    /// It contributed to a piece with a wrong hash: it works alone.
    pub(super) suspect: bool,
    /// When it chokes us: the only pieces it serves all the same.
    pub(super) only: Option<&'a [PieceIndex]>,
    pub(super) now: Now,
}

impl Picker {
    pub(super) fn new(
        geometry: Geometry,
        have: &Bitfield,
        block_len: u32,
        budget: u64,
        seed: u64,
    ) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let missing = || geometry.all_pieces().filter(|&piece| !have.contains(piece));
        let mut states = vec![State::Have; geometry.pieces() as usize];
        for piece in missing() {
            states[piece.at()] = State::Missing;
        }
        Self {
            geometry,
            block_len,
            states,
            rarity: Rarity::new(geometry.pieces(), missing(), &mut rng),
            seeds: 0,
            partials: Vec::new(),
            vacant: Vec::new(),
            loose: Vec::new(),
            open: 0,
            open_bytes: 0,
            budget,
            windows: Vec::new(),
            parole: BTreeSet::new(),
            cells: Vec::new(),
            epoch: 0,
            refused: false,
            rng,
        }
    }

    /// Counts up whenever something may have become pickable: who found nothing in this epoch
    /// need not ask again.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether the budget refused a piece since the last call.
    pub(super) fn was_refused(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }

    /// No block of any piece is free, and no piece may be begun: what is left is owed by somebody.
    pub(super) fn all_asked(&self) -> bool {
        self.loose.is_empty() && (self.refused || self.is_last())
    }

    /// No piece is left to be begun.
    pub(super) fn is_last(&self) -> bool {
        self.rarity.order().is_empty()
    }

    pub(super) fn set_budget(&mut self, bytes: u64) {
        self.budget = bytes;
        self.epoch += 1;
    }

    /// Replaces a reader's window; an empty one is none.
    pub(super) fn set_window(&mut self, reader: u64, pieces: Range<u32>, now: Now) {
        self.windows.retain(|window| window.reader != reader);
        if !pieces.is_empty() {
            let end = pieces.end.min(self.geometry.pieces());
            // Hosts that read side by side do not all lose patience at once: the first that
            // does has the piece for the others.
            let patience = STARVED.mul_f64(self.rng.random_range(1.0..3.0));
            self.windows.push(Window {
                reader,
                pieces: pieces.start..end,
                starves: now + patience,
            });
            self.epoch += 1;
        }
    }

    // Who has what.

    pub(super) fn peer_joined(&mut self, pieces: &Pieces) {
        match pieces {
            Pieces::None => {}
            Pieces::Some(set) => {
                set.iter()
                    .for_each(|piece| self.rarity.gain(piece, &mut self.rng));
            }
            Pieces::All => self.seeds += 1,
        }
    }

    pub(super) fn peer_left(&mut self, pieces: &Pieces) {
        match pieces {
            Pieces::None => {}
            Pieces::Some(set) => {
                set.iter()
                    .for_each(|piece| self.rarity.lose(piece, &mut self.rng));
            }
            Pieces::All => self.seeds -= 1,
        }
    }

    /// `pieces` is what the peer has with the new one.
    pub(super) fn peer_gained(&mut self, pieces: &Pieces, piece: PieceIndex) {
        if pieces.is_all() {
            let others = self.geometry.all_pieces().filter(|&other| other != piece);
            others.for_each(|other| self.rarity.lose(other, &mut self.rng));
            self.seeds += 1;
        } else {
            self.rarity.gain(piece, &mut self.rng);
        }
    }

    /// `pieces` is what the peer has without the lost one; `was_all` that it had all before.
    pub(super) fn peer_lost(&mut self, pieces: &Pieces, was_all: bool, piece: PieceIndex) {
        if was_all {
            self.seeds -= 1;
            self.peer_joined(pieces);
        } else {
            self.rarity.lose(piece, &mut self.rng);
        }
    }

    /// How many complete copies the others hold together, and a fraction of the next.
    pub(super) fn copies(&self, have: &Bitfield) -> f64 {
        let mut least = u32::MAX;
        let mut above = 0u32;
        for piece in self.geometry.all_pieces() {
            let n = u32::from(self.rarity.available(piece)) + u32::from(have.contains(piece));
            match n.cmp(&least) {
                std::cmp::Ordering::Less => {
                    above = piece.get();
                    least = n;
                }
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => above += 1,
            }
        }
        f64::from(self.seeds + least) + f64::from(above) / f64::from(self.geometry.pieces())
    }

    fn fits(&self, piece: PieceIndex) -> bool {
        let size = u64::from(self.geometry.piece_size(piece));
        self.open == 0 || self.open_bytes + size <= self.budget
    }

    fn open(&mut self, piece: PieceIndex, ask: &Ask<'_>, out: &mut Vec<Block>) {
        let owner = (!ask.slow).then_some(ask.slot);
        let id = self.admit(piece, owner, ask);
        self.take(id, ask, ask.blocks, out);
    }

    /// Missing → Requested.
    fn admit(&mut self, piece: PieceIndex, owner: Option<Slot>, ask: &Ask<'_>) -> u32 {
        let size = self.geometry.piece_size(piece);
        let cells = self.cells.pop().unwrap_or_default();
        let mut partial = Partial::new(piece, size, self.block_len, cells, ask.now);
        partial.exclusive = ask.suspect || self.parole.contains(&piece);
        partial.owner = if partial.exclusive {
            Some(ask.slot)
        } else {
            owner
        };
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.partials.push(None);
            u32::try_from(self.partials.len() - 1).unwrap_or(u32::MAX)
        });
        self.partials[id as usize] = Some(partial);
        self.states[piece.at()] = State::Open(id);
        self.rarity.unlist(piece);
        self.loose.push(id);
        self.open += 1;
        self.open_bytes += u64::from(size);
        id
    }

    /// Takes free blocks of a partial until `out` holds `until`.
    fn take(&mut self, id: u32, ask: &Ask<'_>, until: usize, out: &mut Vec<Block>) {
        let Some(partial) = &mut self.partials[id as usize] else {
            return;
        };
        if partial.free == 0 || !partial.asks(ask.slot) {
            return;
        }
        partial.take(until.saturating_sub(out.len()), out);
        if partial.free == 0 {
            self.loose.retain(|&loose| loose != id);
        }
    }

    // What becomes of the blocks.

    /// Asks one more peer for a block that others owe; false if that may not be.
    pub(super) fn double(&mut self, block: Block, slot: Slot, most: u8) -> bool {
        let Some(partial) = self.partial_mut(block.piece) else {
            return false;
        };
        let may = partial.asks(slot) && !partial.exclusive && partial.may_double(block, most);
        if may {
            partial.double(block);
        }
        may
    }

    fn partial_mut(&mut self, piece: PieceIndex) -> Option<&mut Partial> {
        let State::Open(id) = self.states[piece.at()] else {
            return None;
        };
        self.partials[id as usize].as_mut()
    }

    /// Panics when an invariant does not hold.
    pub(super) fn check_invariants(&self) {
        self.rarity.check_invariants();
        let partials = || self.partials.iter().flatten();
        let bytes: u64 = partials().map(|partial| u64::from(partial.size)).sum();
        assert_eq!(
            (bytes, self.open as usize),
            (self.open_bytes, partials().count())
        );
        let missing = self
            .states
            .iter()
            .filter(|&&state| state == State::Missing)
            .count();
        assert_eq!(missing, self.rarity.order().len());
        for (id, partial) in (0u32..).zip(&self.partials) {
            let Some(partial) = partial else {
                assert!(self.vacant.contains(&id) && !self.loose.contains(&id));
                continue;
            };
            partial.check_invariants();
            assert_eq!(self.states[partial.piece.at()], State::Open(id));
            assert_eq!(self.loose.contains(&id), partial.free > 0);
            assert!(!partial.is_untouched());
        }
    }
}

#[cfg(test)]
mod tests;
