//! How the tracker speaks HTTP: versions, connections, bounds, slow and broken clients.

mod harness;

use std::time::Duration;

use harness::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracker::{Config, Limits};

const PEER: &str = "-XX0001-leech0000001";

/// Whether the other side closes without another byte.
async fn is_closed(stream: &mut tokio::net::TcpStream) -> bool {
    is_closed_within(stream, PATIENCE).await
}

async fn is_closed_within(stream: &mut tokio::net::TcpStream, patience: Duration) -> bool {
    let mut rest = Vec::new();
    match tokio::time::timeout(patience, stream.read_to_end(&mut rest)).await {
        Ok(Ok(_)) => rest.is_empty(),
        Ok(Err(error)) => error.kind() == std::io::ErrorKind::ConnectionReset,
        Err(_) => false,
    }
}

#[tokio::test]
async fn both_versions_keep_alive_as_they_mean_it() {
    let tracker = start(open()).await;
    let target = announce(PEER, 6881, "&left=1");
    for (version, header, keeps, says) in [
        ("1.1", "", true, None),
        ("1.1", "Connection: close\r\n", false, Some("close")),
        ("1.0", "", false, Some("close")),
        (
            "1.0",
            "Connection: Keep-Alive\r\n",
            true,
            Some("keep-alive"),
        ),
    ] {
        let mut stream = connect(&tracker).await;
        let request = format!("GET {target} HTTP/{version}\r\nHost: t\r\n{header}\r\n");
        let answer = send(&mut stream, &request).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("connection"), says, "{version} {header}");
        if keeps {
            assert_eq!(send(&mut stream, &request).await.status, 200);
        } else {
            assert!(is_closed(&mut stream).await, "{version} {header}");
        }
    }
    tracker.shutdown().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let tracker = start(open()).await;
    let mut stream = connect(&tracker).await;
    let ask = |target: String| format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n");
    let mut burst = String::new();
    for port in 1..=100 {
        burst += &ask(announce(
            &format!("-XX0001-{port:012}"),
            port,
            "&left=1&numwant=200",
        ));
    }
    // Not for the announce path, in the middle of it, and announces behind it.
    burst += &ask("/health".to_owned());
    burst += &ask(announce(PEER, 6881, "&left=1&numwant=200"));
    // In two pieces, cut within a request.
    let (first, second) = burst.as_bytes().split_at(burst.len() / 2 + 7);
    stream.write_all(first).await.unwrap();
    let mut told = Vec::new();
    stream.write_all(second).await.unwrap();
    for _ in 1..=100 {
        told.push(compact_peers(&read_answer(&mut stream).await.body).len());
    }
    assert_eq!(told, (0..100).collect::<Vec<_>>());
    assert_eq!(read_answer(&mut stream).await.body, b"OK");
    assert_eq!(
        compact_peers(&read_answer(&mut stream).await.body).len(),
        100
    );
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_request_that_drips_in_is_answered() {
    let tracker = start(open()).await;
    let mut stream = connect(&tracker).await;
    let request = format!(
        "\r\nGET {} HTTP/1.1\r\nHost: t\r\n\r\n",
        announce(PEER, 6881, "&left=1")
    );
    for piece in request.as_bytes().chunks(9) {
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(read_answer(&mut stream).await.status, 200);
    tracker.shutdown().await;
}

#[tokio::test]
async fn long_uris_and_many_headers_are_taken_up_to_a_bound() {
    let tracker = start(open()).await;
    let long = announce(PEER, 6881, &format!("&left=1&x={}", "y".repeat(9_000)));
    assert_eq!(get(&tracker, &long).await.status, 200);
    let hashes: Vec<String> = (0..100)
        .map(|_| "info_hash=".to_owned() + HASH_TEXT)
        .collect();
    assert_eq!(
        get(&tracker, &format!("/scrape?{}", hashes.join("&")))
            .await
            .status,
        200
    );
    let headers = "X-Header: value\r\n".repeat(90);
    let answer = get_with(&tracker, &announce(PEER, 6881, "&left=1"), &headers).await;
    assert_eq!(answer.status, 200);
    let endless = announce(PEER, 6881, &format!("&x={}", "y".repeat(20_000)));
    // More than is read of it: the answer must not be lost to a reset.
    let mut stream = connect(&tracker).await;
    let request = format!("GET {endless}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    ended.unwrap().expect("an end, not a reset");
    let text = printable(&answer);
    assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
    assert_eq!(get(&tracker, "/health").await.body, b"OK");
    tracker.shutdown().await;
}

#[tokio::test]
async fn what_is_no_http_is_refused_at_once() {
    let tracker = start(open()).await;
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0",
        b"GET\0/announce HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
    ] {
        let mut stream = connect(&tracker).await;
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok());
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "));
    }
    assert_eq!(get(&tracker, "/health").await.body, b"OK");
    tracker.shutdown().await;
}

