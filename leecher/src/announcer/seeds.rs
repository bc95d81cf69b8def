//! Announces thousands of complete torrents from one task: those that are seeded on demand and
//! have nobody else to speak for them.
//!
//! Each torrent has its own schedule; what they share is kept once:
//!
//! - **pace**: so many announces a second at most, and so many at a time, so that a restart with
//!   a full cache is no flood;
//! - **health**: a tracker that does not answer is probed by one torrent at a time while the
//!   others go on to the next tracker at once, instead of each finding out for itself;
//! - **boot ids**: whoever sees that a tracker forgot everybody brings all of them back, spread
//!   over a while; and each tracker hears from somebody every half minute, so that it is seen
//!   soon: one announce for all torrents of this host.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt, iter};
use rand::RngExt;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use torrents::announce::AnnounceReply;
use torrents::{InfoHash, PeerId};

use super::exchange::{TIMEOUT, announce};
use super::schedule::{Ask, COMEBACK, COOL_DOWN, Failure, Schedule};
use super::{
    Caller, FAREWELL, LAST_REPLIES, Totals, TrackerError, Trouble, failure, shared_tiers,
    sleep_until,
};

/// Announces under way at a time.
const AT_ONCE: usize = 16;
/// And at the end, when there is little time.
const AT_ONCE_LEAVING: usize = 64;
/// Announces a second, after a burst.
const PER_SECOND: u32 = 50;
const BURST: u32 = 32;
/// A tracker that was silent for so long is asked at the next look, and how far looks are apart,
/// in milliseconds: hosts that started together shall not stay together.
const PULSE: Duration = Duration::from_secs(20);
const LOOK: std::ops::Range<u64> = 5_000..10_000;
/// Back-off of a tracker that does not answer.
const MIN_DOWN: Duration = Duration::from_secs(1);
const MAX_DOWN: Duration = Duration::from_secs(15);

/// Who seeds, and where.
#[derive(Debug, Clone, Copy)]
pub struct SeedIdentity {
    /// Ours.
    pub peer_id: PeerId,
    /// What peers shall dial.
    pub addr: SocketAddr,
    /// Send `ip=`.
    pub advertise: bool,
}

/// Announces complete torrents; dropping it stops it without a word.
#[derive(Debug)]
pub struct SeedAnnouncer {
    shared: Arc<Shared>,
    task: AbortOnDropHandle<()>,
}

type Tiers = Vec<Vec<Arc<str>>>;
type Changes = HashMap<InfoHash, Option<Tiers>>;

#[derive(Debug, Default)]
struct Shared {
    /// What changed since the task looked: trackers of a new torrent, or that it goes. At most
    /// one change per torrent waits.
    changes: Mutex<Changes>,
    stop: AtomicBool,
    wake: Notify,
    trouble: Mutex<Trouble>,
}

impl SeedAnnouncer {
    /// Nothing to announce yet.
    pub fn start(client: reqwest::Client, identity: SeedIdentity) -> Self {
        let shared = Arc::new(Shared::default());
        let task = Task {
            client,
            identity,
            shared: shared.clone(),
            torrents: HashMap::new(),
            alarms: BTreeSet::new(),
            trackers: HashMap::new(),
            farewells: VecDeque::new(),
            generations: 0,
            pace: Pace::full(Instant::now()),
            pulse: Instant::now() + PULSE,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(task.run()));
        Self { shared, task }
    }

    /// Announces a torrent from now on; again with other trackers replaces those.
    pub fn add(&self, info_hash: InfoHash, trackers: &[Vec<String>]) {
        self.change(info_hash, Some(shared_tiers(trackers)));
    }

    /// Stops announcing it: its trackers hear `stopped`.
    pub fn remove(&self, info_hash: InfoHash) {
        self.change(info_hash, None);
    }

