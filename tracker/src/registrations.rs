//! Who registered what, and for how long. Pure.
//!
//! An origin holds one lease for all it registered. What it registered outlives it: agents
//! still have the bytes, so a swarm stays known (and can be looked up by label) until nobody
//! has been in it for the retention time.
//!
//! ```text
//!   origin:   awake ──lease ends, or another takes its address──▶ asleep ──retention──▶ forgotten
//!               ▲                                                   │
//!               └────any request────────────────────────────────────┘
//!                                               (asleep: not handed out, nothing lost)
//!
//!   entry:    held ──last holder withdraws, is forgotten, or does not confirm──▶ orphan
//!               ▲                                                                 │
//!               └──registered again──┘            retention over and swarm empty ─▶ dropped
//! ```
//!
//! Entries read from the cache are unconfirmed: their origin has one lease to repeat them.
//!
//! Invariant: an address is one origin's. A process that starts anew has a new id and the old
//! address; whoever claims an address last, has it.
//!
//! Never: a peer of a swarm, a file, a clock.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use torrents::register::{LookupReply, MAX_NAMES, RegisterRequest, Registration};
use torrents::{InfoHash, PeerId};

use crate::moment::Moment;
pub(crate) use crate::swarms::Slot;
use crate::swarms::{OriginSeed, OriginTable};

/// Swarms found by one label. Origins that disagree on the piece length make two or three; what
/// is registered beyond this is served, and the longest known is no longer looked up.
const ALIKE: usize = 16;

/// What bounds the registrations.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    pub(crate) lease: Duration,
    pub(crate) retention: Duration,
    pub(crate) entries: usize,
    pub(crate) origins: usize,
}

/// A registration that cannot be taken in; the text goes to the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejected {
    #[error("tracker holds leases for as many origins as it may")]
    Origins,
    #[error("tracker holds as many registrations as it may")]
    Entries,
}

/// What the swarm table must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The swarm is registered, and this origin seeds it.
    Register(InfoHash, Option<Slot>),
    /// This origin no longer seeds it.
    Withdraw(InfoHash, Slot),
}

/// A registered swarm.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) label: Arc<str>,
    pub(crate) length: u64,
    /// Shared with whoever writes the cache.
    pub(crate) names: Arc<[Box<str>]>,
    holders: SmallVec<[Holder; 2]>,
    /// When it may be dropped, while nobody holds it.
    orphaned: Option<Moment>,
}

#[derive(Debug, Clone, Copy)]
struct Holder {
    slot: Slot,
    confirmed: bool,
}

#[derive(Debug, Clone)]
struct Origin {
    id: PeerId,
    addrs: SmallVec<[SocketAddr; 2]>,
    lease_ends: Moment,
    /// Until when what the cache said of it must be confirmed; `None` once settled.
    probation: Option<Moment>,
    held: u64,
    awake: bool,
}

/// What others may know of an origin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OriginView<'a> {
    pub(crate) slot: Slot,
    pub(crate) id: PeerId,
    pub(crate) addrs: &'a [SocketAddr],
    pub(crate) awake: bool,
    pub(crate) held: u64,
}

/// All registrations.
#[derive(Debug)]
pub(crate) struct Registrations {
    bounds: Bounds,
    origins: Vec<Option<Origin>>,
    by_id: HashMap<PeerId, Slot>,
    entries: HashMap<InfoHash, Entry>,
    /// Usually one each; `ALIKE` at most, the latest last.
    labels: HashMap<Arc<str>, SmallVec<[InfoHash; 1]>>,
    /// When each may be dropped. Those adopted again leave at once: an origin that withdraws and
    /// registers in turn must not pile them up.
    orphans: BTreeSet<(Moment, InfoHash)>,
    /// Grows with every change worth caching.
    changes: u64,
}

