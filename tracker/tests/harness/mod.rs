//! Trackers on loopback, and clients that write requests byte by byte.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests fail as tests do"
)]

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use torrents::register::{RegisterReply, RegisterRequest, Registration};
use torrents::{InfoHash, PeerId};
use tracker::{Config, Mode, Tracker};

/// Longer than any answer takes on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const HASH: InfoHash = InfoHash(*b"\x00\x01 +&=%~._-aZ09\xfe\xff/?!");
/// `HASH` as a client writes it: escapes in both cases, a raw plus, raw unreserved bytes.
pub const HASH_TEXT: &str = "%00%01%20+%26%3d%25~._-aZ09%FE%ff%2F%3F!";

pub fn open() -> Config {
    Config {
        mode: Mode::Open,
        ..registered()
    }
}

pub fn registered() -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        ..Config::default()
    }
}

pub async fn start(config: Config) -> Tracker {
    Tracker::start(config).await.unwrap()
}

pub async fn connect(tracker: &Tracker) -> TcpStream {
    TcpStream::connect(tracker.local_addr()).await.unwrap()
}

/// An HTTP answer, taken apart.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body with every byte that is no printable ASCII as `<hh>`.
    pub fn text(&self) -> String {
        printable(&self.body)
    }
}

pub fn printable(bytes: &[u8]) -> String {
    let one = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte).to_string(),
        _ => format!("<{byte:02x}>"),
    };
    bytes.iter().map(one).collect()
}

/// Reads one answer off the stream, by its content length.
pub async fn read_answer(stream: &mut TcpStream) -> Answer {
    read_answer_to(stream, true).await
}

/// Reads one answer; `with_body` is false for a HEAD.
pub async fn read_answer_to(stream: &mut TcpStream, with_body: bool) -> Answer {
    let read = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("an answer's head"));
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer {
            status,
            head,
            body: Vec::new(),
        };
        if with_body {
            let length = answer.header("content-length").unwrap().parse().unwrap();
            answer.body = vec![0; length];
            stream.read_exact(&mut answer.body).await.unwrap();
        }
        answer
    };
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("an answer in time")
}

/// Sends one request as it stands and reads one answer.
pub async fn send(stream: &mut TcpStream, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    read_answer(stream).await
}

/// One GET on a connection of its own.
pub async fn get(tracker: &Tracker, target: &str) -> Answer {
    get_with(tracker, target, "").await
}

/// One GET with more headers, each ended by CR LF.
pub async fn get_with(tracker: &Tracker, target: &str, headers: &str) -> Answer {
    let mut stream = connect(tracker).await;
    let request = format!("GET {target} HTTP/1.1\r\nHost: t\r\n{headers}Connection: close\r\n\r\n");
    send(&mut stream, &request).await
}

/// One POST with more headers, each ended by CR LF.
pub async fn post(tracker: &Tracker, target: &str, headers: &str, body: &[u8]) -> Answer {
    let mut stream = connect(tracker).await;
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: t\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    read_answer(&mut stream).await
}

/// An announce's target: swarm `HASH`, this peer, this port, and more parameters.
pub fn announce(id: &str, port: u16, more: &str) -> String {
    assert_eq!(id.len(), 20);
    format!("/announce?info_hash={HASH_TEXT}&peer_id={id}&port={port}{more}")
}

/// The compact peers of a reply, IPv4 and IPv6.
pub fn compact_peers(body: &[u8]) -> Vec<SocketAddr> {
    match torrents::announce::AnnounceReply::decode(body).unwrap() {
        torrents::announce::TrackerAnswer::Ok(reply) => {
            reply.peers.iter().map(|peer| peer.addr).collect()
        }
        failure => panic!("{failure:?}"),
    }
}

pub fn origin(name: u8, peers: &[&str], add: Vec<Registration>) -> RegisterRequest {
    RegisterRequest {
        origin: PeerId([name; 20]),
        peers: peers.iter().map(|peer| peer.parse().unwrap()).collect(),
        add,
        remove: Vec::new(),
    }
}

pub fn registration(info_hash: InfoHash, label: &str) -> Registration {
    Registration {
        info_hash,
        label: label.to_owned(),
        length: 1_000_000,
        names: vec!["team/app:v1".to_owned()],
    }
}

pub async fn register(tracker: &Tracker, request: &RegisterRequest) -> RegisterReply {
    let answer = post(tracker, "/register", "", &request.encode()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    RegisterReply::decode(&answer.body).unwrap()
}

pub async fn api(tracker: &Tracker, target: &str) -> serde_json::Value {
    let answer = get(tracker, target).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}
