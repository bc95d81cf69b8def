//! The swarm table: who is in which swarm, and whom an announce is told about (BEP 3, 7, 21,
//! 23, 48). Pure: time is an argument, randomness a generator seeded at construction.
//!
//! A `Shard` owns the swarms of a part of the info hashes; whoever holds it, holds all it
//! needs to answer. Origins are not peers: a swarm names the slots of the origins that
//! registered it, and every shard has a copy of the table of slots, so that an origin's lapse
//! or change of address costs nothing per swarm.
//!
//! Never: a socket, a clock, a label, a lock.

use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use indexmap::IndexMap;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use smallvec::SmallVec;
use torrents::announce::{AnnounceEvent, AnnounceReply, AnnounceRequest, ReplyPeer, ScrapeEntry};
use torrents::{InfoHash, PeerId};

use crate::config::{Config, Intervals, Limits, Mode};
use crate::endpoint::{Endpoint, V4, V6};
use crate::moment::Moment;
use crate::peers::{Flags, LEFT_UNKNOWN, Part, Peer, PeerList, Room, Stored};

/// An origin's number in the table of origins.
pub(crate) type Slot = u16;

/// At most this many origins lead a reply; the rest of it is the swarm's.
const ORIGINS_PER_REPLY: usize = 4;

/// What a shard knows of origins: by slot, `None` when asleep or gone.
pub(crate) type OriginTable = Arc<[Option<OriginSeed>]>;

/// An origin as it is handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OriginSeed {
    pub(crate) id: PeerId,
    pub(crate) addrs: SmallVec<[SocketAddr; 2]>,
}

/// The part of the configuration that decides answers.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) mode: Mode,
    pub(crate) intervals: Intervals,
    pub(crate) limits: Limits,
}

impl From<&Config> for Policy {
    fn from(config: &Config) -> Self {
        Self {
            mode: config.mode,
            intervals: config.intervals.clone(),
            limits: config.limits.clone(),
        }
    }
}

/// Who announces, as far as the table must know beyond the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    /// Where it says it listens, unmapped.
    pub(crate) at: SocketAddr,
    /// It connects from loopback, so loopback peers are of use to it.
    pub(crate) local: bool,
    /// Its address is exempt from the limit of peers per address.
    pub(crate) exempt: bool,
}

/// How full the whole tracker is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Occupancy {
    pub(crate) swarms: usize,
    pub(crate) peers: usize,
}

/// Why an announce is refused; the text is the `failure reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("torrent not registered with this tracker")]
    Unregistered,
    #[error("torrent refused by this tracker")]
    Denied,
    #[error("tracker is full: it takes no more torrents")]
    Full,
    #[error("{0} cannot be dialled by other peers")]
    Undialable(IpAddr),
}

impl Refusal {
    /// BEP-31: minutes after which another try may fare better.
    pub(crate) fn retry_in(self) -> Option<u32> {
        match self {
            Self::Unregistered => Some(1),
            Self::Full => Some(5),
            Self::Denied | Self::Undialable(_) => None,
        }
    }
}

/// One swarm. Small while nobody is in it: a herd registers a hundred thousand.
#[derive(Debug, Default)]
pub(crate) struct Swarm {
    v4: Option<Box<PeerList<V4>>>,
    v6: Option<Box<PeerList<V6>>>,
    origins: SmallVec<[Slot; 4]>,
    completed: u32,
    registered: bool,
}

/// The swarms of a part of the info hashes.
#[derive(Debug)]
pub(crate) struct Shard {
    swarms: IndexMap<InfoHash, Swarm, RandomState>,
    origins: OriginTable,
    policy: Arc<Policy>,
    /// Keys the peers' tables; random, since clients choose ids and ports.
    hasher: RandomState,
    rng: SmallRng,
    peers: usize,
    seeds: usize,
    sweep: Sweep,
}

/// Where the incremental expiry stands: it walks swarms downwards, and peers downwards in each.
#[derive(Debug, Clone, Copy, Default)]
struct Sweep {
    /// Swarms `[0, swarms)` are still to be visited.
    swarms: usize,
    family: Family,
    /// Peers `[0, peers)` of the top one's family are; `usize::MAX` when all are.
    peers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Family {
    #[default]
    V4,
    V6,
}

impl Shard {
    pub(crate) fn new(policy: Arc<Policy>, seed: u64) -> Self {
        Self {
            swarms: IndexMap::default(),
            origins: Arc::new([]),
            policy,
            hasher: RandomState::new(),
            rng: SmallRng::seed_from_u64(seed),
            peers: 0,
            seeds: 0,
            sweep: Sweep::default(),
        }
    }

