use super::*;

fn peer(addr: &str) -> ReplyPeer {
    ReplyPeer {
        addr: addr.parse().unwrap(),
        id: None,
    }
}

fn encoded(reply: &AnnounceReply, compact: bool, no_peer_id: bool) -> Vec<u8> {
    let mut out = Vec::new();
    reply.encode(compact, no_peer_id, &mut out);
    out
}

fn decode(body: &[u8]) -> AnnounceReply {
    match AnnounceReply::decode(body) {
        Ok(TrackerAnswer::Ok(reply)) => reply,
        other => panic!("{other:?}"),
    }
}

fn full() -> AnnounceReply {
    AnnounceReply {
        interval: 900,
        min_interval: Some(5),
        tracker_id: Some("b00t".to_owned()),
        complete: Some(1),
        incomplete: Some(2),
        downloaded: Some(3),
        external_ip: Some(Ipv4Addr::new(10, 0, 0, 9).into()),
        warning: Some("be kind".to_owned()),
        peers: vec![peer("10.0.0.1:6881"), peer("[2001:db8::1]:258")],
        hosts: Vec::new(),
    }
}

#[test]
fn peers_in_compact_form_already_make_the_same_body() {
    let peer = |text: &str| ReplyPeer {
        addr: text.parse().unwrap(),
        id: None,
    };
    for (peers, v4, v6) in [
        (vec![], vec![], vec![]),
        (
            vec![peer("10.0.0.1:258")],
            vec![[10, 0, 0, 1, 1, 2]],
            vec![],
        ),
        (
            vec![peer("[::1]:3"), peer("10.0.0.1:258")],
            vec![[10, 0, 0, 1, 1, 2]],
            vec![[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 3]],
        ),
    ] {
        let reply = AnnounceReply {
            peers,
            complete: Some(1),
            ..AnnounceReply::default()
        };
        let (mut whole, mut joined) = (Vec::new(), Vec::new());
        reply.encode(true, false, &mut whole);
        reply.encode_compact(&v4, &v6, &mut joined);
        assert_eq!(whole, joined);
    }
}

#[test]
fn the_compact_reply_is_canonical() {
    let golden: &[u8] = b"d8:completei1e10:downloadedi3e11:external ip4:\x0a\0\0\x09\
        10:incompletei2e8:intervali900e12:min intervali5e\
        5:peers6:\x0a\0\0\x01\x1a\xe1\
        6:peers618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\x02\
        10:tracker id4:b00t15:warning message7:be kinde";
    assert_eq!(encoded(&full(), true, false), golden);
    assert_eq!(decode(golden), full());
}

#[test]
fn peers_is_there_even_when_empty_and_peers6_only_when_needed() {
    let empty = AnnounceReply {
        interval: 60,
        ..AnnounceReply::default()
    };
    assert_eq!(encoded(&empty, true, true), b"d8:intervali60e5:peers0:e");
    assert_eq!(encoded(&empty, false, true), b"d8:intervali60e5:peerslee");
    assert_eq!(decode(b"d8:intervali60e5:peers0:e"), empty);
}

#[test]
fn dictionaries_carry_ids_unless_unwanted() {
    let reply = AnnounceReply {
        interval: 60,
        peers: vec![
            ReplyPeer {
                id: Some(PeerId([b'x'; 20])),
                ..peer("10.0.0.1:6881")
            },
            peer("[2001:db8::1]:258"),
        ],
        ..AnnounceReply::default()
    };
    let golden: &[u8] = b"d8:intervali60e5:peersl\
        d2:ip8:10.0.0.17:peer id20:xxxxxxxxxxxxxxxxxxxx4:porti6881ee\
        d2:ip11:2001:db8::14:porti258eeee";
    assert_eq!(encoded(&reply, false, false), golden);
    assert_eq!(decode(golden), reply);
    let without: &[u8] = b"d8:intervali60e5:peersl\
        d2:ip8:10.0.0.14:porti6881eed2:ip11:2001:db8::14:porti258eeee";
    assert_eq!(encoded(&reply, false, true), without);
}

#[test]
fn peers_that_are_named_by_host_are_kept_apart_and_bounded() {
    let named = |host: &str| {
        let body = format!("d5:peersld2:ip{}:{host}4:porti6881eeee", host.len());
        decode(body.as_bytes()).hosts
    };
    assert_eq!(
        named("seed-1.example.org"),
        [("seed-1.example.org".to_owned(), 6881)]
    );
    for none in ["", "a b", "a/b", "user@host", &"x".repeat(254)] {
        assert_eq!(named(none), [], "{none}");
    }
    let many = "d2:ip1:a4:porti1ee".repeat(100);
    assert_eq!(
        decode(format!("d5:peersl{many}ee").as_bytes()).hosts.len(),
        16
    );
}

