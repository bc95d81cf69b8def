use super::*;

/// `info` of two pieces and whatever else is given; values as bencode.
fn info(keys: &[(&str, &str)]) -> Result<Info, MetainfoError> {
    let mut raw = String::from("d");
    for (key, value) in keys {
        raw += &format!("{}:{key}{value}", key.len());
    }
    raw += "e";
    Info::parse(Bytes::from(raw))
}

const HASHES: &str = "40:aaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbb";

const SINGLE: [(&str, &str); 4] = [
    ("length", "i32769e"),
    ("name", "4:file"),
    ("piece length", "i32768e"),
    ("pieces", HASHES),
];

fn single_with(key: &'static str, value: &'static str) -> Result<Info, MetainfoError> {
    let mut keys = SINGLE.to_vec();
    keys.retain(|(name, _)| *name != key);
    keys.push((key, value));
    info(&keys)
}

fn multi(files: &str) -> Result<Info, MetainfoError> {
    info(&[
        ("files", files),
        ("name", "3:dir"),
        ("piece length", "i32768e"),
        ("pieces", HASHES),
    ])
}

#[test]
fn our_info_has_five_keys_and_a_known_hash() {
    let geometry = Geometry::new(32_769, 32_768).unwrap();
    let hashes = [[b'a'; 20], [b'b'; 20]];
    let info = Info::build("file", geometry, &hashes).unwrap();
    let golden = b"d6:lengthi32769e4:name4:file12:piece lengthi32768e\
        6:pieces40:aaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbb7:privatei1ee";
    assert_eq!(&info.raw()[..], golden);
    assert_eq!(
        info.hash().to_string(),
        "2872285c18041bd1b69cd121b4ace4e7d11159ef"
    );
    assert_eq!(info.pieces(), hashes);
    assert_eq!(info.piece_hash(geometry.piece(1).unwrap()), &hashes[1]);
    assert!(info.private());
    assert_eq!(Info::parse(info.raw().clone()), Ok(info));
}

#[test]
fn what_cannot_be_built_is_refused() {
    let geometry = Geometry::new(32_769, 32_768).unwrap();
    assert_eq!(
        Info::build("file", geometry, &[[0; 20]]),
        Err(MetainfoError::PieceHashes { got: 20, want: 40 })
    );
    assert_eq!(
        Info::build("a/b", geometry, &[[0; 20]; 2]),
        Err(MetainfoError::UnsafeName("a/b".to_owned()))
    );
}

#[test]
fn a_composed_torrent_is_canonical_and_reads_back() {
    let info = info(&SINGLE).unwrap();
    let raw = std::str::from_utf8(info.raw()).unwrap().to_owned();
    let bare = Metainfo::compose(info.clone(), vec![], vec![]);
    assert_eq!(bare.encode(), format!("d4:info{raw}e").as_bytes());
    let one = Metainfo::compose(
        info.clone(),
        vec![vec!["http://t/announce".to_owned()]],
        vec!["http://w/b".to_owned()],
    );
    let golden = format!("d8:announce17:http://t/announce4:info{raw}8:url-list10:http://w/be");
    assert_eq!(one.encode(), golden.as_bytes());
    let all = Metainfo {
        comment: Some("for you".to_owned()),
        created_by: Some("swell".to_owned()),
        creation_date: Some(1_700_000_000),
        trackers: vec![
            vec![
                "http://a/announce".to_owned(),
                "http://b/announce".to_owned(),
            ],
            vec!["http://c/announce".to_owned()],
        ],
        url_list: vec!["http://w/b".to_owned(), "http://x/b".to_owned()],
        info,
    };
    let golden = format!(
        "d8:announce17:http://a/announce13:announce-listl\
         l17:http://a/announce17:http://b/announceel17:http://c/announceee\
         7:comment7:for you10:created by5:swell13:creation datei1700000000e\
         4:info{raw}8:url-listl10:http://w/b10:http://x/bee"
    );
    assert_eq!(all.encode(), golden.as_bytes());
    for metainfo in [bare, one, all] {
        assert_eq!(Metainfo::parse(&metainfo.encode()), Ok(metainfo));
    }
}

