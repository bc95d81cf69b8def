//! The edges of the protocol by golden bytes: whole requests as clients send them, and whole
//! answers, status line and headers included.
//!
//! `announce.rs` and `http.rs` tell stories; this is the list. `<id>` stands for the tracker id,
//! which is random, and every byte that is no printable ASCII is shown as `<hh>`.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod harness;

use std::time::Duration;

use harness::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracker::{Config, Intervals, Tracker};

const SEED: &str = "-XX0001-seed00000001";
const LEECH: &str = "-XX0001-leech0000001";
const OTHER: &str = "-XX0001-leech0000002";

/// Sends bytes, and closes the sending side; everything that comes back.
async fn exchange(tracker: &Tracker, request: &str) -> String {
    let mut stream = connect(tracker).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
    let text = printable(&answer).replace("<0d><0a>", "\n");
    match text.split_once("10:tracker id16:") {
        None => text,
        Some((before, after)) => format!("{before}10:tracker id16:<id>{}", &after[16..]),
    }
}

/// The answer to a query of `/announce` without a header, in the words of HTTP/1.0.
async fn bare(tracker: &Tracker, query: &str) -> String {
    let request = format!("GET /announce?{query} HTTP/1.0\r\n\r\n");
    let answer = exchange(tracker, &request).await;
    let (head, body) = answer.split_once("\n\n").expect("a head");
    let length = body_length(body);
    assert_eq!(
        head,
        format!(
            "HTTP/1.1 200 OK\nContent-Type: text/plain\nContent-Length: {length}\n\
             Connection: close"
        )
    );
    body.to_owned()
}

/// Bytes that a shown body stands for.
fn body_length(shown: &str) -> usize {
    let shown = shown.replace("<id>", "0123456789abcdef");
    shown.len() - 3 * shown.matches('<').count()
}

fn who(id: &str, port: u16) -> String {
    format!("info_hash={HASH_TEXT}&peer_id={id}&port={port}")
}

/// A reply to 127.0.0.1; `peers` from the key `peers` on.
fn told(complete: u32, downloaded: u32, incomplete: u32, interval: u32, peers: &str) -> String {
    format!(
        "d8:completei{complete}e10:downloadedi{downloaded}e11:external ip4:<7f><00><00><01>\
         10:incompletei{incomplete}e8:intervali{interval}e12:min intervali2e{peers}\
         10:tracker id16:<id>e"
    )
}

fn failed(reason: &str) -> String {
    format!("d14:failure reason{}:{reason}e", reason.len())
}

/// A swarm of one seed on port 6881 and one leecher on port 6882.
async fn swarm() -> Tracker {
    let tracker = start(open()).await;
    bare(&tracker, &format!("{}&left=0", who(SEED, 6881))).await;
    bare(&tracker, &format!("{}&left=9", who(LEECH, 6882))).await;
    tracker
}

const SEED_AT: &str = "<7f><00><00><01><1a><e1>";
const LEECH_AT: &str = "<7f><00><00><01><1a><e2>";

