//! Addresses to dial, and when.
//!
//! ```text
//!            dial              connected
//!  Waiting ───────▶ Dialling ───────────▶ Connected
//!     ▲                │ failed              │ gone
//!     └── back-off ────┴─────────────────────┘        forever ▶ Never
//! ```
//!
//! Invariants: at most [`MAX_KNOWN`] addresses; `due` holds exactly the waiting ones.
//! Back-off is in seconds: hosts of a data centre come back soon or not at all. Those that were
//! never in vain go first, however many others are due: anybody can name addresses of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::Now;

const MAX_KNOWN: usize = 3_000;
const FIRST_BACKOFF: Now = Now::from_secs(1);
const MOST_BACKOFF: Now = Now::from_secs(60);
/// A driver that never answers a dial must not hold its place for ever.
const DIAL_LIMIT: Now = Now::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting { until: Now, order: u32, tried: bool },
    Dialling { since: Now },
    Connected,
    Never,
}

#[derive(Debug)]
struct Candidate {
    state: State,
    failures: u32,
}

/// Addresses by when they are due, those due at once in random order.
type Due = BTreeSet<(Now, u32, SocketAddr)>;

/// The addresses of one swarm.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    known: BTreeMap<SocketAddr, Candidate>,
    /// Waiting: never in vain so far; and after a dial that failed or a connection that ended.
    due: [Due; 2],
    dialling: usize,
}

impl Candidates {
    /// Someone named this address, to be dialled from then on.
    pub(super) fn add(&mut self, addr: SocketAddr, since: Now, rng: &mut Xoshiro256PlusPlus) {
        if addr.port() == 0 || addr.ip().is_unspecified() || self.known.contains_key(&addr) {
            return;
        }
        if self.known.len() >= MAX_KNOWN && !self.forget_worst() {
            return;
        }
        let state = State::Never;
        self.known.insert(addr, Candidate { state, failures: 0 });
        self.wait(addr, since, rng);
    }

    /// The next address to dial now; it counts as dialling until it is connected or failed.
    pub(super) fn dial(&mut self, now: Now) -> Option<SocketAddr> {
        let first = |due: &Due| due.first().copied().filter(|&(until, ..)| until <= now);
        let (_, _, addr) = self.due.iter().find_map(first)?;
        self.enter(addr, State::Dialling { since: now });
        Some(addr)
    }

    /// When the next address is due.
    pub(super) fn next_due(&self) -> Option<Now> {
        let first = |due: &Due| due.first().map(|&(until, ..)| until);
        self.due.iter().filter_map(first).min()
    }

    /// Dials under way.
    pub(super) fn dialling(&self) -> usize {
        self.dialling
    }

    /// How many wait for their turn, due or not.
    pub(super) fn waiting(&self) -> usize {
        self.due.iter().map(BTreeSet::len).sum()
    }

    /// A peer that listens there is connected, whoever dialled.
    pub(super) fn connected(&mut self, addr: SocketAddr) {
        if !self.known.contains_key(&addr) {
            if self.known.len() >= MAX_KNOWN && !self.forget_worst() {
                return;
            }
            let state = State::Never;
            self.known.insert(addr, Candidate { state, failures: 0 });
        }
        self.enter(addr, State::Connected);
    }

    /// A connection ended: `well` if it was of use.
    pub(super) fn gone(
        &mut self,
        addr: SocketAddr,
        well: bool,
        now: Now,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        if let Some(candidate) = self.known.get_mut(&addr) {
            if well {
                candidate.failures = 0;
            }
            self.back_off(addr, now, rng);
        }
    }

    /// The address is of no use for now.
    pub(super) fn forget(&mut self, addr: SocketAddr) {
        self.enter(addr, State::Never);
        self.known.remove(&addr);
    }

    /// We need nobody any more: those who need us will come.
    pub(super) fn forget_waiting(&mut self) {
        for due in &mut self.due {
            for (_, _, addr) in std::mem::take(due) {
                self.known.remove(&addr);
            }
        }
    }

    /// A dial failed.
    pub(super) fn failed(&mut self, addr: SocketAddr, now: Now, rng: &mut Xoshiro256PlusPlus) {
        if self
            .known
            .get(&addr)
            .is_some_and(|candidate| matches!(candidate.state, State::Dialling { .. }))
        {
            self.back_off(addr, now, rng);
        }
    }

    /// A dial failed, and it is not worth another.
    pub(super) fn give_up(&mut self, addr: SocketAddr) {
        let known = self.known.get(&addr);
        if known.is_some_and(|known| matches!(known.state, State::Dialling { .. })) {
            self.forget(addr);
        }
    }

    /// Not to be dialled before.
    pub(super) fn rest(&mut self, addr: SocketAddr, until: Now, rng: &mut Xoshiro256PlusPlus) {
        self.connected(addr);
        self.wait(addr, until, rng);
    }

    /// Never to be dialled again.
    pub(super) fn never(&mut self, addr: SocketAddr) {
        self.connected(addr);
        self.enter(addr, State::Never);
    }

    /// Dials that were never answered count as failed. They are `again` worth another, or not.
    pub(super) fn expire(&mut self, again: bool, now: Now, rng: &mut Xoshiro256PlusPlus) {
        if self.dialling == 0 {
            return;
        }
        let overdue = |candidate: &Candidate| match candidate.state {
            State::Dialling { since } => now.saturating_sub(since) > DIAL_LIMIT,
            _ => false,
        };
        let lost: Vec<SocketAddr> = self
            .known
            .iter()
            .filter(|(_, candidate)| overdue(candidate))
            .map(|(&addr, _)| addr)
            .collect();
        for addr in lost {
            match again {
                true => self.back_off(addr, now, rng),
                false => self.forget(addr),
            }
        }
    }

