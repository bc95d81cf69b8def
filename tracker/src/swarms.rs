//! The swarm table: who is in which swarm, and whom an announce is told about (BEP 3, 7, 21,
//! 23, 48). Pure: time is an argument, randomness a generator seeded at construction.
//!
//! A `Shard` owns the swarms of a part of the info hashes; whoever holds it, holds all it
//! needs to answer. Origins are not peers: a swarm names the slots of the origins that
//! registered it, and every shard has a copy of the table of slots, so that an origin's lapse
//! or change of address costs nothing per swarm.
//!
//! Never: a socket, a clock, a label, a lock.

mod departed;
mod swarm;
mod twins;

use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use torrents::InfoHash;
use torrents::announce::{AnnounceEvent, AnnounceReply, AnnounceRequest, ScrapeEntry};

use self::departed::Departed;
pub(crate) use self::swarm::{Announced, Asker, OriginSeed, OriginTable, Slot, Swarm, Told};
use self::swarm::{Ask, Family, is_seed};
use crate::config::{Config, Intervals, Limits, Mode};
use crate::moment::Moment;

/// The part of the configuration that decides answers.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) mode: Mode,
    pub(crate) intervals: Intervals,
    pub(crate) limits: Limits,
    /// Other trackers tell what they hear.
    pub(crate) shared: bool,
}

impl Policy {
    /// For how long a peer is kept after it announced this.
    fn life(&self, request: &AnnounceRequest) -> Duration {
        let intervals = &self.intervals;
        (self.interval(request) * 2).max(intervals.expiry_floor)
    }

    /// When it is asked to announce again.
    fn interval(&self, request: &AnnounceRequest) -> Duration {
        if is_seed(request) {
            self.intervals.seed
        } else {
            self.intervals.leecher
        }
    }
}

impl From<&Config> for Policy {
    fn from(config: &Config) -> Self {
        Self {
            mode: config.mode,
            intervals: config.intervals.clone(),
            limits: config.limits.clone(),
            shared: config.redis.is_some(),
        }
    }
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
    Unregistered {
        /// The tracker has just started: origins are still to register.
        settling: bool,
    },
    #[error("torrent refused by this tracker")]
    Denied,
    #[error("tracker is full: it takes no more torrents")]
    Full,
    #[error("too many requests from this address: slow down")]
    TooFast,
    #[error("{0} cannot be dialled by other peers")]
    Undialable(IpAddr),
}

impl Refusal {
    /// BEP-31: minutes after which another try may fare better.
    pub(crate) fn retry_in(self) -> Option<u32> {
        match self {
            Self::Unregistered { settling: false } | Self::TooFast => Some(1),
            Self::Full => Some(5),
            Self::Unregistered { settling: true } | Self::Denied | Self::Undialable(_) => None,
        }
    }
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
    departed: Departed,
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
            departed: Departed::default(),
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

    /// Stores what the asker announced, writes the numbers into `reply` and whom it is told
    /// about into `told`.
    pub(crate) fn announce(
        &mut self,
        now: Moment,
        request: &AnnounceRequest,
        asker: Asker,
        whole: Occupancy,
        reply: &mut AnnounceReply,
        told: &mut Told,
    ) -> Result<Announced, Refusal> {
        told.clear();
        let stopped = request.event == AnnounceEvent::Stopped;
        if stopped && self.policy.shared {
            self.departed.note(now, request);
        }
        let index = match self.swarms.get_index_of(&request.info_hash) {
            Some(index) => {
                let registered = self.swarms[index].is_registered();
                if self.policy.mode == Mode::Registered && !registered {
                    return Err(self.unregistered(now));
                }
                index
            }
            None if self.policy.mode == Mode::Registered => return Err(self.unregistered(now)),
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
        let before = (swarm.len(), swarm.seeds());
        let announced = swarm.store(&self.hasher, &self.origins, &ask);
        self.peers = self.peers + swarm.len() - before.0;
        self.seeds = self.seeds + swarm.seeds() - before.1;
        if !stopped {
            swarm.select(&self.hasher, &self.origins, &ask, &mut self.rng, told);
        }
        self.fill_header(request, Some(index), reply);
        Ok(announced)
    }

    /// Stores what another tracker heard `then`, unless the peer is forgotten by `now` or was heard
    /// of since.
    pub(crate) fn hear(
        &mut self,
        then: Moment,
        now: Moment,
        request: &AnnounceRequest,
        asker: Asker,
        whole: Occupancy,
    ) {
        if then.plus(self.policy.life(request)) <= now {
            return;
        }
        let Self {
            swarms,
            departed,
            hasher,
            ..
        } = self;
        let known = swarms.get(&request.info_hash);
        if departed.since(then, request)
            || known.is_some_and(|swarm| swarm.heard_since(hasher, then, request, asker))
        {
            return;
        }
        let (mut reply, mut told) = (AnnounceReply::default(), Told::default());
        // What does not fit here, the tracker that heard it still has.
        let _ = self.announce(then, request, asker, whole, &mut reply, &mut told);
        if let Some(swarm) = self.swarms.get_mut(&request.info_hash) {
            swarm.learnt(then, now);
        }
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
    pub(crate) fn register(&mut self, now: Moment, info_hash: InfoHash, origin: Option<Slot>) {
        self.swarms
            .entry(info_hash)
            .or_default()
            .register(now, origin);
    }

    /// `origin` no longer seeds it.
    pub(crate) fn withdraw(&mut self, now: Moment, info_hash: &InfoHash, origin: Slot) {
        if let Some(swarm) = self.swarms.get_mut(info_hash) {
            swarm.withdraw(now, origin);
        }
    }

    /// Forgets who is in a swarm.
    pub(crate) fn clear(&mut self, info_hash: &InfoHash) {
        if let Some(swarm) = self.swarms.get_mut(info_hash) {
            self.peers -= swarm.len();
            self.seeds -= swarm.seeds();
            swarm.clear();
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
            let (before, seeds) = (swarm.len(), swarm.seeds());
            let from = self.sweep.peers;
            let family = self.sweep.family;
            let (gone, rest) = swarm.expire(&self.hasher, now, family, from, budget);
            dropped += gone;
            self.peers -= gone;
            self.seeds -= seeds - swarm.seeds();
            budget = budget.saturating_sub(before.min(from).max(1));
            match (rest, family) {
                (Some(rest), _) => self.sweep.peers = rest,
                (None, Family::V4) => {
                    self.sweep.family = Family::V6;
                    self.sweep.peers = usize::MAX;
                }
                (None, Family::V6) => {
                    if swarm.len() == 0 && !swarm.is_registered() {
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
        let seeds: usize = self.swarms.values().map(|swarm| swarm.seeds()).sum();
        assert_eq!(self.seeds, seeds);
        for swarm in self.swarms.values() {
            swarm.check_invariant(&self.hasher);
        }
    }

    fn unregistered(&self, now: Moment) -> Refusal {
        let uptime = now.since(Moment::default());
        Refusal::Unregistered {
            settling: uptime < self.policy.intervals.settling,
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
            self.seeds -= swarm.seeds();
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
        reply.interval = whole_seconds(self.policy.interval(request));
        reply.min_interval = Some(whole_seconds(self.policy.intervals.min));
        reply.complete = Some(entry.complete);
        reply.incomplete = Some(entry.incomplete);
        reply.downloaded = Some(entry.downloaded);
    }
}

fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
