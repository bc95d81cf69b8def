//! The local store through crashes, disputes and strangers in its directory.
//!
//! A killed process is a store that is dropped without `sync`: what it wrote is in the page
//! cache, what it only knew is gone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;
use std::io::{IoSlice, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use leecher::store::StoreError;
use leecher::{Content, LocalStore};
use support::{noise, numbers, single};
use tempfile::TempDir;
use torrents::Info;

const PIECE: usize = 16 << 10;

struct Fixture {
    dir: TempDir,
    bytes: Vec<u8>,
    info: Info,
}

impl Fixture {
    /// Ten pieces, the last one short.
    fn new() -> Self {
        let bytes = noise(9 * PIECE + 77, 1);
        let info = single("layer", &bytes, 16 << 10);
        let dir = tempfile::tempdir().unwrap();
        Self { dir, bytes, info }
    }

    fn open(&self) -> LocalStore {
        LocalStore::open(self.dir.path()).unwrap()
    }

    fn path(&self, sub: &str) -> PathBuf {
        self.dir.path().join(sub)
    }

    fn write(&self, content: &Content, pieces: impl IntoIterator<Item = u32>) {
        for index in pieces {
            let piece = self.info.geometry().piece(index).unwrap();
            let start = index as usize * PIECE;
            let end = (start + PIECE).min(self.bytes.len());
            let mut slices = [IoSlice::new(&self.bytes[start..end])];
            content.write_at(start as u64, &mut slices).unwrap();
            content.record(piece);
        }
    }

    fn stored(&self) -> LocalStore {
        let store = self.open();
        let content = store.begin("a", &self.info).unwrap();
        self.write(&content, 0..10);
        store.commit("a").unwrap();
        store
    }

    fn have(&self) -> Vec<u32> {
        let store = self.open();
        numbers(store.begin("a", &self.info).unwrap().have().iter())
    }
}

/// Every file, relative, without the lock.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for sub in ["info", "partial", "record", "complete", "tmp"] {
        for entry in fs::read_dir(dir.join(sub)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            found.push(format!("{sub}/{name}"));
        }
    }
    found.sort();
    found
}

#[test]
fn a_download_becomes_complete_and_is_found_again() {
    let f = Fixture::new();
    let store = f.open();
    let content = store.begin("a", &f.info).unwrap();
    assert!(content.have().is_empty());
    f.write(&content, 0..9);
    assert_eq!(store.partial(), ["a"]);
    let error = store.commit("a").unwrap_err().to_string();
    assert_eq!(error, "a cannot be complete: 1 pieces are not verified");
    f.write(&content, 9..10);
    let stored = store.commit("a").unwrap();
    assert_eq!(fs::read(&stored.path).unwrap(), f.bytes);
    assert_eq!(store.commit("a").unwrap(), stored, "again is no error");
    assert!(store.partial().is_empty());
    // Whoever had it open goes on reading, and nobody writes any more.
    let mut buf = vec![0; f.bytes.len()];
    content.read_at(0, &mut buf).unwrap();
    assert_eq!(buf, f.bytes);
    assert!(content.write_at(0, &mut [IoSlice::new(b"x")]).is_err());
    content.sync().unwrap();
    assert_eq!(files(f.dir.path()), ["complete/a", "info/a"]);
    drop((content, store));

    let store = f.open();
    assert_eq!(store.complete(), std::slice::from_ref(&stored));
    assert_eq!(store.get("a"), Some(stored.clone()));
    assert_eq!(store.by_info_hash(f.info.hash()), Some(stored));
    assert_eq!(store.info("a").unwrap(), Some(f.info.clone()));
    assert_eq!(store.used(), f.bytes.len() as u64);
    assert!(store.begin("a", &f.info).unwrap().have().is_full());
    store.remove("a").unwrap();
    assert_eq!(files(f.dir.path()), [""; 0]);
    assert_eq!((store.used(), store.get("a")), (0, None));
}

#[test]
fn a_killed_process_loses_no_verified_piece() {
    let f = Fixture::new();
    let store = f.open();
    let content = store.begin("a", &f.info).unwrap();
    f.write(&content, [0, 3, 4, 9]);
    // Written, never verified: half of it only.
    let mut half = [IoSlice::new(&f.bytes[6 * PIECE..6 * PIECE + PIECE / 2])];
    content.write_at(6 * PIECE as u64, &mut half).unwrap();
    drop((content, store));
    assert_eq!(f.open().partial(), ["a"]);
    assert_eq!(f.have(), [0, 3, 4, 9]);
}

