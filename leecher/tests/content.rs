//! Content as the engine uses it: one file or many, fresh, half there, or in the way.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;
use std::io::{ErrorKind, IoSlice};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use leecher::Content;
use support::{multi, noise, numbers, single};
use torrents::Info;

const PIECE: usize = 16 << 10;

/// Writes a piece as an engine does: in slices, then recorded.
fn write_piece(content: &Content, info: &Info, bytes: &[u8], index: u32) {
    let piece = info.geometry().piece(index).unwrap();
    let start = usize::try_from(info.geometry().piece_offset(piece)).unwrap();
    let data = &bytes[start..start + info.geometry().piece_size(piece) as usize];
    let mut slices: Vec<_> = data.chunks(1000).map(IoSlice::new).collect();
    content.write_at(start as u64, &mut slices).unwrap();
    content.record(piece);
}

fn write_all(content: &Content, info: &Info, bytes: &[u8]) {
    for index in 0..info.geometry().pieces() {
        write_piece(content, info, bytes, index);
    }
}

fn output(dir: &Path, info: &Info) -> std::io::Result<Content> {
    Content::output(dir, info, true, |_| ())
}

fn read(content: &Content, offset: usize, len: usize) -> Vec<u8> {
    let mut buf = vec![0xaa; len];
    content.read_at(offset as u64, &mut buf).unwrap();
    buf
}

/// Every name below a directory.
fn names(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                open.push(path);
                found.push(name + "/");
            } else {
                found.push(name);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn complete_content_must_have_the_right_length() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(3 * PIECE + 5, 1);
    let info = single("layer", &bytes, 16 << 10);
    let path = dir.path().join("layer");
    fs::write(&path, &bytes).unwrap();
    let content = Content::complete(&path, &info).unwrap();
    assert!(content.have().is_full());
    assert_eq!(read(&content, 10, PIECE), &bytes[10..10 + PIECE]);
    assert_eq!(
        content
            .write_at(0, &mut [IoSlice::new(b"x")])
            .unwrap_err()
            .kind(),
        ErrorKind::PermissionDenied
    );
    fs::write(&path, &bytes[1..]).unwrap();
    let error = Content::complete(&path, &info).unwrap_err().to_string();
    assert!(
        error.contains("layer has 49156 bytes where the torrent has 49157"),
        "{error}"
    );
    let error = Content::complete(dir.path(), &info).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let error = Content::complete(&dir.path().join("none"), &info).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("none"), "{error}");
}

#[test]
fn a_fresh_output_is_sparse_and_leaves_nothing_but_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("new/place");
    let bytes = noise(64 * PIECE + 1, 2);
    let info = single("layer", &bytes, 16 << 10);
    let content = output(&target, &info).unwrap();
    assert!(content.have().is_empty());
    let meta = fs::metadata(target.join("layer")).unwrap();
    assert_eq!((meta.len(), meta.blocks()), (bytes.len() as u64, 0));
    write_piece(&content, &info, &bytes, 64);
    write_piece(&content, &info, &bytes, 3);
    assert_eq!(numbers(content.have().iter()), [3, 64]);
    write_all(&content, &info, &bytes);
    content.sync().unwrap();
    assert!(content.have().is_full());
    assert_eq!(fs::read(target.join("layer")).unwrap(), bytes);
    assert_eq!(names(&target), ["layer"]);
}

#[test]
fn what_is_there_is_checked_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(40 * PIECE + 100, 3);
    let info = single("layer", &bytes, 16 << 10);
    let mut half = bytes[..20 * PIECE + 7].to_vec();
    half[5 * PIECE] ^= 1;
    fs::write(dir.path().join("layer"), &half).unwrap();
    let mut progress = Vec::new();
    let content = Content::output(dir.path(), &info, true, |done| progress.push(done)).unwrap();
    let want: Vec<u32> = (0..20).filter(|&n| n != 5).collect();
    assert_eq!(numbers(content.have().iter()), want);
    assert!(progress.is_sorted());
    assert_eq!(progress.last(), Some(&(bytes.len() as u64)));
    write_piece(&content, &info, &bytes, 5);
    for index in 20..41 {
        write_piece(&content, &info, &bytes, index);
    }
    drop(content);
    let content = output(dir.path(), &info).unwrap();
    assert!(content.have().is_full());
}

#[test]
fn a_hole_is_right_where_zeros_are_due() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = noise(64 * PIECE + 9, 4);
    bytes[32 * PIECE..].fill(0);
    let info = single("image", &bytes, 16 << 10);
    let file = fs::File::create(dir.path().join("image")).unwrap();
    std::io::Write::write_all(&mut &file, &bytes[..4 * PIECE]).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    let have = output(dir.path(), &info).unwrap().have();
    let want: Vec<u32> = (0..4).chain(32..65).collect();
    assert_eq!(numbers(have.iter()), want);
}

const FILES: &[support::ForeignFile<'_>] = &[
    ("readme", 10, false),
    ("empty", 0, false),
    ("sub/deep/a", 3 * PIECE + 17, false),
    (".pad/1", 100, true),
    ("sub/b", PIECE, false),
    ("sub/none", 0, false),
    ("tail", 5, false),
];

fn foreign(seed: u64) -> (Vec<u8>, Info) {
    let len = FILES.iter().map(|file| file.1).sum();
    let mut bytes = noise(len, seed);
    let pad = 10 + 3 * PIECE + 17;
    bytes[pad..pad + 100].fill(0);
    let info = multi("album", FILES, &bytes, PIECE);
    (bytes, info)
}

