//! What can be set about a swarm.

use std::time::Duration;

use crate::geometry::BLOCK_LEN;

/// What can be set; defaults fit a data centre.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// Connections at most, web seeds not counted.
    pub max_peers: usize,
    /// Peers served at once (upload slots).
    pub upload_slots: usize,
    /// Requests a peer may queue with us (our `reqq`).
    pub max_inbound_requests: usize,
    /// Requests we may have outstanding with one peer, below its own `reqq`.
    pub max_outbound_requests: usize,
    /// Bytes requested or unverified at once, at first.
    pub budget: u64,
    /// Our request size: 16 KiB, or more in simulations.
    pub block_len: u32,
    /// Fetch from the web seed from the start instead of after a stall (tiny torrents).
    pub eager_web_seed: bool,
    /// Use nothing but uploads: we have everything or want nothing.
    pub upload_only: bool,
    /// How long without enough to live on until the web seed is used.
    pub stall: Duration,
    /// How long a requested block may take before it is asked of another peer too.
    pub request_timeout: Duration,
    /// How long a silent peer is kept.
    pub idle_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_peers: 100,
            upload_slots: 16,
            max_inbound_requests: 2_048,
            max_outbound_requests: 1_024,
            budget: 128 << 20,
            block_len: BLOCK_LEN,
            eager_web_seed: false,
            upload_only: false,
            stall: Duration::from_secs(2),
            request_timeout: Duration::from_secs(4),
            idle_timeout: Duration::from_secs(240),
        }
    }
}
