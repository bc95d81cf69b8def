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
//! The order in which a peer is given blocks: what a reader is about to read (not of a seed that
//! guides us: it hands out the file in order, a different piece to each, and the others have
//! what comes next); the rest of the pieces it began itself; pieces that somebody left half done; new pieces, a share of them
//! from the readers' windows and the others rarest first; the rest of others' pieces. So a fast
//! peer gets whole pieces, and the swarm does not collapse into one piece that all want.
//!
//! Invariants: the sizes of the pieces that are Requested or Verifying sum to `open_bytes`,
//! which exceeds the budget only when there is a single one; exactly the Missing pieces are
//! listed in `rarity`; exactly the partials with free blocks are in `loose`.

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

/// So much in front of a reader is urgent.
const URGENT_BYTES: u64 = 4 << 20;
/// A reader is starved after one to three times so long without its next piece.
const STARVED: Now = Now::from_secs(1);
/// One in so many new pieces is taken from a reader's window, if there is one.
const WINDOW_SHARE: u32 = 4;
/// A peer gets at most this part of an urgent piece at once, so that several deliver it.
const URGENT_PARTS: u32 = 4;
/// How far the rarest pieces are searched for one that the peer has before sampling begins.
const FRONT: usize = 256;
/// Of how many candidates the rarest is taken when sampling.
const SAMPLE: usize = 32;

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

    // Picking.

    /// Appends blocks to ask of the peer, marked as asked.
    pub(super) fn pick(&mut self, ask: &mut Ask<'_>, out: &mut Vec<Block>) {
        if let Some(only) = ask.only {
            self.pick_only(ask, only, out);
            return;
        }
        if !ask.suspect && !ask.slow {
            if ask.guide {
                self.pick_starved(ask, out);
            } else {
                self.pick_urgent(ask, out);
            }
        }
        self.pick_loose(ask, out, |partial| partial.owner == Some(ask.slot));
        if !ask.suspect {
            self.pick_loose(ask, out, |partial| partial.owner.is_none());
        }
        while out.len() < ask.blocks {
            let Some(piece) = self.next_piece(ask) else {
                break;
            };
            if !self.fits(piece) {
                self.refused = true;
                break;
            }
            if ask.suggestions.front() == Some(&piece) {
                ask.suggestions.pop_front();
            }
            self.open(piece, ask, out);
        }
        if !ask.suspect {
            self.pick_loose(ask, out, |_| true);
        }
    }

    fn pick_only(&mut self, ask: &Ask<'_>, only: &[PieceIndex], out: &mut Vec<Block>) {
        for &piece in only.iter().filter(|&&piece| ask.pieces.contains(piece)) {
            if out.len() >= ask.blocks {
                return;
            }
            match self.states[piece.at()] {
                State::Missing if self.fits(piece) => self.open(piece, ask, out),
                State::Open(id) => self.take(id, ask, ask.blocks, out),
                State::Missing | State::Shelved | State::Have => {}
            }
        }
    }

    fn pick_urgent(&mut self, ask: &Ask<'_>, out: &mut Vec<Block>) {
        let most = URGENT_BYTES
            .div_ceil(u64::from(self.geometry.piece_len()))
            .max(2);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        for index in 0..self.windows.len() {
            let urgent = self.windows[index].pieces.clone().take(most);
            for piece in urgent.map(PieceIndex) {
                if out.len() >= ask.blocks {
                    return;
                }
                if !ask.pieces.contains(piece) {
                    continue;
                }
                let id = match self.states[piece.at()] {
                    State::Missing if self.fits(piece) => self.admit(piece, None, ask),
                    State::Open(id) => id,
                    State::Missing | State::Shelved | State::Have => continue,
                };
                let part = (self.geometry.piece_size(piece) / self.block_len / URGENT_PARTS).max(1);
                let part = (out.len() + part as usize).min(ask.blocks);
                self.take(id, ask, part, out);
            }
        }
    }

    /// A guide gives different pieces to different peers; asking it for what all want next would
    /// undo that. Only what nobody else has, and only for a reader that has waited for long.
    fn pick_starved(&mut self, ask: &Ask<'_>, out: &mut Vec<Block>) {
        for index in 0..self.windows.len() {
            let window = &self.windows[index];
            let piece = PieceIndex(window.pieces.start);
            if window.starves <= ask.now
                && out.len() < ask.blocks
                && ask.pieces.contains(piece)
                && self.rarity.available(piece) == 0
                && self.states[piece.at()] == State::Missing
                && self.fits(piece)
            {
                self.open(piece, ask, out);
            }
        }
    }

    /// Takes from half-done pieces that `choose` likes, those with least left first.
    fn pick_loose(
        &mut self,
        ask: &Ask<'_>,
        out: &mut Vec<Block>,
        choose: impl Fn(&Partial) -> bool,
    ) {
        while out.len() < ask.blocks {
            let best = self
                .loose
                .iter()
                .filter_map(|&id| Some((id, self.partials[id as usize].as_ref()?)))
                .filter(|(_, partial)| {
                    choose(partial)
                        && partial.asks(ask.slot)
                        && ask.pieces.contains(partial.piece)
                        && !(ask.guided && self.others_have(partial, ask))
                })
                .min_by_key(|(_, partial)| (partial.missing, partial.piece));
            let Some((id, _)) = best else {
                return;
            };
            self.take(id, ask, ask.blocks, out);
        }
    }

    /// Picks neighbouring blocks for one range request: the rest of a half-done piece, or new
    /// pieces in a row, from where a reader waits if one does.
    pub(super) fn pick_run(&mut self, ask: &mut Ask<'_>, most_bytes: u64, out: &mut Vec<Block>) {
        let waited = self.windows.iter().find_map(|window| {
            let mut pieces = window.pieces.clone().map(PieceIndex);
            pieces.find(|piece| self.states[piece.at()] == State::Missing)
        });
        let loose = self.loose.iter().copied().find(|&id| {
            let partial = self.partials[id as usize].as_ref();
            partial.is_some_and(|partial| partial.asks(ask.slot))
        });
        let first = self.rarity.order().first().map(|&piece| PieceIndex(piece));
        if let (None, Some(id)) = (waited, loose)
            && let Some(partial) = &mut self.partials[id as usize]
        {
            partial.take_neighbours(out);
            if partial.free == 0 {
                self.loose.retain(|&other| other != id);
            }
            return;
        }
        let Some(start) = waited.or(first) else {
            return;
        };
        ask.blocks = usize::MAX;
        let mut bytes = 0;
        for piece in (start.get()..self.geometry.pieces()).map(PieceIndex) {
            if self.states[piece.at()] != State::Missing || bytes >= most_bytes {
                return;
            }
            if !self.fits(piece) {
                self.refused = true;
                return;
            }
            bytes += u64::from(self.geometry.piece_size(piece));
            self.open(piece, ask, out);
        }
    }

    /// Whether others can finish the piece: then one who guides us has better to do.
    fn others_have(&self, partial: &Partial, ask: &Ask<'_>) -> bool {
        partial.owner != Some(ask.slot) && self.rarity.available(partial.piece) > 0
    }

    /// The next new piece for the peer.
    fn next_piece(&mut self, ask: &mut Ask<'_>) -> Option<PieceIndex> {
        while let Some(&piece) = ask.suggestions.front() {
            if self.states[piece.at()] == State::Missing && ask.pieces.contains(piece) {
                return Some(piece);
            }
            ask.suggestions.pop_front();
        }
        if ask.guided {
            return None;
        }
        if !self.windows.is_empty() && self.rng.random_range(0..WINDOW_SHARE) == 0 {
            let within = self.next_in_windows(ask);
            if within.is_some() {
                return within;
            }
        }
        if let Pieces::Some(set) = ask.pieces
            && (set.count() as usize) < self.rarity.order().len() / 8
        {
            return self.rarest_of(set);
        }
        let order = self.rarity.order();
        let has = |piece: &PieceIndex| ask.pieces.contains(*piece);
        let front = order
            .iter()
            .take(FRONT)
            .map(|&piece| PieceIndex(piece))
            .find(has);
        if front.is_some() {
            return front;
        }
        // The peer lacks the rarest: the rarest of a sample of what it has will do.
        let rest = order.get(FRONT..).filter(|rest| !rest.is_empty())?;
        let (before, after) = rest.split_at(self.rng.random_range(0..rest.len()));
        let sampled = after.iter().chain(before).map(|&piece| PieceIndex(piece));
        sampled
            .filter(has)
            .take(SAMPLE)
            .min_by_key(|&piece| self.rarity.available(piece))
    }

    /// The rarest missing piece of a peer that has few: cheaper than a search for one of them
    /// among all that is missing.
    fn rarest_of(&mut self, set: &Bitfield) -> Option<PieceIndex> {
        let (mut best, mut ties) = (None, 0u32);
        for piece in set
            .iter()
            .filter(|piece| self.states[piece.at()] == State::Missing)
        {
            let rank = self.rarity.available(piece);
            match best {
                Some((least, _)) if rank > least => continue,
                Some((least, _)) if rank == least => ties += 1,
                _ => ties = 1,
            }
            if self.rng.random_range(0..ties) == 0 {
                best = Some((rank, piece));
            }
        }
        best.map(|(_, piece)| piece)
    }

    fn next_in_windows(&mut self, ask: &Ask<'_>) -> Option<PieceIndex> {
        let mut seen = 0u32;
        let mut chosen = None;
        let windows = self
            .windows
            .iter()
            .flat_map(|window| window.pieces.clone().take(FRONT));
        for piece in windows.map(PieceIndex) {
            if self.states[piece.at()] == State::Missing && ask.pieces.contains(piece) {
                seen += 1;
                if self.rng.random_range(0..seen) == 0 {
                    chosen = Some(piece);
                }
            }
        }
        chosen
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
