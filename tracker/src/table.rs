//! The tables as threads share them: swarms in shards by info hash, registrations beside them.
//!
//! An announce locks one shard and nothing else. Lock order: registrations, then one shard at
//! a time; never two shards, never a shard first. No lock is held across an await, and long
//! walks (expiry, listing) let go between small steps, so that no announce waits for them.

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use torrents::InfoHash;
use torrents::announce::{AnnounceReply, AnnounceRequest, ScrapeEntry, dialable};
use torrents::register::{LookupReply, RegisterReply, RegisterRequest};

use crate::asker::{Source, Trust};
use crate::config::Config;
use crate::limiter::Limiter;
use crate::moment::Moment;
use crate::registrations::{Bounds, Effect, Registrations, Rejected};
use crate::shared::{Heard, HeardAnnounce, Outbox, registered};
use crate::swarms::{Announced, Occupancy, OriginTable, Policy, Refusal, Shard, Told};

/// Shards; a power of two up to 256. Swarms of one shard share the leading bits of their hash.
const SHARDS: usize = 64;

/// Peers and swarms that expiry looks at before it lets go of a shard: well under a millisecond.
const EXPIRY_STEP: usize = 2_048;

/// A round of expiry takes about this many ticks.
const EXPIRY_TICKS: usize = 10;

/// Orphans looked at in one tick.
const ORPHANS_PER_TICK: usize = 10_000;

/// All a tracker knows.
#[derive(Debug)]
pub(crate) struct Table {
    shards: Box<[Mutex<Shard>]>,
    registrations: Mutex<Registrations>,
    trust: Trust,
    limiter: Limiter,
    denied: RwLock<HashSet<InfoHash>>,
    /// How many those are: most trackers deny nothing, and need not look.
    denials: AtomicUsize,
    boot_id: String,
    /// Where other trackers of the fleet hear what this one does.
    outbox: Option<Outbox>,
    lease: std::time::Duration,
    swarms: AtomicUsize,
    peers: AtomicUsize,
}

/// How much a tracker holds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) swarms: usize,
    pub(crate) peers: usize,
    pub(crate) seeds: usize,
    pub(crate) registered: usize,
    /// Those that hold a lease.
    pub(crate) origins: usize,
}

impl Table {
    /// An empty table. `boot_id` and `seed` are random.
    pub(crate) fn new(config: &Config, boot_id: String, seed: u64) -> Self {
        let policy = Arc::new(Policy::from(config));
        let limits = &config.limits;
        let shard = |n: usize| Mutex::new(Shard::new(Arc::clone(&policy), seed ^ n as u64));
        Self {
            shards: (0..SHARDS).map(shard).collect(),
            registrations: Mutex::new(Registrations::new(Bounds {
                lease: config.intervals.lease,
                retention: config.intervals.retention,
                entries: limits.registrations,
                origins: limits.origins,
            })),
            trust: Trust::new(config.trusted.clone()),
            limiter: Limiter::new(limits.announces_per_ip, limits.connections_per_ip),
            denials: AtomicUsize::new(config.denied.len()),
            denied: RwLock::new(config.denied.clone()),
            lease: config.intervals.lease,
            boot_id,
            outbox: None,
            swarms: AtomicUsize::new(0),
            peers: AtomicUsize::new(0),
        }
    }

    /// Tells other trackers from here on.
    pub(crate) fn telling(self, outbox: Option<Outbox>) -> Self {
        Self { outbox, ..self }
    }

    pub(crate) fn trust(&self) -> &Trust {
        &self.trust
    }