    pub(crate) fn peers(&self) -> usize {
        self.peers
    }

    pub(crate) fn seeds(&self) -> usize {
        self.seeds
    }

    pub(crate) fn swarms(&self) -> usize {
        self.swarms.len()
    }

    /// Stores what the asker announced and writes whom it is told about into `reply`, whose
    /// `peers` are reused.
    pub(crate) fn announce(
        &mut self,
        now: Moment,
        request: &AnnounceRequest,
        asker: Asker,
        whole: Occupancy,
        reply: &mut AnnounceReply,
    ) -> Result<Announced, Refusal> {
        reply.peers.clear();
        let stopped = request.event == AnnounceEvent::Stopped;
        let index = match self.swarms.get_index_of(&request.info_hash) {
            Some(index) => {
                let registered = self.swarms[index].registered;
                if self.policy.mode == Mode::Registered && !registered {
                    return Err(Refusal::Unregistered);
                }
                index
            }
            None if self.policy.mode == Mode::Registered => return Err(Refusal::Unregistered),
            None if stopped || request.port == 0 => {
                self.fill_header(request, None, reply);
                return Ok(Announced::Unknown);
            }
            None if whole.swarms >= self.policy.limits.swarms => return Err(Refusal::Full),
            None => {
                self.swarms
                    .insert_full(request.info_hash, Swarm::default())
                    .0
            }
        };
        let ask = Ask::new(now, request, asker, &self.policy, whole);
        let (_, swarm) = self
            .swarms
            .get_index_mut(index)
            .expect("found or inserted above");
        let before = (swarm.len(), swarm.part(Part::Seeds));
        let announced = swarm.store(&self.hasher, &self.origins, &ask);
        self.peers = self.peers + swarm.len() - before.0;
        self.seeds = self.seeds + swarm.part(Part::Seeds) - before.1;
        if !stopped {
            swarm.select(
                &self.hasher,
                &self.origins,
                &ask,
                &mut self.rng,
                &mut reply.peers,
            );
        }
        self.fill_header(request, Some(index), reply);
        Ok(announced)
    }

    /// What a scrape says of a swarm; zeros when it is unknown.
    pub(crate) fn scrape(&self, info_hash: &InfoHash) -> ScrapeEntry {
        self.swarms
            .get(info_hash)
            .map_or_else(ScrapeEntry::default, |s| s.entry(&self.origins))
    }

    pub(crate) fn swarm(&self, info_hash: &InfoHash) -> Option<&Swarm> {
        self.swarms.get(info_hash)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&InfoHash, &Swarm)> {
        self.swarms.iter()
    }

    pub(crate) fn origins(&self) -> &OriginTable {
        &self.origins
    }

    pub(crate) fn set_origins(&mut self, origins: OriginTable) {
        self.origins = origins;
    }

    /// The swarm is registered from here on, and `origin` seeds it.
    pub(crate) fn register(&mut self, info_hash: InfoHash, origin: Option<Slot>) {
        let swarm = self.swarms.entry(info_hash).or_default();
        swarm.registered = true;
        if let Some(origin) = origin.filter(|origin| !swarm.origins.contains(origin)) {
            swarm.origins.push(origin);
        }
    }

    /// `origin` no longer seeds it.
    pub(crate) fn withdraw(&mut self, info_hash: &InfoHash, origin: Slot) {
        if let Some(swarm) = self.swarms.get_mut(info_hash) {
            swarm.origins.retain(|slot| *slot != origin);
        }
    }

    /// Forgets a registered swarm unless someone is in it; returns whether it is forgotten.
    pub(crate) fn forget(&mut self, info_hash: &InfoHash) -> bool {
        let Some((index, _, swarm)) = self.swarms.get_full(info_hash) else {
            return true;
        };
        if swarm.len() > 0 {
            return false;
        }
        self.drop_swarm(index);
        true
    }

