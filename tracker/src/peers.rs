//! The peers of one swarm in one address family. Pure.
//!
//! Two dense vectors in step, seeds in front, so that a reply picks from either part by
//! position in O(wanted); two tables of positions find a peer by its id and by its address.
//! Addresses lie apart from the rest: they are all that most replies need, and a cache line
//! holds ten.
//!
//! Invariants (`check_invariant`): `[0, seeds)` are seeds and the rest are not; each id and
//! each address occurs once; both tables hold exactly the positions of the vectors.
//!
//! ```text
//!   at      [ S S S | L L L L L ]
//!   peers   [ S S S | L L L L L ]      by_id, by_at: hash → position
//!                   ^ seeds
//! ```

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::time::Duration;

use hashbrown::HashTable;
use rand::Rng;
use torrents::PeerId;

use crate::endpoint::Endpoint;
use crate::moment::Moment;

/// `left` of a peer that did not say.
pub(crate) const LEFT_UNKNOWN: u64 = u64::MAX;

/// How far a pick walks past peers it may not hand out before it gives a place up.
const PICK_STEPS: usize = 8;

/// One peer but for its address. Kept to 72 bytes: a tracker holds a million.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) flags: Flags,
    /// Bytes per second between its last two announces.
    pub(crate) rate: u32,
    /// Hash of the announced `key`; 0 when it sent none.
    pub(crate) key: u64,
    pub(crate) left: u64,
    pub(crate) uploaded: u64,
    pub(crate) downloaded: u64,
    pub(crate) joined: Moment,
    pub(crate) seen: Moment,
    /// When `left` last shrank, or when it joined.
    pub(crate) advanced: Moment,
    pub(crate) expires: Moment,
}

/// What is true of a peer, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flags(u8);

impl Flags {
    /// Has everything.
    pub(crate) const SEED: Self = Self(1);
    /// Its `completed` was counted, or never will be because it came complete.
    pub(crate) const COUNTED: Self = Self(2);
    /// A partial seed (BEP-21): incomplete, and wants nothing more.
    pub(crate) const PAUSED: Self = Self(4);
    /// Its address is exempt from the limit of peers per address.
    pub(crate) const EXEMPT: Self = Self(8);
    /// The list of the other family holds it too.
    pub(crate) const TWIN: Self = Self(16);

    pub(crate) fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    #[must_use]
    pub(crate) fn with(self, flag: Self, on: bool) -> Self {
        if on {
            Self(self.0 | flag.0)
        } else {
            Self(self.0 & !flag.0)
        }
    }
}

/// What became of an announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It joined; `evicted` when the oldest peer of its crowded address made way.
    Joined { evicted: bool },
    /// It was here already, perhaps at another address.
    Renewed,
    /// Another id sat at its address and is gone: a host that restarted.
    Replaced,
    /// Another peer holds this id with another key at another address; nothing changed.
    Impostor,
    /// No room; nothing changed.
    Full,
}

/// What bounds a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Peers in this list.
    pub(crate) peers: usize,
    /// Peers of one address (IPv6: one /64), unless exempt.
    pub(crate) per_ip: usize,
    /// Whether the whole tracker takes another peer.
    pub(crate) more: bool,
}

/// Seeds or the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Seeds,
    Leechers,
}

/// The peers of one swarm in one address family.
#[derive(Debug, Clone)]
pub(crate) struct PeerList<E> {
    at: Vec<E>,
    peers: Vec<Peer>,
    seeds: usize,
    by_id: HashTable<u32>,
    by_at: HashTable<u32>,
    /// Whose record with `Flags::TWIN` was discarded, for whoever holds the other list.
    parted: Vec<Parted>,
}

/// A record of a peer that another list holds too, discarded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parted {
    pub(crate) id: PeerId,
    pub(crate) seed: bool,
}

impl<E> Default for PeerList<E> {
    fn default() -> Self {
        Self {
            at: Vec::new(),
            peers: Vec::new(),
            seeds: 0,
            by_id: HashTable::new(),
            by_at: HashTable::new(),
            parted: Vec::new(),
        }
    }
}

impl<E: Endpoint> PeerList<E> {
    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    pub(crate) fn count(&self, part: Part) -> usize {
        self.range(part).len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&E, &Peer)> {
        self.at.iter().zip(&self.peers)
    }

    pub(crate) fn get(&self, position: usize) -> (&E, &Peer) {
        (&self.at[position], &self.peers[position])
    }

    pub(crate) fn parted(&mut self) -> &mut Vec<Parted> {
        &mut self.parted
    }

