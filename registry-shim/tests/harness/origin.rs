//! An origin: the read half of a registry, the origin API, and an engine that seeds.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use leecher::{Content, Engine, Library, Seed};
use oci::range::Ranged;
use oci::route::{Route, query_value};
use oci::serve::{Limits, listen_with};
use oci::{Digest, ErrorCode, Reference, RegistryError, origin_api};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use torrents::{Info, InfoHash, Metainfo};
use url::Url;

use super::{engine, info_of};

/// What an origin knows, and how it behaves.
#[derive(Default)]
pub struct Table {
    content: Mutex<HashMap<Digest, (Bytes, Info)>>,
    members: Mutex<HashSet<(String, Digest)>>,
    tags: Mutex<HashMap<(String, String), Digest>>,
    referrers: Mutex<HashMap<(String, Digest), Vec<serde_json::Value>>>,
    announce: String,
    base: Mutex<String>,
    peer: Mutex<Option<SocketAddr>>,
    /// Torrents name neither peers, trackers nor web seeds.
    pub hide_sources: AtomicBool,
    /// The web seed answers 503.
    pub no_web_seed: AtomicBool,
    pub head_starts: Mutex<HeadStarts>,
    /// Every answer is 503.
    pub broken: AtomicBool,
    /// Every answer is 418.
    pub odd: AtomicBool,
    /// Referrers come all at once, whatever was asked.
    pub unpaged: AtomicBool,
    /// Answers wait until this is false.
    pub hanging: AtomicBool,
    /// Blobs are still being fetched by the origin itself.
    pub growing: AtomicBool,
    pub torrents_asked: AtomicU64,
    pub manifests_asked: AtomicU64,
    pub heads_asked: AtomicU64,
    pub web_seed_bytes: AtomicU64,
    /// Torrents handed out in place of the right ones.
    pub lies: Mutex<HashMap<Digest, Info>>,
    /// The last manifest request's `Accept`.
    pub accept: Mutex<Vec<String>>,
}

/// A running origin.
pub struct Origin {
    pub table: Arc<Table>,
    pub engine: Engine,
    addr: SocketAddr,
    dir: PathBuf,
    library: Arc<Files>,
    server: Server,
}

struct Server {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Complete files by info hash.
#[derive(Default)]
struct Files(Mutex<HashMap<InfoHash, (Info, PathBuf)>>);

#[async_trait]
impl Library for Files {
    async fn open(&self, info_hash: InfoHash) -> Option<(Info, Arc<Content>)> {
        let (info, path) = self.0.lock().unwrap().get(&info_hash).cloned()?;
        let content = Content::complete(&path, &info).unwrap();
        Some((info, Arc::new(content)))
    }
}

impl Origin {
    pub async fn start(dir: &Path, announce: String) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let library = Arc::new(Files::default());
        let engine = engine(library.clone()).await;
        let table = Arc::new(Table {
            announce,
            base: Mutex::new(format!("http://{addr}")),
            peer: Mutex::new(Some(engine.announced_addr())),
            ..Table::default()
        });
        let server = serve(listener, table.clone());
        Self {
            table,
            engine,
            addr,
            dir: dir.to_owned(),
            library,
            server,
        }
    }

    pub fn url(&self) -> Url {
        super::url(self.addr)
    }

    pub fn peer(&self) -> SocketAddr {
        self.engine.announced_addr()
    }

    /// Content in a repository, seeded.
    pub async fn store(&self, repo: &str, bytes: Bytes) -> Digest {
        let digest = Digest::sha256_of(&bytes);
        let info = info_of(&bytes);
        self.seed(&bytes, &info).await;
        let known = &self.table.content;
        known.lock().unwrap().insert(digest.clone(), (bytes, info));
        self.link(repo, &digest);
        digest
    }

    /// Seeds bytes that need not be what the torrent's name says.
    pub async fn seed(&self, bytes: &Bytes, info: &Info) {
        let path = self.dir.join(info.hash().to_string());
        tokio::fs::write(&path, bytes).await.unwrap();
        let mut files = self.library.0.lock().unwrap();
        files.insert(info.hash(), (info.clone(), path));
        self.engine.seed(Seed {
            info_hash: info.hash(),
            trackers: vec![vec![self.table.announce.clone()]],
        });
    }

    pub fn link(&self, repo: &str, digest: &Digest) {
        let mut members = self.table.members.lock().unwrap();
        members.insert((repo.to_owned(), digest.clone()));
    }

    pub fn tag(&self, repo: &str, tag: &str, digest: &Digest) {
        let mut tags = self.table.tags.lock().unwrap();
        tags.insert((repo.to_owned(), tag.to_owned()), digest.clone());
    }