#[test]
fn many_files_are_one_stretch_of_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, info) = foreign(5);
    let content = output(dir.path(), &info).unwrap();
    write_all(&content, &info, &bytes);
    content.sync().unwrap();
    assert_eq!(read(&content, 0, bytes.len()), bytes);
    assert_eq!(read(&content, 7, PIECE), &bytes[7..7 + PIECE]);
    let expected = [
        "album/",
        "album/empty",
        "album/readme",
        "album/sub/",
        "album/sub/b",
        "album/sub/deep/",
        "album/sub/deep/a",
        "album/sub/none",
        "album/tail",
    ];
    assert_eq!(names(dir.path()), expected);
    let mut offset = 0;
    for (path, len, pad) in FILES {
        if !pad {
            let file = fs::read(dir.path().join("album").join(path)).unwrap();
            assert_eq!(file, &bytes[offset..offset + len], "{path}");
        }
        offset += len;
    }
    drop(content);
    assert!(output(dir.path(), &info).unwrap().have().is_full());
    fs::remove_file(dir.path().join("album/sub/b")).unwrap();
    let content = output(dir.path(), &info).unwrap();
    assert_eq!(numbers(content.have().iter()), [0, 1, 2]);
}

#[test]
fn more_files_than_may_be_open_still_work() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..700).map(|n| format!("f{n}")).collect();
    let files: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), 100, false))
        .collect();
    let bytes = noise(70_000, 6);
    let info = multi("many", &files, &bytes, PIECE);
    let content = output(dir.path(), &info).unwrap();
    write_all(&content, &info, &bytes);
    content.sync().unwrap();
    assert_eq!(read(&content, 0, bytes.len()), bytes);
    let open = fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 600, "{open} descriptors are open");
}

#[test]
fn nothing_leaves_the_output_directory() {
    let outside = tempfile::tempdir().unwrap();
    let (_, info) = foreign(7);
    for link in ["album", "album/sub", "album/sub/deep"] {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join(link);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        symlink(outside.path(), &at).unwrap();
        let error = output(dir.path(), &info).unwrap_err();
        assert!(
            error.to_string().contains("is no directory"),
            "{link}: {error}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("album")).unwrap();
    symlink(outside.path().join("x"), dir.path().join("album/readme")).unwrap();
    let error = output(dir.path(), &info).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("album/readme is a symbolic link"),
        "{error}"
    );
    assert_eq!(names(outside.path()), [""; 0]);
}

#[test]
fn what_is_in_the_way_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (_, info) = foreign(8);
    fs::create_dir_all(dir.path().join("album/sub")).unwrap();
    let long = noise(PIECE + 1, 9);
    fs::write(dir.path().join("album/sub/b"), &long).unwrap();
    let error = output(dir.path(), &info).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(
        error
            .to_string()
            .contains("sub/b has 16385 bytes where the torrent has 16384")
    );
    assert_eq!(fs::read(dir.path().join("album/sub/b")).unwrap(), long);
    assert!(
        !dir.path().join("album/readme").exists(),
        "nothing is made before all is checked"
    );
    fs::remove_file(dir.path().join("album/sub/b")).unwrap();
    fs::create_dir(dir.path().join("album/sub/b")).unwrap();
    let error = output(dir.path(), &info).unwrap_err();
    assert!(
        error.to_string().contains("sub/b is a directory"),
        "{error}"
    );
}

#[test]
fn what_cannot_fit_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let length = 1 << 46;
    let geometry = torrents::Geometry::new(length, 1 << 28).unwrap();
    let pieces = vec![[7; 20]; geometry.pieces() as usize];
    let info = Info::build("huge", geometry, &pieces).unwrap();
    let error = output(dir.path(), &info).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(
        error.to_string().contains("64.0 TiB more are needed"),
        "{error}"
    );
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn bytes_outside_are_neither_read_nor_written() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(PIECE, 10);
    let info = single("layer", &bytes, 16 << 10);
    let content = output(dir.path(), &info).unwrap();
    let mut slices = [IoSlice::new(&bytes), IoSlice::new(b"x")];
    let error = content.write_at(0, &mut slices).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(content.read_at(1, &mut vec![0; PIECE]).is_err());
    assert!(content.read_at(u64::MAX, &mut [0; 2]).is_err());
    assert!(content.read_cached(u64::MAX, &mut [0; 2]).is_err());
    assert_eq!(
        fs::metadata(dir.path().join("layer")).unwrap().len(),
        PIECE as u64
    );
}

#[test]
fn cached_reads_never_lie() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, info) = foreign(11);
    let content = output(dir.path(), &info).unwrap();
    write_all(&content, &info, &bytes);
    for (offset, len) in [(0, bytes.len()), (3, 9), (PIECE, 2 * PIECE)] {
        let mut buf = vec![0xaa; len];
        // Where the file system cannot tell, this is 0; what it says must be right.
        let read = content.read_cached(offset as u64, &mut buf).unwrap();
        assert_eq!(buf[..read], bytes[offset..offset + read]);
    }
}

#[test]
fn thousands_of_slices_take_several_calls() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(4096 * 3, 12);
    let info = single("layer", &bytes, 16 << 10);
    let content = output(dir.path(), &info).unwrap();
    let mut slices = vec![IoSlice::new(&[])];
    slices.extend(bytes.chunks(3).map(IoSlice::new));
    content.write_at(0, &mut slices).unwrap();
    assert_eq!(read(&content, 0, bytes.len()), bytes);
}

#[test]
fn a_read_only_copy_can_be_seeded_but_not_completed() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(2 * PIECE, 13);
    let info = single("layer", &bytes, 16 << 10);
    let path = dir.path().join("layer");
    fs::write(&path, &bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    if fs::File::options().write(true).open(&path).is_ok() {
        // Root writes everywhere; what this test is about cannot happen.
        return;
    }
    assert!(output(dir.path(), &info).unwrap().have().is_full());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, vec![0; 2 * PIECE]).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    let error = output(dir.path(), &info).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}
