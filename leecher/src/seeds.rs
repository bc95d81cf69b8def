//! Announces complete content that is not live: one task for all of it.
//!
//! A stored blob costs one entry here and one request a quarter of an hour; its torrent is
//! opened when a peer comes. Each entry is announced to the first trackers of its tiers that
//! answer. A tracker that shows a new boot id (`tracker id`) has forgotten us: everything it
//! was told is told again, spread over a while.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::RngExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use torrents::InfoHash;
use torrents::announce::{AnnounceEvent, AnnounceReply, AnnounceRequest, MAX_REPLY, TrackerAnswer};

use crate::engine::Core;
use crate::locked;

/// Announces under way at once.
const AT_ONCE: usize = 16;
/// Trackers told about one seed.
const TRACKERS: usize = 2;
/// How long a tracker may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bounds of what a tracker may ask for as interval.
const LEAST_INTERVAL: Duration = Duration::from_secs(60);
const MOST_INTERVAL: Duration = Duration::from_secs(3_600);
/// After a failure; doubles.
const FIRST_RETRY: Duration = Duration::from_secs(15);
const MOST_RETRY: Duration = Duration::from_secs(900);
/// Over how long a forgotten tracker is told everything again.
const SPREAD_MS: u64 = 30_000;
/// How long `stopped` may take for all seeds together at shutdown.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// The register of seeds.
#[derive(Debug, Default)]
pub(crate) struct Seeds {
    book: Mutex<Book>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Book {
    entries: HashMap<InfoHash, Entry>,
    due: BinaryHeap<Reverse<(Instant, InfoHash)>>,
    /// By announce URL.
    boots: HashMap<String, String>,
}

/// Trackers by tier.
type Tiers = Arc<[Vec<String>]>;

#[derive(Debug)]
struct Entry {
    trackers: Tiers,
    /// The only due time that counts; others in the heap are stale.
    due: Option<Instant>,
    /// Trackers that know of it.
    told: Vec<String>,
    failures: u32,
}

/// What an announce came to.
struct Answer {
    info_hash: InfoHash,
    told: Vec<(String, AnnounceReply)>,
}

impl Seeds {
    /// Announces it from now on.
    pub(crate) fn add(&self, info_hash: InfoHash, trackers: Vec<Vec<String>>) {
        let mut book = locked(&self.book);
        let entry = Entry {
            trackers: trackers.into(),
            due: None,
            told: Vec::new(),
            failures: 0,
        };
        let former = book.entries.insert(info_hash, entry);
        if let (Some(former), Some(entry)) = (former, book.entries.get_mut(&info_hash)) {
            entry.told = former.told;
        }
        book.schedule(info_hash, Duration::ZERO);
        drop(book);
        self.changed.notify_one();
    }

    pub(crate) fn contains(&self, info_hash: InfoHash) -> bool {
        locked(&self.book).entries.contains_key(&info_hash)
    }

    /// A live torrent that announced for itself went dormant: it is due after a usual interval.
    pub(crate) fn resume(&self, info_hash: InfoHash) {
        locked(&self.book).schedule(info_hash, LEAST_INTERVAL);
        self.changed.notify_one();
    }

    /// Announces it no more; the trackers that know of it hear `stopped`, within a bound.
    pub(crate) async fn forget(&self, core: &Core, info_hash: InfoHash) {
        let entry = locked(&self.book).entries.remove(&info_hash);
        if let Some(entry) = entry {
            let all = stop(core, vec![(info_hash, entry.told)]);
            // Late is as good as never.
            let _ = tokio::time::timeout(STOP_TIMEOUT, all).await;
        }
    }
}

impl Book {
    fn schedule(&mut self, info_hash: InfoHash, after: Duration) {
        let Some(entry) = self.entries.get_mut(&info_hash) else {
            return;
        };
        if entry.trackers.iter().all(Vec::is_empty) {
            return;
        }
        let due = Instant::now() + after;
        entry.due = Some(due);
        self.due.push(Reverse((due, info_hash)));
    }

    fn is_told(&self, info_hash: InfoHash, url: &String) -> bool {
        let entry = self.entries.get(&info_hash);
        entry.is_some_and(|entry| entry.told.contains(url))
    }

    /// The next seed that is due, or when one will be.
    fn next(&mut self, now: Instant) -> Result<(InfoHash, Tiers), Option<Instant>> {
        while let Some(&Reverse((due, info_hash))) = self.due.peek() {
            let current = self
                .entries
                .get_mut(&info_hash)
                .filter(|entry| entry.due == Some(due));
            let Some(entry) = current else {
                self.due.pop();
                continue;
            };
            if due > now {
                return Err(Some(due));
            }
            entry.due = None;
            let trackers = Arc::clone(&entry.trackers);
            self.due.pop();
            return Ok((info_hash, trackers));
        }
        Err(None)
    }