    fn back_off(&mut self, addr: SocketAddr, now: Now, rng: &mut Xoshiro256PlusPlus) {
        let Some(candidate) = self.known.get_mut(&addr) else {
            return;
        };
        if candidate.state == State::Never {
            return;
        }
        let pause = FIRST_BACKOFF * (1 << candidate.failures.min(6));
        candidate.failures = candidate.failures.saturating_add(1);
        self.wait(addr, now + pause.min(MOST_BACKOFF), rng);
    }

    fn wait(&mut self, addr: SocketAddr, until: Now, rng: &mut Xoshiro256PlusPlus) {
        let order = rng.random();
        let Some(candidate) = self.known.get(&addr) else {
            return;
        };
        let tried = candidate.failures > 0;
        let state = State::Waiting {
            until,
            order,
            tried,
        };
        self.enter(addr, state);
    }

    fn enter(&mut self, addr: SocketAddr, next: State) {
        let Some(candidate) = self.known.get_mut(&addr) else {
            return;
        };
        match candidate.state {
            State::Waiting {
                until,
                order,
                tried,
            } => {
                self.due[usize::from(tried)].remove(&(until, order, addr));
            }
            State::Dialling { .. } => self.dialling -= 1,
            State::Connected | State::Never => {}
        }
        candidate.state = next;
        match next {
            State::Waiting {
                until,
                order,
                tried,
            } => {
                self.due[usize::from(tried)].insert((until, order, addr));
            }
            State::Dialling { .. } => self.dialling += 1,
            State::Connected | State::Never => {}
        }
    }

    /// Makes place by dropping the address with the longest wait of those that were in vain.
    fn forget_worst(&mut self) -> bool {
        let Some((_, _, addr)) = self.due[usize::from(true)].pop_last() else {
            return false;
        };
        self.known.remove(&addr);
        true
    }

    /// Panics when an invariant does not hold.
    pub(super) fn check_invariants(&self) {
        assert!(self.known.len() <= MAX_KNOWN);
        let of = |want: fn(&State) -> bool| self.known.values().filter(|c| want(&c.state)).count();
        assert_eq!(
            self.waiting(),
            of(|state| matches!(state, State::Waiting { .. }))
        );
        assert_eq!(
            self.dialling,
            of(|state| matches!(state, State::Dialling { .. }))
        );
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn addr(n: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], n))
    }

    #[test]
    fn failures_back_off_in_seconds_and_success_forgives() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut all = Candidates::default();
        all.add(addr(1), Now::ZERO, &mut rng);
        let mut now = Now::ZERO;
        let mut waits = Vec::new();
        for _ in 0..9 {
            assert_eq!(all.dial(now), Some(addr(1)));
            assert_eq!(all.dial(now), None);
            all.failed(addr(1), now, &mut rng);
            let next = all.next_due().unwrap();
            waits.push((next - now).as_secs());
            now = next;
            all.check_invariants();
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        all.dial(now);
        all.connected(addr(1));
        all.gone(addr(1), true, now, &mut rng);
        assert_eq!(all.next_due(), Some(now + FIRST_BACKOFF));
    }

    #[test]
    fn the_list_is_bounded_and_prefers_fresh_addresses_to_failed_ones() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut all = Candidates::default();
        for n in 1..=3_000 {
            all.add(addr(n), Now::ZERO, &mut rng);
        }
        all.add(addr(3_001), Now::ZERO, &mut rng);
        assert_eq!(all.waiting(), 3_000);
        let failed = all.dial(Now::ZERO).unwrap();
        all.failed(failed, Now::ZERO, &mut rng);
        all.add(addr(3_001), Now::ZERO, &mut rng);
        assert_eq!(all.waiting(), 3_000);
        assert!(!all.known.contains_key(&failed));
        all.add(addr(0), Now::ZERO, &mut rng);
        all.check_invariants();
    }

    #[test]
    fn addresses_in_vain_do_not_hide_a_fresh_one() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut all = Candidates::default();
        for n in 1..=2_000 {
            // Somebody came, said that it listens there, and went.
            all.connected(addr(n));
            all.gone(addr(n), true, Now::ZERO, &mut rng);
        }
        let later = MOST_BACKOFF * 2;
        all.add(addr(3_000), later, &mut rng);
        assert_eq!(all.next_due(), Some(FIRST_BACKOFF));
        assert_eq!(all.dial(later), Some(addr(3_000)));
        assert!(all.dial(later).is_some());
        all.check_invariants();
    }

    #[test]
    fn a_dial_without_an_answer_does_not_hold_its_place_for_ever() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut all = Candidates::default();
        all.add(addr(1), Now::ZERO, &mut rng);
        all.dial(Now::ZERO);
        all.expire(true, DIAL_LIMIT, &mut rng);
        assert_eq!(all.dialling(), 1);
        all.expire(true, DIAL_LIMIT * 2, &mut rng);
        assert_eq!((all.dialling(), all.waiting()), (0, 1));
        all.dial(DIAL_LIMIT * 3);
        all.expire(false, DIAL_LIMIT * 5, &mut rng);
        assert_eq!((all.dialling(), all.waiting()), (0, 0));
    }
}
