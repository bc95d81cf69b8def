//! Announces one torrent over HTTP to its trackers (BEP 3, 7, 12), on schedule and on need.
//!
//! Owns tiers, intervals, back-off and `tracker id`. Our own tiers are ordered by rendezvous
//! hashing on the info hash; the first two trackers that live are announced to. A changed boot
//! id (`tracker id`) means the tracker forgot us: announce again soon, spread over a while.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;
use torrents::{InfoHash, PeerId};

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
    _private: (),
}

impl Announcer {
    /// Starts with `started` at once.
    pub fn start(client: reqwest::Client, announcement: Announcement) -> Self {
        let _ = (client, announcement);
        todo!()
    }
    /// More peers are needed: announce out of turn, paced (about every 2 s at most).
    pub fn need_peers(&self) {
        todo!()
    }
    /// The download is complete.
    pub fn completed(&self) {
        todo!()
    }
    /// The last failure, for people.
    pub fn trouble(&self) -> Option<String> {
        todo!()
    }
    /// Sends `stopped` to the trackers that know us, within a bounded time.
    pub async fn stop(self) {
        todo!()
    }
}
