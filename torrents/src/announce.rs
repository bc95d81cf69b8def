//! Tracker messages over HTTP, both ends: announce and scrape (BEP 3, 7, 21, 23, 24, 31, 48).
//!
//! Clients compose a query and read a reply; the tracker reads a query and composes a reply.
//! Queries are raw percent-encoded bytes, never forced through a string; replies are written
//! by hand in canonical key order and read leniently.
//!
//! Invariants: reading a query allocates only for `trackerid`; writing a reply allocates
//! nothing beyond its buffer; an address that nobody can dial (port 0, unspecified, multicast,
//! link-local) is neither handed out nor read, and IPv4 inside IPv6 is IPv4.

mod query;
mod reply;
mod scrape;

use std::net::{IpAddr, SocketAddr};

use crate::bencode::BencodeError;
use crate::id::{InfoHash, PeerId};

pub use reply::encode_failure;
pub use scrape::{decode_scrape, encode_scrape, scrape_hashes, scrape_url};

/// Longest reply a client reads, in bytes: libtorrent's limit.
pub const MAX_REPLY: usize = 1 << 20;

/// Most peers a client takes from one reply.
pub const MAX_REPLY_PEERS: usize = 3_000;

/// Longest `tracker id` kept or echoed, in bytes.
pub const MAX_TRACKER_ID: usize = 128;

/// What counts as `interval` when a tracker states none.
pub const DEFAULT_INTERVAL: u32 = 1_800;

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
    /// Where the asker listens; 0 when it does not, and then it is never handed out.
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
    pub ip: Option<IpAddr>,
    /// Echo of the reply's `tracker id`; bounded.
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
    pub external_ip: Option<IpAddr>,
    /// Shown to people.
    pub warning: Option<String>,
    /// Others.
    pub peers: Vec<ReplyPeer>,
    /// Others that a tracker names by host, which must be looked up; only read, never composed.
    pub hosts: Vec<(String, u16)>,
}

/// A reply as a client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrackerAnswer<T> {
    /// What was asked for.
    Ok(T),
    /// `failure reason`, and BEP-31's `retry in` in minutes (`Some(None)` is "never").
    Failure {
        /// What the tracker said, cleaned for display.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// A parameter that must be there is not.
    #[error("missing {0}")]
    Missing(&'static str),
    /// A parameter that must be 20 bytes, percent-encoded, is not.
    #[error("{0} is not 20 bytes, percent-encoded")]
    NotTwentyBytes(&'static str),
    /// No port number.
    #[error("port is not a number below 65536")]
    Port,
    /// An announce concerns one swarm.
    #[error("more than one info_hash in an announce")]
    SeveralHashes,
    /// A scrape of more than the tracker answers at once.
    #[error("more than {max} info_hash in a scrape")]
    TooManyHashes {
        /// The tracker's limit.
        max: usize,
    },
}

/// Why a reply cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// Over [`MAX_REPLY`].
    #[error("the tracker answered {0} bytes, more than {MAX_REPLY}")]
    TooLong(usize),
    /// No bencode within the limits: perhaps an HTML page.
    #[error("the tracker's answer is no bencode: {0}")]
    Bencode(#[from] BencodeError),
    /// Bencode, but no dictionary.
    #[error("the tracker's answer is no dictionary")]
    NotDictionary,
}

/// The address in the form in which it is handed out and dialled: IPv4 inside IPv6 becomes
/// IPv4. `None` when nobody can dial it: port 0, unspecified, multicast, broadcast, link-local
/// IPv6 (which needs a scope that does not travel).
pub fn dialable(addr: SocketAddr) -> Option<SocketAddr> {
    let ip = addr.ip().to_canonical();
    let nowhere = ip.is_unspecified()
        || ip.is_multicast()
        || match ip {
            IpAddr::V4(ip) => ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
    (addr.port() != 0 && !nowhere).then(|| SocketAddr::new(ip, addr.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_can_be_dialled_are_peers() {
        let dial = |text: &str| dialable(text.parse().unwrap()).map(|addr| addr.to_string());
        for kept in [
            "10.0.0.1:1",
            "127.0.0.1:65535",
            "[2001:db8::1]:6881",
            "[::1]:80",
        ] {
            assert_eq!(dial(kept).as_deref(), Some(kept));
        }
        assert_eq!(dial("[::ffff:10.0.0.1]:5").as_deref(), Some("10.0.0.1:5"));
        for dropped in [
            "10.0.0.1:0",
            "0.0.0.0:1",
            "255.255.255.255:1",
            "224.0.0.1:1",
            "[::]:1",
            "[::ffff:0.0.0.0]:1",
            "[fe80::1]:1",
            "[ff02::1]:1",
        ] {
            assert_eq!(dial(dropped), None, "{dropped}");
        }
    }
}