#[tokio::test]
async fn bytes_of_hashes_and_ids() {
    let tracker = start(open()).await;
    let hash = |text: &str| format!("info_hash={text}&peer_id={LEECH}&port=1&left=1");
    // The same 20 bytes however they are written: `%41` is `A`, hex digits of either case.
    let plain = "AAAAAAAAAA%ff%00+%2b%26%3D.-_~";
    let escaped = "%41%41%41%41%41%41%41%41%41%41%FF%00%2B%2B&".replace('&', "%26%3d%2e%2D%5f%7E");
    bare(&tracker, &hash(plain)).await;
    let seed = format!("info_hash={escaped}&peer_id={SEED}&port=2&left=0");
    let met = bare(&tracker, &seed).await;
    let peers = "5:peers6:<7f><00><00><01><00><01>";
    assert_eq!(met, told(1, 0, 1, 900, peers));
    // A plus is a plus, not a space.
    let space = plain.replace('+', "%20");
    let alone = bare(&tracker, &hash(&space).replace("port=1", "port=3")).await;
    assert_eq!(alone, told(0, 0, 1, 10, "5:peers0:"));
    for (wrong, which) in [
        (hash(""), "info_hash"),
        (hash(&"A".repeat(19)), "info_hash"),
        (hash(&"A".repeat(21)), "info_hash"),
        (hash(&format!("{}%4", "A".repeat(19))), "info_hash"),
        (hash(&format!("{}%", "A".repeat(19))), "info_hash"),
        (hash(&format!("{}%zz", "A".repeat(19))), "info_hash"),
        (hash(plain).replace(LEECH, "short"), "peer_id"),
    ] {
        let reason = format!("{which} is not 20 bytes, percent-encoded");
        assert_eq!(bare(&tracker, &wrong).await, failed(&reason), "{wrong}");
    }
    for (wrong, reason) in [
        ("port=1".to_owned(), "missing info_hash"),
        (format!("info_hash={plain}&port=1"), "missing peer_id"),
        (hash(plain).replace("&port=1", ""), "missing port"),
        (
            hash(plain).replace("port=1", "port=65536"),
            "port is not a number below 65536",
        ),
        (
            hash(plain).replace("port=1", "port="),
            "port is not a number below 65536",
        ),
        (
            format!("{0}&{0}", hash(plain)),
            "more than one info_hash in an announce",
        ),
    ] {
        assert_eq!(bare(&tracker, &wrong).await, failed(reason), "{wrong}");
    }
    tracker.shutdown().await;
}

#[tokio::test]
async fn events() {
    let tracker = swarm().await;
    let leech = |more: &str| format!("{}{more}", who(LEECH, 6882));
    let both = format!("5:peers6:{SEED_AT}");
    for event in ["started", "", "unheard-of", "%73tarted"] {
        let answer = bare(&tracker, &leech(&format!("&left=9&event={event}"))).await;
        assert_eq!(answer, told(1, 0, 1, 10, &both), "{event}");
    }
    // BEP 21: incomplete, wants nothing, is told of leechers only.
    let paused = bare(&tracker, &leech("&left=9&event=paused")).await;
    assert_eq!(paused, told(1, 0, 1, 10, "5:peers0:"));
    // Counted once, however often it is said; and not for a seed from the start.
    for _ in 0..2 {
        let done = bare(&tracker, &leech("&left=0&event=completed")).await;
        assert_eq!(done, told(2, 1, 0, 900, "5:peers0:"));
        let seed = format!("{}&left=0&event=completed", who(SEED, 6881));
        assert_eq!(bare(&tracker, &seed).await, told(2, 1, 0, 900, "5:peers0:"));
    }
    // Who stops is told of nobody, also when it asks, and may stop twice.
    bare(&tracker, &format!("{}&left=3", who(OTHER, 6883))).await;
    for _ in 0..2 {
        let gone = bare(&tracker, &leech("&left=0&event=stopped&numwant=50")).await;
        assert_eq!(gone, told(1, 1, 1, 900, "5:peers0:"));
    }
    // A magnet client completes without having said what is left.
    let magnet = bare(&tracker, &format!("{}&event=completed", who(OTHER, 6883))).await;
    assert_eq!(magnet, told(2, 2, 0, 900, "5:peers0:"));
    tracker.shutdown().await;
}

#[tokio::test]
async fn numbers_absent_and_absurd() {
    let tracker = swarm().await;
    let seed = format!("5:peers6:{SEED_AT}");
    for more in [
        "",
        "&left=",
        "&left=-1",
        "&left=x",
        "&left=9223372036854775807",
        "&left=18446744073709551616",
        "&left=9&uploaded=-5&downloaded=99999999999999999999999",
        "&left=9&numwant=-1",
        "&left=9&numwant=99999999999",
        "&left=9&numwant=%35",
        "&left=9&left=0",
        "&left=9&compact=1",
        "&left=9&compact=yes",
        "&left=9&supportcrypto=1&redundant=0&&=&x",
    ] {
        let answer = bare(&tracker, &format!("{}{more}", who(LEECH, 6882))).await;
        assert_eq!(answer, told(1, 0, 1, 10, &seed), "{more}");
    }
    let none = bare(&tracker, &format!("{}&left=9&numwant=0", who(LEECH, 6882))).await;
    assert_eq!(none, told(1, 0, 1, 10, "5:peers0:"));
    tracker.shutdown().await;
}

