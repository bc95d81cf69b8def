//! A `.torrent` from a stranger: what is accepted is safe to write to a disk and reads back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use torrents::metainfo::is_safe_component;
use torrents::{InfoHash, Metainfo};

fuzz_target!(|bytes: &[u8]| {
    let Ok(metainfo) = Metainfo::parse(bytes) else {
        return;
    };
    let info = &metainfo.info;
    let geometry = info.geometry();
    assert_eq!(info.hash(), InfoHash::of(info.raw()));
    assert_eq!(info.pieces().len(), geometry.pieces() as usize);
    let mut end = 0;
    for file in info.files() {
        assert_eq!(file.offset, end, "no gap");
        assert!(file.path.iter().all(|part| is_safe_component(part)));
        end += file.length;
    }
    assert_eq!(end, geometry.length());
    assert_eq!(Metainfo::parse(&metainfo.encode()), Ok(metainfo));
});
