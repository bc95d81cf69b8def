//! Puts load on any HTTP tracker and prints what it took: announces per second, latencies, and
//! the tracker's CPU time per announce when its process is named.
//!
//! ```text
//! load 127.0.0.1:15003 --keep-alive --pid 4711      mixed announces from a few connections
//! load 127.0.0.1:15003 --each-once --torrents 10000 --peers 100 --keep-alive
//!                                                   every peer of every torrent, once
//! load 127.0.0.1:15003 --at-once 10000              so many agents in the same moment
//! load --write-hashes FILE                          the torrents, for a whitelist
//! ```
//!
//! Blocking sockets on a few threads, so that the load costs little and the same on every
//! tracker. Torrents, peers and events are mixed as a fleet mixes them, and the same in every
//! run.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool for a terminal"
)]

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Plan {
    addr: SocketAddr,
    keep_alive: bool,
    each_once: bool,
    at_once: Option<u32>,
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
    let cpu = plan.pid.map(cpu_time);
    let started = Instant::now();
    let outcome = match plan.at_once {
        Some(agents) => at_once(&plan, agents)?,
        None => steady(&plan),
    };
    let took = started.elapsed();
    report(&plan, outcome, took, cpu);
    Ok(())
}

/// What happened.
#[derive(Default)]
struct Outcome {
    latencies: Vec<Duration>,
    failed: u64,
    bytes: u64,
}

fn report(plan: &Plan, mut outcome: Outcome, took: Duration, cpu: Option<Duration>) {
    let answered = outcome.latencies.len();
    let each = |whole: f64| whole / (answered.max(1) as f64);
    let rate = answered as f64 / took.as_secs_f64();
    print!("{answered} answers, {rate:.0}/s, {} failed", outcome.failed);
    print!(", {:.0} bytes each", each(outcome.bytes as f64));
    outcome.latencies.sort_unstable();
    for (name, part) in [("p50", 50), ("p99", 99), ("p99.9", 999), ("max", 100)] {
        let scale = if part > 100 { 1_000 } else { 100 };
        let at = (answered * part / scale).min(answered.saturating_sub(1));
        let latency = outcome.latencies.get(at).copied().unwrap_or_default();
        print!(", {name} {:.2} ms", latency.as_secs_f64() * 1e3);
    }
    if let (Some(before), Some(pid)) = (cpu, plan.pid) {
        let spent = (cpu_time(pid) - before).as_secs_f64() * 1e6;
        print!(", {:.2} us of CPU each", each(spent));
    }
    println!();
}

/// A few connections that ask as fast as they are answered.
fn steady(plan: &Plan) -> Outcome {
    let asked = AtomicU64::new(0);
    let mut whole = Outcome::default();
    std::thread::scope(|scope| {
        let asked = &asked;
        let load = |thread| scope.spawn(move || load(plan, thread, asked));
        let threads: Vec<_> = (0..plan.threads).map(load).collect();
        for thread in threads {
            let part = thread.join().expect("no thread panics");
            whole.latencies.extend(part.latencies);
            whole.failed += part.failed;
            whole.bytes += part.bytes;
        }
    });
    whole
}

fn load(plan: &Plan, thread: u32, asked: &AtomicU64) -> Outcome {
    let mut outcome = Outcome::default();
    let mut connection = None;
    let mut buffer = vec![0; 64 * 1024];
    let mut ask = |request: &[u8]| {
        let started = Instant::now();
        match ask(plan, &mut connection, request, &mut buffer) {
            Ok(n) => {
                outcome.latencies.push(started.elapsed());
                outcome.bytes += n as u64;
            }
            Err(error) => {
                eprintln!("failed after {:?}: {error}", started.elapsed());
                connection = None;
                outcome.failed += 1;
            }
        }
    };
    if plan.each_once {
        for torrent in (thread..plan.torrents).step_by(plan.threads as usize) {
            for peer in 0..plan.peers {
                ask(&joining(plan, torrent, peer));
            }
        }
        return outcome;
    }
    // Made before, so that making them is no part of the load.
    let requests = mixed(plan, thread);
    for request in requests.iter().cycle() {
        if asked.fetch_add(1, Ordering::Relaxed) >= plan.requests {
            break;
        }
        ask(request);
    }
    outcome
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
    check(&buffer[..length])
}

