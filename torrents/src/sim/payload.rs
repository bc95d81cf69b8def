//! Where payload goes: uplinks, downlinks, hashers, web seeds.

use rand::RngExt;

use super::host::Behaviour;
use super::queue::Happening;
use super::uplink::Batch;
use super::{HostId, NodeId, Simulation, WEB, time_for};
use crate::geometry::{Block, PieceIndex};
use crate::swarm::{Event, PeerKey};
use crate::wire::Message;

/// Blocks of a web seed that arrive together.
const WEB_BATCH: usize = 64;

fn bytes_of(blocks: &[Block]) -> u64 {
    blocks.iter().map(|block| u64::from(block.len)).sum()
}

impl Simulation {
    /// A batch goes to the uplink.
    pub(super) fn upload(&mut self, from: NodeId, link: u32, blocks: Vec<Block>) {
        match self.host(from).spec.behaviour {
            Behaviour::Staller => return,
            Behaviour::Boaster => return self.refuse(from, link, &blocks),
            _ => {}
        }
        let batch = Batch {
            link,
            bytes: bytes_of(&blocks),
            blocks,
            due: self.now,
        };
        let id = self.host_of(from);
        if self.hosts[id.0 as usize].uplink.is_idle(link) {
            self.start_sending(id, from, batch);
        } else {
            self.hosts[id.0 as usize].uplink.queue(batch);
        }
    }

    fn refuse(&mut self, from: NodeId, link: u32, blocks: &[Block]) {
        let to = self.other(link, from);
        for &block in blocks {
            let message = Message::Reject(block);
            let message = Happening::Message { link, to, message };
            self.queue.soon(self.now, message);
        }
        let swallowed = Happening::Swallowed {
            link,
            node: from,
            blocks: u32::try_from(blocks.len()).unwrap_or(u32::MAX),
            bytes: bytes_of(blocks),
        };
        self.queue.push(self.now, swallowed);
    }

    /// Puts a batch on the wire and keeps time for it on the receiver's downlink.
    fn start_sending(&mut self, id: HostId, from: NodeId, mut batch: Batch) {
        let (now, latency) = (self.now, self.network.latency);
        let to = self.other(batch.link, from);
        let receiver = self.host_mut(to);
        let begins = receiver.downlink_free.max(now + latency);
        receiver.downlink_free = begins + time_for(batch.bytes, receiver.spec.downlink);
        batch.due = receiver.downlink_free;
        let host = &mut self.hosts[id.0 as usize];
        host.outcome.uploaded += batch.bytes;
        host.uplink.start(now, batch);
        self.watch_uplink(id);
    }

    /// Sees to it that there is an event when the next batch ends.
    fn watch_uplink(&mut self, id: HostId) {
        let uplink = &mut self.hosts[id.0 as usize].uplink;
        let Some(end) = uplink.next_end() else {
            return;
        };
        // If it ends later than was thought, that is found out then.
        if uplink.scheduled.is_none_or(|at| end < at) {
            uplink.scheduled = Some(end);
            self.queue.push(end, Happening::Sent(id));
        }
    }

    pub(super) fn sent(&mut self, id: HostId) {
        let uplink = &mut self.hosts[id.0 as usize].uplink;
        if uplink.scheduled != Some(self.now) {
            return;
        }
        uplink.scheduled = None;
        while let Some((batch, behind)) = self.hosts[id.0 as usize].uplink.take_ended(self.now) {
            let link = batch.link;
            let from = self.end_at(link, id);
            let mut behind = behind.into_iter();
            if self.links[link as usize].is_open(from)
                && let Some(next) = behind.next()
            {
                self.start_sending(id, from, next);
                for batch in behind {
                    self.hosts[id.0 as usize].uplink.queue(batch);
                }
            }
            self.leave_uplink(from, batch);
        }
        self.watch_uplink(id);
    }

    fn end_at(&self, link: u32, host: HostId) -> NodeId {
        let [one, other] = self.links[link as usize].ends;
        if self.host_of(one) == host {
            one
        } else {
            other
        }
    }

