//! Which pieces a seed should give away next.
//!
//! Leechers choose at random among equally rare pieces and do not see what others are fetching,
//! so some of a seed's uplink goes into second copies while first ones are missing. A seed knows:
//! it counts, for each piece, who has it and who is getting it from us, and suggests the
//! rarest (BEP 6). A suggestion counts as a copy until the peer is choked or gone.
//!
//! Exists only while a seed serves somebody; nothing here binds a peer.

use std::collections::VecDeque;

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use super::pieces::Pieces;
use super::rarity::Rarity;
use crate::geometry::{Geometry, PieceIndex};

/// Pieces that a peer is getting from us, remembered.
const MAX_BEGUN: usize = 64;
/// How far the rarest pieces are searched for those that a peer lacks.
const REACH: usize = 512;

/// Copies of each piece, present and coming.
#[derive(Debug)]
pub(super) struct Spread {
    copies: Rarity,
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
        if !remove(&mut errands.begun, piece) && !remove(&mut errands.suggested, piece) {
            self.copies.gain(piece, &mut self.rng);
        }
    }

    /// The peer asks for blocks of the piece.
    pub(super) fn requested(&mut self, piece: PieceIndex, errands: &mut Errands) {
        if errands.begun.back() == Some(&piece) || errands.begun.contains(&piece) {
            return;
        }
        if !remove(&mut errands.suggested, piece) {
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
        let order = self.copies.order().iter().take(REACH);
        let next: Vec<PieceIndex> = order
            .map(|&piece| PieceIndex(piece))
            .filter(fresh)
            .take(lack)
            .collect();
        for piece in next {
            self.copies.gain(piece, &mut self.rng);
            errands.suggested.push_back(piece);
            each(piece);
        }
    }
}

fn remove(queue: &mut VecDeque<PieceIndex>, piece: PieceIndex) -> bool {
    let found = queue.iter().position(|&other| other == piece);
    found.is_some_and(|at| queue.remove(at).is_some())
}