#[test]
fn a_clean_end_spares_the_hashing_until_the_next_write() {
    let f = Fixture::new();
    let store = f.open();
    let content = store.begin("a", &f.info).unwrap();
    f.write(&content, [1, 2]);
    store.sync().unwrap();
    assert!(f.path("record/a").exists());
    drop((content, store));

    // The proof that nothing is hashed: a wrong byte goes unseen while the times agree.
    let path = f.path("partial/a");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"!", PIECE as u64).unwrap();
    file.set_modified(modified).unwrap();
    assert_eq!(f.have(), [1, 2]);
    // And once they do not, it is seen.
    file.set_modified(modified + Duration::from_secs(1))
        .unwrap();
    assert_eq!(f.have(), [2]);

    let store = f.open();
    let content = store.begin("a", &f.info).unwrap();
    f.write(&content, [1]);
    content.sync().unwrap();
    f.write(&content, [5]);
    assert!(
        !f.path("record/a").exists(),
        "the first write takes the record away"
    );
    drop((content, store));
    assert_eq!(f.have(), [1, 2, 5]);
}

#[test]
fn a_broken_record_is_worth_nothing() {
    for damage in ["torn", "empty", "flipped", "long"] {
        let f = Fixture::new();
        let store = f.open();
        let content = store.begin("a", &f.info).unwrap();
        f.write(&content, [1, 2]);
        content.sync().unwrap();
        drop((content, store));
        let path = f.path("record/a");
        let mut record = fs::read(&path).unwrap();
        match damage {
            "torn" => record.truncate(record.len() / 2),
            "empty" => record.clear(),
            "long" => record.push(0),
            _ => record[55] ^= 0xff,
        }
        fs::write(&path, record).unwrap();
        assert_eq!(f.have(), [1, 2], "{damage}");
    }
}

#[test]
fn a_truncated_part_keeps_what_is_left() {
    let f = Fixture::new();
    let store = f.open();
    let content = store.begin("a", &f.info).unwrap();
    f.write(&content, 0..10);
    store.sync().unwrap();
    drop((content, store));
    let file = fs::File::options()
        .write(true)
        .open(f.path("partial/a"))
        .unwrap();
    file.set_len(4 * PIECE as u64 + 5).unwrap();
    assert_eq!(f.have(), [0, 1, 2, 3]);
    file.set_len(1 << 30).unwrap();
    assert_eq!(f.have(), [0, 1, 2, 3]);
    assert_eq!(file.metadata().unwrap().len(), f.bytes.len() as u64);
}

#[test]
fn a_crash_at_any_step_leaves_something_sound() {
    // Info without data: begun, never created; or removed half.
    let f = Fixture::new();
    drop(f.stored());
    fs::remove_file(f.path("complete/a")).unwrap();
    fs::write(f.path("tmp/1-2"), b"half").unwrap();
    fs::write(f.path("record/b"), b"of nothing").unwrap();
    let store = f.open();
    assert!(store.complete().is_empty() && store.partial().is_empty());
    assert_eq!(files(f.dir.path()), [""; 0]);
    drop(store);

    // Renamed, and the record not yet removed.
    drop(f.stored());
    fs::write(f.path("record/a"), b"stale").unwrap();
    let store = f.open();
    assert_eq!(store.complete().len(), 1);
    assert_eq!(files(f.dir.path()), ["complete/a", "info/a"]);
}

#[test]
fn a_commit_that_failed_after_the_rename_may_be_repeated() {
    let f = Fixture::new();
    let store = f.open();
    let content = store.begin("a", &f.info).unwrap();
    f.write(&content, 0..10);
    fs::rename(f.path("partial/a"), f.path("complete/a")).unwrap();
    assert_eq!(store.commit("a").unwrap().length, f.bytes.len() as u64);
    assert_eq!(store.commit("a").unwrap().length, f.bytes.len() as u64);
    drop((content, store));
    assert_eq!(f.open().complete().len(), 1);
    assert_eq!(files(f.dir.path()), ["complete/a", "info/a"]);
}