    fn leave_uplink(&mut self, from: NodeId, batch: Batch) {
        let Batch {
            link,
            blocks,
            bytes,
            due,
        } = batch;
        if !self.links[link as usize].is_open(from) {
            return;
        }
        let soonest = self.now + self.network.latency;
        // Without a queue at the receiver the kernel's buffer is empty now.
        let taken = due <= soonest;
        let landed = Happening::Landed {
            link,
            to: self.other(link, from),
            blocks,
            taken,
        };
        let count = match &landed {
            Happening::Landed { blocks, .. } => u32::try_from(blocks.len()).unwrap_or(u32::MAX),
            _ => 0,
        };
        self.queue.push(due.max(soonest), landed);
        if taken {
            self.deliver(link, from, |peer| Event::Uploaded {
                peer,
                blocks: count,
                bytes,
            });
        }
    }

    pub(super) fn landed(&mut self, link: u32, to: NodeId, blocks: &[Block], taken: bool) {
        let from = self.other(link, to);
        let bytes = bytes_of(blocks);
        if !taken {
            let blocks = u32::try_from(blocks.len()).unwrap_or(u32::MAX);
            self.deliver(link, from, |peer| Event::Uploaded {
                peer,
                blocks,
                bytes,
            });
        }
        if !self.links[link as usize].is_open(to) {
            return;
        }
        let peer = PeerKey(link.into());
        let receiver = self.host_mut(to);
        receiver.outcome.downloaded += bytes;
        if matches!(receiver.spec.behaviour, Behaviour::Flooder { .. }) {
            return;
        }
        if let Behaviour::Liar { one_in } = self.host(from).spec.behaviour
            && self.rng.random_range(0..one_in.max(1)) == 0
        {
            self.nodes[to.at()].taint(peer, blocks);
        }
        self.feed(to, Event::Received { peer, blocks });
    }

    pub(super) fn verify(&mut self, node: NodeId, piece: PieceIndex) {
        let size = u64::from(self.geometry(node).piece_size(piece));
        let now = self.now;
        let host = self.host_mut(node);
        host.hasher_free = host.hasher_free.max(now) + host.spec.hash_time(size);
        let (done, life) = (host.hasher_free, host.life);
        self.queue
            .push(done, Happening::Hashed { node, piece, life });
    }

    pub(super) fn hashed(&mut self, id: NodeId, piece: PieceIndex, life: u32) {
        let index = self.host_of(id).0 as usize;
        let (host, node) = (&mut self.hosts[index], &mut self.nodes[id.at()]);
        if host.gone || host.life != life {
            return;
        }
        if node.is_tainted(piece) {
            host.outcome.corrupt += 1;
            return self.feed(id, Event::Corrupt { piece });
        }
        if let Some(left) = host.spec.failing_writes.checked_sub(1) {
            host.spec.failing_writes = left;
            host.outcome.lost += 1;
            return self.feed(id, Event::Lost { piece });
        }
        let liars = node.unmask(piece);
        self.progress += 1;
        self.feed(id, Event::Verified { piece });
        for peer in liars {
            self.feed(id, Event::Liar { peer });
        }
        self.read_on(id);
    }

    /// The web seed answers one range request, a batch at a time.
    pub(super) fn fetch(&mut self, node: NodeId, blocks: Vec<Block>) {
        let (now, latency) = (self.now, self.network.latency);
        for batch in blocks.chunks(WEB_BATCH) {
            let bytes = bytes_of(batch);
            let host = self.host_mut(node);
            let Some(rate) = host.spec.web_seed else {
                return;
            };
            host.outcome.web += bytes;
            host.web_free = host.web_free.max(now) + time_for(bytes, rate);
            let begins = host.downlink_free.max(now);
            host.downlink_free = begins + time_for(bytes, host.spec.downlink);
            let at = host.web_free.max(host.downlink_free) + latency;
            let blocks = batch.to_vec();
            self.queue.push(at, Happening::Web { node, blocks });
        }
    }

    pub(super) fn web(&mut self, node: NodeId, blocks: &[Block]) {
        if self.host(node).is_up() {
            let peer = WEB;
            self.feed(node, Event::Received { peer, blocks });
        }
    }
}
