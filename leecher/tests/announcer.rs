//! Announcing to trackers that work, refuse, lie, hang and restart.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/tracker.rs"]
mod tracker;

use std::collections::HashSet;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use leecher::announcer::{
    Announcement, Announcer, SeedAnnouncer, SeedIdentity, Totals, TrackerError, order_tiers, scrape,
};
use tokio::sync::mpsc;
use torrents::announce::AnnounceEvent::{Completed, None as Regular, Started, Stopped};
use torrents::announce::{ScrapeEntry, encode_scrape};
use torrents::{InfoHash, PeerId};
use tracker::{Tracker, eventually, nobody, ok, raw, refusal, reply};

const OURS: &str = "10.9.8.7:15001";
/// What must be over soon, with room for a machine that is busy elsewhere.
const SOON: Duration = Duration::from_secs(10);

struct Download {
    announcer: Announcer,
    left: Arc<AtomicU64>,
    found: mpsc::Receiver<Vec<SocketAddr>>,
}

fn download(trackers: &[&[&str]], left: u64) -> Download {
    let left = Arc::new(AtomicU64::new(left));
    let (sender, found) = mpsc::channel(1);
    let tier = |tier: &&[&str]| tier.iter().map(|&url| url.to_owned()).collect();
    let announcement = Announcement {
        info_hash: InfoHash(*b"\0hash with &=% bytes"),
        peer_id: PeerId(*b"-SW0100-abcdefghijkl"),
        addr: OURS.parse().unwrap(),
        advertise: true,
        trackers: trackers.iter().map(tier).collect(),
        totals: {
            let left = left.clone();
            Arc::new(move || Totals {
                uploaded: 1,
                downloaded: 2,
                left: left.load(Ordering::Relaxed),
                numwant: 30,
            })
        },
        found: sender,
    };
    let announcer = Announcer::start(leecher::http::client().unwrap(), announcement);
    Download {
        announcer,
        left,
        found,
    }
}

#[tokio::test]
async fn a_download_is_announced_from_its_start_to_its_end() {
    let tracker = Tracker::start(|_| ok(&reply(&["10.0.0.1:1", OURS, "[2001:db8::1]:2"]))).await;
    let mut it = download(&[&[&tracker.url]], 100);
    let peers = it.found.recv().await.unwrap();
    let expected: Vec<SocketAddr> = ["10.0.0.1:1", "[2001:db8::1]:2"]
        .map(|addr| addr.parse().unwrap())
        .into();
    assert_eq!(peers, expected, "all but ourselves");

    it.announcer.need_peers();
    tracker.heard(2).await;
    it.left.store(0, Ordering::Relaxed);
    it.announcer.completed();
    tracker.heard(3).await;
    it.announcer.completed();
    it.announcer.stop().await;

    assert_eq!(tracker.events(), [Started, Regular, Completed, Stopped]);
    let asked = tracker.asked();
    assert_eq!(asked[0].info_hash, InfoHash(*b"\0hash with &=% bytes"));
    assert_eq!(asked[0].peer_id, PeerId(*b"-SW0100-abcdefghijkl"));
    assert_eq!(
        (asked[0].port, asked[0].ip),
        (15_001, Some("10.9.8.7".parse().unwrap()))
    );
    assert_eq!(
        (asked[0].uploaded, asked[0].downloaded, asked[0].left),
        (1, 2, Some(100))
    );
    assert_eq!((asked[2].left, asked[3].left), (Some(0), Some(0)));
    assert_eq!((asked[0].numwant, asked[3].numwant), (Some(30), Some(0)));
    assert_eq!(asked[0].tracker_id, None);
    assert!(
        asked[1..]
            .iter()
            .all(|ask| ask.tracker_id.as_deref() == Some("boot-1"))
    );
    assert!(
        asked
            .iter()
            .all(|ask| ask.key == asked[0].key && ask.key.is_some())
    );
    let secret = asked[0].key.unwrap().to_be_bytes();
    assert!(!asked[0].peer_id.0.ends_with(&secret), "peers know the id");
}

