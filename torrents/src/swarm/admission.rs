//! Who is connected: first messages, duplicates, bans, places, dialling.
//!
//! Invariants: nobody is greeted twice on one connection; of two connections to one host both sides
//! keep the same; nobody is dialled who is connected, banned or ourselves. What a stranger says of
//! itself (its id, where it listens) takes nothing away from anybody else.

use std::net::SocketAddr;

use super::bans::Identity;
use super::session::Peer;
use super::{Action, Now, PeerKey, PeerKind, Reason, Slot, Swarm};
use crate::id::PeerId;
use crate::wire::Message;

/// Dials under way at once.
const MAX_DIALLING: usize = 32;
/// And no sooner, for those who cannot come: some never try TCP, or a wall lets only us through.
const SEED_PATIENCE: Now = Now::from_secs(5);
/// A connection that lasted so long was one.
const SOLID: Now = Now::from_secs(5);
/// A line on which nothing came for so long may be cut: its owner may come again. Clients keep
/// theirs alive every two minutes, ours every 50 s.
const CUT: Now = Now::from_secs(60);

impl Swarm {
    pub(super) fn connected(
        &mut self,
        key: PeerKey,
        addr: Option<SocketAddr>,
        id: Option<PeerId>,
        kind: PeerKind,
        now: Now,
    ) {
        debug_assert!(self.peers.slot(key).is_none(), "a key is used twice");
        let dialled = match kind {
            PeerKind::Wire { inbound: false, .. } => addr,
            _ => None,
        };
        if let Some(addr) = dialled {
            self.candidates.connected(addr);
        }
        let twin_at = match self.admit(addr, id, kind, now) {
            Ok(twin_at) => twin_at,
            Err(reason) => {
                if let Some(addr) = dialled {
                    match reason {
                        Reason::Banned => self.shun(addr, id, now),
                        Reason::Duplicate => {}
                        _ => self.candidates.gone(addr, false, now, &mut self.rng),
                    }
                }
                return self
                    .actions
                    .push_back(Action::Disconnect { peer: key, reason });
            }
        };
        let peer = Peer::new(key, addr, id, kind, now);
        let slot = self.peers.insert(peer);
        if let Some(twin_at) = twin_at {
            self.listens_at(slot, twin_at);
        }
        self.greet(slot);
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.wanted = peer.pieces.missing_in(&self.have);
        }
        self.uploads.stale = true;
        if kind == PeerKind::WebSeed {
            self.fill(slot, now);
        }
    }

    /// What we have goes first, exactly once.
    fn greet(&mut self, slot: Slot) {
        let fast = self.peers.get(slot).is_some_and(Peer::is_fast);
        if self.have.is_empty() {
            if fast {
                self.send(slot, Message::HaveNone);
            }
        } else if self.have.is_full() && fast {
            self.send(slot, Message::HaveAll);
        } else {
            self.send(slot, Message::Bitfield(self.have.clone()));
        }
    }

    /// The peer can be dialled there, too if it was said or dialled elsewhere before. Of its
    /// addresses the latest two are kept, and forgotten with it.
    fn listens_at(&mut self, slot: Slot, addr: SocketAddr) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        if peer.listen != Some(addr) && peer.also != Some(addr) {
            let before = peer.listen.replace(addr);
            let oldest = before.and_then(|before| peer.also.replace(before));
            if let Some(oldest) = oldest {
                self.candidates.forget(oldest);
            }
        }
        self.candidates.connected(addr);
    }

    /// Whether there is a place for such a peer; may make one. Tells where it can be dialled if
    /// it takes the place of an older connection to the same.
    fn admit(
        &mut self,
        addr: Option<SocketAddr>,
        id: Option<PeerId>,
        kind: PeerKind,
        now: Now,
    ) -> Result<Option<SocketAddr>, Reason> {
        let (PeerKind::Wire { inbound, .. }, Some(addr), Some(id)) = (kind, addr, id) else {
            return Ok(None);
        };
        let mut twin_at = None;
        if id == self.us || self.bans.until(addr, id, now).is_some() {
            return Err(Reason::Banned);
        }
        let twin = self
            .peers
            .iter()
            .find(|(_, peer)| peer.id == Some(id) && self.is_twin(peer, addr, inbound, now));
        if let Some((slot, twin)) = twin {
            // Of two connections both sides keep what the greater id dialled, or else the first
            // unless it seems to be cut.
            let was_inbound = matches!(twin.kind, PeerKind::Wire { inbound: true, .. });
            let keep_new = twin.is_from(addr.ip())
                && match was_inbound == inbound {
                    true => now.saturating_sub(twin.heard) >= CUT,
                    false => inbound == (id > self.us),
                };
            if !keep_new {
                if !inbound {
                    self.listens_at(slot, addr);
                }
                return Err(Reason::Duplicate);
            }
            twin_at = twin.dialled_at();
            self.drop_peer(slot, Reason::Duplicate, now);
            if !inbound && let Some(twin_at) = twin_at.take().filter(|&at| at != addr) {
                self.candidates.forget(twin_at);
            }
        }
        if self.peers.wire() >= self.settings.max_peers {
            let Some(slot) = self.place_for(addr.ip(), now) else {
                return Err(Reason::Full);
            };
            self.drop_peer(slot, Reason::Useless, now);
        }
        Ok(twin_at)
    }

    /// Whether a connection is to the same peer as an older one with the same id. Anybody can say
    /// another's id: from elsewhere it takes nothing away. Where we dial, it may have two addresses,
    /// of which one will do unless we starve.
    fn is_twin(&self, older: &Peer, addr: SocketAddr, inbound: bool, now: Now) -> bool {
        older.is_from(addr.ip()) || (!inbound && !self.is_starving(now))
    }

    pub(super) fn disconnected(&mut self, key: PeerKey, now: Now) {
        if let Some(slot) = self.peers.slot(key) {
            self.remove(slot, None, now);
        }
    }

    /// Lets a peer go.
    pub(super) fn drop_peer(&mut self, slot: Slot, reason: Reason, now: Now) {
        if let Some(peer) = self.peers.get(slot) {
            let peer = peer.key;
            self.actions.push_back(Action::Disconnect { peer, reason });
            self.remove(slot, Some(reason), now);
        }
    }

    fn remove(&mut self, slot: Slot, reason: Option<Reason>, now: Now) {
        self.drop_asked(slot);
        self.abandon(slot);
        let Some(mut peer) = self.peers.remove(slot) else {
            return;
        };
        self.uploads.stale = true;
        if let Some(spread) = &mut self.spread {
            spread.peer_left(&peer.pieces, &mut peer.errands);
        }
        if self.peers.is_empty() {
            self.spread = None;
        }
        if peer.is_web() {
            return;
        }
        if let Some(picker) = &mut self.picker {
            picker.peer_left(&peer.pieces);
        }
        let listen = peer.dialled_at();
        if let (Some(addr), Some(id)) = (peer.addr, peer.id) {
            self.bans.remember(peer.key, Identity { addr, id, listen });
        }
        for other in [peer.listen, peer.also].into_iter().flatten() {
            if Some(other) != listen {
                self.candidates.forget(other);
            }
        }
        let Some(listen) = listen else {
            return;
        };
        match reason {
            // Its ban says when it may be dialled again.
            Some(Reason::Corrupt | Reason::Duplicate) => {}
            // A seed is of no use to a seed; should we lose a piece, it may be named again.
            Some(Reason::BothSeeds) => self.candidates.forget(listen),
            _ => {
                if self.picker.is_none() {
                    // Whoever still needs us will come, or be named again.
                    return self.candidates.forget(listen);
                }
                let moved = peer.downloaded + peer.uploaded > 0;
                let well = moved || now.saturating_sub(peer.since) >= SOLID;
                self.candidates.gone(listen, well, now, &mut self.rng);
            }
        }
    }

    /// Two seeds have nothing to say to each other; true if the peer is gone.
    pub(super) fn drop_if_both_seed(&mut self, slot: Slot, now: Now) -> bool {
        let both = self.have.is_full()
            && self
                .peers
                .get(slot)
                .is_some_and(|peer| !peer.is_web() && peer.pieces.is_all());
        if both {
            self.drop_peer(slot, Reason::BothSeeds, now);
        }
        both
    }

    pub(super) fn part_from_seeds(&mut self, now: Now) {
        for slot in (0..self.peers.end()).map(Slot) {
            self.drop_if_both_seed(slot, now);
        }
    }

    /// The peer sent wrong bytes.
    pub(super) fn liar(&mut self, key: PeerKey, now: Now) {
        let Some(slot) = self.peers.slot(key) else {
            if let Some(who) = self.bans.departed(key) {
                self.ban(who, now);
            }
            return;
        };
        if let Some(peer) = self.peers.get(slot)
            && let (Some(addr), Some(id)) = (peer.addr, peer.id)
        {
            let listen = peer.dialled_at();
            self.ban(Identity { addr, id, listen }, now);
        }
        self.drop_peer(slot, Reason::Corrupt, now);
    }

    fn ban(&mut self, who: Identity, now: Now) {
        let until = self.bans.ban(who, now);
        let Some(listen) = who.listen else {
            return;
        };
        match self.picker {
            Some(_) => self.candidates.rest(listen, until, &mut self.rng),
            None => self.candidates.forget(listen),
        }
    }

    /// Whoever answers there is banned, or is ourselves.
    fn shun(&mut self, addr: SocketAddr, id: Option<PeerId>, now: Now) {
        match id.and_then(|id| self.bans.until(addr, id, now)) {
            Some(until) => self.candidates.rest(addr, until, &mut self.rng),
            None => self.candidates.never(addr),
        }
    }

    pub(super) fn extended(
        &mut self,
        key: PeerKey,
        reqq: Option<u32>,
        upload_only: bool,
        listen: Option<SocketAddr>,
    ) {
        let Some(slot) = self.peers.slot(key) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        if let Some(reqq) = reqq {
            peer.set_reqq(reqq);
        }
        peer.upload_only = upload_only;
        if let (Some(listen), PeerKind::Wire { inbound: true, .. }) = (listen, peer.kind) {
            self.listens_at(slot, listen);
        }
    }

    pub(super) fn add_candidates(&mut self, addrs: &[SocketAddr], now: Now) {
        let since = match self.picker {
            Some(_) => now,
            None => now + SEED_PATIENCE,
        };
        for &addr in addrs {
            self.candidates.add(addr, since, &mut self.rng);
        }
    }

    pub(super) fn dial_failed(&mut self, addr: SocketAddr, forever: bool, now: Now) {
        if forever {
            self.candidates.never(addr);
        } else if self.picker.is_none() {
            self.candidates.give_up(addr);
        } else {
            self.candidates.failed(addr, now, &mut self.rng);
        }
    }

    pub(super) fn dial(&mut self, now: Now) {
        while self.may_dial(now) {
            let Some(addr) = self.candidates.dial(now) else {
                return;
            };
            if self.picker.is_none() && self.has_come(addr) {
                self.candidates.forget(addr);
            } else {
                self.actions.push_back(Action::Dial { addr });
            }
        }
    }

    /// Whether somebody from there came who does not say where it listens: most likely this one.
    fn has_come(&self, addr: SocketAddr) -> bool {
        let mut peers = self.peers.iter();
        peers.any(|(_, peer)| {
            let from = peer.addr.map(|addr| addr.ip());
            peer.dialled_at().is_none() && from == Some(addr.ip())
        })
    }

    fn may_dial(&self, now: Now) -> bool {
        let dialling = self.candidates.dialling();
        dialling < MAX_DIALLING && self.peers.wire() + dialling < self.wanted_peers(now)
    }

    /// When the next dial is due.
    pub(super) fn dial_at(&self, now: Now) -> Option<Now> {
        self.candidates.next_due().filter(|_| self.may_dial(now))
    }
}
