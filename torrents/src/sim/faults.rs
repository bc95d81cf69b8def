//! What goes wrong: hosts that die and come back, broken connections, partitions, trackers that
//! are down, clocks that jump, floods.

use std::time::Duration;

use rand::RngExt;

use super::host::{Behaviour, Node};
use super::queue::Happening;
use super::{HostId, NodeId, Simulation};
use crate::geometry::Block;
use crate::id::PeerId;
use crate::swarm::{Event, Now, Swarm};

/// Who dials a host that does not answer at all gives up after so long.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two volleys of a flooder.
const VOLLEY: Duration = Duration::from_millis(10);
/// How many connections are looked at by chance before all are.
const GUESSES: usize = 64;

/// What is broken now.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The hosts of each island.
    islands: Vec<Vec<HostId>>,
    /// Islands that are cut off.
    parted: usize,
    /// What waits for the islands to be joined again.
    held: Vec<Happening>,
    /// Hosts that will come back.
    pub(super) returns: usize,
}

impl Simulation {
    /// The process dies at that time; its kernel closes the connections.
    pub fn leave(&mut self, host: HostId, at: Now) {
        self.queue.push(at, Happening::Leave(host));
    }

    /// The machine loses power at that time: nobody is told.
    pub fn vanish(&mut self, host: HostId, at: Now) {
        self.queue.push(at, Happening::Vanish(host));
    }

    /// The host is there again at that time, with the pieces it had when it left.
    pub fn come_back(&mut self, host: HostId, at: Now) {
        self.faults.returns += 1;
        self.queue.push(at, Happening::Return(host));
    }

    /// One connection breaks at that time, chosen at random.
    pub fn cut_one(&mut self, at: Now) {
        self.queue.push(at, Happening::Cut);
    }

    /// These hosts are cut off from the others and the trackers for that time. Connections
    /// outlast it: what was sent meanwhile arrives at its end. A host is on one island at a time.
    pub fn partition(&mut self, hosts: Vec<HostId>, from: Now, until: Now) {
        let island = self.faults.islands.len();
        self.faults.islands.push(hosts);
        self.queue.push(from, Happening::Part(island));
        self.queue.push(until, Happening::Heal(island));
    }

    /// No tracker answers for that time.
    pub fn trackers_down(&mut self, from: Now, until: Now) {
        self.queue.push(from, Happening::Trackers { up: false });
        self.queue.push(until, Happening::Trackers { up: true });
    }

    /// The host's clock jumps ahead at that time.
    pub fn jump_clock(&mut self, host: HostId, by: Duration, at: Now) {
        self.queue.push(at, Happening::Jump { host, by });
    }

    /// Somebody tells a host at that time where others are.
    pub fn name_peers(&mut self, host: HostId, peers: &[HostId], at: Now) {
        for node in self.nodes_of(host) {
            let addrs = peers.iter().map(|&peer| Self::addr(peer)).collect();
            self.queue.push(at, Happening::Found { node, addrs });
        }
    }

    /// Whether the host has left and is not back.
    pub fn is_gone(&self, host: HostId) -> bool {
        self.hosts[host.0 as usize].gone
    }

    pub(super) fn depart(&mut self, id: HostId, dark: bool) {
        let host = &mut self.hosts[id.0 as usize];
        if host.gone {
            return;
        }
        self.pending -= usize::from(host.is_pending());
        host.gone = true;
        host.dark = dark;
        host.life += 1;
        host.uplink.clear();
        for node in self.nodes_of(id) {
            let at = &mut self.nodes[node.at()];
            at.wake = None;
            at.announce = None;
            let links = at
                .swarm
                .peers()
                .filter_map(|peer| u32::try_from(peer.peer.0).ok());
            let links: Vec<u32> = links.collect();
            for link in links {
                if dark {
                    let entry = &mut self.links[link as usize];
                    entry.open[usize::from(entry.ends[1] == node)] = false;
                } else {
                    self.close(link, Some(node));
                }
            }
        }
    }

    pub(super) fn come_again(&mut self, id: HostId) {
        self.faults.returns -= 1;
        if !self.hosts[id.0 as usize].gone {
            return;
        }
        let peer_id = PeerId::generate(&mut self.rng);
        for node in self.nodes_of(id) {
            // Those who still think they are connected learn better.
            let old = self.nodes[node.at()].swarm.peers();
            let links: Vec<u32> = old
                .filter_map(|peer| u32::try_from(peer.peer.0).ok())
                .collect();
            for link in links {
                self.close(link, Some(node));
            }
            let have = self.nodes[node.at()].swarm.have().clone();
            let settings = self.host(node).spec.settings.clone();
            let seed = self.rng.random();
            let swarm = Swarm::new(self.geometry(node), have, peer_id, settings, seed);
            self.nodes[node.at()] = Node::new(swarm);
        }
        let now = self.now;
        let host = &mut self.hosts[id.0 as usize];
        host.gone = false;
        host.dark = false;
        host.peer_id = peer_id;
        host.uplink.clear();
        host.downlink_free = now;
        host.hasher_free = now;
        if host.outcome.completed.is_none() {
            host.outcome.joined = now;
        }
        self.pending += usize::from(host.is_pending());
        self.arrive(id);
    }

