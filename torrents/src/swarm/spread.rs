//! Which pieces a seed should give away next.
//!
//! Leechers choose at random among equally rare pieces and do not see what others are fetching,
//! so some of a seed's uplink goes into second copies while first ones are missing. A seed knows:
//! it counts, for each piece, who has it and who is getting it from us, and suggests the
//! rarest (BEP 6). A suggestion counts as a copy until the peer is choked or gone.
//!
//! Exists only while a seed serves somebody; nothing here binds a peer.

use std::collections::VecDeque;

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::pieces::Pieces;
use super::rarity::Rarity;
use crate::geometry::{Geometry, PieceIndex};

/// Pieces that a peer is getting from us, remembered.
const MAX_BEGUN: usize = 64;
/// How far the rarest pieces are searched for those that a peer lacks.
const REACH: usize = 512;
/// Of so many pieces in a row that nobody has, the next to give away are drawn.
const SHUFFLED: usize = 16;
/// Another seed's first copies so few pieces ahead of us are in our way.
const AHEAD: u32 = 64;

/// Copies of each piece, present and coming.
#[derive(Debug)]
pub(super) struct Spread {
    copies: Rarity,
    geometry: Geometry,
    /// Where in the file the search for a piece that nobody has begins.
    cursor: u32,
    /// How many peers were suggested the piece and have not begun it.
    promised: Vec<u16>,
    /// The same as a list, the oldest first: one entry for each promise.
    promises: VecDeque<PieceIndex>,
    rng: Xoshiro256PlusPlus,
}

/// What one peer was suggested and is getting.
#[derive(Debug, Default)]
pub(super) struct Errands {
    suggested: VecDeque<PieceIndex>,
    begun: VecDeque<PieceIndex>,
}

impl Spread {
    pub(super) fn new(geometry: Geometry, seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self {
            copies: Rarity::new(geometry.pieces(), geometry.all_pieces(), &mut rng),
            geometry,
            cursor: 0,
            promised: vec![0; geometry.pieces() as usize],
            promises: VecDeque::new(),
            rng,
        }
    }

    pub(super) fn peer_joined(&mut self, pieces: &Pieces) {
        if let Pieces::Some(set) = pieces {
            set.iter()
                .for_each(|piece| self.copies.gain(piece, &mut self.rng));
        }
    }

    /// The peer is gone, with what it was getting.
    pub(super) fn peer_left(&mut self, pieces: &Pieces, errands: &mut Errands) {
        if let Pieces::Some(set) = pieces {
            set.iter()
                .for_each(|piece| self.copies.lose(piece, &mut self.rng));
        }
        self.choked(errands);
        for piece in errands.begun.drain(..) {
            self.copies.lose(piece, &mut self.rng);
        }
    }

    /// The peer has the piece now.
    pub(super) fn peer_gained(&mut self, piece: PieceIndex, errands: &mut Errands) {
        if !remove(&mut errands.begun, piece) && !self.redeem(piece, errands) {
            self.make_way(piece);
            self.copies.gain(piece, &mut self.rng);
        }
    }

    /// A first copy that is not ours: another seed is at work. If it walks where we do, we go on
    /// elsewhere, or both would give away the same pieces.
    fn make_way(&mut self, piece: PieceIndex) {
        let total = self.geometry.pieces();
        let ahead = (piece.get() + total - self.cursor) % total;
        if self.copies.available(piece) == 0 && ahead < AHEAD {
            self.cursor = self.rng.random_range(0..total);
        }
    }

    /// The peer asks for blocks of the piece.
    pub(super) fn requested(&mut self, piece: PieceIndex, errands: &mut Errands) {
        if errands.begun.back() == Some(&piece) || errands.begun.contains(&piece) {
            return;
        }
        if !self.redeem(piece, errands) {
            self.copies.gain(piece, &mut self.rng);
        }
        errands.begun.push_back(piece);
        if errands.begun.len() > MAX_BEGUN
            && let Some(oldest) = errands.begun.pop_front()
        {
            self.copies.lose(oldest, &mut self.rng);
        }
    }

    /// What it was suggested and has not begun, it will not get now.
    pub(super) fn choked(&mut self, errands: &mut Errands) {
        for piece in errands.suggested.drain(..) {
            self.settle(piece);
            self.copies.lose(piece, &mut self.rng);
        }
    }