#[tokio::test]
async fn forms_of_peers() {
    let tracker = swarm().await;
    let ask = |more: &str| format!("{}&left=9{more}", who(LEECH, 6882));
    for (more, peers) in [
        ("&compact=1&no_peer_id=1", format!("5:peers6:{SEED_AT}")),
        (
            "&compact=0&no_peer_id=0",
            format!("5:peersld2:ip9:127.0.0.17:peer id20:{SEED}4:porti6881eee"),
        ),
        (
            "&compact=0&no_peer_id=1",
            "5:peersld2:ip9:127.0.0.14:porti6881eee".to_owned(),
        ),
        ("&compact=0&numwant=0", "5:peersle".to_owned()),
    ] {
        assert_eq!(
            bare(&tracker, &ask(more)).await,
            told(1, 0, 1, 10, &peers),
            "{more}"
        );
    }
    tracker.shutdown().await;
}

#[tokio::test]
async fn addresses() {
    let tracker = swarm().await;
    let seed = |more: &str| format!("{}&left=0{more}", who(OTHER, 6883));
    // BEP 7's parameters aim swarms at victims: not even a trusted network's are taken.
    bare(
        &tracker,
        &seed("&ipv4=198.51.100.1%3A80&ipv6=2001%3Adb8%3A%3A1"),
    )
    .await;
    let leech = format!(
        "{}&left=9&numwant=9&compact=0&no_peer_id=1",
        who(LEECH, 6882)
    );
    let seen = bare(&tracker, &leech).await;
    assert!(
        !seen.contains("198.51.100.1") && !seen.contains("2001:db8"),
        "{seen}"
    );
    // Mapped, percent-encoded, a name, nothing: an address in digits counts, the rest is as if
    // it were not there.
    for (said, ip) in [
        ("%3A%3Affff%3A10.0.0.9", "8:10.0.0.9"),
        ("10%2E0.0.8", "8:10.0.0.8"),
        ("2001%3Adb8%3A%3A7", "11:2001:db8::7"),
        ("example.org", "9:127.0.0.1"),
        ("", "9:127.0.0.1"),
        ("10.0.0.1.2", "9:127.0.0.1"),
    ] {
        bare(&tracker, &seed("&event=stopped")).await;
        bare(&tracker, &seed(&format!("&ip={said}"))).await;
        let seen = bare(&tracker, &leech).await;
        assert!(
            seen.contains(&format!("d2:ip{ip}4:porti6883ee")),
            "{said}: {seen}"
        );
        bare(&tracker, &seed(&format!("&ip={said}&event=stopped"))).await;
    }
    for nowhere in [
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "fe80%3A%3A1",
        "%3A%3A",
    ] {
        let answer = bare(&tracker, &seed(&format!("&ip={nowhere}"))).await;
        assert!(
            answer.contains(" cannot be dialled by other peers"),
            "{nowhere}: {answer}"
        );
    }
    tracker.shutdown().await;
}

#[tokio::test]
async fn ids_keys_and_tracker_ids() {
    let tracker = swarm().await;
    let met = told(1, 0, 1, 10, &format!("5:peers6:{SEED_AT}"));
    for more in [
        "&left=9&trackerid=anything",
        "&left=9&trackerid=%00%ff",
        "&left=9&trackerid=",
        "&left=9&key=1a2b3c4d",
        "&left=9&key=1a2b3c4d&trackerid=x",
    ] {
        assert_eq!(
            bare(&tracker, &format!("{}{more}", who(LEECH, 6882))).await,
            met,
            "{more}"
        );
    }
    // One peer behind two ports of one host is one peer: with its key or without.
    let moved = bare(
        &tracker,
        &format!("{}&left=9&key=1a2b3c4d", who(LEECH, 7000)),
    )
    .await;
    assert_eq!(moved, met);
    // Another peer at its address takes its place.
    let restarted = bare(&tracker, &format!("{}&left=9", who(OTHER, 7000))).await;
    assert_eq!(restarted, met);
    tracker.shutdown().await;
}