    /// Something refers to that manifest.
    pub fn refer(&self, repo: &str, subject: &Digest, descriptor: serde_json::Value) {
        let mut referrers = self.table.referrers.lock().unwrap();
        let key = (repo.to_owned(), subject.clone());
        referrers.entry(key).or_default().push(descriptor);
    }

    pub fn untag(&self, repo: &str, tag: &str) {
        let key = (repo.to_owned(), tag.to_owned());
        self.table.tags.lock().unwrap().remove(&key);
    }

    /// The HTTP side dies: connections are refused from now on.
    pub async fn stop_http(&mut self) {
        self.server.stop.cancel();
        (&mut self.server.task).await.unwrap();
    }

    /// All of it dies.
    pub async fn stop(&mut self) {
        self.stop_http().await;
        self.engine.shutdown().await;
    }

    /// The HTTP side comes back where it was.
    pub async fn restart_http(&mut self) {
        let listener = TcpListener::bind(self.addr).await.unwrap();
        self.server = serve(listener, self.table.clone());
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.server.stop.cancel();
    }
}

fn serve(listener: TcpListener, table: Arc<Table>) -> Server {
    let routes = Router::new().fallback(move |request: Request| answer(table.clone(), request));
    let stop = CancellationToken::new();
    let limits = Limits {
        grace: Duration::ZERO,
        ..Limits::default()
    };
    let stopped = stop.clone().cancelled_owned();
    let task = tokio::spawn(listen_with(listener, routes, limits, stopped));
    Server { stop, task }
}

async fn answer(table: Arc<Table>, request: Request) -> Response {
    while table.hanging.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if table.broken.load(Ordering::SeqCst) {
        let error = RegistryError::new(ErrorCode::Unavailable, "the disk is on fire");
        return error.into_response();
    }
    if table.odd.load(Ordering::SeqCst) {
        let error = RegistryError::new(ErrorCode::Unsupported, "there is only tea");
        return error.with_status(StatusCode::IM_A_TEAPOT).into_response();
    }
    let path = request.uri().path().to_owned();
    if let Some(digest) = path.strip_prefix("/torrents/") {
        return table.torrent(&digest.parse().unwrap(), request.uri().query().unwrap());
    }
    if let Some(digest) = path.strip_prefix("/blobs/") {
        let digest = digest.parse().unwrap();
        return match request.uri().query() {
            Some(origin_api::HEAD_START) => table.head_start(&digest, request.headers()),
            _ => table.web_seed(&digest, request.headers()),
        };
    }
    match Route::parse(&path) {
        Ok(Route::Base) => axum::Json(serde_json::json!({})).into_response(),
        Ok(Route::Manifest(repo, reference)) => table.manifest(repo.as_str(), &reference, &request),
        Ok(Route::Blob(repo, digest)) => {
            table.heads_asked.fetch_add(1, Ordering::SeqCst);
            match table.member(repo.as_str(), &digest) {
                Some((bytes, _)) => bytes.into_response(),
                None => unknown(ErrorCode::BlobUnknown),
            }
        }
        Ok(Route::Tags(repo)) => table.tags(repo.as_str()),
        Ok(Route::Referrers(repo, digest)) => table.referrers(repo.as_str(), &digest, &request),
        _ => unknown(ErrorCode::NameUnknown),
    }
}

impl Table {
    fn member(&self, repo: &str, digest: &Digest) -> Option<(Bytes, Info)> {
        let key = (repo.to_owned(), digest.clone());
        let linked = self.members.lock().unwrap().contains(&key);
        let content = self.content.lock().unwrap();
        content.get(digest).filter(|_| linked).cloned()
    }