    /// Drops expired peers, and swarms nobody asked to keep, looking at about `budget` of
    /// them; returns how many peers went and whether this finished a round.
    pub(crate) fn expire(&mut self, now: Moment, mut budget: usize) -> (usize, bool) {
        let mut dropped = 0;
        if self.sweep.swarms == 0 {
            self.sweep = Sweep {
                swarms: self.swarms.len(),
                ..Sweep::default()
            };
            self.sweep.peers = usize::MAX;
        }
        while self.sweep.swarms > 0 && budget > 0 {
            let index = self.sweep.swarms - 1;
            let Some((_, swarm)) = self.swarms.get_index_mut(index) else {
                self.next_swarm();
                continue;
            };
            let (before, seeds) = (swarm.len(), swarm.part(Part::Seeds));
            let from = self.sweep.peers;
            let (gone, rest) = match self.sweep.family {
                Family::V4 => expire_list(&mut swarm.v4, &self.hasher, now, from, budget),
                Family::V6 => expire_list(&mut swarm.v6, &self.hasher, now, from, budget),
            };
            dropped += gone;
            self.peers -= gone;
            self.seeds -= seeds - swarm.part(Part::Seeds);
            budget = budget.saturating_sub(before.min(from).max(1));
            match (rest, self.sweep.family) {
                (Some(rest), _) => self.sweep.peers = rest,
                (None, Family::V4) => {
                    self.sweep.family = Family::V6;
                    self.sweep.peers = usize::MAX;
                }
                (None, Family::V6) => {
                    if swarm.len() == 0 && !swarm.registered {
                        self.drop_swarm(index);
                    }
                    self.next_swarm();
                }
            }
        }
        (dropped, self.sweep.swarms == 0)
    }

    #[cfg(test)]
    fn check_invariant(&self) {
        let peers: usize = self.swarms.values().map(Swarm::len).sum();
        assert_eq!(self.peers, peers);
        let seeds: usize = self
            .swarms
            .values()
            .map(|swarm| swarm.part(Part::Seeds))
            .sum();
        assert_eq!(self.seeds, seeds);
        for swarm in self.swarms.values() {
            if let Some(list) = &swarm.v4 {
                list.check_invariant(&self.hasher);
            }
            if let Some(list) = &swarm.v6 {
                list.check_invariant(&self.hasher);
            }
        }
    }

    fn next_swarm(&mut self) {
        let swarms = self.sweep.swarms.saturating_sub(1).min(self.swarms.len());
        self.sweep = Sweep {
            swarms,
            family: Family::V4,
            peers: usize::MAX,
        };
    }

    fn drop_swarm(&mut self, index: usize) {
        if let Some((_, swarm)) = self.swarms.swap_remove_index(index) {
            self.peers -= swarm.len();
            self.seeds -= swarm.part(Part::Seeds);
        }
        if self.swarms.capacity() > self.swarms.len() * 4 + 64 {
            self.swarms.shrink_to(self.swarms.len() * 2);
        }
    }

    fn fill_header(
        &self,
        request: &AnnounceRequest,
        index: Option<usize>,
        reply: &mut AnnounceReply,
    ) {
        let entry = index.map_or_else(ScrapeEntry::default, |i| {
            self.swarms[i].entry(&self.origins)
        });
        let intervals = &self.policy.intervals;
        let interval = if is_seed(request) {
            intervals.seed
        } else {
            intervals.leecher
        };
        reply.interval = whole_seconds(interval);
        reply.min_interval = Some(whole_seconds(intervals.min));
        reply.complete = Some(entry.complete);
        reply.incomplete = Some(entry.incomplete);
        reply.downloaded = Some(entry.downloaded);
    }
}

/// What an announce did to the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Announced {
    Stored(Stored),
    Left,
    /// An origin, a leaver the table does not hold, or one that does not listen: answered,
    /// nothing stored.
    Unknown,
}

/// One announce, resolved.
struct Ask {
    now: Moment,
    at: IpAddr,
    port: u16,
    local: bool,
    /// `at` is filled in by the list it goes to.
    peer: Peer<()>,
    event: AnnounceEvent,
    completed: bool,
    wanted: usize,
    room: Room,
}

