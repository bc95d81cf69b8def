//! One swarm: what an announce does to it, and whom the asker is told about. Pure.

use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, RngExt};
use smallvec::SmallVec;
use torrents::PeerId;
use torrents::announce::{AnnounceEvent, AnnounceRequest, ReplyPeer, ScrapeEntry};

use super::{Occupancy, Policy};
use crate::endpoint::{Endpoint, V4, V6};
use crate::moment::Moment;
use crate::peers::{Flags, LEFT_UNKNOWN, Part, Peer, PeerList, Room, Stored};

/// An origin's number in the table of origins.
pub(crate) type Slot = u16;

/// At most this many origins lead a reply; the rest of it is the swarm's.
pub(super) const ORIGINS_PER_REPLY: usize = 4;

/// What a shard knows of origins: by slot, `None` when asleep or gone.
pub(crate) type OriginTable = Arc<[Option<OriginSeed>]>;

/// An origin as it is handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OriginSeed {
    pub(crate) id: PeerId,
    pub(crate) addrs: SmallVec<[SocketAddr; 2]>,
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

/// One of a swarm's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Family {
    #[default]
    V4,
    V6,
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
pub(super) struct Ask {
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
    pub(super) fn new(
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

    pub(super) fn seeds(&self) -> usize {
        self.part(Part::Seeds)
    }

    pub(super) fn is_registered(&self) -> bool {
        self.registered
    }

    pub(super) fn register(&mut self, origin: Option<Slot>) {
        self.registered = true;
        if let Some(origin) = origin.filter(|origin| !self.origins.contains(origin)) {
            self.origins.push(origin);
        }
    }

    pub(super) fn withdraw(&mut self, origin: Slot) {
        self.origins.retain(|slot| *slot != origin);
    }

    /// Drops the expired of one family, downwards; see `PeerList::expire`.
    pub(super) fn expire(
        &mut self,
        hasher: &RandomState,
        now: Moment,
        family: Family,
        from: usize,
        budget: usize,
    ) -> (usize, Option<usize>) {
        match family {
            Family::V4 => expire_list(&mut self.v4, hasher, now, from, budget),
            Family::V6 => expire_list(&mut self.v6, hasher, now, from, budget),
        }
    }

    #[cfg(test)]
    pub(super) fn check_invariant(&self, hasher: &RandomState) {
        if let Some(list) = &self.v4 {
            list.check_invariant(hasher);
        }
        if let Some(list) = &self.v6 {
            list.check_invariant(hasher);
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

    pub(super) fn store(
        &mut self,
        hasher: &RandomState,
        origins: &OriginTable,
        ask: &Ask,
    ) -> Announced {
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
    pub(super) fn select(
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
pub(super) fn is_seed(request: &AnnounceRequest) -> bool {
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

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
