//! One swarm: what an announce does to it, and whom the asker is told about. Pure.

use std::hash::RandomState;
use std::net::SocketAddr;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, RngExt};
use smallvec::SmallVec;
use torrents::PeerId;
use torrents::announce::{AnnounceEvent, AnnounceRequest, ReplyPeer, ScrapeEntry};

use super::twins::Twins;
use super::{Occupancy, Policy};
use crate::endpoint::{Compact, Endpoint, V4, V6};
use crate::moment::Moment;
use crate::peers::{Flags, LEFT_UNKNOWN, Part, Peer, PeerList, Room, Stored, random_below};

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
    /// It comes from a trusted network.
    pub(crate) trusted: bool,
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
    /// Who is in both, and is one peer.
    twins: Twins,
    origins: SmallVec<[Slot; 4]>,
    completed: u32,
    /// When a peer last joined, left or advanced, or an origin came or went.
    changed: Moment,
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

/// Whom an asker is told about: origins first, then the others in random order.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) compact: Compact,
    /// With ids, for whoever wants dictionaries; `compact` is empty then.
    pub(crate) named: Vec<ReplyPeer>,
}

impl Told {
    pub(super) fn clear(&mut self) {
        self.compact.clear();
        self.named.clear();
    }

    fn len(&self) -> usize {
        self.compact.len() + self.named.len()
    }

    fn name(&mut self, addr: SocketAddr, id: PeerId) {
        self.named.push(ReplyPeer { addr, id: Some(id) });
    }
}

/// One announce, resolved.
pub(super) struct Ask {
    at: SocketAddr,
    local: bool,
    peer: Peer,
    event: AnnounceEvent,
    completed: bool,
    wanted: usize,
    compact: bool,
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
            at: asker.at,
            local: asker.local,
            peer: Peer {
                id: request.peer_id,
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
                expires: now.plus(policy.life(request)),
            },
            event: request.event,
            completed: request.event == AnnounceEvent::Completed && seed,
            wanted,
            compact: request.compact,
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

    /// Whether the asker could dial this address, and it is not its own.
    fn allows(&self, addr: &SocketAddr) -> bool {
        *addr != self.at && (self.local || !addr.ip().is_loopback())
    }
}

impl Swarm {
    /// Peers, those in both families twice.
    pub(crate) fn len(&self) -> usize {
        self.v4.as_ref().map_or(0, |l| l.len()) + self.v6.as_ref().map_or(0, |l| l.len())
    }

    pub(crate) fn v4(&self) -> impl Iterator<Item = (&V4, &Peer)> {
        self.v4.iter().flat_map(|list| list.iter())
    }

    pub(crate) fn v6(&self) -> impl Iterator<Item = (&V6, &Peer)> {
        self.v6.iter().flat_map(|list| list.iter())
    }

    pub(crate) fn entry(&self, origins: &OriginTable) -> ScrapeEntry {
        let origins = self.awake(origins).count();
        let Twins { pairs, seeds } = self.twins;
        ScrapeEntry {
            complete: count(self.part(Part::Seeds) + origins) - seeds,
            downloaded: self.completed,
            incomplete: count(self.part(Part::Leechers)) - (pairs - seeds),
        }
    }

    pub(super) fn seeds(&self) -> usize {
        self.part(Part::Seeds)
    }

    pub(super) fn is_registered(&self) -> bool {
        self.registered
    }

    pub(crate) fn changed(&self) -> Moment {
        self.changed
    }

    /// Whether the peer, or another at its address, announced after `then`.
    pub(super) fn heard_since(
        &self,
        hasher: &RandomState,
        then: Moment,
        request: &AnnounceRequest,
        asker: Asker,
    ) -> bool {
        let (id, flags) = (
            &request.peer_id,
            Flags::default().with(Flags::EXEMPT, asker.exempt),
        );
        match asker.at.is_ipv4() {
            true => heard_in(self.v4.as_deref(), hasher, asker.at, id, flags) > Some(then),
            false => heard_in(self.v6.as_deref(), hasher, asker.at, id, flags) > Some(then),
        }
    }

    /// What changed is what another tracker heard `then`, and is news `now`: whoever watches for
    /// changes has looked at what came before.
    pub(super) fn learnt(&mut self, then: Moment, now: Moment) {
        if self.changed == then {
            self.changed = now;
        }
    }

    /// Forgets everybody but the origins.
    pub(super) fn clear(&mut self) {
        (self.v4, self.v6) = (None, None);
        self.twins = Twins::default();
    }

