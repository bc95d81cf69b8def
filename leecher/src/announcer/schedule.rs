//! When to ask which tracker what: pure, time and randomness are arguments.
//!
//! ```text
//!              ask: started             ok
//!   unknown ──────────────▶ (in flight) ───▶ known ──▶ asks again at the interval, sooner
//!      ▲                        │              │        when peers are needed, never within
//!      │                        ▼ failed       │        the minimum interval
//!      │   backed off: 1 s .. 20 s, the next   │
//!      └── tracker of the tier at once ◀───────┤ failed (a refusal also forgets us)
//!      └── after a moment ◀────────────────────┘ new boot id: it forgot everybody
//! ```
//!
//! A tier is live while one of its trackers is not backed off; within a tier the one that
//! worked last is first (BEP 12). Announced to are the first tiers that live: two where each
//! tier has a single tracker, which is how our own torrents are made, and one otherwise. A tier
//! that is down is probed as its trackers' back-off ends.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use torrents::announce::{AnnounceEvent, AnnounceReply};

/// Announces on need are at least this far apart.
const NEED_GAP: Duration = Duration::from_secs(2);
/// And up to this, growing, where a tracker states no minimum.
const MAX_NEED_GAP: Duration = Duration::from_secs(30);
/// A stated interval below this is not believed.
const MIN_INTERVAL: Duration = Duration::from_secs(2);
/// A stated interval above this is not believed either.
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Back-off after failures: doubling from the first to the second.
const BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(20);
/// A tracker that tells a boot id, and how often it may be asked, is asked at least this often
/// about a torrent that is live: to notice when it forgets everybody.
const PULSE: Duration = Duration::from_secs(25);
/// After "never come back".
const NEVER: Duration = Duration::from_secs(24 * 3600);
/// A tracker is believed to have forgotten everybody at most this often: several behind one
/// address have a boot id each, and must not make us announce without end.
pub(super) const COOL_DOWN: Duration = Duration::from_secs(120);
/// How long those that a tracker forgot take to come back, together.
pub(super) const COMEBACK: Duration = Duration::from_secs(10);

/// Number of a tracker within one schedule.
pub(super) type TrackerIndex = usize;

/// One announce to be made now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) tracker: TrackerIndex,
    pub(super) url: Arc<str>,
    pub(super) event: AnnounceEvent,
    pub(super) tracker_id: Option<String>,
}

/// How an announce failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// No (usable) answer. It may be tried again after the back-off, or at that time when
    /// somebody knows better.
    Unreachable { again: Option<Instant> },
    /// It answered and said no; BEP 31's minutes, `Some(None)` is "never".
    Refused { retry_in: Option<Option<u32>> },
}

/// The schedule of one torrent.
#[derive(Debug)]
pub(super) struct Schedule {
    trackers: Vec<Tracker>,
    /// In order of preference; those within a tier by what worked last.
    tiers: Vec<Vec<TrackerIndex>>,
    /// Tiers announced to at the same time.
    width: usize,
    incomplete_at_start: bool,
    /// See [`PULSE`].
    pulsing: bool,
    rng: Xoshiro256PlusPlus,
}

#[derive(Debug)]
struct Tracker {
    url: Arc<str>,
    in_flight: Option<AnnounceEvent>,
    /// It has us in its table, as far as we know.
    known: bool,
    /// It has yet to hear that we are complete.
    owes_completed: bool,
    /// More peers are wanted of it.
    needed: bool,
    tracker_id: Option<String>,
    came_back: Option<Instant>,
    /// The next regular announce, or the end of the back-off.
    due: Instant,
    /// The last answered announce.
    answered: Option<Instant>,
    min_interval: Option<Duration>,
    /// Distance to the next announce on need where no minimum is stated.
    gap: Duration,
    /// Failures in a row.
    failures: u32,
}

impl Schedule {
    /// Everything is due at once. Tiers of several are shuffled, as BEP 12 wants it.
    pub(super) fn new(tiers: &[Vec<Arc<str>>], incomplete: bool, now: Instant, seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut trackers: Vec<Tracker> = Vec::new();
        let mut order = Vec::new();
        for tier in tiers {
            let mut indices = Vec::new();
            for url in tier {
                // Listed twice is asked once.
                if trackers.iter().all(|tracker| tracker.url != *url) {
                    indices.push(trackers.len());
                    trackers.push(Tracker::new(url.clone(), now));
                }
            }
            indices.shuffle(&mut rng);
            if !indices.is_empty() {
                order.push(indices);
            }
        }
        let singles = order.iter().all(|tier| tier.len() == 1);
        Self {
            trackers,
            tiers: order,
            width: if singles { 2 } else { 1 },
            incomplete_at_start: incomplete,
            pulsing: false,
            rng,
        }
    }

