use super::*;

fn request() -> AnnounceRequest {
    AnnounceRequest {
        info_hash: InfoHash(*b"\x00\x01+ &=%~._-aZ09\xfe\xff/?!"),
        peer_id: PeerId(*b"-SW0100-abcdefghijkl"),
        port: 16_001,
        uploaded: 0,
        downloaded: 12,
        left: Some(3),
        event: AnnounceEvent::Started,
        numwant: Some(50),
        compact: true,
        no_peer_id: false,
        key: None,
        ip: None,
        tracker_id: None,
    }
}

const HASH: &str = "%00%01%2B%20%26%3D%25~._-aZ09%FE%FF%2F%3F%21";

fn read(query: &str) -> Result<AnnounceRequest, QueryError> {
    AnnounceRequest::from_query(query.as_bytes())
}

fn read_with(more: &str) -> AnnounceRequest {
    read(&format!(
        "info_hash={HASH}&peer_id=-SW0100-abcdefghijkl&port=1{more}"
    ))
    .unwrap()
}

#[test]
fn the_url_escapes_bytes_and_keeps_its_own_query() {
    let ours = format!(
        "info_hash={HASH}&peer_id=-SW0100-abcdefghijkl&port=16001\
         &uploaded=0&downloaded=12&left=3&compact=1&event=started&numwant=50"
    );
    for (url, opened) in [
        ("http://t:15003/announce", "http://t:15003/announce?"),
        ("http://t/announce#top", "http://t/announce?"),
        ("http://t/a?passkey=x%2B", "http://t/a?passkey=x%2B&"),
        ("http://t/a?", "http://t/a?"),
        ("http://t/a?x=1&", "http://t/a?x=1&"),
    ] {
        assert_eq!(request().to_url(url), format!("{opened}{ours}"));
    }
    assert_eq!(read(&ours), Ok(request()));
}

#[test]
fn rare_parameters_travel_too() {
    let request = AnnounceRequest {
        left: None,
        event: AnnounceEvent::Paused,
        numwant: None,
        compact: false,
        no_peer_id: true,
        key: Some(0xabc),
        ip: Some("2001:db8::1".parse().unwrap()),
        tracker_id: Some("boot id/1&é".to_owned()),
        ..request()
    };
    let url = request.to_url("http://t/announce");
    assert!(url.ends_with(
        "&downloaded=12&compact=0&no_peer_id=1&event=paused&key=0000000000000abc\
         &ip=2001%3Adb8%3A%3A1&trackerid=boot%20id%2F1%26%C3%A9"
    ));
    let back = read(url.split_once('?').unwrap().1).unwrap();
    let key = Some(key_hash(b"0000000000000abc"));
    assert_eq!(back, AnnounceRequest { key, ..request });
}

#[test]
fn twenty_bytes_are_bytes() {
    let hash = |text: &str| {
        read(&format!(
            "info_hash={text}&peer_id=-SW0100-abcdefghijkl&port=1"
        ))
        .map(|request| request.info_hash.0)
    };
    // A raw plus is a plus; hex in both cases; what needs no escape may come raw.
    assert_eq!(
        hash("++++%2b%2Baaaaaaaaaaaaaa"),
        Ok(*b"++++++aaaaaaaaaaaaaa")
    );
    assert_eq!(hash("~._-=%3Daaaaaaaaaaaaaa"), Ok(*b"~._-==aaaaaaaaaaaaaa"));
    assert_eq!(hash(&"%00".repeat(20)), Ok([0; 20]));
    assert_eq!(hash(&"%fF".repeat(20)), Ok([255; 20]));
    for broken in [
        String::new(),
        "a".repeat(19),
        "a".repeat(21),
        "a".repeat(19) + "%",
        "a".repeat(19) + "%4",
        "a".repeat(19) + "%zz",
        "a".repeat(20) + "%41",
        "a".repeat(18) + "%4%41",
        "a".repeat(19) + "%é",
    ] {
        assert_eq!(
            hash(&broken),
            Err(QueryError::NotTwentyBytes("info_hash")),
            "{broken}"
        );
    }
    // Bytes that are no UTF-8 at all.
    let raw = [
        &b"info_hash="[..],
        &[0xff; 20],
        b"&peer_id=",
        &[0x80; 20],
        b"&port=1",
    ]
    .concat();
    let request = AnnounceRequest::from_query(&raw).unwrap();
    assert_eq!(
        (request.info_hash.0, request.peer_id.0),
        ([0xff; 20], [0x80; 20])
    );
}

