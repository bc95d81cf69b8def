//! Announce and scrape over real sockets, by golden bytes.

mod harness;

use harness::*;

const SEED: &str = "-XX0001-seed00000001";
const LEECH: &str = "-XX0001-leech0000001";
const OTHER: &str = "-XX0001-leech0000002";

/// The reply to a leecher with the peers given, as `text()` shows it.
fn reply(complete: u32, downloaded: u32, incomplete: u32, interval: u32, peers: &str) -> String {
    format!(
        "d8:completei{complete}e10:downloadedi{downloaded}e11:external ip4:<7f><00><00><01>\
         10:incompletei{incomplete}e8:intervali{interval}e12:min intervali2e{peers}"
    )
}

/// What the reply says before its tracker id, which is random.
fn before_id(answer: &Answer) -> String {
    let text = answer.text();
    let (before, id) = text.rsplit_once("10:tracker id16:").expect("a tracker id");
    assert_eq!(id.len(), 17, "{id}");
    assert!(id.ends_with('e'));
    before.to_owned()
}

#[tokio::test]
async fn a_seed_and_a_leecher_meet() {
    let tracker = start(open()).await;
    let seed = get(&tracker, &announce(SEED, 6881, "&left=0&event=started")).await;
    assert_eq!(seed.status, 200);
    assert_eq!(seed.header("connection"), Some("close"));
    assert_eq!(before_id(&seed), reply(1, 0, 0, 900, "5:peers0:"));
    let leech = get(&tracker, &announce(LEECH, 6882, "&left=5&event=started")).await;
    assert_eq!(
        before_id(&leech),
        reply(1, 0, 1, 10, "5:peers6:<7f><00><00><01><1a><e1>")
    );
    // The seed is told of the leecher, and no seed of it.
    let seed = get(&tracker, &announce(SEED, 6881, "&left=0")).await;
    assert_eq!(
        before_id(&seed),
        reply(1, 0, 1, 900, "5:peers6:<7f><00><00><01><1a><e2>")
    );
    let second = get(&tracker, &announce("-XX0001-seed00000002", 6883, "&left=0")).await;
    assert_eq!(
        before_id(&second),
        reply(2, 0, 1, 900, "5:peers6:<7f><00><00><01><1a><e2>")
    );
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_peer_is_never_told_of_itself() {
    let tracker = start(open()).await;
    get(&tracker, &announce(LEECH, 6881, "&left=1")).await;
    let again = get(&tracker, &announce(LEECH, 6881, "&left=1")).await;
    assert_eq!(before_id(&again), reply(0, 0, 1, 10, "5:peers0:"));
    // A host that restarted: another id at the same address takes the place.
    let restarted = get(&tracker, &announce(OTHER, 6881, "&left=1")).await;
    assert_eq!(before_id(&restarted), reply(0, 0, 1, 10, "5:peers0:"));
    tracker.shutdown().await;
}

#[tokio::test]
async fn events_are_those_of_both_beps_and_no_others_fail() {
    let tracker = start(open()).await;
    get(&tracker, &announce(SEED, 6881, "&left=0&event=started")).await;
    get(&tracker, &announce(LEECH, 6882, "&left=9&event=started")).await;
    let done = get(&tracker, &announce(LEECH, 6882, "&left=0&event=completed")).await;
    assert_eq!(before_id(&done), reply(2, 1, 0, 900, "5:peers0:"));
    let twice = get(&tracker, &announce(LEECH, 6882, "&left=0&event=completed")).await;
    assert_eq!(before_id(&twice), reply(2, 1, 0, 900, "5:peers0:"));
    for odd in ["&event=", "&event=empty", "&event=%ff"] {
        let answer = get(&tracker, &announce(LEECH, 6882, &format!("&left=0{odd}"))).await;
        assert_eq!(
            before_id(&answer),
            reply(2, 1, 0, 900, "5:peers0:"),
            "{odd}"
        );
    }
    // A partial seed counts as incomplete, and is told of no seeds.
    let paused = get(&tracker, &announce(OTHER, 6883, "&left=4&event=paused")).await;
    assert_eq!(before_id(&paused), reply(2, 1, 1, 10, "5:peers0:"));
    let gone = get(&tracker, &announce(SEED, 6881, "&left=0&event=stopped")).await;
    assert_eq!(before_id(&gone), reply(1, 1, 1, 900, "5:peers0:"));
    let gone = get(&tracker, &announce(OTHER, 6883, "&left=4&event=stopped")).await;
    assert_eq!(before_id(&gone), reply(1, 1, 0, 10, "5:peers0:"));
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_seed_from_the_start_completes_nothing() {
    let tracker = start(open()).await;
    get(&tracker, &announce(SEED, 6881, "&left=0&event=started")).await;
    let done = get(&tracker, &announce(SEED, 6881, "&left=0&event=completed")).await;
    assert_eq!(before_id(&done), reply(1, 0, 0, 900, "5:peers0:"));
    tracker.shutdown().await;
}

#[tokio::test]
async fn numwant_is_clamped_and_never_fails() {
    let tracker = start(open()).await;
    for port in 1..=60 {
        get(
            &tracker,
            &announce(&format!("-XX0001-{port:012}"), port, "&left=1"),
        )
        .await;
    }
    for (said, told) in [
        ("", 50),
        ("&numwant=0", 0),
        ("&numwant=7", 7),
        ("&numwant=60", 60),
        ("&numwant=99999999999999999999", 60),
        ("&numwant=-1", 50),
        ("&numwant=x", 50),
    ] {
        let answer = get(&tracker, &announce(LEECH, 7000, &format!("&left=1{said}"))).await;
        let mut peers = compact_peers(&answer.body);
        peers.sort();
        peers.dedup();
        assert_eq!(peers.len(), told, "{said}");
        assert!(peers.iter().all(|peer| peer.port() <= 60));
    }
    tracker.shutdown().await;
}

#[tokio::test]
async fn dictionaries_when_compact_is_refused() {
    let tracker = start(open()).await;
    get(&tracker, &announce(LEECH, 6882, "&left=5")).await;
    let whole = get(&tracker, &announce(SEED, 6881, "&left=0&compact=0")).await;
    let peers = format!("5:peersld2:ip9:127.0.0.17:peer id20:{LEECH}4:porti6882eee");
    assert_eq!(before_id(&whole), reply(1, 0, 1, 900, &peers));
    let bare = get(
        &tracker,
        &announce(SEED, 6881, "&left=0&compact=0&no_peer_id=1"),
    )
    .await;
    let peers = "5:peersld2:ip9:127.0.0.14:porti6882eee";
    assert_eq!(before_id(&bare), reply(1, 0, 1, 900, peers));
    tracker.shutdown().await;
}

#[tokio::test]
async fn left_absent_or_absurd_is_a_leecher() {
    let tracker = start(open()).await;
    for left in [
        "",
        "&left=9223372036854775807",
        "&left=99999999999999999999",
        "&left=-1",
    ] {
        let answer = get(&tracker, &announce(LEECH, 6882, left)).await;
        assert_eq!(
            before_id(&answer),
            reply(0, 0, 1, 10, "5:peers0:"),
            "{left}"
        );
    }
    tracker.shutdown().await;
}

#[tokio::test]
async fn failures_are_said_with_status_200() {
    let tracker = start(open()).await;
    let id = "&peer_id=-XX0001-leech0000001";
    for (query, reason) in [
        ("", "14:failure reason12:missing port"),
        ("?port=1", "14:failure reason17:missing info_hash"),
        (
            "?info_hash=%4&peer_id=x&port=1",
            "14:failure reason42:info_hash is not 20 bytes, percent-encoded",
        ),
        (
            "?info_hash=%zzaaaaaaaaaaaaaaaaaaa&port=1",
            "14:failure reason42:info_hash is not 20 bytes, percent-encoded",
        ),
        (
            &format!("?info_hash={HASH_TEXT}&info_hash={HASH_TEXT}{id}&port=1"),
            "14:failure reason38:more than one info_hash in an announce",
        ),
    ] {
        let answer = get(&tracker, &format!("/announce{query}")).await;
        assert_eq!(
            (answer.status, answer.text()),
            (200, format!("d{reason}e")),
            "{query}"
        );
    }
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_peer_without_a_port_is_answered_and_not_stored() {
    let tracker = start(open()).await;
    get(&tracker, &announce(SEED, 6881, "&left=0")).await;
    let answer = get(&tracker, &announce(LEECH, 0, "&left=5")).await;
    assert_eq!(
        before_id(&answer),
        reply(1, 0, 0, 10, "5:peers6:<7f><00><00><01><1a><e1>")
    );
    tracker.shutdown().await;
}

#[tokio::test]
async fn strange_hashes_are_refused_unless_registered() {
    let tracker = start(registered()).await;
    let refused = get(&tracker, &announce(LEECH, 6881, "&left=1")).await;
    assert_eq!(refused.status, 200);
    assert_eq!(
        refused.text(),
        "d14:failure reason40:torrent not registered with this trackere"
    );
    let blob = registration(HASH, "sha256:aa");
    register(&tracker, &origin(1, &["127.0.0.1:15001"], vec![blob])).await;
    let taken = get(&tracker, &announce(LEECH, 6881, "&left=1")).await;
    assert_eq!(
        before_id(&taken),
        reply(1, 0, 1, 10, "5:peers6:<7f><00><00><01>:<99>")
    );
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_denied_hash_is_refused_in_either_mode() {
    for config in [open(), registered()] {
        let denied = [HASH].into();
        let tracker = start(tracker::Config { denied, ..config }).await;
        let blob = registration(HASH, "sha256:aa");
        register(&tracker, &origin(1, &["127.0.0.1:15001"], vec![blob])).await;
        let refused = get(&tracker, &announce(LEECH, 6881, "&left=1")).await;
        assert_eq!(
            refused.text(),
            "d14:failure reason31:torrent refused by this trackere"
        );
        tracker.shutdown().await;
    }
}

#[tokio::test]
async fn scrape_answers_many_in_order_and_zeros_for_unknown() {
    let tracker = start(open()).await;
    get(&tracker, &announce(SEED, 6881, "&left=0")).await;
    get(&tracker, &announce(LEECH, 6882, "&left=1")).await;
    get(&tracker, &announce(LEECH, 6882, "&left=0&event=completed")).await;
    get(&tracker, &announce(OTHER, 6883, "&left=1")).await;
    let unknown = "%FF".repeat(20);
    let query = format!("info_hash={unknown}&info_hash={HASH_TEXT}&info_hash={unknown}");
    let answer = get(&tracker, &format!("/scrape?{query}")).await;
    assert_eq!(answer.status, 200);
    let known = printable(&HASH.0);
    let unknown = printable(&[0xff; 20]);
    assert_eq!(
        answer.text(),
        format!(
            "d5:filesd20:{known}d8:completei2e10:downloadedi1e10:incompletei1ee\
             20:{unknown}d8:completei0e10:downloadedi0e10:incompletei0eeee"
        )
    );
    let full = get(&tracker, "/scrape").await;
    let reason = "full scrape refused: name the torrents by info_hash";
    assert_eq!(
        full.text(),
        format!("d14:failure reason{}:{reason}e", reason.len())
    );
    let many = format!("/scrape?{}", format!("info_hash={HASH_TEXT}&").repeat(201));
    let refused = get(&tracker, &many).await;
    assert_eq!(
        refused.text(),
        "d14:failure reason35:more than 200 info_hash in a scrapee"
    );
    tracker.shutdown().await;
}

#[tokio::test]
async fn an_address_is_believed_from_trusted_networks_only() {
    let tracker = start(open()).await;
    // From loopback, which is trusted: an agent on the herd's own host.
    get(&tracker, &announce(SEED, 6881, "&left=0&ip=10.1.2.3")).await;
    let told = get(&tracker, &announce(LEECH, 6882, "&left=1")).await;
    assert_eq!(
        compact_peers(&told.body),
        ["10.1.2.3:6881".parse().unwrap()]
    );
    tracker.shutdown().await;
    let tracker = start(tracker::Config {
        trusted: Vec::new(),
        ..open()
    })
    .await;
    get(&tracker, &announce(SEED, 6881, "&left=0&ip=10.1.2.3")).await;
    let told = get(&tracker, &announce(LEECH, 6882, "&left=1")).await;
    assert_eq!(
        compact_peers(&told.body),
        ["127.0.0.1:6881".parse().unwrap()]
    );
    let forwarded = "X-Forwarded-For: 192.0.2.7\r\n";
    let told = get_with(&tracker, &announce(OTHER, 6883, "&left=1"), forwarded).await;
    assert_eq!(compact_peers(&told.body).len(), 2);
    tracker.shutdown().await;
}

#[tokio::test]
async fn behind_a_proxy_the_right_most_address_counts_and_loopback_stays_home() {
    let tracker = start(open()).await;
    let forwarded = "X-Forwarded-For: 203.0.113.9, 192.0.2.7\r\n";
    let target = announce(SEED, 6881, "&left=0&ip=198.51.100.1");
    let seed = get_with(&tracker, &target, forwarded).await;
    assert!(seed.text().contains("11:external ip4:<c0><00><02><07>"));
    let told = get(&tracker, &announce(LEECH, 6882, "&left=1")).await;
    assert_eq!(
        compact_peers(&told.body),
        ["192.0.2.7:6881".parse().unwrap()]
    );
    // The other way round, the loopback peer is of no use to 192.0.2.7.
    let seed = get_with(&tracker, &announce(SEED, 6881, "&left=0"), forwarded).await;
    assert_eq!(compact_peers(&seed.body), []);
    // The same, when the general server reads the header.
    let mut stream = connect(&tracker).await;
    send(&mut stream, "GET /health HTTP/1.1\r\nHost: t\r\n\r\n").await;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: 1.2.3.4\r\n{forwarded}\r\n",
        announce(SEED, 6881, "&left=0")
    );
    let seed = send(&mut stream, &request).await;
    assert!(seed.text().contains("11:external ip4:<c0><00><02><07>"));
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_chain_of_proxies_is_read_and_one_that_does_not_know_lends_no_trust() {
    let tracker = start(open()).await;
    let seed = announce(SEED, 6881, "&left=0&ip=198.51.100.1");
    // Two proxies, each with a line of its own.
    let chain = "X-Forwarded-For: 203.0.113.9, 192.0.2.7\r\nX-Forwarded-For: 127.0.0.5\r\n";
    let answer = get_with(&tracker, &seed, chain).await;
    assert!(answer.text().contains("11:external ip4:<c0><00><02><07>"));
    // Through a proxy that does not say for whom: neither its `ip=` nor the loopback counts.
    let unknown = "X-Forwarded-For: 192.0.2.7, unknown\r\n";
    let other = announce(OTHER, 6883, "&left=0&ip=198.51.100.1");
    get_with(&tracker, &other, unknown).await;
    let leech = announce(LEECH, 6882, "&left=1");
    for (headers, told) in [
        ("", &["127.0.0.1:6883", "192.0.2.7:6881"][..]),
        (unknown, &["192.0.2.7:6881"]),
    ] {
        let mut peers = compact_peers(&get_with(&tracker, &leech, headers).await.body);
        peers.sort();
        let told: Vec<_> = told.iter().map(|peer| peer.parse().unwrap()).collect();
        assert_eq!(peers, told, "{headers}");
    }
    tracker.shutdown().await;
}

#[tokio::test]
async fn addresses_nobody_can_dial_are_refused() {
    let tracker = start(open()).await;
    for (said, reason) in [
        ("fe80::1", "fe80::1 cannot be dialled by other peers"),
        ("0.0.0.0", "0.0.0.0 cannot be dialled by other peers"),
        ("%3A%3A", ":: cannot be dialled by other peers"),
    ] {
        let answer = get(&tracker, &announce(SEED, 6881, &format!("&ip={said}"))).await;
        assert_eq!(
            answer.text(),
            format!("d14:failure reason{}:{reason}e", reason.len())
        );
    }
    tracker.shutdown().await;
}

#[tokio::test]
async fn ipv6_peers_travel_apart_and_mapped_ones_are_ipv4() {
    let listen = "[::]:0".parse().unwrap();
    let tracker = match tracker::Tracker::start(tracker::Config { listen, ..open() }).await {
        Ok(tracker) => tracker,
        // A machine without IPv6.
        Err(error) => return println!("skipped: {error}"),
    };
    let port = tracker.local_addr().port();
    let mut v4 = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    let mut v6 = tokio::net::TcpStream::connect(("::1", port)).await.unwrap();
    let ask = |target: String| format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n");
    send(&mut v4, &ask(announce(SEED, 6881, "&left=0"))).await;
    let told = send(&mut v6, &ask(announce(LEECH, 6882, "&left=1"))).await;
    assert!(told.text().contains("11:external ip16:<00>"));
    assert_eq!(
        compact_peers(&told.body),
        ["127.0.0.1:6881".parse().unwrap()]
    );
    let told = send(&mut v4, &ask(announce(SEED, 6881, "&left=0"))).await;
    let v6_peer = "<00>".repeat(15) + "<01><1a><e2>";
    assert!(
        told.text()
            .contains(&format!("5:peers0:6:peers618:{v6_peer}")),
        "{}",
        told.text()
    );
    // One client, both families, one id: it does not meet itself.
    let told = send(&mut v4, &ask(announce(LEECH, 6882, "&left=1"))).await;
    assert_eq!(
        compact_peers(&told.body),
        ["127.0.0.1:6881".parse().unwrap()]
    );
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_key_guards_a_peer_against_impostors() {
    let tracker = start(open()).await;
    get(
        &tracker,
        &announce(SEED, 6881, "&left=0&ip=10.0.0.1&key=secret"),
    )
    .await;
    get(
        &tracker,
        &announce(SEED, 6881, "&left=0&ip=10.0.0.2&key=guess"),
    )
    .await;
    get(
        &tracker,
        &announce(SEED, 6881, "&left=0&ip=10.0.0.2&event=stopped"),
    )
    .await;
    let told = get(&tracker, &announce(LEECH, 6882, "&left=1")).await;
    assert_eq!(
        compact_peers(&told.body),
        ["10.0.0.1:6881".parse().unwrap()]
    );
    // With the key it moves.
    get(
        &tracker,
        &announce(SEED, 7000, "&left=0&ip=10.0.0.3&key=secret"),
    )
    .await;
    let told = get(&tracker, &announce(LEECH, 6882, "&left=1")).await;
    assert_eq!(
        compact_peers(&told.body),
        ["10.0.0.3:7000".parse().unwrap()]
    );
    tracker.shutdown().await;
}
