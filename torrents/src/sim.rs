//! A simulated network for the real [`Swarm`] machine: pure, single-threaded, deterministic.
//!
//! Hosts have an uplink, a downlink and a hasher; every control message takes one latency;
//! payload leaves an uplink batch by batch and waits at the downlink. A tracker introduces the
//! hosts. Liars, stallers, slow hosts, cut connections and churn come from the specification.
//! The same specification and seed make the same trace, told by [`Simulation::trace`].
//!
//! Lean enough for thousands of hosts: control messages all take the same time, so they queue in
//! a ring and only payload, hashes and timers pass through a heap. Larger blocks than 16 KiB
//! (`Settings::block_len`) make fewer events without changing whose piece goes where.
//!
//! Never: a clock, a socket, a payload byte.

mod host;
mod queue;

use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::bitfield::Bitfield;
use crate::geometry::{Block, Geometry, PieceIndex};
use crate::id::PeerId;
use crate::swarm::{Action, Event, Now, PeerKey, PeerKind, Swarm};
use crate::wire::Message;

use host::Host;
use queue::{Happening, Queue};

pub use host::{Behaviour, HostSpec, Outcome};

/// The name of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(pub u32);

/// What all hosts share.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Network {
    /// From one host to another, one way.
    pub latency: Duration,
    /// Addresses in one reply of the tracker, those of complete hosts among them.
    pub numwant: usize,
    /// How often hosts that lack something ask the tracker.
    pub announce_interval: Duration,
    /// Both sides have BEP 6.
    pub fast: bool,
    /// Runs `check_invariants` on the machine of every so many-th event; 0 for never.
    pub check_every: u64,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(100),
            numwant: 50,
            announce_interval: Duration::from_secs(3),
            fast: true,
            check_every: 0,
        }
    }
}

/// A connection; its number is the key by which both ends know it.
#[derive(Debug, Clone, Copy)]
struct Link {
    /// Who dialled, and whom.
    ends: [HostId; 2],
    /// Which end has not heard of a close yet: what was sent before still arrives there.
    open: [bool; 2],
}

impl Link {
    fn is_open(&self, end: HostId) -> bool {
        self.open[usize::from(self.ends[1] == end)]
    }
}

/// The web seed's key on every host that has one.
const WEB: PeerKey = PeerKey(u64::MAX);
const PORT: u16 = 6881;

/// A swarm on a simulated network.
#[derive(Debug)]
pub struct Simulation {
    geometry: Geometry,
    network: Network,
    rng: Xoshiro256PlusPlus,
    now: Now,
    hosts: Vec<Host>,
    links: Vec<Link>,
    queue: Queue,
    trace: u64,
    events: u64,
    /// Honest hosts that are or will be here and lack something.
    pending: usize,
}

impl Simulation {
    /// Nobody is there yet.
    pub fn new(geometry: Geometry, network: Network, seed: u64) -> Self {
        Self {
            geometry,
            queue: Queue::new(network.latency),
            network,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            now: Now::ZERO,
            hosts: Vec::new(),
            links: Vec::new(),
            trace: 0xcbf2_9ce4_8422_2325,
            events: 0,
            pending: 0,
        }
    }

    /// A host that comes at the given time.
    pub fn join(&mut self, spec: HostSpec, at: Now) -> HostId {
        let id = HostId(u32::try_from(self.hosts.len()).unwrap_or(u32::MAX));
        let have = if spec.complete {
            Bitfield::full(self.geometry.pieces())
        } else {
            Bitfield::empty(self.geometry.pieces())
        };
        let peer_id = PeerId::generate(&mut self.rng);
        let seed = self.rng.random();
        self.pending += usize::from(spec.behaviour == Behaviour::Honest && !spec.complete);
        let swarm = Swarm::new(self.geometry, have, peer_id, spec.settings.clone(), seed);
        self.hosts.push(Host::new(spec, swarm, peer_id, at));
        self.queue.push(at, Happening::Join(id));
        id
    }

    /// The host dies at that time, without a word.
    pub fn leave(&mut self, host: HostId, at: Now) {
        self.queue.push(at, Happening::Leave(host));
    }

