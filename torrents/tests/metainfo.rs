//! Torrents made by other tools from the same small files, and what we make of them.
//!
//! `single.bin` is 70,000 times `q`; `tree` holds `docs/a.bin` (40,000 times `a`), `empty`,
//! `größe/naïve ☃.txt` (20,000 times `z`) and `readme`. Hashes are as `transmission-show` and
//! libtorrent print them.

use proptest::prelude::*;
use torrents::hashing::piece_hash;
use torrents::metainfo::{MetainfoError, PieceHash, is_safe_component};
use torrents::{Geometry, Info, Metainfo};

macro_rules! torrent {
    ($name:literal) => {
        Metainfo::parse(include_bytes!(concat!("torrents/", $name, ".torrent")))
    };
}

const SINGLE: &str = "2095e2972af079addef67d6ed801eb31ab774f11";

fn hashes(content: &[u8]) -> Vec<PieceHash> {
    content
        .chunks(32_768)
        .map(|piece| piece_hash(&[piece]))
        .collect()
}

/// Path, offset, length and whether it is padding, of each file.
fn files(metainfo: &Metainfo) -> Vec<(String, u64, u64, bool)> {
    metainfo
        .info
        .files()
        .iter()
        .map(|file| (file.path.join("/"), file.offset, file.length, file.pad))
        .collect()
}

fn expect(files: &[(&str, u64, u64, bool)]) -> Vec<(String, u64, u64, bool)> {
    files
        .iter()
        .map(|&(path, offset, length, pad)| (path.to_owned(), offset, length, pad))
        .collect()
}

#[test]
fn single_files_of_every_tool() {
    let pieces = hashes(&[b'q'; 70_000]);
    for (metainfo, hash, trackers, url_list) in [
        (torrent!("transmission-single"), SINGLE, 2, 0),
        (torrent!("libtorrent-v1-single"), SINGLE, 2, 0),
        (
            torrent!("libtorrent-hybrid-single"),
            "8939c076e3a79db49ce1b89c5e5059ac911e63dd",
            2,
            1,
        ),
        (
            torrent!("mktorrent-single"),
            "4a1d29faa8405acd930535a3b2f15dcbf3742951",
            3,
            2,
        ),
    ] {
        let metainfo = metainfo.unwrap();
        let info = &metainfo.info;
        assert_eq!(info.hash().to_string(), hash);
        assert_eq!(info.name(), "single.bin");
        assert_eq!(info.geometry(), &Geometry::new(70_000, 32_768).unwrap());
        assert!(info.private());
        assert_eq!(info.pieces(), pieces);
        assert_eq!(
            files(&metainfo),
            expect(&[("single.bin", 0, 70_000, false)])
        );
        assert_eq!(metainfo.trackers.iter().flatten().count(), trackers);
        assert_eq!(metainfo.trackers[0][0], "http://t1/announce");
        assert_eq!(metainfo.url_list.len(), url_list);
        assert!(metainfo.creation_date.is_some() && metainfo.created_by.is_some());
    }
}

#[test]
fn we_make_the_same_info_as_transmission_and_libtorrent() {
    let geometry = Geometry::new(70_000, 32_768).unwrap();
    let info = Info::build("single.bin", geometry, &hashes(&[b'q'; 70_000])).unwrap();
    assert_eq!(info.hash().to_string(), SINGLE);
    assert_eq!(info, torrent!("transmission-single").unwrap().info);
    assert_eq!(info, torrent!("libtorrent-v1-single").unwrap().info);
}

#[test]
fn tiers_are_kept_apart() {
    let of = |metainfo: Result<Metainfo, _>| metainfo.unwrap().trackers;
    let (t1, t2, t3) = (
        "http://t1/announce",
        "http://t2/announce",
        "http://t3/announce",
    );
    assert_eq!(of(torrent!("mktorrent-single")), [vec![t1, t2], vec![t3]]);
    assert_eq!(of(torrent!("transmission-single")), [[t1], [t2]]);
    assert_eq!(of(torrent!("mktorrent-multi")), [[t1]]);
}

