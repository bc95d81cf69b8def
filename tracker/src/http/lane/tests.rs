//! Whatever bytes come in, the lane neither panics nor grows, and its answers can be read.

use std::net::Ipv4Addr;

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

use super::*;
use crate::config::{Config, Mode};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

fn service() -> Service {
    let limits = crate::config::Limits {
        swarms: 100,
        peers: 500,
        ..Default::default()
    };
    let config = Config {
        mode: Mode::Open,
        limits,
        ..Config::default()
    };
    Service::unstarted(&config)
}

/// Requests as real clients write them.
const CORPUS: [&str; 7] = [
    "GET /announce?info_hash=%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9A&peer_id=-TR4060-\
     abcdefghijkl&port=51413&uploaded=0&downloaded=0&left=1024&numwant=80&key=4f2a91c3&compact=1\
     &supportcrypto=1&requirecrypto=0&ipv6=fe80%3A%3A1&event=started HTTP/1.1\r\nHost: t:15003\r\n\
     User-Agent: Transmission/4.0.6\r\nAccept: */*\r\nAccept-Encoding: deflate, gzip\r\n\r\n",
    "GET /announce?info_hash=%01%02%03%04%05%06%07%08%09%0a%0b%0c%0d%0e%0f%10%11%12%13%14&peer_id=\
     A2-1-36-0-%aa%bb%cc%dd%ee%ff12345&uploaded=0&downloaded=0&left=0&compact=1&key=abcdefgh\
     &numwant=50&no_peer_id=1&port=6881&event=completed&supportcrypto=1 HTTP/1.1\r\nUser-Agent: \
     aria2/1.36.0\r\nAccept: */*\r\nHost: t:15003\r\nPragma: no-cache\r\nCache-Control: no-cache\
     \r\nConnection: close\r\n\r\n",
    "GET /announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-lt0D80-abcdefghijkl&key=1&compact=0&\
     port=6881&uploaded=1&downloaded=2&left=9223372036854775807&event=paused&numwant=-1 HTTP/1.0\
     \r\n\r\n",
    "GET /scrape?info_hash=aaaaaaaaaaaaaaaaaaaa&info_hash=%ff%ff%ff%ff%ff%ff%ff%ff%ff%ff%ff%ff%ff\
     %ff%ff%ff%ff%ff%ff%ff HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: 10.0.0.1, [::1]:80\r\n\r\n",
    "GET /announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=1&event=stopped\
     &ip=10.0.0.1&trackerid=0123 HTTP/1.1\r\nConnection: keep-alive\r\n\r\n",
    "POST /register HTTP/1.1\r\nContent-Length: 5\r\n\r\nd3:fe",
    "\x16\x03\x01\x02\0\x01\0\x01",
];

/// Damages a request as broken clients, proxies and attackers would.
fn mutate(rng: &mut SmallRng, bytes: &mut Vec<u8>) {
    const TOKENS: [&[u8]; 12] = [
        b"%",
        b"%0",
        b"%zz",
        b"&",
        b"=",
        b"?",
        b"\r\n",
        b"\0",
        b"info_hash=",
        b"99999999999999999",
        b"\xff",
        b" ",
    ];
    for _ in 0..rng.random_range(0..8) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..32)).min(bytes.len());
        match rng.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] = rng.random(),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.truncate(at),
            3 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => {
                let token = TOKENS[rng.random_range(0..TOKENS.len())];
                bytes.splice(at..at, token.iter().copied());
            }
            _ => {
                let other = CORPUS[rng.random_range(0..CORPUS.len())].as_bytes();
                let from = rng.random_range(0..other.len());
                bytes.splice(at..end, other[from..].iter().copied());
            }
        }
    }
}

/// Every answer in `output` has a status, a length that is true, and a body that is a whole
/// dictionary or the status again.
fn check_answers(mut output: &[u8]) {
    while !output.is_empty() {
        let head = output
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .expect("a whole head")
            + 4;
        let text = std::str::from_utf8(&output[..head]).expect("a head of text");
        let length = text.split("Content-Length: ").nth(1).expect("a length");
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        let body = &output[head..head + length];
        if text.starts_with("HTTP/1.1 200 ") {
            let whole = body.starts_with(b"d") && body.ends_with(b"e");
            assert!(whole, "{}", String::from_utf8_lossy(body));
        } else {
            assert!(text.as_bytes()[9..].starts_with(body), "{text}");
        }
        output = &output[head + length..];
    }
}

#[test]
fn damaged_requests_are_answered_or_refused_and_leave_nothing_behind() {
    // More by hand: LANE_ROUNDS=1000000 cargo test --release -p tracker damaged
    let rounds = std::env::var("LANE_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(20_000);
    let seed = std::env::var("LANE_SEED").ok().and_then(|n| n.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().next_u64());
    println!("LANE_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let service = service();
    let mut buffers = Buffers::default();
    for _ in 0..rounds {
        let mut input = CORPUS[rng.random_range(0..CORPUS.len())]
            .as_bytes()
            .to_vec();
        mutate(&mut rng, &mut input);
        buffers.output.clear();
        let (used, next) = serve(&service, CLIENT, &input, &mut buffers);
        assert!(used <= input.len());
        assert!(next != Next::Again || buffers.output.len() >= FLUSH_AT);
        check_answers(&buffers.output);
    }
    let totals = service.table.totals();
    assert!(totals.swarms <= 100 && totals.peers <= 500, "{totals:?}");
    assert!(buffers.output.capacity() < 1 << 20 && buffers.body.capacity() < 1 << 20);
}

#[test]
fn the_bytes_of_a_refused_scrape_are_counted() {
    let service = service();
    for query in [&b""[..], b"info_hash=short"] {
        let before = service.metrics.reply_bytes();
        let mut body = Vec::new();
        let source = service.table.trust().source(CLIENT, std::iter::empty());
        scrape(&service, source, query, &mut body);
        assert!(body.starts_with(b"d14:failure reason"));
        assert_eq!(service.metrics.reply_bytes() - before, body.len() as u64);
    }
}

#[test]
fn a_pipeline_is_answered_in_parts() {
    let service = service();
    let mut buffers = Buffers::default();
    let input = CORPUS[0].repeat(2_000);
    let mut used = 0;
    let mut answers = 0;
    loop {
        buffers.output.clear();
        let (more, next) = serve(&service, CLIENT, &input.as_bytes()[used..], &mut buffers);
        check_answers(&buffers.output);
        answers += buffers
            .output
            .windows(12)
            .filter(|w| w == b"HTTP/1.1 200")
            .count();
        assert!(buffers.output.len() < FLUSH_AT + 4_096);
        used += more;
        match next {
            Next::Again => {}
            other => break assert_eq!(other, Next::Read),
        }
    }
    assert_eq!((used, answers), (input.len(), 2_000));
}