    /// One connection breaks at that time, chosen at random.
    pub fn cut_one(&mut self, at: Now) {
        self.queue.push(at, Happening::Cut);
    }

    /// Runs until every honest host that stays is complete, or the time is up, or nothing
    /// happens any more. True if all are complete.
    pub fn run(&mut self, until: Now) -> bool {
        while self.pending > 0 && self.step(until) {}
        self.pending == 0
    }

    /// One event; false if there is none before `until`.
    pub fn step(&mut self, until: Now) -> bool {
        let Some((at, happening)) = self.queue.pop(until) else {
            return false;
        };
        self.now = at;
        self.events += 1;
        self.happen(happening);
        true
    }

    /// The time.
    pub fn now(&self) -> Now {
        self.now
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// A hash over every action of every host, in order.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// What became of a host.
    pub fn outcome(&self, host: HostId) -> &Outcome {
        &self.hosts[host.0 as usize].outcome
    }

    /// The machine of a host.
    pub fn swarm(&self, host: HostId) -> &Swarm {
        &self.hosts[host.0 as usize].swarm
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> + use<> {
        (0..u32::try_from(self.hosts.len()).unwrap_or(u32::MAX)).map(HostId)
    }

    /// The address of a host.
    pub fn addr(host: HostId) -> SocketAddr {
        let [_, b, c, d] = host.0.to_be_bytes();
        ([10, b, c, d], PORT).into()
    }

    fn host_at(&self, addr: SocketAddr) -> Option<HostId> {
        let std::net::IpAddr::V4(ip) = addr.ip() else {
            return None;
        };
        let [_, b, c, d] = ip.octets();
        let id = HostId(u32::from_be_bytes([0, b, c, d]));
        ((id.0 as usize) < self.hosts.len()).then_some(id)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Join(host) => self.arrive(host),
            Happening::Leave(host) => self.depart(host),
            Happening::Cut => self.cut(),
            Happening::Announce(host) => self.announce(host),
            Happening::Wake(host) => {
                if self.hosts[host.0 as usize].wake == Some(self.now) {
                    self.hosts[host.0 as usize].wake = None;
                    self.feed(host, Event::Timeout);
                }
            }
            Happening::Message { link, to, message } => {
                self.deliver(link, to, |peer| Event::Message { peer, message });
            }
            Happening::Requests { link, to, blocks } => {
                let event = |peer| Event::Requested {
                    peer,
                    blocks: &blocks,
                };
                self.deliver(link, to, event);
                self.hosts[to.0 as usize].swarm.recycle(blocks);
            }
            Happening::Cancels { link, to, blocks } => {
                for block in blocks {
                    let message = Message::Cancel(block);
                    self.deliver(link, to, |peer| Event::Message { peer, message });
                }
            }
            Happening::Closed { link, to } => {
                let peer = PeerKey(link.into());
                let entry = &mut self.links[link as usize];
                let end = usize::from(entry.ends[1] == to);
                let was_open = std::mem::replace(&mut entry.open[end], false);
                if was_open && !self.hosts[to.0 as usize].gone {
                    self.feed(to, Event::Disconnected { peer });
                }
            }
            Happening::Dialled { from, to } => self.connect(from, to),
            Happening::Sent { host } => self.sent(host),
            Happening::Landed { link, to, blocks } => {
                self.landed(link, to, &blocks);
                self.hosts[to.0 as usize].swarm.recycle(blocks);
            }
            Happening::Hashed { host, piece } => self.hashed(host, piece),
            Happening::Web { host, blocks } => {
                if !self.hosts[host.0 as usize].gone {
                    self.feed(
                        host,
                        Event::Received {
                            peer: WEB,
                            blocks: &blocks,
                        },
                    );
                }
            }
        }
    }

    // Hosts.

    fn arrive(&mut self, id: HostId) {
        let host = &mut self.hosts[id.0 as usize];
        host.here = true;
        if host.spec.web_seed.is_some() {
            let kind = PeerKind::WebSeed;
            let event = Event::Connected {
                peer: WEB,
                addr: None,
                id: None,
                kind,
            };
            self.feed(id, event);
        }
        self.announce(id);
        self.read_on(id);
    }

    fn depart(&mut self, id: HostId) {
        let host = &mut self.hosts[id.0 as usize];
        host.gone = true;
        self.pending -= usize::from(host.is_pending());
        for number in 0..self.links.len() {
            let link = self.links[number];
            if link.ends.contains(&id) && link.is_open(id) {
                self.close(u32::try_from(number).unwrap_or(u32::MAX), Some(id));
            }
        }
    }

    fn cut(&mut self) {
        let alive: Vec<usize> = (0..self.links.len())
            .filter(|&number| self.links[number].open == [true; 2])
            .collect();
        if let Some(&number) = alive.choose(&mut self.rng) {
            self.close(u32::try_from(number).unwrap_or(u32::MAX), None);
        }
    }

    fn announce(&mut self, id: HostId) {
        let host = &self.hosts[id.0 as usize];
        if host.gone || host.swarm.is_complete() {
            return;
        }
        let others: Vec<HostId> = self
            .hosts()
            .filter(|&other| other != id)
            .filter(|other| {
                let host = &self.hosts[other.0 as usize];
                host.here && !host.gone
            })
            .collect();
        let addrs: Vec<SocketAddr> = others
            .sample(&mut self.rng, self.network.numwant)
            .map(|&other| Self::addr(other))
            .collect();
        self.feed(id, Event::Candidates { addrs: &addrs });
        let next = self.now + self.network.announce_interval;
        self.queue.push(next, Happening::Announce(id));
    }

    /// The reader of the host, if there is one, moves to the end of the verified prefix.
    fn read_on(&mut self, id: HostId) {
        let host = &mut self.hosts[id.0 as usize];
        let Some(ahead) = host.spec.reader else {
            return;
        };
        let have = host.swarm.have();
        let from = host.read;
        let verified = |&piece: &u32| self.geometry.piece(piece).is_some_and(|p| have.contains(p));
        let end = (from..self.geometry.pieces()).take_while(verified).count();
        let start = from + u32::try_from(end).unwrap_or(u32::MAX);
        if start > from || from == 0 {
            host.read = start;
            let window = u32::try_from(ahead / u64::from(self.geometry.piece_len())).unwrap_or(1);
            let pieces = start..self.geometry.pieces().min(start + window.max(1));
            self.feed(id, Event::Window { reader: 0, pieces });
        }
    }

    // Connections.

    fn connect(&mut self, from: HostId, to: HostId) {
        let ok = |id: HostId| {
            let host = &self.hosts[id.0 as usize];
            host.here && !host.gone
        };
        if !ok(from) {
            return;
        }
        if !ok(to) {
            let (addr, forever) = (Self::addr(to), false);
            return self.feed(from, Event::DialFailed { addr, forever });
        }
        let number = u32::try_from(self.links.len()).unwrap_or(u32::MAX);
        self.links.push(Link {
            ends: [from, to],
            open: [true; 2],
        });
        let ephemeral = 32_768 + u16::try_from(number % 28_000).unwrap_or(0);
        let called = SocketAddr::new(Self::addr(from).ip(), ephemeral);
        self.introduce(number, to, from, called, true);
        self.introduce(number, from, to, Self::addr(to), false);
    }

    fn introduce(&mut self, link: u32, us: HostId, them: HostId, addr: SocketAddr, inbound: bool) {
        let kind = PeerKind::Wire {
            fast: self.network.fast,
            extended: true,
            inbound,
        };
        let id = self.hosts[them.0 as usize].peer_id;
        let peer = PeerKey(link.into());
        let connected = Event::Connected {
            peer,
            addr: Some(addr),
            id: Some(id),
            kind,
        };
        self.feed(us, connected);
        let reqq = self.hosts[them.0 as usize]
            .spec
            .settings
            .max_inbound_requests;
        let extended = Event::Extended {
            peer,
            reqq: u32::try_from(reqq).ok(),
            upload_only: false,
            listen: Some(Self::addr(them)),
        };
        self.feed(us, extended);
    }

    /// Ends a connection; `by` knows already.
    fn close(&mut self, link: u32, by: Option<HostId>) {
        let entry = &mut self.links[link as usize];
        for end in 0..2 {
            let to = entry.ends[end];
            if Some(to) == by {
                entry.open[end] = false;
            } else if entry.open[end] {
                self.queue.soon(self.now, Happening::Closed { link, to });
            }
        }
    }

    fn other(&self, link: u32, us: HostId) -> HostId {
        let [one, other] = self.links[link as usize].ends;
        if one == us { other } else { one }
    }

    fn deliver<'a>(&mut self, link: u32, to: HostId, event: impl FnOnce(PeerKey) -> Event<'a>) {
        if self.links[link as usize].is_open(to) {
            self.feed(to, event(PeerKey(link.into())));
        }
    }

