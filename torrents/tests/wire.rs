//! Properties of the peer wire: any message, any cut, any bytes.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use torrents::wire::{Decoder, Frame, Message, WireError, encode, piece_header};
use torrents::{BLOCK_LEN, Bitfield, Block, Geometry, PieceIndex};

const PIECES: u32 = 21;

/// Twenty pieces of 64 KiB and one of 20,001 bytes.
fn geometry() -> Geometry {
    Geometry::new(20 * 65_536 + 20_001, 65_536).expect("small numbers")
}

fn piece() -> impl Strategy<Value = PieceIndex> {
    (0..PIECES).prop_map(|n| geometry().piece(n).expect("in range"))
}

fn block() -> impl Strategy<Value = Block> {
    (piece(), any::<u32>(), 1..=BLOCK_LEN).prop_map(|(piece, begin, len)| {
        let begin = begin % geometry().piece_size(piece);
        let len = len.min(geometry().piece_size(piece) - begin);
        geometry()
            .block(piece.get(), begin, len)
            .expect("cut to fit")
    })
}

fn bitfield() -> impl Strategy<Value = Bitfield> {
    vec(piece(), 0..30).prop_map(|pieces| {
        let mut set = Bitfield::empty(PIECES);
        for piece in pieces {
            set.insert(piece);
        }
        set
    })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        Just(Message::KeepAlive),
        Just(Message::Choke),
        Just(Message::Unchoke),
        Just(Message::Interested),
        Just(Message::NotInterested),
        piece().prop_map(Message::Have),
        bitfield().prop_map(Message::Bitfield),
        block().prop_map(Message::Request),
        block().prop_map(Message::Cancel),
        any::<u16>().prop_map(Message::Port),
        piece().prop_map(Message::Suggest),
        Just(Message::HaveAll),
        Just(Message::HaveNone),
        block().prop_map(Message::Reject),
        piece().prop_map(Message::AllowedFast),
        (any::<u8>(), vec(any::<u8>(), 0..600)).prop_map(|(id, payload)| Message::Extended {
            id,
            payload: payload.into(),
        }),
    ]
}

/// A frame with its wire form, payload included.
fn frame() -> impl Strategy<Value = (Frame, Vec<u8>)> {
    prop_oneof![
        6 => message().prop_map(|message| {
            let mut out = BytesMut::new();
            encode(&message, &mut out);
            (Frame::Message(message), out.to_vec())
        }),
        2 => block().prop_map(|block| {
            let mut out = piece_header(block).to_vec();
            out.resize(out.len() + block.len as usize, 0xa5);
            (Frame::Piece(block), out)
        }),
    ]
}

/// Drives the decoder as a connection does: chunk by chunk, payload taken by the driver.
/// Returns the frames, and the error that ended it.
fn drive<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<WireError>) {
    let decoder = Decoder::new(geometry(), true, true);
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    let mut payload = 0;
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        loop {
            let taken = payload.min(buffer.len());
            let _payload = buffer.split_to(taken);
            payload -= taken;
            if payload > 0 {
                break;
            }
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => {
                    if let Frame::Piece(block) = frame {
                        payload = block.len as usize;
                    }
                    frames.push(frame);
                }
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(buffer.len() <= decoder.max_buffered() + chunk.len());
    }
    (frames, None)
}

proptest! {
    #[test]
    fn what_is_sent_is_what_is_read_however_it_is_cut(
        sent in vec(frame(), 0..12),
        cuts in vec(1usize..2_000, 0..60),
    ) {
        let (frames, wire): (Vec<_>, Vec<_>) = sent.into_iter().unzip();
        let wire = wire.concat();
        prop_assert_eq!(drive([&wire[..]]), (frames.clone(), None));
        let mut rest = &wire[..];
        let mut chunks = Vec::new();
        for cut in cuts {
            let (chunk, later) = rest.split_at(cut.min(rest.len()));
            chunks.push(chunk);
            rest = later;
        }
        chunks.push(rest);
        prop_assert_eq!(drive(chunks), (frames, None));
    }

    #[test]
    fn any_bytes_end_alike_however_they_are_cut(
        noise in vec(prop_oneof![Just(0u8), 0u8..24, any::<u8>()], 0..200),
    ) {
        prop_assert_eq!(drive(noise.chunks(1)), drive([&noise[..]]));
        prop_assert_eq!(drive(noise.chunks(7)), drive([&noise[..]]));
    }

    #[test]
    fn a_changed_byte_never_yields_what_the_torrent_does_not_have(
        sent in vec(frame(), 1..6),
        at in any::<proptest::sample::Index>(),
        to in any::<u8>(),
    ) {
        let mut wire: Vec<u8> = sent.into_iter().flat_map(|(_, wire)| wire).collect();
        let at = at.index(wire.len());
        wire[at] = to;
        for frame in drive([&wire[..]]).0 {
            let block = match frame {
                Frame::Piece(block)
                | Frame::Oversized(block)
                | Frame::Message(
                    Message::Request(block) | Message::Cancel(block) | Message::Reject(block),
                ) => block,
                Frame::Message(
                    Message::Have(piece) | Message::Suggest(piece) | Message::AllowedFast(piece),
                ) => {
                    prop_assert!(piece.get() < PIECES);
                    continue;
                }
                Frame::Message(_) => continue,
            };
            prop_assert_eq!(geometry().block(block.piece.get(), block.begin, block.len), Some(block));
        }
    }
}

#[test]
fn every_cut_of_a_conversation() {
    let mut wire = BytesMut::new();
    let block = geometry().block(20, 16_384, 100).unwrap();
    let mut frames = Vec::new();
    for message in [
        Message::Bitfield(Bitfield::full(PIECES)),
        Message::Extended {
            id: 0,
            payload: Bytes::from_static(b"d1:md11:ut_metadatai1eee"),
        },
        Message::Unchoke,
        Message::Request(block),
    ] {
        encode(&message, &mut wire);
        frames.push(Frame::Message(message));
    }
    wire.extend_from_slice(&piece_header(block));
    wire.extend_from_slice(&[7; 100]);
    frames.push(Frame::Piece(block));
    encode(&Message::KeepAlive, &mut wire);
    frames.push(Frame::Message(Message::KeepAlive));
    for first in 0..=wire.len() {
        let (a, b) = wire.split_at(first);
        assert_eq!(drive([a, b]), (frames.clone(), None), "cut at {first}");
    }
    assert_eq!(drive(wire.chunks(1)), (frames, None));
}
