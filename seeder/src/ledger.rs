//! What one tracker has been told about us, as a pure state machine: changes, replies and time
//! in; what to say next and when, out.
//!
//! ```text
//!            ┌────────── boot id changed, registrations lost, too many changes ─────────┐
//!            ▼                                                                          │
//!   start ─► Pass: everything in order of info hash ──► Kept: changes as they come, ────┘
//!                                                             else a renewal in time
//! ```
//!
//! Changes go first and a pass fills the room that is left, so that what was just pushed never
//! waits behind a hundred thousand old blobs. A failure backs off, and then says the same
//! again: requests may be repeated.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use torrents::InfoHash;
use torrents::register::{MAX_BATCH, RegisterReply};

/// Beyond so many changes that could not be told, telling everything is cheaper.
const MAX_CHANGES: usize = 10_000;
/// The first wait after a failure; it doubles up to [`MAX_BACKOFF`].
const BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// A tracker that came back is told everything within this long, not by all origins at once.
const SPREAD: Duration = Duration::from_secs(5);
/// A tracker that lacks some of ours although it was told everything (it may have no room) is
/// told everything again after this long.
const AGAIN: Duration = Duration::from_secs(300);
/// Renewals are never closer than this, whatever lease a tracker grants.
const MIN_RENEWAL: Duration = Duration::from_secs(1);
/// And never further apart: a renewal is also how a tracker that forgot everything is noticed.
const MAX_RENEWAL: Duration = Duration::from_secs(25);

/// A change to tell: where it led is looked up when it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// We seed it now, or it is called otherwise.
    Add(InfoHash),
    /// We no longer do.
    Remove(InfoHash),
}

/// What to say now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Say {
    /// These changes.
    pub(crate) changes: Vec<Change>,
    /// The number of the last of them.
    upto: u64,
    /// And of everything we seed, what follows this, so many entries.
    pub(crate) bulk: Option<Bulk>,
}

/// A stretch of everything, in order of info hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bulk {
    /// After this one; `None` is from the start.
    pub(crate) after: Option<InfoHash>,
    /// At most so many.
    pub(crate) limit: usize,
    /// Which pass it belongs to.
    covers: u64,
}

/// What a say came to when it was put into words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    /// The last info hash of its bulk; `None` when the bulk came to the end.
    pub(crate) reached: Option<InfoHash>,
    /// How many torrents we seeded then.
    pub(crate) seeded: u64,
}

/// One tracker's ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    boot_id: Option<String>,
    changes: VecDeque<(u64, Change)>,
    /// Number of the last change noted, and of the last one told.
    noted: u64,
    told: u64,
    pass: Option<Pass>,
    /// What the tracker held when it was last told something.
    held: u64,
    /// How many of ours it lacked when it had been told everything, and when that was: telling
    /// again at once would hardly help.
    missing: u64,
    passed: Instant,
    failures: u32,
    /// Nothing is said before this, unless there are changes and the tracker answers.
    due: Instant,
    /// Nothing at all is said before this.
    not_before: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Pass {
    after: Option<InfoHash>,
    /// The last change that the pass includes.
    covers: u64,
}