    fn settle(&mut self, answer: Answer) {
        let Some(entry) = self.entries.get_mut(&answer.info_hash) else {
            return;
        };
        let Some(interval) = answer.told.iter().map(|(_, reply)| reply.interval).min() else {
            let pause = FIRST_RETRY * (1 << entry.failures.min(6));
            entry.failures += 1;
            return self.schedule(answer.info_hash, pause.min(MOST_RETRY));
        };
        entry.failures = 0;
        entry.told = answer.told.iter().map(|(url, _)| url.clone()).collect();
        let interval = Duration::from_secs(interval.into());
        self.schedule(
            answer.info_hash,
            interval.clamp(LEAST_INTERVAL, MOST_INTERVAL),
        );
        for (url, reply) in answer.told {
            if let Some(boot) = reply.tracker_id {
                self.booted(url, boot);
            }
        }
    }

    /// Notes a tracker's boot id; a new one means that it forgot what it was told.
    fn booted(&mut self, url: String, boot: String) {
        let former = self.boots.insert(url.clone(), boot.clone());
        if former.is_none_or(|former| former == boot) {
            return;
        }
        let mut rng = rand::rng();
        let forgotten: Vec<InfoHash> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.due.is_some() && entry.told.contains(&url))
            .map(|(&info_hash, _)| info_hash)
            .collect();
        for info_hash in forgotten {
            let after = rng.random_range(0..SPREAD_MS);
            self.schedule(info_hash, Duration::from_millis(after));
        }
    }
}

/// Announces what is due until the engine stops, then says `stopped` for all.
pub(crate) async fn seeds_task(core: Arc<Core>) {
    let mut under_way: JoinSet<Answer> = JoinSet::new();
    loop {
        let mut wake = None;
        while under_way.len() < AT_ONCE {
            let next = locked(&core.seeds.book).next(Instant::now());
            let (info_hash, trackers) = match next {
                Ok(next) => next,
                Err(due) => {
                    wake = due;
                    break;
                }
            };
            if core.announces_itself(info_hash) {
                locked(&core.seeds.book).schedule(info_hash, MOST_INTERVAL);
                continue;
            }
            let core = Arc::clone(&core);
            under_way.spawn(async move { announce(&core, info_hash, &trackers).await });
        }
        let due = async {
            match wake {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = core.stop.cancelled() => break,
            () = core.seeds.changed.notified() => {}
            Some(answer) = under_way.join_next() => {
                if let Ok(answer) = answer {
                    locked(&core.seeds.book).settle(answer);
                }
            }
            () = due => {}
        }
    }
    under_way.shutdown().await;
    let told = locked(&core.seeds.book)
        .entries
        .drain()
        .map(|(info_hash, entry)| (info_hash, entry.told))
        .collect();
    // Late is as good as never: we are leaving.
    let _ = tokio::time::timeout(STOP_TIMEOUT, stop(&core, told)).await;
}

/// Tells the first trackers that answer.
async fn announce(core: &Core, info_hash: InfoHash, trackers: &[Vec<String>]) -> Answer {
    let mut told = Vec::new();
    for url in trackers.iter().flatten() {
        if told.len() >= TRACKERS {
            break;
        }
        let event = if locked(&core.seeds.book).is_told(info_hash, url) {
            AnnounceEvent::None
        } else {
            AnnounceEvent::Started
        };
        if let Some(reply) = tell(core, info_hash, url, event).await {
            told.push((url.clone(), reply));
        }
    }
    Answer { info_hash, told }
}

async fn stop(core: &Core, told: Vec<(InfoHash, Vec<String>)>) {
    use futures_util::StreamExt;
    let all = told
        .into_iter()
        .flat_map(|(info_hash, urls)| urls.into_iter().map(move |url| (info_hash, url)));
    futures_util::stream::iter(all)
        .for_each_concurrent(AT_ONCE, |(info_hash, url)| async move {
            tell(core, info_hash, &url, AnnounceEvent::Stopped).await;
        })
        .await;
}

async fn tell(
    core: &Core,
    info_hash: InfoHash,
    url: &str,
    event: AnnounceEvent,
) -> Option<AnnounceReply> {
    let addr = core.announced_addr();
    let tracker_id = locked(&core.seeds.book).boots.get(url).cloned();
    let request = AnnounceRequest {
        info_hash,
        peer_id: core.config.peer_id,
        port: addr.port(),
        uploaded: 0,
        downloaded: 0,
        left: Some(0),
        event,
        numwant: Some(0),
        compact: true,
        no_peer_id: true,
        key: Some(core.key),
        ip: core.config.advertise,
        tracker_id,
    };
    let sent = core
        .client
        .get(request.to_url(url))
        .timeout(TIMEOUT)
        .send()
        .await;
    let body = match sent {
        Ok(reply) => bounded(reply).await,
        Err(_) => None,
    };
    match AnnounceReply::decode(&body?) {
        Ok(TrackerAnswer::Ok(reply)) => Some(reply),
        Ok(TrackerAnswer::Failure { reason, .. }) => {
            tracing::debug!(%info_hash, url, reason, "a tracker refuses a seed");
            None
        }
        Err(why) => {
            tracing::debug!(%info_hash, url, %why, "a tracker's answer cannot be read");
            None
        }
    }
}

async fn bounded(mut reply: reqwest::Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = reply.chunk().await.ok()? {
        if body.len() + chunk.len() > MAX_REPLY {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    Some(body)
}