impl Registrations {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            origins: Vec::new(),
            by_id: HashMap::new(),
            entries: HashMap::new(),
            labels: HashMap::new(),
            orphans: BTreeSet::new(),
            changes: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Grows with every change worth caching.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    pub(crate) fn entry(&self, info_hash: &InfoHash) -> Option<&Entry> {
        self.entries.get(info_hash)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&InfoHash, &Entry)> {
        self.entries.iter()
    }

    /// Origins that hold a lease.
    pub(crate) fn awake(&self) -> usize {
        self.origins
            .iter()
            .flatten()
            .filter(|origin| origin.awake)
            .count()
    }

    /// The swarm of a label; one with a live origin if there are several.
    pub(crate) fn lookup(&self, label: &str) -> Option<LookupReply> {
        let hashes = self.labels.get(label)?;
        let lives = |hash: &&InfoHash| {
            self.entries
                .get(hash)
                .is_some_and(|e| e.holders.iter().any(|h| self.is_awake(h.slot)))
        };
        let info_hash = *hashes.iter().rev().find(lives).or(hashes.last())?;
        Some(LookupReply {
            info_hash,
            length: self.entries.get(&info_hash)?.length,
        })
    }

    /// The origins as shards hand them out.
    pub(crate) fn table(&self) -> OriginTable {
        let seeds = self.origins.iter().map(|origin| {
            let origin = origin.as_ref().filter(|origin| origin.awake)?;
            Some(OriginSeed {
                id: origin.id,
                addrs: origin.addrs.clone(),
            })
        });
        seeds.collect()
    }

    /// Takes in one batch and renews the origin's lease. Returns how many registrations the
    /// origin holds now and whether the table of origins changed.
    ///
    /// All or nothing: a batch that does not fit changes nothing.
    pub(crate) fn register(
        &mut self,
        now: Moment,
        request: &RegisterRequest,
        effects: &mut Vec<Effect>,
    ) -> Result<(u64, bool), Rejected> {
        let fresh = request
            .add
            .iter()
            .filter(|r| !self.entries.contains_key(&r.info_hash))
            .count();
        if self.entries.len() + fresh > self.bounds.entries {
            return Err(Rejected::Entries);
        }
        let (slot, changed) = self.renew(now, request.origin, &request.peers)?;
        for info_hash in &request.remove {
            if self.release(now, slot, *info_hash) {
                effects.push(Effect::Withdraw(*info_hash, slot));
            }
        }
        for registration in &request.add {
            self.describe(registration);
            self.hold(slot, registration.info_hash, true);
            effects.push(Effect::Register(registration.info_hash, Some(slot)));
        }
        Ok((self.held(slot), changed))
    }

    /// Takes in an origin the cache remembers; it has one lease to confirm what it held. One
    /// that was asleep stays so until it is heard.
    pub(crate) fn restore_origin(
        &mut self,
        now: Moment,
        id: PeerId,
        addrs: &[SocketAddr],
        awake: bool,
    ) -> Result<Slot, Rejected> {
        let until = now.plus(self.bounds.lease);
        let slot = if awake {
            self.renew(now, id, addrs)?.0
        } else {
            self.slot_of(id)?
        };
        if let Some(origin) = self.origin_mut(slot) {
            origin.probation = Some(until);
            if !awake {
                origin.lease_ends = until;
                origin.addrs = SmallVec::from_slice(addrs);
            }
        }
        Ok(slot)
    }

    /// Takes in a registration the cache remembers, unconfirmed.
    pub(crate) fn restore_entry(
        &mut self,
        now: Moment,
        registration: &Registration,
        slots: &[Slot],
        effects: &mut Vec<Effect>,
    ) -> Result<(), Rejected> {
        if self.entries.len() >= self.bounds.entries {
            return Err(Rejected::Entries);
        }
        let info_hash = registration.info_hash;
        self.describe(registration);
        effects.push(Effect::Register(info_hash, None));
        for &slot in slots {
            self.hold(slot, info_hash, false);
            effects.push(Effect::Register(info_hash, Some(slot)));
        }
        if slots.is_empty() {
            self.orphan(now, info_hash);
        }
        Ok(())
    }

