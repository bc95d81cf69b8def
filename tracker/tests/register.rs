//! Registration, look-up, inspection, and what survives a restart.

mod harness;

use std::time::Duration;

use harness::*;
use torrents::InfoHash;
use torrents::register::{LookupReply, RegisterReply, RegisterRequest};
use tracker::{Config, Intervals};

const PEER: &str = "-XX0001-leech0000001";

fn hash(n: u8) -> InfoHash {
    InfoHash([n; 20])
}

fn announce_of(n: u8, id: &str, port: u16, more: &str) -> String {
    let hash = format!("%{n:02x}").repeat(20);
    format!("/announce?info_hash={hash}&peer_id={id}&port={port}{more}")
}

#[tokio::test]
async fn what_is_registered_is_served_looked_up_and_withdrawn() {
    let tracker = start(registered()).await;
    let adds = vec![
        registration(hash(1), "sha256:01"),
        registration(hash(2), "sha256:02"),
    ];
    let reply = register(&tracker, &origin(1, &["10.0.0.1:15001"], adds)).await;
    assert_eq!((reply.held, reply.lease), (2, Duration::from_secs(300)));
    let found = get(&tracker, "/lookup/sha256:01").await;
    assert_eq!(
        LookupReply::decode(&found.body).unwrap(),
        LookupReply {
            info_hash: hash(1),
            length: 1_000_000
        }
    );
    // The origin is a seed to leechers, and never told to seeds.
    let told = get(&tracker, &announce_of(1, PEER, 6881, "&left=1")).await;
    assert_eq!(
        compact_peers(&told.body),
        ["10.0.0.1:15001".parse().unwrap()]
    );
    let told = get(&tracker, &announce_of(1, PEER, 6881, "&left=0")).await;
    assert_eq!(compact_peers(&told.body), []);
    // Another origin; both are told, and an origin is not told of itself.
    let adds = vec![registration(hash(1), "sha256:01")];
    register(
        &tracker,
        &origin(2, &["10.0.0.2:15001", "[2001:db8::2]:15001"], adds),
    )
    .await;
    let told = get(&tracker, &announce_of(1, PEER, 6881, "&left=1")).await;
    let mut peers = compact_peers(&told.body);
    peers.sort();
    assert_eq!(
        peers,
        [
            "10.0.0.1:15001".parse().unwrap(),
            "10.0.0.2:15001".parse().unwrap()
        ]
    );
    let id = "%01".repeat(20);
    let target = format!(
        "/announce?info_hash={}&peer_id={id}&port=15001&left=1&ip=10.0.0.1",
        "%01".repeat(20)
    );
    let told = get(&tracker, &target).await;
    let mut peers = compact_peers(&told.body);
    peers.sort();
    let leecher = "127.0.0.1:6881".parse().unwrap();
    assert_eq!(peers, ["10.0.0.2:15001".parse().unwrap(), leecher]);
    // Withdrawn by the first, it is the second's alone.
    let withdraw = RegisterRequest {
        remove: vec![hash(1), hash(9)],
        ..origin(1, &["10.0.0.1:15001"], Vec::new())
    };
    assert_eq!(register(&tracker, &withdraw).await.held, 1);
    let told = get(&tracker, &announce_of(1, PEER, 6881, "&left=1")).await;
    assert_eq!(
        compact_peers(&told.body),
        ["10.0.0.2:15001".parse().unwrap()]
    );
    tracker.shutdown().await;
}

#[tokio::test]
async fn an_origin_on_loopback_is_for_this_host_only() {
    let tracker = start(registered()).await;
    let adds = vec![registration(hash(1), "sha256:01")];
    let peers = ["127.0.0.1:15001", "10.0.0.1:15001"];
    register(&tracker, &origin(1, &peers, adds)).await;
    let forwarded = "X-Forwarded-For: 10.0.0.9\r\n";
    let told = get_with(&tracker, &announce_of(1, PEER, 6881, "&left=1"), forwarded).await;
    assert_eq!(
        compact_peers(&told.body),
        ["10.0.0.1:15001".parse().unwrap()]
    );
    tracker.shutdown().await;
}