#[test]
fn what_is_missing_is_named() {
    let hash = format!("info_hash={HASH}");
    let id = "&peer_id=-SW0100-abcdefghijkl";
    assert_eq!(read(""), Err(QueryError::Missing("port")));
    assert_eq!(read("port=1"), Err(QueryError::Missing("info_hash")));
    assert_eq!(
        read(&format!("{hash}&port=1")),
        Err(QueryError::Missing("peer_id"))
    );
    assert_eq!(
        read(&format!("{hash}{id}")),
        Err(QueryError::Missing("port"))
    );
    assert_eq!(
        read(&format!("{hash}{id}&port")),
        Err(QueryError::Missing("port"))
    );
    for port in ["", "-1", "65536", "1x", "99999999999999999999"] {
        assert_eq!(
            read(&format!("{hash}{id}&port={port}")),
            Err(QueryError::Port)
        );
    }
    assert_eq!(read(&format!("{hash}{id}&port=0")).map(|r| r.port), Ok(0));
    assert_eq!(
        read(&format!("{hash}&{hash}{id}&port=1")),
        Err(QueryError::SeveralHashes)
    );
    assert_eq!(
        read(&format!("{hash}&peer_id=short&port=1")),
        Err(QueryError::NotTwentyBytes("peer_id"))
    );
}

#[test]
fn absent_values_have_defaults() {
    let request = read_with("");
    assert_eq!(
        (request.uploaded, request.downloaded, request.left),
        (0, 0, None)
    );
    assert_eq!(
        (request.event, request.numwant),
        (AnnounceEvent::None, None)
    );
    assert!(request.compact && !request.no_peer_id);
    assert_eq!(
        (request.key, request.ip, request.tracker_id),
        (None, None, None)
    );
}

#[test]
fn odd_numbers_are_tolerated() {
    assert_eq!(
        read_with("&left=9223372036854775807").left,
        Some(u64::MAX >> 1)
    );
    assert_eq!(read_with("&left=99999999999999999999").left, Some(u64::MAX));
    assert_eq!(read_with("&left=").left, None);
    assert_eq!(read_with("&left=-1").left, None);
    assert_eq!(read_with("&uploaded=x&downloaded=-5").uploaded, 0);
    for (text, numwant) in [
        ("0", Some(0)),
        ("007", Some(7)),
        ("-1", None),
        ("", None),
        ("99999999999", Some(u32::MAX)),
    ] {
        assert_eq!(
            read_with(&format!("&numwant={text}")).numwant,
            numwant,
            "{text}"
        );
    }
}

#[test]
fn events_of_both_beps_and_unknown_ones() {
    for (text, event) in [
        ("started", AnnounceEvent::Started),
        ("completed", AnnounceEvent::Completed),
        ("stopped", AnnounceEvent::Stopped),
        ("paused", AnnounceEvent::Paused),
        ("", AnnounceEvent::None),
        ("empty", AnnounceEvent::None),
        ("Started", AnnounceEvent::None),
    ] {
        assert_eq!(read_with(&format!("&event={text}")).event, event, "{text}");
    }
}

#[test]
fn flags_are_exact() {
    assert!(read_with("&compact=1").compact);
    assert!(!read_with("&compact=0").compact);
    assert!(read_with("&compact=").compact);
    assert!(read_with("&no_peer_id=1").no_peer_id);
    assert!(!read_with("&no_peer_id=0").no_peer_id);
}