    /// Lets leases lapse, drops what was not confirmed, forgets origins long asleep. Returns
    /// whether the table of origins changed.
    pub(crate) fn tick(&mut self, now: Moment, effects: &mut Vec<Effect>) -> bool {
        let mut changed = false;
        for slot in 0..self.origins.len() {
            let Some(origin) = &mut self.origins[slot] else {
                continue;
            };
            if origin.awake && origin.lease_ends <= now {
                origin.awake = false;
                self.changes += 1;
                changed = true;
            }
            let forgotten = origin.lease_ends.plus(self.bounds.retention) <= now;
            let unproved = origin.probation.is_some_and(|until| until <= now);
            let slot = Slot::try_from(slot).expect("origins are capped below 2^16");
            if unproved || forgotten {
                origin.probation = None;
                self.release_all(now, slot, forgotten, effects);
            }
            if forgotten {
                self.forget_origin(slot);
                changed = true;
            }
        }
        changed
    }

    /// Orphans whose retention is over, at most `most`. The caller drops those whose swarm is
    /// empty and keeps the others.
    pub(crate) fn due_orphans(&mut self, now: Moment, most: usize) -> Vec<InfoHash> {
        let mut due = Vec::new();
        while due.len() < most
            && self.orphans.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, info_hash)) = self.orphans.pop_first()
        {
            due.push(info_hash);
        }
        due
    }

    /// The swarm of this orphan still lives.
    pub(crate) fn keep_orphan(&mut self, now: Moment, info_hash: InfoHash) {
        self.orphan(now, info_hash);
    }

    /// Nobody holds it and nobody is in it.
    pub(crate) fn drop_orphan(&mut self, info_hash: &InfoHash) {
        if let Some(entry) = self.entries.remove(info_hash) {
            if let Some(due) = entry.orphaned {
                self.orphans.remove(&(due, *info_hash));
            }
            self.unlabel(&entry.label, info_hash);
            self.changes += 1;
        }
    }

    /// The origins, for the cache and for inspection.
    pub(crate) fn origins(&self) -> impl Iterator<Item = OriginView<'_>> {
        self.by_id.iter().filter_map(|(id, slot)| {
            let origin = self.origins[usize::from(*slot)].as_ref()?;
            let Origin {
                addrs, awake, held, ..
            } = origin;
            Some(OriginView {
                slot: *slot,
                id: *id,
                addrs,
                awake: *awake,
                held: *held,
            })
        })
    }

    fn renew(
        &mut self,
        now: Moment,
        id: PeerId,
        addrs: &[SocketAddr],
    ) -> Result<(Slot, bool), Rejected> {
        let lease_ends = now.plus(self.bounds.lease);
        let slot = self.slot_of(id)?;
        let addrs = self.not_taken_since(lease_ends, slot, addrs);
        let Some(origin) = self.origin_mut(slot) else {
            return Err(Rejected::Origins);
        };
        // News of another tracker may come late: they neither take time away nor undo what was
        // heard since.
        if origin.lease_ends > lease_ends {
            return Ok((slot, false));
        }
        origin.lease_ends = lease_ends;
        let moved = origin.addrs != addrs;
        // Without an address there is nothing to hand out. One whose lease is over already, by
        // what another tracker heard long ago, is put to sleep by the next tick.
        let awake = !addrs.is_empty();
        let changed = origin.awake != awake || moved;
        origin.awake = awake;
        if changed {
            origin.addrs.clone_from(&addrs);
            self.take_addrs(slot, &addrs);
        }
        self.changes += u64::from(changed);
        Ok((slot, changed))
    }

    /// The addresses without those of other origins that were heard later: most often, later lives
    /// of `owner`.
    fn not_taken_since(
        &self,
        lease_ends: Moment,
        owner: Slot,
        addrs: &[SocketAddr],
    ) -> SmallVec<[SocketAddr; 2]> {
        let origins = self.origins.iter().enumerate();
        let others = origins.filter(|(slot, _)| *slot != usize::from(owner));
        let later: Vec<_> = others
            .filter_map(|(_, origin)| origin.as_ref())
            .filter(|origin| origin.awake && origin.lease_ends > lease_ends)
            .collect();
        let taken = |addr: &SocketAddr| later.iter().any(|origin| origin.addrs.contains(addr));
        addrs.iter().copied().filter(|addr| !taken(addr)).collect()
    }

    /// Takes addresses from every other origin: an earlier life of `owner`, most often.
    fn take_addrs(&mut self, owner: Slot, addrs: &[SocketAddr]) {
        for (slot, origin) in self.origins.iter_mut().enumerate() {
            if let Some(origin) = origin.as_mut().filter(|_| slot != usize::from(owner)) {
                origin.addrs.retain(|addr| !addrs.contains(addr));
                origin.awake &= !origin.addrs.is_empty();
            }
        }
    }

    fn slot_of(&mut self, id: PeerId) -> Result<Slot, Rejected> {
        match self.by_id.get(&id) {
            Some(slot) => Ok(*slot),
            None => self.new_origin(id),
        }
    }

    fn new_origin(&mut self, id: PeerId) -> Result<Slot, Rejected> {
        let free = self
            .origins
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.origins.len());
        let slot = Slot::try_from(free).map_err(|_| Rejected::Origins)?;
        if free >= self.bounds.origins {
            return Err(Rejected::Origins);
        }
        if free == self.origins.len() {
            self.origins.push(None);
        }
        self.origins[free] = Some(Origin {
            addrs: SmallVec::new(),
            // Not heard yet, however long ago others heard it.
            lease_ends: Moment::EARLIEST,
            probation: None,
            held: 0,
            awake: false,
            id,
        });
        self.by_id.insert(id, slot);
        self.changes += 1;
        Ok(slot)
    }

    fn forget_origin(&mut self, slot: Slot) {
        if let Some(origin) = self.origins[usize::from(slot)].take() {
            self.by_id.remove(&origin.id);
            self.changes += 1;
        }
    }

    /// Writes down what a registration says of its blob.
    fn describe(&mut self, registration: &Registration) {
        let info_hash = registration.info_hash;
        let label: Arc<str> = registration.label.as_str().into();
        let names = registration
            .names
            .iter()
            .take(MAX_NAMES)
            .map(|n| n.as_str().into())
            .collect();
        match self.entries.get_mut(&info_hash) {
            Some(entry) => {
                entry.length = registration.length;
                if !registration.names.is_empty() {
                    entry.names = names;
                }
                if entry.label == label {
                    return;
                }
                let old = std::mem::replace(&mut entry.label, Arc::clone(&label));
                self.unlabel(&old, &info_hash);
            }
            None => {
                let entry = Entry {
                    label: Arc::clone(&label),
                    length: registration.length,
                    names,
                    holders: SmallVec::new(),
                    orphaned: None,
                };
                self.entries.insert(info_hash, entry);
            }
        }
        let alike = self.labels.entry(label).or_default();
        if alike.len() == ALIKE {
            alike.remove(0);
        }
        alike.push(info_hash);
    }

    fn unlabel(&mut self, label: &Arc<str>, info_hash: &InfoHash) {
        if let Some(hashes) = self.labels.get_mut(label) {
            hashes.retain(|hash| hash != info_hash);
            if hashes.is_empty() {
                self.labels.remove(label);
            }
        }
    }

    fn hold(&mut self, slot: Slot, info_hash: InfoHash, confirmed: bool) {
        let Some(entry) = self.entries.get_mut(&info_hash) else {
            return;
        };
        if let Some(due) = entry.orphaned.take() {
            self.orphans.remove(&(due, info_hash));
        }
        match entry.holders.iter_mut().find(|holder| holder.slot == slot) {
            Some(holder) => holder.confirmed |= confirmed,
            None => {
                entry.holders.push(Holder { slot, confirmed });
                self.count(slot, 1);
            }
        }
        self.changes += 1;
    }

    fn release(&mut self, now: Moment, slot: Slot, info_hash: InfoHash) -> bool {
        let Some(entry) = self.entries.get_mut(&info_hash) else {
            return false;
        };
        let before = entry.holders.len();
        entry.holders.retain(|holder| holder.slot != slot);
        if entry.holders.len() == before {
            return false;
        }
        let orphaned = entry.holders.is_empty();
        self.count(slot, -1);
        self.changes += 1;
        if orphaned {
            self.orphan(now, info_hash);
        }
        true
    }

    /// Releases what `slot` holds: everything, or what it did not confirm.
    fn release_all(
        &mut self,
        now: Moment,
        slot: Slot,
        everything: bool,
        effects: &mut Vec<Effect>,
    ) {
        let held = self.entries.iter().filter(|(_, entry)| {
            entry
                .holders
                .iter()
                .any(|h| h.slot == slot && (everything || !h.confirmed))
        });
        let held: Vec<InfoHash> = held.map(|(info_hash, _)| *info_hash).collect();
        for info_hash in held {
            if self.release(now, slot, info_hash) {
                effects.push(Effect::Withdraw(info_hash, slot));
            }
        }
    }

    fn orphan(&mut self, now: Moment, info_hash: InfoHash) {
        let due = now.plus(self.bounds.retention);
        if let Some(entry) = self.entries.get_mut(&info_hash) {
            if let Some(before) = entry.orphaned.replace(due) {
                self.orphans.remove(&(before, info_hash));
            }
            self.orphans.insert((due, info_hash));
        }
    }

    fn count(&mut self, slot: Slot, change: i64) {
        if let Some(origin) = self.origin_mut(slot) {
            origin.held = origin.held.saturating_add_signed(change);
        }
    }

    fn held(&self, slot: Slot) -> u64 {
        self.origins[usize::from(slot)]
            .as_ref()
            .map_or(0, |origin| origin.held)
    }

    fn is_awake(&self, slot: Slot) -> bool {
        self.origins[usize::from(slot)]
            .as_ref()
            .is_some_and(|origin| origin.awake)
    }

    fn origin_mut(&mut self, slot: Slot) -> Option<&mut Origin> {
        self.origins[usize::from(slot)].as_mut()
    }

    #[cfg(test)]
    fn check_invariant(&self) {
        let mut held = vec![0; self.origins.len()];
        for (info_hash, entry) in &self.entries {
            assert_eq!(entry.holders.is_empty(), entry.orphaned.is_some());
            if let Some(due) = entry.orphaned {
                assert!(self.orphans.contains(&(due, *info_hash)));
            }
            for holder in &entry.holders {
                held[usize::from(holder.slot)] += 1;
            }
        }
        for (slot, origin) in self.origins.iter().enumerate() {
            assert_eq!(origin.as_ref().map_or(0, |origin| origin.held), held[slot]);
        }
        for (label, alike) in &self.labels {
            assert!((1..=ALIKE).contains(&alike.len()));
            assert!(alike.iter().all(|hash| self.entries[hash].label == *label));
        }
        let orphaned = self
            .entries
            .values()
            .filter(|entry| entry.orphaned.is_some());
        assert_eq!(self.orphans.len(), orphaned.count());
        let awake = self.origins.iter().flatten().filter(|origin| origin.awake);
        let mut addrs: Vec<_> = awake.flat_map(|origin| &origin.addrs).collect();
        addrs.sort_unstable();
        assert!(addrs.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(self.by_id.len(), self.origins.iter().flatten().count());
    }
}

impl Entry {
    /// The slots of the origins that hold it, awake or not.
    pub(crate) fn holders(&self) -> impl Iterator<Item = Slot> {
        self.holders.iter().map(|holder| holder.slot)
    }
}

#[cfg(test)]
mod tests;
