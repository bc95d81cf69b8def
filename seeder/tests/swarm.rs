//! What was pushed can be had from the swarm, and trackers know it before anybody can ask.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use common::{Bed, SOON, bed, bed_with, header, noise, soon};
use leecher::{Content, Download, Engine, Library, OpenGate};
use oci::Digest;
use oci::serve::{Service, bind, listen};
use tokio_util::sync::CancellationToken;
use torrents::register::{RegisterReply, RegisterRequest};
use torrents::{Info, InfoHash, Metainfo};

/// A leecher's library: nothing.
struct Nothing;

#[async_trait]
impl Library for Nothing {
    async fn open(&self, _: InfoHash) -> Option<(Info, Arc<Content>)> {
        None
    }
}

async fn leecher() -> Engine {
    let config = leecher::Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        ..leecher::Config::default()
    };
    Engine::start(config, Arc::new(Nothing), Arc::new(OpenGate))
        .await
        .unwrap()
}

async fn torrent_of(bed: &Bed, digest: &Digest) -> (Metainfo, SocketAddr) {
    let response = bed.api(&format!("/torrents/{digest}")).await;
    assert_eq!(response.status(), 200);
    let peer = header(&response, oci::origin_api::PEER_HEADER)
        .parse()
        .unwrap();
    (
        Metainfo::parse(&response.bytes().await.unwrap()).unwrap(),
        peer,
    )
}