    pub(crate) fn occupancy(&self) -> Occupancy {
        Occupancy {
            swarms: self.swarms.load(Ordering::Relaxed),
            peers: self.peers.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    pub(crate) fn announce(
        &self,
        now: Moment,
        request: &AnnounceRequest,
        source: Source,
        reply: &mut AnnounceReply,
        told: &mut Told,
    ) -> Result<Announced, Refusal> {
        let asker = self.trust.asker(source, request.ip, request.port)?;
        if self.asks_too_much(now, source) {
            return Err(Refusal::TooFast);
        }
        if self.denies(&request.info_hash) {
            return Err(Refusal::Denied);
        }
        reply.external_ip = Some(source.ip());
        // Buffers outlive one tracker where several share a thread.
        if reply.tracker_id.as_deref() != Some(&self.boot_id) {
            reply.tracker_id = Some(self.boot_id.clone());
        }
        let whole = self.occupancy();
        let outcome = self.with_shard(&request.info_hash, |shard| {
            shard.announce(now, request, asker, whole, reply, told)
        })?;
        if let Some(outbox) = &self.outbox
            && let Some(heard) = HeardAnnounce::new(request, &asker)
        {
            outbox.tell(Heard::Announce(heard));
        }
        Ok(outcome)
    }

    /// Another tracker heard this `then`: it lasts for as long as it does there, and what was heard
    /// since stands.
    pub(crate) fn hear(&self, then: Moment, now: Moment, heard: Heard) {
        match heard {
            Heard::Announce(heard) => {
                let (request, asker) = heard.replay();
                let whole = self.occupancy();
                if self.denies(&request.info_hash) {
                    return;
                }
                self.with_shard(&request.info_hash, |shard| {
                    shard.hear(then, now, &request, asker, whole);
                });
            }
            Heard::Register(body) => {
                if let Ok(request) = RegisterRequest::decode(&body)
                    && let Err(error) = self.take_registration(then, now, request)
                {
                    tracing::warn!(%error, "a registration that another tracker took is lost");
                }
            }
        }
    }

    /// Whether a swarm is never served.
    pub(crate) fn denies(&self, info_hash: &InfoHash) -> bool {
        self.denials.load(Ordering::Relaxed) > 0
            && self
                .denied
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(info_hash)
    }

    /// Takes another deny list; who is in a swarm on it is forgotten.
    pub(crate) fn deny(&self, hashes: HashSet<InfoHash>) {
        self.denials.store(hashes.len(), Ordering::Relaxed);
        let gone: Vec<InfoHash> = hashes.iter().copied().collect();
        *self.denied.write().unwrap_or_else(PoisonError::into_inner) = hashes;
        for info_hash in gone {
            self.with_shard(&info_hash, |shard| shard.clear(&info_hash));
        }
    }

    /// Counts an announce or a scrape; whether its address has asked too much.
    pub(crate) fn asks_too_much(&self, now: Moment, source: Source) -> bool {
        !source.is_trusted() && !self.limiter.announce(now, source.ip())
    }

    /// Counts a connection from `ip`; `None` when it has too many. Only an address that is
    /// counted must be given back to `disconnect`.
    pub(crate) fn connect(&self, ip: IpAddr) -> Option<Option<IpAddr>> {
        let ip = ip.to_canonical();
        if self.trust.trusts(ip) {
            return Some(None);
        }
        self.limiter.connect(ip).then_some(Some(ip))
    }

    pub(crate) fn disconnect(&self, ip: IpAddr) {
        self.limiter.disconnect(ip);
    }

    /// What a scrape says of each hash; repeated hashes are answered once. One that is denied is
    /// as good as unknown.
    pub(crate) fn scrape(&self, hashes: &[InfoHash]) -> Vec<(InfoHash, ScrapeEntry)> {
        let mut hashes = hashes.to_vec();
        hashes.sort_unstable();
        hashes.dedup();
        let entry = |hash: InfoHash| {
            if self.denies(&hash) {
                return (hash, ScrapeEntry::default());
            }
            (hash, self.with_shard(&hash, |shard| shard.scrape(&hash)))
        };
        hashes.into_iter().map(entry).collect()
    }

    pub(crate) fn lookup(&self, label: &str) -> Option<LookupReply> {
        let found = self.registrations().lookup(label);
        found.filter(|found| !self.denies(&found.info_hash))
    }

    /// Takes in what an origin registers, and renews its lease.
    pub(crate) fn register(
        &self,
        now: Moment,
        request: RegisterRequest,
    ) -> Result<RegisterReply, Rejected> {
        let heard = self.outbox.as_ref().and_then(|_| registered(&request));
        let reply = self.take_registration(now, now, request)?;
        if let (Some(outbox), Some(heard)) = (&self.outbox, heard) {
            outbox.tell(heard);
        }
        Ok(reply)
    }

    /// The lease runs from `then` on.
    fn take_registration(
        &self,
        then: Moment,
        now: Moment,
        mut request: RegisterRequest,
    ) -> Result<RegisterReply, Rejected> {
        request.peers = request.peers.into_iter().filter_map(dialable).collect();
        let mut effects = Vec::new();
        let mut registrations = self.registrations();
        let (held, changed) = registrations.register(then, &request, &mut effects)?;
        self.apply(now, &registrations, changed, &effects);
        Ok(RegisterReply {
            boot_id: self.boot_id.clone(),
            lease: self.lease,
            held,
        })
    }

    /// Lets `fill` put what the cache remembers into the registrations.
    pub(crate) fn restore<E>(
        &self,
        fill: impl FnOnce(&mut Registrations, &mut Vec<Effect>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut effects = Vec::new();
        let mut registrations = self.registrations();
        let outcome = fill(&mut registrations, &mut effects);
        self.apply(Moment::default(), &registrations, true, &effects);
        outcome
    }

    /// One second's worth of forgetting. Blocks for milliseconds when much is held: not for an
    /// async thread.
    pub(crate) fn tick(&self, now: Moment) {
        self.tick_registrations(now);
        for shard in &self.shards {
            let mut rest = {
                let shard = lock(shard);
                (shard.peers() + shard.swarms()) / EXPIRY_TICKS + EXPIRY_STEP
            };
            while rest > 0 {
                let finished = self.track(shard, |shard| shard.expire(now, EXPIRY_STEP).1);
                rest = if finished {
                    0
                } else {
                    rest.saturating_sub(EXPIRY_STEP)
                };
            }
        }
    }

    pub(crate) fn registrations(&self) -> MutexGuard<'_, Registrations> {
        lock(&self.registrations)
    }

    pub(crate) fn with_shard<T>(
        &self,
        info_hash: &InfoHash,
        work: impl FnOnce(&mut Shard) -> T,
    ) -> T {
        self.track(&self.shards[shard_of(info_hash)], work)
    }

    /// What is held in all; walks the shards.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for shard in &self.shards {
            let shard = lock(shard);
            totals.swarms += shard.swarms();
            totals.peers += shard.peers();
            totals.seeds += shard.seeds();
        }
        let registrations = self.registrations();
        totals.registered = registrations.len();
        totals.origins = registrations.awake();
        totals
    }

