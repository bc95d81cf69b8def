//! What clients are told when the store fails under them, and what they can make it hold.

use std::convert::Infallible;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use axum::body::{Bytes, to_bytes};
use futures_util::{StreamExt, stream};
use leecher::{Engine, OpenGate};
use oci::{Blob, OpenAccess};
use tokio_util::sync::CancellationToken;
use torrents::{Info, InfoHash};

use super::*;
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::publisher::Publisher;
use crate::registry::{Parts, WebAddresses};
use crate::shelf::Shelf;
use crate::store::{
    BlobMeta, BlobStore, DirStore, LocalTorrent, NewBlob, Staged, StoreError, Stores,
};

/// A store whose disk is full when told so.
struct Flaky {
    inner: Arc<dyn BlobStore>,
    full: AtomicBool,
}

impl Flaky {
    fn check(&self) -> Result<(), StoreError> {
        if self.full.load(Ordering::SeqCst) {
            let source = std::io::ErrorKind::StorageFull.into();
            return Err(StoreError::Io {
                path: "disk".into(),
                source,
            });
        }
        Ok(())
    }
}

#[async_trait]
impl BlobStore for Flaky {
    async fn stage(&self) -> Result<Staged, StoreError> {
        self.inner.stage().await
    }
    async fn put(&self, blob: NewBlob) -> Result<BlobMeta, StoreError> {
        self.check()?;
        self.inner.put(blob).await
    }
    async fn stat(&self, digest: &Digest) -> Result<Option<BlobMeta>, StoreError> {
        self.inner.stat(digest).await
    }
    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn Blob>>, StoreError> {
        self.inner.open(digest).await
    }
    async fn file(&self, digest: &Digest) -> Result<Option<(BlobMeta, Arc<File>)>, StoreError> {
        self.inner.file(digest).await
    }
    async fn set_aside(
        &self,
        digest: &Digest,
        read: Option<Arc<File>>,
        what: &'static str,
    ) -> Result<bool, StoreError> {
        self.inner.set_aside(digest, read, what).await
    }
    async fn torrent(
        &self,
        digest: &Digest,
        info_hash: InfoHash,
    ) -> Result<Option<LocalTorrent>, StoreError> {
        self.inner.torrent(digest, info_hash).await
    }
    async fn retorrent(&self, digest: &Digest, info: Info) -> Result<(), StoreError> {
        self.inner.retorrent(digest, info).await
    }
    async fn remove(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.inner.remove(digest).await
    }
    fn local(&self) -> Vec<BlobMeta> {
        self.inner.local()
    }
    fn totals(&self) -> (u64, u64) {
        self.inner.totals()
    }
}

struct Bench {
    dir: tempfile::TempDir,
    port: RegistryPort,
    disk: Arc<Flaky>,
}

async fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let stores = DirStore::open(&dir.path().join("data")).unwrap().stores();
    let disk = Arc::new(Flaky {
        inner: Arc::clone(&stores.blobs),
        full: AtomicBool::new(false),
    });
    let stores = Stores {
        blobs: Arc::clone(&disk) as Arc<dyn BlobStore>,
        ..stores
    };
    let shelf = Arc::new(Shelf::new(Arc::clone(&stores.blobs)));
    let config = leecher::Config {
        listen: ([127, 0, 0, 1], 0).into(),
        ..leecher::Config::default()
    };
    let engine = Engine::start(config, Arc::clone(&shelf) as _, Arc::new(OpenGate))
        .await
        .unwrap();
    let tasks = TaskTracker::new();
    let registry = Registry::new(Parts {
        stores,
        access: Arc::new(OpenAccess),
        publisher: Publisher::new(shelf, Vec::new(), engine),
        web: WebAddresses::new("http://o:15002", &[]),
        sparse_indexes: false,
        metrics: Arc::new(Metrics::default()),
        background: tasks.clone(),
        stop: CancellationToken::new(),
    });
    let limits = Limits::default();
    let port = RegistryPort {
        registry: Arc::new(registry),
        sessions: Arc::new(Sessions::new(limits.sessions, limits.session_idle)),
        receiving: Arc::new(Semaphore::new(limits.receiving)),
        room: Arc::new(Room::new()),
        tasks,
    };
    Bench { dir, port, disk }
}

impl Bench {
    async fn ask(&self, method: &str, path: &str, body: &'static [u8]) -> (u16, HeaderMap, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(CONTENT_LENGTH, body.len())
            .body(Body::from(body))
            .unwrap();
        let (parts, body) = self.port.call(request).await.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        (
            parts.status.as_u16(),
            parts.headers,
            String::from_utf8_lossy(&body).into_owned(),
        )
    }

    async fn session(&self) -> String {
        let (status, headers, _) = self.ask("POST", "/v2/p/x/blobs/uploads/", b"").await;
        assert_eq!(status, 202);
        headers[LOCATION].to_str().unwrap().to_owned()
    }