#[test]
fn content_whose_info_is_damaged_is_taken_over_not_lost() {
    for damage in ["head", "raw", "gone", "torn"] {
        let f = Fixture::new();
        drop(f.stored());
        let path = f.path("info/a");
        let mut bytes = fs::read(&path).unwrap();
        match damage {
            "head" => bytes[10] ^= 1,
            "raw" => *bytes.last_mut().unwrap() ^= 1,
            "torn" => bytes.truncate(100),
            _ => {}
        }
        match damage {
            "gone" => fs::remove_file(&path).unwrap(),
            _ => fs::write(&path, &bytes).unwrap(),
        }
        let store = f.open();
        if damage == "raw" {
            // Too dear to look at on every start; found when it is read.
            assert!(matches!(store.info("a"), Err(StoreError::Damaged { .. })));
        } else {
            assert!(store.complete().is_empty(), "{damage}");
            assert_eq!(store.get("a"), None);
        }
        let content = store.begin("a", &f.info).unwrap();
        assert!(content.have().is_full(), "{damage}");
        let stored = store.commit("a").unwrap();
        assert_eq!(fs::read(stored.path).unwrap(), f.bytes);
        assert_eq!(store.info("a").unwrap(), Some(f.info.clone()));
    }
}

#[test]
fn a_download_whose_info_a_power_cut_took_goes_on() {
    let f = Fixture::new();
    let store = f.open();
    let content = store.begin("a", &f.info).unwrap();
    f.write(&content, [2, 7]);
    drop((content, store));
    fs::write(f.path("info/a"), b"").unwrap();
    let store = f.open();
    assert!(store.partial().is_empty(), "nobody knows what it is");
    let content = store.begin("a", &f.info).unwrap();
    assert_eq!(numbers(content.have().iter()), [2, 7]);
    assert_eq!(store.partial(), ["a"]);
}

#[test]
fn content_of_the_wrong_length_is_resumed() {
    let f = Fixture::new();
    drop(f.stored());
    let file = fs::File::options()
        .write(true)
        .open(f.path("complete/a"))
        .unwrap();
    file.set_len(2 * PIECE as u64).unwrap();
    let store = f.open();
    assert!(store.complete().is_empty());
    assert_eq!(
        numbers(store.begin("a", &f.info).unwrap().have().iter()),
        [0, 1]
    );
    drop(store);

    // The same while the store is open.
    let f = Fixture::new();
    let store = f.stored();
    fs::remove_file(f.path("complete/a")).unwrap();
    assert!(store.begin("a", &f.info).unwrap().have().is_empty());
    assert!(store.complete().is_empty());
}

#[test]
fn strangers_in_the_directory_are_left_alone() {
    let f = Fixture::new();
    drop(f.stored());
    fs::write(f.path("complete/what ever"), b"x").unwrap();
    fs::write(f.path("complete/notes.txt"), b"x").unwrap();
    fs::write(f.path("info/notes.txt"), b"not an info").unwrap();
    fs::create_dir(f.path("complete/dir")).unwrap();
    symlink("/etc/passwd", f.path("complete/link")).unwrap();
    symlink("/etc/passwd", f.path("partial/link")).unwrap();
    fs::write(f.path("readme"), b"x").unwrap();
    let store = f.open();
    assert_eq!(store.complete().len(), 1);
    assert!(store.partial().is_empty());
    assert!(
        store.begin("link", &f.info).is_err(),
        "a link is never followed"
    );
    assert!(store.begin("dir", &f.info).is_err());
    for kept in [
        "complete/what ever",
        "complete/notes.txt",
        "complete/dir",
        "readme",
    ] {
        assert!(f.path(kept).exists(), "{kept}");
    }
    assert!(fs::metadata("/etc/passwd").unwrap().len() != f.bytes.len() as u64);
}

#[test]
fn one_process_has_the_directory() {
    let f = Fixture::new();
    let store = f.open();
    let error = LocalStore::open(f.dir.path()).unwrap_err();
    assert!(
        matches!(error, StoreError::Locked { pid: Some(pid), .. } if pid == std::process::id())
    );
    assert!(
        error
            .to_string()
            .contains("is in use by another process (pid "),
        "{error}"
    );
    drop(store);
    f.open();
}

