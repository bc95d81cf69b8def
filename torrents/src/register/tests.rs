use super::*;

fn registration(n: u8) -> Registration {
    Registration {
        info_hash: InfoHash([n; 20]),
        label: format!("sha256:{n:064x}"),
        length: u64::from(n),
        names: vec!["team/app:v1".to_owned()],
    }
}

fn request() -> RegisterRequest {
    RegisterRequest {
        origin: PeerId(*b"-SW0100-abcdefghijkl"),
        peers: vec![
            "10.0.0.1:15001".parse().unwrap(),
            "[2001:db8::1]:15001".parse().unwrap(),
        ],
        add: vec![Registration {
            label: "sha256:ab".to_owned(),
            ..registration(b'a')
        }],
        remove: vec![InfoHash([b'r'; 20]), InfoHash([b's'; 20])],
    }
}

#[test]
fn the_request_is_canonical() {
    let golden: &[u8] = b"d3:addl\
        d9:info_hash20:aaaaaaaaaaaaaaaaaaaa5:label9:sha256:ab6:lengthi97e\
        5:namesl11:team/app:v1eee6:origin20:-SW0100-abcdefghijkl\
        5:peersl6:\x0a\0\0\x01\x3a\x9918:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x3a\x99e\
        6:remove40:rrrrrrrrrrrrrrrrrrrrsssssssssssssssssssse";
    assert_eq!(request().encode(), golden);
    assert_eq!(RegisterRequest::decode(golden), Ok(request()));
}

#[test]
fn an_empty_request_renews() {
    let empty = RegisterRequest {
        add: vec![],
        remove: vec![],
        ..request()
    };
    assert_eq!(RegisterRequest::decode(&empty.encode()), Ok(empty.clone()));
    assert_eq!(empty.clone().into_batches(), [empty]);
}

#[test]
fn the_replies_are_canonical() {
    let reply = RegisterReply {
        boot_id: "b00t".to_owned(),
        lease: Duration::from_millis(90_500),
        held: 7,
    };
    let golden = b"d7:boot_id4:b00t4:heldi7e8:lease_msi90500ee";
    assert_eq!(reply.encode(), golden);
    assert_eq!(RegisterReply::decode(golden), Ok(reply));
    let lookup = LookupReply {
        info_hash: InfoHash([b'h'; 20]),
        length: 1 << 40,
    };
    let golden = b"d9:info_hash20:hhhhhhhhhhhhhhhhhhhh6:lengthi1099511627776ee";
    assert_eq!(lookup.encode(), golden);
    assert_eq!(LookupReply::decode(golden), Ok(lookup));
}

#[test]
fn a_refusal_is_told_apart() {
    let body = b"d14:failure reason10:no\x1bt open!e";
    let refused = RegisterError::Refused("no t open!".to_owned());
    assert_eq!(RegisterReply::decode(body), Err(refused.clone()));
    assert_eq!(LookupReply::decode(body), Err(refused));
}

#[test]
fn keys_of_later_versions_are_ignored() {
    let body = b"d7:boot_id1:b4:heldi0e8:lease_msi1e3:newd1:ali1eee4:zonei1ee";
    assert!(RegisterReply::decode(body).is_ok());
}

