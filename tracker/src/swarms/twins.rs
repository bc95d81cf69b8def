//! Peers that are in a swarm twice: over IPv4 and over IPv6, with one id and one key. Pure.
//!
//! A dual-stack client announces over both families, so each list holds it; in the numbers it is
//! one peer. Kept as peers come and go, since announces and scrapes read the numbers: `TWIN` marks
//! both records of a pair, whatever discards a marked record leaves a note in its list, and
//! `settle` takes the mark off the other. A swarm with one family never looks anything up.
//!
//! Invariants (`check_invariant`): a record is marked exactly when the other list holds its id
//! with its key; `pairs` counts the pairs, `seeds` those of which both records are seeds.
//!
//! A pair of which one record is complete is a seed that has not said so in the other family yet.

use std::hash::RandomState;

use torrents::PeerId;

use crate::endpoint::Endpoint;
use crate::peers::{Flags, Parted, PeerList};

/// Notes a list has room for at rest; more are of an expiry.
const KEEP: usize = 16;

/// How many there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Twins {
    pub(super) pairs: u32,
    pub(super) seeds: u32,
}

impl Twins {
    /// Joins the records of `id` if both lists hold it. One that completed, completed in both.
    pub(super) fn join<A: Endpoint, B: Endpoint>(
        &mut self,
        hasher: &RandomState,
        id: &PeerId,
        one: Option<&mut PeerList<A>>,
        other: Option<&mut PeerList<B>>,
    ) {
        let (Some(one), Some(other)) = (one, other) else {
            return;
        };
        let Some(there) = other.position(hasher, id) else {
            return;
        };
        let Some(here) = one.position(hasher, id) else {
            return;
        };
        let (a, b) = (*one.get(here).1, *other.get(there).1);
        if a.key != b.key || a.flags.has(Flags::TWIN) {
            return;
        }
        let counted = a.flags.has(Flags::COUNTED) || b.flags.has(Flags::COUNTED);
        for (flag, on) in [(Flags::TWIN, true), (Flags::COUNTED, counted)] {
            one.mark(here, flag, on);
            other.mark(there, flag, on);
        }
        self.pairs += 1;
        self.seeds += u32::from(a.flags.has(Flags::SEED) && b.flags.has(Flags::SEED));
    }

    /// Takes the marks off those whose other record is gone from a list.
    pub(super) fn part<E: Endpoint>(
        &mut self,
        hasher: &RandomState,
        parted: &mut Vec<Parted>,
        other: Option<&mut PeerList<E>>,
    ) {
        let Some(other) = other else {
            debug_assert!(parted.is_empty(), "a pair has two lists");
            return parted.clear();
        };
        for Parted { id, seed } in parted.drain(..) {
            let Some(left) = other.position(hasher, &id) else {
                continue;
            };
            let flags = other.get(left).1.flags;
            if flags.has(Flags::TWIN) {
                other.mark(left, Flags::TWIN, false);
                self.pairs -= 1;
                self.seeds -= u32::from(seed && flags.has(Flags::SEED));
            }
        }
        if parted.capacity() > KEEP {
            *parted = Vec::new();
        }
    }
}
