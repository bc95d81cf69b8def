//! The serving half of the machine: requests of others, what the driver is handed, chokes.
//!
//! Invariants: a peer has no more queued with us than `max_inbound_requests`; the driver holds no more
//! than a batch and a half of it; what is refused is rejected where the peer knows that word (BEP 6).
//! Who is served is decided in `choker`, from what is counted here.

use rand::RngExt;

use super::choker::{self, Change, Room, View};
use super::session::Peer;
use super::spread::{Errands, Spread};
use super::{Action, Now, PeerKey, Slot, Swarm};
use crate::geometry::{Block, PieceIndex};
use crate::wire::Message;

/// A batch: one read, one vectored write.
const BATCH_BLOCKS: usize = 64;
const MAX_BATCH: u64 = 1 << 20;
const MIN_BATCH: u64 = 128 << 10;
/// A batch lasts about a 64th of a second: what the driver holds cannot be taken back when a
/// turn ends, and keeps others waiting on a slow line.
const BATCHES_PER_SECOND: u64 = 64;
/// Larger requests are refused; ordinary ones are 16 KiB.
const MAX_REQUEST: u32 = 128 << 10;
/// A turn lasts at least so many bytes.
const TURN: u64 = 256 << 10;
/// A peer is suggested what it takes in a fraction of a second ahead of its requests,
const SUGGESTIONS_PER_SECOND: u64 = 4;
/// and no more bytes of pieces than these.
const SUGGESTED: u64 = 8 << 20;
/// And so many pieces at most.
const MAX_SUGGESTED: usize = 32;
/// An unchoked peer that has not asked for so long does not use its slot.
const GRACE: Now = Now::from_millis(30);
/// A peer that has taken nothing for so long does not use its slot either.
const STUCK: Now = Now::from_secs(5);
/// Decisions about many peers are not made for each event.
const PACE: Now = Now::from_millis(10);
const FEW: usize = 64;

/// The choker's memory.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    /// A decision is due.
    pub(super) stale: bool,
    /// Somebody is interested and choked.
    pub(super) waiting: bool,
    /// When a slot that just ran empty counts as idle.
    idle_at: Option<Now>,
    decided: Now,
    views: Vec<View>,
    changes: Vec<Change>,
}

impl Peer {
    fn uses_its_slot(&self, now: Now) -> bool {
        let quiet = now.saturating_sub(self.active);
        quiet < if self.is_owed() { STUCK } else { GRACE }
    }

    /// Without BEP 6 a choke loses what the peer has queued: it is done more rarely.
    fn turn_len(&self, turn: u64) -> u64 {
        if self.is_fast() { turn } else { turn * 8 }
    }
}

impl Swarm {
    pub(super) fn is_interested(&mut self, slot: Slot, interested: bool) {
        if let Some(peer) = self.peers.get_mut(slot) {
            self.uploads.stale |= peer.is_interested != interested;
            peer.is_interested = interested;
        }
    }

    pub(super) fn requested(&mut self, key: PeerKey, blocks: &[Block], now: Now) {
        let Some(slot) = self.peers.slot(key) else {
            return;
        };
        let largest = MAX_REQUEST.max(self.settings.block_len);
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        peer.heard = now;
        for &block in blocks {
            let waiting = peer.queue.blocks() + peer.sending_blocks as usize;
            let serve = !peer.choked
                && block.len <= largest
                && waiting < self.settings.max_inbound_requests
                && self.have.contains(block.piece)
                && !self.unreadable.contains(&block.piece);
            if serve {
                if let Some(spread) = &mut self.spread {
                    spread.requested(block.piece, &mut peer.errands);
                }
                if !peer.queue.contains(block) {
                    peer.asks_for(now, block.len.into());
                    peer.queue.push(block, Now::ZERO);
                }
            } else if peer.is_fast() {
                peer.spoke = now;
                self.actions.push_back(Action::Send {
                    peer: key,
                    message: Message::Reject(block),
                });
            }
        }
        self.suggest(slot);
        self.hand_out(slot);
    }

