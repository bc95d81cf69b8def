//! What `GET /status` on the agent's API tells: read by people, `swell status` and the demo.

use std::net::SocketAddr;

use oci::Digest;
use serde::{Deserialize, Serialize};

/// One agent, now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Of the program.
    pub version: String,
    /// Seconds since the agent started.
    pub uptime_secs: u64,
    /// What is announced to trackers.
    pub peer: SocketAddr,
    /// The registry for `docker pull`.
    pub registry: SocketAddr,
    /// Origins, in the order they are asked.
    pub herds: Vec<HerdStatus>,
    /// Announce addresses used when no origin names others.
    pub trackers: Vec<String>,
    /// What is kept.
    pub cache: CacheStatus,
    /// Connected peers, all swarms together.
    pub peers: usize,
    /// Blobs and manifests under way and lately finished, newest first; bounded.
    pub blobs: Vec<BlobStatus>,
}

/// One origin, as the agent last met it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HerdStatus {
    /// Its registry.
    pub registry: String,
    /// Its API.
    pub api: String,
    /// How the last question went.
    pub state: HerdState,
    /// Why it is unreachable, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Where its peer listens, as it said.
    pub peers: Vec<SocketAddr>,
}

/// How the last question to an origin went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HerdState {
    /// Nothing was asked yet.
    Unknown,
    /// It answered.
    Reachable,
    /// It did not.
    Unreachable,
}

/// The local store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CacheStatus {
    /// Bytes of complete content.
    pub bytes: u64,
    /// Bytes to keep at most.
    pub capacity: Option<u64>,
    /// Complete blobs and manifests.
    pub entries: usize,
}

/// Where one download stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobPhase {
    /// Fetching pieces.
    Downloading,
    /// Everything is here and the digest is right.
    Complete,
    /// It stopped; see the note.
    Failed,
}

/// One download, live or finished.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlobStatus {
    /// Its digest.
    pub digest: Digest,
    /// The repository it was first asked in.
    pub repository: String,
    /// Its swarm, in hexadecimal; absent for what came whole from the origin's registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info_hash: Option<String>,
    /// Where it stands.
    pub phase: BlobPhase,
    /// Bytes in all.
    pub length: u64,
    /// Bytes verified.
    pub verified: u64,
    /// Bytes that came over the peer wire from origins.
    pub from_origin: u64,
    /// Bytes that came over the peer wire from anybody else.
    pub from_peers: u64,
    /// Bytes that came by HTTP from an origin: its web seed, or its registry (manifests).
    pub from_web_seed: u64,
    /// Bytes this agent gave to others.
    pub uploaded: u64,
    /// Bytes thrown away: duplicates and bad pieces.
    pub wasted: u64,
    /// Wire bytes by address, most first; bounded.
    pub sources: Vec<SourceStatus>,
    /// Milliseconds from the first request to the first byte of a body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<f64>,
    /// Milliseconds from the first request until it was verified (or until now).
    pub duration_ms: f64,
    /// Why it waits or failed, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// One peer that gave bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Where it listens, or its connection's address when it did not say.
    pub addr: SocketAddr,
    /// Whether it is an origin.
    pub origin: bool,
    /// Useful bytes.
    pub bytes: u64,
}
