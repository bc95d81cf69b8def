//! The swarm table and its HTTP face: announce, scrape, registration, look-up, health, metrics
//! and inspection.
//!
//! ```text
//!   http (lane, routes) ──▶ table ──▶ swarms, one shard at a time   (pure)
//!                    ▲        └─────▶ registrations                 (pure) ◀── cache on disk
//!                    └ shared ◀──▶ other trackers, by a stream in Redis (when told so)
//! ```
//!
//! A tracker is stateless in what matters: peers announce again, origins register again when
//! they see a new boot id. It never sees a blob's byte.

mod asker;
mod cache;
mod config;
mod deny;
mod descriptors;
mod endpoint;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod housekeeping;
mod http;
mod inspect;
mod limiter;
mod metrics;
mod moment;
mod page;
mod peers;
mod registrations;
mod server;
mod service;
mod shared;
mod swarms;
mod table;

pub use config::{Config, Intervals, Limits, Mode};
pub use deny::DenyError;
pub use server::{Tracker, TrackerError};
