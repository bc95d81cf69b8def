//! What an origin tells a tracker: `POST /register`, bencoded, in bulk and leased; and the
//! look-up of an info hash by label: `GET /lookup/<label>`.
//!
//! An origin repeats its full set (in batches) when it sees a new boot id, renews by an empty
//! request within the lease, and withdraws what it dropped.

use std::net::SocketAddr;
use std::time::Duration;

use crate::id::{InfoHash, PeerId};

/// At most this many entries in one request.
pub const MAX_BATCH: usize = 2_000;
/// At most this many bytes in one request body.
pub const MAX_BODY: usize = 1 << 20;

/// One torrent an origin seeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The swarm.
    pub info_hash: InfoHash,
    /// What the blob is called: `sha256:<hex>`. Opaque to the tracker, printable, bounded.
    pub label: String,
    /// Bytes of the blob.
    pub length: u64,
    /// Where people met it (`team/app:v1`), for inspection; bounded.
    pub names: Vec<String>,
}

/// One batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterRequest {
    /// Which origin; a lease belongs to it.
    pub origin: PeerId,
    /// Where its peer listens, to be handed out as a seed. Several for IPv4 and IPv6.
    pub peers: Vec<SocketAddr>,
    /// Torrents it seeds now.
    pub add: Vec<Registration>,
    /// Torrents it no longer seeds.
    pub remove: Vec<InfoHash>,
}

/// What the tracker answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterReply {
    /// Changes when the tracker forgot: register everything again.
    pub boot_id: String,
    /// How long the origin's registrations stand without another request.
    pub lease: Duration,
    /// How many of this origin's registrations the tracker holds now.
    pub held: u64,
}

/// What `GET /lookup/<label>` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupReply {
    /// The swarm.
    pub info_hash: InfoHash,
    /// Bytes of the blob.
    pub length: u64,
}

/// A body that is no registration message; its text may be shown to the sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {}

impl RegisterRequest {
    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }
    /// Reads a body within the limits above.
    pub fn decode(body: &[u8]) -> Result<Self, RegisterError> {
        let _ = body;
        todo!()
    }
}
impl RegisterReply {
    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }
    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self, RegisterError> {
        let _ = body;
        todo!()
    }
}
impl LookupReply {
    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }
    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self, RegisterError> {
        let _ = body;
        todo!()
    }
}
