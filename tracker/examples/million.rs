//! What a million peers in ten thousand swarms cost, and whether forgetting them holds anybody
//! up: fills a tracker in this process over sockets, lets all of them expire while one client
//! goes on announcing, and prints memory and the longest wait.
//!
//! ```text
//! cargo run --release -p tracker --example million
//! ```

#![allow(clippy::print_stdout, reason = "a tool for a terminal")]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use tracker::{Config, Intervals, Mode, Tracker};

const TORRENTS: u32 = 10_000;
const PEERS: u32 = 100;
const THREADS: u32 = 2;
/// Requests sent before their answers are read.
const PIPELINE: u32 = 50;
/// How long a silent peer stays: long enough to fill, short enough to watch.
const LIFE: Duration = Duration::from_secs(90);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        mode: Mode::Open,
        threads: NonZeroUsize::new(2),
        intervals: Intervals {
            expiry_floor: LIFE,
            ..Intervals::default()
        },
        ..Config::default()
    };
    let tracker = Tracker::start(config).await?;
    let addr = tracker.local_addr();
    tokio::task::spawn_blocking(move || measure(addr)).await??;
    tracker.shutdown().await;
    Ok(())
}

fn measure(addr: SocketAddr) -> io::Result<()> {
    let empty = resident()?;
    let began = Instant::now();
    std::thread::scope(|scope| {
        let fill = |thread| scope.spawn(move || fill(addr, thread));
        let threads: Vec<_> = (0..THREADS).map(fill).collect();
        let joined: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        joined
            .into_iter()
            .try_for_each(|joined| joined.expect("no thread panics"))
    })?;
    let filled = resident()?;
    println!(
        "{} peers in {TORRENTS} swarms after {:.1} s: {} MiB more than empty",
        peers(addr)?,
        began.elapsed().as_secs_f64(),
        (filled - empty) >> 20
    );
    let calm = longest_wait(addr, |waited| Ok(waited > Duration::from_secs(10)))?;
    println!("longest wait of an announce while nothing expires: {calm:.2?}");
    while peers(addr)? == u64::from(TORRENTS * PEERS) {
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut asked = Instant::now();
    let expiring = longest_wait(addr, |_| {
        if asked.elapsed() < Duration::from_millis(500) {
            return Ok(false);
        }
        asked = Instant::now();
        Ok(peers(addr)? == 0)
    })?;
    println!("longest wait while all of them expire: {expiring:.2?}");
    std::thread::sleep(Duration::from_secs(15));
    println!(
        "{} MiB more than empty after that",
        resident()?.saturating_sub(empty) >> 20
    );
    Ok(())
}

/// A part of the torrents, each with all its peers.
fn fill(addr: SocketAddr, thread: u32) -> io::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    let mut buffer = vec![0; 64 << 10];
    for torrent in (thread..TORRENTS).step_by(THREADS as usize) {
        for first in (0..PEERS).step_by(PIPELINE as usize) {
            let requests: String = (first..first + PIPELINE)
                .map(|peer| request(torrent, peer))
                .collect();
            stream.write_all(requests.as_bytes())?;
            let mut answered = 0;
            let mut kept = 0;
            while answered < PIPELINE as usize {
                let n = stream.read(&mut buffer[kept..])?;
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                // Each answer ends with the tracker id and an `e`; a head never holds one.
                let (all, mark) = (&buffer[..kept + n], b"10:tracker id16:");
                let ends = all
                    .windows(mark.len())
                    .enumerate()
                    .filter(|(_, w)| w == mark);
                let ends: Vec<usize> = ends.map(|(at, _)| at + mark.len() + 17).collect();
                let whole = ends.iter().filter(|end| **end <= all.len()).count();
                answered += whole;
                let used = ends[..whole].last().copied().unwrap_or(0);
                kept = all.len() - used;
                buffer.copy_within(used..used + kept, 0);
            }
        }
    }
    Ok(())
}

/// Announces one peer without a pause until `done`; the longest time to an answer.
fn longest_wait(
    addr: SocketAddr,
    mut done: impl FnMut(Duration) -> io::Result<bool>,
) -> io::Result<Duration> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    // In a swarm that expires with the others, and in all shards in turn.
    for torrent in (0..TORRENTS).cycle() {
        let request = request(torrent, PEERS).replace("left=1", "left=1&event=stopped");
        let asked = Instant::now();
        stream.write_all(request.as_bytes())?;
        if stream.read(&mut buffer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        longest = longest.max(asked.elapsed());
        if done(began.elapsed())? {
            break;
        }
    }
    Ok(longest)
}

fn request(torrent: u32, peer: u32) -> String {
    // Spread over all shards: they go by the first byte.
    let hash = format!("%{:02x}{torrent:019}", torrent % 256);
    let ip = Ipv4Addr::from_bits(0x0a00_0000 + peer);
    format!(
        "GET /announce?info_hash={hash}&peer_id=-XX0001-{peer:04}{torrent:08}&port=6881&left=1\
         &numwant=0&key=1a2b3c4d&ip={ip} HTTP/1.1\r\nHost: t\r\n\r\n"
    )
}

/// Peers the tracker holds, by its metrics.
fn peers(addr: SocketAddr) -> io::Result<u64> {
    let mut stream = TcpStream::connect(addr)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("swell_tracker_peers{kind=\"leecher\"} "));
    line.and_then(|count| count.trim().parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Bytes of this process in memory.
fn resident() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib << 10)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