impl Ledger {
    /// Everything is still to be told.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            boot_id: None,
            changes: VecDeque::new(),
            noted: 0,
            told: 0,
            pass: Some(Pass {
                after: None,
                covers: 0,
            }),
            held: 0,
            missing: 0,
            passed: now,
            failures: 0,
            due: now,
            not_before: now,
        }
    }

    /// Notes a change; its number, for [`Self::told`].
    pub(crate) fn note(&mut self, change: Change) -> u64 {
        self.noted += 1;
        self.changes.push_back((self.noted, change));
        if self.changes.len() > MAX_CHANGES {
            self.start_pass();
        }
        self.noted
    }

    /// The number of the last change.
    pub(crate) fn noted(&self) -> u64 {
        self.noted
    }

    /// Every change up to this number has been told.
    pub(crate) fn told(&self) -> u64 {
        self.told
    }

    /// Whether the tracker answered last time, and has all we seed.
    pub(crate) fn settled(&self) -> bool {
        self.answers() && self.pass.is_none()
    }

    /// Whether the tracker answered last time it was asked.
    pub(crate) fn answers(&self) -> bool {
        self.failures == 0
    }

    /// What the tracker holds of us.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// What to say now, if anything. Followed by [`Self::handle_reply`] or
    /// [`Self::handle_failure`]; until then nothing else is said.
    pub(crate) fn poll_say(&self, now: Instant) -> Option<Say> {
        let news = self.pass.is_some() || !self.changes.is_empty();
        if now < self.not_before || (!news && now < self.due) {
            return None;
        }
        let told = self.changes.iter().take(MAX_BATCH);
        let (numbers, changes): (Vec<u64>, Vec<Change>) = told.copied().unzip();
        let upto = numbers.last().copied().unwrap_or_default();
        let limit = MAX_BATCH - changes.len();
        let bulk = self.pass.filter(|_| limit > 0);
        let bulk = bulk.map(|Pass { after, covers }| Bulk {
            after,
            limit,
            covers,
        });
        Some(Say {
            changes,
            upto,
            bulk,
        })
    }

    /// When there will be something to say if nothing happens before.
    pub(crate) fn poll_timeout(&self) -> Instant {
        let news = self.pass.is_some() || !self.changes.is_empty();
        if news {
            self.not_before
        } else {
            self.due.max(self.not_before)
        }
    }

    /// The tracker took what was said. `random` is in `0.0..1.0`.
    pub(crate) fn handle_reply(
        &mut self,
        now: Instant,
        said: &Say,
        told: &Told,
        reply: &RegisterReply,
        random: f64,
    ) {
        let Told { reached, seeded } = *told;
        self.failures = 0;
        let renewal = (reply.lease / 3).clamp(MIN_RENEWAL, MAX_RENEWAL);
        self.due = now + renewal.mul_f64(0.8 + random / 5.0);
        self.not_before = now;
        let heard = |(number, _): &(u64, Change)| *number <= said.upto;
        while self.changes.front().is_some_and(heard) {
            self.changes.pop_front();
        }
        // A pass that began while this was under way has heard nothing yet.
        if let (Some(bulk), Some(pass)) = (&said.bulk, &mut self.pass)
            && bulk.covers == pass.covers
        {
            pass.after = reached;
            if reached.is_none() {
                self.told = self.told.max(pass.covers);
                self.pass = None;
                self.missing = seeded.saturating_sub(reply.held);
                self.passed = now;
            }
        }
        if self.pass.is_none_or(|pass| pass.covers <= self.told) {
            let first = self
                .changes
                .front()
                .map_or(self.noted + 1, |(number, _)| *number);
            self.told = self.told.max(first - 1);
        }
        let rebooted = self
            .boot_id
            .as_ref()
            .is_some_and(|known| *known != reply.boot_id);
        let nothing_said = said.changes.is_empty() && said.bulk.is_none();
        if rebooted {
            self.boot_id = Some(reply.boot_id.clone());
            self.not_before = now + SPREAD.min(reply.lease / 10).mul_f64(random);
            self.start_pass();
        } else if nothing_said && seeded > reply.held {
            let lost = seeded - reply.held > self.missing;
            if lost || now >= self.passed + AGAIN {
                self.start_pass();
            }
        }
        self.boot_id.get_or_insert_with(|| reply.boot_id.clone());
        self.held = reply.held;
    }

    /// The tracker could not be reached, or refused. `random` is in `0.0..1.0`.
    pub(crate) fn handle_failure(&mut self, now: Instant, random: f64) {
        let wait = BACKOFF
            .saturating_mul(1 << self.failures.min(10))
            .min(MAX_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + wait.mul_f64(0.5 + random / 2.0);
    }

    /// Everything again. Removals stay to be told: a pass does not mention what is gone.
    fn start_pass(&mut self) {
        self.pass = Some(Pass {
            after: None,
            covers: self.noted,
        });
        self.changes
            .retain(|(_, change)| matches!(change, Change::Remove(_)));
        // A long list of removals helps nobody: the lease ends what nobody adds again.
        self.changes.truncate(MAX_CHANGES);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn hash(n: u8) -> InfoHash {
        InfoHash([n; 20])
    }

    /// What a tracker does with what it is told, and what we seed.
    #[derive(Default)]
    struct World {
        seeded: BTreeSet<InfoHash>,
        held: BTreeSet<InfoHash>,
        boot: u32,
    }

    impl World {
        fn hear(&mut self, say: &Say) -> (Told, RegisterReply) {
            for change in &say.changes {
                let (Change::Add(hash) | Change::Remove(hash)) = change;
                if self.seeded.contains(hash) {
                    self.held.insert(*hash);
                } else {
                    self.held.remove(hash);
                }
            }
            let mut reached = None;
            if let Some(bulk) = &say.bulk {
                // Short stretches, so that a pass takes several.
                let limit = bulk.limit.min(3);
                let rest = self.seeded.iter().filter(|hash| Some(**hash) > bulk.after);
                let stretch: Vec<_> = rest.take(limit).copied().collect();
                reached = stretch.last().copied().filter(|_| stretch.len() == limit);
                self.held.extend(stretch);
            }
            let lease = Duration::from_secs(60);
            let held = self.held.len() as u64;
            let seeded = self.seeded.len() as u64;
            (
                Told { reached, seeded },
                RegisterReply {
                    boot_id: self.boot.to_string(),
                    lease,
                    held,
                },
            )
        }
    }

    #[derive(Debug, Clone)]
    enum Op {
        Seed(u8),
        Drop(u8),
        Speak,
        Fail,
        Reboot,
        /// The tracker loses some, and keeps its boot id.
        Lose,
        Wait(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0..30u8).prop_map(Op::Seed),
            2 => (0..30u8).prop_map(Op::Drop),
            8 => Just(Op::Speak),
            1 => Just(Op::Fail),
            1 => Just(Op::Reboot),
            1 => Just(Op::Lose),
            3 => (0..40u64).prop_map(Op::Wait),
        ]
    }

    proptest! {
        /// Whatever happens, once things calm down the tracker holds exactly what we seed, and
        /// before that nothing counts as told that was not.
        #[test]
        fn the_tracker_ends_up_with_what_we_seed(
            ops in proptest::collection::vec(op(), 0..120),
            random in 0.0..1.0f64,
        ) {
            let mut now = Instant::now();
            let mut ledger = Ledger::new(now);
            let mut world = World::default();
            let mut last_change = 0;
            for op in ops {
                match op {
                    Op::Seed(n) => {
                        world.seeded.insert(hash(n));
                        last_change = ledger.note(Change::Add(hash(n)));
                    }
                    Op::Drop(n) => {
                        world.seeded.remove(&hash(n));
                        last_change = ledger.note(Change::Remove(hash(n)));
                    }
                    Op::Speak => {
                        if let Some(say) = ledger.poll_say(now) {
                            let (told, reply) = world.hear(&say);
                            ledger.handle_reply(now, &say, &told, &reply, random);
                        }
                    }
                    Op::Fail => {
                        if ledger.poll_say(now).is_some() {
                            ledger.handle_failure(now, random);
                            prop_assert!(ledger.poll_say(now).is_none(), "it hammers");
                        }
                    }
                    Op::Reboot => {
                        world.boot += 1;
                        world.held.clear();
                    }
                    Op::Lose => {
                        world.held.pop_first();
                    }
                    Op::Wait(seconds) => now += Duration::from_secs(seconds),
                }
            }
            for _ in 0..200 {
                now = now.max(ledger.poll_timeout());
                let say = ledger.poll_say(now).expect("the time has come");
                let (told, reply) = world.hear(&say);
                ledger.handle_reply(now, &say, &told, &reply, random);
            }
            prop_assert_eq!(&world.held, &world.seeded);
            prop_assert!(ledger.settled());
            prop_assert_eq!(ledger.told(), last_change);
        }
    }

    #[test]
    fn a_change_is_told_at_once_and_renewals_are_empty() {
        let mut now = Instant::now();
        let (mut ledger, mut world) = (Ledger::new(now), World::default());
        let speak = |ledger: &mut Ledger, world: &mut World, now| {
            let say = ledger.poll_say(now)?;
            let (told, reply) = world.hear(&say);
            ledger.handle_reply(now, &say, &told, &reply, 0.0);
            Some(say)
        };
        assert!(speak(&mut ledger, &mut world, now).is_some());
        assert!(ledger.settled());
        assert_eq!(speak(&mut ledger, &mut world, now), None);
        world.seeded.insert(hash(1));
        let number = ledger.note(Change::Add(hash(1)));
        assert!(ledger.told() < number);
        let say = speak(&mut ledger, &mut world, now).unwrap();
        assert_eq!((say.changes, say.bulk), (vec![Change::Add(hash(1))], None));
        assert_eq!(ledger.told(), number);
        now += Duration::from_secs(20);
        let renewal = speak(&mut ledger, &mut world, now).unwrap();
        assert_eq!((renewal.changes.len(), renewal.bulk), (0, None));
    }

    #[test]
    fn a_tracker_that_lost_some_is_told_everything_once() {
        let mut now = Instant::now();
        let (mut ledger, mut world) = (Ledger::new(now), World::default());
        world.seeded = (0..5).map(hash).collect();
        let mut says = |world: &mut World, refused: bool| {
            let mut bulks = 0;
            while let Some(say) = ledger.poll_say(now) {
                let (told, mut reply) = world.hear(&say);
                reply.held -= u64::from(refused);
                ledger.handle_reply(now, &say, &told, &reply, 0.0);
                bulks += usize::from(say.bulk.is_some());
            }
            now += MAX_RENEWAL;
            bulks
        };
        assert_eq!(says(&mut world, false), 2);
        assert_eq!(says(&mut world, false), 0);
        world.held.pop_first();
        assert_eq!(says(&mut world, false), 2);
        assert_eq!(world.held, world.seeded);
        // One that takes fewer than we have, for want of room, is not told without end.
        assert_eq!(says(&mut world, true), 2);
        assert_eq!(says(&mut world, true), 0);
        world.held.pop_first();
        assert_eq!(says(&mut world, true), 2);
    }
}
