//! A herd made of the smallest honest parts: a registry and an origin API over a table of
//! content, a real engine that seeds it, and a tracker that introduces peers. Everything
//! listens on loopback, counts what it is asked, and can be told to misbehave.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses a part of it, and a harness is test code"
)]

pub mod origin;
mod tracker;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use leecher::{Engine, OpenGate};
use oci::{Digest, RepoName};
use registry_shim::status::{BlobStatus, Status};
use registry_shim::{Agent, Config, Herd, Patience};
use reqwest::{Response, StatusCode};
use tempfile::TempDir;
use torrents::{Geometry, Info};
use url::Url;

pub use origin::Origin;
pub use tracker::Tracker;

/// How long anything that must happen may take before a test gives up on it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// One herd, and a place for agents.
pub struct World {
    pub dir: TempDir,
    pub tracker: Tracker,
    pub origin: Origin,
    pub http: reqwest::Client,
}

impl World {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tracker = Tracker::start().await;
        let origin = Origin::start(&dir.path().join("origin"), tracker.announce_url()).await;
        Self {
            dir,
            tracker,
            origin,
            http: client(),
        }
    }

    /// The herd as agents are told of it.
    pub fn herd(&self) -> Herd {
        Herd {
            registry: self.origin.url(),
            api: self.origin.url(),
            trackers: vec![self.tracker.url()],
        }
    }

    /// A configuration with everything on free ports and little patience.
    pub fn config(&self, name: &str) -> Config {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        Config {
            data: self.dir.path().join(name),
            herds: vec![self.herd()],
            registry: free,
            peer: free,
            api: free,
            patience: Patience {
                origin: Duration::from_secs(5),
                manifest: Duration::from_secs(3),
                headers: Duration::from_secs(20),
                stall: Duration::from_secs(2),
                trouble: Duration::from_secs(2),
            },
            ..Config::default()
        }
    }

    pub async fn agent(&self, name: &str) -> Client {
        self.agent_with(self.config(name)).await
    }

    pub async fn agent_with(&self, config: Config) -> Client {
        let agent = Agent::start(config).await.unwrap();
        Client {
            agent,
            http: self.http.clone(),
        }
    }

    /// Content in the herd: seeded, registered, in the repository.
    pub async fn blob(&self, repo: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = self.origin.store(repo, bytes.clone()).await;
        let info = info_of(&bytes);
        self.tracker
            .register(&digest, info.hash(), bytes.len() as u64);
        digest
    }

    /// An image of these layers under a tag; returns the manifest's digest.
    pub async fn image(&self, repo: &str, tag: &str, layers: &[Bytes]) -> Digest {
        let config = Bytes::from(format!("{{\"tag\":\"{tag}\"}}"));
        self.blob(repo, config.clone()).await;
        for layer in layers {
            self.blob(repo, layer.clone()).await;
        }
        let manifest = manifest(&config, layers);
        let digest = self.blob(repo, manifest).await;
        self.origin.tag(repo, tag, &digest);
        digest
    }
}

/// An agent and the means to ask it.
pub struct Client {
    pub agent: Agent,
    pub http: reqwest::Client,
}

