use super::*;

/// Ten pieces of 32 KiB but the last, which has 5 bytes.
fn geometry() -> Geometry {
    Geometry::new(9 * 32_768 + 5, 32_768).unwrap()
}

fn decode(bytes: &[u8]) -> Result<Option<Frame>, WireError> {
    let mut buffer = BytesMut::from(bytes);
    let frame = Decoder::new(geometry(), true, true).decode(&mut buffer)?;
    if frame.is_some() {
        assert_eq!(buffer.len(), 0, "the frame is consumed");
    } else {
        assert_eq!(buffer.len(), bytes.len(), "nothing is consumed");
    }
    Ok(frame)
}

fn wire(message: &Message) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode(message, &mut out);
    out.to_vec()
}

fn block(piece: u32, begin: u32, len: u32) -> Block {
    geometry().block(piece, begin, len).unwrap()
}

#[test]
fn every_message_has_the_bytes_of_the_beps() {
    let piece = geometry().piece(9).unwrap();
    let mut bitfield = Bitfield::empty(10);
    bitfield.insert(piece);
    let range = block(2, 16_384, 16_384);
    let ranged = |id: u8| [b"\0\0\0\x0d", &[id][..], b"\0\0\0\x02\0\0\x40\0\0\0\x40\0"].concat();
    let cases: [(Message, Vec<u8>); 16] = [
        (Message::KeepAlive, b"\0\0\0\0".to_vec()),
        (Message::Choke, b"\0\0\0\x01\0".to_vec()),
        (Message::Unchoke, b"\0\0\0\x01\x01".to_vec()),
        (Message::Interested, b"\0\0\0\x01\x02".to_vec()),
        (Message::NotInterested, b"\0\0\0\x01\x03".to_vec()),
        (Message::Have(piece), b"\0\0\0\x05\x04\0\0\0\x09".to_vec()),
        (
            Message::Bitfield(bitfield),
            b"\0\0\0\x03\x05\0\x40".to_vec(),
        ),
        (Message::Request(range), ranged(6)),
        (Message::Cancel(range), ranged(8)),
        (Message::Port(6881), b"\0\0\0\x03\x09\x1a\xe1".to_vec()),
        (
            Message::Suggest(piece),
            b"\0\0\0\x05\x0d\0\0\0\x09".to_vec(),
        ),
        (Message::HaveAll, b"\0\0\0\x01\x0e".to_vec()),
        (Message::HaveNone, b"\0\0\0\x01\x0f".to_vec()),
        (Message::Reject(range), ranged(16)),
        (
            Message::AllowedFast(piece),
            b"\0\0\0\x05\x11\0\0\0\x09".to_vec(),
        ),
        (
            Message::Extended {
                id: 3,
                payload: Bytes::from_static(b"de"),
            },
            b"\0\0\0\x04\x14\x03de".to_vec(),
        ),
    ];
    for (message, golden) in cases {
        assert_eq!(wire(&message), golden, "{message:?}");
        assert_eq!(decode(&golden), Ok(Some(Frame::Message(message))));
        for cut in 0..golden.len() {
            assert_eq!(decode(&golden[..cut]), Ok(None), "cut at {cut}");
        }
    }
}

#[test]
fn a_piece_is_its_header_and_the_payload_stays() {
    let last = block(9, 0, 5);
    assert_eq!(&piece_header(last), b"\0\0\0\x0e\x07\0\0\0\x09\0\0\0\0");
    let mut buffer = BytesMut::from(&piece_header(last)[..]);
    buffer.extend_from_slice(b"hello\0\0\0\0");
    let decoder = Decoder::new(geometry(), false, false);
    assert_eq!(decoder.decode(&mut buffer), Ok(Some(Frame::Piece(last))));
    assert_eq!(&buffer.split_to(5)[..], b"hello");
    let keep_alive = Ok(Some(Frame::Message(Message::KeepAlive)));
    assert_eq!(decoder.decode(&mut buffer), keep_alive);
}

#[test]
fn wrong_lengths_are_refused_as_soon_as_the_id_is_there() {
    for id in [0, 1, 2, 3, 4, 5, 6, 8, 9, 13, 14, 15, 16, 17] {
        for len in [2u32, 4, 6, 12, 14, 16_384] {
            let head = [&len.to_be_bytes()[..], &[id]].concat();
            assert_eq!(decode(&head), Err(WireError::Length { id, len }));
        }
    }
    assert_eq!(
        decode(b"\0\0\0\x01\x14"),
        Err(WireError::Length { id: 20, len: 1 })
    );
    assert_eq!(
        decode(b"\0\0\0\x09\x07"),
        Err(WireError::Length { id: 7, len: 9 })
    );
    // What fits no message at all is refused, alike with and without the id.
    let len = MAX_EXTENDED_LEN + 1;
    let head = [&len.to_be_bytes()[..], &[20]].concat();
    assert_eq!(decode(&head), Err(WireError::TooLong { len }));
    assert_eq!(decode(&head[..4]), Err(WireError::TooLong { len }));
    assert_eq!(
        decode(&u32::MAX.to_be_bytes()),
        Err(WireError::TooLong { len: u32::MAX })
    );
    assert_eq!(decode(&MAX_EXTENDED_LEN.to_be_bytes()), Ok(None));
}

