//! Our SHA-1, in all its cuts and lanes, against the `sha1` crate.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use sha1::{Digest, Sha1};
use torrents::hashing::{HashedPieces, StreamHasher, piece_hash, piece_hashes, piece_len_for};

fn plain(bytes: &[u8]) -> [u8; 20] {
    Sha1::digest(bytes).into()
}

/// Bytes without a period that blocks, segments or pieces could share.
fn noise(len: usize, seed: usize) -> Vec<u8> {
    let mut state = (seed as u64) << 1 | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(len)
    .collect()
}

/// Cuts at the given places, each taken modulo what is left.
fn cut(bytes: &[u8], cuts: &[usize]) -> Vec<Bytes> {
    let mut rest = Bytes::copy_from_slice(bytes);
    let mut segments = Vec::new();
    for cut in cuts {
        segments.push(rest.split_to(cut % (rest.len() + 1)));
    }
    segments.push(rest);
    segments
}

fn check(messages: &[Vec<Bytes>]) {
    let views: Vec<&[Bytes]> = messages.iter().map(Vec::as_slice).collect();
    let expected: Vec<_> = messages.iter().map(|m| plain(&m.concat())).collect();
    assert_eq!(piece_hashes(&views), expected);
    for (message, expected) in messages.iter().zip(expected) {
        assert_eq!(piece_hash(message), expected);
    }
}

#[test]
fn every_length_around_block_boundaries_in_every_number_of_lanes() {
    for len in 0..=200 {
        for lanes in 1..=9 {
            // Uneven: each message a little longer than the one before.
            let messages: Vec<_> = (0..lanes)
                .map(|lane| vec![Bytes::from(noise(len + lane, lane))])
                .collect();
            check(&messages);
        }
    }
}

#[test]
fn every_cut_of_a_short_message() {
    let bytes = noise(200, 7);
    for first in 0..=200 {
        let messages: Vec<_> = [1, 63, 64, 65]
            .into_iter()
            .map(|second| cut(&bytes, &[first, second]))
            .collect();
        check(&messages);
    }
}

#[test]
fn no_message_and_no_segment() {
    assert!(piece_hashes(&[]).is_empty());
    assert_eq!(piece_hashes(&[&[]]), [plain(b"")]);
    check(&[
        vec![],
        vec![Bytes::new(); 3],
        vec![Bytes::from_static(b"x")],
        vec![],
    ]);
}

#[test]
fn whole_pieces_in_blocks_as_they_come_off_the_wire() {
    let messages: Vec<_> = [1 << 20, (1 << 20) - 5, 256 << 10, 16_384, 16_385]
        .into_iter()
        .map(|len| cut(&noise(len, len), &vec![16_384; len / 16_384]))
        .collect();
    check(&messages);
}

proptest! {
    #[test]
    fn any_messages_in_any_segments(
        messages in vec((0usize..2_000, 0usize..1_000, vec(0usize..300, 0..8)), 0..11),
    ) {
        let messages: Vec<_> = messages
            .iter()
            .map(|(len, seed, cuts)| cut(&noise(*len, *seed), cuts))
            .collect();
        check(&messages);
    }

    #[test]
    fn a_stream_may_come_in_any_pieces(
        len in prop_oneof![0usize..500, 262_000usize..262_300, 1_048_400usize..1_400_000],
        chunks in vec(prop_oneof![0usize..200, 1usize..100_000], 1..50),
    ) {
        let bytes = noise(len, 3);
        let mut hasher = StreamHasher::new();
        let mut rest = &bytes[..];
        for chunk in chunks {
            let (now, later) = rest.split_at(chunk.min(rest.len()));
            hasher.update(now);
            rest = later;
        }
        hasher.update(rest);
        prop_assert_eq!(hasher.length(), len as u64);
        prop_assert_eq!(hasher.finish(), pieces_of(&bytes, 256 << 10));
    }
}

fn pieces_of(bytes: &[u8], piece_len: u32) -> HashedPieces {
    HashedPieces {
        piece_len,
        missing: 0,
        pieces: bytes.chunks(piece_len as usize).map(plain).collect(),
        rehash: false,
    }
}

#[test]
fn an_empty_stream_has_no_pieces() {
    assert_eq!(StreamHasher::new().finish(), pieces_of(b"", 256 << 10));
}

/// The length decides only at the end, on either side of the border of 128 MiB.
#[test]
fn the_final_length_chooses_the_piece_length() {
    let border = 128 << 20;
    let bytes = noise(border + 70_000, 11);
    for len in [border - 1, border, border + 1, border + 70_000] {
        let mut hasher = StreamHasher::new();
        for chunk in bytes[..len].chunks(3 << 20) {
            hasher.update(chunk);
        }
        let piece_len = piece_len_for(len as u64);
        assert_eq!(piece_len, if len <= border { 256 << 10 } else { 1 << 20 });
        let mut wanted = pieces_of(&bytes[..len], piece_len);
        if len > border {
            wanted.missing = 128;
            wanted.pieces.drain(..128);
        }
        assert_eq!(hasher.finish(), wanted, "{len}");
    }
}
