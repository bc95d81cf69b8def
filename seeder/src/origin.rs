//! One origin: its ports, store, engine and tasks, started together and stopped together.

use std::net::SocketAddr;
use std::sync::Arc;

use leecher::Engine;
use oci::{Access, OpenAccess};

use crate::config::Config;
use crate::error::OriginError;

/// A running origin. Dropping it stops everything at once, as a crash would; what was
/// acknowledged is on disk either way.
#[derive(Debug)]
pub struct Origin {
    addrs: Addrs,
    engine: Engine,
}

/// Where a running origin listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addrs {
    /// Push and pull.
    pub registry: SocketAddr,
    /// Torrents, web seed, health, metrics.
    pub api: SocketAddr,
    /// The tag API.
    pub tags: SocketAddr,
    /// Peers.
    pub peer: SocketAddr,
}

impl Origin {
    /// Starts with everything allowed to everybody. When it returns, all ports are bound, the
    /// store is open and the engine serves peers.
    pub async fn start(config: Config) -> Result<Self, OriginError> {
        Self::start_with(config, Arc::new(OpenAccess)).await
    }

    /// Starts with a policy of who may do what.
    pub async fn start_with(config: Config, access: Arc<dyn Access>) -> Result<Self, OriginError> {
        let _ = (config, access);
        std::future::ready(()).await;
        todo!()
    }

    /// Where it listens.
    pub fn addrs(&self) -> Addrs {
        self.addrs
    }

    /// Its peer side.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Lets open requests end within a grace period, then stops everything. Its registrations
    /// stand: the swarms it fed go on without it.
    pub async fn shutdown(self) {
        std::future::ready(()).await;
        todo!()
    }
}
