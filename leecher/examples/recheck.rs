//! How fast stored bytes are checked again, and what a commit costs.
//!
//! `cargo run --release -p leecher --example recheck -- DIR [MIB]` writes a layer of that size
//! (1024 MiB by default) as a download would, and prints what each step took.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement for people"
)]

use std::io::IoSlice;
use std::path::Path;
use std::time::Instant;

use leecher::{Content, LocalStore};
use torrents::hashing::StreamHasher;
use torrents::{Geometry, Info};

const MIB: usize = 1 << 20;

fn main() {
    let mut args = std::env::args_os().skip(1);
    let dir = args.next().expect("a directory to work in");
    let mib = args
        .next()
        .map_or(1024, |text| text.to_str().unwrap().parse().unwrap());
    let dir = tempfile::tempdir_in(dir).unwrap();

    let start = Instant::now();
    let info = info(mib);
    report("hash as an upload does", mib, start);

    let store = LocalStore::open(&dir.path().join("store")).unwrap();
    let content = store.begin("layer", &info).unwrap();
    let start = Instant::now();
    write(&content, &info);
    report("write by pieces", mib, start);
    let start = Instant::now();
    let stored = store.commit("layer").unwrap();
    report("commit", mib, start);
    drop((content, store));

    let output = dir.path().join("output");
    std::fs::create_dir(&output).unwrap();
    std::fs::rename(&stored.path, output.join("layer")).unwrap();
    let start = Instant::now();
    assert!(check(&output, &info));
    report("check again, in memory", mib, start);
    let file = std::fs::File::open(output.join("layer")).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let start = Instant::now();
    assert!(check(&output, &info));
    report("check again, from the disk", mib, start);
}

fn report(what: &str, mib: usize, start: Instant) {
    let time = start.elapsed();
    let rate = f64::from(u32::try_from(mib).unwrap()) / time.as_secs_f64();
    println!(
        "{what:28} {:8.1} ms {rate:8.0} MiB/s",
        time.as_secs_f64() * 1e3
    );
}

/// The nth MiB of the layer.
fn chunk(n: usize) -> Vec<u8> {
    let mut state = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..MIB / 8).flat_map(|_| next()).collect()
}

fn info(mib: usize) -> Info {
    let mut hasher = StreamHasher::new();
    (0..mib).for_each(|n| hasher.update(&chunk(n)));
    let length = hasher.length();
    let hashed = hasher.finish();
    let geometry = Geometry::new(length, hashed.piece_len.into()).unwrap();
    Info::build("layer", geometry, &hashed.pieces).unwrap()
}

fn write(content: &Content, info: &Info) {
    for piece in info.geometry().all_pieces() {
        let range = info.geometry().piece_range(piece);
        let bytes = chunk(usize::try_from(range.start).unwrap() / MIB);
        let from = usize::try_from(range.start).unwrap() % MIB;
        let bytes = &bytes[from..from + info.geometry().piece_size(piece) as usize];
        let mut slices: Vec<_> = bytes.chunks(16 << 10).map(IoSlice::new).collect();
        content.write_at(range.start, &mut slices).unwrap();
        content.record(piece);
    }
}

fn check(dir: &Path, info: &Info) -> bool {
    Content::output(dir, info, true, |_| ())
        .unwrap()
        .have()
        .is_full()
}
