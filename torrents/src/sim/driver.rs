//! The driver: gives the machines their events and does what they say.

use super::queue::Happening;
use super::{NodeId, Simulation, WEB};
use crate::geometry::PieceIndex;
use crate::swarm::{Action, Event, PeerKey};
use crate::wire::Message;

impl Simulation {
    /// Gives a machine an event and does what it says.
    pub(super) fn feed(&mut self, id: NodeId, event: Event<'_>) {
        let host = self.host_mut(id);
        host.outcome.events += 1;
        let (skew, now) = (host.skew, self.now);
        let node = &mut self.nodes[id.at()];
        node.swarm.handle(now + skew, event);
        if self.network.check_every > 0 && self.events.is_multiple_of(self.network.check_every) {
            node.swarm.check_invariants();
        }
        while let Some(action) = self.nodes[id.at()].swarm.poll_action() {
            self.trace_action(id, &action);
            self.apply(id, action);
        }
        let node = &mut self.nodes[id.at()];
        if let Some(wake) = node.swarm.poll_timeout() {
            let wake = wake.saturating_sub(skew).max(now);
            if node.wake.is_none_or(|at| wake < at) {
                node.wake = Some(wake);
                self.queue.push(wake, Happening::Wake(id));
            }
        }
    }

    /// A peer tells that it has a piece.
    pub(super) fn have(&mut self, link: u32, to: NodeId, piece: PieceIndex) {
        let message = Message::Have(piece);
        if self.crosses(link) {
            let message = Happening::Message { link, to, message };
            return self.keep(message);
        }
        self.deliver(link, to, |peer| Event::Message { peer, message });
    }

    fn apply(&mut self, id: NodeId, action: Action) {
        let link = |peer: PeerKey| u32::try_from(peer.0).unwrap_or(u32::MAX);
        match action {
            Action::Send {
                peer,
                message: Message::Have(piece),
            } => self.send_have(id, link(peer), piece),
            Action::Send { peer, message } => {
                let (link, to) = (link(peer), self.other(link(peer), id));
                let message = Happening::Message { link, to, message };
                self.queue.soon(self.now, message);
            }
            Action::Request { peer: WEB, blocks } => self.fetch(id, blocks),
            Action::Cancel { peer: WEB, .. } => {}
            Action::Request { peer, blocks } => {
                let (link, to) = (link(peer), self.other(link(peer), id));
                let requests = Happening::Requests { link, to, blocks };
                self.queue.soon(self.now, requests);
            }
            Action::Cancel { peer, blocks } => {
                let (link, to) = (link(peer), self.other(link(peer), id));
                let cancels = Happening::Cancels { link, to, blocks };
                self.queue.soon(self.now, cancels);
            }
            Action::Upload { peer, blocks } => self.upload(id, link(peer), blocks),
            Action::Verify { piece } => self.verify(id, piece),
            Action::Discard { peer, blocks } => self.nodes[id.at()].discard(peer, &blocks),
            Action::Dial { addr } => {
                if let Some(host) = self.host_at(addr) {
                    self.dial(id, self.node(host, self.layer_of(id)));
                }
            }
            Action::Disconnect { peer, reason } => {
                self.host_mut(id).outcome.count(reason);
                if peer != WEB {
                    self.close(link(peer), Some(id));
                }
            }
            Action::NeedPeers => {
                self.host_mut(id).outcome.pleas += 1;
                if let Some(last) = self.nodes[id.at()].announced {
                    let due = (last + self.network.announce_gap).max(self.now);
                    self.announce_at(id, due);
                }
            }
            Action::Complete => self.complete(id),
        }
    }

    fn send_have(&mut self, from: NodeId, link: u32, piece: PieceIndex) {
        let to = self.other(link, from);
        let inbox = &mut self.inboxes[to.at()];
        if inbox.is_empty() {
            self.queue.read_inbox(self.now, self.network.coalesce, to);
        }
        inbox.push((link, piece, self.now));
    }

    fn complete(&mut self, id: NodeId) {
        let (now, width) = (self.now, self.layers.len());
        let host = self.host_mut(id);
        host.outcome.layers += 1;
        if host.outcome.layers == width {
            let waited = host.is_pending();
            host.outcome.completed = Some(now);
            self.pending -= usize::from(waited);
        }
        // The trackers hear it at once.
        self.nodes[id.at()].announce = None;
        self.announce_at(id, now);
    }

    /// FNV-1a over what was decided, when and by whom.
    fn trace_action(&mut self, id: NodeId, action: &Action) {
        let mut mix = |value: u64| {
            self.trace = (self.trace ^ value).wrapping_mul(0x0000_0100_0000_01b3);
        };
        let now = u64::try_from(self.now.as_nanos()).unwrap_or(u64::MAX);
        mix(now.rotate_left(20) ^ u64::from(id.0));
        match action {
            Action::Send { peer, message } => {
                let piece = match message {
                    Message::Have(piece) => u64::from(piece.get()) << 36,
                    _ => 0,
                };
                mix((1 << 32 | peer.0) ^ piece);
            }
            Action::Request { peer, blocks }
            | Action::Cancel { peer, blocks }
            | Action::Upload { peer, blocks }
            | Action::Discard { peer, blocks } => {
                mix(2 << 32 | peer.0);
                for block in blocks {
                    mix(u64::from(block.piece.get()) << 32 | u64::from(block.begin));
                }
            }
            Action::Verify { piece } => mix(3 << 32 | u64::from(piece.get())),
            Action::Dial { .. } => mix(4 << 32),
            Action::Disconnect { peer, .. } => mix(5 << 32 | peer.0),
            Action::NeedPeers => mix(6 << 32),
            Action::Complete => mix(7 << 32),
        }
    }
}
