//! What one core does of each codec: `cargo bench -p torrents`, or of some:
//! `cargo bench -p torrents -- uploads`.
//!
//! Each line is the best of several runs, since whatever disturbs a run only slows it. Hashing
//! and the wire are stated in MB/s of payload, messages in nanoseconds each.

#![allow(clippy::print_stdout, reason = "a benchmark prints its numbers")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use torrents::announce::{AnnounceReply, AnnounceRequest, ReplyPeer};
use torrents::hashing::{StreamHasher, piece_hash, piece_hashes};
use torrents::wire::{Decoder, Frame, Message, encode, piece_header};
use torrents::{BLOCK_LEN, Geometry, Info, Metainfo};

const MIB: usize = 1 << 20;

fn main() {
    // `cargo test --all-targets` starts this too; only `cargo bench` means it.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let groups: [(&str, fn()); 5] = [
        ("pieces", pieces),
        ("uploads", uploads),
        ("wire", wire),
        ("tracker", tracker),
        ("metainfo", metainfo),
    ];
    let named = |name: &str| std::env::args().any(|arg| arg == name);
    let all = !groups.iter().any(|(name, _)| named(name));
    for (name, group) in groups {
        if all || named(name) {
            group();
        }
    }
}

/// The shortest of several runs.
fn best(mut run: impl FnMut()) -> Duration {
    let once = || {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    std::iter::repeat_with(once)
        .take(60)
        .min()
        .unwrap_or_default()
}

fn rate(name: &str, bytes: usize, run: impl FnMut()) {
    let seconds = best(run).as_secs_f64();
    let kilobytes = u32::try_from(bytes / 1_000).map_or(f64::MAX, f64::from);
    println!("{name:<52} {:>8.0} MB/s", kilobytes / 1e3 / seconds);
}

fn each(name: &str, mut run: impl FnMut()) {
    const TIMES: u32 = 10_000;
    let time = best(|| (0..TIMES).for_each(|_| run()));
    println!(
        "{name:<52} {:>8.1} ns",
        time.as_secs_f64() * 1e9 / f64::from(TIMES)
    );
}

/// Eight pieces of 1 MiB that differ.
fn data() -> Vec<Bytes> {
    (0..8usize)
        .map(|n| {
            (0..MIB)
                .map(|i| ((i * (n + 31)) >> 7).to_le_bytes()[0])
                .collect()
        })
        .collect()
}

fn pieces() {
    let data = data();
    let all = 8 * MIB;
    rate("sha1 crate", all, || {
        for piece in &data {
            black_box(Sha1::digest(piece));
        }
    });
    rate("sha2 crate, SHA-256", all, || {
        for piece in &data {
            black_box(Sha256::digest(piece));
        }
    });
    rate("piece_hash", all, || {
        for piece in &data {
            black_box(piece_hash(&[piece]));
        }
    });
    let whole: Vec<&[Bytes]> = data.iter().map(std::slice::from_ref).collect();
    for at_once in [1, 2, 3, 4, 8] {
        rate(
            &format!("piece_hashes, {at_once} at once"),
            8 / at_once * at_once * MIB,
            || {
                for pieces in whole.chunks_exact(at_once) {
                    black_box(piece_hashes(pieces));
                }
            },
        );
    }
    let blocks: Vec<Vec<Bytes>> = data
        .iter()
        .map(|piece| {
            (0..64)
                .map(|n| piece.slice(n * 16_384..(n + 1) * 16_384))
                .collect()
        })
        .collect();
    let blocks: Vec<&[Bytes]> = blocks.iter().map(Vec::as_slice).collect();
    rate("piece_hashes, 8 at once in 16 KiB segments", all, || {
        black_box(piece_hashes(&blocks));
    });
}

/// Two MiB a run: on a busy machine a longer one is never left alone.
fn uploads() {
    let data = data();
    let upload = |pieces: usize| {
        let pieces = data.iter().cycle().take(pieces);
        pieces.flat_map(|piece| piece.chunks(65_536))
    };
    let all = 2 * MIB;
    rate("upload: plain SHA-1 and SHA-256", all, || {
        let (mut sha1, mut sha256) = (Sha1::new(), Sha256::new());
        for chunk in upload(2) {
            sha1.update(chunk);
            sha256.update(chunk);
        }
        black_box((sha1.finalize(), sha256.finalize()));
    });
    let mut beyond = StreamHasher::new();
    upload(129).for_each(|chunk| beyond.update(chunk));
    for (name, hasher) in [
        ("up to 128 MiB", StreamHasher::new()),
        ("beyond 128 MiB", beyond),
    ] {
        rate(&format!("upload: StreamHasher, {name}"), all, || {
            let mut hasher = hasher.clone();
            upload(2).for_each(|chunk| hasher.update(chunk));
            black_box(hasher.finish());
        });
        rate(
            &format!("upload: StreamHasher and SHA-256, {name}"),
            all,
            || {
                let (mut hasher, mut sha256) = (hasher.clone(), Sha256::new());
                for chunk in upload(2) {
                    hasher.update(chunk);
                    sha256.update(chunk);
                }
                black_box((hasher.finish(), sha256.finalize()));
            },
        );
    }
}

fn wire() {
    let geometry = Geometry::new(1 << 30, 1 << 20).expect("a plain torrent");
    let decoder = Decoder::new(geometry, true, true);
    let piece = geometry.piece(7).expect("there are 1,024");
    let blocks: Vec<_> = geometry.blocks(piece, BLOCK_LEN).collect();
    let mut requests = BytesMut::new();
    for &block in &blocks {
        encode(&Message::Request(block), &mut requests);
    }
    let mut buffer = BytesMut::with_capacity(4_096);
    let pass = best(|| {
        for _ in 0..1_000 {
            buffer.clear();
            buffer.extend_from_slice(&requests);
            while let Ok(Some(frame)) = decoder.decode(&mut buffer) {
                black_box(frame);
            }
        }
    });
    println!(
        "{:<52} {:>8.1} ns",
        "wire: a request decoded",
        pass.as_secs_f64() * 1e9 / 64_000.0
    );
    let mut out = BytesMut::with_capacity(4_096);
    let pass = best(|| {
        for _ in 0..1_000 {
            out.clear();
            for &block in &blocks {
                encode(&Message::Request(block), &mut out);
            }
            black_box(&out);
        }
    });
    println!(
        "{:<52} {:>8.1} ns",
        "wire: a request encoded",
        pass.as_secs_f64() * 1e9 / 64_000.0
    );
    let mut header = BytesMut::with_capacity(64);
    each("wire: a piece's header encoded and decoded", || {
        header.clear();
        header.extend_from_slice(&piece_header(black_box(blocks[3])));
        let frame = decoder.decode(&mut header);
        debug_assert!(matches!(frame, Ok(Some(Frame::Piece(_)))));
        let _ = black_box(frame);
    });
}

fn tracker() {
    let query =
        b"info_hash=%00%01%2B%20%26%3D%25~._-aZ09%FE%FF%2F%3F%21&peer_id=-TR4000-abcdefghijkl\
        &port=51413&uploaded=0&downloaded=1048576&left=9437184&numwant=80&key=4A5B6C7D&compact=1\
        &supportcrypto=1&event=started";
    each("announce: a query read", || {
        let _ = black_box(AnnounceRequest::from_query(black_box(query)));
    });
    let reply = AnnounceReply {
        interval: 120,
        complete: Some(3),
        incomplete: Some(2_000),
        tracker_id: Some("0123456789abcdef".to_owned()),
        peers: (0..50u8)
            .map(|n| ReplyPeer {
                addr: ([10, 0, 1, n], 16_001).into(),
                id: None,
            })
            .collect(),
        ..AnnounceReply::default()
    };
    let mut body = Vec::with_capacity(1_024);
    each("announce: a compact reply of 50 peers written", || {
        body.clear();
        black_box(&reply).encode(true, true, &mut body);
        black_box(&body);
    });
    each("announce: the same read", || {
        let _ = black_box(AnnounceReply::decode(black_box(&body)));
    });
}

fn metainfo() {
    let geometry = Geometry::new(1 << 30, 1 << 20).expect("a plain torrent");
    let info = Info::build("blob", geometry, &vec![[7; 20]; 1_024]).expect("well formed");
    let tier = vec!["http://herd:15003/announce".to_owned()];
    let metainfo = Metainfo::compose(info, vec![tier], vec![]);
    each("metainfo: of 1 GiB composed", || {
        black_box(black_box(&metainfo).encode());
    });
    let file = metainfo.encode();
    each("metainfo: of 1 GiB parsed and hashed", || {
        let _ = black_box(Metainfo::parse(black_box(&file)));
    });
}