    pub(super) fn register(&mut self, now: Moment, origin: Option<Slot>) {
        self.registered = true;
        self.changed = now;
        if let Some(origin) = origin.filter(|origin| !self.origins.contains(origin)) {
            self.origins.push(origin);
        }
    }

    pub(super) fn withdraw(&mut self, now: Moment, origin: Slot) {
        self.changed = now;
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
        let outcome = match family {
            Family::V4 => expire_list(&mut self.v4, hasher, now, from, budget),
            Family::V6 => expire_list(&mut self.v6, hasher, now, from, budget),
        };
        if outcome.0 > 0 {
            self.settle(hasher);
            self.changed = now;
        }
        outcome
    }

    #[cfg(test)]
    pub(super) fn check_invariant(&self, hasher: &RandomState) {
        if let Some(list) = &self.v4 {
            list.check_invariant(hasher);
        }
        if let Some(list) = &self.v6 {
            list.check_invariant(hasher);
        }
        let twin = |peer: &Peer| {
            let other = self.v6().find(|(_, other)| other.id == peer.id);
            other.filter(|(_, other)| other.key == peer.key)
        };
        let pairs = self.v4().filter_map(|(_, a)| Some((a, twin(a)?.1)));
        let pairs: Vec<_> = pairs.collect();
        let seed = |peer: &Peer| peer.flags.has(Flags::SEED);
        let seeds = pairs.iter().filter(|(a, b)| seed(a) && seed(b)).count();
        let (found, seeds) = (count(pairs.len()), count(seeds));
        let expected = Twins {
            pairs: found,
            seeds,
        };
        assert_eq!(self.twins, expected);
        for (a, b) in pairs {
            assert!(a.flags.has(Flags::TWIN) && b.flags.has(Flags::TWIN));
        }
        let peers = self.v4().map(|p| p.1).chain(self.v6().map(|p| p.1));
        let marked = peers.filter(|peer| peer.flags.has(Flags::TWIN)).count();
        assert_eq!(count(marked), 2 * found);
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

    /// Takes in what the asker said of itself; it is found at the position returned then.
    pub(super) fn store(
        &mut self,
        hasher: &RandomState,
        origins: &OriginTable,
        ask: &Ask,
    ) -> Announced {
        if ask.at.port() == 0 || self.awake(origins).any(|origin| origin.id == ask.peer.id) {
            return Announced::Unknown;
        }
        let (id, Self { v4, v6, .. }) = (&ask.peer.id, &mut *self);
        let (announced, completed) = if ask.at.is_ipv4() {
            let completed = ask.completed && !is_counted(v6.as_deref(), hasher, ask);
            store_in(v4, hasher, ask, completed)
        } else {
            let completed = ask.completed && !is_counted(v4.as_deref(), hasher, ask);
            store_in(v6, hasher, ask, completed)
        };
        self.settle(hasher);
        let (v4, v6) = (self.v4.as_deref_mut(), self.v6.as_deref_mut());
        self.twins.join(hasher, id, v4, v6);
        self.completed = self.completed.saturating_add(u32::from(completed));
        // A seed that renews is the one announce that changes nothing.
        let idle = Announced::Stored(Stored::Renewed);
        if announced != idle || completed || !ask.peer.flags.has(Flags::SEED) {
            self.changed = ask.peer.seen;
        }
        announced
    }

    /// Brings both lists in step after one of them changed, and drops an empty one.
    fn settle(&mut self, hasher: &RandomState) {
        let Self { v4, v6, twins, .. } = self;
        if let Some(list) = v4 {
            twins.part(hasher, list.parted(), v6.as_deref_mut());
        }
        if let Some(list) = v6 {
            twins.part(hasher, list.parted(), v4.as_deref_mut());
        }
        v4.take_if(|list| list.is_empty());
        v6.take_if(|list| list.is_empty());
    }

    /// Origins first, then a mix of seeds and leechers of the asker's family, then the other
    /// family if there is still room; seeds are told of leechers only.
    pub(super) fn select(
        &self,
        hasher: &RandomState,
        origins: &OriginTable,
        ask: &Ask,
        rng: &mut SmallRng,
        told: &mut Told,
    ) {
        if ask.wants_seeds() {
            self.select_origins(origins, ask, rng, told);
        }
        let led = (
            told.compact.v4.len(),
            told.compact.v6.len(),
            told.named.len(),
        );
        for own in [true, false] {
            if ask.at.is_ipv4() == own {
                select_in(self.v4.as_deref(), hasher, ask, rng, told);
            } else {
                select_in(self.v6.as_deref(), hasher, ask, rng, told);
            }
        }
        shuffle(&mut told.compact.v4[led.0..], rng);
        shuffle(&mut told.compact.v6[led.1..], rng);
        shuffle(&mut told.named[led.2..], rng);
    }

    /// One address of each origin, of the asker's family if it has one.
    fn select_origins(
        &self,
        origins: &OriginTable,
        ask: &Ask,
        rng: &mut SmallRng,
        told: &mut Told,
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
            if told.len() >= most {
                break;
            }
            let dialable = origin.addrs.iter().filter(|addr| ask.allows(addr));
            let addr = dialable.max_by_key(|addr| addr.is_ipv4() == ask.at.is_ipv4());
            match addr {
                Some(_) if origin.id == ask.peer.id => {}
                Some(addr) if ask.compact => told.compact.push(*addr),
                Some(addr) => told.name(*addr, origin.id),
                None => {}
            }
        }
    }
}