#[tokio::test]
async fn slow_and_idle_clients_are_cut_off() {
    let limits = Limits {
        request_time: Duration::from_millis(200),
        idle_time: Duration::from_millis(300),
        ..Limits::default()
    };
    let tracker = start(Config { limits, ..open() }).await;
    // Nothing at all, part of an announce, part of another request, and rest after a request.
    let mut silent = connect(&tracker).await;
    let mut partial = connect(&tracker).await;
    partial
        .write_all(b"GET /announce?info_hash=")
        .await
        .unwrap();
    let mut human = connect(&tracker).await;
    human
        .write_all(b"POST /register HTTP/1.1\r\nHost")
        .await
        .unwrap();
    let mut rested = connect(&tracker).await;
    let request = format!("GET {} HTTP/1.1\r\n\r\n", announce(PEER, 6881, "&left=1"));
    send(&mut rested, &request).await;
    for stream in [&mut silent, &mut partial, &mut rested] {
        assert!(is_closed(stream).await);
    }
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, human.read_to_end(&mut rest)).await;
    assert!(ended.is_ok());
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_connection_for_people_rests_and_does_not_drip() {
    let limits = Limits {
        request_time: Duration::from_secs(2),
        idle_time: PATIENCE * 10,
        ..Limits::default()
    };
    let tracker = start(Config { limits, ..open() }).await;
    let mut stream = connect(&tracker).await;
    let health = "GET /health HTTP/1.1\r\nHost: t\r\n\r\n";
    assert_eq!(send(&mut stream, health).await.body, b"OK");
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(send(&mut stream, health).await.body, b"OK");
    }
    stream.write_all(b"GET /health HTT").await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "a head that never ends is cut off");
    tracker.shutdown().await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let limits = Limits {
        connections: 3,
        ..Limits::default()
    };
    let tracker = start(Config { limits, ..open() }).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = connect(&tracker).await;
        send(&mut stream, "GET /health HTTP/1.1\r\nHost: t\r\n\r\n").await;
        held.push(stream);
    }
    let mut fourth = connect(&tracker).await;
    assert!(is_closed(&mut fourth).await);
    drop(held);
    // The places come free as soon as the tracker notices.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut stream = connect(&tracker).await;
        let request = b"GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
        let mut answer = Vec::new();
        if stream.write_all(request).await.is_ok()
            && stream.read_to_end(&mut answer).await.is_ok()
            && answer.ends_with(b"OK")
        {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tracker.shutdown().await;
}

#[tokio::test]
async fn one_address_cannot_take_every_connection_or_announce_without_end() {
    let limits = Limits {
        connections_per_ip: 2,
        announces_per_ip: 5,
        ..Limits::default()
    };
    let trusted = vec!["127.0.0.9/32".parse().unwrap()];
    let tracker = start(Config {
        limits,
        trusted,
        ..open()
    })
    .await;
    let keep = format!("GET {} HTTP/1.1\r\n\r\n", announce(PEER, 6881, "&left=1"));
    let mut first = connect(&tracker).await;
    let mut second = connect(&tracker).await;
    for stream in [&mut first, &mut second] {
        assert_eq!(send(stream, &keep).await.status, 200);
    }
    assert!(is_closed(&mut connect(&tracker).await).await);
    // An exempt address still gets in, by whatever connections it likes.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut exempt = socket.connect(tracker.local_addr()).await.unwrap();
    let reason = "too many requests from this address: slow down";
    let too_fast = format!("d14:failure reason{}:{reason}8:retry ini1ee", reason.len());
    let mut refused = 0;
    for _ in 0..20 {
        refused += usize::from(send(&mut first, &keep).await.text() == too_fast);
        assert_ne!(send(&mut exempt, &keep).await.text(), too_fast);
    }
    // 22 announces in at most a few windows of 5.
    assert!(refused > 0, "no announce was refused");
    drop(second);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while is_closed_within(&mut connect(&tracker).await, Duration::from_millis(100)).await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the place never came free"
        );
    }
    tracker.shutdown().await;
}

