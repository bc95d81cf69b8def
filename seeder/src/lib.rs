//! The origin: the push half of the registry, the durable store, blob to torrent, seeding,
//! tags.
//!
//! What was answered 201 is on disk and survives `kill -9` and power loss; what was not leaves
//! nothing behind. This room never picks pieces (the engine does) and never runs a tracker (it
//! registers with some).

mod api;
mod config;
mod doubts;
mod error;
mod heads;
mod intake;
mod ledger;
mod metrics;
mod origin;
mod publisher;
mod push;
mod registrar;
mod registry;
mod sessions;
mod shelf;
mod store;
mod tag_api;
mod upload;

pub use config::{Config, Limits};
pub use error::OriginError;
pub use origin::{Addrs, Origin};