#[test]
fn a_name_is_one_plain_component() {
    let f = Fixture::new();
    let store = f.open();
    let long = "x".repeat(201);
    for name in [
        "", ".", "..", "a/b", "../x", ".hidden", "a\0b", "a b", "ä", &long,
    ] {
        let error = store.begin(name, &f.info).unwrap_err();
        assert!(
            matches!(error, StoreError::Name { .. }),
            "{name:?}: {error}"
        );
        assert!(store.put(name, b"", None).is_err());
        assert!(store.remove(name).is_err());
        assert_eq!(store.get(name), None);
    }
    store.put(&"x".repeat(200), b"fits", None).unwrap();
    store.put("sha256:0123abc", b"fits", None).unwrap();
}

#[test]
fn small_content_is_put_in_one_step() {
    let f = Fixture::new();
    let store = f.open();
    store.put("empty", b"", None).unwrap();
    store.put("a", &f.bytes, Some(&f.info)).unwrap();
    store.put("a", &f.bytes, Some(&f.info)).unwrap();
    assert_eq!(store.used(), f.bytes.len() as u64);
    let error = store.put("b", b"short", Some(&f.info)).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }));
    drop(store);
    let store = f.open();
    assert_eq!(store.complete().len(), 2);
    assert_eq!(
        store.get("empty").map(|s| (s.length, s.info_hash)),
        Some((0, None))
    );
    assert_eq!(store.info("empty").unwrap(), None);
    assert_eq!(store.info("none").unwrap(), None);
    assert_eq!(store.info("a").unwrap(), Some(f.info.clone()));
}

#[test]
fn putting_what_is_being_downloaded_ends_the_download() {
    let f = Fixture::new();
    let store = f.open();
    let content = store.begin("a", &f.info).unwrap();
    f.write(&content, [0]);
    store.put("a", &f.bytes, Some(&f.info)).unwrap();
    // The old owner does no harm any more.
    f.write(&content, [1]);
    content.sync().unwrap();
    assert_eq!(files(f.dir.path()), ["complete/a", "info/a"]);
    assert_eq!(fs::read(store.get("a").unwrap().path).unwrap(), f.bytes);
}

#[test]
fn whoever_begins_the_same_shares_it_and_others_are_refused() {
    let f = Fixture::new();
    let store = f.open();
    let one = store.begin("a", &f.info).unwrap();
    let two = store.begin("a", &f.info).unwrap();
    assert!(Arc::ptr_eq(&one, &two));
    let other = single("layer", &f.bytes, 32 << 10);
    assert!(matches!(
        store.begin("a", &other),
        Err(StoreError::Conflict { .. })
    ));
    f.write(&one, 0..10);
    drop((one, two));
    // Nobody has it open: another info may try, and only the bytes decide.
    let content = store.begin("a", &other).unwrap();
    assert!(content.have().is_full());
    store.commit("a").unwrap();
    assert!(store.begin("a", &f.info).unwrap().have().is_full());
    assert_eq!(store.by_info_hash(other.hash()), None);
    assert!(store.by_info_hash(f.info.hash()).is_some());
    let wrong = single("layer", &noise(f.bytes.len(), 99), 16 << 10);
    assert!(matches!(
        store.begin("a", &wrong),
        Err(StoreError::Conflict { .. })
    ));
    let longer = single("layer", &noise(f.bytes.len() + 1, 99), 16 << 10);
    assert!(matches!(
        store.begin("a", &longer),
        Err(StoreError::Conflict { .. })
    ));
}

#[test]
fn removing_a_download_frees_its_name_at_once() {
    let f = Fixture::new();
    let store = f.open();
    let old = store.begin("a", &f.info).unwrap();
    f.write(&old, [0, 1]);
    old.sync().unwrap();
    store.remove("a").unwrap();
    assert_eq!(files(f.dir.path()), [""; 0]);
    let new = store.begin("a", &f.info).unwrap();
    assert!(new.have().is_empty());
    f.write(&old, [2]);
    old.sync().unwrap();
    assert!(
        !f.path("record/a").exists(),
        "the old owner keeps no record of the new file"
    );
    f.write(&new, 0..10);
    store.commit("a").unwrap();
    assert!(matches!(store.commit("b"), Err(StoreError::Unknown { .. })));
}

