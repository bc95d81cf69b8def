//! The engine and its handles: the whole public face of the peer side.
//!
//! Many torrents share one port, one hashing pool, one memory and bandwidth budget and one limit
//! of connections, all of them in `Core`. A torrent is live while its task runs; content of
//! the [`Library`] becomes live when a peer asks for it and dormant again when nobody does.
//!
//! Invariant: at most one task per info hash writes; whoever replaces an ended torrent waits
//! until its task is gone.

mod config;
mod core;
mod threads;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio_util::sync::DropGuard;
use torrents::{Info, InfoHash, PeerId};

use crate::content::Content;
use crate::{listen, memory, metadata, utp};

pub use crate::limits::{Rates, RatesChange, RatesReport, TooManyLimits, TorrentRates};
pub use crate::status::{PeerStatus, Phase, Progress, TorrentStatus, Transfer};
pub use crate::torrent::{Reader, Torrent, TorrentError};
pub use config::{Config, DownloadError, EngineError};

pub(crate) use self::core::{Core, DownloadShare};

use self::threads::Threads;

/// How long the end of all tasks may take before we stop waiting for them.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// Says whether a peer may join a swarm: the place to say no.
pub trait Gate: Send + Sync + 'static {
    /// Asked once per connection, after its handshake.
    fn admit(&self, info_hash: InfoHash, addr: SocketAddr, peer: PeerId) -> bool;
}

/// Lets everyone in.
#[derive(Debug, Default, Clone, Copy)]
pub struct OpenGate;

impl Gate for OpenGate {
    fn admit(&self, _: InfoHash, _: SocketAddr, _: PeerId) -> bool {
        true
    }
}

/// Complete content that is seeded on demand: the engine opens a torrent when a peer asks for
/// it and closes it when it is idle, so that a thousand stored blobs cost next to nothing.
#[async_trait]
pub trait Library: Send + Sync + 'static {
    /// The info and the complete content of that hash, if we have it. Strangers cause calls
    /// with hashes nobody has, so those must be cheap.
    async fn open(&self, info_hash: InfoHash) -> Option<(Info, Arc<Content>)>;
}

/// What to download.
#[derive(Debug, Clone)]
pub struct Download {
    /// What it is.
    pub info: Info,
    /// Where its bytes go; may hold verified pieces already.
    pub content: Arc<Content>,
    /// Trackers by tier.
    pub trackers: Vec<Vec<String>>,
    /// Web seeds (BEP-19).
    pub web_seeds: Vec<String>,
    /// Peers known beforehand.
    pub peers: Vec<SocketAddr>,
    /// Take a tiny torrent from the web seed at once.
    pub eager_web_seed: bool,
    /// Bytes of its beginning that somebody gave already, right or not; whole pieces count.
    pub head: Bytes,
}

/// Complete content to announce; opened through the [`Library`] when a peer comes.
#[derive(Debug, Clone)]
pub struct Seed {
    /// The swarm.
    pub info_hash: InfoHash,
    /// Trackers by tier; empty when somebody else introduces us (an origin registers).
    pub trackers: Vec<Vec<String>>,
}

/// The engine: many torrents on one port. Cheap to clone; when the last clone is dropped it
/// stops, but only [`Engine::shutdown`] waits for that and says good-bye.
#[derive(Debug, Clone)]
pub struct Engine {
    core: Arc<Core>,
    _stop: Arc<DropGuard>,
    _threads: Option<Arc<Threads>>,
}

