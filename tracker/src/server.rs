//! A running tracker: its listeners, its tasks, its end.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use rand::RngExt;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cache;
use crate::config::Config;
use crate::deny::DenyError;
use crate::descriptors;
use crate::housekeeping::{Denying, Household, housekeeping_task};
use crate::http::accept::{Open, accept_task, bind};
use crate::http::connection::Serving;
use crate::http::routes::Routes;
use crate::metrics::Metrics;
use crate::moment::Moment;
use crate::service::Service;
use crate::shared::Shared;
use crate::table::Table;

/// Why a tracker does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrackerError {
    /// The address is taken, or not of this host.
    #[error("tracker cannot listen on {addr}: {error}")]
    Listen {
        /// What was asked for.
        addr: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The directory for registrations cannot be used.
    #[error("tracker cannot keep registrations in {path}: {error}")]
    Data {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The deny list cannot be taken.
    #[error("tracker cannot take its deny list: {0}")]
    Deny(#[from] DenyError),
    /// The other trackers cannot be joined.
    #[error("tracker cannot use the Redis at {host}: {error}")]
    Redis {
        /// The address, without user and password.
        host: String,
        /// What went wrong.
        error: redis::RedisError,
    },
    /// A thread could not be started.
    #[error("tracker cannot start a thread: {0}")]
    Thread(io::Error),
}

impl TrackerError {
    fn redis(url: &str, error: redis::RedisError) -> Self {
        let host = url.rsplit('@').next().unwrap_or_default();
        let host = host.trim_start_matches("redis://").to_owned();
        Self::Redis { host, error }
    }
}

/// A tracker that serves until it is shut down or dropped.
#[derive(Debug)]
pub struct Tracker {
    addr: SocketAddr,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    threads: Vec<std::thread::JoinHandle<()>>,
    _guard: DropGuard,
}

impl Tracker {
    /// Binds, loads what an earlier run knew, and returns once announces are answered.
    pub async fn start(mut config: Config) -> Result<Self, TrackerError> {
        descriptors::fit(&mut config.limits);
        let listeners = listen(&config)?;
        let addr = listeners
            .first()
            .and_then(|listener| listener.local_addr().ok());
        let addr = addr.unwrap_or(config.listen);
        let mut shared = shared(&config).await?;
        let service = Arc::new(new_service(&config, shared.as_ref()));
        if let Some(directory) = config.data.clone() {
            prepare(&service, directory).await?;
        }
        let denying = Denying::new(&config).started(&service).await?;
        if let (Some(shared), Some(url)) = (&mut shared, &config.redis) {
            let caught_up = shared.catch_up(&service).await;
            caught_up.map_err(|error| TrackerError::redis(url, error))?;
        }
        let shutdown = CancellationToken::new();
        let open = Open::default();
        let routes = Routes::new(Arc::clone(&service), open.clone(), shutdown.clone());
        let serving = Serving {
            service: Arc::clone(&service),
            routes,
            shutdown: shutdown.clone(),
        };
        let sharing = shared.map(|shared| shared.run(Arc::clone(&service), shutdown.clone()));
        let household = Household::new(service, denying, config.data.clone());
        let housekeeping = housekeeping_task(household, Household::keep, shutdown.clone());
        let mut tracker = Self {
            addr,
            tasks: vec![tokio::spawn(housekeeping)],
            threads: Vec::new(),
            _guard: shutdown.clone().drop_guard(),
            shutdown,
        };
        tracker.tasks.extend(sharing.map(tokio::spawn));
        for listener in listeners {
            tracker.serve(&config, serving.clone(), listener, open.clone())?;
        }
        Ok(tracker)
    }

    /// Where it serves.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns when the tracker has stopped serving, which it does by itself only if a listener
    /// or the housekeeping breaks down.
    pub async fn finished(&self) {
        self.shutdown.cancelled().await;
    }

    /// Stops taking connections, lets the answers under way go out, saves the registrations.
    pub async fn shutdown(mut self) {
        self.shutdown.cancel();
        for task in std::mem::take(&mut self.tasks) {
            // A task that panicked has said so already.
            let _ = task.await;
        }
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                let _ = thread.join();
            }
        });
        let _ = joined.await;
    }

    fn serve(
        &mut self,
        config: &Config,
        serving: Serving,
        listener: TcpListener,
        open: Open,
    ) -> Result<(), TrackerError> {
        // However it ends: a tracker that serves from some of its threads only is down for some.
        let shutdown = self.shutdown.clone().drop_guard();
        let serve = async move {
            let _shutdown = shutdown;
            if let Err(error) = accept_task(serving, listener, open).await {
                tracing::error!(%error, "tracker's listener broke down");
            }
        };
        if config.threads.is_none() {
            self.tasks.push(tokio::spawn(serve));
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(TrackerError::Thread)?;
        let thread = std::thread::Builder::new()
            .name(format!("tracker-{}", self.threads.len()))
            .spawn(move || runtime.block_on(serve))
            .map_err(TrackerError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }
}

/// One listener for the caller's runtime, or one for each thread on the same port.
fn listen(config: &Config) -> Result<Vec<TcpListener>, TrackerError> {
    let bound =
        |addr, shared| bind(addr, shared).map_err(|error| TrackerError::Listen { addr, error });
    let Some(threads) = config.threads else {
        return Ok(vec![bound(config.listen, false)?]);
    };
    // A shared port would be shared with another tracker too, each taking half of the peers:
    // taking it alone first tells.
    let alone = bound(config.listen, false)?;
    let addr = alone.local_addr().unwrap_or(config.listen);
    drop(alone);
    (0..threads.get()).map(|_| bound(addr, true)).collect()
}

/// Joins the other trackers, if there are any.
async fn shared(config: &Config) -> Result<Option<Shared>, TrackerError> {
    let Some(url) = &config.redis else {
        return Ok(None);
    };
    let window = (config.intervals.seed * 2).max(config.intervals.expiry_floor);
    let shared = Shared::connect(url, random_id(), window).await;
    shared
        .map(Some)
        .map_err(|error| TrackerError::redis(url, error))
}

fn random_id() -> String {
    format!("{:016x}", rand::rng().random::<u64>())
}

fn new_service(config: &Config, shared: Option<&Shared>) -> Service {
    let boot_id = shared.map_or_else(random_id, |shared| shared.boot_id().to_owned());
    let table = Table::new(config, boot_id, rand::rng().random());
    Service {
        table: table.telling(shared.map(Shared::outbox)),
        metrics: Metrics::default(),
        limits: config.limits.clone(),
        secret: config.secret.clone(),
        anyone_registers: config.anyone_registers,
        started: Instant::now(),
    }
}

/// Makes sure that the directory takes files, and reads the cache in it. A cache that cannot
/// be read costs only until the origins register again.
async fn prepare(service: &Arc<Service>, directory: PathBuf) -> Result<(), TrackerError> {
    let service = Arc::clone(service);
    let path = directory.clone();
    let loaded = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&directory)?;
        tempfile_probe(&directory)?;
        let loaded = service.table.restore(|registrations, effects| {
            cache::load(&directory, Moment::default(), registrations, effects)
        });
        match loaded {
            Ok(()) => {
                let swarms = service.table.registrations().len();
                tracing::info!(swarms, "registrations remembered");
            }
            Err(error) => tracing::warn!(%error, "registrations of an earlier run are lost"),
        }
        Ok(())
    });
    match loaded.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(TrackerError::Data { path, error }),
        Err(join) => Err(TrackerError::Data {
            path,
            error: io::Error::other(join),
        }),
    }
}

/// An unwritable directory is said at the start, not at the first save.
fn tempfile_probe(directory: &std::path::Path) -> io::Result<()> {
    let probe = directory.join(".writable");
    std::fs::write(&probe, b"")?;
    std::fs::remove_file(probe)
}
