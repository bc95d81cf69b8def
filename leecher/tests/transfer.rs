//! Bytes from host to host over loopback: all of them, unchanged.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use harness::{Host, config, finished, sample, until};
use leecher::{Config, Phase, Rates, RatesChange};

#[tokio::test(flavor = "multi_thread")]
async fn a_leecher_gets_every_byte_from_a_seed() {
    let sample = sample(5_000_000, 262_144, 1);
    let (seed, leech) = (Host::seeding(&sample).await, Host::start().await);
    let torrent = leech.leech(&sample.info, vec![seed.addr()]).await;
    finished(&torrent).await;
    assert_eq!(torrent.progress().borrow().phase, Phase::Seeding);
    assert_eq!(torrent.progress().borrow().verified, 5_000_000);
    let transfer = torrent.transfer();
    assert_eq!(transfer.from_peers, [(seed.addr(), 5_000_000)]);
    assert_eq!(transfer.downloaded, 5_000_000);
    leech.engine.shutdown().await;
    seed.engine.shutdown().await;
    assert!(leech.result(&sample.info) == sample.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_lengths_arrive_whole() {
    for (length, piece_len) in [
        (1, 16_384),
        (16_385, 16_384),
        (100_000, 32_768),
        (40_000, 1 << 20),
    ] {
        let sample = sample(length, piece_len, length as u64);
        let (seed, leech) = (Host::seeding(&sample).await, Host::start().await);
        let torrent = leech.leech(&sample.info, vec![seed.addr()]).await;
        finished(&torrent).await;
        leech.engine.shutdown().await;
        assert!(leech.result(&sample.info) == sample.bytes, "{length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leechers_give_to_each_other() {
    let sample = sample(8_000_000, 262_144, 2);
    let seed = Host::with(Config {
        // So slow that the leechers have time for each other.
        upload_limit: Some(4_000_000),
        ..config()
    })
    .await;
    seed.shelf.put(&sample, seed.dir.path());
    let hosts = [
        Host::start().await,
        Host::start().await,
        Host::start().await,
    ];
    let addrs: Vec<_> = hosts.iter().map(Host::addr).collect();
    let mut torrents = Vec::new();
    for host in &hosts {
        let others = addrs.iter().copied().filter(|addr| *addr != host.addr());
        let peers = others.chain([seed.addr()]).collect();
        torrents.push(host.leech(&sample.info, peers).await);
    }
    let mut from_seed = 0;
    for torrent in &torrents {
        finished(torrent).await;
        let transfer = torrent.transfer();
        assert_eq!(transfer.downloaded, 8_000_000);
        let given = transfer
            .from_peers
            .iter()
            .find(|(addr, _)| *addr == seed.addr());
        from_seed += given.map_or(0, |(_, bytes)| *bytes);
    }
    assert!(
        from_seed < 16_000_000,
        "the seed gave {from_seed} of 24000000 bytes"
    );
    for host in &hosts {
        host.engine.shutdown().await;
        assert!(host.result(&sample.info) == sample.bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_streams_while_the_rest_arrives() {
    let sample = sample(6_000_000, 65_536, 3);
    let (seed, leech) = (Host::seeding(&sample).await, Host::start().await);
    let torrent = leech.leech(&sample.info, vec![seed.addr()]).await;
    let mut reader = torrent.reader();
    let (mut at, mut read) = (1_000u64, Vec::new());
    while at < 6_000_000 {
        let end = reader.ready(at..6_000_000).await.unwrap();
        assert!(end > at && end <= 6_000_000);
        let mut part = vec![0; usize::try_from(end - at).unwrap()];
        torrent.content().read_at(at, &mut part).unwrap();
        read.extend(part);
        at = end;
    }
    assert!(read == sample.bytes[1_000..]);
    assert_eq!(reader.ready(500..600).await.unwrap(), 600);
    assert_eq!(reader.ready(6_000_000..7_000_000).await.unwrap(), 6_000_000);
    leech.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_resumes_where_a_killed_one_stopped() {
    let sample = sample(4_000_000, 65_536, 4);
    let seed = Host::with(Config {
        upload_limit: Some(2_000_000),
        ..config()
    })
    .await;
    seed.shelf.put(&sample, seed.dir.path());
    let leech = Host::start().await;
    let torrent = leech.leech(&sample.info, vec![seed.addr()]).await;
    until("half is there", || {
        torrent.progress().borrow().verified > 1_000_000
    })
    .await;
    // Nobody says good-bye to a killed process.
    leech.engine.forget(sample.info.hash()).await;
    let content = leech.output(&sample.info);
    let kept = u64::from(content.have().count()) * 65_536;
    assert!(kept >= 1_000_000, "{kept} bytes were kept");
    assert!(!content.have().is_full());
    seed.engine.set_limits(Rates::default());
    let torrent = leech.leech(&sample.info, vec![seed.addr()]).await;
    finished(&torrent).await;
    assert!(torrent.transfer().downloaded <= 4_000_000 - kept + 65_536);
    leech.engine.shutdown().await;
    assert!(leech.result(&sample.info) == sample.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_torrents_share_one_port() {
    let samples: Vec<_> = (0..20).map(|n| sample(300_000, 65_536, 100 + n)).collect();
    let (seed, leech) = (Host::start().await, Host::start().await);
    let mut torrents = Vec::new();
    for sample in &samples {
        seed.shelf.put(sample, seed.dir.path());
        torrents.push(leech.leech(&sample.info, vec![seed.addr()]).await);
    }
    for (torrent, sample) in torrents.iter().zip(&samples) {
        finished(torrent).await;
        assert_eq!(torrent.info().hash(), sample.info.hash());
    }
    assert_eq!(leech.engine.status().await.len(), 20);
    leech.engine.shutdown().await;
    for sample in &samples {
        assert!(leech.result(&sample.info) == sample.bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_twice_joins_and_adds_peers() {
    let sample = sample(500_000, 65_536, 5);
    let (seed, leech) = (Host::seeding(&sample).await, Host::start().await);
    let first = leech.leech(&sample.info, Vec::new()).await;
    let second = leech.leech(&sample.info, vec![seed.addr()]).await;
    finished(&first).await;
    assert_eq!(second.progress().borrow().phase, Phase::Seeding);
    assert_eq!(leech.engine.status().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torrent_with_a_limit_waits_and_the_others_do_not() {
    const NOTHING: Option<Option<u64>> = Some(Some(0));
    const UNLIMITED: Option<Option<u64>> = Some(None);
    let samples = [sample(3_000_000, 65_536, 6), sample(3_000_000, 65_536, 7)];
    let (seed, leech) = (Host::start().await, Host::start().await);
    for (host, held, let_go) in [
        (
            &seed,
            RatesChange {
                upload: NOTHING,
                download: None,
            },
            RatesChange {
                upload: UNLIMITED,
                download: None,
            },
        ),
        (
            &leech,
            RatesChange {
                upload: None,
                download: NOTHING,
            },
            RatesChange {
                upload: None,
                download: UNLIMITED,
            },
        ),
    ] {
        let held_one = samples[0].info.hash();
        host.engine.change_torrent_limits(held_one, held).unwrap();
        let mut torrents = Vec::new();
        for sample in &samples {
            seed.shelf.put(sample, seed.dir.path());
            torrents.push(leech.leech(&sample.info, vec![seed.addr()]).await);
        }
        finished(&torrents[1]).await;
        let verified = torrents[0].progress().borrow().verified;
        assert!(verified < 3_000_000, "all of it came at 0 bytes a second");
        assert_eq!(host.engine.limits().torrents[0].info_hash, held_one);
        host.engine.change_torrent_limits(held_one, let_go).unwrap();
        finished(&torrents[0]).await;
        assert!(host.engine.limits().torrents.is_empty());
        for sample in &samples {
            leech.engine.forget(sample.info.hash()).await;
            assert!(leech.result(&sample.info) == sample.bytes);
            std::fs::remove_file(leech.dir.path().join("out").join(sample.info.name())).unwrap();
        }
    }
    leech.engine.shutdown().await;
}
