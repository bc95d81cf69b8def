//! Whatever bytes come, every reader answers, with a value or a reason.
//!
//! The fuzz targets look deeper; these properties run with every test.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use torrents::Metainfo;
use torrents::announce::{AnnounceReply, AnnounceRequest, decode_scrape, scrape_hashes};
use torrents::extended::{ExtendedHandshake, MetadataMessage};
use torrents::handshake::{HANDSHAKE_LEN, Handshake};
use torrents::register::{LookupReply, RegisterReply, RegisterRequest};

fn read_all(bytes: &[u8]) {
    let _ = Metainfo::parse(bytes);
    let _ = ExtendedHandshake::decode(bytes);
    let _ = MetadataMessage::decode(&Bytes::copy_from_slice(bytes));
    let _ = AnnounceRequest::from_query(bytes);
    let _ = AnnounceReply::decode(bytes);
    let _ = scrape_hashes(bytes, 10);
    let _ = decode_scrape(bytes);
    let _ = RegisterRequest::decode(bytes);
    let _ = RegisterReply::decode(bytes);
    let _ = LookupReply::decode(bytes);
    let _ = Handshake::check_prefix(bytes);
    if let Some(bytes) = bytes.first_chunk::<HANDSHAKE_LEN>() {
        let _ = Handshake::decode(bytes);
    }
}

/// Pieces of which messages are made, so that random sequences get somewhere.
fn token() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"d".to_vec()),
        Just(b"l".to_vec()),
        Just(b"e".to_vec()),
        any::<i64>().prop_map(|n| format!("i{n}e").into_bytes()),
        vec(any::<u8>(), 0..40).prop_map(|s| [format!("{}:", s.len()).as_bytes(), &s].concat()),
        prop::sample::select(vec![
            "4:info",
            "5:files",
            "6:length",
            "4:name",
            "4:path",
            "6:pieces",
            "12:piece length",
            "8:url-list",
            "13:announce-list",
            "5:peers",
            "6:peers6",
            "2:ip",
            "4:port",
            "8:interval",
            "14:failure reason",
            "8:msg_type",
            "5:piece",
            "10:total_size",
            "1:m",
            "1:v",
            "6:yourip",
            "3:add",
            "6:origin",
            "6:remove",
            "5:label",
            "9:info_hash",
            "5:names",
            "&info_hash=",
            "&peer_id=",
            "&port=",
            "%",
            "99999999:",
            "9:",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ]
}

const REAL: [&[u8]; 5] = [
    include_bytes!("torrents/libtorrent-hybrid-multi.torrent"),
    include_bytes!("torrents/mktorrent-multi.torrent"),
    b"d8:completei1e8:intervali900e5:peersld2:ip8:10.0.0.17:peer id20:xxxxxxxxxxxxxxxxxxxx\
      4:porti6881eee6:peers618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\x02e",
    b"d1:md11:ut_metadatai1ee13:metadata_sizei31235e1:pi16001e4:reqqi2000e1:v2:xx6:yourip4:abcde",
    b"d3:addld9:info_hash20:aaaaaaaaaaaaaaaaaaaa5:label9:sha256:ab6:lengthi97e5:namesl1:aeee\
      6:origin20:-SW0100-abcdefghijkl5:peersl6:\x0a\0\0\x01\x3a\x99e6:remove0:e",
];

proptest! {
    #[test]
    fn noise(bytes in vec(any::<u8>(), 0..300)) {
        read_all(&bytes);
    }

    #[test]
    fn bencode_of_all_sorts(tokens in vec(token(), 0..60)) {
        read_all(&tokens.concat());
        read_all(&[b"d", &tokens.concat()[..], b"e"].concat());
    }

    #[test]
    fn real_messages_cut_and_changed(
        which in 0..REAL.len(),
        end in any::<prop::sample::Index>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = REAL[which].to_vec();
        for (at, to) in changes {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        read_all(&bytes);
        read_all(&bytes[..end.index(bytes.len())]);
    }
}

#[test]
fn nesting_that_would_overflow_a_recursive_reader() {
    for open in [&b"l"[..], b"d1:a", b"d5:filesl", b"d1:ml", b"d3:addl"] {
        read_all(&open.repeat(200_000));
    }
}