impl Ask {
    fn new(
        now: Moment,
        request: &AnnounceRequest,
        asker: Asker,
        policy: &Policy,
        whole: Occupancy,
    ) -> Self {
        let limits = &policy.limits;
        let seed = is_seed(request);
        let intervals = &policy.intervals;
        let interval = if seed {
            intervals.seed
        } else {
            intervals.leecher
        };
        let life = (interval * 2).max(intervals.expiry_floor);
        let flags = Flags::default()
            .with(Flags::SEED, seed)
            .with(Flags::PAUSED, request.event == AnnounceEvent::Paused)
            .with(Flags::EXEMPT, asker.exempt);
        let wanted = request.numwant.map_or(limits.numwant_default, |n| {
            usize::try_from(n)
                .unwrap_or(usize::MAX)
                .min(limits.numwant_max)
        });
        Self {
            now,
            at: asker.at.ip(),
            port: asker.at.port(),
            local: asker.local,
            peer: Peer {
                id: request.peer_id,
                at: (),
                flags,
                rate: 0,
                key: request.key.unwrap_or(0),
                left: if seed {
                    0
                } else {
                    request.left.unwrap_or(LEFT_UNKNOWN)
                },
                uploaded: request.uploaded,
                downloaded: request.downloaded,
                joined: now,
                seen: now,
                advanced: now,
                expires: now.plus(life),
            },
            event: request.event,
            completed: request.event == AnnounceEvent::Completed && seed,
            wanted,
            room: Room {
                peers: limits.peers_per_swarm,
                per_ip: limits.peers_per_ip,
                more: whole.peers < limits.peers,
            },
        }
    }

    fn wants_seeds(&self) -> bool {
        !self.peer.flags.has(Flags::SEED) && !self.peer.flags.has(Flags::PAUSED)
    }

    /// Whether the asker may be told of this peer.
    fn allows<E: Endpoint>(&self, peer: &Peer<E>) -> bool {
        peer.id != self.peer.id
            && peer.expires > self.now
            && (self.wants_seeds() || !peer.flags.has(Flags::PAUSED))
            && self.allows_addr(&peer.at.addr())
    }

    fn allows_addr(&self, addr: &SocketAddr) -> bool {
        (addr.ip(), addr.port()) != (self.at, self.port) && (self.local || !addr.ip().is_loopback())
    }
}

impl Swarm {
    pub(crate) fn len(&self) -> usize {
        self.v4.as_ref().map_or(0, |l| l.len()) + self.v6.as_ref().map_or(0, |l| l.len())
    }

    pub(crate) fn v4(&self) -> impl Iterator<Item = &Peer<V4>> {
        self.v4.iter().flat_map(|list| list.iter())
    }

    pub(crate) fn v6(&self) -> impl Iterator<Item = &Peer<V6>> {
        self.v6.iter().flat_map(|list| list.iter())
    }

    pub(crate) fn entry(&self, origins: &OriginTable) -> ScrapeEntry {
        let origins = self.awake(origins).count();
        ScrapeEntry {
            complete: count(self.part(Part::Seeds) + origins),
            downloaded: self.completed,
            incomplete: count(self.part(Part::Leechers)),
        }
    }

    fn part(&self, part: Part) -> usize {
        self.v4.as_ref().map_or(0, |l| l.count(part))
            + self.v6.as_ref().map_or(0, |l| l.count(part))
    }