#[test]
fn trees_of_every_tool() {
    let text = "tree/größe/naïve ☃.txt";
    let transmission = torrent!("transmission-multi").unwrap();
    assert_eq!(
        transmission.info.hash().to_string(),
        "9619d14545d7eedf24322e0f301592c357eaa982"
    );
    assert!(!transmission.info.private());
    assert_eq!(
        files(&transmission),
        expect(&[
            ("tree/docs/a.bin", 0, 40_000, false),
            (text, 40_000, 20_000, false),
            ("tree/readme", 60_000, 13, false),
        ])
    );
    let mktorrent = torrent!("mktorrent-multi").unwrap();
    assert_eq!(
        mktorrent.info.hash().to_string(),
        "7f4d0670db0dd884a44b8acd227293c02be0e5ba"
    );
    assert_eq!(mktorrent.url_list, ["http://w/1"]);
    assert_eq!(
        files(&mktorrent),
        expect(&[
            ("tree/docs/a.bin", 0, 40_000, false),
            ("tree/empty", 40_000, 0, false),
            (text, 40_000, 20_000, false),
            ("tree/readme", 60_000, 13, false),
        ])
    );
    let libtorrent = torrent!("libtorrent-v1-multi").unwrap();
    assert_eq!(
        libtorrent.info.hash().to_string(),
        "1332699135ba1a3a816830a9add17a58d381fc7a"
    );
    assert_eq!(files(&libtorrent)[1], (text.to_owned(), 0, 20_000, false));
}

#[test]
fn hybrids_are_read_as_v1_with_their_pad_files() {
    let hybrid = torrent!("libtorrent-hybrid-multi").unwrap();
    assert_eq!(
        hybrid.info.hash().to_string(),
        "64196b117b77acd5d5d37199d43e4709d9738b93"
    );
    assert_eq!(
        files(&hybrid),
        expect(&[
            ("tree/docs/a.bin", 0, 40_000, false),
            ("tree/.pad/25536", 40_000, 25_536, true),
            ("tree/empty", 65_536, 0, false),
            ("tree/größe/naïve ☃.txt", 65_536, 20_000, false),
            ("tree/.pad/12768", 85_536, 12_768, true),
            ("tree/readme", 98_304, 13, false),
            ("tree/.pad/32755", 98_317, 32_755, true),
        ])
    );
    assert_eq!(hybrid.url_list, ["http://w/1", "http://w/2"]);
}

#[test]
fn v2_alone_is_refused_with_its_name() {
    let refused = torrent!("libtorrent-v2-only").unwrap_err();
    assert_eq!(refused, MetainfoError::V2Only);
    assert!(refused.to_string().contains("v2-only"));
}

proptest! {
    #[test]
    fn what_we_build_reads_back(
        name in "[a-zA-Z0-9äß☃ ._:+-]{1,60}",
        pieces in proptest::collection::vec(any::<[u8; 20]>(), 1..20),
        piece_len in 1u32..1 << 22,
        short in any::<u32>(),
    ) {
        prop_assume!(is_safe_component(&name));
        let whole = pieces.len() as u64 * u64::from(piece_len);
        let geometry = Geometry::new(whole - u64::from(short % piece_len), piece_len.into()).unwrap();
        let info = Info::build(&name, geometry, &pieces).unwrap();
        prop_assert_eq!(info.geometry(), &geometry);
        prop_assert_eq!(info.pieces(), &pieces[..]);
        prop_assert_eq!(info.name(), &name);
        let tier = vec!["http://herd:15003/announce".to_owned()];
        let metainfo = Metainfo::compose(info, vec![tier], vec![]);
        prop_assert_eq!(Metainfo::parse(&metainfo.encode()), Ok(metainfo));
    }

    #[test]
    fn a_changed_byte_is_refused_or_changes_the_hash(at in 0usize..355, flip in 1u8..) {
        let bytes = include_bytes!("torrents/transmission-single.torrent");
        let mut changed = bytes.to_vec();
        changed[at] ^= flip;
        let (before, after) = (Metainfo::parse(bytes), Metainfo::parse(&changed));
        if let (Ok(before), Ok(after)) = (before, after) {
            let same = before.info.raw() == after.info.raw();
            prop_assert_eq!(same, before.info.hash() == after.info.hash());
        }
    }
}