    /// The shards in the order of their hashes, from the one that holds `after` on.
    pub(crate) fn shards_from(&self, after: Option<&InfoHash>) -> Range<usize> {
        after.map_or(0, shard_of)..SHARDS
    }

    /// Looks into one shard.
    pub(crate) fn read_shard<T>(&self, shard: usize, read: impl FnOnce(&Shard) -> T) -> T {
        read(&lock(&self.shards[shard]))
    }

    fn tick_registrations(&self, now: Moment) {
        let mut effects = Vec::new();
        let mut registrations = self.registrations();
        let changed = registrations.tick(now, &mut effects);
        self.apply(now, &registrations, changed, &effects);
        for info_hash in registrations.due_orphans(now, ORPHANS_PER_TICK) {
            if self.with_shard(&info_hash, |shard| shard.forget(&info_hash)) {
                registrations.drop_orphan(&info_hash);
            } else {
                registrations.keep_orphan(now, info_hash);
            }
        }
    }

    /// Tells the shards what changed in the registrations, which are locked meanwhile: what a
    /// shard knows of them never runs ahead of or behind another batch.
    fn apply(
        &self,
        now: Moment,
        registrations: &Registrations,
        origins_changed: bool,
        effects: &[Effect],
    ) {
        if origins_changed {
            let table: OriginTable = registrations.table();
            for shard in &self.shards {
                lock(shard).set_origins(Arc::clone(&table));
            }
        }
        for effect in effects {
            match effect {
                Effect::Register(info_hash, origin) => {
                    self.with_shard(info_hash, |shard| shard.register(now, *info_hash, *origin));
                }
                Effect::Withdraw(info_hash, origin) => {
                    self.with_shard(info_hash, |shard| shard.withdraw(now, info_hash, *origin));
                }
            }
        }
    }

    /// Works on a shard and keeps the totals in step with it.
    fn track<T>(&self, shard: &Mutex<Shard>, work: impl FnOnce(&mut Shard) -> T) -> T {
        let mut shard = lock(shard);
        let (swarms, peers) = (shard.swarms(), shard.peers());
        let outcome = work(&mut shard);
        shift(&self.swarms, swarms, shard.swarms());
        shift(&self.peers, peers, shard.peers());
        outcome
    }
}

/// Moves a total by what a part of it changed. Written only on change: totals are read by
/// every announce on every core.
fn shift(total: &AtomicUsize, before: usize, after: usize) {
    if after > before {
        total.fetch_add(after - before, Ordering::Relaxed);
    } else if after < before {
        total.fetch_sub(before - after, Ordering::Relaxed);
    }
}

fn shard_of(info_hash: &InfoHash) -> usize {
    usize::from(info_hash.as_bytes()[0]) * SHARDS / 256
}

/// A panic under a lock is a bug in this room, but its tables hold no half-done invariants
/// that others must not see; serving on beats taking every later announce down with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