#[test]
fn a_commit_after_a_restart_checks_first() {
    let f = Fixture::new();
    let store = f.open();
    let content = store.begin("a", &f.info).unwrap();
    f.write(&content, 0..10);
    drop((content, store));
    let store = f.open();
    assert_eq!(fs::read(store.commit("a").unwrap().path).unwrap(), f.bytes);
}

#[test]
fn many_at_once_come_to_one_end() {
    let f = Fixture::new();
    let store = f.open();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let (store, f) = (&store, &f);
            scope.spawn(move || {
                for round in 0..10 {
                    match (worker + round) % 4 {
                        0 => drop(store.remove("a")),
                        1 => drop(store.put("a", &f.bytes, Some(&f.info))),
                        _ => {
                            let content = store.begin("a", &f.info).unwrap();
                            if !content.have().is_full() {
                                let pieces: Vec<_> = (0..10).collect();
                                for piece in pieces {
                                    let at = piece as usize * PIECE;
                                    let end = (at + PIECE).min(f.bytes.len());
                                    let mut data = [IoSlice::new(&f.bytes[at..end])];
                                    if content.write_at(at as u64, &mut data).is_ok() {
                                        content.record(f.info.geometry().piece(piece).unwrap());
                                    }
                                }
                            }
                            drop(store.commit("a"));
                        }
                    }
                }
            });
        }
    });
    if let Some(stored) = store.get("a") {
        assert_eq!(fs::read(stored.path).unwrap(), f.bytes);
    }
    drop(store);
    let store = f.open();
    let content = store.begin("a", &f.info).unwrap();
    f.write(&content, numbers_missing(&content));
    store.commit("a").unwrap();
    assert_eq!(files(f.dir.path()), ["complete/a", "info/a"]);
}

fn numbers_missing(content: &Content) -> Vec<u32> {
    let have = numbers(content.have().iter());
    (0..10).filter(|n| !have.contains(n)).collect()
}

#[test]
fn the_order_of_use_survives_a_restart() {
    let f = Fixture::new();
    let store = f.open();
    for name in ["a", "b", "c"] {
        store.put(name, &[0; 10], None).unwrap();
    }
    drop(store);
    // As if all of it had happened long ago, one after the other.
    let long_ago = SystemTime::now() - Duration::from_secs(86_400);
    for (n, name) in (0..).zip(["a", "b", "c"]) {
        let info = fs::File::open(f.path("info").join(name)).unwrap();
        info.set_modified(long_ago + Duration::from_secs(n))
            .unwrap();
    }
    let store = f.open();
    let names = |over: Vec<leecher::store::Stored>| -> Vec<String> {
        over.into_iter().map(|stored| stored.name).collect()
    };
    assert_eq!(names(store.over(10)), ["a", "b"]);
    store.get("a").unwrap();
    assert_eq!(names(store.over(10)), ["b", "c"]);
    drop(store);
    assert_eq!(names(f.open().over(10)), ["b", "c"]);
}

#[test]
fn thousands_of_entries_open_quickly() {
    let f = Fixture::new();
    let store = f.open();
    store.put("0", b"x", None).unwrap();
    drop(store);
    let (info, data) = (f.path("info/0"), f.path("complete/0"));
    for n in 1..3_000 {
        fs::copy(&info, f.path("info").join(n.to_string())).unwrap();
        fs::copy(&data, f.path("complete").join(n.to_string())).unwrap();
    }
    let start = std::time::Instant::now();
    let store = f.open();
    assert_eq!((store.complete().len(), store.used()), (3_000, 3_000));
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn what_cannot_be_done_is_said_with_its_path() {
    let f = Fixture::new();
    let file = f.path("file");
    fs::File::create(&file).unwrap().write_all(b"x").unwrap();
    let error = LocalStore::open(&file).unwrap_err().to_string();
    assert!(error.contains("/file"), "{error}");
    let geometry = torrents::Geometry::new(1 << 46, 1 << 28).unwrap();
    let huge = Info::build("huge", geometry, &vec![[7; 20]; geometry.pieces() as usize]).unwrap();
    let store = f.open();
    let error = store.begin("huge", &huge).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::NoSpace {
                needed: 0x4000_0000_0000,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(files(f.dir.path()), [""; 0]);
    assert!(store.partial().is_empty());
}
