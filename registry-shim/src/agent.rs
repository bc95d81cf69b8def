//! The agent as a whole: started, addressed, shut down.

use std::net::SocketAddr;

use leecher::Engine;

use crate::config::Config;

/// Where an agent listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addrs {
    /// `docker pull`.
    pub registry: SocketAddr,
    /// BitTorrent.
    pub peer: SocketAddr,
    /// Health, readiness, status, metrics.
    pub api: SocketAddr,
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {}

/// A running agent. Dropping it without [`Agent::shutdown`] ends its tasks without a word to
/// the trackers.
#[derive(Debug)]
pub struct Agent {
    _private: (),
}

impl Agent {
    /// Binds the three ports, opens the store, seeds what is in it. A herd that cannot be
    /// reached is a warning: it is asked again at every pull.
    #[allow(clippy::unused_async, reason = "the contract of what follows")]
    pub async fn start(config: Config) -> Result<Self, AgentError> {
        let _ = config;
        todo!()
    }
    /// Where it listens.
    pub fn addrs(&self) -> Addrs {
        todo!()
    }
    /// The engine under it.
    pub fn engine(&self) -> &Engine {
        todo!()
    }
    /// Lets open bodies end within a grace period, tells the trackers, joins every task.
    #[allow(clippy::unused_async, reason = "the contract of what follows")]
    pub async fn shutdown(self) {
        todo!()
    }
}