    /// Changes a flag that neither the order of the list nor its tables depend on.
    pub(crate) fn mark(&mut self, position: usize, flag: Flags, on: bool) {
        debug_assert!(flag != Flags::SEED && flag != Flags::EXEMPT);
        let flags = &mut self.peers[position].flags;
        *flags = flags.with(flag, on);
    }

    pub(crate) fn position(&self, hasher: &RandomState, id: &PeerId) -> Option<usize> {
        let is = |position: &u32| self.peers[*position as usize].id == *id;
        let found = self.by_id.find(hash_id(hasher, id), is);
        found.map(|position| *position as usize)
    }

    /// Takes in what a peer announced. `joined`, `advanced`, `rate` and the `COUNTED` flag of
    /// one that was here before are carried over. Returns whether this is the peer's first
    /// completion too.
    pub(crate) fn announce(
        &mut self,
        hasher: &RandomState,
        at: E,
        mut peer: Peer,
        completed: bool,
        room: Room,
    ) -> (Stored, bool) {
        let known = self.position(hasher, &peer.id);
        let sitting = self.position_at(hasher, at, peer.flags);
        if let Some(position) = known {
            if !self.may_move(position, at, peer.key) {
                return (Stored::Impostor, false);
            }
            let first_completion = carry(&self.peers[position], &mut peer, completed);
            if sitting == known {
                self.renew(hasher, position, peer);
                return (Stored::Renewed, first_completion);
            }
            self.remove(hasher, position);
            if let Some(sitting) = self.position_at(hasher, at, peer.flags) {
                self.remove(hasher, sitting);
            }
            self.make_way(hasher, at, peer.flags, room.per_ip);
            self.insert(hasher, at, peer);
            return (Stored::Renewed, first_completion);
        }
        // A tracker that restarted has not seen this peer as a leecher; believe `completed`.
        let counted = peer.flags.has(Flags::SEED) || completed;
        peer.flags = peer.flags.with(Flags::COUNTED, counted);
        let stored = if let Some(sitting) = sitting {
            self.remove(hasher, sitting);
            Stored::Replaced
        } else if self.len() >= room.peers || !room.more {
            return (Stored::Full, false);
        } else {
            let evicted = self.make_way(hasher, at, peer.flags, room.per_ip);
            Stored::Joined { evicted }
        };
        self.insert(hasher, at, peer);
        (stored, completed)
    }

    /// Forgets the peer that leaves; an impostor cannot make another leave.
    pub(crate) fn leave(&mut self, hasher: &RandomState, at: E, id: &PeerId, key: u64) -> bool {
        match self.position(hasher, id) {
            Some(position) if self.may_move(position, at, key) => {
                self.remove(hasher, position);
                true
            }
            _ => false,
        }
    }

    /// Drops the expired among at most `budget` peers, from `from` downwards; returns how many
    /// went and where to go on, `None` at the bottom.
    ///
    /// Downwards, because a removal fills its place from above: nothing unseen is skipped.
    pub(crate) fn expire(
        &mut self,
        hasher: &RandomState,
        now: Moment,
        from: usize,
        budget: usize,
    ) -> (usize, Option<usize>) {
        let top = from.min(self.len());
        let bottom = top.saturating_sub(budget);
        let mut dropped = 0;
        for position in (bottom..top).rev() {
            if self.peers[position].expires <= now {
                self.remove(hasher, position);
                dropped += 1;
            }
        }
        if bottom > 0 {
            return (dropped, Some(bottom));
        }
        self.shrink(hasher);
        (dropped, None)
    }

    /// Hands `emit` the positions of up to `wanted` peers of `part`, each at most once, each
    /// equally likely, in O(wanted): one random peer from each of `wanted` equal stretches.
    ///
    /// The peer at `skip` is never chosen; one that `allow` refuses gives its place to a
    /// neighbour in its stretch.
    pub(crate) fn pick(
        &self,
        part: Part,
        wanted: usize,
        skip: Option<usize>,
        rng: &mut impl Rng,
        allow: impl Fn(&E, usize) -> bool,
        mut emit: impl FnMut(&E, usize),
    ) {
        let range = self.range(part);
        let skip = skip.filter(|position| range.contains(position));
        let eligible = range.len() - usize::from(skip.is_some());
        let places = wanted.min(eligible);
        // In fixed point and rounded up, so that the last stretch ends with the list: one
        // division instead of two a place.
        let length = ((eligible as u64) << 32).div_ceil(places.max(1) as u64);
        let end_of = |place: usize| ((place as u64 * length) >> 32) as usize;
        for place in 0..places {
            let stretch = end_of(place)..end_of(place + 1);
            let mut step = random_below(rng, stretch.len());
            for _ in 0..stretch.len().min(PICK_STEPS) {
                let mut position = range.start + stretch.start + step;
                if skip.is_some_and(|skip| position >= skip) {
                    position += 1;
                }
                let at = &self.at[position];
                if allow(at, position) {
                    emit(at, position);
                    break;
                }
                step = if step + 1 == stretch.len() {
                    0
                } else {
                    step + 1
                };
            }
        }
    }