#[test]
fn ranges_lie_inside_the_torrent() {
    let refused = |bytes: &[u8]| decode(bytes).unwrap_err();
    assert_eq!(
        refused(b"\0\0\0\x05\x04\0\0\0\x0a"),
        WireError::NoSuchPiece { id: 4, piece: 10 }
    );
    for (piece, begin, len) in [
        (10, 0, 1),
        (9, 0, 6),
        (9, 5, 1),
        (0, 0, 0),
        (0, 32_767, 2),
        (0, u32::MAX, 16_384),
        (u32::MAX, u32::MAX, u32::MAX),
    ] {
        for id in [6u8, 8, 16] {
            let numbers = [piece, begin, len].map(u32::to_be_bytes).concat();
            let bytes = [b"\0\0\0\x0d", &[id][..], &numbers].concat();
            let error = WireError::NoSuchBlock {
                id,
                piece,
                begin,
                len,
            };
            assert_eq!(refused(&bytes), error);
        }
    }
    assert_eq!(
        refused(b"\0\0\0\x0f\x07\0\0\0\x09\0\0\0\0"),
        WireError::NoSuchBlock {
            id: 7,
            piece: 9,
            begin: 0,
            len: 6
        }
    );
}

#[test]
fn what_is_not_negotiated_is_refused() {
    let plain = Decoder::new(geometry(), false, false);
    for id in [13u8, 14, 15, 16, 17, 20] {
        let mut buffer = BytesMut::from(&[0, 0, 0, 1, id][..]);
        assert_eq!(
            plain.decode(&mut buffer),
            Err(WireError::NotNegotiated { id })
        );
    }
    let mut fast = BytesMut::from(&b"\0\0\0\x01\x0e"[..]);
    let decoder = Decoder::new(geometry(), true, false);
    assert_eq!(
        decoder.decode(&mut fast),
        Ok(Some(Frame::Message(Message::HaveAll)))
    );
}

#[test]
fn oversized_requests_are_told_apart_and_their_cancels_are_skipped() {
    let big = block(0, 0, 16_385);
    assert_eq!(
        decode(&wire(&Message::Request(big))),
        Ok(Some(Frame::Oversized(big)))
    );
    for message in [Message::Cancel(big), Message::Reject(big)] {
        let mut bytes = wire(&message);
        bytes.extend(wire(&Message::Choke));
        assert_eq!(decode(&bytes), Ok(Some(Frame::Message(Message::Choke))));
    }
    assert_eq!(
        decode(&piece_header(big)),
        Err(WireError::BlockTooLong { len: 16_385 })
    );
    let agreed = Decoder::new(geometry(), true, true).with_max_block(32_768);
    for (bytes, frame) in [
        (
            wire(&Message::Request(big)),
            Frame::Message(Message::Request(big)),
        ),
        (piece_header(big).to_vec(), Frame::Piece(big)),
    ] {
        assert_eq!(
            agreed.decode(&mut BytesMut::from(&bytes[..])),
            Ok(Some(frame))
        );
    }
}

#[test]
fn undefined_messages_are_skipped_when_short() {
    for id in [10u8, 11, 12, 18, 19, 21, 22, 23, 255] {
        let mut bytes = vec![0, 0, 0, 3, id, b'x', b'y'];
        bytes.extend(wire(&Message::Unchoke));
        assert_eq!(decode(&bytes), Ok(Some(Frame::Message(Message::Unchoke))));
        let len = MAX_UNKNOWN_LEN + 1;
        let head = [&len.to_be_bytes()[..], &[id]].concat();
        assert_eq!(decode(&head), Err(WireError::Length { id, len }));
    }
}

#[test]
fn spare_bits_of_a_bitfield_are_ignored() {
    let frame = decode(b"\0\0\0\x03\x05\xff\xff").unwrap();
    assert_eq!(
        frame,
        Some(Frame::Message(Message::Bitfield(Bitfield::full(10))))
    );
}

#[test]
fn a_buffer_of_the_stated_bound_holds_any_frame() {
    let most = Geometry::new(u64::from(Geometry::MAX_PIECES), 1).unwrap();
    let decoder = Decoder::new(most, true, true);
    let bytes = wire(&Message::Bitfield(Bitfield::full(most.pieces())));
    assert_eq!(decoder.max_buffered(), bytes.len());
    assert!(
        decoder
            .decode(&mut BytesMut::from(&bytes[..]))
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_message_stays_small() {
    assert!(size_of::<Message>() <= 40, "{}", size_of::<Message>());
    assert!(size_of::<Frame>() <= 40, "{}", size_of::<Frame>());
}