#[test]
fn the_hash_is_of_the_bytes_as_they_came() {
    // Unsorted, with an unknown key and a number no canonical encoder writes.
    let raw =
        format!("d6:pieces{HASHES}6:sourcei007e12:piece lengthi32768e4:name1:f6:lengthi32769ee");
    let file = format!("d8:url-list0:4:info{raw}8:announce10:http://t/ae");
    let metainfo = Metainfo::parse(file.as_bytes()).unwrap();
    assert_eq!(metainfo.info.raw(), raw.as_bytes());
    assert_eq!(metainfo.info.hash(), InfoHash::of(raw.as_bytes()));
    assert_eq!(metainfo.trackers, [["http://t/a"]]);
    assert!(metainfo.url_list.is_empty());
    assert!(!metainfo.info.private());
}

#[test]
fn what_is_around_the_info_never_spoils_it() {
    let raw = std::str::from_utf8(info(&SINGLE).unwrap().raw())
        .unwrap()
        .to_owned();
    let parse =
        |around: &str| Metainfo::parse(format!("d{around}4:info{raw}e").as_bytes()).unwrap();
    let flat = parse("13:announce-listl3:a:1l3:b:2i4e0:elee8:announce3:d:4");
    assert_eq!(flat.trackers, [["a:1"], ["b:2"]]);
    let empty = parse("13:announce-listllelee8:announce3:d:4");
    assert_eq!(empty.trackers, [["d:4"]]);
    let odd = parse(
        "8:announcei1e7:commentle10:created by4:a\x1bb\n13:creation date3:now8:url-listd1:ai1ee",
    );
    assert!(odd.trackers.is_empty() && odd.url_list.is_empty());
    assert_eq!(odd.created_by.as_deref(), Some("a b "));
    assert_eq!((odd.comment, odd.creation_date), (None, None));
    let list = parse("8:url-listl3:w:10:3:x\ny3:w:2e");
    assert_eq!(list.url_list, ["w:1", "w:2"]);
    let many = format!("13:announce-listl{}e", "l3:a:1e".repeat(1_000));
    assert_eq!(parse(&many).trackers.len(), MAX_URLS);
}

#[test]
fn files_cover_the_torrent_in_order() {
    let info = multi(
        "ld6:lengthi1e4:pathl1:a1:beed6:lengthi0e4:pathl5:emptyeed4:attr1:l6:lengthi0e\
         4:pathl4:linke12:symlink pathl1:aeed4:attr1:p6:lengthi32767e4:pathl4:.pad5:32767ee\
         d4:attr2:xh6:lengthi1e4:pathl1:?e10:path.utf-8l2:\u{e9}eee",
    )
    .unwrap();
    let spans: Vec<_> = info
        .files()
        .iter()
        .map(|span| (span.path.join("/"), span.offset, span.length, span.pad))
        .collect();
    assert_eq!(
        spans,
        [
            ("dir/a/b".to_owned(), 0, 1, false),
            ("dir/empty".to_owned(), 1, 0, false),
            ("dir/.pad/32767".to_owned(), 1, 32_767, true),
            ("dir/\u{e9}".to_owned(), 32_768, 1, false),
        ]
    );
    assert_eq!(info.geometry().pieces(), 2);
}

#[test]
fn names_that_could_escape_are_refused() {
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "/etc",
        "a\\b",
        "nul\0",
        "esc\x1b[m",
        "c1\u{85}",
    ] {
        let unsafe_name = Err(MetainfoError::UnsafeName(bad.to_owned()));
        let value = format!("{}:{bad}", bad.len());
        let mut keys = SINGLE.to_vec();
        keys[1] = ("name", &value);
        assert_eq!(info(&keys), unsafe_name, "{bad:?}");
        let file = format!("ld6:lengthi32769e4:pathl1:a{value}eee");
        assert_eq!(multi(&file), unsafe_name, "{bad:?}");
    }
    assert!(is_safe_component(&"x".repeat(255)));
    assert!(!is_safe_component(&"x".repeat(256)));
    assert!(is_safe_component(".hidden ..name"));
    let deep = format!("ld6:lengthi32769e4:pathl{}eee", "1:d".repeat(101));
    assert_eq!(multi(&deep), Err(MetainfoError::Malformed("path")));
    assert_eq!(
        multi("ld6:lengthi32769e4:pathleee"),
        Err(MetainfoError::Malformed("path"))
    );
}