/// Downloads over the peer wire alone.
async fn fetch(engine: &Engine, metainfo: &Metainfo, peer: SocketAddr) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let content = Arc::new(Content::output(dir.path(), &metainfo.info, true, |_| {}).unwrap());
    let torrent = engine
        .download(Download {
            info: metainfo.info.clone(),
            content: Arc::clone(&content),
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            peers: vec![peer],
            eager_web_seed: false,
            head: bytes::Bytes::new(),
        })
        .await
        .unwrap();
    tokio::time::timeout(SOON, torrent.finished())
        .await
        .unwrap()
        .unwrap();
    let length = usize::try_from(metainfo.info.geometry().length()).unwrap();
    let mut bytes = vec![0; length];
    content.read_at(0, &mut bytes).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_get_layers_and_manifests_also_after_a_restart() {
    let mut bed = bed().await;
    let layer = noise(30, 5_000_000);
    let manifest = bed.push_image("team/app", "v1", &[&layer]).await;
    for cleanly in [true, false] {
        let engine = leecher().await;
        for digest in [Digest::sha256_of(&layer), manifest.clone()] {
            let (metainfo, peer) = torrent_of(&bed, &digest).await;
            let got = fetch(&engine, &metainfo, peer).await;
            assert_eq!(Digest::sha256_of(&got), digest);
        }
        engine.shutdown().await;
        bed = bed.restart(cleanly).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_is_no_longer_seeded() {
    let bed = bed().await;
    let blob = noise(31, 600_000);
    let digest = bed.push("p/x", blob).await;
    let (metainfo, peer) = torrent_of(&bed, &digest).await;
    let engine = leecher().await;
    fetch(&engine, &metainfo, peer).await;
    assert!(bed.origin.engine().torrent(metainfo.info.hash()).is_some());
    assert_eq!(
        bed.status("DELETE", &format!("/v2/p/x/blobs/{digest}"))
            .await,
        202
    );
    assert!(bed.origin.engine().torrent(metainfo.info.hash()).is_none());
    assert_eq!(bed.api(&format!("/torrents/{digest}")).await.status(), 404);
    engine.shutdown().await;
}

/// A tracker that keeps what it is told, and can be told to misbehave.
#[derive(Clone, Default)]
struct Tracker {
    told: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    boot: u32,
    down: bool,
    /// Labels and names, by info hash.
    held: BTreeMap<InfoHash, (String, Vec<String>)>,
    peers: HashSet<SocketAddr>,
    requests: usize,
    secret: Option<String>,
}

impl Service for Tracker {
    async fn call(&self, request: Request<Body>) -> Response {
        assert_eq!(
            (request.method().as_str(), request.uri().path()),
            ("POST", "/register")
        );
        let bearer = request.headers().get("authorization");
        let bearer = bearer.map(|value| value.to_str().unwrap().to_owned());
        let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let request = RegisterRequest::decode(&body).unwrap();
        let mut told = self.told.lock().unwrap();
        told.requests += 1;
        told.secret = bearer;
        if told.down {
            return axum::http::StatusCode::BAD_GATEWAY.into_response();
        }
        told.peers = request.peers.into_iter().collect();
        for hash in &request.remove {
            told.held.remove(hash);
        }
        for entry in request.add {
            told.held
                .insert(entry.info_hash, (entry.label, entry.names));
        }
        let reply = RegisterReply {
            boot_id: told.boot.to_string(),
            lease: Duration::from_secs(3),
            held: told.held.len() as u64,
        };
        reply.encode().into_response()
    }
}

impl Tracker {
    fn told<T>(&self, read: impl FnOnce(&mut Told) -> T) -> T {
        read(&mut self.told.lock().unwrap())
    }

    fn labels(&self) -> HashSet<String> {
        self.told(|told| told.held.values().map(|(label, _)| label.clone()).collect())
    }

    fn names(&self, digest: &Digest) -> Vec<String> {
        let label = digest.to_string();
        let named = |told: &mut Told| {
            let mut held = told.held.values();
            held.find(|(found, _)| *found == label)
                .map(|(_, names)| names.clone())
        };
        self.told(named).unwrap_or_default()
    }
}

/// A tracker on a port of its own, until the guard goes.
fn tracker() -> (Tracker, url::Url, tokio_util::sync::DropGuard) {
    let tracker = Tracker::default();
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let stop = CancellationToken::new();
    let serving = listen(listener, tracker.clone(), stop.clone().cancelled_owned());
    tokio::spawn(serving);
    (tracker, url, stop.drop_guard())
}

#[tokio::test(flavor = "multi_thread")]
async fn trackers_know_everything_before_the_manifest_is_acknowledged() {
    let (tracker, url, _up) = tracker();
    let bed = bed_with(|config| {
        config.trackers = vec![url.clone()];
        config.tracker_secret = Some("s3cret".into());
    })
    .await;
    soon(|| tracker.told(|told| told.requests > 0)).await;
    let layer = noise(32, 100_000);
    let manifest = bed.push_image("team/app", "v1", &[&layer]).await;
    let labels = tracker.labels();
    assert!(labels.contains(&manifest.to_string()));
    assert!(labels.contains(&Digest::sha256_of(&layer).to_string()));
    assert_eq!(labels.len(), 3);
    assert_eq!(tracker.names(&Digest::sha256_of(&layer)), ["team/app:v1"]);
    let peer = bed.origin.addrs().peer;
    assert_eq!(
        tracker.told(|told| told.peers.clone()),
        HashSet::from([peer])
    );
    assert_eq!(
        tracker.told(|told| told.secret.clone()).as_deref(),
        Some("Bearer s3cret")
    );
    assert_eq!(bed.api("/readiness").await.status(), 200);
    // The announce URL is in the torrent.
    let (metainfo, _) = torrent_of(&bed, &manifest).await;
    let announce = format!("{}announce", url.as_str());
    assert_eq!(metainfo.trackers, vec![vec![announce]]);
    // What goes is withdrawn.
    bed.send("DELETE", &format!("/v2/team/app/manifests/{manifest}"))
        .await;
    soon(|| !tracker.labels().contains(&manifest.to_string())).await;
    // A restart tells everything again, names included.
    bed.push_image("team/app", "v2", &[&layer]).await;
    let bed = bed.restart(true).await;
    tracker.told(|told| told.held.clear());
    soon(|| tracker.labels().len() == 3).await;
    assert_eq!(tracker.names(&Digest::sha256_of(&layer)), ["team/app:v2"]);
    bed.origin.shutdown().await;
    assert_eq!(
        tracker.labels().len(),
        3,
        "registrations outlive their origin"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn trackers_hear_of_tags_that_move_and_go() {
    let (tracker, url, _up) = tracker();
    let bed = bed_with(|config| config.trackers = vec![url]).await;
    let (base, top) = (noise(33, 50_000), noise(34, 50_000));
    let (in_all, in_first) = (Digest::sha256_of(&base), Digest::sha256_of(&top));
    let first = bed.push_image("p/x", "latest", &[&base, &top]).await;
    bed.push_image("p/x", "v1", &[&base, &top]).await;
    soon(|| tracker.names(&in_all) == ["p/x:latest", "p/x:v1"]).await;
    bed.push_image("p/x", "latest", &[&base]).await;
    soon(|| tracker.names(&in_first) == ["p/x:v1"]).await;
    assert_eq!(tracker.names(&in_all), ["p/x:latest", "p/x:v1"]);
    // A tag that could not be put is no name.
    let put = format!(
        "http://{}/tags/p/x:v2/digest/{first}",
        bed.origin.addrs().tags
    );
    let refused = bed
        .client
        .put(put)
        .header("if-match", "*")
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), 412);
    bed.send("DELETE", "/v2/p/x/manifests/latest").await;
    soon(|| tracker.names(&in_all) == ["p/x:v1"]).await;
    // With a manifest go the tags at it.
    bed.send("DELETE", &format!("/v2/p/x/manifests/{first}"))
        .await;
    soon(|| tracker.names(&in_all).is_empty()).await;
    assert!(tracker.labels().contains(&in_all.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_that_forgot_is_told_again() {
    let (tracker, url, _up) = tracker();
    let bed = bed_with(|config| config.trackers = vec![url]).await;
    bed.push("p/x", "one").await;
    soon(|| tracker.labels().len() == 1).await;
    // It restarts: another boot id, nothing known. A renewal finds out.
    tracker.told(|told| {
        told.boot += 1;
        told.held.clear();
    });
    soon(|| tracker.labels().len() == 1).await;
    // It loses something without a restart.
    tracker.told(|told| told.held.clear());
    soon(|| tracker.labels().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_does_not_need_a_tracker() {
    let (tracker, url, _up) = tracker();
    tracker.told(|told| told.down = true);
    let bed = bed_with(|config| config.trackers = vec![url]).await;
    let manifest = bed.push_image("team/app", "v1", &[b"layer"]).await;
    let ready = bed.api("/readiness").await;
    assert_eq!(ready.status(), 503);
    assert!(ready.text().await.unwrap().contains("502"));
    tracker.told(|told| told.down = false);
    soon(|| tracker.labels().contains(&manifest.to_string())).await;
    soon_ready(&bed).await;
}

async fn soon_ready(bed: &Bed) {
    while bed.api("/readiness").await.status() != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
