//! A registry over memory on a real socket, and a client that sees every byte.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use oci::blob::BytesBlob;
use oci::route::Route;
use oci::serve::{self, Limits, Service};
use oci::{
    Access, Action, Blob, BlobError, BlobStream, Caller, Descriptor, Digest, ErrorCode, Page, Pull,
    Reference, RegistryError, RepoName, StoredManifest, TagPage,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What a registry of the tests holds.
#[derive(Default)]
pub(crate) struct Shelf {
    pub(crate) blobs: BTreeMap<Digest, Arc<dyn Blob>>,
    pub(crate) manifests: BTreeMap<String, StoredManifest>,
    pub(crate) tags: Vec<String>,
    pub(crate) repositories: Vec<String>,
    pub(crate) referrers: Vec<Descriptor>,
    pub(crate) callers: Mutex<Vec<Caller>>,
}

impl Shelf {
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256_of(bytes);
        let blob = BytesBlob(Bytes::copy_from_slice(bytes));
        self.blobs.insert(digest.clone(), Arc::new(blob));
        digest
    }
}

fn page_of(names: &[String], page: &Page) -> TagPage {
    let after = |name: &&String| page.last.as_ref().is_none_or(|last| *name > last);
    let names: Vec<_> = names.iter().filter(after).cloned().collect();
    let n = page.n.unwrap_or(usize::MAX);
    TagPage {
        more: names.len() > n,
        names: names.into_iter().take(n).collect(),
    }
}

impl Pull for Shelf {
    async fn manifest(
        &self,
        caller: &Caller,
        _: &RepoName,
        reference: &Reference,
    ) -> Result<StoredManifest, RegistryError> {
        self.callers.lock().unwrap().push(caller.clone());
        let unknown = || RegistryError::new(ErrorCode::ManifestUnknown, "no such manifest");
        let found = self.manifests.get(&reference.to_string());
        found.cloned().ok_or_else(unknown)
    }

    async fn blob(
        &self,
        _: &Caller,
        _: &RepoName,
        digest: &Digest,
    ) -> Result<Arc<dyn Blob>, RegistryError> {
        let unknown = || RegistryError::new(ErrorCode::BlobUnknown, "no such blob");
        self.blobs.get(digest).cloned().ok_or_else(unknown)
    }

    async fn tags(&self, _: &Caller, _: &RepoName, page: &Page) -> Result<TagPage, RegistryError> {
        Ok(page_of(&self.tags, page))
    }

    async fn catalog(&self, _: &Caller, page: &Page) -> Result<TagPage, RegistryError> {
        Ok(page_of(&self.repositories, page))
    }

    async fn referrers(
        &self,
        _: &Caller,
        _: &RepoName,
        _: &Digest,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        Ok(self.referrers.clone())
    }
}

/// Everybody but for repositories below `secret/`.
pub(crate) struct ButForSecrets;

impl Access for ButForSecrets {
    fn check(
        &self,
        _: &Caller,
        _: Action,
        repo: &RepoName,
        _: Option<&Digest>,
    ) -> Result<(), RegistryError> {
        if repo.as_str().starts_with("secret/") {
            return Err(RegistryError::new(ErrorCode::Denied, "not for you"));
        }
        Ok(())
    }
}

/// A blob whose bytes come when the test sends them, and which counts its readers.
pub(crate) struct HandFed {
    pub(crate) length: u64,
    pub(crate) feed: Mutex<Option<tokio::sync::mpsc::Receiver<Result<Bytes, BlobError>>>>,
    pub(crate) readers: AtomicUsize,
    pub(crate) trouble: Option<RegistryError>,
}

pub(crate) type Feed = tokio::sync::mpsc::Sender<Result<Bytes, BlobError>>;

impl HandFed {
    pub(crate) fn new(length: u64) -> (Feed, Self) {
        let (feed, fed) = tokio::sync::mpsc::channel(4);
        let blob = Self {
            length,
            feed: Mutex::new(Some(fed)),
            readers: AtomicUsize::new(0),
            trouble: None,
        };
        (feed, blob)
    }
}

impl Blob for HandFed {
    fn length(&self) -> u64 {
        self.length
    }

    fn stream(self: Arc<Self>, _: Range<u64>) -> BlobStream {
        self.readers.fetch_add(1, Ordering::Relaxed);
        let mut fed = self.feed.lock().unwrap().take().expect("one reader");
        stream::poll_fn(move |cx| fed.poll_recv(cx)).boxed()
    }

    fn trouble(&self) -> Option<RegistryError> {
        self.trouble.clone()
    }
}

/// The read half as an agent would serve it.
#[derive(Clone)]
pub(crate) struct Registry {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) access: Arc<dyn Access>,
}

impl Service for Registry {
    async fn call(&self, request: Request<Body>) -> Response {
        match Route::parse(request.uri().path()) {
            Ok(route) => serve::read(&self.shelf, self.access.as_ref(), route, request).await,
            Err(error) => error.into_response(),
        }
    }
}

/// A port being served.
pub(crate) struct Port {
    pub(crate) addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Port {
    pub(crate) fn serve(shelf: Shelf) -> Self {
        Self::serve_as(shelf, ButForSecrets)
    }

    pub(crate) fn serve_as(shelf: Shelf, access: impl Access) -> Self {
        let registry = Registry {
            shelf: Arc::new(shelf),
            access: Arc::new(access),
        };
        Self::open(registry, Limits::default())
    }

    pub(crate) fn open(service: impl Service, limits: Limits) -> Self {
        let listener = serve::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve::listen_with(listener, service, limits, stopped));
        Self {
            addr,
            stop: Some(stop),
            task,
        }
    }

    pub(crate) fn begin_close(&mut self) {
        drop(self.stop.take());
    }

    /// Stops and waits until no connection is left.
    pub(crate) async fn close(mut self) {
        self.begin_close();
        self.task.await.unwrap();
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// One request on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "").await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &str) -> Reply {
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        // A connection that is cut may end in a reset; what came before it counts.
        let _ = stream.read_to_end(&mut bytes).await;
        Reply::parse(&bytes)
    }
}

/// A response as it came over the wire.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self {
            status,
            head,
            body: bytes[end + 4..].to_vec(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|l| l.split_once(": "));
        let found = lines.find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The error code, after checking that the body is what clients parse.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/json"));
        let json = self.json();
        assert!(json["errors"][0]["message"].is_string(), "{json}");
        json["errors"][0]["code"].as_str().unwrap().to_owned()
    }

    /// Status line and headers, but for the date.
    pub(crate) fn golden(&self) -> String {
        let lines = self.head.lines().filter(|line| !line.starts_with("date: "));
        lines.collect::<Vec<_>>().join("\n")
    }
}