    fn manifest(&self, repo: &str, reference: &Reference, request: &Request) -> Response {
        self.manifests_asked.fetch_add(1, Ordering::SeqCst);
        let accept = request.headers().get_all(header::ACCEPT).iter();
        *self.accept.lock().unwrap() = accept
            .map(|value| value.to_str().unwrap().to_owned())
            .collect();
        let digest = match reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(tag) => {
                let key = (repo.to_owned(), tag.to_string());
                self.tags.lock().unwrap().get(&key).cloned()
            }
        };
        let found = digest.and_then(|digest| Some((self.member(repo, &digest)?.0, digest)));
        let Some((bytes, digest)) = found else {
            return unknown(ErrorCode::ManifestUnknown);
        };
        let headers = [
            (
                header::CONTENT_TYPE.as_str(),
                oci::manifest::OCI_MANIFEST.to_owned(),
            ),
            ("docker-content-digest", digest.to_string()),
        ];
        (headers, bytes).into_response()
    }

    fn tags(&self, repo: &str) -> Response {
        let tags = self.tags.lock().unwrap();
        let mut names: Vec<_> = tags
            .keys()
            .filter(|(r, _)| r == repo)
            .map(|(_, t)| t)
            .collect();
        if names.is_empty() {
            return unknown(ErrorCode::NameUnknown);
        }
        names.sort();
        axum::Json(serde_json::json!({ "name": repo, "tags": names })).into_response()
    }

    fn referrers(&self, repo: &str, subject: &Digest, request: &Request) -> Response {
        let referrers = self.referrers.lock().unwrap();
        let found = referrers.get(&(repo.to_owned(), subject.clone()));
        let mut found = found.cloned().unwrap_or_default();
        let asked = |key| query_value(request.uri().query(), key);
        let number = |key| asked(key).and_then(|text| text.parse::<usize>().ok());
        let mut headers = HeaderMap::new();
        if !self.unpaged.load(Ordering::SeqCst)
            && let Some(n) = number("n")
        {
            found.drain(..number("last").unwrap_or(0));
            if found.len() > n {
                found.truncate(n);
                let last = number("last").unwrap_or(0) + n;
                let path = request.uri().path();
                let link = format!("<http://127.0.0.1:9{path}?n={n}&last={last}>; rel=\"next\"");
                headers.insert(header::LINK, link.parse().unwrap());
            }
        }
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": found });
        (headers, axum::Json(index)).into_response()
    }

    fn torrent(&self, digest: &Digest, query: &str) -> Response {
        self.torrents_asked.fetch_add(1, Ordering::SeqCst);
        let repo = query.strip_prefix("repo=").unwrap();
        let Some((bytes, info)) = self.member(repo, digest) else {
            return unknown(ErrorCode::BlobUnknown);
        };
        if self.growing.load(Ordering::SeqCst) {
            let length = [(origin_api::LENGTH_HEADER, bytes.len().to_string())];
            return (StatusCode::ACCEPTED, length).into_response();
        }
        let info = self
            .lies
            .lock()
            .unwrap()
            .get(digest)
            .cloned()
            .unwrap_or(info);
        let mut headers = HeaderMap::new();
        let hidden = self.hide_sources.load(Ordering::SeqCst);
        let (mut trackers, mut url_list) = (Vec::new(), Vec::new());
        if hidden {
            // A tracker that nobody answers at: an empty list would mean the configured ones.
            trackers.push(vec!["http://127.0.0.1:9/announce".to_owned()]);
        } else {
            trackers.push(vec![self.announce.clone()]);
            let base = self.base.lock().unwrap();
            url_list.push(format!("{base}{}", origin_api::blob_path(digest)));
            if let Some(peer) = *self.peer.lock().unwrap() {
                headers.insert(origin_api::PEER_HEADER, peer.to_string().parse().unwrap());
            }
        }
        let metainfo = Metainfo::compose(info, trackers, url_list);
        (headers, metainfo.encode()).into_response()
    }

    fn head_start(&self, digest: &Digest, headers: &HeaderMap) -> Response {
        match *self.head_starts.lock().unwrap() {
            HeadStarts::Refused => StatusCode::TOO_MANY_REQUESTS.into_response(),
            HeadStarts::Wrong => Body::from(vec![7; 300 << 10]).into_response(),
            HeadStarts::Given => self.web_seed(digest, headers),
        }
    }

    fn web_seed(&self, digest: &Digest, headers: &HeaderMap) -> Response {
        if self.no_web_seed.load(Ordering::SeqCst) {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let Some((bytes, _)) = self.content.lock().unwrap().get(digest).cloned() else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let length = bytes.len() as u64;
        let range = headers
            .get(header::RANGE)
            .map(|value| value.to_str().unwrap());
        let (status, part) = match oci::range::requested(range, length) {
            Ranged::Whole => (StatusCode::OK, 0..length),
            Ranged::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
            Ranged::Unsatisfiable => return StatusCode::RANGE_NOT_SATISFIABLE.into_response(),
        };
        self.web_seed_bytes
            .fetch_add(part.end - part.start, Ordering::SeqCst);
        let content_range = format!("bytes {}-{}/{length}", part.start, part.end - 1);
        let at = |offset: u64| usize::try_from(offset).unwrap();
        let body = Body::from(bytes.slice(at(part.start)..at(part.end)));
        (status, [(header::CONTENT_RANGE, content_range)], body).into_response()
    }
}

/// How an origin answers those who ask for the beginning of a blob.
#[derive(Debug, Clone, Copy, Default)]
pub enum HeadStarts {
    #[default]
    Refused,
    Wrong,
    Given,
}

fn unknown(code: ErrorCode) -> Response {
    RegistryError::new(code, "there is no such thing").into_response()
}