impl Engine {
    /// Binds the peer port and starts serving the library.
    #[allow(
        clippy::unused_async,
        reason = "it must be called inside a runtime, and only a future cannot be otherwise"
    )]
    pub async fn start(
        config: Config,
        library: Arc<dyn Library>,
        gate: Arc<dyn Gate>,
    ) -> Result<Self, EngineError> {
        let addr = config.listen;
        let cannot_listen = |source| EngineError::Listen { addr, source };
        let listeners = listen::bind(addr).map_err(cannot_listen)?;
        let local_addr = listeners[0].local_addr().map_err(cannot_listen)?;
        let core = Arc::new(Core::new(config, local_addr, library, gate)?);
        let stop = Arc::new(core.stop.clone().drop_guard());
        for listener in listeners {
            match listener.local_addr().and_then(utp::bind) {
                Ok(socket) => core.spawn(utp::refuse_task(Arc::clone(&core), socket)),
                Err(error) => tracing::debug!(%error, "those who try uTP first wait for nothing"),
            }
            core.spawn(listen::accept_task(Arc::clone(&core), listener));
        }
        core.spawn(memory::keep_lean(Arc::clone(&core)));
        tracing::info!(addr = %local_addr, peer_id = %core.config.peer_id, "listening for peers");
        Ok(Self {
            core,
            _stop: stop,
            _threads: None,
        })
    }

    /// Starts on threads of its own, which give way to everything else in the process.
    pub async fn start_apart(
        config: Config,
        library: Arc<dyn Library>,
        gate: Arc<dyn Gate>,
    ) -> Result<Self, EngineError> {
        let threads = Threads::start().map_err(EngineError::Threads)?;
        let started = threads
            .handle()
            .spawn(Self::start(config, library, gate))
            .await;
        let mut engine = started.map_err(|gone| EngineError::Threads(gone.into()))??;
        engine._threads = Some(Arc::new(threads));
        Ok(engine)
    }

    /// Where its tasks run, for others that move payload.
    pub fn runtime(&self) -> &Handle {
        self.core.runtime()
    }

    /// Where peers reach us.
    pub fn local_addr(&self) -> SocketAddr {
        self.core.local_addr
    }

    /// What is announced: the advertised address, or the one that listens, and the port.
    pub fn announced_addr(&self) -> SocketAddr {
        self.core.announced_addr()
    }

    /// Ours.
    pub fn peer_id(&self) -> PeerId {
        self.core.config.peer_id
    }

    /// Starts (or joins: idempotent per info hash) a download. One that failed starts again.
    pub async fn download(&self, download: Download) -> Result<Torrent, DownloadError> {
        self.core.download(download).await
    }

    /// Announces complete content from now on. Live torrents of that hash stay.
    pub fn seed(&self, seed: Seed) {
        self.core.seed(seed.info_hash, seed.trackers);
    }

    /// Stops downloading or seeding it: `stopped` is announced, connections close, no task of
    /// it survives the return.
    pub async fn forget(&self, info_hash: InfoHash) {
        self.core.unseed(info_hash);
        self.core.close(info_hash).await;
    }

    /// A live torrent, or one that failed and was neither forgotten nor started again.
    pub fn torrent(&self, info_hash: InfoHash) -> Option<Torrent> {
        self.core.torrent(info_hash)
    }

    /// All live torrents, for people; failed ones say why.
    pub async fn status(&self) -> Vec<TorrentStatus> {
        let mut all = Vec::new();
        for torrent in self.core.torrents() {
            all.extend(torrent.status().await);
        }
        all
    }

    /// Payload given to peers since the start, whatever became of the torrents.
    pub fn uploaded(&self) -> u64 {
        self.core.uploaded.load(Ordering::Relaxed)
    }

    /// Takes the info dictionary of that hash from our own peers (BEP-9), found through the
    /// trackers or given.
    pub async fn metadata(
        &self,
        info_hash: InfoHash,
        trackers: Vec<Vec<String>>,
        peers: Vec<SocketAddr>,
        within: Duration,
    ) -> Result<Info, DownloadError> {
        metadata::fetch(&self.core, info_hash, trackers, peers, within).await
    }

    /// The limits of the process, and of every torrent that has its own.
    pub fn limits(&self) -> RatesReport {
        RatesReport {
            process: self.core.bandwidth.process().rates(),
            torrents: self.core.bandwidth.all(),
        }
    }

    /// Sets the limits of the whole process, from this moment on.
    pub fn set_limits(&self, rates: Rates) {
        self.core.bandwidth.process().set(rates);
    }

    /// Changes them.
    pub fn change_limits(&self, change: RatesChange) {
        let process = self.core.bandwidth.process();
        process.set(process.rates().changed(change));
    }

    /// Changes the limits of one torrent, within those of the process, from this moment on. They
    /// hold whenever it is live, until the engine ends.
    pub fn change_torrent_limits(
        &self,
        info_hash: InfoHash,
        change: RatesChange,
    ) -> Result<(), TooManyLimits> {
        self.core.bandwidth.change(info_hash, change)
    }

    /// Announces `stopped` (bounded in time), closes everything, joins every task.
    pub async fn shutdown(&self) {
        self.core.stop.cancel();
        self.core.tasks.close();
        let (ended, ()) = tokio::join!(
            tokio::time::timeout(SHUTDOWN_TIMEOUT, self.core.tasks.wait()),
            self.core.leave_trackers()
        );
        if ended.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        let core = Arc::clone(&self.core);
        // A worker ends after the piece it holds.
        let _ = tokio::task::spawn_blocking(move || core.hashers.close()).await;
    }
}