    /// Whether whoever announces from `at` with `key` may take the place of the peer with the
    /// same id: from the same host, or with the same key, or when no key guards it.
    fn may_move(&self, position: usize, at: E, key: u64) -> bool {
        let held = self.peers[position].key;
        held == 0 || held == key || self.at[position].same_ip(&at)
    }

    fn range(&self, part: Part) -> Range<usize> {
        match part {
            Part::Seeds => 0..self.seeds,
            Part::Leechers => self.seeds..self.peers.len(),
        }
    }

    pub(crate) fn position_at(&self, hasher: &RandomState, at: E, flags: Flags) -> Option<usize> {
        let is = |position: &u32| self.at[*position as usize] == at;
        let found = self.by_at.find(hash_at(hasher, at, flags), is);
        found.map(|position| *position as usize)
    }

    fn renew(&mut self, hasher: &RandomState, position: usize, peer: Peer) {
        let was_seed = position < self.seeds;
        let old = std::mem::replace(&mut self.peers[position], peer);
        self.note(&old);
        match (was_seed, peer.flags.has(Flags::SEED)) {
            (false, true) => {
                self.swap(hasher, position, self.seeds);
                self.seeds += 1;
            }
            (true, false) => {
                self.seeds -= 1;
                self.swap(hasher, position, self.seeds);
            }
            _ => {}
        }
    }

    fn insert(&mut self, hasher: &RandomState, at: E, peer: Peer) {
        let position = self.peers.len();
        if position == self.peers.capacity() {
            // Doubling would leave half of a full tracker's memory empty.
            self.at.reserve_exact((position / 4).max(4));
            self.peers.reserve_exact((position / 4).max(4));
        }
        self.at.push(at);
        self.peers.push(peer);
        let Self {
            at: ats,
            peers,
            by_id,
            by_at,
            ..
        } = self;
        by_id.insert_unique(hash_id(hasher, &peer.id), narrow(position), |p| {
            hash_id(hasher, &peers[*p as usize].id)
        });
        by_at.insert_unique(hash_at(hasher, at, peer.flags), narrow(position), |p| {
            hash_at(hasher, ats[*p as usize], peers[*p as usize].flags)
        });
        if peer.flags.has(Flags::SEED) {
            self.swap(hasher, position, self.seeds);
            self.seeds += 1;
        }
    }

    fn remove(&mut self, hasher: &RandomState, mut position: usize) {
        if position < self.seeds {
            self.seeds -= 1;
            self.swap(hasher, position, self.seeds);
            position = self.seeds;
        }
        self.swap(hasher, position, self.peers.len() - 1);
        let (Some(at), Some(peer)) = (self.at.pop(), self.peers.pop()) else {
            return;
        };
        self.note(&peer);
        let last = narrow(self.peers.len());
        for (table, hash) in [
            (&mut self.by_id, hash_id(hasher, &peer.id)),
            (&mut self.by_at, hash_at(hasher, at, peer.flags)),
        ] {
            if let Ok(entry) = table.find_entry(hash, |position| *position == last) {
                entry.remove();
            }
        }
    }

    fn note(&mut self, discarded: &Peer) {
        if discarded.flags.has(Flags::TWIN) {
            self.parted.push(Parted {
                id: discarded.id,
                seed: discarded.flags.has(Flags::SEED),
            });
        }
    }

    /// Exchanges two places and what the tables say of them.
    fn swap(&mut self, hasher: &RandomState, a: usize, b: usize) {
        if a == b {
            return;
        }
        let hashes = |position: usize| {
            let peer = &self.peers[position];
            let id = hash_id(hasher, &peer.id);
            (id, hash_at(hasher, self.at[position], peer.flags))
        };
        let ((id_a, at_a), (id_b, at_b)) = (hashes(a), hashes(b));
        self.at.swap(a, b);
        self.peers.swap(a, b);
        let (a, b) = (narrow(a), narrow(b));
        for (table, of_a, of_b) in [(&mut self.by_id, id_a, id_b), (&mut self.by_at, at_a, at_b)] {
            // Marked first: with equal hashes the second look-up would find the first's change.
            if let Some(position) = table.find_mut(of_a, |position| *position == a) {
                *position = u32::MAX;
            }
            if let Some(position) = table.find_mut(of_b, |position| *position == b) {
                *position = a;
            }
            if let Some(position) = table.find_mut(of_a, |position| *position == u32::MAX) {
                *position = b;
            }
        }
    }

