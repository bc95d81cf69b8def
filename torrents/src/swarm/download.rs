//! The asking half of the machine: what is asked of whom, and what is asked twice or taken back.
//!
//! Invariants: a peer owes no more than its window; a block is owed by [`MAX_OWED`] peers at most,
//! and by two only at the end or where one of them holds the others up.

use super::picker::Ask;
use super::session::Peer;
use super::{Action, Now, PeerKey, Slot, Swarm};
use crate::geometry::Block;

/// Requests doubled at once in the endgame.
const MAX_DOUBLED: usize = 16;
/// By how many peers a block may be owed.
const MAX_OWED: u8 = 2;
/// Bytes of one request to a web seed.
const WEB_RUN: u64 = 8 << 20;
/// A block that is owed for longer is doubled also while pieces wait for memory to be begun.
const HELD_UP: Now = Now::from_millis(100);
/// Answers to requests taken back that are tolerated.
pub(super) const MAX_LATE: u32 = 8_192;
/// How long a lost piece waits, and who went back on its word.
pub(super) const COOLING: Now = Now::from_secs(1);

impl Swarm {
    // Requests.

    /// Asks the peer for as much as its window has room for.
    pub(super) fn fill(&mut self, slot: Slot, now: Now) {
        let mut blocks = self.vector();
        let (Some(peer), Some(picker)) = (self.peers.get_mut(slot), &mut self.picker) else {
            return self.recycle(blocks);
        };
        if let Some(only) = peer.may_be_asked(now, picker.epoch(), self.web) {
            let left = self.line.allows().saturating_sub(self.owed);
            let (room, web) = (peer.room(left, &self.settings), peer.is_web());
            let guided = peer.is_guiding(now);
            let slow = peer.is_slow(self.best_pace);
            let mut ask = Ask {
                slot,
                pieces: &peer.pieces,
                suggestions: &mut peer.suggestions,
                guided,
                guide: !peer.guided.is_zero(),
                blocks: room,
                slow,
                suspect: peer.suspect,
                only: only.then_some(&peer.allowed[..]),
                now,
            };
            if room > 0 && web {
                picker.pick_run(&mut ask, WEB_RUN, &mut blocks);
            } else if room > 0 {
                picker.pick(&mut ask, &mut blocks);
            }
            if room > 0 && blocks.is_empty() {
                peer.dry = Some(picker.epoch());
                if !only && !web && picker.all_asked() {
                    self.double(slot, room, now, &mut blocks);
                }
            }
        }
        self.request(slot, blocks, now);
    }

    fn request(&mut self, slot: Slot, blocks: Vec<Block>, now: Now) {
        let Some(peer) = self.peers.get_mut(slot).filter(|_| !blocks.is_empty()) else {
            return self.recycle(blocks);
        };
        for &block in &blocks {
            peer.asked.push(block, now);
            self.owed += u64::from(block.len);
        }
        peer.spoke = now;
        let peer = peer.key;
        self.actions.push_back(Action::Request { peer, blocks });
    }

    /// Asks every peer that has room, starting with a different one each time.
    pub(super) fn fill_all(&mut self, now: Now) {
        use rand::RngExt;
        let end = self.peers.end();
        if self.picker.is_none() || end == 0 {
            return;
        }
        let start = self.rng.random_range(0..end);
        for slot in (start..end).chain(0..start) {
            self.fill(Slot(slot), now);
        }
    }

    /// The endgame: everything left is owed by somebody. Takes from the ends of the queues
    /// that will be served last, and only what this peer will deliver much sooner.
    fn double(&mut self, slot: Slot, room: usize, now: Now, out: &mut Vec<Block>) {
        let fit = |peer: &&Peer| peer.asked.is_empty() && !peer.suspect;
        let Some(helper) = self.peers.get(slot).filter(fit) else {
            return;
        };
        if self.line.is_full(now) {
            return;
        }
        let mut soon = helper.latency * 2 + Now::from_millis(20);
        if !self.picker.as_ref().is_some_and(|picker| picker.is_last()) {
            // Memory is what holds us up, and not for long unless they are slow: then who is
            // known to be fast helps.
            if helper.pace.is_none() || helper.snubbed {
                return;
            }
            soon = soon.max(HELD_UP);
        }
        let most = room.min(MAX_DOUBLED);
        let mut owing: Vec<(Now, Slot)> = self
            .peers
            .iter()
            .filter(|&(other, peer)| other != slot && !peer.asked.is_empty())
            .map(|(other, peer)| (peer.expects(now), other))
            .filter(|&(wait, _)| wait > soon)
            .collect();
        owing.sort_unstable_by(|a, b| b.cmp(a));
        let (peers, Some(picker)) = (&self.peers, &mut self.picker) else {
            return;
        };
        for owed in owing.iter().filter_map(|&(_, other)| peers.get(other)) {
            for block in owed.asked.iter().rev() {
                if out.len() >= most {
                    return;
                }
                if helper.pieces.contains(block.piece) && picker.double(block, slot, MAX_OWED) {
                    out.push(block);
                }
            }
        }
    }

    /// Forgets what the peer owes: it will not come, or only by luck.
    pub(super) fn drop_asked(&mut self, slot: Slot) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let owed = u32::try_from(peer.asked.blocks()).unwrap_or(MAX_LATE);
        peer.late = peer.late.saturating_add(owed).min(MAX_LATE);
        if let Some(picker) = &mut self.picker {
            self.owed -= peer.asked.bytes();
            peer.asked.drain(|block| picker.release(block));
            self.stirred |= owed > 0;
        }
    }

    /// Takes back what the peer owes.
    pub(super) fn take_back(&mut self, slot: Slot) {
        let mut blocks = self.vector();
        if let Some(peer) = self.peers.get(slot) {
            blocks.extend(peer.asked.iter());
            let peer = peer.key;
            if !blocks.is_empty() {
                self.actions.push_back(Action::Cancel { peer, blocks });
            }
        }
        self.drop_asked(slot);
    }

    /// The peer's pieces are anyone's; those it alone may contribute to begin anew.
    pub(super) fn abandon(&mut self, slot: Slot) {
        let Some(picker) = &mut self.picker else {
            return;
        };
        if picker.owns_alone(slot) {
            self.take_back(slot);
        }
        let Some(picker) = &mut self.picker else {
            return;
        };
        let mut dropped = Vec::new();
        picker.abandon(slot, |from, block| dropped.push((from, block)));
        self.discard(dropped);
        self.stirred = true;
    }

    /// The peer went back on its word: it may not keep from others what it alone may finish, and
    /// they come first.
    pub(super) fn let_go_alone(&mut self, slot: Slot) {
        let picker = self.picker.as_ref();
        if picker.is_some_and(|picker| picker.owns_alone(slot)) {
            self.abandon(slot);
            let rest = self.clock.now + COOLING;
            if let Some(peer) = self.peers.get_mut(slot) {
                peer.rests_until = peer.rests_until.max(rest);
            }
        }
    }

    /// Gives blocks back to the driver, batched by sender.
    pub(super) fn discard(&mut self, mut blocks: Vec<(PeerKey, Block)>) {
        blocks.sort_unstable();
        for from in blocks.chunk_by(|a, b| a.0 == b.0) {
            let peer = from[0].0;
            let blocks = from.iter().map(|&(_, block)| block).collect();
            self.actions.push_back(Action::Discard { peer, blocks });
        }
    }
}
