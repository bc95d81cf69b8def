//! The asking half of the machine: what peers have, interest, requests, received blocks and
//! what becomes of pieces.

use super::partial::Receipt;
use super::picker::Ask;
use super::pieces::Pieces;
use super::session::Peer;
use super::{Action, Now, PeerKey, Reason, Slot, Swarm};
use crate::geometry::{Block, PieceIndex};
use crate::wire::Message;

/// Blocks that nobody asked for, after which a peer is let go.
const MAX_UNASKED: u32 = 64;
/// Answers to requests taken back that are tolerated.
const MAX_LATE: u32 = 8_192;
/// Requests doubled at once in the endgame.
const MAX_DOUBLED: usize = 16;
/// By how many peers a block may be owed.
const MAX_OWED: u8 = 2;
/// Bytes of one request to a web seed.
const WEB_RUN: u64 = 8 << 20;
/// A block that is owed for longer is doubled also while pieces wait for memory to be begun.
const HELD_UP: Now = Now::from_millis(100);
/// The first rest after a reject; it doubles.
const REST: Now = Now::from_millis(50);
/// How long a lost piece waits, and who went back on its word.
const COOLING: Now = Now::from_secs(1);

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
    fn let_go_alone(&mut self, slot: Slot) {
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