    /// The origins that seed it and hold their lease.
    pub(crate) fn awake<'a>(
        &'a self,
        table: &'a OriginTable,
    ) -> impl Iterator<Item = &'a OriginSeed> {
        self.origins
            .iter()
            .filter_map(|slot| table.get(usize::from(*slot))?.as_ref())
    }

    fn store(&mut self, hasher: &RandomState, origins: &OriginTable, ask: &Ask) -> Announced {
        if ask.port == 0 || self.awake(origins).any(|origin| origin.id == ask.peer.id) {
            return Announced::Unknown;
        }
        let (announced, completed) = match ask.at {
            IpAddr::V4(ip) => store_in(&mut self.v4, hasher, ask, V4::new(ip, ask.port)),
            IpAddr::V6(ip) => store_in(&mut self.v6, hasher, ask, V6::new(ip, ask.port)),
        };
        self.completed = self.completed.saturating_add(u32::from(completed));
        announced
    }

    /// Origins first, then a mix of seeds and leechers of the asker's family, then the other
    /// family if there is still room; seeds are told of leechers only.
    fn select(
        &self,
        hasher: &RandomState,
        origins: &OriginTable,
        ask: &Ask,
        rng: &mut SmallRng,
        out: &mut Vec<ReplyPeer>,
    ) {
        if ask.wants_seeds() {
            self.select_origins(origins, ask, rng, out);
        }
        let led = out.len();
        for own in [true, false] {
            if ask.at.is_ipv4() == own {
                select_in(self.v4.as_deref(), hasher, ask, rng, out);
            } else {
                select_in(self.v6.as_deref(), hasher, ask, rng, out);
            }
        }
        shuffle(&mut out[led..], rng);
    }

    fn select_origins(
        &self,
        origins: &OriginTable,
        ask: &Ask,
        rng: &mut SmallRng,
        out: &mut Vec<ReplyPeer>,
    ) {
        let most = ORIGINS_PER_REPLY.min(ask.wanted);
        let turn = if self.origins.len() > most {
            rng.random_range(0..self.origins.len())
        } else {
            0
        };
        let (tail, head) = self.origins.split_at(turn);
        for slot in head.iter().chain(tail) {
            let Some(Some(origin)) = origins.get(usize::from(*slot)) else {
                continue;
            };
            if out.len() >= most {
                break;
            }
            let addr = origin
                .addrs
                .iter()
                .filter(|addr| ask.allows_addr(addr))
                .max_by_key(|addr| addr.is_ipv4() == ask.at.is_ipv4());
            if let Some(&addr) = addr.filter(|_| origin.id != ask.peer.id) {
                out.push(ReplyPeer {
                    addr,
                    id: Some(origin.id),
                });
            }
        }
    }
}

fn store_in<E: Endpoint>(
    list: &mut Option<Box<PeerList<E>>>,
    hasher: &RandomState,
    ask: &Ask,
    at: E,
) -> (Announced, bool) {
    let peer = ask.peer.listening(at);
    if ask.event == AnnounceEvent::Stopped {
        let left = list.as_mut().is_some_and(|list| list.leave(hasher, &peer));
        if list.as_ref().is_some_and(|list| list.is_empty()) {
            *list = None;
        }
        return (
            if left {
                Announced::Left
            } else {
                Announced::Unknown
            },
            false,
        );
    }
    let list = list.get_or_insert_default();
    let (stored, completed) = list.announce(hasher, peer, ask.completed, ask.room);
    (Announced::Stored(stored), completed)
}

fn select_in<E: Endpoint>(
    list: Option<&PeerList<E>>,
    hasher: &RandomState,
    ask: &Ask,
    rng: &mut impl Rng,
    out: &mut Vec<ReplyPeer>,
) {
    let Some(list) = list else { return };
    let room = ask.wanted.saturating_sub(out.len());
    let (seeds, leechers) = if ask.wants_seeds() {
        let leechers = list.count(Part::Leechers);
        let seeds = list
            .count(Part::Seeds)
            .min((room / 2).max(room.saturating_sub(leechers)));
        (seeds, room - seeds)
    } else {
        (0, room)
    };
    let own = list.position(hasher, &ask.peer.id);
    for (part, wanted) in [(Part::Seeds, seeds), (Part::Leechers, leechers)] {
        let allow = |peer: &Peer<E>| ask.allows(peer);
        list.pick(part, wanted, own, rng, allow, |peer| {
            out.push(ReplyPeer {
                addr: peer.at.addr(),
                id: Some(peer.id),
            });
        });
    }
}

fn expire_list<E: Endpoint>(
    list: &mut Option<Box<PeerList<E>>>,
    hasher: &RandomState,
    now: Moment,
    from: usize,
    budget: usize,
) -> (usize, Option<usize>) {
    let Some(peers) = list else { return (0, None) };
    let outcome = peers.expire(hasher, now, from, budget);
    if peers.is_empty() {
        *list = None;
        return (outcome.0, None);
    }
    outcome
}

/// A peer is complete when it says that nothing is left, or that it completed without saying
/// what is left (magnet clients).
fn is_seed(request: &AnnounceRequest) -> bool {
    match request.left {
        Some(left) => left == 0,
        None => request.event == AnnounceEvent::Completed,
    }
}

fn shuffle(peers: &mut [ReplyPeer], rng: &mut impl Rng) {
    for last in (1..peers.len()).rev() {
        peers.swap(last, rng.random_range(0..=last));
    }
}

fn whole_seconds(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
