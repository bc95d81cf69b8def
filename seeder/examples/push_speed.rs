//! How fast a registry takes a blob: `push_speed MIB ROUNDS [HOST:PORT]`. Without an address,
//! an origin of its own is started in a temporary directory (below `TMPDIR`).
//!
//! The client sends as Docker does (`PATCH` in chunks, then `PUT`) from memory, over one raw
//! connection, so that what is measured is the registry. Each round's blob is another one.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement for people"
)]

use std::time::Instant;

use oci::{Digest, Verifier};
use seeder::{Config, Origin};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CHUNK: usize = 32 * 1024;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let mib: usize = args.next().map_or(1024, |arg| arg.parse().unwrap());
    let rounds: u64 = args.next().map_or(3, |arg| arg.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut origin = None;
    let addr = match args.next() {
        Some(addr) => addr,
        None => {
            let free = "127.0.0.1:0".parse().unwrap();
            let config = Config {
                data: dir.path().join("data"),
                registry: free,
                api: free,
                tags: free,
                peer: free,
                ..Config::default()
            };
            let started = Origin::start(config).await.unwrap();
            let addr = started.addrs().registry.to_string();
            origin = Some(started);
            addr
        }
    };
    for round in 0..rounds {
        let seed = round.wrapping_add(u64::from(std::process::id()) << 32);
        let block: Vec<u8> = noise(seed).take(1 << 20).collect();
        let (took, committed) = push(&addr, &block, mib).await;
        let rate = (mib as f64 * 1.048_576) / (took + committed);
        println!("{mib} MiB: body {took:.2} s, commit {committed:.3} s, {rate:.0} MB/s in all");
    }
    if let Some(origin) = origin {
        origin.shutdown().await;
    }
}

async fn push(addr: &str, block: &[u8], mib: usize) -> (f64, f64) {
    let digest = digest(block, mib);
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let post = format!(
        "POST /v2/speed/test/blobs/uploads/ HTTP/1.1\r\nHost: {addr}\r\nContent-Length: 0\r\n\r\n"
    );
    let head = ask(&mut stream, &post).await;
    let location = location(&head, addr);
    let begun = Instant::now();
    let patch =
        format!("PATCH {location} HTTP/1.1\r\nHost: {addr}\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(patch.as_bytes()).await.unwrap();
    let mut framed = Vec::with_capacity(block.len() + 4096);
    for chunk in block.chunks(CHUNK) {
        framed.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        framed.extend_from_slice(chunk);
        framed.extend_from_slice(b"\r\n");
    }
    for _ in 0..mib {
        stream.write_all(&framed).await.unwrap();
    }
    let head = ask(&mut stream, "0\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 202"), "{head}");
    let took = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let location = self::location(&head, addr);
    let and = if location.contains('?') { '&' } else { '?' };
    let put = format!(
        "PUT {location}{and}digest={digest} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: 0\r\n\r\n"
    );
    let head = ask(&mut stream, &put).await;
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    (took, begun.elapsed().as_secs_f64())
}

/// Sends, and reads one response without a body.
async fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// The path and query of the `Location`.
fn location(head: &str, addr: &str) -> String {
    let line = head.lines().find_map(|line| {
        line.split_once(": ")
            .filter(|(name, _)| name.eq_ignore_ascii_case("location"))
    });
    let (_, url) = line.expect("a location");
    url.trim_start_matches(&format!("http://{addr}")).to_owned()
}

fn digest(block: &[u8], mib: usize) -> Digest {
    let mut verifier = Verifier::new(oci::digest::Algorithm::Sha256);
    for _ in 0..mib {
        verifier.update(block);
    }
    verifier.finish()
}

fn noise(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
}
