//! How an engine runs, and why it does not.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use torrents::{InfoHash, PeerId};

use crate::http::HttpError;

/// How an engine runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where peers reach us. Port 0 picks a free one. An unspecified address listens on IPv4
    /// and IPv6.
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
    /// A complete torrent that the library can open again is closed after this long without a
    /// peer.
    pub dormant_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            advertise: None,
            peer_id: PeerId::generate(&mut rand::rng()),
            upload_limit: None,
            download_limit: None,
            memory: 256 << 20,
            max_connections: 2_000,
            swarm: torrents::swarm::Settings::default(),
            exchange_metadata: true,
            dormant_after: Duration::from_secs(20),
        }
    }
}

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The peer port cannot be had.
    #[error("cannot listen for peers on {addr}: {source}")]
    Listen {
        /// Which.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The system gives no threads.
    #[error("cannot start the threads of the engine: {0}")]
    Threads(io::Error),
    /// The HTTP client for trackers and web seeds cannot be made.
    #[error("cannot set up HTTP: {0}")]
    Http(#[from] HttpError),
}

/// Why a download is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    Closed,
    /// No peer gave the info dictionary in time.
    #[error("no peer gave the metadata of {info_hash} in time: {why}")]
    NoMetadata {
        /// Of what.
        info_hash: InfoHash,
        /// What was last in the way.
        why: String,
    },
}
