//! Announces over HTTP to trackers (BEP 3, 7, 12, 31), on schedule and on need.
//!
//! Owns tiers, intervals, back-off and `tracker id`. Our own tiers are ordered by rendezvous
//! hashing on the info hash ([`order_tiers`]); the first two trackers that live are announced
//! to. A changed boot id (`tracker id`) means the tracker forgot us: announce again soon, spread
//! over a while.
//!
//! When to ask whom is the pure `schedule`; this file is the task around it for one torrent that
//! is live, `seeds` the one for thousands that are not. Invariants: one request per tier is
//! under way at most; a torrent's task ends with its [`Announcer`]; nothing here waits for
//! whoever takes the peers.

mod exchange;
mod schedule;
mod seeds;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rand::RngExt;
use tokio::sync::{Notify, mpsc};
use tokio_util::task::AbortOnDropHandle;
use torrents::announce::{AnnounceEvent, AnnounceReply, AnnounceRequest, MAX_REPLY_PEERS};
use torrents::{InfoHash, PeerId};

use exchange::{TIMEOUT, announce};
use schedule::{Ask, Failure, Schedule};

pub use exchange::{TrackerError, scrape};
pub use seeds::{SeedAnnouncer, SeedIdentity};

/// At the end: how long what is under way may take to arrive, and how long `stopped` may.
const LAST_REPLIES: Duration = Duration::from_millis(500);
const FAREWELL: Duration = Duration::from_millis(1_500);

/// By which trackers know that we are we, wherever we announce from. Nobody else may know it: not
/// our peers, who all know the peer id.
static KEY: LazyLock<u64> = LazyLock::new(|| rand::rng().random());

/// What the announcer tells about a torrent at the moment it asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Bytes sent.
    pub uploaded: u64,
    /// Bytes received.
    pub downloaded: u64,
    /// Bytes missing.
    pub left: u64,
    /// Peers wanted now.
    pub numwant: u32,
}

/// Whom to announce, where.
#[derive(Clone)]
pub struct Announcement {
    /// The swarm.
    pub info_hash: InfoHash,
    /// Ours.
    pub peer_id: PeerId,
    /// What peers shall dial: the port always travels, the address as `ip=` when it is
    /// advertised (our tracker believes it from trusted networks only).
    pub addr: SocketAddr,
    /// Send `ip=`.
    pub advertise: bool,
    /// Trackers by tier.
    pub trackers: Vec<Vec<String>>,
    /// Asked before each announce.
    pub totals: Arc<dyn Fn() -> Totals + Send + Sync>,
    /// Where found peers go.
    pub found: mpsc::Sender<Vec<SocketAddr>>,
}

/// A running announcer; dropping it stops it without a word.
#[derive(Debug)]
pub struct Announcer {
    shared: Arc<Shared>,
    task: AbortOnDropHandle<()>,
}

/// What the handle tells the task, and the task the handle.
#[derive(Debug, Default)]
struct Shared {
    need: AtomicBool,
    again: AtomicBool,
    completed: AtomicBool,
    stop: AtomicBool,
    wake: Notify,
    trouble: Mutex<Trouble>,
}

/// The last failure of each tracker that fails now, oldest first.
#[derive(Debug, Default)]
struct Trouble(Vec<(Arc<str>, String)>);

impl Announcer {
    /// Starts with `started` at once.
    pub fn start(client: reqwest::Client, announcement: Announcement) -> Self {
        let shared = Arc::new(Shared::default());
        let task = Task::new(client, announcement, shared.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(task.run()));
        Self { shared, task }
    }

    /// More peers are needed: announce out of turn, paced (about every 2 s at most).
    pub fn need_peers(&self) {
        self.shared.need.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }

    /// The trackers may know of somebody since they were last asked, or are being asked.
    pub fn ask_again(&self) {
        self.shared.again.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }

    /// The download is complete.
    pub fn completed(&self) {
        self.shared.completed.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }

    /// The last failure, for people; `None` once every tracker that is asked answers.
    pub fn trouble(&self) -> Option<String> {
        self.shared.lock().last()
    }