#[test]
fn what_cannot_be_dialled_is_not_handed_out() {
    let reply = AnnounceReply {
        interval: 60,
        peers: [
            "10.0.0.1:0",
            "0.0.0.0:1",
            "[::ffff:10.0.0.2]:3",
            "[fe80::1]:9",
            "[::]:4",
        ]
        .map(peer)
        .to_vec(),
        ..AnnounceReply::default()
    };
    let golden = b"d8:intervali60e5:peers6:\x0a\0\0\x02\0\x03e";
    assert_eq!(encoded(&reply, true, false), golden);
    let golden = b"d8:intervali60e5:peersld2:ip8:10.0.0.24:porti3eeee";
    assert_eq!(encoded(&reply, false, false), golden);
}

#[test]
fn replies_are_read_leniently() {
    // Unsorted, unknown keys, a tail that is no peer, bad ports, IPv4 in IPv6, a line break.
    let body = b"d6:peers618:\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x07\0\x50\
        5:peers15:\x0a\0\0\x01\0\x50\x0a\0\0\x02\0\0\x0a\0\0\
        8:intervali-1e3:newd1:ali1eee8:complete3:two10:incompletei99999999999ee\r\n";
    let reply = decode(body);
    assert_eq!(reply.peers, [peer("10.0.0.7:80"), peer("10.0.0.1:80")]);
    assert_eq!(reply.interval, DEFAULT_INTERVAL);
    assert_eq!((reply.complete, reply.incomplete), (None, Some(u32::MAX)));
    let mixed = decode(
        b"d5:peersld2:ip4:host4:porti1eed4:porti2e2:ip3:::17:peer id2:xxe\
          d2:ip7:1.2.3.44:porti70000eed2:ip7:1.2.3.44:port1:1ei7e0:e\
          8:intervali5e11:external ip8:10.0.0.910:tracker id0:e",
    );
    assert_eq!(mixed.peers, [peer("[::1]:2")]);
    assert_eq!(mixed.external_ip, Some(Ipv4Addr::new(10, 0, 0, 9).into()));
    assert_eq!(mixed.tracker_id, None);
}

#[test]
fn failures_are_told_apart() {
    let mut out = Vec::new();
    encode_failure("unknown torrent", Some(5), &mut out);
    assert_eq!(out, b"d14:failure reason15:unknown torrent8:retry ini5ee");
    let failure = |body: &[u8]| match AnnounceReply::decode(body) {
        Ok(TrackerAnswer::Failure { reason, retry_in }) => (reason, retry_in),
        other => panic!("{other:?}"),
    };
    assert_eq!(failure(&out), ("unknown torrent".to_owned(), Some(Some(5))));
    let never = b"d8:retry in5:never14:failure reason4:a\x1b[me";
    assert_eq!(failure(never), ("a [m".to_owned(), Some(None)));
    let text = b"d14:failure reason1:x8:retry in2:10e";
    assert_eq!(failure(text), ("x".to_owned(), Some(Some(10))));
    let odd = b"d14:failure reasoni1e8:retry in4:soone";
    assert_eq!(failure(odd), ("no reason given".to_owned(), None));
    out.clear();
    encode_failure("no", None, &mut out);
    assert_eq!(out, b"d14:failure reason2:noe");
}

#[test]
fn what_is_no_reply_is_refused() {
    use crate::bencode::BencodeError::{Depth, Unexpected};
    let refused = |body: &[u8]| AnnounceReply::decode(body).unwrap_err();
    assert_eq!(refused(b"<html>"), Unexpected { at: 0 }.into());
    assert_eq!(refused(b"le"), ReplyError::NotDictionary);
    assert_eq!(refused(&b"l".repeat(9)), Depth.into());
    let long = vec![b'd'; MAX_REPLY + 1];
    assert_eq!(refused(&long), ReplyError::TooLong(long.len()));
}

#[test]
fn the_number_of_peers_is_bounded() {
    let peers = b"\x0a\0\0\x01\0\x50".repeat(4_000);
    let mut body = b"d8:intervali1e5:peers24000:".to_vec();
    body.extend_from_slice(&peers);
    body.extend_from_slice(b"6:peers618:\x20\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x01\x02e");
    assert_eq!(decode(&body).peers.len(), MAX_REPLY_PEERS);
}