    /// Keeps a peer in suggestions.
    fn suggest(&mut self, slot: Slot) {
        if self.picker.is_some() || self.peers.wire() < 2 {
            return;
        }
        if self.spread.is_none() && self.have.is_full() {
            self.begin_spreading();
        }
        let piece_len = u64::from(self.geometry.piece_len());
        let (Some(peer), Some(spread)) = (self.peers.get_mut(slot), &mut self.spread) else {
            return;
        };
        if peer.choked || !peer.is_fast() {
            return;
        }
        // What is promised to one is kept from the others: no more than it takes in a moment.
        let rate = peer.up.per_second(self.clock.now);
        let most = (rate / SUGGESTIONS_PER_SECOND).min(SUGGESTED) / piece_len;
        let most = usize::try_from(most.max(1))
            .unwrap_or(usize::MAX)
            .min(MAX_SUGGESTED);
        let (key, actions) = (peer.key, &mut self.actions);
        spread.suggest(&peer.pieces, &mut peer.errands, most, |piece| {
            actions.push_back(Action::Send {
                peer: key,
                message: Message::Suggest(piece),
            });
        });
    }

    fn begin_spreading(&mut self) {
        let mut spread = Spread::new(self.geometry, self.rng.random());
        for (_, peer) in self.peers.iter_mut().filter(|(_, peer)| !peer.is_web()) {
            peer.errands = Errands::default();
            spread.peer_joined(&peer.pieces);
        }
        self.spread = Some(Box::new(spread));
    }