#[tokio::test]
async fn the_routes_for_people() {
    let tracker = start(open()).await;
    assert_eq!(get(&tracker, "/health").await.body, b"OK");
    assert_eq!(get(&tracker, "/readiness").await.status, 200);
    let missing = get(&tracker, "/nowhere").await;
    assert_eq!(
        (missing.status, missing.body.as_slice()),
        (404, b"not found".as_slice())
    );
    assert_eq!(get(&tracker, "/lookup/sha256:00").await.status, 404);
    for target in ["/health", &announce(PEER, 6881, "&left=1")] {
        let mut stream = connect(&tracker).await;
        let request = format!("HEAD {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_answer_to(&mut stream, false).await;
        assert_eq!(answer.status, 200);
        assert_ne!(answer.header("content-length"), Some("0"));
        assert!(is_closed(&mut stream).await);
    }
    get(&tracker, &announce(PEER, 6881, "&left=1")).await;
    get(&tracker, "/announce").await;
    let metrics = get(&tracker, "/metrics").await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    for line in [
        "swell_tracker_announces_total{event=\"none\",outcome=\"joined\"} 1",
        "swell_tracker_announces_total{event=\"none\",outcome=\"renewed\"} 1",
        "swell_tracker_announces_total{event=\"unread\",outcome=\"malformed\"} 1",
        "swell_tracker_peers{kind=\"leecher\"} 1",
        "swell_tracker_swarms 1",
        "swell_tracker_announce_seconds_count 3",
        "swell_tracker_announce_seconds_bucket{le=\"+Inf\"} 3",
        "swell_tracker_cache_saves_failed_total 0",
        "# EOF",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} in\n{metrics}");
    }
    tracker.shutdown().await;
}

#[tokio::test]
async fn several_trackers_in_one_process_and_threads_of_their_own() {
    let threads = std::num::NonZeroUsize::new(2);
    let first = start(Config { threads, ..open() }).await;
    let second = start(open()).await;
    for port in 1..=50 {
        let target = announce(&format!("-XX0001-{port:012}"), port, "&left=1");
        let told = get(&first, &target).await;
        assert_eq!(compact_peers(&told.body).len(), usize::from(port) - 1);
    }
    let told = get(&second, &announce(PEER, 6881, "&left=1")).await;
    assert_eq!(compact_peers(&told.body), []);
    // A port that threads share is still taken for everyone else.
    let listen = first.local_addr();
    for threads in [None, threads] {
        let taken = tracker::Tracker::start(Config {
            listen,
            threads,
            ..open()
        })
        .await;
        let error = taken.expect_err("the port is taken").to_string();
        assert!(
            error.starts_with(&format!("tracker cannot listen on {listen}: ")),
            "{error}"
        );
    }
    first.shutdown().await;
    second.shutdown().await;
    start(Config { listen, ..open() }).await.shutdown().await;
}

#[tokio::test]
async fn nobody_is_left_waiting_while_it_goes_down() {
    let limits = Limits {
        request_time: PATIENCE * 10,
        ..Limits::default()
    };
    let tracker = start(Config { limits, ..open() }).await;
    let addr = tracker.local_addr();
    let mut slow = connect(&tracker).await;
    slow.write_all(b"GET /announce?").await.unwrap();
    // Once another connection is answered, the slow one has been taken in.
    get(&tracker, "/health").await;
    let down = tokio::spawn(tracker.shutdown());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tokio::net::TcpStream::connect(addr).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "it still listens");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!down.is_finished(), "the request under way has its time");
    drop(slow);
    let down = tokio::time::timeout(PATIENCE, down).await;
    down.expect("an end").unwrap();
}

#[tokio::test]
async fn shutdown_ends_resting_connections() {
    let tracker = start(open()).await;
    let mut resting = connect(&tracker).await;
    let request = format!("GET {} HTTP/1.1\r\n\r\n", announce(PEER, 6881, "&left=1"));
    send(&mut resting, &request).await;
    let mut human = connect(&tracker).await;
    send(&mut human, "GET /health HTTP/1.1\r\nHost: t\r\n\r\n").await;
    tokio::time::timeout(PATIENCE, tracker.shutdown())
        .await
        .expect("a prompt end");
    assert!(is_closed(&mut resting).await);
    assert!(is_closed(&mut human).await);
}
