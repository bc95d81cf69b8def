//! What peers tell of themselves: what they have, what they allow, what they will not send.
//!
//! Owns the bookkeeping that follows from it: rarity, interest, and requests that are taken back.
//! Whatever costs a walk over all pieces is rationed, since telling it costs a peer nothing. It asks
//! for nothing by itself: that is `download`.

use super::pieces::Pieces;
use super::{Now, PeerKey, Reason, Slot, Swarm};
use crate::geometry::{Block, PieceIndex};
use crate::wire::Message;

/// The first rest after a reject; it doubles.
const REST: Now = Now::from_millis(50);

impl Swarm {
    // What peers have.

    pub(super) fn told_all(&mut self, slot: Slot, pieces: Pieces, now: Now) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        // aria2 sends its bitfield again where many HAVEs would be due.
        if !peer.may_tell_all(now) {
            return self.drop_peer(slot, Reason::Protocol, now);
        }
        let before = std::mem::replace(&mut peer.pieces, pieces);
        peer.wanted = peer.pieces.missing_in(&self.have);
        peer.dry = None;
        if let Some(picker) = &mut self.picker {
            picker.peer_left(&before);
            picker.peer_joined(&peer.pieces);
        }
        if let Some(spread) = &mut self.spread {
            spread.peer_left(&before, &mut peer.errands);
            spread.peer_joined(&peer.pieces);
        }
        self.let_go_alone(slot);
        self.after_gain(slot, now);
    }

    pub(super) fn told_one(&mut self, slot: Slot, piece: PieceIndex, now: Now) {
        let total = self.geometry.pieces();
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        if !peer.pieces.insert(piece, total) {
            return;
        }
        if let Some(picker) = &mut self.picker {
            picker.peer_gained(&peer.pieces, piece);
        }
        if let Some(spread) = &mut self.spread {
            spread.peer_gained(piece, &mut peer.errands);
        }
        if !self.have.contains(piece) {
            peer.wanted += 1;
            peer.dry = None;
        }
        self.after_gain(slot, now);
    }

    fn after_gain(&mut self, slot: Slot, now: Now) {
        if self.drop_if_both_seed(slot, now) {
            return;
        }
        self.update_interest(slot);
        self.fill(slot, now);
    }

    pub(super) fn dont_have(&mut self, key: PeerKey, piece: PieceIndex, now: Now) {
        let total = self.geometry.pieces();
        let Some(slot) = self.peers.slot(key) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        peer.heard = now;
        let was_all = peer.pieces.is_all();
        let before = self.spread.is_some().then(|| peer.pieces.clone());
        // Where it costs a walk over all pieces it counts as telling everything.
        if (was_all || before.is_some()) && !peer.may_tell_all(now) {
            return self.drop_peer(slot, Reason::Protocol, now);
        }
        if !peer.pieces.remove(piece, total) {
            return;
        }
        if let (Some(spread), Some(before)) = (&mut self.spread, before) {
            spread.peer_left(&before, &mut peer.errands);
            spread.peer_joined(&peer.pieces);
        }
        if let Some(picker) = &mut self.picker {
            picker.peer_lost(&peer.pieces, was_all, piece);
            peer.asked.take_piece(piece, |block| {
                self.owed -= u64::from(block.len);
                picker.release(block);
            });
            self.stirred = true;
        }
        if !self.have.contains(piece) {
            peer.wanted -= 1;
        }
        self.let_go_alone(slot);
        self.update_interest(slot);
    }

    /// Tells the peer when our interest in it changed.
    pub(super) fn update_interest(&mut self, slot: Slot) {
        let wants = self.picker.is_some();
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let interested = wants && peer.wanted > 0;
        if interested == peer.interested {
            return;
        }
        peer.interested = interested;
        let message = if interested {
            Message::Interested
        } else {
            Message::NotInterested
        };
        self.send(slot, message);
    }

    // What peers allow.

    pub(super) fn choked(&mut self, slot: Slot, now: Now) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        peer.chokes_us = true;
        peer.suggestions.clear();
        if !peer.is_fast() {
            self.drop_asked(slot);
        }
        self.abandon(slot);
        self.fill(slot, now);
    }

    pub(super) fn unchoked(&mut self, slot: Slot, now: Now) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        peer.chokes_us = false;
        peer.rests_until = Now::ZERO;
        peer.rejections = 0;
        peer.dry = None;
        peer.delivered = now;
        let serving = self
            .peers
            .iter()
            .filter(|(_, peer)| !peer.chokes_us)
            .count();
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.begin(serving as u64);
        }
        self.fill(slot, now);
    }

    pub(super) fn allowed_fast(&mut self, slot: Slot, piece: PieceIndex, now: Now) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        if peer.is_fast() && !self.have.contains(piece) {
            peer.allow(piece);
            peer.dry = None;
            self.fill(slot, now);
        }
    }

    pub(super) fn suggested(&mut self, slot: Slot, piece: PieceIndex, now: Now) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        if peer.is_fast() && !self.have.contains(piece) {
            peer.suggest(piece, now);
            self.fill(slot, now);
        }
    }

    pub(super) fn rejected(&mut self, slot: Slot, block: Block, now: Now) {
        let (Some(peer), Some(picker)) = (self.peers.get_mut(slot), &mut self.picker) else {
            return;
        };
        if peer.asked.take(block).is_none() {
            // An answer to a cancel.
            peer.late = peer.late.saturating_sub(1);
            return;
        }
        self.owed -= u64::from(block.len);
        picker.release(block);
        if peer.chokes_us {
            peer.allowed.retain(|piece| *piece != block.piece);
        } else {
            // Asking again at once would be rejected again.
            let rest = REST * (1 << peer.rejections.min(6));
            if peer.rests_until <= now {
                peer.rejections += 1;
                peer.rests_until = now + rest;
            }
        }
        self.let_go_alone(slot);
        self.stirred = true;
    }
}
