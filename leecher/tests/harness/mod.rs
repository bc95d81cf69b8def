//! Engines on loopback with random content, for the tests of this crate.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod fake;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use leecher::{Config, Content, Download, Engine, Library, OpenGate, Torrent};
use rand::{RngExt, SeedableRng};
use torrents::hashing::piece_hash;
use torrents::{Geometry, Info, InfoHash};

/// Long enough for a slow machine; nothing waits this long when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Random bytes and the torrent over them.
pub(crate) struct Sample {
    pub(crate) bytes: Vec<u8>,
    pub(crate) info: Info,
}

pub(crate) fn sample(length: usize, piece_len: u64, seed: u64) -> Sample {
    let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
    let mut bytes = vec![0; length];
    rng.fill(&mut bytes[..]);
    let geometry = Geometry::new(length as u64, piece_len).unwrap();
    let hashes: Vec<_> = bytes
        .chunks(usize::try_from(piece_len).unwrap())
        .map(|piece| piece_hash(&[piece]))
        .collect();
    let info = Info::build(&format!("sample-{seed}"), geometry, &hashes).unwrap();
    Sample { bytes, info }
}

/// Complete files by info hash.
#[derive(Default)]
pub(crate) struct Shelf {
    files: Mutex<HashMap<InfoHash, (Info, PathBuf)>>,
    pub(crate) opened: Mutex<Vec<InfoHash>>,
}

impl Shelf {
    pub(crate) fn put(&self, sample: &Sample, dir: &Path) {
        let path = dir.join(sample.info.name());
        std::fs::write(&path, &sample.bytes).unwrap();
        let entry = (sample.info.clone(), path);
        self.files.lock().unwrap().insert(sample.info.hash(), entry);
    }
}

#[async_trait]
impl Library for Shelf {
    async fn open(&self, info_hash: InfoHash) -> Option<(Info, Arc<Content>)> {
        let (info, path) = self.files.lock().unwrap().get(&info_hash)?.clone();
        self.opened.lock().unwrap().push(info_hash);
        let content = Content::complete(&path, &info).unwrap();
        Some((info, Arc::new(content)))
    }
}

/// One engine and where its files are.
pub(crate) struct Host {
    pub(crate) engine: Engine,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) fn config() -> Config {
    Config {
        peer_id: torrents::PeerId::generate(&mut rand::rng()),
        ..Config::default()
    }
}

impl Host {
    pub(crate) async fn start() -> Self {
        Self::with(config()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let shelf = Arc::new(Shelf::default());
        let library: Arc<dyn Library> = shelf.clone();
        let engine = Engine::start(config, library, Arc::new(OpenGate))
            .await
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        Self { engine, shelf, dir }
    }

    /// A host that has the sample.
    pub(crate) async fn seeding(sample: &Sample) -> Self {
        let host = Self::start().await;
        host.shelf.put(sample, host.dir.path());
        host
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.engine.local_addr()
    }

    pub(crate) fn output(&self, info: &Info) -> Arc<Content> {
        let dir = self.dir.path().join("out");
        Arc::new(Content::output(&dir, info, true, |_| {}).unwrap())
    }

    pub(crate) async fn leech(&self, info: &Info, peers: Vec<SocketAddr>) -> Torrent {
        self.download(Download {
            info: info.clone(),
            content: self.output(info),
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            peers,
            eager_web_seed: false,
            head: bytes::Bytes::new(),
        })
        .await
    }

    pub(crate) async fn download(&self, download: Download) -> Torrent {
        self.engine.download(download).await.unwrap()
    }

    /// What the download left on disk.
    pub(crate) fn result(&self, info: &Info) -> Vec<u8> {
        std::fs::read(self.dir.path().join("out").join(info.name())).unwrap()
    }
}

/// Waits for the end, but not for ever.
pub(crate) async fn finished(torrent: &Torrent) {
    tokio::time::timeout(PATIENCE, torrent.finished())
        .await
        .unwrap_or_else(|_| panic!("not finished: {:?}", torrent.progress().borrow()))
        .unwrap();
}

/// Waits until it holds, but not for ever.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