    /// The next pieces from the cursor on that nobody has or is getting; moves the cursor there.
    fn unseen(&mut self, most: usize) -> Vec<PieceIndex> {
        if self.copies.least() > 0 {
            return Vec::new();
        }
        let total = self.geometry.pieces();
        let around = (self.cursor..total).chain(0..self.cursor).map(PieceIndex);
        let next = around.filter(|&piece| self.copies.available(piece) == 0);
        let next: Vec<PieceIndex> = next.take(most).collect();
        if let Some(first) = next.first() {
            self.cursor = first.get();
        }
        next
    }

    /// Pieces that nobody has or is getting, in the order of the file but for a little chance, so
    /// that those who read along find among the others what comes next, and several seeds do
    /// not give away the same; when all are out, the rarest.
    fn first_copies(
        &mut self,
        most: usize,
        fresh: impl Fn(&PieceIndex) -> bool,
    ) -> Vec<PieceIndex> {
        let mut near = self.unseen(SHUFFLED.max(most));
        near.retain(&fresh);
        if near.is_empty()
            && let Some(piece) = self.overdue(&fresh)
        {
            return vec![piece];
        }
        if near.is_empty() {
            let order = self.copies.order().iter().take(REACH);
            return order
                .map(|&piece| PieceIndex(piece))
                .filter(fresh)
                .take(most)
                .collect();
        }
        // The very first is what every reader waits for.
        let first = usize::from(near[0].get() == 0);
        let (chosen, _) = near[first..].partial_shuffle(&mut self.rng, most - first);
        let mut chosen = chosen.to_vec();
        chosen.extend_from_slice(&near[..first]);
        chosen.sort_unstable();
        chosen
    }

    /// A piece that nobody has, and whom we suggested it to has not begun it for longest: that
    /// peer is slow, while this one runs out of work.
    fn overdue(&self, fresh: &impl Fn(&PieceIndex) -> bool) -> Option<PieceIndex> {
        let only = |piece: &&PieceIndex| {
            self.promised[piece.at()] == 1 && self.copies.available(**piece) == 1
        };
        self.promises
            .iter()
            .filter(only)
            .find(|piece| fresh(piece))
            .copied()
    }

    /// What was suggested is begun or there.
    fn redeem(&mut self, piece: PieceIndex, errands: &mut Errands) -> bool {
        let promised = remove(&mut errands.suggested, piece);
        if promised {
            self.settle(piece);
        }
        promised
    }

    /// One promise of the piece is no more.
    fn settle(&mut self, piece: PieceIndex) {
        self.promised[piece.at()] -= 1;
        remove(&mut self.promises, piece);
    }

    /// The peer will not get what it asked for of the piece.
    pub(super) fn refused(&mut self, piece: PieceIndex, errands: &mut Errands) {
        if remove(&mut errands.begun, piece) {
            self.copies.lose(piece, &mut self.rng);
        }
    }

    /// Suggests pieces until the peer has `most` before it.
    pub(super) fn suggest(
        &mut self,
        pieces: &Pieces,
        errands: &mut Errands,
        most: usize,
        mut each: impl FnMut(PieceIndex),
    ) {
        let lack = most.saturating_sub(errands.suggested.len());
        if lack == 0 || pieces.is_all() {
            return;
        }
        let fresh = |&piece: &PieceIndex| {
            !pieces.contains(piece)
                && !errands.suggested.contains(&piece)
                && !errands.begun.contains(&piece)
        };
        let next = self.first_copies(lack, fresh);
        for piece in next {
            self.copies.gain(piece, &mut self.rng);
            errands.suggested.push_back(piece);
            self.promised[piece.at()] += 1;
            self.promises.push_back(piece);
            each(piece);
        }
    }
}