fn golden_file() -> Vec<u8> {
    Metainfo::compose(info(&SINGLE).unwrap(), vec![], vec![]).encode()
}

#[test]
fn names_in_other_encodings_stay_apart() {
    let file = |name: &[u8]| {
        let mut file = format!("d6:lengthi1e4:pathl{}:", name.len()).into_bytes();
        file.extend_from_slice(name);
        file.extend_from_slice(b"ee");
        file
    };
    let files = [file(b"\xd6\xd0.txt"), file(b"\xce\xc4.txt")].concat();
    let mut info = b"d5:filesl".to_vec();
    info.extend_from_slice(&files);
    info.extend_from_slice(b"e4:name1:d12:piece lengthi16384e6:pieces20:");
    info.extend_from_slice(&[7; 20]);
    info.push(b'e');
    let info = Info::parse(info.into()).unwrap();
    let names: Vec<_> = info
        .files()
        .iter()
        .map(|file| file.path.join("/"))
        .collect();
    assert_eq!(names, ["d/%D6%D0.txt", "d/%CE%C4.txt"]);
}

#[test]
fn what_follows_the_end_of_a_file_is_no_part_of_it() {
    let mut file = golden_file();
    let plain = Metainfo::parse(&file).unwrap();
    file.extend_from_slice(b"\r\n");
    assert_eq!(Metainfo::parse(&file).unwrap(), plain);
}

#[test]
fn a_lone_announce_that_can_be_asked_comes_after_a_list_that_cannot() {
    let trackers = |list: &str, announce: &str| {
        let head = format!(
            "d8:announce{}:{announce}13:announce-list{list}",
            announce.len()
        );
        let mut file = head.into_bytes();
        file.extend_from_slice(&golden_file()[1..]);
        Metainfo::parse(&file).unwrap().trackers
    };
    let http = "http://a/announce";
    let udp = "ll11:udp://b:1/aee";
    assert_eq!(trackers(udp, http), [["udp://b:1/a"], [http]]);
    assert_eq!(trackers("ll10:http://b/aee", http), [["http://b/a"]]);
    assert_eq!(trackers("le", http), [[http]]);
}

#[test]
fn a_space_in_a_url_is_escaped() {
    let mut file = golden_file();
    file.pop();
    file.extend_from_slice(b"8:url-list14:http://h/a b ce");
    assert_eq!(
        Metainfo::parse(&file).unwrap().url_list,
        ["http://h/a%20b%20c"]
    );
}

#[test]
fn files_that_collide_are_refused() {
    let two = |a: &str, b: &str| {
        multi(&format!(
            "ld6:lengthi1e4:pathl{a}eed6:lengthi32768e4:pathl{b}eee"
        ))
    };
    assert!(two("1:a", "1:b").is_ok());
    assert!(two("1:a1:b", "1:a2:bc").is_ok());
    assert_eq!(
        two("1:a", "1:a"),
        Err(MetainfoError::Collision("dir/a".to_owned()))
    );
    assert_eq!(
        two("1:a1:b", "1:a"),
        Err(MetainfoError::Collision("dir/a".to_owned()))
    );
    let pads =
        "ld4:attr1:p6:lengthi1e4:pathl4:.pad1:1eed4:attr1:p6:lengthi32768e4:pathl4:.pad1:1eee";
    assert!(multi(pads).is_ok());
}