/// So many agents, each on a connection of its own, all at the same moment.
fn at_once(plan: &Plan, agents: u32) -> io::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for agent in 0..agents {
            let request = joining(plan, agent % plan.torrents, agent);
            let addr = plan.addr;
            tasks.spawn(async move {
                let started = Instant::now();
                let mut stream = tokio::net::TcpStream::connect(addr).await?;
                stream.write_all(&request).await?;
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await?;
                Ok::<_, io::Error>((check(&answer)?, started.elapsed()))
            });
        }
        let mut outcome = Outcome::default();
        while let Some(joined) = tasks.join_next().await {
            match joined {
                Ok(Ok((n, latency))) => {
                    outcome.latencies.push(latency);
                    outcome.bytes += n as u64;
                }
                _ => outcome.failed += 1,
            }
        }
        Ok(outcome)
    })
}

/// An answer that is a reply and no failure.
fn check(answer: &[u8]) -> io::Result<usize> {
    // Some end their bodies with a line break.
    let whole = answer.starts_with(b"HTTP/1.") && answer.trim_ascii_end().ends_with(b"e");
    let refused = answer.windows(14).any(|w| w == b"failure reason");
    if whole && !refused {
        Ok(answer.len())
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

/// A thread's own peers over all torrents, with the events of a fleet.
fn mixed(plan: &Plan, thread: u32) -> Vec<Vec<u8>> {
    let mut rng = SmallRng::seed_from_u64(u64::from(thread) + 1);
    let one = |_| {
        let torrent = rng.random_range(0..plan.torrents);
        let peer = thread * plan.peers + rng.random_range(0..plan.peers);
        let more = match rng.random_range(0..100) {
            0..10 => "&left=1000000&event=started".to_owned(),
            10..18 => "&left=0&event=completed".to_owned(),
            18..22 => "&left=0&event=stopped".to_owned(),
            22..45 => "&left=0".to_owned(),
            _ => format!("&left={}", rng.random_range(1..1_000_000)),
        };
        request(plan, torrent, peer, 1 + peer, &more)
    };
    (0..20_000).map(one).collect()
}

/// A leecher that joins, at an address of its own: loopback is trusted to say it.
fn joining(plan: &Plan, torrent: u32, peer: u32) -> Vec<u8> {
    let ip = Ipv4Addr::from_bits(0x0a00_0000 + peer);
    request(
        plan,
        torrent,
        peer,
        6881,
        &format!("&left=1&event=started&ip={ip}"),
    )
}

fn request(plan: &Plan, torrent: u32, peer: u32, port: u32, more: &str) -> Vec<u8> {
    let mut hash = String::new();
    for byte in info_hash(torrent) {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                hash.push(char::from(byte));
            }
            byte => write!(hash, "%{byte:02X}").expect("a string takes all"),
        }
    }
    let close = if plan.keep_alive {
        "keep-alive"
    } else {
        "close"
    };
    format!(
        "GET /announce?info_hash={hash}&peer_id=-LD0001-{peer:012}&port={port}&uploaded=0\
         &downloaded=0&compact=1&numwant={}&key=1a2b3c4d{more} HTTP/1.1\r\nHost: tracker\r\n\
         User-Agent: load/1\r\nAccept-Encoding: identity\r\nConnection: {close}\r\n\r\n",
        plan.numwant
    )
    .into_bytes()
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
        each_once: false,
        at_once: None,
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
            "--each-once" => plan.each_once = true,
            "--at-once" => plan.at_once = Some(number()?),
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