#[test]
fn bodies_beyond_the_limits_are_refused() {
    use RegisterError::{Malformed, Missing, TooLong, TooMany};
    let refused = |request: &RegisterRequest| RegisterRequest::decode(&request.encode());
    let many = RegisterRequest {
        add: vec![registration(1); MAX_BATCH - 1],
        ..request()
    };
    assert_eq!(refused(&many), Err(TooMany("add")));
    let many = RegisterRequest {
        add: vec![registration(1); MAX_BATCH + 1],
        remove: vec![],
        ..request()
    };
    assert_eq!(refused(&many), Err(TooMany("add")));
    let many = RegisterRequest {
        remove: vec![InfoHash([0; 20]); MAX_BATCH + 1],
        ..request()
    };
    assert_eq!(refused(&many), Err(TooMany("remove")));
    let many = RegisterRequest {
        peers: vec!["10.0.0.1:1".parse().unwrap(); MAX_PEERS + 1],
        ..request()
    };
    assert_eq!(refused(&many), Err(TooMany("peers")));
    for peer in ["0.0.0.0:1", "10.0.0.1:0"] {
        let nowhere = RegisterRequest {
            peers: vec![peer.parse().unwrap()],
            ..request()
        };
        assert_eq!(refused(&nowhere), Err(Malformed("peers")));
    }
    let mut bad = request();
    bad.add[0].label = "sha256 ab".to_owned();
    assert_eq!(refused(&bad), Err(Malformed("label")));
    let long = vec![b' '; MAX_BODY + 1];
    assert_eq!(RegisterRequest::decode(&long), Err(TooLong(long.len())));
    assert_eq!(RegisterRequest::decode(b"de"), Err(Missing("origin")));
    assert_eq!(
        RegisterRequest::decode(b"d6:origini1ee"),
        Err(Malformed("origin"))
    );
    assert_eq!(
        RegisterRequest::decode(b"d6:origin20:aaaaaaaaaaaaaaaaaaaa5:peersle6:remove1:xe"),
        Err(Malformed("remove"))
    );
    assert_eq!(
        RegisterReply::decode(b"d7:boot_id1:b4:heldi0e8:lease_msi0ee"),
        Err(Malformed("lease_ms"))
    );
}

#[test]
fn bytes_that_are_not_canonical_are_refused() {
    for body in [
        &b""[..],
        b"i1e",
        b"dede",
        b"d",
        b"d1:ae",
        b"d4:heldi00ee",
        b"d4:heldi0e7:boot_id1:be",
        b"d1:adi1eee",
        b"d3:addld5:nameslleeeee",
        b"d1:xlllleeeee",
    ] {
        let refused = RegisterRequest::decode(body).unwrap_err();
        assert!(
            matches!(
                refused,
                RegisterError::Bencode(_) | RegisterError::Malformed(_)
            ),
            "{}: {refused}",
            body.escape_ascii()
        );
    }
}

#[test]
fn only_names_that_can_travel_do() {
    let mut many = request();
    many.add[0].names = (0..20).map(|n| format!("app:{n}")).collect();
    many.add[0].names[1] = "bad\nname".to_owned();
    many.add[0].names[2] = "x".repeat(MAX_NAME + 1);
    let back = RegisterRequest::decode(&many.encode()).unwrap();
    assert_eq!(back.add[0].names.len(), MAX_NAMES);
    assert_eq!(back.add[0].names[..2], ["app:0", "app:3"]);
}

#[test]
fn a_large_request_is_cut_into_batches_that_are_accepted() {
    let mut all = request();
    let long = Registration {
        names: vec!["n".repeat(MAX_NAME); MAX_NAMES + 3],
        label: "l".repeat(MAX_LABEL),
        ..registration(9)
    };
    all.remove = vec![InfoHash([7; 20]); MAX_BATCH + 5];
    all.add = vec![registration(1); 3_000];
    all.add.extend(vec![long; 1_000]);
    let batches = all.clone().into_batches();
    let mut back = RegisterRequest {
        add: vec![],
        remove: vec![],
        ..request()
    };
    for batch in &batches {
        assert!(batch.add.len() + batch.remove.len() <= MAX_BATCH);
        let body = batch.encode();
        assert!(body.len() <= MAX_BODY);
        let read = RegisterRequest::decode(&body).unwrap();
        assert_eq!((read.origin, &read.peers), (all.origin, &all.peers));
        back.add.extend(read.add);
        back.remove.extend(read.remove);
    }
    for entry in &mut all.add {
        entry.names.truncate(MAX_NAMES);
    }
    assert_eq!(back, all);
    assert!(batches.len() <= 8, "{} batches", batches.len());
}

#[test]
fn labels_are_what_digests_are_made_of() {
    for good in ["sha256:00ff", "sha512+b64u:a-b_c=", "x"] {
        assert!(is_label(good), "{good}");
    }
    for bad in [
        "", "a b", "a/b", "a%41", "a?b", "a#b", "a\n", "é", "a\\b", "a\"b", "<a>",
    ] {
        assert!(!is_label(bad), "{bad}");
    }
    assert!(is_label(&"x".repeat(MAX_LABEL)));
    assert!(!is_label(&"x".repeat(MAX_LABEL + 1)));
}