    /// The last failure, for people; `None` once every tracker that is asked answers.
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble().last()
    }

    /// Says `stopped` for as many as a bounded time (about 2 s) allows, and ends.
    pub async fn shutdown(self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake.notify_one();
        // A task that panicked has nothing more to say.
        drop(self.task.await);
    }

    fn change(&self, info_hash: InfoHash, change: Option<Tiers>) {
        self.shared.changes().insert(info_hash, change);
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One torrent.
struct Entry {
    schedule: Schedule,
    /// Tells its answers from those of an earlier entry of the same torrent.
    generation: u64,
    /// Its place among the alarms.
    alarm: Option<Instant>,
    /// It goes as soon as nothing of it is under way: `stopped` must not overtake `started`.
    leaving: bool,
}

/// What is known of a tracker whatever the torrent.
#[derive(Debug)]
struct Tracker {
    boot_id: Option<String>,
    rebooted: Option<Instant>,
    heard: Instant,
    /// Failures in a row, and until when it is left alone.
    failures: u32,
    down_until: Instant,
    /// Somebody is finding out whether it is back.
    probed: bool,
}

/// Which entry of which torrent asks what.
struct Question {
    info_hash: InfoHash,
    /// `None` is a farewell: nobody waits for its answer.
    generation: Option<u64>,
    ask: Ask,
}

type Answer = (Question, Result<AnnounceReply, TrackerError>);

struct Task {
    client: reqwest::Client,
    identity: SeedIdentity,
    shared: Arc<Shared>,
    torrents: HashMap<InfoHash, Entry>,
    alarms: BTreeSet<(Instant, InfoHash)>,
    trackers: HashMap<Arc<str>, Tracker>,
    farewells: VecDeque<Question>,
    generations: u64,
    pace: Pace,
    pulse: Instant,
}

impl Task {
    async fn run(mut self) {
        let mut answers: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
        while !self.shared.stop.load(Ordering::Acquire) {
            self.apply_changes();
            let now = Instant::now();
            self.beat(now);
            while answers.len() < AT_ONCE
                && let Some(question) = self.next(now)
            {
                answers.push(Box::pin(self.ask(question, TIMEOUT)));
            }
            // With no room, only an answer makes some; with no pace left, time does.
            let due = (answers.len() < AT_ONCE).then(|| self.due()).flatten();
            let alarm = pin!(sleep_until(due.into_iter().chain([self.pulse]).min()));
            tokio::select! {
                Some(answer) = answers.next(), if !answers.is_empty() => self.answered(answer),
                () = self.shared.wake.notified() => {}
                () = alarm => {}
            }
        }
        self.leave(answers).await;
    }

    async fn leave(mut self, mut answers: FuturesUnordered<BoxFuture<'static, Answer>>) {
        self.apply_changes();
        let arrive = async {
            while let Some(answer) = answers.next().await {
                self.answered(answer);
            }
        };
        drop(tokio::time::timeout(LAST_REPLIES, arrive).await);
        drop(answers);
        let mut last: Vec<_> = self.farewells.drain(..).collect();
        for (info_hash, entry) in &self.torrents {
            last.extend(farewells(*info_hash, &entry.schedule));
        }
        let sent = iter(
            last.into_iter()
                .map(|question| self.ask(question, FAREWELL)),
        )
        .buffer_unordered(AT_ONCE_LEAVING)
        .for_each(|_| std::future::ready(()));
        drop(tokio::time::timeout(FAREWELL, sent).await);
    }

    fn apply_changes(&mut self) {
        let changes = std::mem::take(&mut *self.shared.changes());
        let now = Instant::now();
        for (info_hash, change) in changes {
            match change {
                Some(tiers) => self.add(now, info_hash, &self.intern(tiers)),
                None => {
                    if let Some(entry) = self.torrents.get_mut(&info_hash) {
                        entry.leaving = true;
                        self.rearm(info_hash);
                    }
                }
            }
        }
    }

    /// One copy of each URL for all torrents.
    fn intern(&self, mut tiers: Tiers) -> Tiers {
        for url in tiers.iter_mut().flatten() {
            if let Some((known, _)) = self.trackers.get_key_value(url) {
                *url = known.clone();
            }
        }
        tiers
    }

    fn add(&mut self, now: Instant, info_hash: InfoHash, tiers: &[Vec<Arc<str>>]) {
        for url in tiers.iter().flatten() {
            self.trackers
                .entry(url.clone())
                .or_insert_with(|| Tracker::new(now));
        }
        let urls: HashSet<_> = tiers.iter().flatten().cloned().collect();
        let old = self.torrents.get_mut(&info_hash);
        if let Some(entry) = old.filter(|entry| entry.schedule.urls() == urls) {
            entry.leaving = false;
            return self.rearm(info_hash);
        }
        // Those that are no longer its trackers hear that it goes.
        if let Some(entry) = self.torrents.get(&info_hash) {
            let gone = farewells(info_hash, &entry.schedule);
            self.farewells
                .extend(gone.filter(|question| !urls.contains(&question.ask.url)));
        }
        self.drop_entry(info_hash);
        self.generations += 1;
        let entry = Entry {
            schedule: Schedule::new(tiers, false, now, rand::rng().random()),
            generation: self.generations,
            alarm: None,
            leaving: false,
        };
        self.torrents.insert(info_hash, entry);
        self.rearm(info_hash);
    }

    /// Puts a torrent's next turn among the alarms; one that leaves goes when it can.
    fn rearm(&mut self, info_hash: InfoHash) {
        let Some(entry) = self.torrents.get_mut(&info_hash) else {
            return;
        };
        if entry.leaving && entry.schedule.is_idle() {
            self.farewells.extend(farewells(info_hash, &entry.schedule));
            return self.drop_entry(info_hash);
        }
        let due = entry.schedule.poll_timeout().filter(|_| !entry.leaving);
        if due != entry.alarm {
            let old = std::mem::replace(&mut entry.alarm, due);
            old.map(|old| self.alarms.remove(&(old, info_hash)));
            due.map(|due| self.alarms.insert((due, info_hash)));
        }
    }

    fn drop_entry(&mut self, info_hash: InfoHash) {
        if let Some(entry) = self.torrents.remove(&info_hash)
            && let Some(alarm) = entry.alarm
        {
            self.alarms.remove(&(alarm, info_hash));
        }
    }

    /// When there is something to do next.
    fn due(&self) -> Option<Instant> {
        if !self.farewells.is_empty() {
            return Some(Instant::now());
        }
        let (first, _) = self.alarms.first()?;
        Some(self.pace.after(*first))
    }

    /// The next announce to be made now.
    fn next(&mut self, now: Instant) -> Option<Question> {
        if let Some(farewell) = self.farewells.pop_front() {
            return Some(farewell);
        }
        while self.pace.allows(now) {
            let &(due, info_hash) = self.alarms.first()?;
            if due > now {
                return None;
            }
            let entry = self.torrents.get_mut(&info_hash)?;
            let generation = Some(entry.generation);
            let ask = entry.schedule.poll_ask(now);
            let held = ask.as_ref().and_then(|ask| self.held(now, &ask.url));
            if let (Some(ask), Some(again)) = (&ask, held) {
                let failure = Failure::Unreachable { again: Some(again) };
                let entry = self.torrents.get_mut(&info_hash)?;
                entry.schedule.handle_failure(now, ask.tracker, failure);
            }
            self.rearm(info_hash);
            if let (Some(ask), None) = (ask, held) {
                self.pace.take(now);
                return Some(Question {
                    info_hash,
                    generation,
                    ask,
                });
            }
        }
        None
    }

    /// Until when a tracker that does not answer is to be left alone by this torrent.
    fn held(&mut self, now: Instant, url: &Arc<str>) -> Option<Instant> {
        let tracker = self.trackers.get_mut(url)?;
        if tracker.failures == 0 {
            return None;
        }
        if now >= tracker.down_until && !tracker.probed {
            tracker.probed = true;
            return None;
        }
        let wait = Duration::from_millis(rand::rng().random_range(1_000..5_000));
        Some(tracker.down_until.max(now) + wait)
    }

    fn ask(&self, question: Question, time: Duration) -> impl Future<Output = Answer> + use<> {
        let caller = Caller {
            info_hash: question.info_hash,
            peer_id: self.identity.peer_id,
            addr: self.identity.addr,
            advertise: self.identity.advertise,
        };
        let request = caller.request(&question.ask, Totals::default());
        let client = self.client.clone();
        async move {
            let answer = announce(&client, &question.ask.url, &request, time).await;
            (question, answer)
        }
    }

    fn answered(&mut self, (question, answer): Answer) {
        let now = Instant::now();
        let Question {
            info_hash,
            generation,
            ask,
        } = question;
        match &answer {
            Ok(reply) => self.heard(now, &ask.url, reply.tracker_id.as_deref()),
            Err(TrackerError::Refused { .. }) => self.heard(now, &ask.url, None),
            Err(_) => self.down(now, &ask.url),
        }
        match &answer {
            Ok(_) => self.shared.trouble().clear(&ask.url),
            Err(error) => self.shared.trouble().note(&ask.url, error.told(&ask.url)),
        }
        let entry = self.torrents.get_mut(&info_hash);
        if let Some(entry) = entry.filter(|entry| Some(entry.generation) == generation) {
            match answer {
                Ok(reply) => {
                    entry.schedule.handle_reply(now, ask.tracker, &reply);
                    // An answer from before the restart may come in after one from later.
                    let tracker = self.trackers.get(&ask.url);
                    if let Some(boot_id) = tracker.and_then(|it| it.boot_id.as_deref()) {
                        entry
                            .schedule
                            .handle_reboot(now, &ask.url, boot_id, COMEBACK);
                    }
                }
                Err(error) => entry
                    .schedule
                    .handle_failure(now, ask.tracker, failure(&error)),
            }
            self.rearm(info_hash);
        }
    }

    /// A tracker answered. When it has a new boot id, everybody comes back to it.
    fn heard(&mut self, now: Instant, url: &Arc<str>, boot_id: Option<&str>) {
        let Some(tracker) = self.trackers.get_mut(url) else {
            return;
        };
        tracker.heard = now;
        tracker.failures = 0;
        tracker.probed = false;
        let calm = tracker.rebooted.is_none_or(|last| now >= last + COOL_DOWN);
        let news = |id: &&str| calm && tracker.boot_id.as_deref() != Some(id);
        let Some(boot_id) = boot_id.filter(news) else {
            return;
        };
        if tracker.boot_id.replace(boot_id.into()).is_none() {
            return;
        }
        tracker.rebooted = Some(now);
        let count = u32::try_from(self.torrents.len()).unwrap_or(u32::MAX);
        let spread = COMEBACK.max(Duration::from_secs(1) * count / PER_SECOND);
        let all: Vec<_> = self.torrents.keys().copied().collect();
        for info_hash in all {
            if let Some(entry) = self.torrents.get_mut(&info_hash) {
                entry.schedule.handle_reboot(now, url, boot_id, spread);
                self.rearm(info_hash);
            }
        }
    }

    fn down(&mut self, now: Instant, url: &Arc<str>) {
        let Some(tracker) = self.trackers.get_mut(url) else {
            return;
        };
        tracker.probed = false;
        // Those that were under way together fail together: that is one failure.
        if tracker.failures == 0 || now >= tracker.down_until {
            let doubled = MIN_DOWN * (1 << tracker.failures.min(6));
            tracker.failures = tracker.failures.saturating_add(1);
            tracker.down_until = now + doubled.min(MAX_DOWN);
        }
    }

    /// Once in a while, lets somebody ask every tracker that nobody asked lately.
    fn beat(&mut self, now: Instant) {
        if now < self.pulse {
            return;
        }
        self.pulse = now + Duration::from_millis(rand::rng().random_range(LOOK));
        let quiet = self
            .trackers
            .iter()
            .filter(|(_, tracker)| now >= tracker.heard + PULSE);
        let quiet: Vec<_> = quiet.map(|(url, _)| url.clone()).collect();
        for url in quiet {
            let mut torrents = self.torrents.iter_mut();
            let asks = torrents.find_map(|(info_hash, entry)| {
                let asks = !entry.leaving && entry.schedule.handle_pulse(&url);
                asks.then_some(*info_hash)
            });
            if let Some(info_hash) = asks {
                self.rearm(info_hash);
            }
        }
        self.forget_unused_trackers();
    }

    fn forget_unused_trackers(&mut self) {
        let used: HashSet<Arc<str>> = self
            .torrents
            .values()
            .flat_map(|entry| entry.schedule.urls())
            .collect();
        self.trackers.retain(|url, _| used.contains(url));
    }
}

/// What a torrent's trackers hear at its end.
fn farewells(info_hash: InfoHash, schedule: &Schedule) -> impl Iterator<Item = Question> + use<> {
    schedule.farewells().into_iter().map(move |ask| Question {
        info_hash,
        generation: None,
        ask,
    })
}

impl Tracker {
    fn new(now: Instant) -> Self {
        Self {
            boot_id: None,
            rebooted: None,
            heard: now,
            failures: 0,
            down_until: now,
            probed: false,
        }
    }
}

/// So many a second after a burst, counted by when the next would be on time.
#[derive(Debug)]
struct Pace {
    on_time: Instant,
}

impl Pace {
    fn full(now: Instant) -> Self {
        Self { on_time: now }
    }

    fn each() -> Duration {
        Duration::from_secs(1) / PER_SECOND
    }

    fn allows(&self, now: Instant) -> bool {
        self.on_time <= now + Self::each() * BURST
    }

    fn take(&mut self, now: Instant) {
        self.on_time = self.on_time.max(now) + Self::each();
    }

    /// The first moment from `at` on that is allowed.
    fn after(&self, at: Instant) -> Instant {
        let allowed = self.on_time.checked_sub(Self::each() * BURST);
        allowed.map_or(at, |allowed| allowed.max(at))
    }
}
