//! Puts load on any HTTP tracker and prints what it took: announces per second, and the
//! tracker's CPU time per announce when its process is named.
//!
//! ```text
//! cargo run --release -p tracker --example load -- 127.0.0.1:15003 --keep-alive --pid 4711
//! ```
//!
//! Blocking sockets on a few threads, so that the load costs little and the same on every
//! tracker. Requests are made before the clock starts: torrents, peers and events are mixed as
//! a fleet mixes them, and the same seed asks the same.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool for a terminal"
)]

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

struct Plan {
    addr: SocketAddr,
    keep_alive: bool,
    threads: u32,
    requests: u64,
    torrents: u32,
    peers: u32,
    numwant: u32,
    pid: Option<u32>,
    hashes: Option<String>,
}

fn main() -> io::Result<()> {
    let plan = match read_plan() {
        Ok(plan) => plan,
        Err(why) => {
            eprintln!("error: {why}");
            std::process::exit(2);
        }
    };
    if let Some(path) = &plan.hashes {
        let lines = (0..plan.torrents).map(|n| hex(&info_hash(n)) + "\n");
        return std::fs::write(path, lines.collect::<String>());
    }
    let done = AtomicU64::new(0);
    let failed = AtomicU64::new(0);
    let bytes = AtomicU64::new(0);
    let corpus: Vec<Vec<Vec<u8>>> = (0..plan.threads).map(|n| requests(&plan, n)).collect();
    let cpu = plan.pid.map(cpu_time);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for requests in &corpus {
            scope.spawn(|| load(&plan, requests, &done, &failed, &bytes));
        }
    });
    let took = started.elapsed();
    let answered = done.load(Ordering::Relaxed);
    let rate = answered as f64 / took.as_secs_f64();
    print!(
        "{answered} answers, {rate:.0}/s, {} failed",
        failed.load(Ordering::Relaxed)
    );
    print!(
        ", {:.0} bytes each",
        bytes.load(Ordering::Relaxed) as f64 / answered.max(1) as f64
    );
    if let (Some(before), Some(pid)) = (cpu, plan.pid) {
        let spent = (cpu_time(pid) - before).as_secs_f64() * 1e6;
        print!(", {:.2} us of CPU each", spent / answered.max(1) as f64);
    }
    println!();
    Ok(())
}

/// Asks until all threads together have their number of answers.
fn load(
    plan: &Plan,
    requests: &[Vec<u8>],
    done: &AtomicU64,
    failed: &AtomicU64,
    bytes: &AtomicU64,
) {
    let mut connection = None;
    let mut buffer = vec![0; 64 * 1024];
    for request in requests.iter().cycle() {
        if done.load(Ordering::Relaxed) + failed.load(Ordering::Relaxed) >= plan.requests {
            return;
        }
        match ask(plan, &mut connection, request, &mut buffer) {
            Ok(n) => {
                done.fetch_add(1, Ordering::Relaxed);
                bytes.fetch_add(n as u64, Ordering::Relaxed);
            }
            Err(_) => {
                connection = None;
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// One request and its whole answer, on a connection kept or of its own.
fn ask(
    plan: &Plan,
    connection: &mut Option<TcpStream>,
    request: &[u8],
    buffer: &mut [u8],
) -> io::Result<usize> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(plan.addr)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.set_nodelay(true)?;
            stream
        }
    };
    stream.write_all(request)?;
    let mut length = 0;
    loop {
        let n = stream.read(&mut buffer[length..])?;
        length += n;
        if plan.keep_alive && is_whole(&buffer[..length]) {
            *connection = Some(stream);
            break;
        }
        if n == 0 {
            break;
        }
    }
    let good = buffer[..length].starts_with(b"HTTP/1.") && buffer[..length].ends_with(b"e");
    let refused = buffer[..length].windows(7).any(|w| w == b"failure");
    if good && !refused {
        Ok(length)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|w| w == b"\r\n\r\n") else {
        return false;
    };
    let text = String::from_utf8_lossy(&answer[..head]).to_lowercase();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length: Option<usize> = length.and_then(|length| length.trim().parse().ok());
    length.is_some_and(|length| answer.len() >= head + 4 + length)
}

/// Every thread's own peers, over all torrents.
fn requests(plan: &Plan, thread: u32) -> Vec<Vec<u8>> {
    let mut rng = SmallRng::seed_from_u64(u64::from(thread) + 1);
    let one = |_| {
        let torrent = rng.random_range(0..plan.torrents);
        let peer = rng.random_range(0..plan.peers);
        let (event, left) = match rng.random_range(0..100) {
            0..10 => ("&event=started", 1_000_000),
            10..18 => ("&event=completed", 0),
            18..22 => ("&event=stopped", 0),
            22..45 => ("", 0),
            _ => ("", rng.random_range(1..1_000_000)),
        };
        let mut hash = String::new();
        for byte in info_hash(torrent) {
            match byte {
                b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                    hash.push(char::from(byte));
                }
                byte => write!(hash, "%{byte:02X}").expect("a string takes all"),
            }
        }
        // One port, and so one peer per torrent and number: as many addresses as a fleet has
        // cannot be had on loopback.
        let port = 1 + thread * plan.peers + peer;
        let close = if plan.keep_alive {
            "keep-alive"
        } else {
            "close"
        };
        format!(
            "GET /announce?info_hash={hash}&peer_id=-LD0001-{port:012}&port={port}&uploaded=0\
             &downloaded=0&left={left}&compact=1&numwant={}&key=1a2b3c4d{event} HTTP/1.1\r\n\
             Host: tracker\r\nUser-Agent: load/1\r\nAccept-Encoding: identity\r\n\
             Connection: {close}\r\n\r\n",
            plan.numwant
        )
        .into_bytes()
    };
    (0..20_000).map(one).collect()
}

/// Spread over all shards, and the same in every run.
fn info_hash(torrent: u32) -> [u8; 20] {
    let mut rng = SmallRng::seed_from_u64(u64::from(torrent) ^ 0x5eed);
    let mut hash = [0; 20];
    rng.fill(&mut hash);
    hash
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// User and system time of a process, all threads.
fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold anything but ends at the last parenthesis.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    // USER_HZ is 100 on every Linux that userland sees.
    Duration::from_millis(ticks * 10)
}

fn read_plan() -> Result<Plan, String> {
    let mut plan = Plan {
        addr: SocketAddr::from(([127, 0, 0, 1], 15003)),
        keep_alive: false,
        threads: 8,
        requests: 100_000,
        torrents: 1_000,
        peers: 1_000,
        numwant: 50,
        pid: None,
        hashes: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let value = arguments
                .next()
                .ok_or(format!("{argument} needs a value"))?;
            value
                .parse::<u32>()
                .map_err(|error| format!("{argument} {value}: {error}"))
        };
        match argument.as_str() {
            "--keep-alive" => plan.keep_alive = true,
            "--threads" => plan.threads = number()?,
            "--requests" => plan.requests = number()?.into(),
            "--torrents" => plan.torrents = number()?,
            "--peers" => plan.peers = number()?,
            "--numwant" => plan.numwant = number()?,
            "--pid" => plan.pid = Some(number()?),
            "--write-hashes" => plan.hashes = arguments.next(),
            addr => plan.addr = addr.parse().map_err(|error| format!("{addr}: {error}"))?,
        }
    }
    Ok(plan)
}
