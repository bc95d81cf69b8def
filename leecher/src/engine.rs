//! The engine and its handles: the whole public face of the peer side.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::watch;
use torrents::{Info, InfoHash, PeerId};

use crate::content::Content;

/// How an engine runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where peers reach us. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// The address to announce when it differs from the one that listens.
    pub advertise: Option<IpAddr>,
    /// Ours, one per process.
    pub peer_id: PeerId,
    /// Bytes a second up and down, for all torrents together; `None` is unlimited.
    pub upload_limit: Option<u64>,
    /// See `upload_limit`.
    pub download_limit: Option<u64>,
    /// Bytes of payload in memory at most, all torrents together.
    pub memory: u64,
    /// Connections at most, all torrents together.
    pub max_connections: usize,
    /// What each swarm machine starts with.
    pub swarm: torrents::swarm::Settings,
    /// Offer and take metadata (BEP-9); between our own peers only.
    pub exchange_metadata: bool,
    /// A torrent opened from the library is closed again after this long without a peer.
    pub dormant_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        todo!()
    }
}

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {}

/// Why a download is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {}

/// Why a torrent stopped.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TorrentError {
    /// Writing or reading content failed (disk full, ...).
    #[error("{0}")]
    Storage(Arc<str>),
    /// It was forgotten, or the engine shut down.
    #[error("the torrent was closed")]
    Closed,
}

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
    /// The info and the complete content of that hash, if we have it.
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
}

/// Complete content to announce; opened through the [`Library`] when a peer comes.
#[derive(Debug, Clone)]
pub struct Seed {
    /// The swarm.
    pub info_hash: InfoHash,
    /// Trackers by tier; empty when somebody else introduces us (an origin registers).
    pub trackers: Vec<Vec<String>>,
}

/// Where a torrent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Fetching pieces.
    Downloading,
    /// Everything is here.
    Seeding,
    /// It stopped; see the error.
    Failed,
}

/// How far a torrent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Where it stands.
    pub phase: Phase,
    /// Verified bytes.
    pub verified: u64,
    /// Bytes in all.
    pub length: u64,
}

/// Payload by where it came from and went to, since the torrent was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// Useful bytes from peers on the wire, by listening address (or connection address when
    /// unknown), most first, bounded.
    pub from_peers: Vec<(SocketAddr, u64)>,
    /// Useful bytes from peers on the wire in all.
    pub downloaded: u64,
    /// Useful bytes from web seeds.
    pub from_web_seeds: u64,
    /// Bytes given to peers.
    pub uploaded: u64,
    /// Bytes thrown away: duplicates and bad pieces.
    pub wasted: u64,
}

/// One peer, for people.
#[derive(Debug, Clone, Serialize)]
pub struct PeerStatus {
    /// Where.
    pub addr: SocketAddr,
    /// Its client, cleaned for display.
    pub client: String,
    /// Share of the pieces it has, 0 to 1.
    pub progress: f64,
    /// Useful bytes from it.
    pub downloaded: u64,
    /// Bytes to it.
    pub uploaded: u64,
    /// Bytes a second from it.
    pub down_rate: u64,
    /// Bytes a second to it.
    pub up_rate: u64,
}

/// One torrent, for people.
#[derive(Debug, Clone, Serialize)]
pub struct TorrentStatus {
    /// Its name.
    pub info_hash: InfoHash,
    /// What it is called.
    pub name: String,
    /// How far it is.
    pub progress: Progress,
    /// Where its bytes came from.
    pub transfer: Transfer,
    /// Bytes a second down.
    pub down_rate: u64,
    /// Bytes a second up.
    pub up_rate: u64,
    /// Connected peers.
    pub peers: Vec<PeerStatus>,
    /// Why it waits or failed, for people: last tracker failure, no peers, disk.
    pub note: Option<String>,
}

/// The engine: many torrents on one port. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    _private: Arc<()>,
}

impl Engine {
    /// Binds the peer port and starts serving the library.
    pub async fn start(
        config: Config,
        library: Arc<dyn Library>,
        gate: Arc<dyn Gate>,
    ) -> Result<Self, EngineError> {
        let _ = (config, library, gate);
        todo!()
    }
    /// Where peers reach us.
    pub fn local_addr(&self) -> SocketAddr {
        todo!()
    }
    /// What is announced: the advertised address, or the one that listens, and the port.
    pub fn announced_addr(&self) -> SocketAddr {
        todo!()
    }
    /// Ours.
    pub fn peer_id(&self) -> PeerId {
        todo!()
    }
    /// Starts (or joins: idempotent per info hash) a download.
    pub async fn download(&self, download: Download) -> Result<Torrent, DownloadError> {
        let _ = download;
        todo!()
    }
    /// Announces complete content from now on. Live torrents of that hash stay.
    pub fn seed(&self, seed: Seed) {
        let _ = seed;
        todo!()
    }
    /// Stops downloading or seeding it: `stopped` is announced, connections close, no task of
    /// it survives the return.
    pub async fn forget(&self, info_hash: InfoHash) {
        let _ = info_hash;
        todo!()
    }
    /// A live torrent.
    pub fn torrent(&self, info_hash: InfoHash) -> Option<Torrent> {
        let _ = info_hash;
        todo!()
    }
    /// All live torrents, for people.
    pub async fn status(&self) -> Vec<TorrentStatus> {
        todo!()
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
        let _ = (info_hash, trackers, peers, within);
        todo!()
    }
    /// Changes the limits of the whole process.
    pub fn set_limits(&self, upload: Option<u64>, download: Option<u64>) {
        let _ = (upload, download);
        todo!()
    }
    /// Announces `stopped` (bounded in time), closes everything, joins every task.
    pub async fn shutdown(&self) {
        todo!()
    }
}

/// A live torrent. Cheap to clone; dropping it stops nothing.
#[derive(Debug, Clone)]
pub struct Torrent {
    _private: Arc<()>,
}

impl Torrent {
    /// What it is.
    pub fn info(&self) -> &Info {
        todo!()
    }
    /// Where its bytes are.
    pub fn content(&self) -> &Arc<Content> {
        todo!()
    }
    /// How far it is, as it changes.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        todo!()
    }
    /// Everything for people, peers included.
    pub async fn status(&self) -> Option<TorrentStatus> {
        todo!()
    }
    /// Where its bytes came from so far.
    pub fn transfer(&self) -> Transfer {
        todo!()
    }
    /// A reader with a window of its own.
    pub fn reader(&self) -> Reader {
        todo!()
    }
    /// Waits until everything is verified.
    pub async fn finished(&self) -> Result<(), TorrentError> {
        todo!()
    }
    /// Adds peers to try.
    pub fn add_peers(&self, peers: &[SocketAddr]) {
        let _ = peers;
        todo!()
    }
}

/// Reads verified bytes in any order and steers the picker to what is read next. Dropping it
/// gives its window up.
#[derive(Debug)]
pub struct Reader {
    _private: (),
}

impl Reader {
    /// Waits until the byte at `range.start` is verified and returns where the verified run
    /// from there ends (never beyond `range.end`). Steers the picker to `range.start`.
    pub async fn ready(&mut self, range: Range<u64>) -> Result<u64, TorrentError> {
        let _ = range;
        todo!()
    }
}