impl Client {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.agent.addrs().registry)
    }

    pub fn blob_url(&self, repo: &str, digest: &Digest) -> String {
        self.url(&format!("/v2/{repo}/blobs/{digest}"))
    }

    pub async fn get(&self, path: &str) -> Response {
        self.http.get(self.url(path)).send().await.unwrap()
    }

    pub async fn blob(&self, repo: &str, digest: &Digest) -> Response {
        self.get(&format!("/v2/{repo}/blobs/{digest}")).await
    }

    pub async fn range(&self, repo: &str, digest: &Digest, range: &str) -> Response {
        let request = self.http.get(self.blob_url(repo, digest));
        let range = format!("bytes={range}");
        request.header("range", range).send().await.unwrap()
    }

    pub async fn manifest(&self, repo: &str, reference: &str) -> Response {
        self.get(&format!("/v2/{repo}/manifests/{reference}")).await
    }

    pub async fn api(&self, path: &str) -> Response {
        let url = format!("http://{}{path}", self.agent.addrs().api);
        self.http.get(url).send().await.unwrap()
    }

    pub async fn status(&self) -> Status {
        json(self.api("/status").await).await
    }

    pub async fn blob_status(&self, digest: &Digest) -> Option<BlobStatus> {
        let status = self.status().await;
        status.blobs.into_iter().find(|blob| blob.digest == *digest)
    }

    /// Waits until the agent says so of a blob.
    pub async fn until(&self, digest: &Digest, done: impl Fn(&BlobStatus) -> bool) -> BlobStatus {
        let wait = async {
            loop {
                if let Some(status) = self.blob_status(digest).await
                    && done(&status)
                {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, wait).await;
        match waited {
            Ok(status) => status,
            Err(_) => panic!("still {:?}", self.blob_status(digest).await),
        }
    }

    /// Waits until no download is under way: only then is what was read served from the store.
    pub async fn until_idle(&self) {
        let wait = async {
            loop {
                let metrics = self.api("/metrics").await.text().await.unwrap();
                if metrics
                    .lines()
                    .any(|line| line == "swell_agent_downloads 0")
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.unwrap();
    }

    /// Peers of a torrent that is live here, given by hand.
    pub fn introduce(&self, info: &Info, peers: &[SocketAddr]) {
        let torrent = self.agent.engine().torrent(info.hash()).unwrap();
        torrent.add_peers(peers);
    }
}

pub async fn json<T: serde::de::DeserializeOwned>(response: Response) -> T {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

/// The status, code and message of a registry error.
pub async fn error_code(response: Response) -> (StatusCode, String, String) {
    let status = response.status();
    let body: serde_json::Value = json(response).await;
    let first = &body["errors"][0];
    (
        status,
        first["code"].as_str().unwrap().to_owned(),
        first["message"].as_str().unwrap().to_owned(),
    )
}

pub fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Bytes that compress badly and differ for every seed.
pub fn noise(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

/// The torrent of these bytes, as an origin makes it.
pub fn info_of(bytes: &[u8]) -> Info {
    named_info(bytes, &Digest::sha256_of(bytes).torrent_name())
}

/// The same with a name of one's own, to lie with.
pub fn named_info(bytes: &[u8], name: &str) -> Info {
    let length = bytes.len() as u64;
    let piece_len = torrents::hashing::piece_len_for(length);
    let geometry = Geometry::new(length, u64::from(piece_len)).unwrap();
    let pieces: Vec<_> = bytes
        .chunks(piece_len as usize)
        .map(|piece| torrents::hashing::piece_hash(&[piece]))
        .collect();
    Info::build(name, geometry, &pieces).unwrap()
}

pub fn manifest(config: &Bytes, layers: &[Bytes]) -> Bytes {
    let descriptor = |media_type: &str, bytes: &Bytes| {
        serde_json::json!({
            "mediaType": media_type,
            "digest": Digest::sha256_of(bytes),
            "size": bytes.len(),
        })
    };
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer))
        .collect();
    let body = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": oci::manifest::OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": layers,
    });
    body.to_string().into()
}

/// An engine on a free loopback port.
pub async fn engine(library: std::sync::Arc<dyn leecher::Library>) -> Engine {
    let config = leecher::Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        ..leecher::Config::default()
    };
    Engine::start(config, library, std::sync::Arc::new(OpenGate))
        .await
        .unwrap()
}

pub fn repo(name: &str) -> RepoName {
    name.parse().unwrap()
}

pub fn url(addr: SocketAddr) -> Url {
    Url::parse(&format!("http://{addr}/")).unwrap()
}

/// How many files are below a directory.
pub fn files_below(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => files_below(&entry.path()),
            false => 1,
        })
        .sum()
}