#[tokio::test]
async fn scrapes() {
    let tracker = swarm().await;
    let scrape = async |query: &str| {
        let request = format!("GET /scrape{query} HTTP/1.0\r\n\r\n");
        let answer = exchange(&tracker, &request).await;
        answer.split_once("\n\n").expect("a head").1.to_owned()
    };
    let known = printable(&HASH.0);
    let entry = "d8:completei1e10:downloadedi0e10:incompletei1ee";
    let zeros = "d8:completei0e10:downloadedi0e10:incompletei0ee";
    let one = format!("?info_hash={HASH_TEXT}");
    let golden = format!("d5:filesd20:{known}{entry}ee");
    assert_eq!(scrape(&one).await, golden);
    // Repeated, it is one; what else is asked for does not matter.
    let twice = format!("{one}&info_hash={HASH_TEXT}&event=started&x");
    assert_eq!(scrape(&twice).await, golden);
    // In the order of their bytes, however asked for; zeros for the unknown.
    let (low, high) = ("%00".repeat(20), "%FF".repeat(20));
    let three = format!("?info_hash={high}&info_hash={HASH_TEXT}&info_hash={low}");
    let (low, high) = (printable(&[0; 20]), printable(&[255; 20]));
    assert_eq!(
        scrape(&three).await,
        format!("d5:filesd20:{low}{zeros}20:{known}{entry}20:{high}{zeros}ee")
    );
    let full = "full scrape refused: name the torrents by info_hash";
    for query in ["", "?", "?x=y"] {
        assert_eq!(scrape(query).await, failed(full));
    }
    let wrong = scrape("?info_hash=%zz").await;
    assert_eq!(wrong, failed("info_hash is not 20 bytes, percent-encoded"));
    tracker.shutdown().await;
}