#[tokio::test]
async fn the_next_tracker_takes_over_from_a_dead_one_and_people_hear_of_it() {
    let tracker = Tracker::start(|_| ok(&reply(&["10.0.0.1:1"]))).await;
    let dead = format!("http://{}/announce", nobody().await);
    let mut it = download(&[&[&dead], &[&tracker.url]], 100);
    assert_eq!(it.found.recv().await.unwrap().len(), 1);
    eventually(|| it.announcer.trouble().is_some()).await;
    let trouble = it.announcer.trouble().unwrap();
    let host = dead
        .strip_prefix("http://")
        .unwrap()
        .strip_suffix("/announce")
        .unwrap();
    assert!(
        trouble.starts_with(&format!("tracker {host}: ")),
        "{trouble}"
    );
    assert!(trouble.contains("refused"), "{trouble}");
    it.announcer.stop().await;
    assert_eq!(tracker.events(), [Started, Stopped]);
}

#[tokio::test]
async fn a_refusal_is_shown_and_forgotten_once_it_is_lifted() {
    let tracker = Tracker::start(|_| refusal("unregistered torrent")).await;
    let mut it = download(&[&[&tracker.url]], 100);
    eventually(|| it.announcer.trouble().is_some()).await;
    let trouble = it.announcer.trouble().unwrap();
    assert!(
        trouble.ends_with("it refused: unregistered torrent"),
        "{trouble}"
    );
    tracker.answer_with(|_| ok(&reply(&["10.0.0.1:1"])));
    assert_eq!(it.found.recv().await.unwrap().len(), 1);
    assert_eq!(it.announcer.trouble(), None);
    assert!(tracker.events().iter().all(|event| *event == Started));
    tracker.answer_with(|_| {
        let warning = Some("behave".to_owned());
        ok(&torrents::announce::AnnounceReply {
            warning,
            ..reply(&[])
        })
    });
    it.announcer.need_peers();
    eventually(|| {
        it.announcer
            .trouble()
            .is_some_and(|it| it.ends_with("warns: behave"))
    })
    .await;
}

#[tokio::test]
async fn answers_that_are_none_are_named_and_bounded() {
    type Case = (&'static str, fn() -> axum::response::Response, &'static str);
    let cases: [Case; 5] = [
        ("html", || raw(200, "<html>"), "no bencode"),
        ("status", || raw(502, "<html>"), "it answered 502"),
        (
            "reason",
            || raw(403, "d14:failure reason6:secrete"),
            "it refused: secret",
        ),
        (
            "huge",
            || raw(200, vec![b'x'; (1 << 20) + 1]),
            "larger than 1048576 bytes",
        ),
        (
            "round and round",
            || {
                let mut it = raw(302, "");
                it.headers_mut()
                    .insert("location", "/announce?x".parse().unwrap());
                it
            },
            "",
        ),
    ];
    for (name, answer, expected) in cases {
        let tracker = Tracker::start(move |_| answer()).await;
        if expected.is_empty() {
            // The fake cannot read a redirected query that lost its parameters; ask it whole.
            let url = tracker.url.clone();
            tracker.answer_with(move |ask| {
                let mut it = raw(302, "");
                it.headers_mut()
                    .insert("location", ask.to_url(&url).parse().unwrap());
                it
            });
        }
        let it = download(&[&[&tracker.url]], 100);
        eventually(|| it.announcer.trouble().is_some()).await;
        let trouble = it.announcer.trouble().unwrap();
        let expected = if expected.is_empty() {
            "more than 3 redirects"
        } else {
            expected
        };
        assert!(trouble.contains(expected), "{name}: {trouble}");
    }
}

fn gzipped(body: &[u8]) -> axum::response::Response {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(body).unwrap();
    packed(packer.finish().unwrap())
}

fn packed(body: Vec<u8>) -> axum::response::Response {
    let mut it = raw(200, body);
    it.headers_mut()
        .insert("content-encoding", "gzip".parse().unwrap());
    it
}

