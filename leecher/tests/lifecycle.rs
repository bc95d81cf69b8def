//! How torrents and engines come and go.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::time::Duration;

use harness::{Host, PATIENCE, config, finished, sample, until};
use leecher::{Config, DownloadError, Phase, Seed, TorrentError};
use tokio::net::TcpListener;

#[tokio::test]
async fn nothing_survives_a_shutdown() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let sample = sample(2_000_000, 65_536, 20);
    let (seed, leech) = (Host::seeding(&sample).await, Host::start().await);
    let torrent = leech.leech(&sample.info, vec![seed.addr()]).await;
    let unfinished = harness::sample(2_000_000, 65_536, 21);
    let waiting = leech.leech(&unfinished.info, Vec::new()).await;
    finished(&torrent).await;
    assert!(metrics.num_alive_tasks() > before);
    leech.engine.shutdown().await;
    seed.engine.shutdown().await;
    until("all tasks are gone", || metrics.num_alive_tasks() == before).await;
    assert!(matches!(
        waiting.finished().await,
        Err(TorrentError::Closed)
    ));
    assert_eq!(waiting.progress().borrow().phase, Phase::Failed);
    let mut reader = waiting.reader();
    assert!(reader.ready(0..10).await.is_err());
    assert!(
        torrent.finished().await.is_ok(),
        "what is complete stays so"
    );
    let refused = leech.engine.download(leecher::Download {
        info: sample.info.clone(),
        content: torrent.content().clone(),
        trackers: Vec::new(),
        web_seeds: Vec::new(),
        peers: Vec::new(),
        eager_web_seed: false,
        head: bytes::Bytes::new(),
    });
    assert!(matches!(refused.await, Err(DownloadError::Closed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_content_opens_for_a_peer_and_goes_dormant_again() {
    let sample = sample(400_000, 65_536, 22);
    let seed = Host::with(Config {
        dormant_after: Duration::from_millis(300),
        ..config()
    })
    .await;
    seed.shelf.put(&sample, seed.dir.path());
    seed.engine.seed(Seed {
        info_hash: sample.info.hash(),
        trackers: Vec::new(),
    });
    assert!(seed.engine.torrent(sample.info.hash()).is_none());
    for round in 1..=2 {
        let leech = Host::start().await;
        let torrent = leech.leech(&sample.info, vec![seed.addr()]).await;
        finished(&torrent).await;
        leech.engine.shutdown().await;
        until("it is dormant", || {
            seed.engine.torrent(sample.info.hash()).is_none()
        })
        .await;
        assert_eq!(seed.shelf.opened.lock().unwrap().len(), round);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forgotten_ends_at_once() {
    let sample = sample(400_000, 65_536, 23);
    let leech = Host::start().await;
    let torrent = leech.leech(&sample.info, Vec::new()).await;
    let waiting = tokio::spawn({
        let torrent = torrent.clone();
        async move { torrent.finished().await }
    });
    let mut reader = torrent.reader();
    let reading = tokio::spawn(async move { reader.ready(100..200).await });
    tokio::task::yield_now().await;
    leech.engine.forget(sample.info.hash()).await;
    assert!(matches!(waiting.await.unwrap(), Err(TorrentError::Closed)));
    assert!(matches!(reading.await.unwrap(), Err(TorrentError::Closed)));
    assert!(leech.engine.torrent(sample.info.hash()).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_cannot_be_read_fails_its_torrent_and_no_other() {
    let (broken, sound) = (sample(4_000_000, 65_536, 24), sample(400_000, 65_536, 25));
    let (seed, leech) = (Host::seeding(&broken).await, Host::start().await);
    seed.shelf.put(&sound, seed.dir.path());
    let one = leech.leech(&sound.info, vec![seed.addr()]).await;
    finished(&one).await;
    // Opened while it was whole, cut afterwards.
    let info_hash = broken.info.hash();
    let mut opener =
        harness::fake::Fake::dial(seed.addr(), &broken.info, harness::fake::fake_id("opener"))
            .await;
    assert!(opener.next().await.is_some());
    let path = seed.dir.path().join(broken.info.name());
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(10)
        .unwrap();
    let _waiting = leech.leech(&broken.info, vec![seed.addr()]).await;
    until("it failed", || {
        seed.engine
            .torrent(info_hash)
            .is_some_and(|torrent| torrent.progress().borrow().phase == Phase::Failed)
    })
    .await;
    let status = seed.engine.status().await;
    let failed = status
        .iter()
        .find(|status| status.info_hash == info_hash)
        .unwrap();
    assert!(failed.note.is_some(), "it says why");
    let third = Host::start().await;
    let again = third.leech(&sound.info, vec![seed.addr()]).await;
    finished(&again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_comes_from_our_own_peers_and_is_what_the_hash_names() {
    // 20 bytes for each of 2000 pieces: three pieces of metadata.
    let sample = sample(2_000 * 16_384, 16_384, 26);
    let (seed, leech) = (Host::seeding(&sample).await, Host::start().await);
    let info_hash = sample.info.hash();
    let info = leech
        .engine
        .metadata(info_hash, Vec::new(), vec![seed.addr()], PATIENCE)
        .await
        .unwrap();
    assert_eq!(info, sample.info);
    let unknown = harness::sample(1, 16_384, 27).info.hash();
    let within = Duration::from_millis(500);
    let none = leech
        .engine
        .metadata(unknown, Vec::new(), vec![seed.addr()], within)
        .await;
    assert!(matches!(none, Err(DownloadError::NoMetadata { .. })));
}

/// More than are asked at once, of each kind.
#[tokio::test(flavor = "multi_thread")]
async fn peers_without_metadata_do_not_hide_the_one_that_has_it() {
    let sample = sample(100, 16_384, 28);
    let (seed, leech) = (Host::seeding(&sample).await, Host::start().await);
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let mut peers: Vec<_> = silent.iter().map(|l| l.local_addr().unwrap()).collect();
    // Closed again: nobody listens there.
    for _ in 0..12 {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        peers.push(closed.local_addr().unwrap());
    }
    peers.push(seed.addr());
    let info_hash = sample.info.hash();
    let got = leech
        .engine
        .metadata(info_hash, Vec::new(), peers, PATIENCE)
        .await;
    assert_eq!(got.unwrap(), sample.info);
}

#[tokio::test]
async fn a_port_in_use_is_said_plainly() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let shelf = std::sync::Arc::new(harness::Shelf::default());
    let config = Config {
        listen: taken.local_addr().unwrap(),
        ..config()
    };
    let started =
        leecher::Engine::start(config, shelf, std::sync::Arc::new(leecher::OpenGate)).await;
    let error = started.err().unwrap().to_string();
    assert!(
        error.starts_with("cannot listen for peers on 127.0.0.1:"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_head_the_right_pieces_count_and_no_others() {
    let sample = sample(400_000, 65_536, 29);
    let with_head = |host: &Host, head: Vec<u8>| leecher::Download {
        info: sample.info.clone(),
        content: host.output(&sample.info),
        trackers: Vec::new(),
        web_seeds: Vec::new(),
        peers: Vec::new(),
        eager_web_seed: false,
        head: head.into(),
    };
    let mut head = sample.bytes[..3 * 65_536 + 100].to_vec();
    head[70_000] ^= 1;
    let leech = Host::start().await;
    let torrent = leech.download(with_head(&leech, head)).await;
    assert_eq!(torrent.progress().borrow().verified, 2 * 65_536);
    assert_eq!(torrent.transfer().from_web_seeds, 2 * 65_536);
    let mut reader = torrent.reader();
    assert_eq!(reader.ready(0..400_000).await.unwrap(), 65_536);
    let seed = Host::seeding(&sample).await;
    torrent.add_peers(&[seed.addr()]);
    finished(&torrent).await;
    assert_eq!(leech.result(&sample.info), sample.bytes);

    let leech = Host::start().await;
    let all = leech
        .download(with_head(&leech, sample.bytes.clone()))
        .await;
    finished(&all).await;
    assert_eq!(leech.result(&sample.info), sample.bytes);
}
