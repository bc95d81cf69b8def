//! The agent as a whole: started, addressed, shut down.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use leecher::store::StoreError;
use leecher::{Engine, EngineError, LocalStore, OpenGate, Seed};
use oci::serve::{self, BindError};
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use torrents::PeerId;

use crate::api::{Api, reachable};
use crate::config::Config;
use crate::fetch::Surroundings;
use crate::files::blocking;
use crate::herds::Herds;
use crate::metrics::Metrics;
use crate::origin::Origin;
use crate::registry::Registry;
use crate::shelf::{Shelf, ShelfLibrary};
use crate::shim::{Parts, Shim};
use crate::tags::Tags;
use crate::trackers::Trackers;

/// For a connection to a herd or tracker; a longer wait belongs to the answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Connections to one herd or tracker that are kept for the next questions, and how long. Each holds
/// buffers: what a burst of pulls opened must not stay.
const KEPT: usize = 4;
const KEPT_FOR: Duration = Duration::from_secs(20);
/// How often what exceeds the capacity is looked for, beside the end of every download.
const TIDY_EVERY: Duration = Duration::from_secs(30);

/// Where an agent listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addrs {
    /// `docker pull`.
    pub registry: SocketAddr,
    /// BitTorrent: the address announced.
    pub peer: SocketAddr,
    /// Health, readiness, status, metrics.
    pub api: SocketAddr,
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The data directory cannot be used.
    #[error("cannot use the data directory {}: {source}\nhint: give --data a directory that this user may write", path.display())]
    Data {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store below it cannot be opened.
    #[error("cannot open the store: {0}")]
    Store(#[from] StoreError),
    /// A port is taken, or the address is not of this host.
    #[error("the {service} has no port: {source}")]
    Listen {
        /// What would have listened.
        service: &'static str,
        /// Where, why, and what to do.
        source: BindError,
    },
    /// Peers would be told to dial an address that is none.
    #[error(
        "peers cannot be told to dial {0}\nhint: name the address other hosts reach this one at with --advertise, or listen on it with --peer-listen"
    )]
    NoAddress(SocketAddr),
    /// The engine does not start: most often, its port is taken.
    #[error("{0}\nhint: is another agent running on this host? each needs a peer port of its own")]
    Engine(#[from] EngineError),
    /// The client for herds and trackers cannot be made.
    #[error("cannot make an HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// A running agent. Dropping it without [`Agent::shutdown`] ends its tasks without a word to
/// the trackers.
#[derive(Debug)]
pub struct Agent {
    shim: Arc<Shim>,
    addrs: Addrs,
}

impl Agent {
    /// Binds the three ports, opens the store, seeds what is in it. A herd that cannot be
    /// reached is a warning: it is asked again at every pull.
    pub async fn start(config: Config) -> Result<Self, AgentError> {
        if config.peer.ip().is_unspecified() && config.advertise.is_none() {
            return Err(AgentError::NoAddress(config.peer));
        }
        let registry = bind(config.registry, "registry")?;
        let api = bind(config.api, "agent API")?;
        let client = client(&config)?;
        let opening = (config.clone(), client.clone());
        let (store, tags, trackers) = blocking(move || open(&opening.0, opening.1)).await?;
        let library = Arc::new(ShelfLibrary(store.clone()));
        let gate = Arc::new(OpenGate);
        let engine = Engine::start_apart(engine_config(&config), library, gate).await?;
        let addrs = Addrs {
            registry: registry.local_addr().map_err(|e| data(&config.data, e))?,
            peer: engine.announced_addr(),
            api: api.local_addr().map_err(|e| data(&config.data, e))?,
        };
        let stop = CancellationToken::new();
        let shim = Shim::new(
            Parts {
                around: surroundings(&config, &client, store, &engine),
                config,
                engine,
                trackers,
                tags,
            },
            stop.clone(),
        );
        let agent = Self { shim, addrs };
        agent.seed_everything();
        let shim = agent.shim.clone();
        agent.spawn_service(registry, Registry::new(shim, addrs.registry));
        agent.spawn_service(api, Api::new(agent.shim.clone(), addrs));
        agent.spawn_chores();
        Ok(agent)
    }

    /// Where it listens.
    pub fn addrs(&self) -> Addrs {
        self.addrs
    }

    /// The engine under it.
    pub fn engine(&self) -> &Engine {
        &self.shim.engine
    }

    /// Lets open bodies end within a grace period, tells the trackers, joins every task.
    pub async fn shutdown(self) {
        let shim = &self.shim;
        shim.stop.cancel();
        shim.fetching.shutdown().await;
        shim.keeping.shutdown().await;
        shim.tasks.close();
        shim.tasks.wait().await;
        shim.engine.shutdown().await;
        shim.trackers.save().await;
        let store = shim.around.shelf.store().clone();
        if let Err(error) = blocking(move || store.sync()).await {
            tracing::warn!("interrupted downloads are checked again at the next start: {error}");
        }
    }

    /// Everything complete is announced again.
    fn seed_everything(&self) {
        let trackers = self.shim.trackers.tiers();
        for stored in self.shim.around.shelf.store().complete() {
            if let Some(info_hash) = stored.info_hash {
                let trackers = trackers.clone();
                self.shim.engine.seed(Seed {
                    info_hash,
                    trackers,
                });
            }
        }
    }

    fn spawn_service<S: serve::Service>(&self, listener: TcpListener, service: S) {
        let stop = self.shim.stop.clone().cancelled_owned();
        self.shim
            .tasks
            .spawn(serve::listen(listener, service, stop));
    }

    /// Warns of herds that cannot be reached, then keeps the store within its capacity.
    fn spawn_chores(&self) {
        let shim = self.shim.clone();
        let chores = async move {
            if let Err(why) = reachable(&shim).await {
                tracing::warn!("{why}; it is asked again at every pull");
            }
            let mut ticks = interval(TIDY_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                shim.tidy().await;
            }
        };
        let stop = self.shim.stop.clone();
        self.shim
            .tasks
            .spawn(async move { stop.run_until_cancelled(chores).await });
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shim.stop.cancel();
    }
}

fn bind(addr: SocketAddr, service: &'static str) -> Result<TcpListener, AgentError> {
    serve::bind(addr).map_err(|source| AgentError::Listen { service, source })
}

/// No proxy of the environment comes between hosts of one network, and no redirect leads an
/// agent elsewhere than to the herd it was given.
fn client(config: &Config) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .user_agent(concat!("swell-agent/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_WITHIN.min(config.patience.origin))
        .pool_max_idle_per_host(KEPT)
        .pool_idle_timeout(KEPT_FOR)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
}

/// Blocking.
fn open(
    config: &Config,
    client: reqwest::Client,
) -> Result<(LocalStore, Tags, Trackers), AgentError> {
    let dir = &config.data;
    std::fs::create_dir_all(dir).map_err(|e| data(dir, e))?;
    let store = LocalStore::open(&dir.join("content"))?;
    let tags = Tags::open(&dir.join("tags")).map_err(|e| data(dir, e))?;
    let trackers = Trackers::open(config, client);
    Ok((store, tags, trackers))
}

fn data(path: &Path, source: io::Error) -> AgentError {
    AgentError::Data {
        path: path.to_owned(),
        source,
    }
}

fn engine_config(config: &Config) -> leecher::Config {
    let defaults = leecher::Config::default();
    leecher::Config {
        listen: config.peer,
        advertise: config.advertise,
        peer_id: PeerId::generate(&mut rand::rng()),
        upload_limit: config.upload_limit,
        download_limit: config.download_limit,
        memory: config.memory.unwrap_or(defaults.memory),
        max_connections: config.max_connections.unwrap_or(defaults.max_connections),
        exchange_metadata: true,
        ..defaults
    }
}

fn surroundings(
    config: &Config,
    client: &reqwest::Client,
    store: LocalStore,
    engine: &Engine,
) -> Surroundings {
    let metrics = Arc::new(Metrics::new());
    let origins = config
        .herds
        .iter()
        .map(|herd| Origin::new(herd.clone(), client.clone(), config.patience.origin));
    Surroundings {
        shelf: Shelf::new(
            store,
            engine.clone(),
            &config.data,
            config.capacity,
            metrics.clone(),
        ),
        herds: Herds::new(origins),
        metrics,
        patience: config.patience,
    }
}