#[tokio::test]
async fn an_answer_that_comes_packed_is_unpacked_and_bounded_all_the_same() {
    let tracker =
        Tracker::start(|_| gzipped(b"d8:intervali900e5:peers6:\x0a\0\0\x01\0\x01e")).await;
    let mut it = download(&[&[&tracker.url]], 100);
    assert_eq!(
        it.found.recv().await.unwrap(),
        ["10.0.0.1:1".parse().unwrap()]
    );
    type Case = (fn() -> axum::response::Response, &'static str);
    let cases: [Case; 2] = [
        (|| gzipped(&[b'x'; (1 << 20) + 1]), "larger than 1048576"),
        (|| packed(b"d5:peers0:e".to_vec()), "cannot be unpacked"),
    ];
    for (answer, expected) in cases {
        let tracker = Tracker::start(move |_| answer()).await;
        let it = download(&[&[&tracker.url]], 100);
        eventually(|| it.announcer.trouble().is_some()).await;
        let trouble = it.announcer.trouble().unwrap();
        assert!(trouble.contains(expected), "{trouble}");
    }
}

#[tokio::test]
async fn a_peer_that_is_named_by_its_host_is_found() {
    let peers = "d8:intervali900e5:peersld2:ip9:localhost4:porti7eed2:ip8:10.0.0.14:porti1eeee";
    let tracker = Tracker::start(move |_| raw(200, peers)).await;
    let mut it = download(&[&[&tracker.url]], 100);
    let found = it.found.recv().await.unwrap();
    let has = |addr: &str| found.contains(&addr.parse().unwrap());
    assert!(has("10.0.0.1:1"), "{found:?}");
    assert!(has("127.0.0.1:7") || has("[::1]:7"), "{found:?}");
}

#[tokio::test]
async fn a_redirect_is_followed() {
    let target = Tracker::start(|_| ok(&reply(&["10.0.0.1:1"]))).await;
    let url = target.url.clone();
    let tracker = Tracker::start(move |ask| {
        let mut it = raw(307, "");
        it.headers_mut()
            .insert("location", ask.to_url(&url).parse().unwrap());
        it
    })
    .await;
    let mut it = download(&[&[&tracker.url]], 100);
    assert_eq!(it.found.recv().await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_asked_is_said() {
    for (url, expected) in [
        (
            "https://tracker.example/announce",
            "https is not supported here; use http",
        ),
        ("udp://tracker.example:80", "udp trackers are not supported"),
        ("wss://tracker.example/", "only http is supported"),
        ("nonsense", "this is no URL"),
    ] {
        let it = download(&[&[url]], 100);
        eventually(|| it.announcer.trouble().is_some()).await;
        let trouble = it.announcer.trouble().unwrap();
        assert!(trouble.contains(expected), "{url}: {trouble}");
        it.announcer.stop().await;
    }
    // A secret in the path stays there.
    let dead = format!("http://{}/passkey123/announce", nobody().await);
    let it = download(&[&[&dead]], 100);
    eventually(|| it.announcer.trouble().is_some()).await;
    assert!(!it.announcer.trouble().unwrap().contains("passkey123"));
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_tracker_that_hangs() {
    let tracker = Tracker::start(|_| ok(&reply(&[]))).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs = format!("http://{}/announce", listener.local_addr().unwrap());
    let it = download(&[&[&hangs], &[&tracker.url]], 100);
    tracker.heard(1).await;
    let start = Instant::now();
    it.announcer.stop().await;
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(tracker.events(), [Started, Stopped]);
}

#[tokio::test]
async fn nobody_taking_the_peers_holds_nothing_up() {
    let tracker = Tracker::start(|_| ok(&reply(&["10.0.0.1:1"]))).await;
    let mut it = download(&[&[&tracker.url]], 100);
    for count in 1..=3 {
        tracker.heard(count).await;
        it.announcer.need_peers();
        // Asked again although nobody takes what was found.
        eventually(|| {
            it.announcer.need_peers();
            tracker.asked().len() > count
        })
        .await;
    }
    drop(it.found.recv().await);
    drop(it.found);
    it.announcer.stop().await;
    assert_eq!(tracker.events().last(), Some(&Stopped));
}

#[tokio::test]
async fn dropping_stops_without_a_word() {
    let tracker = Tracker::start(|_| ok(&reply(&[]))).await;
    let it = download(&[&[&tracker.url]], 100);
    tracker.heard(1).await;
    it.announcer.need_peers();
    drop(it);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(tracker.events(), [Started]);
}

#[tokio::test]
async fn a_scrape_counts_the_peers() {
    let hash = InfoHash([7; 20]);
    let entry = ScrapeEntry {
        complete: 1,
        downloaded: 2,
        incomplete: 3,
    };
    let app = axum::Router::new().route(
        "/scrape",
        axum::routing::get(move |uri: axum::http::Uri| async move {
            let asked = torrents::announce::scrape_hashes(uri.query().unwrap().as_bytes(), 9);
            assert_eq!(asked.unwrap(), [hash]);
            let mut body = Vec::new();
            encode_scrape(&[(hash, entry)], &mut body);
            body
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let client = leecher::http::client().unwrap();
    let url = format!("http://{host}/announce");
    assert_eq!(
        scrape(&client, &url, &[hash]).await.unwrap(),
        [(hash, entry)]
    );
    let url = format!("http://{host}/a");
    let error = scrape(&client, &url, &[hash]).await.unwrap_err();
    assert!(matches!(error, TrackerError::NoScrape));
    let url = format!("http://{host}/x/announce");
    let error = scrape(&client, &url, &[hash]).await.unwrap_err();
    assert_eq!(error.to_string(), "it answered 404 Not Found");
    server.abort();
}

#[test]
fn everybody_finds_the_same_order_and_swarms_spread() {
    let urls: Vec<_> = (0..4)
        .map(|n| format!("http://tracker-{n}:15003/announce"))
        .collect();
    let mut backwards = urls.clone();
    backwards.reverse();
    backwards.push(urls[0].clone());
    let mut first = [0; 4];
    for n in 0..1_000u32 {
        let hash = InfoHash::of(&n.to_be_bytes());
        let tiers = order_tiers(hash, &urls);
        assert_eq!(tiers, order_tiers(hash, &backwards));
        assert_eq!(tiers.len(), 4);
        first[urls.iter().position(|url| *url == tiers[0][0]).unwrap()] += 1;
        // One that goes moves only its own swarms.
        let fewer = order_tiers(hash, &urls[..3]);
        let left: Vec<_> = tiers
            .into_iter()
            .filter(|tier| tier[0] != urls[3])
            .collect();
        assert_eq!(fewer, left);
    }
    assert!(
        first.iter().all(|count| (180..320).contains(count)),
        "{first:?}"
    );
    // Agreed on by every herd and agent there is: a change here splits swarms.
    let order: Vec<_> = order_tiers(InfoHash([0; 20]), &urls).concat();
    assert_eq!(
        order,
        [
            &*urls[PINNED[0]],
            &*urls[PINNED[1]],
            &*urls[PINNED[2]],
            &*urls[PINNED[3]]
        ]
    );
}

const PINNED: [usize; 4] = [2, 0, 1, 3];

fn seeds() -> SeedAnnouncer {
    SeedAnnouncer::start(
        leecher::http::client().unwrap(),
        SeedIdentity {
            peer_id: PeerId(*b"-SW0100-abcdefghijkl"),
            addr: OURS.parse().unwrap(),
            advertise: false,
        },
    )
}

fn hash(n: u32) -> InfoHash {
    InfoHash::of(&n.to_be_bytes())
}

fn tiers(urls: &[&str]) -> Vec<Vec<String>> {
    urls.iter().map(|url| vec![(*url).to_owned()]).collect()
}

#[tokio::test]
async fn many_seeds_are_announced_a_few_at_a_time() {
    let tracker = Tracker::start(|_| ok(&reply(&["10.0.0.1:1"]))).await;
    let seeds = seeds();
    for n in 0..100 {
        seeds.add(hash(n), &tiers(&[&tracker.url]));
        seeds.add(hash(n), &tiers(&[&tracker.url]));
    }
    tracker.heard(100).await;
    assert!(
        tracker.most_at_once() <= 16,
        "{} at once",
        tracker.most_at_once()
    );
    let asked = tracker.asked();
    let hashes: HashSet<_> = asked.iter().map(|ask| ask.info_hash).collect();
    assert_eq!((hashes.len(), asked.len()), (100, 100));
    assert!(
        asked
            .iter()
            .all(|ask| ask.event == Started && ask.left == Some(0))
    );
    assert!(
        asked
            .iter()
            .all(|ask| ask.numwant == Some(0) && ask.ip.is_none())
    );

    seeds.remove(hash(5));
    seeds.remove(hash(1_000));
    tracker.heard(101).await;
    assert_eq!(tracker.asked()[100].info_hash, hash(5));
    assert_eq!(tracker.asked()[100].event, Stopped);
    let start = Instant::now();
    seeds.shutdown().await;
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    let stopped = tracker
        .asked()
        .into_iter()
        .filter(|ask| ask.event == Stopped);
    let stopped: HashSet<_> = stopped.map(|ask| ask.info_hash).collect();
    assert_eq!(stopped.len(), 100);
}

#[tokio::test]
async fn a_dead_tracker_costs_the_seeds_little() {
    let tracker = Tracker::start(|_| ok(&reply(&[]))).await;
    let dead = format!("http://{}/announce", nobody().await);
    let seeds = seeds();
    for n in 0..60 {
        seeds.add(
            hash(n),
            &tiers(&[&dead, "https://x/announce", &tracker.url]),
        );
    }
    tracker.heard(60).await;
    assert!(seeds.trouble().is_some());
    let hashes: HashSet<_> = tracker.asked().iter().map(|ask| ask.info_hash).collect();
    assert_eq!(hashes.len(), 60);
    seeds.shutdown().await;
}

#[tokio::test]
async fn all_seeds_come_back_to_a_tracker_that_forgot_them() {
    let answered = AtomicU64::new(0);
    let tracker = Tracker::start(move |_| {
        let boot = answered.fetch_add(1, Ordering::SeqCst) / 20;
        let tracker_id = Some(if boot == 0 { "one" } else { "two" }.to_owned());
        ok(&torrents::announce::AnnounceReply {
            tracker_id,
            ..reply(&[])
        })
    })
    .await;
    let seeds = seeds();
    for n in 0..20 {
        seeds.add(hash(n), &tiers(&[&tracker.url]));
    }
    tracker.heard(20).await;
    // A newcomer is the first to notice.
    seeds.add(hash(99), &tiers(&[&tracker.url]));
    tracker.heard(41).await;
    let asked = tracker.asked();
    assert_eq!(asked[20].info_hash, hash(99));
    let back: HashSet<_> = asked[21..].iter().map(|ask| ask.info_hash).collect();
    assert_eq!(back.len(), 20);
    assert!(asked.iter().all(|ask| ask.event == Started));
    seeds.shutdown().await;
}

#[tokio::test]
async fn seeds_change_trackers_and_come_and_go() {
    let one = Tracker::start(|_| ok(&reply(&[]))).await;
    let two = Tracker::start(|_| ok(&reply(&[]))).await;
    let seeds = seeds();
    seeds.add(hash(1), &tiers(&[&one.url]));
    one.heard(1).await;
    seeds.add(hash(1), &tiers(&[&two.url]));
    two.heard(1).await;
    one.heard(2).await;
    assert_eq!(one.events(), [Started, Stopped]);
    for _ in 0..50 {
        seeds.remove(hash(1));
        tokio::task::yield_now().await;
        seeds.add(hash(1), &tiers(&[&two.url]));
        tokio::task::yield_now().await;
    }
    seeds.shutdown().await;
    let events = two.events();
    assert_eq!(events.last(), Some(&Stopped), "{events:?}");
    for pair in events.windows(2) {
        assert_ne!(pair[0], pair[1], "each start has its end: {events:?}");
    }
}
