//! `swell` in its roles on a test's hosts, and what the tests ask of them.

use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use super::lab::{Host, Lab, Process};
use super::{noise, sha256, within};

/// The program under test.
pub(crate) const SWELL: &str = env!("CARGO_BIN_EXE_swell");

/// Starts a herd on the host, on its usual ports, reachable from the other hosts.
pub(crate) fn herd(host: &Host) -> Process {
    let (ip, data) = (
        host.ip().to_string(),
        host.dir().join("herd").display().to_string(),
    );
    let process = host.spawn("herd", SWELL, &["herd", "--listen", &ip, "--data", &data]);
    healthy(host, &format!("http://{ip}:15002/health"));
    healthy(host, &format!("http://{ip}:15003/health"));
    process
}

/// Starts an agent on the host, on its usual ports.
pub(crate) fn agent(host: &Host, herd: &Host) -> Process {
    agent_with(host, herd, &[])
}

/// Starts an agent with more flags; its data goes below the host's directory unless they say
/// otherwise.
pub(crate) fn agent_with(host: &Host, herd: &Host, flags: &[&str]) -> Process {
    let (herd, data) = (
        herd.ip().to_string(),
        host.dir().join("agent").display().to_string(),
    );
    let mut args = vec!["agent", "--herd", &herd];
    if !flags.contains(&"--data") {
        args.extend(["--data", &data]);
    }
    args.extend(flags);
    let process = host.spawn("agent", SWELL, &args);
    healthy(host, "http://127.0.0.1:16002/health");
    process
}

/// Runs `swell` to its end on the host.
pub(crate) fn swell(host: &Host, args: &[&str]) -> Output {
    host.output(SWELL, args)
}

/// Runs `swell` on the host; it must succeed. Its standard output.
pub(crate) fn swell_ok(host: &Host, args: &[&str]) -> String {
    host.run(SWELL, args)
}

/// Waits until the URL answers 200.
pub(crate) fn healthy(host: &Host, url: &str) {
    within(Duration::from_secs(30), url, || {
        host.get(url)
            .is_some_and(|(status, _)| status == 200)
            .then_some(())
    });
}

/// What the agent on the host says about itself.
pub(crate) fn agent_status(host: &Host) -> Value {
    host.json("http://127.0.0.1:16002/status")
}

/// Puts a blob into the herd on `host`; its digest.
pub(crate) fn upload(host: &Host, bytes: &[u8]) -> String {
    let digest = sha256(bytes);
    let file = host.dir().join("blob");
    std::fs::write(&file, bytes).unwrap();
    let url = format!(
        "http://{}:15000/v2/team/app/blobs/uploads/?digest={digest}",
        host.ip()
    );
    let data = format!("@{}", file.display());
    let (status, body) = host
        .curl(&[
            "-X",
            "POST",
            "-H",
            "Content-Type: application/octet-stream",
            "--data-binary",
            &data,
            &url,
        ])
        .expect("the registry answers");
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
    digest
}

/// A plain client that seeds what lies in the host's directory.
pub(crate) fn plain_seed(host: &Host, torrent: &str, flags: &[&str]) -> Process {
    let dir = host.dir().display().to_string();
    let args = [&["leech", torrent, "--output", &dir, "--seed"], flags].concat();
    host.spawn("seed", SWELL, &args)
}

/// A file `content.bin` of `len` bytes on the host, a `.torrent` of it, and an open tracker on
/// host 1: content that no herd knows.
pub(crate) fn foreign_content(
    lab: &Lab,
    seed_host: &Host,
    len: usize,
) -> (Process, String, Vec<u8>) {
    let tracker = lab.host(1).spawn(
        "tracker",
        SWELL,
        &[
            "tracker",
            "--open",
            "--listen",
            "10.77.0.1",
            "--data",
            &lab.dir().join("tr").display().to_string(),
        ],
    );
    healthy(lab.host(1), "http://10.77.0.1:15003/health");
    let bytes = noise(77, len);
    let (file, torrent) = (
        seed_host.dir().join("content.bin"),
        seed_host.dir().join("c.torrent"),
    );
    std::fs::write(&file, &bytes).unwrap();
    let (file, torrent) = (file.display().to_string(), torrent.display().to_string());
    swell_ok(
        seed_host,
        &[
            "torrent",
            "create",
            &file,
            "-o",
            &torrent,
            "--announce",
            "http://10.77.0.1:15003/announce",
        ],
    );
    (tracker, torrent, bytes)
}
