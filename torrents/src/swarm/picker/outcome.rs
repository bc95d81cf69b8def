//! What becomes of the pieces that are being fetched, and of those that are here: the arrows of
//! the picker's states other than its choice.
//!
//! Keeps the picker's invariants; every change that may let a peer be asked again moves `epoch`.
//! Never chooses.

use super::{Picker, Sources, State};
use crate::geometry::{Block, PieceIndex};
use crate::swarm::partial::{Partial, Receipt};
use crate::swarm::{Now, PeerKey, Slot};

impl Picker {
    /// A peer does not owe this block any more.
    pub(in crate::swarm) fn release(&mut self, block: Block) {
        let State::Open(id) = self.states[block.piece.at()] else {
            return;
        };
        let Some(partial) = &mut self.partials[id as usize] else {
            return;
        };
        if !partial.release(block) {
            return;
        }
        self.epoch += 1;
        if partial.is_untouched() {
            self.close(id, State::Missing);
        } else if partial.free == 1 {
            self.loose.push(id);
        }
    }

    /// A block came in from a peer.
    pub(in crate::swarm) fn receive(
        &mut self,
        block: Block,
        slot: Slot,
        from: PeerKey,
        owed: bool,
        now: Now,
    ) -> Receipt {
        let State::Open(id) = self.states[block.piece.at()] else {
            return Receipt::Useless;
        };
        let Some(partial) = &mut self.partials[id as usize] else {
            return Receipt::Useless;
        };
        let free = partial.free;
        let receipt = match partial.admits(slot) {
            true => partial.receive(block, from, owed, now),
            false => Receipt::Useless,
        };
        if free > 0 && partial.free == 0 {
            self.loose.retain(|&loose| loose != id);
        }
        if owed && receipt == Receipt::Useless {
            self.release(block);
        }
        receipt
    }

    /// The peer delivers nothing for now: its pieces are anyone's. Pieces that it alone may
    /// contribute to are given up; `discard` takes what was received for them. Its requests
    /// must have been released.
    pub(in crate::swarm) fn abandon(
        &mut self,
        slot: Slot,
        mut discard: impl FnMut(PeerKey, Block),
    ) {
        for id in 0..u32::try_from(self.partials.len()).unwrap_or(u32::MAX) {
            let Some(partial) = &mut self.partials[id as usize] else {
                continue;
            };
            if partial.owner != Some(slot) || partial.verifying {
                continue;
            }
            if partial.exclusive && !partial.is_owed() {
                self.begin_anew(id, &mut discard);
            } else {
                partial.owner = None;
                self.epoch += 1;
            }
        }
    }

    /// Begins pieces anew to which nobody more may contribute and that nobody finishes.
    pub(in crate::swarm) fn give_up_crowded(&mut self, mut discard: impl FnMut(PeerKey, Block)) {
        for id in 0..u32::try_from(self.partials.len()).unwrap_or(u32::MAX) {
            let partial = self.partials[id as usize].as_ref();
            let stuck = |partial: &Partial| {
                partial.is_crowded() && !partial.is_owed() && !partial.verifying
            };
            if partial.is_some_and(stuck) {
                self.begin_anew(id, &mut discard);
            }
        }
    }

    /// Gives up a piece that nobody delivers while the budget is spent, so that another can be
    /// begun: the one with least of it received.
    pub(in crate::swarm) fn give_up_one(
        &mut self,
        before: Now,
        mut discard: impl FnMut(PeerKey, Block),
    ) {
        let idle = |partial: &Partial| {
            !partial.is_owed() && !partial.verifying && partial.touched <= before
        };
        let worst = (0u32..)
            .zip(&self.partials)
            .filter_map(|(id, partial)| Some((id, partial.as_ref()?)))
            .filter(|(_, partial)| idle(partial))
            .max_by_key(|(_, partial)| (partial.missing, partial.piece));
        if let Some((id, _)) = worst {
            self.begin_anew(id, &mut discard);
        }
    }

    /// Requested → Missing, with what was received.
    fn begin_anew(&mut self, id: u32, discard: &mut impl FnMut(PeerKey, Block)) {
        if let Some(partial) = &self.partials[id as usize] {
            let received = partial.received();
            received.for_each(|(from, block)| discard(from, block));
        }
        self.close(id, State::Missing);
        self.epoch += 1;
    }

    /// Verifying → Have. Tells who contributed, or `None` if the piece was not being verified.
    pub(in crate::swarm) fn verified(&mut self, piece: PieceIndex) -> Option<Sources> {
        let id = self.verifying(piece)?;
        let sources = self.sources(id);
        self.parole.remove(&piece);
        self.close(id, State::Have);
        self.epoch += u64::from(self.refused);
        Some(sources)
    }

    fn sources(&mut self, id: u32) -> Sources {
        let partial = self.partials[id as usize].as_mut();
        partial
            .map(|partial| std::mem::take(&mut partial.sources))
            .unwrap_or_default()
    }

    /// Verifying → Missing. Tells who contributed.
    pub(in crate::swarm) fn corrupt(&mut self, piece: PieceIndex) -> Sources {
        let Some(id) = self.verifying(piece) else {
            return Sources::new();
        };
        let sources = self.sources(id);
        if sources.len() > 1 {
            self.parole.insert(piece);
        }
        self.close(id, State::Missing);
        self.epoch += 1;
        sources
    }

    /// Have → Missing.
    pub(in crate::swarm) fn lost(&mut self, piece: PieceIndex) {
        match self.states[piece.at()] {
            State::Have => {
                self.states[piece.at()] = State::Missing;
                self.rarity.list(piece, &mut self.rng);
                self.epoch += 1;
            }
            State::Open(_) => {
                if let Some(id) = self.verifying(piece) {
                    self.close(id, State::Missing);
                    self.epoch += 1;
                }
            }
            State::Missing | State::Shelved => {}
        }
    }

    /// A missing piece is not to be picked for a while.
    pub(in crate::swarm) fn shelve(&mut self, piece: PieceIndex) {
        if self.states[piece.at()] == State::Missing {
            self.states[piece.at()] = State::Shelved;
            self.rarity.unlist(piece);
        }
    }

    /// A shelved piece may be picked again.
    pub(in crate::swarm) fn unshelve(&mut self, piece: PieceIndex) {
        if self.states[piece.at()] == State::Shelved {
            self.states[piece.at()] = State::Missing;
            self.rarity.list(piece, &mut self.rng);
            self.epoch += 1;
        }
    }

    /// Whether the peer has a piece to which it alone may contribute.
    pub(in crate::swarm) fn owns_alone(&self, slot: Slot) -> bool {
        let mut partials = self.partials.iter().flatten();
        partials.any(|partial| partial.exclusive && partial.owner == Some(slot))
    }

    fn verifying(&self, piece: PieceIndex) -> Option<u32> {
        let State::Open(id) = self.states[piece.at()] else {
            return None;
        };
        let partial = self.partials[id as usize].as_ref()?;
        partial.verifying.then_some(id)
    }

    /// Ends a partial; the piece becomes what `then` says.
    fn close(&mut self, id: u32, then: State) {
        let Some(partial) = self.partials[id as usize].take() else {
            return;
        };
        let piece = partial.piece;
        self.vacant.push(id);
        self.loose.retain(|&loose| loose != id);
        self.open -= 1;
        self.open_bytes -= u64::from(partial.size);
        self.cells.push(partial.into_cells());
        self.states[piece.at()] = then;
        if then == State::Missing {
            self.rarity.list(piece, &mut self.rng);
        }
    }
}