    fn full(&self, full: bool) {
        self.disk.full.store(full, Ordering::SeqCst);
    }

    async fn nothing_is_left(&self) {
        let data = self.dir.path().join("data");
        while std::fs::read_dir(data.join("spool")).unwrap().count() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let links = std::fs::read_dir(data.join("repos/p/x/_blobs")).unwrap();
        assert_eq!(links.count(), 0);
    }
}

#[tokio::test]
async fn a_put_that_failed_for_us_may_be_sent_again() {
    let bench = bench().await;
    let digest = Digest::sha256_of(b"layer");
    let put = format!("{}?digest={digest}", bench.session().await);
    bench.full(true);
    let (status, headers, body) = bench.ask("PUT", &put, b"layer").await;
    assert_eq!(status, 503);
    assert_eq!(headers["retry-after"], "10");
    assert!(body.contains("the origin's disk is full"), "{body}");
    bench.nothing_is_left().await;
    bench.full(false);
    let (status, _, body) = bench.ask("PUT", &put, b"layer").await;
    assert_eq!(status, 201, "{body}");
    let (status, _, _) = bench.ask("PUT", &put, b"layer").await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn what_came_before_a_put_that_failed_is_gone() {
    let bench = bench().await;
    let digest = Digest::sha256_of(b"layer");
    let session = bench.session().await;
    assert_eq!(bench.ask("PATCH", &session, b"layer").await.0, 202);
    bench.full(true);
    let put = format!("{session}?digest={digest}");
    assert_eq!(bench.ask("PUT", &put, b"").await.0, 503);
    bench.full(false);
    assert_eq!(bench.ask("PUT", &put, b"").await.0, 404);
    bench.nothing_is_left().await;
    assert_eq!(bench.port.sessions.count(), 0);
}

#[tokio::test]
async fn a_manifest_that_cannot_be_kept_is_not_tagged() {
    let bench = bench().await;
    let config = Digest::sha256_of(b"{}");
    let whole = format!("/v2/p/x/blobs/uploads/?digest={config}");
    assert_eq!(bench.ask("POST", &whole, b"{}").await.0, 201);
    let manifest: &'static [u8] = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"a/b","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#;
    bench.full(true);
    let (status, _, body) = bench.ask("PUT", "/v2/p/x/manifests/v1", manifest).await;
    assert_eq!(status, 503, "{body}");
    assert_eq!(bench.ask("GET", "/v2/p/x/manifests/v1", b"").await.0, 404);
    bench.full(false);
    assert_eq!(
        bench.ask("PUT", "/v2/p/x/manifests/v1", manifest).await.0,
        201
    );
    assert_eq!(bench.ask("GET", "/v2/p/x/manifests/v1", b"").await.0, 200);
}

/// One byte in a buffer of its own, which counts how many of its like are held at once.
struct Crumb {
    byte: [u8; 1],
    held: Arc<AtomicUsize>,
}

impl Crumb {
    fn of(byte: u8, held: &Arc<AtomicUsize>, most: &AtomicUsize) -> Bytes {
        let now = held.fetch_add(1, Ordering::SeqCst) + 1;
        most.fetch_max(now, Ordering::SeqCst);
        let held = Arc::clone(held);
        let byte = [byte];
        Bytes::from_owner(Self { byte, held })
    }
}

impl AsRef<[u8]> for Crumb {
    fn as_ref(&self) -> &[u8] {
        &self.byte
    }
}

impl Drop for Crumb {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_body_in_crumbs_holds_its_bytes_and_no_buffer_they_came_in() {
    let bench = bench().await;
    let layer: Vec<u8> = (0..6_000_u64).flat_map(u64::to_le_bytes).collect();
    let (held, most) = (Arc::default(), Arc::<AtomicUsize>::default());
    let crumbs = {
        let (held, most) = (Arc::clone(&held), Arc::clone(&most));
        let of = move |byte| Ok::<_, Infallible>(Crumb::of(byte, &held, &most));
        stream::iter(layer.clone()).map(of)
    };
    let digest = Digest::sha256_of(&layer);
    let put = Request::builder()
        .method("PUT")
        .uri(format!("{}?digest={digest}", bench.session().await))
        .body(Body::from_stream(crumbs))
        .unwrap();
    assert_eq!(bench.port.call(put).await.status(), 201);
    assert_eq!(
        most.load(Ordering::SeqCst),
        1,
        "each is let go before the next"
    );
    assert_eq!(held.load(Ordering::SeqCst), 0);
    let stored = bench.port.registry.stores().blobs.open(&digest).await;
    let mut stored = stored.unwrap().unwrap().stream(0..layer.len() as u64);
    let mut came = Vec::new();
    while let Some(step) = stored.next().await {
        came.extend_from_slice(&step.unwrap());
    }
    assert!(came == layer);
}
