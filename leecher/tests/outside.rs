//! The engine with trackers and web seeds around it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;
#[path = "support/tracker.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod tracker;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use harness::fake::{Fake, fake_id};
use harness::{Host, Sample, config, finished, sample, until};
use leecher::{Config, Download, Seed, Torrent};
use torrents::announce::{AnnounceEvent, AnnounceReply, AnnounceRequest, ReplyPeer};
use tracker::{Tracker, ok};

/// A web seed of one file that counts what it gives; errors as often as it is told to.
struct WebSeed {
    bytes: Vec<u8>,
    given: AtomicU64,
    failures: AtomicU64,
    /// How long each answer takes.
    thinks: Duration,
}

fn asked(headers: &HeaderMap) -> Option<Range<usize>> {
    let range = headers
        .get(header::RANGE)?
        .to_str()
        .ok()?
        .strip_prefix("bytes=")?;
    let (start, last) = range.split_once('-')?;
    Some(start.parse().ok()?..last.parse::<usize>().ok()? + 1)
}

async fn give(State(seed): State<Arc<WebSeed>>, headers: HeaderMap) -> Response {
    let failing = |left: u64| left.checked_sub(1);
    if seed
        .failures
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, failing)
        .is_ok()
    {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    tokio::time::sleep(seed.thinks).await;
    let range = asked(&headers).unwrap();
    seed.given.fetch_add(range.len() as u64, Ordering::Relaxed);
    let total = seed.bytes.len();
    let place = format!("bytes {}-{}/{total}", range.start, range.end - 1);
    let body = seed.bytes[range].to_vec();
    (
        StatusCode::PARTIAL_CONTENT,
        [(header::CONTENT_RANGE, place)],
        body,
    )
        .into_response()
}

async fn web_seed(sample: &Sample, failures: u64) -> (Arc<WebSeed>, String) {
    slow_web_seed(sample, failures, Duration::ZERO).await
}