    // Payload.

    /// A batch waits for the uplink.
    fn upload(&mut self, id: HostId, link: u32, blocks: Vec<Block>) {
        let host = &mut self.hosts[id.0 as usize];
        if host.spec.behaviour == Behaviour::Staller {
            return;
        }
        host.uplink.push_back((link, blocks));
        if !host.sending {
            self.start_sending(id);
        }
    }

    /// Puts the front batch on the wire.
    fn start_sending(&mut self, id: HostId) {
        let host = &mut self.hosts[id.0 as usize];
        host.sending = false;
        let (link, blocks) = loop {
            match host.uplink.pop_front() {
                Some(batch) if self.links[batch.0 as usize].is_open(id) => break batch,
                Some(_) => {}
                None => return,
            }
        };
        host.sending = true;
        let bytes: u64 = blocks.iter().map(|block| u64::from(block.len)).sum();
        let sent = self.now + time_for(bytes, host.spec.uplink);
        host.outcome.uploaded += bytes;
        let to = self.other(link, id);
        let receiver = &mut self.hosts[to.0 as usize];
        let begins = receiver.downlink_free.max(self.now + self.network.latency);
        receiver.downlink_free = begins + time_for(bytes, receiver.spec.downlink);
        let lands = receiver.downlink_free.max(sent + self.network.latency);
        self.queue
            .push(lands, Happening::Landed { link, to, blocks });
        self.queue.push(sent, Happening::Sent { host: id });
    }