    /// Evicts the peer of this address (IPv6: /64) that was silent longest when it has its fill.
    ///
    /// Peers of one address that is not exempt share a hash, so counting them walks only them,
    /// and the limit bounds the walk.
    fn make_way(&mut self, hasher: &RandomState, at: E, flags: Flags, per_ip: usize) -> bool {
        if flags.has(Flags::EXEMPT) {
            return false;
        }
        let alike = self.by_at.iter_hash(hash_at(hasher, at, flags));
        let alike = alike.map(|position| *position as usize);
        let mut count = 0;
        let mut silent: Option<usize> = None;
        for position in alike.filter(|position| self.at[*position].same_host(&at)) {
            count += 1;
            let seen = |position: usize| self.peers[position].seen;
            if silent.is_none_or(|silent| seen(position) < seen(silent)) {
                silent = Some(position);
            }
        }
        let Some(silent) = silent.filter(|_| count >= per_ip) else {
            return false;
        };
        self.remove(hasher, silent);
        true
    }

    fn shrink(&mut self, hasher: &RandomState) {
        if self.peers.capacity() <= self.len() * 2 + 8 {
            return;
        }
        let Self {
            at,
            peers,
            by_id,
            by_at,
            ..
        } = self;
        let enough = peers.len() + peers.len() / 4;
        at.shrink_to(enough);
        peers.shrink_to(enough);
        by_id.shrink_to_fit(|p| hash_id(hasher, &peers[*p as usize].id));
        by_at.shrink_to_fit(|p| hash_at(hasher, at[*p as usize], peers[*p as usize].flags));
    }

    #[cfg(test)]
    pub(crate) fn check_invariant(&self, hasher: &RandomState) {
        assert!(self.seeds <= self.len());
        assert_eq!(self.at.len(), self.len());
        assert_eq!(self.by_id.len(), self.len());
        assert_eq!(self.by_at.len(), self.len());
        for (position, (at, peer)) in self.iter().enumerate() {
            assert_eq!(position < self.seeds, peer.flags.has(Flags::SEED));
            assert_eq!(self.position(hasher, &peer.id), Some(position));
            assert_eq!(self.position_at(hasher, *at, peer.flags), Some(position));
        }
    }
}

/// Carries the past of a peer into its renewal; returns whether it completes for the first time.
fn carry(old: &Peer, new: &mut Peer, completed: bool) -> bool {
    let counted = old.flags.has(Flags::COUNTED);
    new.flags = new.flags.with(Flags::COUNTED, counted || completed);
    new.joined = old.joined;
    new.advanced = old.advanced;
    new.rate = old.rate;
    if new.key == 0 {
        new.key = old.key;
    }
    let known = old.left != LEFT_UNKNOWN && new.left != LEFT_UNKNOWN;
    let elapsed = new.seen.since(old.seen).max(Duration::from_secs(1));
    if known && new.left < old.left {
        new.advanced = new.seen;
        let per_second = u128::from(old.left - new.left) * 1000 / elapsed.as_millis().max(1);
        new.rate = u32::try_from(per_second).unwrap_or(u32::MAX);
    } else if elapsed > Duration::from_secs(2) {
        new.rate = 0;
    }
    completed && !counted
}

/// Uniform enough, without the division and the retries of an exact draw: a list is far
/// shorter than 2^32.
pub(crate) fn random_below(rng: &mut impl Rng, bound: usize) -> usize {
    ((u64::from(rng.next_u32()) * bound as u64) >> 32) as usize
}

fn narrow(position: usize) -> u32 {
    u32::try_from(position).expect("a swarm is capped far below 2^32 peers")
}

fn hash_id(hasher: &RandomState, id: &PeerId) -> u64 {
    hasher.hash_one(id)
}

fn hash_at<E: Endpoint>(hasher: &RandomState, at: E, flags: Flags) -> u64 {
    let mut state = hasher.build_hasher();
    if flags.has(Flags::EXEMPT) {
        // All of it: a fleet is one /64, one port, and nobody's limit bounds a walk over it.
        at.hash_ip(&mut state);
        at.hash_port(&mut state);
    } else {
        at.hash_host(&mut state);
    }
    state.finish()
}