async fn slow_web_seed(sample: &Sample, failures: u64, thinks: Duration) -> (Arc<WebSeed>, String) {
    let seed = Arc::new(WebSeed {
        bytes: sample.bytes.clone(),
        given: AtomicU64::new(0),
        failures: AtomicU64::new(failures),
        thinks,
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    let app = Router::new().fallback(give).with_state(Arc::clone(&seed));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (seed, url)
}

async fn leech_with(
    host: &Host,
    sample: &Sample,
    trackers: Vec<Vec<String>>,
    web_seeds: Vec<String>,
) -> Torrent {
    host.download(Download {
        info: sample.info.clone(),
        content: host.output(&sample.info),
        trackers,
        web_seeds,
        peers: Vec::new(),
        eager_web_seed: false,
        head: bytes::Bytes::new(),
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_seed_alone_suffices_even_if_it_stumbles() {
    let sample = sample(20_000_000, 262_144, 30);
    let (seed, url) = web_seed(&sample, 2).await;
    let leech = Host::start().await;
    let torrent = leech_with(&leech, &sample, Vec::new(), vec![url]).await;
    finished(&torrent).await;
    let transfer = torrent.transfer();
    assert_eq!(
        (transfer.from_web_seeds, transfer.downloaded),
        (20_000_000, 0)
    );
    assert!(seed.given.load(Ordering::Relaxed) >= 20_000_000);
    leech.engine.shutdown().await;
    assert!(leech.result(&sample.info) == sample.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_seed_that_takes_its_time_is_not_asked_again_and_again() {
    let sample = sample(1_500_000, 262_144, 32);
    let (seed, url) = slow_web_seed(&sample, 0, Duration::from_millis(1_500)).await;
    let leech = Host::start().await;
    let torrent = leech_with(&leech, &sample, Vec::new(), vec![url]).await;
    finished(&torrent).await;
    assert_eq!(seed.given.load(Ordering::Relaxed), 1_500_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_seed_rests_while_peers_deliver() {
    let sample = sample(3_000_000, 65_536, 31);
    let (web, url) = web_seed(&sample, 0).await;
    let mut patient = config();
    // However slow this machine is, it is no stall.
    patient.swarm.stall = harness::PATIENCE;
    let (seed, leech) = (Host::seeding(&sample).await, Host::with(patient).await);
    let torrent = leech
        .download(Download {
            info: sample.info.clone(),
            content: leech.output(&sample.info),
            trackers: Vec::new(),
            web_seeds: vec![url],
            peers: vec![seed.addr()],
            eager_web_seed: false,
            head: bytes::Bytes::new(),
        })
        .await;
    finished(&torrent).await;
    assert_eq!(torrent.transfer().downloaded, 3_000_000);
    assert_eq!(web.given.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_seed_that_lies_shares_nothing() {
    let sample = sample(1_000_000, 65_536, 32);
    let mut lies = harness::sample(1_000_000, 65_536, 33);
    lies.info = sample.info.clone();
    let (_, url) = web_seed(&lies, 0).await;
    let leech = Host::start().await;
    let torrent = leech_with(&leech, &sample, Vec::new(), vec![url]).await;
    until("lies were told", || torrent.transfer().wasted > 0).await;
    assert_eq!(torrent.progress().borrow().verified, 0);
    let seed = Host::seeding(&sample).await;
    torrent.add_peers(&[seed.addr()]);
    finished(&torrent).await;
    leech.engine.shutdown().await;
    assert!(leech.result(&sample.info) == sample.bytes);
}

/// A tracker that introduces those who announced to each other.
async fn meeting_place() -> (Tracker, Arc<Mutex<Vec<AnnounceRequest>>>) {
    let heard: Arc<Mutex<Vec<AnnounceRequest>>> = Arc::default();
    let book = Arc::clone(&heard);
    let tracker = Tracker::start(move |request| {
        let mut book = book.lock().unwrap();
        book.push(request.clone());
        let others = book
            .iter()
            .filter(|other| other.info_hash == request.info_hash);
        let addr = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let peers = others
            .map(|other| ReplyPeer {
                addr: addr(other.port),
                id: None,
            })
            .collect();
        ok(&AnnounceReply {
            interval: 60,
            peers,
            ..AnnounceReply::default()
        })
    })
    .await;
    (tracker, heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_find_each_other_through_a_tracker_and_say_what_happens() {
    let sample = sample(1_000_000, 65_536, 34);
    let (tracker, heard) = meeting_place().await;
    let tiers = vec![vec![tracker.url.clone()]];
    let (seed, leech) = (Host::seeding(&sample).await, Host::start().await);
    seed.engine.seed(Seed {
        info_hash: sample.info.hash(),
        trackers: tiers.clone(),
    });
    until("the seed announced itself", || {
        !heard.lock().unwrap().is_empty()
    })
    .await;
    let torrent = leech_with(&leech, &sample, tiers, Vec::new()).await;
    finished(&torrent).await;
    until("completion is told", || {
        let heard = heard.lock().unwrap();
        heard
            .iter()
            .any(|request| request.event == AnnounceEvent::Completed)
    })
    .await;
    leech.engine.shutdown().await;
    seed.engine.shutdown().await;
    let heard = heard.lock().unwrap();
    let of = |host: &Host| {
        let port = host.addr().port();
        let events = heard.iter().filter(|request| request.port == port);
        events
            .map(|request| (request.event, request.left))
            .collect::<Vec<_>>()
    };
    let (leech, seed) = (of(&leech), of(&seed));
    assert_eq!(
        leech.first(),
        Some(&(AnnounceEvent::Started, Some(1_000_000)))
    );
    assert_eq!(leech.last(), Some(&(AnnounceEvent::Stopped, Some(0))));
    assert_eq!(seed.first(), Some(&(AnnounceEvent::Started, Some(0))));
    assert_eq!(seed.last(), Some(&(AnnounceEvent::Stopped, Some(0))));
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_found_through_a_tracker() {
    let sample = sample(1_000_000, 65_536, 35);
    let (tracker, heard) = meeting_place().await;
    let tiers = vec![vec![tracker.url.clone()]];
    let (seed, leech) = (Host::seeding(&sample).await, Host::start().await);
    let info_hash = sample.info.hash();
    seed.engine.seed(Seed {
        info_hash,
        trackers: tiers.clone(),
    });
    until("the seed announced itself", || {
        !heard.lock().unwrap().is_empty()
    })
    .await;
    let info = leech
        .engine
        .metadata(info_hash, tiers, Vec::new(), harness::PATIENCE)
        .await
        .unwrap();
    assert_eq!(info, sample.info);
    leech.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_download_that_sleeps_is_announced_all_the_same() {
    let sample = sample(200_000, 65_536, 36);
    let (tracker, heard) = meeting_place().await;
    let tiers = vec![vec![tracker.url.clone()]];
    let seed = Host::seeding(&sample).await;
    let leech = Host::with(Config {
        dormant_after: Duration::from_millis(300),
        ..config()
    })
    .await;
    let torrent = leech_with(&leech, &sample, tiers.clone(), Vec::new()).await;
    torrent.add_peers(&[seed.addr()]);
    finished(&torrent).await;
    leech.shelf.put(&sample, leech.dir.path());
    leech.engine.seed(Seed {
        info_hash: sample.info.hash(),
        trackers: tiers,
    });
    seed.engine.shutdown().await;
    until("it sleeps", || {
        leech.engine.torrent(sample.info.hash()).is_none()
    })
    .await;
    let port = leech.addr().port();
    let told = |event| {
        let heard = heard.lock().unwrap();
        heard
            .iter()
            .filter(|request| request.port == port && request.event == event)
            .count()
    };
    until("it is announced anew", || told(AnnounceEvent::Started) == 2).await;
    assert_eq!(
        told(AnnounceEvent::Stopped),
        0,
        "nobody was told that it left"
    );
    leech.engine.forget(sample.info.hash()).await;
    until("it leaves", || told(AnnounceEvent::Stopped) > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_no_metadata_of_a_private_torrent() {
    use torrents::extended::{ExtendedHandshake, MetadataMessage, OUR_UT_METADATA};
    use torrents::wire::Message;

    let sample = sample(200_000, 65_536, 37);
    let seed = Host::seeding(&sample).await;
    let mut stranger = Fake::dial(seed.addr(), &sample.info, fake_id("curious")).await;
    let hello = ExtendedHandshake {
        ut_metadata: Some(OUR_UT_METADATA),
        ..ExtendedHandshake::default()
    };
    let extended = |id, payload| Message::Extended { id, payload };
    stranger.send(&Message::HaveNone).await.unwrap();
    stranger.send(&extended(0, hello.encode())).await.unwrap();
    let request = MetadataMessage::Request { piece: 0 }.encode();
    stranger
        .send(&extended(OUR_UT_METADATA, request))
        .await
        .unwrap();
    loop {
        let came = stranger.next().await.expect("the seed stays");
        let harness::fake::Came::Message(Message::Extended { id, payload }) = came else {
            continue;
        };
        if id == 0 {
            let said = ExtendedHandshake::decode(&payload).unwrap();
            assert_eq!((said.ut_metadata, said.metadata_size), (None, None));
            assert_eq!(said.listen_port, Some(seed.addr().port()));
            assert!(said.upload_only);
        } else {
            let answer = MetadataMessage::decode(&payload).unwrap();
            assert_eq!(answer, MetadataMessage::Reject { piece: 0 });
            break;
        }
    }
}
