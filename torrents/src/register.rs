//! What an origin tells a tracker: `POST /register`, bencoded, in bulk and leased; and the
//! look-up of an info hash by label: `GET /lookup/<label>`.
//!
//! An origin repeats its full set (in batches) when it sees a new boot id, renews by an empty
//! request within the lease, and withdraws what it dropped.
//!
//! ```text
//! request  { "add": [ { "info_hash": 20 bytes, "label": text, "length": n, "names": [text] } ],
//!            "origin": 20 bytes, "peers": [ 6 or 18 bytes ], "remove": n times 20 bytes }
//! reply    { "boot_id": text, "held": n, "lease_ms": n }
//! look-up  { "info_hash": 20 bytes, "length": n }
//! refusal  { "failure reason": text }, in place of either reply
//! ```
//!
//! Both ends are ours, so bencode is strict and canonical here; keys that a later version adds
//! are ignored. Invariant: what was decoded is within every limit of this module.

mod codec;

use std::net::SocketAddr;
use std::time::Duration;

use crate::id::{InfoHash, PeerId};

/// At most this many entries in one request.
pub const MAX_BATCH: usize = 2_000;
/// At most this many bytes in one request body.
pub const MAX_BODY: usize = 1 << 20;
/// At most this many bytes in a label.
pub const MAX_LABEL: usize = 200;
/// At most this many names are sent and kept of one torrent.
pub const MAX_NAMES: usize = 8;
/// At most this many bytes in a name: the longest repository name and tag fit.
pub const MAX_NAME: usize = 512;
/// At most this many addresses of one origin.
pub const MAX_PEERS: usize = 8;
/// At most this many bytes in a boot id.
pub const MAX_BOOT_ID: usize = 128;

/// One torrent an origin seeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The swarm.
    pub info_hash: InfoHash,
    /// What the blob is called: `sha256:<hex>`. Opaque to the tracker, printable, bounded.
    pub label: String,
    /// Bytes of the blob.
    pub length: u64,
    /// Where people met it (`team/app:v1`), for inspection; the first few travel.
    pub names: Vec<String>,
}

/// One batch. A tracker takes out `remove` before it puts in `add`.
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
pub enum RegisterError {
    /// Over [`MAX_BODY`].
    #[error("the body has {0} bytes, more than {MAX_BODY}")]
    TooLong(usize),
    /// No canonical bencode.
    #[error("the body is no canonical bencode: {0}")]
    Bencode(String),
    /// A key that must be there is not.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A value of the wrong type or out of range.
    #[error("`{0}` is malformed")]
    Malformed(&'static str),
    /// More of something than the limits of this module.
    #[error("`{0}` has too many entries")]
    TooMany(&'static str),
    /// The tracker answered with a `failure reason`.
    #[error("the tracker refused: {0}")]
    Refused(String),
}

/// Whether a text can be a label: what digests are made of, safe in a URL, a log and a page.
pub fn is_label(text: &str) -> bool {
    (1..=MAX_LABEL).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b":.+-_=".contains(&byte))
}

/// Whether a text can be a name: printable and not too long.
fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && !text.chars().any(char::is_control)
}

impl Registration {
    /// The names that travel: the first that can.
    fn sent_names(&self) -> impl Iterator<Item = &String> {
        self.names
            .iter()
            .filter(|name| is_name(name))
            .take(MAX_NAMES)
    }

    /// The entry takes less room than this in a body.
    fn room(&self) -> usize {
        let names: usize = self.sent_names().map(|name| name.len() + 4).sum();
        128 + self.label.len() + names
    }
}

impl RegisterRequest {
    /// Cuts a request of any size into such as a tracker accepts, in order; at least one.
    pub fn into_batches(self) -> Vec<Self> {
        let mut batches = Batches::new(self.origin, self.peers);
        for hash in self.remove {
            batches
                .with_room_for(size_of::<InfoHash>())
                .remove
                .push(hash);
        }
        for entry in self.add {
            batches.with_room_for(entry.room()).add.push(entry);
        }
        batches.cut.push(batches.open);
        batches.cut
    }
}

/// Requests that are full, and the one that is being filled.
struct Batches {
    cut: Vec<RegisterRequest>,
    open: RegisterRequest,
    room: usize,
}

impl Batches {
    /// What is left of a body beside the origin, its addresses and the keys.
    const ROOM: usize = MAX_BODY - 1_024;

    fn new(origin: PeerId, peers: Vec<SocketAddr>) -> Self {
        Self {
            cut: Vec::new(),
            open: RegisterRequest {
                origin,
                peers,
                add: Vec::new(),
                remove: Vec::new(),
            },
            room: Self::ROOM,
        }
    }

    fn with_room_for(&mut self, bytes: usize) -> &mut RegisterRequest {
        let entries = self.open.add.len() + self.open.remove.len();
        if entries == MAX_BATCH || bytes > self.room {
            let fresh = Self::new(self.open.origin, self.open.peers.clone());
            self.cut.push(std::mem::replace(&mut self.open, fresh.open));
            self.room = Self::ROOM;
        }
        self.room = self.room.saturating_sub(bytes);
        &mut self.open
    }
}

#[cfg(test)]
mod tests;
