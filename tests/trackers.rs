//! Trackers that die and come back, one of several or the only one: nothing is lost, and who
//! downloads does not notice.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod harness;

use std::time::Duration;

use harness::lab::{Host, Lab, Process};
use harness::roles::{SWELL, agent, agent_with, healthy, swell, upload};
use harness::{noise, sha256, within};

/// A tracker on the host, at a port of its own, that remembers nothing of an earlier one.
fn tracker(host: &Host, port: u16) -> Process {
    let data = host.dir().join(format!("tracker{port}"));
    let _ = std::fs::remove_dir_all(&data);
    let (ip, data) = (host.ip().to_string(), data.display().to_string());
    let name = format!("tracker{port}");
    let port = port.to_string();
    let args = ["tracker", "--listen", &ip, "--port", &port, "--data", &data];
    let process = host.spawn(&name, SWELL, &args);
    healthy(host, &format!("http://{ip}:{port}/health"));
    process
}

/// An origin on the host, beside those trackers.
fn origin(host: &Host, trackers: &[String]) -> Process {
    let (ip, data) = (
        host.ip().to_string(),
        host.dir().join("origin").display().to_string(),
    );
    let trackers = trackers.join(",");
    let args = [
        "origin",
        "--listen",
        &ip,
        "--data",
        &data,
        "--tracker",
        &trackers,
    ];
    let process = host.spawn("origin", SWELL, &args);
    healthy(host, &format!("http://{ip}:15002/health"));
    process
}

/// Where the agent on its own host serves a blob.
fn blob_url(digest: &str) -> String {
    format!("http://127.0.0.1:16000/v2/team/app/blobs/{digest}")
}

/// Starts to pull a blob into a file of the host.
fn pulling(host: &Host, digest: &str) -> Process {
    let out = host.dir().join("got").display().to_string();
    host.spawn(
        "pull",
        "curl",
        &["-sS", "--fail", "-o", &out, &blob_url(digest)],
    )
}

fn assert_got(host: &Host, digest: &str) {
    let bytes = std::fs::read(host.dir().join("got")).unwrap();
    assert_eq!(sha256(&bytes), digest, "on {}", host.ip());
}

/// What a scrape of the blob's torrent says, one line a tracker.
fn scraped(host: &Host, origin: &Host, digest: &str) -> String {
    let url = format!("http://{}:15002/torrents/{digest}", origin.ip());
    let (status, torrent) = host.get(&url).expect("the origin answers");
    assert_eq!(status, 200);
    let path = host.dir().join("scraped.torrent");
    std::fs::write(&path, torrent).unwrap();
    let said = swell(host, &["torrent", "scrape", &path.display().to_string()]);
    String::from_utf8_lossy(&said.stdout).into_owned()
}

#[test]
fn a_tracker_that_forgot_everything_is_whole_again_and_a_download_does_not_notice() {
    let lab = Lab::new(4);
    let (hub, source, idle, busy) = (lab.host(1), lab.host(2), lab.host(3), lab.host(4));
    let process = tracker(hub, 15003);
    let _origin = origin(source, &["http://10.77.0.1:15003".to_owned()]);
    let _idle = agent(idle, source);
    let digests: Vec<String> = (0..4)
        .map(|n| upload(source, &noise(100 + n, 1_500_000)))
        .collect();
    for digest in &digests {
        pulling(idle, digest).finished(Duration::from_secs(60));
    }
    let large = upload(source, &noise(99, 40_000_000));
    let _busy = agent_with(busy, source, &["--download-limit", "4MB"]);
    let mut download = pulling(busy, &large);
    within(Duration::from_secs(60), "both are known", || {
        let whole = |digest| scraped(idle, source, digest).contains("2 seeders");
        (whole(&digests[0]) && scraped(idle, source, &large).contains("1 leecher")).then_some(())
    });

    process.kill();
    let _again = tracker(hub, 15003);
    // Usually within half a minute; a busy machine may take longer.
    within(Duration::from_secs(120), "everybody is back", || {
        let back = |digest: &String| scraped(idle, source, digest).contains("2 seeders");
        digests.iter().all(back).then_some(())
    });
    download.finished(Duration::from_secs(120));
    assert_got(busy, &large);
    within(
        Duration::from_secs(120),
        "who finished meanwhile too",
        || {
            scraped(idle, source, &large)
                .contains("2 seeders")
                .then_some(())
        },
    );
}

#[test]
fn of_three_trackers_two_may_die_in_mid_pull() {
    let lab = Lab::new(6);
    let (hub, source) = (lab.host(1), lab.host(2));
    let ports = [15003, 15103, 15203];
    let mut trackers: Vec<_> = ports.map(|port| tracker(hub, port)).into();
    let urls = ports.map(|port| format!("http://10.77.0.1:{port}"));
    let _origin = origin(source, &urls);
    let digest = upload(source, &noise(98, 24_000_000));
    let hosts: Vec<&Host> = (3..=6).map(|n| lab.host(n)).collect();
    let limit = ["--download-limit", "3MB"];
    let _agents: Vec<Process> = hosts
        .iter()
        .map(|host| agent_with(host, source, &limit))
        .collect();
    // The last starts when only one tracker is left, and must find the others all the same.
    let (late, early) = hosts.split_last().unwrap();
    let mut pulls: Vec<Process> = early.iter().map(|host| pulling(host, &digest)).collect();
    within(Duration::from_secs(60), "all trackers are told", || {
        let said = scraped(late, source, &digest);
        (said.matches("3 leechers").count() >= 2).then_some(())
    });
    trackers.remove(0).kill();
    std::thread::sleep(Duration::from_secs(1));
    trackers.remove(0).kill();
    pulls.push(pulling(late, &digest));
    for pull in &mut pulls {
        pull.finished(Duration::from_secs(120));
    }
    for host in &hosts {
        assert_got(host, &digest);
    }
}
