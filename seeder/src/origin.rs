//! One origin: its ports, store, engine and tasks, started together and stopped together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leecher::{Engine, OpenGate};
use oci::serve::{self, Service};
use oci::{Access, OpenAccess};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use torrents::PeerId;

use crate::api::ApiPort;
use crate::config::{Config, Limits};
use crate::error::OriginError;
use crate::heads::HeadStarts;
use crate::metrics::Metrics;
use crate::publisher::Publisher;
use crate::push::{RegistryPort, Room};
use crate::registrar::{self, Identity, Registrar};
use crate::registry::{Parts, Registry, WebAddresses};
use crate::sessions::Sessions;
use crate::shelf::Shelf;
use crate::store::DirStore;
use crate::tag_api::TagPort;

/// Commits under way have this long to end once the ports are closed.
const GRACE: Duration = Duration::from_secs(20);

/// A running origin. Dropping it stops everything at once, as a crash would; what was
/// acknowledged is on disk either way.
#[derive(Debug)]
pub struct Origin {
    addrs: Addrs,
    engine: Engine,
    store: DirStore,
    sessions: Arc<Sessions>,
    /// Ports, registrars, sweeper; aborted when dropped.
    tasks: JoinSet<()>,
    /// Uploads being received and committed, torrents being made anew.
    background: TaskTracker,
    stop: CancellationToken,
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
        if config.advertise.is_none() && config.peer.ip().is_unspecified() {
            return Err(OriginError::NoAddress { addr: config.peer });
        }
        let data = config.data.clone();
        let store = tokio::task::spawn_blocking(move || DirStore::open(&data));
        let store = store.await.map_err(|_| OriginError::Interrupted)??;
        let ports = Ports::bind(&config)?;
        let shelf = Arc::new(Shelf::new(store.stores().blobs));
        let engine = start_engine(&config, Arc::clone(&shelf)).await?;
        Self::run(&config, access, store, ports, shelf, engine)
    }

    /// Everything that can fail for a reason outside has been done.
    fn run(
        config: &Config,
        access: Arc<dyn Access>,
        store: DirStore,
        ports: Ports,
        shelf: Arc<Shelf>,
        engine: Engine,
    ) -> Result<Self, OriginError> {
        let urls = config.trackers.iter();
        let registrars: Vec<_> = urls
            .map(|url| Arc::new(Registrar::new(url.clone())))
            .collect();
        let (stop, background) = (CancellationToken::new(), TaskTracker::new());
        let web = WebAddresses::new(&api_url(config, &ports, &engine), &config.trackers);
        let registry = Arc::new(Registry::new(Parts {
            stores: store.stores(),
            access,
            publisher: Publisher::new(Arc::clone(&shelf), registrars.clone(), engine.clone()),
            web,
            sparse_indexes: config.limits.sparse_indexes,
            metrics: Arc::new(Metrics::default()),
            background: background.clone(),
            stop: stop.clone(),
        }));
        registry.mend_doubted();
        let limits = &config.limits;
        let sessions = Arc::new(Sessions::new(limits.sessions, limits.session_idle));
        let addrs = Addrs {
            peer: engine.local_addr(),
            ..ports.addrs
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(sweep_task(Arc::clone(&sessions), limits.session_idle));
        let registering = Registering {
            registry: Arc::clone(&registry),
            registrars,
            client: registrar::client()?,
            shelf,
            identity: Identity {
                peer_id: engine.peer_id(),
                peer: engine.announced_addr(),
                secret: config.tracker_secret.clone(),
            },
        };
        tasks.spawn(register_task(registering, stop.clone()));
        let (sessions_too, engine_too) = (Arc::clone(&sessions), engine.clone());
        let services = Services {
            registry,
            sessions: sessions_too,
            engine: engine_too,
        };
        ports.serve(services, limits, &background, &stop, &mut tasks);
        tracing::info!(
            registry = %addrs.registry, api = %addrs.api, tags = %addrs.tags, peer = %addrs.peer,
            data = %config.data.display(), "the origin is up"
        );
        Ok(Self {
            addrs,
            engine,
            store,
            sessions,
            tasks,
            background,
            stop,
        })
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
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        // The ports let requests end; the sweeper would go on for ever.
        let ended =
            async { while self.tasks.len() > 1 && self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
        self.tasks.shutdown().await;
        self.sessions.end_all();
        self.background.close();
        if tokio::time::timeout(GRACE, self.background.wait())
            .await
            .is_err()
        {
            tracing::warn!("some uploads did not end in time");
        }
        self.engine.shutdown().await;
        let store = self.store.clone();
        let closed = tokio::task::spawn_blocking(move || store.close()).await;
        if let Ok(Err(error)) = closed {
            tracing::warn!(%error, "cannot mark the store as closed; the next start will check it");
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What it takes to keep trackers told.
struct Registering {
    registry: Arc<Registry>,
    registrars: Vec<Arc<Registrar>>,
    client: reqwest::Client,
    shelf: Arc<Shelf>,
    identity: Identity,
}

/// Learns what stored content is called, then keeps every tracker told.
async fn register_task(this: Registering, stop: CancellationToken) {
    this.registry.name_stored().await;
    this.registry.remake_stored();
    let Registering {
        registrars,
        client,
        shelf,
        identity,
        ..
    } = this;
    let run = |one: Arc<Registrar>| {
        one.run(
            client.clone(),
            Arc::clone(&shelf),
            identity.clone(),
            stop.clone(),
        )
    };
    futures_util::future::join_all(registrars.into_iter().map(run)).await;
}

/// What the ports are served by.
struct Services {
    registry: Arc<Registry>,
    sessions: Arc<Sessions>,
    engine: Engine,
}

/// The three HTTP ports, bound.
struct Ports {
    registry: TcpListener,
    api: TcpListener,
    tags: TcpListener,
    addrs: Addrs,
}

impl Ports {
    fn bind(config: &Config) -> Result<Self, OriginError> {
        let bind = |what, addr| {
            let failed = |source| OriginError::Bind { what, source };
            let listener = serve::bind(addr).map_err(failed)?;
            let local = listener.local_addr();
            let local = local.map_err(|source| failed(serve::BindError { addr, source }))?;
            Ok::<_, OriginError>((listener, local))
        };
        let (registry, registry_addr) = bind("registry", config.registry)?;
        let (api, api_addr) = bind("origin API", config.api)?;
        let (tags, tags_addr) = bind("tag API", config.tags)?;
        let addrs = Addrs {
            registry: registry_addr,
            api: api_addr,
            tags: tags_addr,
            peer: config.peer,
        };
        Ok(Self {
            registry,
            api,
            tags,
            addrs,
        })
    }

    fn serve(
        self,
        services: Services,
        bounds: &Limits,
        background: &TaskTracker,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) {
        let Services {
            registry,
            sessions,
            engine,
        } = services;
        let push = RegistryPort {
            registry: Arc::clone(&registry),
            sessions: Arc::clone(&sessions),
            receiving: Arc::new(Semaphore::new(bounds.receiving)),
            room: Arc::new(Room::new()),
            tasks: background.clone(),
        };
        let api = ApiPort {
            registry: Arc::clone(&registry),
            sessions,
            engine,
            heads: HeadStarts::new(),
            addr: self.addrs.api,
        };
        let limits = serve::Limits {
            stalled_read: bounds.body_idle,
            ..serve::Limits::default()
        };
        tasks.spawn(port_task(self.registry, push, limits.clone(), stop.clone()));
        tasks.spawn(port_task(self.api, api, limits.clone(), stop.clone()));
        tasks.spawn(port_task(
            self.tags,
            TagPort { registry },
            limits,
            stop.clone(),
        ));
    }
}

async fn port_task<S: Service>(
    listener: TcpListener,
    service: S,
    limits: serve::Limits,
    stop: CancellationToken,
) {
    serve::listen_with(listener, service, limits, stop.cancelled_owned()).await;
}

/// Reclaims sessions that nobody came back to.
async fn sweep_task(sessions: Arc<Sessions>, idle: Duration) {
    let every = (idle / 4).clamp(Duration::from_millis(50), Duration::from_secs(60));
    loop {
        tokio::time::sleep(every).await;
        sessions.expire(Instant::now());
    }
}

async fn start_engine(config: &Config, shelf: Arc<Shelf>) -> Result<Engine, OriginError> {
    let engine = leecher::Config {
        listen: config.peer,
        advertise: config.advertise,
        peer_id: PeerId::generate(&mut rand::rng()),
        upload_limit: config.upload_limit,
        exchange_metadata: true,
        ..leecher::Config::default()
    };
    Ok(Engine::start_apart(engine, shelf, Arc::new(OpenGate)).await?)
}

/// The base of the web seed: as told, or where the API listens at the advertised address.
fn api_url(config: &Config, ports: &Ports, engine: &Engine) -> String {
    let advertised = engine.announced_addr().ip();
    if let Some(url) = &config.api_url {
        return url.clone();
    }
    let api = ports.addrs.api;
    if api.ip().is_loopback() && !advertised.is_loopback() {
        tracing::warn!(
            %api, %advertised,
            "the API listens on this host only: agents elsewhere cannot use its web seed"
        );
    }
    format!("http://{}", SocketAddr::new(advertised, api.port()))
}