    /// Nobody else notices for this torrent when a tracker forgets everybody.
    pub(super) fn pulsing(mut self) -> Self {
        self.pulsing = true;
        self
    }

    /// More peers are wanted: asked for as soon as each tracker allows.
    pub(super) fn handle_need(&mut self) {
        for tracker in &mut self.trackers {
            // What is on its way may bring them.
            tracker.needed |= tracker.in_flight.is_none();
        }
    }

    /// More may be known than what is on its way.
    pub(super) fn handle_again(&mut self) {
        for tracker in &mut self.trackers {
            tracker.needed = true;
        }
    }

    /// The download is complete: those who know us as incomplete hear it at once.
    pub(super) fn handle_completed(&mut self) {
        if !std::mem::take(&mut self.incomplete_at_start) {
            return;
        }
        for tracker in &mut self.trackers {
            tracker.owes_completed |= tracker.known || tracker.in_flight.is_some();
            tracker.needed = false;
        }
    }

    /// An ask was answered. True when the tracker has another boot id than before.
    pub(super) fn handle_reply(
        &mut self,
        now: Instant,
        index: TrackerIndex,
        reply: &AnnounceReply,
    ) -> bool {
        let tracker = &mut self.trackers[index];
        let event = tracker.in_flight.take().unwrap_or_default();
        tracker.known = true;
        tracker.failures = 0;
        tracker.answered = Some(now);
        tracker.owes_completed &= event != AnnounceEvent::Completed;
        let interval = seconds(reply.interval).clamp(MIN_INTERVAL, MAX_INTERVAL);
        tracker.min_interval = reply.min_interval.map(|min| seconds(min).min(MAX_INTERVAL));
        let pulse = self.pulsing && reply.tracker_id.is_some() && reply.min_interval.is_some();
        let interval = if pulse { interval.min(PULSE) } else { interval };
        let interval = interval.max(tracker.min_interval.unwrap_or_default());
        // Later, never sooner: those who start together shall not stay together.
        let late = self.rng.random_range(0.0..0.05);
        tracker.due = now + interval + interval.mul_f64(late).min(Duration::from_secs(30));
        let rebooted = reply.tracker_id.is_some()
            && tracker.tracker_id.is_some()
            && tracker.tracker_id != reply.tracker_id;
        if reply.tracker_id.is_some() {
            tracker.tracker_id.clone_from(&reply.tracker_id);
        }
        if rebooted && event != AnnounceEvent::Started {
            self.come_back(now, index, COMEBACK);
        }
        self.prefer(index);
        rebooted
    }

    /// An ask failed. The next tracker of the tier, or else the next tier, is due at once.
    pub(super) fn handle_failure(&mut self, now: Instant, index: TrackerIndex, failure: Failure) {
        let jitter = self.rng.random_range(0.75..1.25);
        let tracker = &mut self.trackers[index];
        tracker.in_flight = None;
        let doubled = 1u32 << tracker.failures.min(6);
        tracker.failures = tracker.failures.saturating_add(1);
        let backoff = (BACKOFF * doubled)
            .min(MAX_BACKOFF)
            .mul_f64(jitter)
            .min(MAX_BACKOFF);
        let wait = match failure {
            Failure::Unreachable { again } => {
                let at = again.unwrap_or(now + backoff);
                at.saturating_duration_since(now)
            }
            Failure::Refused { retry_in } => {
                tracker.known = false;
                tracker.owes_completed = false;
                match retry_in {
                    None => backoff,
                    Some(None) => NEVER,
                    Some(Some(minutes)) => (seconds(60).saturating_mul(minutes)).min(NEVER),
                }
            }
        };
        tracker.due = now + wait;
    }

    /// Somebody else has seen that this tracker forgot everybody; comes back within `spread`.
    pub(super) fn handle_reboot(
        &mut self,
        now: Instant,
        url: &str,
        boot_id: &str,
        spread: Duration,
    ) {
        let found = self
            .trackers
            .iter()
            .position(|tracker| &*tracker.url == url);
        let Some(index) = found else { return };
        let tracker = &mut self.trackers[index];
        let news = tracker
            .tracker_id
            .as_deref()
            .is_some_and(|id| id != boot_id);
        if news && tracker.in_flight.is_none() {
            tracker.tracker_id = Some(boot_id.into());
            self.come_back(now, index, spread);
        }
    }

