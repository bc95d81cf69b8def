//! A peer's stream: cut at every byte it yields what it yields whole, and what it names lies
//! inside the torrent. The first byte says what was negotiated.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use torrents::Geometry;
use torrents::wire::{Decoder, Frame, Message, WireError, encode};

fuzz_target!(|bytes: &[u8]| {
    let Some((&flags, stream)) = bytes.split_first() else {
        return;
    };
    let geometry = Geometry::new(20 * 65_536 + 20_001, 65_536).expect("small numbers");
    let decoder = Decoder::new(geometry, flags & 1 != 0, flags & 2 != 0);
    let whole = drive(&decoder, stream, stream.len().max(1));
    assert_eq!(drive(&decoder, stream, 1), whole);
    assert_eq!(drive(&decoder, stream, 13), whole);
    for frame in &whole.0 {
        match frame {
            Frame::Piece(block) | Frame::Oversized(block) => {
                let (piece, begin, len) = (block.piece.get(), block.begin, block.len);
                assert_eq!(geometry.block(piece, begin, len), Some(*block));
            }
            Frame::Message(message) => reads_back(&decoder, message),
        }
    }
});

/// The frames, what ended them, and what was left.
fn drive(
    decoder: &Decoder,
    stream: &[u8],
    chunk: usize,
) -> (Vec<Frame>, Option<WireError>, BytesMut) {
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    let mut payload = 0;
    for chunk in stream.chunks(chunk) {
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
                // What is left depends on the cut, and is of no more use.
                Err(error) => return (frames, Some(error), BytesMut::new()),
            }
        }
        assert!(buffer.len() < decoder.max_buffered() + chunk.len());
    }
    (frames, None, buffer)
}

fn reads_back(decoder: &Decoder, message: &Message) {
    let mut wire = BytesMut::new();
    encode(message, &mut wire);
    let again = decoder.decode(&mut wire);
    assert_eq!(again, Ok(Some(Frame::Message(message.clone()))));
    assert!(wire.is_empty());
}
