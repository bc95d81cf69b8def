//! The picker's choice: the ladder of what a peer is asked for next.
//!
//! The order in which a peer is given blocks: what a reader is about to read (not of a seed that
//! guides us: it hands out the file in order, a different piece to each, and the others have
//! what comes next); the rest of the pieces it began itself; pieces that somebody left half done; new pieces, a share of them
//! from the readers' windows and the others rarest first; the rest of others' pieces. So a fast
//! peer gets whole pieces, and the swarm does not collapse into one piece that all want.
//!
//! Never changes a state but by the picker's own arrows (`open`, `take`).

use rand::RngExt;

use super::{Ask, Picker, State};
use crate::bitfield::Bitfield;
use crate::geometry::{Block, PieceIndex};
use crate::swarm::partial::Partial;
use crate::swarm::pieces::Pieces;

/// So much in front of a reader is urgent.
const URGENT_BYTES: u64 = 4 << 20;
/// One in so many new pieces is taken from a reader's window, if there is one.
const WINDOW_SHARE: u32 = 4;
/// A peer gets at most this part of an urgent piece at once, so that several deliver it.
const URGENT_PARTS: u32 = 4;
/// How far the rarest pieces are searched for one that the peer has before sampling begins.
const FRONT: usize = 256;
/// Of how many candidates the rarest is taken when sampling.
const SAMPLE: usize = 32;

impl Picker {
    /// Appends blocks to ask of the peer, marked as asked.
    pub(in crate::swarm) fn pick(&mut self, ask: &mut Ask<'_>, out: &mut Vec<Block>) {
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
    pub(in crate::swarm) fn pick_run(
        &mut self,
        ask: &mut Ask<'_>,
        most_bytes: u64,
        out: &mut Vec<Block>,
    ) {
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
}