    /// Asks this tracker ahead of time, if it has us: to notice when it forgets everybody.
    /// False when it has not, or is being asked.
    pub(super) fn handle_pulse(&mut self, url: &str) -> bool {
        let mut trackers = self.trackers.iter_mut();
        let found = trackers.find(|tracker| &*tracker.url == url);
        let fit = found.filter(|it| it.known && it.failures == 0 && it.in_flight.is_none());
        fit.map(|tracker| tracker.needed = true).is_some()
    }

    /// Everybody that may be asked.
    pub(super) fn urls(&self) -> HashSet<Arc<str>> {
        self.trackers
            .iter()
            .map(|tracker| tracker.url.clone())
            .collect()
    }

    /// Whether nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.trackers
            .iter()
            .all(|tracker| tracker.in_flight.is_none())
    }

    /// The next ask that is due, if any; it is in flight from now on.
    pub(super) fn poll_ask(&mut self, now: Instant) -> Option<Ask> {
        let index = self
            .candidates()
            .find(|&index| self.trackers[index].due_at() <= now)?;
        let tracker = &mut self.trackers[index];
        let event = match () {
            () if !tracker.known => AnnounceEvent::Started,
            () if tracker.owes_completed => AnnounceEvent::Completed,
            () => AnnounceEvent::None,
        };
        tracker.gap = match std::mem::take(&mut tracker.needed) && now < tracker.due {
            true => (tracker.gap * 2).min(MAX_NEED_GAP),
            false => NEED_GAP,
        };
        tracker.in_flight = Some(event);
        Some(tracker.ask(index, event))
    }

    /// When to poll again if nothing else happens.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.candidates()
            .map(|index| self.trackers[index].due_at())
            .min()
    }

    /// What to say at the end: to every tracker that has us, or may have.
    pub(super) fn farewells(&self) -> Vec<Ask> {
        let known = self.trackers.iter().enumerate();
        known
            .filter(|(_, tracker)| tracker.known || tracker.in_flight.is_some())
            .map(|(index, tracker)| tracker.ask(index, AnnounceEvent::Stopped))
            .collect()
    }

    /// Those that may be asked now or later: of each tier that counts, the one whose turn it
    /// is, unless one is in flight.
    fn candidates(&self) -> impl Iterator<Item = TrackerIndex> {
        let mut live = 0;
        self.tiers
            .iter()
            .take_while(move |tier| {
                let before = live;
                live += usize::from(tier.iter().any(|&index| self.trackers[index].failures == 0));
                before < self.width
            })
            .filter(|tier| {
                tier.iter()
                    .all(|&index| self.trackers[index].in_flight.is_none())
            })
            .filter_map(|tier| {
                let sound = |index: &&TrackerIndex| self.trackers[**index].failures == 0;
                let soonest = || tier.iter().min_by_key(|&&index| self.trackers[index].due);
                tier.iter().find(sound).or_else(soonest).copied()
            })
    }

    /// Moves a tracker to the front of its tier.
    fn prefer(&mut self, index: TrackerIndex) {
        for tier in &mut self.tiers {
            if let Some(at) = tier.iter().position(|&other| other == index) {
                tier[..=at].rotate_right(1);
            }
        }
    }

    fn come_back(&mut self, now: Instant, index: TrackerIndex, spread: Duration) {
        let part = self.rng.random_range(0.0..1.0);
        let tracker = &mut self.trackers[index];
        if tracker.came_back.is_some_and(|last| now < last + COOL_DOWN) {
            return;
        }
        tracker.came_back = Some(now);
        tracker.known = false;
        tracker.owes_completed = false;
        let wait = spread
            .mul_f64(part)
            .max(tracker.min_interval.unwrap_or_default());
        tracker.due = tracker.due.min(now + wait);
    }
}

impl Tracker {
    fn new(url: Arc<str>, now: Instant) -> Self {
        Self {
            url,
            in_flight: None,
            known: false,
            owes_completed: false,
            needed: false,
            tracker_id: None,
            came_back: None,
            due: now,
            answered: None,
            min_interval: None,
            gap: NEED_GAP,
            failures: 0,
        }
    }

    fn due_at(&self) -> Instant {
        if self.failures > 0 {
            return self.due;
        }
        match self.answered {
            Some(answered) if self.owes_completed => answered,
            Some(answered) if self.needed => {
                let gap = self.min_interval.unwrap_or(self.gap).max(NEED_GAP);
                self.due.min(answered + gap)
            }
            _ => self.due,
        }
    }

    fn ask(&self, tracker: TrackerIndex, event: AnnounceEvent) -> Ask {
        Ask {
            tracker,
            url: self.url.clone(),
            event,
            tracker_id: self.tracker_id.clone(),
        }
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

#[cfg(test)]
mod tests;