    pub(super) fn cut(&mut self) {
        let total = self.links.len();
        let whole = |sim: &Self, at: usize| sim.links[at].open == [true; 2];
        let guess = (0..GUESSES.min(total))
            .map(|_| self.rng.random_range(0..total))
            .find(|&at| self.links[at].open == [true; 2]);
        let found = guess.or_else(|| (0..total).find(|&at| whole(self, at)));
        if let Some(at) = found {
            self.close(u32::try_from(at).unwrap_or(u32::MAX), None);
        }
    }

    /// Opens a connection, or finds out that there is nobody.
    pub(super) fn dial(&mut self, from: NodeId, to: NodeId) {
        let (a, b) = (self.host(from), self.host(to));
        let silent = b.dark || a.island != b.island;
        if silent {
            let at = self.now + DIAL_TIMEOUT;
            self.queue.push(at, Happening::Undialled { from, to });
        } else {
            let at = self.now + self.network.latency * 2;
            self.queue.push(at, Happening::Dialled { from, to });
        }
    }

    pub(super) fn part(&mut self, island: usize) {
        self.faults.parted += 1;
        self.settle_island(island, island + 1);
    }

    pub(super) fn heal(&mut self, island: usize) {
        self.faults.parted -= 1;
        self.settle_island(island, 0);
        for happening in std::mem::take(&mut self.faults.held) {
            self.queue.soon(self.now, happening);
        }
    }

    fn settle_island(&mut self, island: usize, number: usize) {
        for host in &self.faults.islands[island] {
            self.hosts[host.0 as usize].island = number;
        }
    }

    /// Whether the ends of the connection are on different islands now.
    pub(super) fn crosses(&self, link: u32) -> bool {
        if self.faults.parted == 0 {
            return false;
        }
        let [one, other] = self.links[link as usize].ends;
        self.host(one).island != self.host(other).island
    }

    /// Waits for the islands to be joined.
    pub(super) fn keep(&mut self, happening: Happening) {
        self.faults.held.push(happening);
    }

    /// Holds back what cannot arrive now.
    pub(super) fn hold(&mut self, happening: Happening) -> Option<Happening> {
        if self.faults.parted == 0 {
            return Some(happening);
        }
        let link = match &happening {
            Happening::Message { link, .. }
            | Happening::Requests { link, .. }
            | Happening::Cancels { link, .. }
            | Happening::Closed { link, .. }
            | Happening::Landed { link, .. } => *link,
            Happening::Dialled { from, to } if self.host(*from).island != self.host(*to).island => {
                let (from, to) = (*from, *to);
                let at = self.now + DIAL_TIMEOUT;
                self.queue.push(at, Happening::Undialled { from, to });
                return None;
            }
            _ => return Some(happening),
        };
        if self.crosses(link) {
            self.keep(happening);
            return None;
        }
        Some(happening)
    }

    /// Requests without end to all its peers.
    pub(super) fn flood(&mut self, node: NodeId) {
        let Behaviour::Flooder { requests } = self.host(node).spec.behaviour else {
            return;
        };
        if !self.host(node).is_up() {
            return;
        }
        let geometry = self.geometry(node);
        let peers = self.nodes[node.at()].swarm.peers();
        let links: Vec<u32> = peers
            .filter_map(|peer| u32::try_from(peer.peer.0).ok())
            .collect();
        for link in links {
            let blocks: Vec<Block> = (0..requests)
                .filter_map(|_| {
                    let piece = self.rng.random_range(0..geometry.pieces());
                    geometry.block(piece, 0, 16 * 1024)
                })
                .collect();
            let to = self.other(link, node);
            self.queue
                .soon(self.now, Happening::Requests { link, to, blocks });
        }
        self.queue.push(self.now + VOLLEY, Happening::Flood(node));
    }

    /// A piece that a host had cannot be read any more.
    pub fn lose_piece(&mut self, host: HostId, layer: usize, piece: u32) {
        let node = self.node(host, layer);
        if let Some(piece) = self.geometry(node).piece(piece)
            && self.nodes[node.at()].swarm.have().contains(piece)
        {
            let was_complete = self.nodes[node.at()].swarm.is_complete();
            let host = &mut self.hosts[host.0 as usize];
            host.outcome.lost += 1;
            if was_complete {
                host.outcome.layers = host.outcome.layers.saturating_sub(1);
                self.pending += usize::from(host.outcome.completed.take().is_some());
            }
            self.feed(node, Event::Lost { piece });
            self.announce_at(node, self.now);
        }
    }
}