#[test]
fn addresses_are_only_read_as_digits() {
    let ip = |text: &str| {
        read_with(&format!("&ip={text}"))
            .ip
            .map(|ip| ip.to_string())
    };
    assert_eq!(ip("10.0.0.1").as_deref(), Some("10.0.0.1"));
    assert_eq!(ip("2001:db8::1").as_deref(), Some("2001:db8::1"));
    assert_eq!(ip("2001%3adb8%3A%3a1").as_deref(), Some("2001:db8::1"));
    assert_eq!(ip("::ffff:10.0.0.1").as_deref(), Some("10.0.0.1"));
    for ignored in ["", "herd.example", "10.0.0", "%zz", "1%00", &"1".repeat(46)] {
        assert_eq!(ip(ignored), None, "{ignored}");
    }
    assert_eq!(read_with("&ipv4=10.0.0.1&ipv6=::1").ip, None);
}

#[test]
fn noise_between_parameters_is_ignored() {
    let request = read_with("&&supportcrypto=1&flag&=x&left=5=6&event=stopped&event=started&");
    assert_eq!(request.left, None);
    assert_eq!(request.event, AnnounceEvent::Stopped);
    assert_eq!(read_with("&trackerid=").tracker_id, None);
    assert_eq!(read_with("&trackerid=%ff").tracker_id, None);
    assert_eq!(
        read_with(&format!("&trackerid={}", "x".repeat(129))).tracker_id,
        None
    );
    assert_eq!(read_with("&key=%41").key, read_with("&key=A").key);
    assert_ne!(read_with("&key=a").key, read_with("&key=b").key);
}

#[test]
fn queries_as_real_clients_send_them() {
    let aria2 = read(
        "info_hash=2%1D%E9%A5%91%AA%B2%3C3%7C%60%04%81%BF%04%D4e%D7%3E%CC\
         &peer_id=A2-1-36-0-%E3%A3%E5IG%E3%E5%E9%F2%B4&uploaded=0&downloaded=0&left=70000\
         &compact=1&key=%E5IG%E3%E5%E9%F2%B4&numwant=50&no_peer_id=1&port=38990\
         &event=started&supportcrypto=1",
    )
    .unwrap();
    let transmission = read(
        "info_hash=2%1d%e9%a5%91%aa%b2%3c3%7c%60%04%81%bf%04%d4e%d7%3e%cc\
         &peer_id=-TR3000-gk2s9gf6u45t&port=38991&uploaded=0&downloaded=0&left=70000\
         &numwant=80&key=3132e009&compact=1&supportcrypto=1&event=started",
    )
    .unwrap();
    let libtorrent = read(
        "info_hash=2%1d%e9%a5%91%aa%b2%3c3%7c%60%04%81%bf%04%d4e%d7%3e%cc\
         &peer_id=-LT2110-rYuuJnq6e*((&port=38993&uploaded=0&downloaded=0&left=70000&corrupt=0\
         &key=7E459066&event=stopped&numwant=0&compact=1&no_peer_id=1&supportcrypto=1\
         &redundant=0",
    )
    .unwrap();
    let hash = "321de9a591aab23c337c600481bf04d465d73ecc".parse().unwrap();
    for request in [&aria2, &transmission, &libtorrent] {
        assert_eq!((request.info_hash, request.left), (hash, Some(70_000)));
        assert!(request.compact && request.key.is_some());
    }
    assert_eq!(
        aria2.peer_id.0,
        *b"A2-1-36-0-\xe3\xa3\xe5IG\xe3\xe5\xe9\xf2\xb4"
    );
    assert_eq!((aria2.port, aria2.numwant), (38_990, Some(50)));
    assert_eq!(
        (transmission.port, transmission.no_peer_id),
        (38_991, false)
    );
    assert_eq!(libtorrent.peer_id.0, *b"-LT2110-rYuuJnq6e*((");
    assert_eq!(
        (libtorrent.event, libtorrent.numwant),
        (AnnounceEvent::Stopped, Some(0))
    );
}