/// Whether the completion of the asker was counted when it said so in the other family.
fn is_counted<E: Endpoint>(other: Option<&PeerList<E>>, hasher: &RandomState, ask: &Ask) -> bool {
    let twin = other.and_then(|list| Some(list.get(list.position(hasher, &ask.peer.id)?).1));
    twin.is_some_and(|twin| twin.key == ask.peer.key && twin.flags.has(Flags::COUNTED))
}

/// When the peer, or who sits at its address, was last heard.
fn heard_in<E: Endpoint>(
    list: Option<&PeerList<E>>,
    hasher: &RandomState,
    at: SocketAddr,
    id: &PeerId,
    flags: Flags,
) -> Option<Moment> {
    let list = list?;
    let known = list.position(hasher, id);
    let sitting = list.position_at(hasher, E::of(at)?, flags);
    let positions = known.into_iter().chain(sitting);
    positions.map(|position| list.get(position).1.seen).max()
}

/// Stores or forgets the asker; returns whether it completed for the first time, too.
fn store_in<E: Endpoint>(
    list: &mut Option<Box<PeerList<E>>>,
    hasher: &RandomState,
    ask: &Ask,
    completed: bool,
) -> (Announced, bool) {
    let Some(at) = E::of(ask.at) else {
        return (Announced::Unknown, false);
    };
    let peer = ask.peer;
    if ask.event != AnnounceEvent::Stopped {
        let list = list.get_or_insert_default();
        let (stored, completed) = list.announce(hasher, at, peer, completed, ask.room);
        return (Announced::Stored(stored), completed);
    }
    let left = list
        .as_mut()
        .is_some_and(|list| list.leave(hasher, at, &peer.id, peer.key));
    let announced = if left {
        Announced::Left
    } else {
        Announced::Unknown
    };
    (announced, false)
}

fn select_in<E: Endpoint>(
    list: Option<&PeerList<E>>,
    hasher: &RandomState,
    ask: &Ask,
    rng: &mut impl Rng,
    told: &mut Told,
) {
    let Some(list) = list else { return };
    let room = ask.wanted.saturating_sub(told.len());
    let (seeds, leechers) = if ask.wants_seeds() {
        let leechers = list.count(Part::Leechers);
        let most = (room / 2).max(room.saturating_sub(leechers));
        let seeds = list.count(Part::Seeds).min(most);
        (seeds, room - seeds)
    } else {
        (0, room)
    };
    let own = list.position(hasher, &ask.peer.id);
    let own_at = E::of(ask.at);
    let allow = |at: &E, position: usize| {
        Some(*at) != own_at
            && (ask.local || !at.is_loopback())
            && (ask.wants_seeds() || !list.get(position).1.flags.has(Flags::PAUSED))
    };
    for (part, wanted) in [(Part::Seeds, seeds), (Part::Leechers, leechers)] {
        list.pick(part, wanted, own, rng, allow, |at, position| {
            if ask.compact {
                at.put(&mut told.compact);
            } else {
                told.name(at.addr(), list.get(position).1.id);
            }
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
    peers.expire(hasher, now, from, budget)
}

/// A peer is complete when it says that nothing is left, or that it completed without saying
/// what is left (magnet clients).
pub(super) fn is_seed(request: &AnnounceRequest) -> bool {
    match request.left {
        Some(left) => left == 0,
        None => request.event == AnnounceEvent::Completed,
    }
}

fn shuffle<T>(peers: &mut [T], rng: &mut impl Rng) {
    for last in (1..peers.len()).rev() {
        peers.swap(last, random_below(rng, last + 1));
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