#[tokio::test]
async fn who_may_register() {
    let body = origin(1, &["10.0.0.1:1"], vec![registration(hash(1), "sha256:01")]).encode();
    let bearer = |secret: &str| format!("Authorization: Bearer {secret}\r\n");
    // A secret: nobody without it, from wherever.
    let secret = Some("correct horse".to_owned());
    let tracker = start(Config {
        secret,
        ..registered()
    })
    .await;
    for header in [
        "",
        &bearer("wrong"),
        &bearer("correct horsE"),
        "Authorization: correct horse\r\n",
    ] {
        let refused = post(&tracker, "/register", header, &body).await;
        assert_eq!(refused.status, 401, "{header}");
        let reply = RegisterReply::decode(&refused.body);
        assert!(
            reply
                .unwrap_err()
                .to_string()
                .contains("secret is missing or wrong")
        );
    }
    assert_eq!(
        post(&tracker, "/register", &bearer("correct horse"), &body)
            .await
            .status,
        200
    );
    tracker.shutdown().await;
    // None: trusted networks only, and a proxy on loopback does not lend its trust.
    let tracker = start(registered()).await;
    let forwarded = "X-Forwarded-For: 192.0.2.1\r\n";
    let refused = post(&tracker, "/register", forwarded, &body).await;
    assert_eq!(refused.status, 403);
    assert!(
        refused
            .text()
            .contains("192.0.2.1 is in no trusted network")
    );
    for forwarded in ["unknown", "", "10.0.0.1,"] {
        let forwarded = format!("X-Forwarded-For: {forwarded}\r\n");
        let refused = post(&tracker, "/register", &forwarded, &body).await;
        assert_eq!(refused.status, 403, "{forwarded}");
    }
    assert_eq!(get(&tracker, "/lookup/sha256:01").await.status, 404);
    assert_eq!(post(&tracker, "/register", "", &body).await.status, 200);
    tracker.shutdown().await;
}