fn remove(queue: &mut VecDeque<PieceIndex>, piece: PieceIndex) -> bool {
    let found = queue.iter().position(|&other| other == piece);
    found.is_some_and(|at| queue.remove(at).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suggested(spread: &mut Spread, pieces: &Pieces, errands: &mut Errands) -> Vec<u32> {
        let mut all = Vec::new();
        spread.suggest(pieces, errands, 4, |piece| all.push(piece.get()));
        all
    }

    #[test]
    fn first_copies_go_out_once_and_nearly_in_order() {
        let geometry = Geometry::new(64 * 40, 64).unwrap();
        let mut spread = Spread::new(geometry, 1);
        let mut peers: Vec<Errands> = (0..10).map(|_| Errands::default()).collect();
        let mut out: Vec<u32> = Vec::new();
        for errands in &mut peers {
            out.extend(suggested(&mut spread, &Pieces::None, errands));
        }
        assert_eq!(out[0], 0);
        let late = |(at, &piece): (usize, &u32)| at.abs_diff(piece as usize) > 40;
        assert!(!out.iter().enumerate().any(late), "{out:?}");
        assert!(out[..8].iter().all(|&piece| piece < 32), "{out:?}");
        out.sort_unstable();
        assert_eq!(out, (0..40).collect::<Vec<_>>());
    }

    #[test]
    fn two_seeds_that_hear_of_each_other_do_not_give_away_the_same() {
        const PIECES: u32 = 1_000;
        let geometry = Geometry::new(64 * u64::from(PIECES), 64).unwrap();
        let mut seeds = [Spread::new(geometry, 1), Spread::new(geometry, 2)];
        let mut given = vec![0u32; PIECES as usize];
        for _ in 0..PIECES / 2 {
            for at in 0..2 {
                let mut errands = Errands::default();
                let mut first = Vec::new();
                seeds[at].suggest(&Pieces::None, &mut errands, 1, |piece| first.push(piece));
                let piece = first[0];
                given[piece.at()] += 1;
                seeds[at].peer_gained(piece, &mut errands);
                seeds[1 - at].peer_gained(piece, &mut Errands::default());
            }
        }
        // Both begin at the front; from the first collision on they go different ways.
        let twice = given.iter().filter(|&&times| times > 1).count();
        assert!(twice < 5, "{twice}");
    }

    #[test]
    fn what_was_refused_or_lost_is_given_to_the_next() {
        let geometry = Geometry::new(64 * 8, 64).unwrap();
        let mut spread = Spread::new(geometry, 1);
        let (mut one, mut two, mut three) =
            (Errands::default(), Errands::default(), Errands::default());
        let mut out = suggested(&mut spread, &Pieces::None, &mut one);
        out.extend(suggested(&mut spread, &Pieces::None, &mut two));
        let (begun, rest) = (PieceIndex(out[0]), PieceIndex(out[1]));
        spread.requested(begun, &mut one);
        spread.requested(rest, &mut one);
        spread.refused(rest, &mut one);
        let next = suggested(&mut spread, &Pieces::None, &mut three);
        assert!(next.contains(&rest.get()) && !next.contains(&begun.get()));
        spread.choked(&mut three);
        spread.peer_left(&Pieces::None, &mut one);
        spread.peer_left(&Pieces::None, &mut two);
        assert_eq!(spread.copies.available(begun), 0);
        assert_eq!(suggested(&mut spread, &Pieces::None, &mut three)[0], 0);
    }

    #[test]
    fn a_promise_that_is_not_begun_is_given_once_more_and_none_is_left_over() {
        let geometry = Geometry::new(64 * 4, 64).unwrap();
        let mut spread = Spread::new(geometry, 1);
        let (mut slow, mut quick, mut third) =
            (Errands::default(), Errands::default(), Errands::default());
        let promised = suggested(&mut spread, &Pieces::None, &mut slow);
        assert_eq!(promised.len(), 4);
        // Nothing is without a copy: the oldest promise goes to whoever has no work.
        let again = suggested(&mut spread, &Pieces::None, &mut quick);
        assert_eq!(again, promised[..1]);
        let next = suggested(&mut spread, &Pieces::None, &mut third);
        assert_eq!(next, promised[1..2]);
        for _ in 0..1_000 {
            spread.choked(&mut third);
            suggested(&mut spread, &Pieces::None, &mut third);
        }
        assert_eq!(spread.promises.len(), 6);
        for errands in [&mut slow, &mut quick, &mut third] {
            spread.peer_left(&Pieces::None, errands);
        }
        assert!(spread.promises.is_empty());
        assert!(spread.promised.iter().all(|&count| count == 0));
    }

    #[test]
    fn what_a_peer_began_too_long_ago_is_without_a_copy_again() {
        let pieces = u32::try_from(MAX_BEGUN).unwrap() + 1;
        let geometry = Geometry::new(64 * u64::from(pieces), 64).unwrap();
        let mut spread = Spread::new(geometry, 1);
        let (mut greedy, mut other) = (Errands::default(), Errands::default());
        for piece in geometry.all_pieces() {
            let mut none = Errands::default();
            suggested(&mut spread, &Pieces::None, &mut none);
            spread.choked(&mut none);
            spread.requested(piece, &mut greedy);
        }
        assert_eq!(spread.copies.available(PieceIndex(0)), 0);
        assert_eq!(suggested(&mut spread, &Pieces::None, &mut other)[0], 0);
    }
}
