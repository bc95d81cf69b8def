//! Moves random bytes from one engine to another over loopback and says how fast.
//!
//! ```text
//! cargo run --release -p leecher --example loopback -- [--mib N] [--piece-kib N] [--dir DIR] [--one-process]
//! ```
//!
//! Seed and leecher are two processes unless told otherwise. The seed's file is in the page
//! cache; the leecher writes into the same directory.

#![allow(clippy::print_stdout, reason = "a program that reports its figures")]
#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot go on may stop anywhere"
)]

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use leecher::{Config, Content, Download, Engine, Library, OpenGate};
use rand::{RngExt, SeedableRng};
use torrents::hashing::piece_hash;
use torrents::{Geometry, Info, InfoHash};

struct Shelf(Option<(Info, PathBuf)>);

#[async_trait]
impl Library for Shelf {
    async fn open(&self, info_hash: InfoHash) -> Option<(Info, Arc<Content>)> {
        let (info, path) = self
            .0
            .as_ref()
            .filter(|(info, _)| info.hash() == info_hash)?;
        Some((
            info.clone(),
            Arc::new(Content::complete(path, info).unwrap()),
        ))
    }
}

struct Options {
    mib: u64,
    piece_kib: u64,
    dir: PathBuf,
    one_process: bool,
    seed: bool,
}

fn options() -> Options {
    let mut options = Options {
        mib: 2048,
        piece_kib: 1024,
        dir: std::env::temp_dir(),
        one_process: false,
        seed: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value follows");
        match argument.as_str() {
            "--mib" => options.mib = value().parse().unwrap(),
            "--piece-kib" => options.piece_kib = value().parse().unwrap(),
            "--dir" => options.dir = value().into(),
            "--one-process" => options.one_process = true,
            "--seed" => options.seed = true,
            other => panic!("unknown argument {other}"),
        }
    }
    options
}

/// Writes the file and makes its torrent.
fn make(path: &Path, options: &Options) -> Info {
    let piece_len = options.piece_kib << 10;
    let geometry = Geometry::new(options.mib << 20, piece_len).unwrap();
    let mut rng = rand::rngs::SmallRng::seed_from_u64(options.mib);
    let mut piece = vec![0; usize::try_from(piece_len).unwrap()];
    let mut file = std::fs::File::create(path).unwrap();
    let hashes: Vec<_> = (0..geometry.pieces())
        .map(|_| {
            rng.fill(&mut piece[..]);
            file.write_all(&piece).unwrap();
            piece_hash(&[&piece])
        })
        .collect();
    Info::build("loopback", geometry, &hashes).unwrap()
}

/// Seconds of processor time this process has used, in user and kernel mode.
fn cpu() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = &stat[stat.rfind(')').unwrap()..];
    let mut ticks = after_name
        .split(' ')
        .skip(12)
        .map(|ticks| ticks.parse().unwrap_or(0.0) / 100.0);
    (ticks.next().unwrap(), ticks.next().unwrap())
}

fn tell_cpu(who: &str, before: (f64, f64), bytes: u64) {
    let (after, gigabytes) = (cpu(), bytes as f64 / 1e9);
    println!(
        "{who}: {:.2} s user and {:.2} s kernel a GB",
        (after.0 - before.0) / gigabytes,
        (after.1 - before.1) / gigabytes
    );
}

async fn engine(shelf: Shelf) -> Engine {
    Engine::start(Config::default(), Arc::new(shelf), Arc::new(OpenGate))
        .await
        .unwrap()
}

async fn leech(info: &Info, peer: SocketAddr, dir: &Path) {
    let engine = engine(Shelf(None)).await;
    let content = Arc::new(Content::output(dir, info, true, |_| {}).unwrap());
    let (start, before) = (Instant::now(), cpu());
    let torrent = engine
        .download(Download {
            info: info.clone(),
            content,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            peers: vec![peer],
            eager_web_seed: false,
            head: bytes::Bytes::new(),
        })
        .await
        .unwrap();
    torrent.reader().ready(0..1).await.unwrap();
    let first = start.elapsed();
    torrent.finished().await.unwrap();
    let all = start.elapsed();
    tell_cpu("leecher", before, info.geometry().length());
    let megabytes = info.geometry().length() as f64 / 1e6;
    println!(
        "{megabytes:.0} MB in {:.3} s: {:.0} MB/s, first piece after {:.1} ms",
        all.as_secs_f64(),
        megabytes / all.as_secs_f64(),
        first.as_secs_f64() * 1e3,
    );
    engine.shutdown().await;
}

#[tokio::main]
async fn main() {
    let options = options();
    let path = options.dir.join("loopback-source");
    if options.seed {
        let raw = std::fs::read(path.with_extension("info")).unwrap();
        let info = Info::parse(raw.into()).unwrap();
        let length = info.geometry().length();
        let engine = engine(Shelf(Some((info, path)))).await;
        println!("{}", engine.local_addr());
        let before = cpu();
        // Until the leecher closes our input.
        let _ = std::io::stdin().lock().read_line(&mut String::new());
        tell_cpu("seed", before, length);
        engine.shutdown().await;
        return;
    }
    let info = make(&path, &options);
    std::fs::write(path.with_extension("info"), info.raw()).unwrap();
    let out = options.dir.join("loopback-out");
    let _ = std::fs::remove_dir_all(&out);
    if options.one_process {
        let seed = engine(Shelf(Some((info.clone(), path.clone())))).await;
        leech(&info, seed.local_addr(), &out).await;
        seed.shutdown().await;
    } else {
        let mut seed = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--seed", "--dir"])
            .arg(&options.dir)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = std::io::BufReader::new(seed.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        leech(&info, line.trim().parse().unwrap(), &out).await;
        drop(seed.stdin.take());
        line.clear();
        output.read_line(&mut line).unwrap();
        print!("{line}");
        seed.wait().unwrap();
    }
    let _ = std::fs::remove_dir_all(&out);
    let _ = std::fs::remove_file(path.with_extension("info"));
    let _ = std::fs::remove_file(path);
}
