//! Torrents and bytes for the tests of this room.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use bytes::Bytes;
use sha1::{Digest, Sha1};
use torrents::{Geometry, Info, PieceIndex};

/// Bytes that differ everywhere and are the same on every run.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The SHA-1 of each piece.
pub(crate) fn pieces(bytes: &[u8], piece_len: usize) -> Vec<[u8; 20]> {
    bytes
        .chunks(piece_len)
        .map(|piece| Sha1::digest(piece).into())
        .collect()
}

/// Our own form: one file.
pub(crate) fn single(name: &str, bytes: &[u8], piece_len: u32) -> Info {
    let geometry = Geometry::new(bytes.len() as u64, piece_len.into()).unwrap();
    Info::build(name, geometry, &pieces(bytes, piece_len as usize)).unwrap()
}

/// A file of a foreign torrent: its path, its length, whether it is a pad file.
pub(crate) type ForeignFile<'a> = (&'a str, usize, bool);

/// A foreign torrent of several files over `bytes`.
pub(crate) fn multi(name: &str, files: &[ForeignFile<'_>], bytes: &[u8], piece_len: usize) -> Info {
    let total: usize = files.iter().map(|file| file.1).sum();
    assert_eq!(total, bytes.len(), "the files are the bytes");
    let mut raw = b"d5:filesl".to_vec();
    for (path, length, pad) in files {
        raw.extend_from_slice(b"d");
        if *pad {
            raw.extend_from_slice(b"4:attr1:p");
        }
        raw.extend_from_slice(format!("6:lengthi{length}e4:pathl").as_bytes());
        for part in path.split('/') {
            raw.extend_from_slice(format!("{}:{part}", part.len()).as_bytes());
        }
        raw.extend_from_slice(b"ee");
    }
    let hashes = pieces(bytes, piece_len).concat();
    raw.extend_from_slice(format!("e4:name{}:{name}", name.len()).as_bytes());
    raw.extend_from_slice(format!("12:piece lengthi{piece_len}e").as_bytes());
    raw.extend_from_slice(format!("6:pieces{}:", hashes.len()).as_bytes());
    raw.extend_from_slice(&hashes);
    raw.extend_from_slice(b"e");
    Info::parse(Bytes::from(raw)).unwrap()
}

/// The numbers of pieces.
pub(crate) fn numbers(pieces: impl Iterator<Item = PieceIndex>) -> Vec<u32> {
    pieces.map(PieceIndex::get).collect()
}
