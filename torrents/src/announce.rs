//! Tracker messages over HTTP, both ends: announce and scrape (BEP 3, 7, 21, 23, 31, 48).
//!
//! Clients compose a query and read a reply; the tracker reads a query and composes a reply.
//! Queries are raw percent-encoded bytes, never forced through a string; replies are written
//! by hand in canonical key order and read leniently.

use std::net::SocketAddr;

use crate::id::{InfoHash, PeerId};

/// BEP-3's events, and BEP-21's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "named as in the BEPs")]
pub enum AnnounceEvent {
    #[default]
    None,
    Started,
    Completed,
    Stopped,
    Paused,
}

/// What a peer asks of a tracker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnounceRequest {
    /// Which swarm.
    pub info_hash: InfoHash,
    /// Who asks.
    pub peer_id: PeerId,
    /// Where the asker listens.
    pub port: u16,
    /// Bytes sent since `started`.
    pub uploaded: u64,
    /// Bytes received since `started`.
    pub downloaded: u64,
    /// Bytes missing; `None` when the asker did not say: treated as a leecher.
    pub left: Option<u64>,
    /// What happened.
    pub event: AnnounceEvent,
    /// Peers wanted; `None` when unsaid or negative.
    pub numwant: Option<u32>,
    /// BEP-23; true unless `compact=0`.
    pub compact: bool,
    /// Leave `peer id` out of dictionaries.
    pub no_peer_id: bool,
    /// Survives a change of address; hashed by the reader so that it has a fixed size.
    pub key: Option<u64>,
    /// `ip=`, to be believed only from trusted networks.
    pub ip: Option<std::net::IpAddr>,
    /// Echo of the reply's `tracker id`, hashed likewise on the tracker's side is not needed:
    /// bounded text.
    pub tracker_id: Option<String>,
}

/// One peer in a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplyPeer {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its id when the reply carried it.
    pub id: Option<PeerId>,
}

/// What a tracker answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnnounceReply {
    /// Seconds until the next announce.
    pub interval: u32,
    /// Seconds before which none is welcome.
    pub min_interval: Option<u32>,
    /// To be echoed; ours is the tracker's boot id.
    pub tracker_id: Option<String>,
    /// Seeds.
    pub complete: Option<u32>,
    /// Leechers.
    pub incomplete: Option<u32>,
    /// How often it was completed.
    pub downloaded: Option<u32>,
    /// BEP-24: how the tracker sees the asker.
    pub external_ip: Option<std::net::IpAddr>,
    /// Shown to people.
    pub warning: Option<String>,
    /// Others.
    pub peers: Vec<ReplyPeer>,
}

/// A reply as a client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrackerAnswer<T> {
    /// What was asked for.
    Ok(T),
    /// `failure reason`, and BEP-31's `retry in` in minutes (`Some(None)` is "never").
    Failure {
        /// What the tracker said.
        reason: String,
        /// BEP-31, in minutes.
        retry_in: Option<Option<u32>>,
    },
}

/// One torrent in a scrape reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrapeEntry {
    /// Seeds.
    pub complete: u32,
    /// How often it was completed.
    pub downloaded: u32,
    /// Leechers.
    pub incomplete: u32,
}

/// Why a query is refused; its text is the `failure reason`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {}

/// Why a reply cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {}

impl AnnounceRequest {
    /// Client end: appends the query to `url`'s text (`?` or `&` as fits).
    pub fn to_url(&self, announce_url: &str) -> String {
        let _ = announce_url;
        todo!()
    }
    /// Tracker end: reads the raw query (without `?`), allocation-free in the usual case.
    pub fn from_query(query: &[u8]) -> Result<Self, QueryError> {
        let _ = query;
        todo!()
    }
}

impl AnnounceReply {
    /// Tracker end: the body. `compact` and `no_peer_id` as asked.
    pub fn encode(&self, compact: bool, no_peer_id: bool, out: &mut Vec<u8>) {
        let _ = (compact, no_peer_id, out);
        todo!()
    }
    /// Client end: reads a body of at most 1 MiB, lenient about order and unknown keys.
    pub fn decode(body: &[u8]) -> Result<TrackerAnswer<Self>, ReplyError> {
        let _ = body;
        todo!()
    }
}

/// Tracker end: a `failure reason` body.
pub fn encode_failure(reason: &str, retry_in_minutes: Option<u32>, out: &mut Vec<u8>) {
    let _ = (reason, retry_in_minutes, out);
    todo!()
}

/// Client end: the scrape URL that belongs to an announce URL by the convention of BEP-48,
/// with the hashes appended; `None` when the announce URL follows no such convention.
pub fn scrape_url(announce_url: &str, hashes: &[InfoHash]) -> Option<String> {
    let _ = (announce_url, hashes);
    todo!()
}
/// Tracker end: the hashes of a scrape query, at most `max`; empty means a full scrape was asked.
pub fn scrape_hashes(query: &[u8], max: usize) -> Result<Vec<InfoHash>, QueryError> {
    let _ = (query, max);
    todo!()
}
/// Tracker end: the body; keys sorted by hash.
pub fn encode_scrape(files: &[(InfoHash, ScrapeEntry)], out: &mut Vec<u8>) {
    let _ = (files, out);
    todo!()
}
/// Client end: reads a scrape body.
pub fn decode_scrape(
    body: &[u8],
) -> Result<TrackerAnswer<Vec<(InfoHash, ScrapeEntry)>>, ReplyError> {
    let _ = body;
    todo!()
}