#[tokio::test]
async fn malformed_and_oversized_registrations_change_nothing() {
    let limits = tracker::Limits {
        registrations: 2,
        origins: 1,
        ..Default::default()
    };
    let tracker = start(Config {
        limits,
        ..registered()
    })
    .await;
    assert_eq!(
        post(&tracker, "/register", "", b"d3:fooe").await.status,
        400
    );
    assert_eq!(
        post(&tracker, "/register", "", &vec![b'x'; (1 << 20) + 1])
            .await
            .status,
        413
    );
    let adds = (1..=3)
        .map(|n| registration(hash(n), &format!("sha256:0{n}")))
        .collect();
    let many = origin(1, &["10.0.0.1:1"], adds);
    let refused = post(&tracker, "/register", "", &many.encode()).await;
    assert_eq!(refused.status, 503);
    assert_eq!(get(&tracker, "/lookup/sha256:01").await.status, 404);
    register(
        &tracker,
        &origin(1, &["10.0.0.1:1"], many.add[..2].to_vec()),
    )
    .await;
    let second = origin(2, &["10.0.0.2:1"], many.add[..1].to_vec());
    assert_eq!(
        post(&tracker, "/register", "", &second.encode())
            .await
            .status,
        503
    );
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_lease_lapses_and_the_swarm_lives_on() {
    let intervals = Intervals {
        lease: Duration::from_millis(100),
        ..Default::default()
    };
    let tracker = start(Config {
        intervals,
        ..registered()
    })
    .await;
    let adds = vec![registration(hash(1), "sha256:01")];
    register(&tracker, &origin(1, &["10.0.0.1:15001"], adds)).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let told = get(&tracker, &announce_of(1, PEER, 6881, "&left=1")).await;
        if compact_peers(&told.body).is_empty() {
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "the origin is still handed out"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(get(&tracker, "/lookup/sha256:01").await.status, 200);
    // It wakes with a word, and nothing was lost.
    let reply = register(&tracker, &origin(1, &["10.0.0.1:15001"], Vec::new())).await;
    assert_eq!(reply.held, 1);
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_restarted_tracker_is_whole_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let data = Some(directory.path().join("tracker"));
    let config = Config {
        data,
        ..registered()
    };
    let tracker = start(config.clone()).await;
    let adds: Vec<_> = (1..=200)
        .map(|n| registration(hash(n), &format!("sha256:{n:02x}")))
        .collect();
    let before = register(&tracker, &origin(1, &["10.0.0.1:15001"], adds.clone())).await;
    let withdraw = RegisterRequest {
        remove: vec![hash(200)],
        ..origin(1, &["10.0.0.1:15001"], Vec::new())
    };
    register(&tracker, &withdraw).await;
    tracker.shutdown().await;

    let tracker = start(config.clone()).await;
    let told = get(&tracker, &announce_of(77, PEER, 6881, "&left=1")).await;
    assert_eq!(
        compact_peers(&told.body),
        ["10.0.0.1:15001".parse().unwrap()]
    );
    assert_eq!(get(&tracker, "/lookup/sha256:4d").await.status, 200);
    // Withdrawn by all, yet known for as long as agents may come back with it.
    let told = get(&tracker, &announce_of(200, PEER, 6881, "&left=1")).await;
    assert_eq!(compact_peers(&told.body), []);
    let view = api(&tracker, &format!("/api/swarms/{}", hash(77))).await;
    assert_eq!(view["names"][0], "team/app:v1");
    let after = register(&tracker, &origin(1, &["10.0.0.1:15001"], Vec::new())).await;
    assert_ne!(before.boot_id, after.boot_id);
    assert_eq!(after.held, 199);
    tracker.shutdown().await;

    // Who restarted as well is there once, and stays so over another restart.
    let tracker = start(config.clone()).await;
    register(&tracker, &origin(2, &["10.0.0.1:15001"], adds.clone())).await;
    tracker.shutdown().await;
    let tracker = start(config.clone()).await;
    let told = get(&tracker, &announce_of(77, PEER, 6881, "&left=1&compact=0")).await;
    assert_eq!(told.text().matches("peer id20:").count(), 1, "{told:?}");
    assert!(told.text().contains(&"<02>".repeat(20)), "{told:?}");
    let status = api(&tracker, "/api/status").await;
    let live = status["origins"].as_array().unwrap();
    assert_eq!(
        live.iter().filter(|origin| origin["live"] == true).count(),
        1
    );
    tracker.shutdown().await;

    // A damaged cache costs the cache, not the start.
    let file = directory.path().join("tracker/registrations.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, &text[..text.len() / 2]).unwrap();
    let tracker = start(config.clone()).await;
    assert_eq!(get(&tracker, "/health").await.body, b"OK");
    let reply = register(&tracker, &origin(1, &["10.0.0.1:15001"], adds)).await;
    assert_eq!(reply.held, 200);
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_save_that_fails_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("tracker");
    let tracker = start(Config {
        data: Some(data.clone()),
        ..registered()
    })
    .await;
    std::fs::remove_dir_all(&data).unwrap();
    let adds = vec![registration(hash(1), "sha256:01")];
    register(&tracker, &origin(1, &["10.0.0.1:15001"], adds)).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let metrics = get(&tracker, "/metrics").await.text();
        if !metrics.contains("swell_tracker_cache_saves_failed_total 0") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{metrics}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tracker.shutdown().await;
}

#[tokio::test]
async fn an_unusable_directory_is_said_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let started = tracker::Tracker::start(Config {
        data: Some(file),
        ..registered()
    })
    .await;
    let error = started.expect_err("a file is no directory").to_string();
    assert!(
        error.starts_with("tracker cannot keep registrations in "),
        "{error}"
    );
}

#[tokio::test]
async fn the_api_pages_searches_and_shows_progress() {
    let tracker = start(registered()).await;
    let adds = (1..=30)
        .map(|n| registration(hash(n), &format!("sha256:{n:02x}")))
        .collect();
    register(&tracker, &origin(1, &["10.0.0.1:15001"], adds)).await;
    get(
        &tracker,
        &announce_of(7, PEER, 6881, "&left=250000&uploaded=5&downloaded=6"),
    )
    .await;
    let mut after = String::new();
    let mut seen = Vec::new();
    loop {
        let page = api(&tracker, &format!("/api/swarms?limit=7{after}")).await;
        assert_eq!(page["total"], 30);
        for row in page["swarms"].as_array().unwrap() {
            seen.push(row["label"].as_str().unwrap().to_owned());
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let expected: Vec<String> = (1..=30).map(|n| format!("sha256:{n:02x}")).collect();
    assert_eq!(seen, expected);
    let found = api(&tracker, "/api/swarms?search=SHA256:1E").await;
    assert_eq!(found["swarms"].as_array().unwrap().len(), 1);
    assert_eq!(found["swarms"][0]["seeds"], 1);
    let active = api(&tracker, "/api/swarms?active=true&search=team/app").await;
    assert_eq!(active["swarms"].as_array().unwrap().len(), 1);
    assert_eq!(active["swarms"][0]["label"], "sha256:07");

    for name in ["sha256:07".to_owned(), hash(7).to_string()] {
        let view = api(&tracker, &format!("/api/swarms/{name}")).await;
        assert_eq!(view["origin_addrs"][0], "10.0.0.1:15001");
        assert_eq!(view["leechers"], 1);
        let peer = &view["peers"][0];
        assert_eq!(peer["addr"], "127.0.0.1:6881");
        assert_eq!(peer["client"], "XX0001");
        assert_eq!(peer["left"], 250_000);
        assert_eq!(peer["progress"], 0.75);
        assert_eq!(
            (&peer["uploaded"], &peer["downloaded"]),
            (&5.into(), &6.into())
        );
    }
    assert_eq!(get(&tracker, "/api/swarms/sha256:ff").await.status, 404);
    assert_eq!(get(&tracker, "/api/swarms?limit=x").await.status, 400);
    let status = api(&tracker, "/api/status").await;
    assert_eq!(status["registered"], 30);
    assert_eq!(status["leechers"], 1);
    assert_eq!(status["origins"][0]["registrations"], 30);
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_watcher_is_told_what_changes() {
    let tracker = start(registered()).await;
    let adds = vec![
        registration(hash(1), "sha256:01"),
        registration(hash(2), "sha256:02"),
    ];
    register(&tracker, &origin(1, &["10.0.0.1:15001"], adds)).await;
    // What is told must have happened after the watcher came, not before.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut watcher = connect(&tracker).await;
    let request = b"GET /api/changes HTTP/1.1\r\nHost: t\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut watcher, request)
        .await
        .unwrap();
    let mut told = read_until(&mut watcher, String::new(), "event: status").await;
    get(&tracker, &announce_of(2, PEER, 6881, "&left=1")).await;
    told = read_until(&mut watcher, told, "event: swarms").await;
    told = read_until(&mut watcher, told, "\n\n").await;
    assert!(told.contains("text/event-stream"));
    let rows = told.split("event: swarms").nth(1).unwrap();
    let rows = rows.split("data: ").nth(1).unwrap().lines().next().unwrap();
    let rows: serde_json::Value = serde_json::from_str(rows).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!(
        (&rows[0]["label"], &rows[0]["leechers"]),
        (&"sha256:02".into(), &1.into())
    );
    // A stream without end does not hold the tracker's end up.
    tokio::time::timeout(PATIENCE, tracker.shutdown())
        .await
        .expect("a prompt end");
}

async fn read_until(stream: &mut tokio::net::TcpStream, mut text: String, what: &str) -> String {
    let mut buffer = vec![0; 4096];
    let mut from = text.len();
    while !text[from.saturating_sub(what.len())..].contains(what) {
        from = text.len();
        let read = tokio::io::AsyncReadExt::read(stream, &mut buffer);
        let read = tokio::time::timeout(PATIENCE, read).await;
        let n = read
            .expect("events in time")
            .expect("a stream that can be read");
        assert_ne!(n, 0, "the stream ended: {text}");
        text += std::str::from_utf8(&buffer[..n]).expect("ASCII");
    }
    text
}
