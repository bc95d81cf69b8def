//! A disk that is full, played by a limit on the size of files.
//!
//! The limit is the process's, and the signal that comes with it must be ignored from outside:
//! so the test runs itself once more as a child.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::process::Command;

use harness::{Host, finished, sample};
use leecher::{Phase, TorrentError};

const CHILD: &str = "LEECHER_TEST_FULL_DISK";

fn limit_files(bytes: &str) {
    let pid = std::process::id().to_string();
    let limit = format!("--fsize={bytes}:");
    let status = Command::new("prlimit")
        .args(["--pid", &pid, &limit])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_full_disk_is_told_to_everybody_and_a_later_try_succeeds() {
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    let status = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "the_child_of_the_test_above", "--nocapture"])
        .env(CHILD, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_child_of_the_test_above() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let sample = sample(8_000_000, 65_536, 40);
    let (seed, leech) = (Host::seeding(&sample).await, Host::start().await);
    let content = leech.output(&sample.info);
    limit_files("3000000");
    let torrent = leech
        .download(leecher::Download {
            info: sample.info.clone(),
            content,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            peers: vec![seed.addr()],
            eager_web_seed: false,
            head: bytes::Bytes::new(),
        })
        .await;
    let mut reader = torrent.reader();
    let reading = tokio::spawn(async move { reader.ready(7_999_999..8_000_000).await });
    let why = torrent.finished().await.unwrap_err();
    assert!(matches!(why, TorrentError::Storage(_)), "{why}");
    assert!(
        why.to_string().contains("sample-40"),
        "it says where: {why}"
    );
    assert!(matches!(
        reading.await.unwrap(),
        Err(TorrentError::Storage(_))
    ));
    assert_eq!(torrent.progress().borrow().phase, Phase::Failed);
    let status = leech.engine.status().await;
    assert_eq!(status[0].note, Some(why.to_string()));

    limit_files("unlimited");
    let torrent = leech.leech(&sample.info, vec![seed.addr()]).await;
    finished(&torrent).await;
    leech.engine.shutdown().await;
    assert!(leech.result(&sample.info) == sample.bytes);
}