/// Versions, headers and forms of targets: the same body each time, and who closes.
#[tokio::test]
async fn ways_to_ask() {
    let tracker = swarm().await;
    let target = format!("/announce?{}&left=9", who(LEECH, 6882));
    let body = told(1, 0, 1, 10, &format!("5:peers6:{SEED_AT}"));
    let length = body_length(&body);
    let golden = |connection: &str| {
        format!(
            "HTTP/1.1 200 OK\nContent-Type: text/plain\nContent-Length: {length}\n\
             {connection}\n{body}"
        )
    };
    let close = golden("Connection: close\n");
    let keep = golden("");
    let many = "X-Filler: something\r\n".repeat(60);
    for (request, answer) in [
        (format!("GET {target} HTTP/1.0\r\n\r\n"), close.clone()),
        (
            format!("GET {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"),
            close.clone(),
        ),
        (
            format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n"),
            keep.clone(),
        ),
        (format!("GET {target} HTTP/1.1\r\n\r\n"), keep.clone()),
        (format!("GET {target} HTTP/1.1\nHost: t\n\n"), keep.clone()),
        (
            format!("\r\n\r\nGET {target} HTTP/1.1\r\nHost: t\r\n\r\n\r\n"),
            keep.clone(),
        ),
        (
            format!("GET http://t:15003{target} HTTP/1.1\r\nHost: t\r\n\r\n"),
            keep.clone(),
        ),
        (
            format!("GET {target}#part HTTP/1.1\r\nHost: t\r\n\r\n"),
            keep.clone(),
        ),
        (
            format!("GET {target} HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n"),
            keep.clone(),
        ),
        (
            format!("GET {target} HTTP/1.1\r\nAccept-Encoding: gzip\r\n{many}\r\n"),
            keep.clone(),
        ),
        (
            format!(
                "GET {target}&x={} HTTP/1.1\r\nHost: t\r\n\r\n",
                "y".repeat(8_192)
            ),
            keep.clone(),
        ),
        (
            format!("GET {target} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
            golden("Connection: keep-alive\n"),
        ),
    ] {
        assert_eq!(exchange(&tracker, &request).await, answer, "{request}");
    }
    tracker.shutdown().await;
}

#[tokio::test]
async fn two_requests_in_one_packet() {
    let tracker = swarm().await;
    let target = format!("/announce?{}&left=9", who(LEECH, 6882));
    let two = format!(
        "GET {target} HTTP/1.1\r\nHost: t\r\n\r\nGET {target} HTTP/1.1\r\nConnection: close\r\n\r\n"
    );
    let both = exchange(&tracker, &two).await;
    let (_, second) = both.split_once("16:<id>e").expect("the first answer");
    assert!(second.starts_with("HTTP/1.1 200 OK\n"), "{both}");
    assert!(second.contains("Connection: close"), "{both}");
    tracker.shutdown().await;
}

#[tokio::test]
async fn refusals_and_when_to_come_back() {
    // Just started, it may have the registration in a moment.
    let tracker = start(registered()).await;
    let ask = format!("{}&left=9", who(LEECH, 6882));
    let reason = "torrent not registered with this tracker";
    assert_eq!(bare(&tracker, &ask).await, failed(reason));
    tracker.shutdown().await;

    let intervals = Intervals {
        settling: Duration::ZERO,
        ..Intervals::default()
    };
    let tracker = start(Config {
        intervals,
        ..registered()
    })
    .await;
    let golden = format!("d14:failure reason{}:{reason}8:retry ini1ee", reason.len());
    assert_eq!(bare(&tracker, &ask).await, golden);
    tracker.shutdown().await;

    let limits = tracker::Limits {
        swarms: 0,
        ..Default::default()
    };
    let full = start(Config { limits, ..open() }).await;
    let reason = "tracker is full: it takes no more torrents";
    let golden = format!("d14:failure reason{}:{reason}8:retry ini5ee", reason.len());
    assert_eq!(bare(&full, &ask).await, golden);
    full.shutdown().await;

    let limits = tracker::Limits {
        announces_per_ip: 0,
        ..Default::default()
    };
    let trusted = Vec::new();
    let strict = start(Config {
        limits,
        trusted,
        ..open()
    })
    .await;
    let reason = "too many requests from this address: slow down";
    let golden = format!("d14:failure reason{}:{reason}8:retry ini1ee", reason.len());
    assert_eq!(bare(&strict, &ask).await, golden);
    let request = format!("GET /scrape?info_hash={HASH_TEXT} HTTP/1.0\r\n\r\n");
    assert!(exchange(&strict, &request).await.ends_with(&golden));
    strict.shutdown().await;
}

#[tokio::test]
async fn a_deny_list_is_followed_as_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("denied");
    let config = || Config {
        deny_list: Some(path.clone()),
        ..open()
    };
    let missing = Tracker::start(config())
        .await
        .expect_err("there is no such file");
    assert!(missing.to_string().contains("deny list"), "{missing}");
    std::fs::write(&path, "# none yet\n").unwrap();
    let tracker = start(config()).await;
    let ask = format!("{}&left=9", who(LEECH, 6882));
    assert_eq!(bare(&tracker, &ask).await, told(0, 0, 1, 10, "5:peers0:"));
    let denied = failed("torrent refused by this tracker");
    let becomes = async |text: String, golden: &str| {
        let fresh = dir.path().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while bare(&tracker, &ask).await != golden {
            assert!(tokio::time::Instant::now() < deadline, "still not {golden}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    becomes(format!("{HASH}  not ours to share\n"), &denied).await;
    let request = format!("GET /scrape?info_hash={HASH_TEXT} HTTP/1.0\r\n\r\n");
    let scraped = exchange(&tracker, &request).await;
    assert!(
        scraped.contains("10:incompletei0e"),
        "who was in it is forgotten: {scraped}"
    );
    // A slip in the list changes nothing.
    std::fs::write(&path, "nonsense").unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(bare(&tracker, &ask).await, denied);
    becomes(String::new(), &told(0, 0, 1, 10, "5:peers0:")).await;
    tracker.shutdown().await;
}

#[tokio::test]
async fn who_says_nothing_for_two_intervals_is_forgotten() {
    let second = Duration::from_secs(1);
    let intervals = Intervals {
        leecher: second,
        seed: Duration::from_secs(3_600),
        expiry_floor: second,
        ..Intervals::default()
    };
    let tracker = start(Config {
        intervals,
        ..open()
    })
    .await;
    bare(&tracker, &format!("{}&left=9", who(LEECH, 6882))).await;
    let ask = format!("{}&left=0", who(SEED, 6881));
    let met = told(1, 0, 1, 3_600, &format!("5:peers6:{LEECH_AT}"));
    assert_eq!(bare(&tracker, &ask).await, met);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while bare(&tracker, &ask).await != told(1, 0, 0, 3_600, "5:peers0:") {
        assert!(tokio::time::Instant::now() < deadline, "it never goes");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tracker.shutdown().await;
}
