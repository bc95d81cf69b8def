//! What all torrents of an engine share, and the register of those that are live.
//!
//! Owns the process's limits (connections, bandwidth, memory) and hands out shares of them; knows
//! which info hash is live, which seeds are announced without being live, and opens a torrent when
//! somebody asks for it. Invariant: at most one task is live for an info hash. Never holds a lock
//! while it waits, and decides nothing about pieces.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use torrents::{Info, InfoHash};

use super::{Config, Download, DownloadError, EngineError, Gate, Library};
use crate::announcer::{Announcement, Announcer, SeedAnnouncer, SeedIdentity, Totals};
use crate::connection::Connection;
use crate::content::Content;
use crate::hashing::HashPool;
use crate::limits::{Bandwidth, Rates};
use crate::places::Places;
use crate::slabs::Slabs;
use crate::status::{Phase, Source};
use crate::torrent::{Command, Shared, Torrent, TorrentError};
use crate::torrent_task::{Beginning, TorrentTask};
use crate::upload::Buffers;
use crate::{head, http, locked};

/// Locks that make opening a torrent single flight; hashes share them.
const STRIPES: usize = 64;
/// Commands that may wait for a torrent's task.
const COMMANDS: usize = 32;
/// Peers asked of a tracker while something is missing.
const NUMWANT: u32 = 50;
/// And by a seed, of those who may be unable to come by themselves.
const SEED_NUMWANT: u32 = 8;

pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) local_addr: SocketAddr,
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) client: reqwest::Client,
    pub(crate) hashers: HashPool,
    pub(crate) slabs: Slabs,
    pub(crate) buffers: Buffers,
    pub(crate) bandwidth: Bandwidth,
    /// Payload given to peers by all torrents there ever were; written once a batch.
    pub(crate) uploaded: AtomicU64,
    /// Connections that may still be opened.
    pub(crate) places: Places,
    /// Zero of the machines' clocks.
    pub(crate) epoch: Instant,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Where it was started: all its tasks run there, whoever asks for them.
    runtime: Handle,
    library: Arc<dyn Library>,
    /// Complete content and its trackers, live or not.
    seeds: Mutex<HashMap<InfoHash, Vec<Vec<String>>>>,
    /// Announces those that do not do it themselves; `None` once the engine shuts down.
    announcer: Mutex<Option<SeedAnnouncer>>,
    torrents: Mutex<HashMap<InfoHash, Torrent>>,
    opening: [tokio::sync::Mutex<()>; STRIPES],
    /// Torrents that share the memory.
    downloads: Arc<watch::Sender<usize>>,
    /// Somebody who held memory is gone.
    pub(crate) freed: Arc<Notify>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

/// A claim on an equal share of the memory, given up by dropping it.
pub(crate) struct DownloadShare {
    downloads: Arc<watch::Sender<usize>>,
    freed: Arc<Notify>,
    memory: u64,
}

impl DownloadShare {
    /// What is this one's now.
    pub(crate) fn bytes(&self) -> u64 {
        let count = *self.downloads.borrow();
        self.memory / u64::try_from(count.max(1)).unwrap_or(u64::MAX)
    }
}

impl Drop for DownloadShare {
    fn drop(&mut self) {
        self.downloads.send_modify(|count| *count -= 1);
        self.freed.notify_one();
    }
}

/// How a torrent is opened.
struct Opening {
    info: Info,
    content: Arc<Content>,
    trackers: Vec<Vec<String>>,
    web_seeds: Vec<String>,
    eager_web_seed: bool,
    on_demand: bool,
}