    fn sent(&mut self, id: HostId) {
        if !self.hosts[id.0 as usize].gone {
            self.start_sending(id);
        }
    }

    fn landed(&mut self, link: u32, to: HostId, blocks: &[Block]) {
        if !self.links[link as usize].is_open(to) {
            return;
        }
        let from = self.other(link, to);
        let peer = PeerKey(link.into());
        let bytes: u64 = blocks.iter().map(|block| u64::from(block.len)).sum();
        let receiver = &mut self.hosts[to.0 as usize];
        receiver.outcome.downloaded += bytes;
        if let Behaviour::Liar { one_in } = self.hosts[from.0 as usize].spec.behaviour
            && self.rng.random_range(0..one_in.max(1)) == 0
        {
            self.hosts[to.0 as usize].taint(peer, blocks);
        }
        self.feed(to, Event::Received { peer, blocks });
        if self.links[link as usize].is_open(from) {
            let blocks = u32::try_from(blocks.len()).unwrap_or(u32::MAX);
            let uploaded = Event::Uploaded {
                peer,
                blocks,
                bytes,
            };
            self.feed(from, uploaded);
        }
    }

    fn hashed(&mut self, id: HostId, piece: PieceIndex) {
        let host = &mut self.hosts[id.0 as usize];
        if host.gone {
            return;
        }
        if host.is_tainted(piece) {
            host.outcome.corrupt += 1;
            return self.feed(id, Event::Corrupt { piece });
        }
        let liars = host.unmask(piece);
        self.feed(id, Event::Verified { piece });
        for peer in liars {
            self.feed(id, Event::Liar { peer });
        }
        self.read_on(id);
    }

    // The driver.

