//! Blocks that came, and what becomes of the pieces they make.
//!
//! Every block that the driver reports is either kept for its piece or given back to be discarded,
//! exactly once. A piece counts as had only when the driver says that its hash is right.

use super::download::{COOLING, MAX_LATE};
use super::partial::Receipt;
use super::{Action, Now, PeerKey, Reason, Slot, Swarm};
use crate::geometry::{Block, PieceIndex};
use crate::wire::Message;

/// Blocks that nobody asked for, after which a peer is let go.
const MAX_UNASKED: u32 = 64;

/// What a batch of blocks was good for; kept to be filled again.
#[derive(Debug, Default)]
pub(super) struct Judged {
    useful: u64,
    /// When the last of them was asked for.
    asked_at: Option<Now>,
    useless: Vec<Block>,
    /// Others owe these too.
    contested: Vec<Block>,
}

impl Judged {
    fn clear(&mut self) {
        self.useful = 0;
        self.asked_at = None;
        self.useless.clear();
        self.contested.clear();
    }
}

impl Swarm {
    // Received blocks.

    pub(super) fn received(&mut self, key: PeerKey, blocks: &[Block], now: Now) {
        let Some(slot) = self.peers.slot(key).filter(|_| self.picker.is_some()) else {
            return self.discard_all(key, blocks);
        };
        let mut judged = std::mem::take(&mut self.judged);
        self.judge(slot, blocks, &mut judged, now);
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        peer.heard = now;
        let bytes = blocks.iter().map(|block| u64::from(block.len)).sum();
        peer.down.add(now, bytes);
        self.line.add(now, bytes);
        if judged.useful > 0 {
            peer.downloaded += judged.useful;
            peer.delivered = now;
            peer.gave = now;
            peer.snubbed = false;
            peer.snubs = 0;
            if !peer.is_web() {
                self.progress = now;
                self.hunger.eat(now, judged.useful);
            }
        }
        if let Some(asked_at) = judged.asked_at {
            peer.adapt(now, asked_at, bytes, &self.settings);
        }
        let hostile = peer.unasked > MAX_UNASKED;
        self.discard_all(key, &judged.useless);
        self.cancel_rivals(slot, &judged.contested);
        self.judged = judged;
        if hostile {
            return self.drop_peer(slot, Reason::Protocol, now);
        }
        self.fill(slot, now);
    }

    /// What the blocks are good for.
    fn judge(&mut self, slot: Slot, blocks: &[Block], judged: &mut Judged, now: Now) {
        judged.clear();
        let (Some(peer), Some(picker)) = (self.peers.get_mut(slot), &mut self.picker) else {
            return;
        };
        for &block in blocks {
            let asked_at = peer.asked.take(block);
            let owed = asked_at.is_some();
            if owed {
                self.owed -= u64::from(block.len);
                judged.asked_at = asked_at;
            } else if peer.late > 0 {
                peer.late -= 1;
                if peer.suspect {
                    // What was taken back may be somebody else's piece by now.
                    judged.useless.push(block);
                    continue;
                }
            } else {
                peer.unasked += 1;
                judged.useless.push(block);
                continue;
            }
            match picker.receive(block, slot, peer.key, owed, now) {
                Receipt::Useless => judged.useless.push(block),
                Receipt::Useful { rivals, complete } => {
                    judged.useful += u64::from(block.len);
                    if rivals {
                        judged.contested.push(block);
                    }
                    if complete {
                        let piece = block.piece;
                        self.actions.push_back(Action::Verify { piece });
                    }
                }
            }
        }
    }

    fn discard_all(&mut self, peer: PeerKey, blocks: &[Block]) {
        if !blocks.is_empty() {
            let blocks = blocks.to_vec();
            self.actions.push_back(Action::Discard { peer, blocks });
        }
    }

    /// Others who owe these blocks are told not to send them.
    fn cancel_rivals(&mut self, winner: Slot, blocks: &[Block]) {
        if blocks.is_empty() {
            return;
        }
        for (slot, peer) in self.peers.iter_mut() {
            if slot == winner || peer.asked.is_empty() {
                continue;
            }
            let owed = |block: &&Block| peer.asked.take(**block).is_some();
            let cancelled: Vec<Block> = blocks.iter().filter(owed).copied().collect();
            self.owed -= cancelled
                .iter()
                .map(|block| u64::from(block.len))
                .sum::<u64>();
            if !cancelled.is_empty() {
                let late = u32::try_from(cancelled.len()).unwrap_or(MAX_LATE);
                peer.late = peer.late.saturating_add(late).min(MAX_LATE);
                peer.spoke = self.clock.now;
                self.actions.push_back(Action::Cancel {
                    peer: peer.key,
                    blocks: cancelled,
                });
                self.stirred = true;
            }
        }
    }

    // What becomes of pieces.

    pub(super) fn verified(&mut self, piece: PieceIndex, now: Now) {
        let Some(sources) = self
            .picker
            .as_mut()
            .and_then(|picker| picker.verified(piece))
        else {
            debug_assert!(false, "piece {piece} was not being verified");
            return;
        };
        self.have.insert(piece);
        // Whoever delivered a right piece all alone is no longer under suspicion.
        if let [alone] = sources[..]
            && let Some(slot) = self.peers.slot(alone)
            && let Some(peer) = self.peers.get_mut(slot)
        {
            peer.suspect = false;
        }
        let complete = self.have.is_full();
        if complete {
            self.picker = None;
        }
        for slot in (0..self.peers.end()).map(Slot) {
            let Some(peer) = self.peers.get_mut(slot) else {
                continue;
            };
            if peer.pieces.contains(piece) {
                peer.wanted -= 1;
                self.update_interest(slot);
            }
            // Also to those who have it: a seed serves those first who have least, and knows
            // by this alone when we need it no more.
            self.send(slot, Message::Have(piece));
        }
        // The first piece makes us of use to others.
        self.uploads.stale |= self.have.count() == 1;
        if complete {
            self.actions.push_back(Action::Complete);
            self.candidates.forget_waiting();
            self.part_from_seeds(now);
        } else if self
            .picker
            .as_mut()
            .is_some_and(|picker| picker.was_refused())
        {
            self.stirred = true;
        }
    }

    pub(super) fn corrupt(&mut self, piece: PieceIndex, now: Now) {
        let Some(picker) = &mut self.picker else {
            debug_assert!(false, "piece {piece} was not being verified");
            return;
        };
        let sources = picker.corrupt(piece);
        if let [alone] = sources[..] {
            self.liar(alone, now);
        } else {
            for key in sources {
                if let Some(slot) = self.peers.slot(key)
                    && let Some(peer) = self.peers.get_mut(slot)
                {
                    peer.suspect = true;
                }
            }
        }
        self.stirred = true;
    }

    pub(super) fn lost(&mut self, piece: PieceIndex, now: Now) {
        let had = self.have.remove(piece);
        if had {
            for (_, peer) in self.peers.iter_mut() {
                peer.wanted += u32::from(peer.pieces.contains(piece));
            }
            self.withdraw(piece);
        }
        match &mut self.picker {
            Some(picker) => picker.lost(piece),
            None => self.begin_picking(),
        }
        if let Some(picker) = &mut self.picker {
            picker.shelve(piece);
            self.cooling.push((now + COOLING, piece));
        }
        for slot in (0..self.peers.end()).map(Slot) {
            self.update_interest(slot);
        }
    }
}