    pub(super) fn cancelled(&mut self, slot: Slot, block: Block) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        if peer.queue.take(block).is_some() && peer.is_fast() {
            self.send(slot, Message::Reject(block));
        }
    }

    /// Gives the driver the next batches of a peer's queue.
    fn hand_out(&mut self, slot: Slot) {
        while let Some(peer) = self.peers.get_mut(slot) {
            let rate = peer.up.per_second(self.clock.now);
            let batch = (rate / BATCHES_PER_SECOND).clamp(MIN_BATCH, MAX_BATCH);
            // The next batch goes out when half of one is left.
            if peer.queue.is_empty() || peer.sending_bytes > batch / 2 {
                return;
            }
            let mut blocks = self.spare.pop().unwrap_or_default();
            peer.queue.pop_batch(BATCH_BLOCKS, batch, &mut blocks);
            peer.sending_blocks += u32::try_from(blocks.len()).unwrap_or(u32::MAX);
            peer.sending_bytes += blocks.iter().map(|block| u64::from(block.len)).sum::<u64>();
            peer.spoke = self.clock.now;
            let peer = peer.key;
            self.actions.push_back(Action::Upload { peer, blocks });
        }
    }

    pub(super) fn uploaded(&mut self, key: PeerKey, blocks: u32, bytes: u64, now: Now) {
        let Some(slot) = self.peers.slot(key) else {
            return;
        };
        let turn = TURN.max(u64::from(self.geometry.piece_len()));
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        debug_assert!(blocks <= peer.sending_blocks && bytes <= peer.sending_bytes);
        peer.is_active(now);
        peer.sending_blocks = peer.sending_blocks.saturating_sub(blocks);
        peer.sending_bytes = peer.sending_bytes.saturating_sub(bytes);
        peer.uploaded += bytes;
        peer.up.add(now, bytes);
        let before = peer.turn;
        peer.turn += bytes;
        let turn = peer.turn_len(turn);
        self.uploads.stale |= before < turn && peer.turn >= turn;
        if self.uploads.waiting && peer.queue.is_empty() && peer.sending_blocks == 0 {
            self.uploads.idle_at.get_or_insert(now + GRACE);
        }
        self.hand_out(slot);
    }

    pub(super) fn unreadable(&mut self, piece: PieceIndex) {
        self.unreadable.insert(piece);
        self.withdraw(piece);
    }

    /// We do not have the piece any more: nobody gets it.
    pub(super) fn withdraw(&mut self, piece: PieceIndex) {
        for (_, peer) in self.peers.iter_mut() {
            let (key, fast) = (peer.key, peer.is_fast());
            let actions = &mut self.actions;
            peer.queue.take_piece(piece, |block| {
                if fast {
                    actions.push_back(Action::Send {
                        peer: key,
                        message: Message::Reject(block),
                    });
                }
            });
        }
    }

    /// Lets the choker decide, if something it looks at has changed.
    pub(super) fn rechoke(&mut self, now: Now) {
        if self.uploads.idle_at.is_some_and(|at| at <= now) {
            self.uploads.stale = true;
        }
        if !self.uploads.stale {
            return;
        }
        if self.peers.wire() > FEW && now < self.uploads.decided + PACE {
            return;
        }
        self.uploads.stale = false;
        self.uploads.idle_at = None;
        self.uploads.decided = now;
        let mut views = std::mem::take(&mut self.uploads.views);
        let mut changes = std::mem::take(&mut self.uploads.changes);
        views.clear();
        changes.clear();
        let turn = TURN.max(u64::from(self.geometry.piece_len()));
        let (have, total) = (self.have.count(), self.geometry.pieces());
        let wire = self.peers.iter().filter(|(_, peer)| !peer.is_web());
        views.extend(wire.map(|(slot, peer)| View {
            slot,
            interested: peer.is_interested,
            choked: peer.choked,
            active: peer.uses_its_slot(now),
            // What both have is what we have less what it wants of us; the two counts bound it.
            useful: have > 0 && !peer.pieces.is_all(),
            sated: peer.turn >= peer.turn_len(turn),
            pieces: peer.pieces.count(total),
            turned: peer.turned,
        }));
        let room = Room::new(self.settings.upload_slots, have, total);
        let lead = self.line.time_for(self.geometry.piece_len().into());
        choker::decide(room, lead, &views, &mut changes);
        for &change in &changes {
            match change {
                Change::Choke(slot) => self.choke(slot, now),
                Change::Unchoke(slot) => self.unchoke(slot, now),
            }
        }
        let waiting = views
            .iter()
            .filter(|view| view.choked && view.interested)
            .count();
        let served = changes
            .iter()
            .filter(|&&change| matches!(change, Change::Unchoke(_)));
        self.uploads.waiting = waiting > served.count();
        self.uploads.views = views;
        self.uploads.changes = changes;
    }

    /// When the next decision is due that had to wait.
    pub(super) fn rechoke_at(&self) -> Option<Now> {
        let stale = self.uploads.stale.then_some(self.uploads.decided + PACE);
        [stale, self.uploads.idle_at].into_iter().flatten().min()
    }

    fn unchoke(&mut self, slot: Slot, now: Now) {
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.choked = false;
            peer.turn = 0;
            peer.turned = now;
            peer.active = now;
        }
        // First: the peer asks as soon as it is unchoked.
        self.suggest(slot);
        self.send(slot, Message::Unchoke);
    }

    /// Ends a peer's turn. With BEP 6 the piece it is getting is still served, so that a
    /// turn does not end with half of it.
    fn choke(&mut self, slot: Slot, now: Now) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        peer.shirked = peer.shirking(now);
        peer.choked = true;
        peer.turned = now;
        let fast = peer.is_fast();
        if let Some(spread) = &mut self.spread {
            spread.choked(&mut peer.errands);
        }
        self.send(slot, Message::Choke);
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let (key, actions, spread) = (peer.key, &mut self.actions, &mut self.spread);
        let errands = &mut peer.errands;
        let reject = |block: Block| {
            if let Some(spread) = spread {
                spread.refused(block.piece, errands);
            }
            if fast {
                actions.push_back(Action::Send {
                    peer: key,
                    message: Message::Reject(block),
                });
            }
        };
        if fast {
            peer.queue.keep_front_piece(reject);
        } else {
            peer.queue.drain(reject);
        }
    }
}
