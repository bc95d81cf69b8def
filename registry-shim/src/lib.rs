//! The agent: the read half of `/v2/`, fed by the swarm.
//!
//! A pull is answered from the local store, from a download under way, or by starting one:
//! the origin names the torrent, the engine of `leecher` fetches it from every peer that has
//! it. With no origin left, a tracker names the swarm and its peers give the metadata.
//!
//! Invariants: one download per digest, however many ask; headers of a blob go out as soon as
//! its length is known; a body carries verified bytes only, and its last bytes wait for the
//! digest of the whole; a tag is answered from memory only while an origin that may have moved it
//! does not answer; an image of one registry is never given for another's; nothing that is being
//! read or downloaded is evicted. A push is never accepted.

pub mod agent;
mod api;
mod blobs;
mod body;
pub mod config;
mod fetch;
mod files;
mod head_start;
mod herds;
mod knowledge;
mod ledger;
mod manifests;
mod metrics;
mod namespace;
mod origin;
mod recent;
mod registry;
mod shelf;
mod shim;
pub mod status;
mod tags;
mod trackers;

pub use agent::{Addrs, Agent, AgentError};
pub use config::{Config, Herd, InvalidHerd, Patience};