    /// Sends `stopped` to the trackers that know us, within a bounded time (about 2 s).
    pub async fn stop(self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake.notify_one();
        // A task that panicked has nothing more to say.
        drop(self.task.await);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trouble {
    /// Trackers remembered at most: beyond it the oldest are forgotten.
    const MOST: usize = 16;

    fn note(&mut self, url: &Arc<str>, what: String) {
        self.clear(url);
        if self.0.len() == Self::MOST {
            self.0.remove(0);
        }
        self.0.push((url.clone(), what));
    }

    fn clear(&mut self, url: &Arc<str>) {
        self.0.retain(|(other, _)| other != url);
    }

    fn last(&self) -> Option<String> {
        self.0.last().map(|(_, what)| what.clone())
    }
}

type Answer = (Ask, Result<AnnounceReply, TrackerError>);

struct Task {
    client: reqwest::Client,
    announcement: Announcement,
    shared: Arc<Shared>,
    schedule: Schedule,
    /// Peers for whoever takes them.
    found: Vec<SocketAddr>,
}

impl Task {
    fn new(client: reqwest::Client, announcement: Announcement, shared: Arc<Shared>) -> Self {
        let tiers = shared_tiers(&announcement.trackers);
        let incomplete = (announcement.totals)().left > 0;
        let seed = rand::rng().random();
        Self {
            schedule: Schedule::new(&tiers, incomplete, Instant::now(), seed).pulsing(),
            client,
            announcement,
            shared,
            found: Vec::new(),
        }
    }

    async fn run(mut self) {
        let mut answers = FuturesUnordered::new();
        let found = self.announcement.found.clone();
        while !self.shared.stop.load(Ordering::Acquire) {
            while let Some(ask) = self.schedule.poll_ask(Instant::now()) {
                answers.push(self.ask(ask, TIMEOUT));
            }
            let alarm = pin!(sleep_until(self.schedule.poll_timeout()));
            tokio::select! {
                Some(answer) = answers.next(), if !answers.is_empty() => self.answered(answer),
                Ok(permit) = found.reserve(), if !self.found.is_empty() => {
                    permit.send(std::mem::take(&mut self.found));
                }
                () = self.shared.wake.notified() => self.told(),
                () = alarm => {}
            }
        }
        // What is under way decides who knows us; it mostly arrives at once.
        let arrive = async {
            while let Some(answer) = answers.next().await {
                self.answered(answer);
            }
        };
        drop(tokio::time::timeout(LAST_REPLIES, arrive).await);
        drop(answers);
        let farewells = self.schedule.farewells();
        join_all(farewells.into_iter().map(|ask| self.ask(ask, FAREWELL))).await;
    }

    fn told(&mut self) {
        if self.shared.completed.swap(false, Ordering::AcqRel) {
            self.schedule.handle_completed();
        }
        if self.shared.need.swap(false, Ordering::AcqRel) {
            self.schedule.handle_need();
        }
        if self.shared.again.swap(false, Ordering::AcqRel) {
            self.schedule.handle_again();
        }
    }

    fn ask(&self, ask: Ask, time: Duration) -> impl Future<Output = Answer> + use<> {
        let totals = (self.announcement.totals)();
        let request = Caller::of(&self.announcement).request(&ask, totals);
        let client = self.client.clone();
        async move {
            let answer = announce(&client, &ask.url, &request, time).await;
            (ask, answer)
        }
    }

    fn answered(&mut self, (ask, answer): Answer) {
        let now = Instant::now();
        match answer {
            Ok(reply) => {
                self.schedule.handle_reply(now, ask.tracker, &reply);
                let mut trouble = self.shared.lock();
                trouble.clear(&ask.url);
                if let Some(warning) = &reply.warning {
                    let host = crate::http::shown(&ask.url);
                    trouble.note(&ask.url, format!("tracker {host} warns: {warning}"));
                }
                drop(trouble);
                let own = self.announcement.addr;
                let peers = reply.peers.iter().map(|peer| peer.addr);
                self.found.extend(peers.filter(|addr| *addr != own));
                // Whoever takes them may be slow: the newest are kept.
                let stale = self.found.len().saturating_sub(MAX_REPLY_PEERS);
                self.found.drain(..stale);
            }
            Err(error) => {
                self.shared.lock().note(&ask.url, error.told(&ask.url));
                self.schedule
                    .handle_failure(now, ask.tracker, failure(&error));
            }
        }
    }
}

/// Who announces.
#[derive(Debug, Clone, Copy)]
struct Caller {
    info_hash: InfoHash,
    peer_id: PeerId,
    addr: SocketAddr,
    advertise: bool,
}

impl Caller {
    fn of(announcement: &Announcement) -> Self {
        Self {
            info_hash: announcement.info_hash,
            peer_id: announcement.peer_id,
            addr: announcement.addr,
            advertise: announcement.advertise,
        }
    }

    fn request(&self, ask: &Ask, totals: Totals) -> AnnounceRequest {
        // Who just got everything is not to be sent to all the others of its crowd.
        let leave_alone = matches!(ask.event, AnnounceEvent::Stopped | AnnounceEvent::Completed);
        AnnounceRequest {
            info_hash: self.info_hash,
            peer_id: self.peer_id,
            port: self.addr.port(),
            uploaded: totals.uploaded,
            downloaded: totals.downloaded,
            left: Some(totals.left),
            event: ask.event,
            numwant: Some(if leave_alone { 0 } else { totals.numwant }),
            compact: true,
            no_peer_id: true,
            key: Some(*KEY),
            ip: self.advertise.then(|| self.addr.ip()),
            tracker_id: ask.tracker_id.clone(),
        }
    }
}

/// Orders trackers by rendezvous hashing: every client of a swarm finds the same order, so that
/// those that use only the first all meet there, and swarms spread evenly over the trackers.
/// One tracker per tier. The order is part of what herds and agents agree on: it never changes.
pub fn order_tiers(info_hash: InfoHash, trackers: &[String]) -> Vec<Vec<String>> {
    let mut scored: Vec<_> = trackers
        .iter()
        .map(|url| {
            let score = InfoHash::of(&[info_hash.as_bytes(), url.as_bytes()].concat());
            (score, url)
        })
        .collect();
    scored.sort_unstable();
    scored.dedup();
    scored
        .into_iter()
        .map(|(_, url)| vec![url.clone()])
        .collect()
}

fn shared_tiers(tiers: &[Vec<String>]) -> Vec<Vec<Arc<str>>> {
    let tier = |tier: &Vec<String>| tier.iter().map(|url| url.as_str().into()).collect();
    tiers.iter().map(tier).collect()
}

fn failure(error: &TrackerError) -> Failure {
    match error {
        TrackerError::Refused { retry_in, .. } => Failure::Refused {
            retry_in: *retry_in,
        },
        // A URL that cannot be asked today cannot be asked tomorrow.
        TrackerError::Http(crate::http::HttpError::Url(_)) => Failure::Refused {
            retry_in: Some(None),
        },
        _ => Failure::Unreachable { again: None },
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