    /// Gives a host an event and does what it says.
    fn feed(&mut self, id: HostId, event: Event<'_>) {
        let host = &mut self.hosts[id.0 as usize];
        host.swarm.handle(self.now, event);
        if self.network.check_every > 0 && self.events.is_multiple_of(self.network.check_every) {
            host.swarm.check_invariants();
        }
        while let Some(action) = self.hosts[id.0 as usize].swarm.poll_action() {
            self.trace_action(id, &action);
            self.apply(id, action);
        }
        let host = &mut self.hosts[id.0 as usize];
        if let Some(wake) = host.swarm.poll_timeout()
            && host.wake.is_none_or(|at| wake < at)
        {
            let wake = wake.max(self.now);
            host.wake = Some(wake);
            self.queue.push(wake, Happening::Wake(id));
        }
    }

    fn apply(&mut self, id: HostId, action: Action) {
        let link = |peer: PeerKey| u32::try_from(peer.0).unwrap_or(u32::MAX);
        match action {
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
            Action::Verify { piece } => {
                let size = u64::from(self.geometry.piece_size(piece));
                let host = &mut self.hosts[id.0 as usize];
                host.hasher_free = host.hasher_free.max(self.now) + host.spec.hash_time(size);
                let done = host.hasher_free;
                self.queue.push(done, Happening::Hashed { host: id, piece });
            }
            Action::Discard { peer, blocks } => {
                self.hosts[id.0 as usize].discard(peer, &blocks);
            }
            Action::Dial { addr } => {
                if let Some(to) = self.host_at(addr) {
                    let at = self.now + self.network.latency * 2;
                    self.queue.push(at, Happening::Dialled { from: id, to });
                }
            }
            Action::Disconnect { peer, reason } => {
                self.hosts[id.0 as usize].outcome.count(reason);
                if peer != WEB {
                    self.close(link(peer), Some(id));
                }
            }
            Action::NeedPeers => {}
            Action::Complete => {
                let host = &mut self.hosts[id.0 as usize];
                self.pending -= usize::from(host.is_pending());
                host.outcome.completed = Some(self.now);
            }
        }
    }

    /// The web seed answers one range request, a batch at a time.
    fn fetch(&mut self, id: HostId, blocks: Vec<Block>) {
        let host = &mut self.hosts[id.0 as usize];
        let Some(rate) = host.spec.web_seed else {
            return;
        };
        for batch in blocks.chunks(64) {
            let bytes: u64 = batch.iter().map(|block| u64::from(block.len)).sum();
            host.outcome.web += bytes;
            host.web_free = host.web_free.max(self.now) + time_for(bytes, rate);
            let at = host.web_free + self.network.latency;
            let blocks = batch.to_vec();
            self.queue.push(at, Happening::Web { host: id, blocks });
        }
    }

    /// FNV-1a over what was decided, when and by whom.
    fn trace_action(&mut self, id: HostId, action: &Action) {
        let mut mix = |value: u64| {
            self.trace = (self.trace ^ value).wrapping_mul(0x0000_0100_0000_01b3);
        };
        mix(u64::try_from(self.now.as_nanos()).unwrap_or(u64::MAX));
        mix(id.0.into());
        match action {
            Action::Send { peer, message } => {
                mix(1);
                mix(peer.0);
                if let Message::Have(piece) = message {
                    mix(piece.get().into());
                }
            }
            Action::Request { peer, blocks }
            | Action::Cancel { peer, blocks }
            | Action::Upload { peer, blocks }
            | Action::Discard { peer, blocks } => {
                mix(2);
                mix(peer.0);
                for block in blocks {
                    mix(u64::from(block.piece.get()) << 32 | u64::from(block.begin));
                }
            }
            Action::Verify { piece } => mix(3 << 32 | u64::from(piece.get())),
            Action::Dial { .. } => mix(4),
            Action::Disconnect { peer, .. } => mix(5 << 32 | peer.0),
            Action::NeedPeers => mix(6),
            Action::Complete => mix(7),
        }
    }
}

/// How long so many bytes take at a rate.
fn time_for(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
