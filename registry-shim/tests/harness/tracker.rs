//! A tracker that introduces everybody to everybody, and knows labels.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{ConnectInfo, Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use oci::Digest;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use torrents::InfoHash;
use torrents::announce::{AnnounceEvent, AnnounceReply, AnnounceRequest, ReplyPeer};
use torrents::register::LookupReply;
use url::Url;

#[derive(Default)]
struct Table {
    peers: Mutex<HashMap<InfoHash, HashSet<SocketAddr>>>,
    labels: Mutex<HashMap<String, LookupReply>>,
    silent: AtomicBool,
}

pub struct Tracker {
    addr: SocketAddr,
    table: Arc<Table>,
    server: JoinHandle<()>,
}

impl Tracker {
    pub async fn start() -> Self {
        let table = Arc::new(Table::default());
        let routes = Router::new()
            .route("/announce", get(announce))
            .route("/lookup/{label}", get(lookup))
            .route("/health", get(async || "OK\n"))
            .with_state(table.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let service = routes.into_make_service_with_connect_info::<SocketAddr>();
        let server = tokio::spawn(async move {
            axum::serve(listener, service).await.unwrap();
        });
        Self {
            addr,
            table,
            server,
        }
    }

    pub fn url(&self) -> Url {
        super::url(self.addr)
    }

    pub fn announce_url(&self) -> String {
        format!("http://{}/announce", self.addr)
    }

    pub fn register(&self, digest: &Digest, info_hash: InfoHash, length: u64) {
        let reply = LookupReply { info_hash, length };
        self.table
            .labels
            .lock()
            .unwrap()
            .insert(digest.to_string(), reply);
    }

    /// Names nobody from now on.
    pub fn silence(&self, silent: bool) {
        self.table.silent.store(silent, Ordering::SeqCst);
    }

    pub fn peers_of(&self, info_hash: InfoHash) -> HashSet<SocketAddr> {
        let peers = self.table.peers.lock().unwrap();
        peers.get(&info_hash).cloned().unwrap_or_default()
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn announce(
    State(table): State<Arc<Table>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
) -> impl IntoResponse {
    let request = AnnounceRequest::from_query(query.unwrap_or_default().as_bytes()).unwrap();
    let me = SocketAddr::new(request.ip.unwrap_or(from.ip()), request.port);
    let mut peers = table.peers.lock().unwrap();
    let swarm = peers.entry(request.info_hash).or_default();
    if request.event == AnnounceEvent::Stopped {
        swarm.remove(&me);
    } else {
        swarm.insert(me);
    }
    let silent = table.silent.load(Ordering::SeqCst);
    let others = swarm.iter().filter(|addr| **addr != me && !silent);
    let reply = AnnounceReply {
        interval: 2,
        peers: others.map(|&addr| ReplyPeer { addr, id: None }).collect(),
        ..AnnounceReply::default()
    };
    let mut body = Vec::new();
    reply.encode(true, true, &mut body);
    body
}

async fn lookup(State(table): State<Arc<Table>>, Path(label): Path<String>) -> impl IntoResponse {
    match table.labels.lock().unwrap().get(&label) {
        Some(reply) => Ok(reply.encode()),
        None => Err(StatusCode::NOT_FOUND),
    }
}
