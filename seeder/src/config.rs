//! How an origin runs. Every field has a default that works on one host.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

/// Where an origin keeps, listens and registers.
#[derive(Clone)]
pub struct Config {
    /// The durable store. Made when missing; one process at a time owns it.
    pub data: PathBuf,
    /// `docker push` and `docker pull`. Port 0 picks a free one, here and below.
    pub registry: SocketAddr,
    /// `.torrent` files, web seed, health, metrics.
    pub api: SocketAddr,
    /// The tag API.
    pub tags: SocketAddr,
    /// `BitTorrent` peers.
    pub peer: SocketAddr,
    /// What other hosts dial when it is not the address of `peer`.
    pub advertise: Option<IpAddr>,
    /// The base of the web seed in `.torrent` files; by default the advertised address and
    /// the API's port, over plain HTTP.
    pub api_url: Option<String>,
    /// Base URLs of the trackers to register with (`http://host:15003`).
    pub trackers: Vec<Url>,
    /// What the trackers ask of origins.
    pub tracker_secret: Option<String>,
    /// Bytes a second to peers; `None` is unlimited.
    pub upload_limit: Option<u64>,
    /// Bounds on what clients may take.
    pub limits: Limits,
}

/// Bounds on what clients may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// An upload session nobody touches for this long is forgotten and its bytes reclaimed.
    pub session_idle: Duration,
    /// A body that brings no byte for this long is cut. There is no deadline on a whole one.
    pub body_idle: Duration,
    /// Uploads that have bytes in memory at once, a mebibyte or two each; more wait their turn.
    /// One whose client is silent has none.
    pub receiving: usize,
    /// Upload sessions at once; more are told to come back (429).
    pub sessions: usize,
    /// Take indexes whose children are not all here.
    pub sparse_indexes: bool,
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            data: PathBuf::from("data"),
            registry: local(15000),
            api: local(15002),
            tags: local(15004),
            peer: local(15001),
            advertise: None,
            api_url: None,
            trackers: Vec::new(),
            tracker_secret: None,
            upload_limit: None,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            session_idle: Duration::from_secs(24 * 3600),
            body_idle: Duration::from_secs(300),
            receiving: 256,
            sessions: 10_000,
            sparse_indexes: false,
        }
    }
}

impl fmt::Debug for Config {
    /// Everything but the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("data", &self.data)
            .field("registry", &self.registry)
            .field("api", &self.api)
            .field("tags", &self.tags)
            .field("peer", &self.peer)
            .field("advertise", &self.advertise)
            .field("api_url", &self.api_url)
            .field("trackers", &self.trackers)
            .field("upload_limit", &self.upload_limit)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