#[test]
fn v2_alone_is_refused_and_hybrids_are_read_as_v1() {
    let tree = "d4:filed0:d6:lengthi32769e11:pieces root32:rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrreee";
    let v2 = [
        ("file tree", tree),
        ("meta version", "i2e"),
        ("name", "4:file"),
        ("piece length", "i32768e"),
    ];
    assert_eq!(info(&v2), Err(MetainfoError::V2Only));
    let hybrid: Vec<_> = v2.into_iter().chain([SINGLE[0], SINGLE[3]]).collect();
    assert_eq!(info(&hybrid).unwrap().geometry().length(), 32_769);
}

#[test]
fn lengths_and_hashes_must_add_up() {
    use MetainfoError::{
        Geometry, LengthAndFiles, LengthOverflow, Malformed, Missing, PieceHashes,
    };
    assert_eq!(single_with("length", "i-1e"), Err(Malformed("length")));
    assert_eq!(single_with("length", "1:5"), Err(Malformed("length")));
    assert_eq!(
        single_with("length", "i0e"),
        Err(Geometry(GeometryError::Empty))
    );
    assert_eq!(
        single_with("length", "i18446744073709551615e"),
        Err(Geometry(GeometryError::TooManyPieces(1 << 49)))
    );
    assert_eq!(
        single_with("length", "i32768e"),
        Err(PieceHashes { got: 40, want: 20 })
    );
    assert_eq!(
        single_with("pieces", "1:a"),
        Err(PieceHashes { got: 1, want: 40 })
    );
    assert_eq!(single_with("pieces", "i1e"), Err(Malformed("pieces")));
    assert_eq!(
        single_with("piece length", "i0e"),
        Err(Geometry(GeometryError::PieceLength(0)))
    );
    assert_eq!(single_with("files", "le"), Err(LengthAndFiles));
    assert_eq!(
        multi("ld6:lengthi18446744073709551615e4:pathl1:aeed6:lengthi1e4:pathl1:beee"),
        Err(LengthOverflow)
    );
    assert_eq!(multi("le"), Err(Geometry(GeometryError::Empty)));
    assert_eq!(multi("ld6:lengthi1eee"), Err(Missing("path")));
    assert_eq!(multi("ld4:pathl1:aeee"), Err(Missing("length")));
    assert_eq!(multi("li1ee"), Err(Malformed("files")));
    for missing in 0..SINGLE.len() {
        let mut keys = SINGLE.to_vec();
        let (key, _) = keys.remove(missing);
        assert_eq!(info(&keys), Err(Missing(key)));
    }
}

#[test]
fn a_key_comes_only_once() {
    let twice: Vec<_> = SINGLE.into_iter().chain([("name", "5:other")]).collect();
    assert_eq!(info(&twice), Err(MetainfoError::Twice("name")));
    let raw = std::str::from_utf8(info(&SINGLE).unwrap().raw())
        .unwrap()
        .to_owned();
    let file = format!("d4:info{raw}4:info{raw}e");
    assert_eq!(
        Metainfo::parse(file.as_bytes()),
        Err(MetainfoError::Twice("info"))
    );
}

#[test]
fn other_bytes_are_refused() {
    use BencodeError::{Depth, Truncated};
    let parse = |bytes: &[u8]| Metainfo::parse(bytes).unwrap_err();
    assert_eq!(parse(b""), Truncated.into());
    assert_eq!(parse(b"le"), MetainfoError::NotDictionary);
    assert_eq!(parse(b"de"), MetainfoError::Missing("info"));
    assert_eq!(parse(b"d4:infoi1ee"), MetainfoError::Malformed("info"));
    assert_eq!(parse(&b"l".repeat(1_000_000)), Depth.into());
    let huge = vec![b'd'; MAX_METAINFO + 1];
    assert_eq!(parse(&huge), MetainfoError::TooLarge(MAX_METAINFO + 1));
    let files = format!(
        "l{}e",
        (0..=MAX_FILES)
            .map(|n| format!("d6:lengthi1e4:pathl6:{n:06}ee"))
            .collect::<String>()
    );
    assert_eq!(multi(&files), Err(MetainfoError::TooManyFiles));
}