impl Core {
    pub(super) fn new(
        config: Config,
        local_addr: SocketAddr,
        library: Arc<dyn Library>,
        gate: Arc<dyn Gate>,
    ) -> Result<Self, EngineError> {
        let client = http::client()?;
        let identity = SeedIdentity {
            peer_id: config.peer_id,
            addr: announced_addr(&config, local_addr),
            advertise: config.advertise.is_some(),
        };
        Ok(Self {
            announcer: Mutex::new(Some(SeedAnnouncer::start(client.clone(), identity))),
            seeds: Mutex::default(),
            hashers: HashPool::start().map_err(EngineError::Threads)?,
            slabs: Slabs::new(config.memory),
            buffers: Buffers::default(),
            bandwidth: Bandwidth::new(Rates {
                upload: config.upload_limit,
                download: config.download_limit,
            }),
            uploaded: AtomicU64::new(0),
            places: Places::new(config.max_connections),
            epoch: Instant::now(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
            library,
            torrents: Mutex::default(),
            opening: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            downloads: Arc::new(watch::Sender::new(0)),
            freed: Arc::default(),
            config,
            local_addr,
            gate,
            client,
        })
    }

    pub(crate) fn announced_addr(&self) -> SocketAddr {
        announced_addr(&self.config, self.local_addr)
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// A task that [`Engine::shutdown`](super::Engine::shutdown) waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// A share of the memory for one more download.
    pub(crate) fn share(&self) -> DownloadShare {
        self.downloads.send_modify(|count| *count += 1);
        DownloadShare {
            downloads: Arc::clone(&self.downloads),
            freed: Arc::clone(&self.freed),
            memory: self.config.memory,
        }
    }

    /// Lets the buffers of downloads go; false while there are downloads.
    pub(crate) fn release_memory(&self) -> bool {
        let idle = *self.downloads.borrow() == 0;
        if idle {
            self.slabs.clear();
        }
        idle
    }

    /// Tells when shares change.
    pub(crate) fn downloads(&self) -> watch::Receiver<usize> {
        self.downloads.subscribe()
    }

    // Seeds.

    pub(super) fn seed(&self, info_hash: InfoHash, trackers: Vec<Vec<String>>) {
        // Entered first: a live torrent that ends now finds it, one that ended is seen here.
        locked(&self.seeds).insert(info_hash, trackers.clone());
        if !self.announces_itself(info_hash) {
            self.announce_dormant(info_hash, &trackers);
        }
    }

    pub(super) fn unseed(&self, info_hash: InfoHash) {
        if locked(&self.seeds).remove(&info_hash).is_some()
            && let Some(announcer) = &*locked(&self.announcer)
        {
            announcer.remove(info_hash);
        }
    }

    /// Whether somebody said that it is complete and stays.
    pub(crate) fn is_seed(&self, info_hash: InfoHash) -> bool {
        locked(&self.seeds).contains_key(&info_hash)
    }

    fn announce_dormant(&self, info_hash: InfoHash, trackers: &[Vec<String>]) {
        if trackers.iter().any(|tier| !tier.is_empty())
            && let Some(announcer) = &*locked(&self.announcer)
        {
            announcer.add(info_hash, trackers);
        }
    }

    /// Says `stopped` for all seeds, within a bound.
    pub(super) async fn leave_trackers(&self) {
        let announcer = locked(&self.announcer).take();
        if let Some(announcer) = announcer {
            announcer.shutdown().await;
        }
    }

    // The register.

    /// A torrent that is live, or failed and not forgotten.
    pub(crate) fn torrent(&self, info_hash: InfoHash) -> Option<Torrent> {
        locked(&self.torrents).get(&info_hash).cloned()
    }

    pub(crate) fn torrents(&self) -> Vec<Torrent> {
        locked(&self.torrents).values().cloned().collect()
    }

    fn live(&self, info_hash: InfoHash) -> Option<Torrent> {
        self.torrent(info_hash)
            .filter(|torrent| !torrent.shared.is_over())
    }

    /// Whether a live torrent speaks to trackers for itself.
    fn announces_itself(&self, info_hash: InfoHash) -> bool {
        self.live(info_hash)
            .is_some_and(|torrent| torrent.shared.announced)
    }

    /// The torrent for a peer that asks for it: the live one, or one opened from the library.
    pub(crate) async fn route(self: &Arc<Self>, info_hash: InfoHash) -> Option<Torrent> {
        if let Some(live) = self.live(info_hash) {
            return Some(live);
        }
        let _one = self.stripe(info_hash).lock().await;
        if let Some(live) = self.live(info_hash) {
            return Some(live);
        }
        let (info, content) = self.library.open(info_hash).await?;
        if info.hash() != info_hash || !content.have().is_full() {
            tracing::error!(%info_hash, "bug: the library gave something else than was asked");
            return None;
        }
        self.open(Opening {
            info,
            content,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            eager_web_seed: false,
            on_demand: true,
        })
    }

    /// Brings a peer to its torrent, in a task of the engine's.
    pub(crate) fn bring(self: &Arc<Self>, connection: Connection) {
        let core = Arc::clone(self);
        self.spawn(async move {
            if let Some(torrent) = core.route(connection.handshake.info_hash).await {
                let inbound = Command::Inbound(Box::new(connection));
                // Refused twice, it dials again.
                let _ = torrent.shared.commands.send(inbound).await;
            }
        });
    }

    pub(super) async fn download(
        self: &Arc<Self>,
        download: Download,
    ) -> Result<Torrent, DownloadError> {
        let info_hash = download.info.hash();
        let _one = self.stripe(info_hash).lock().await;
        let torrent = match self.torrent(info_hash) {
            Some(live) if !live.shared.is_over() => live,
            former => {
                if let Some(former) = former {
                    former.shared.ended.cancelled().await;
                }
                let head = head::keep(&download.info, &download.content, download.head).await;
                let opening = Opening {
                    info: download.info,
                    content: download.content,
                    trackers: download.trackers,
                    web_seeds: download.web_seeds,
                    eager_web_seed: download.eager_web_seed,
                    on_demand: false,
                };
                let torrent = self.open(opening).ok_or(DownloadError::Closed)?;
                locked(&torrent.shared.ledger).credit(Source::WebSeed, head);
                torrent
            }
        };
        torrent.add_peers(&download.peers);
        Ok(torrent)
    }

    fn stripe(&self, info_hash: InfoHash) -> &tokio::sync::Mutex<()> {
        &self.opening[usize::from(info_hash.0[0]) % STRIPES]
    }

    /// Starts a torrent's task; `None` when the engine is shutting down.
    fn open(self: &Arc<Self>, opening: Opening) -> Option<Torrent> {
        let info_hash = opening.info.hash();
        let announced = opening.trackers.iter().any(|tier| !tier.is_empty());
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let shared = Arc::new(Shared::new(
            opening.info,
            opening.content,
            commands,
            self.stop.child_token(),
            announced,
        ));
        let torrent = Torrent {
            shared: Arc::clone(&shared),
        };
        {
            let mut torrents = locked(&self.torrents);
            if self.stop.is_cancelled() {
                return None;
            }
            torrents.insert(info_hash, torrent.clone());
        }
        // Its timer and its announcer belong to the engine's runtime.
        let _there = self.runtime.enter();
        let task = TorrentTask::new(
            Arc::clone(self),
            Beginning {
                shared: Arc::clone(&shared),
                commands: inbox,
                trackers: opening.trackers,
                web_seeds: opening.web_seeds,
                eager_web_seed: opening.eager_web_seed,
                on_demand: opening.on_demand,
            },
        );
        let core = Arc::clone(self);
        self.spawn(async move {
            let run = AssertUnwindSafe(task.run()).catch_unwind().await;
            if run.is_err() {
                tracing::error!(%info_hash, "bug: the task of a torrent failed");
                shared.end(TorrentError::Bug);
            }
            core.ended(&shared);
        });
        Some(torrent)
    }

    /// A torrent's task is gone. A failed one stays in the register, to tell why.
    fn ended(&self, shared: &Arc<Shared>) {
        let info_hash = shared.info.hash();
        {
            let mut torrents = locked(&self.torrents);
            let current = torrents.get(&info_hash);
            let ours = current.is_some_and(|torrent| Arc::ptr_eq(&torrent.shared, shared));
            let closed = matches!(shared.board.ended(), None | Some(TorrentError::Closed));
            if ours && closed {
                torrents.remove(&info_hash);
            }
        }
        let trackers = locked(&self.seeds).get(&info_hash).cloned();
        if let (true, Some(trackers)) = (shared.announced, trackers) {
            self.announce_dormant(info_hash, &trackers);
        }
        self.bandwidth.release(info_hash);
        self.freed.notify_one();
        shared.ended.cancel();
    }

    /// Ends a torrent and waits until nothing of it is left.
    pub(super) async fn close(&self, info_hash: InfoHash) {
        // So that no download begins anew while the old one still writes.
        let _one = self.stripe(info_hash).lock().await;
        let torrent = locked(&self.torrents).remove(&info_hash);
        if let Some(torrent) = torrent {
            torrent.shared.stop.cancel();
            torrent.shared.ended.cancelled().await;
        }
    }

    /// Announces a live torrent, if it has trackers.
    pub(crate) fn announce(
        &self,
        shared: &Arc<Shared>,
        trackers: Vec<Vec<String>>,
        found: mpsc::Sender<Vec<SocketAddr>>,
    ) -> Option<Announcer> {
        if !shared.announced {
            return None;
        }
        let about = Arc::clone(shared);
        let announcement = Announcement {
            info_hash: shared.info.hash(),
            peer_id: self.config.peer_id,
            addr: self.announced_addr(),
            advertise: self.config.advertise.is_some(),
            trackers,
            totals: Arc::new(move || totals(&about)),
            found,
        };
        Some(Announcer::start(self.client.clone(), announcement))
    }
}

fn announced_addr(config: &Config, local_addr: SocketAddr) -> SocketAddr {
    let ip = config.advertise.unwrap_or(local_addr.ip());
    SocketAddr::new(ip, local_addr.port())
}

/// What trackers are told.
fn totals(shared: &Shared) -> Totals {
    let (uploaded, downloaded) = locked(&shared.ledger).totals();
    let progress = shared.progress.borrow();
    Totals {
        uploaded,
        downloaded,
        left: progress.length - progress.verified,
        numwant: match progress.phase {
            Phase::Downloading => NUMWANT,
            Phase::Seeding => SEED_NUMWANT,
            Phase::Failed => 0,
        },
    }
}
