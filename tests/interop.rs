//! Ordinary BitTorrent clients in our swarms, and our client in theirs, over the peer wire.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod harness;

use std::path::Path;
use std::time::Duration;

use harness::lab::{Host, Lab, Process};
use harness::roles::{SWELL, foreign_content, herd, plain_seed, swell_ok, upload};
use harness::{noise, sha256, within};
use torrents::Metainfo;

const LENGTH: usize = 7_654_321;

/// The blob's `.torrent` without its web seeds, written where the host's clients find it; the
/// web seed's port is closed to the host besides.
fn torrent_without_web_seed(host: &Host, herd: &Host, digest: &str) -> String {
    let url = format!("http://{}:15002/torrents/{digest}", herd.ip());
    let (status, body) = host.get(&url).expect("the origin answers");
    assert_eq!(status, 200);
    let mut metainfo = Metainfo::parse(&body).unwrap();
    assert!(
        !metainfo.url_list.is_empty(),
        "the origin names itself as a web seed"
    );
    metainfo.url_list.clear();
    let path = host.dir().join("stripped.torrent");
    std::fs::write(&path, metainfo.encode()).unwrap();
    host.block_port(15002);
    path.display().to_string()
}

/// A blob that a herd seeds, and its `.torrent` for a client on another host.
fn blob_to_leech(from: &Host, to: &Host, seed: u64) -> (Process, String, String) {
    let process = herd(from);
    let digest = upload(from, &noise(seed, LENGTH));
    let torrent = torrent_without_web_seed(to, from, &digest);
    (process, digest, torrent)
}

fn assert_content(path: &Path, digest: &str) {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(sha256(&bytes), digest, "{}", path.display());
}

/// Leeches with our client and checks the bytes.
fn our_leecher_completes(host: &Host, torrent: &str, bytes: &[u8]) {
    let out = host.dir().join("out").display().to_string();
    let mut leech = host.spawn("leech", SWELL, &["leech", torrent, "--output", &out]);
    leech.finished(Duration::from_secs(120));
    assert_content(&Path::new(&out).join("content.bin"), &sha256(bytes));
}

#[test]
fn aria2_leeches_from_our_seed() {
    let lab = Lab::new(2);
    let (one, two) = (lab.host(1), lab.host(2));
    let (_herd, digest, torrent) = blob_to_leech(one, two, 1);
    let out = two.dir().join("out").display().to_string();
    let mut aria2 = two.spawn(
        "aria2",
        "aria2c",
        &[
            "--no-conf",
            "--enable-dht=false",
            "--seed-time=0",
            "--dir",
            &out,
            &torrent,
        ],
    );
    aria2.finished(Duration::from_secs(180));
    assert_content(
        &Path::new(&out).join(digest.strip_prefix("sha256:").unwrap()),
        &digest,
    );
    // It announced that it came and that it went; nobody is left behind.
    let swarm = one.json(&format!("http://10.77.0.1:15003/api/swarms/{digest}"));
    assert_eq!(swarm["total_peers"], 0, "{swarm}");
    let (_, metrics) = one.get("http://10.77.0.1:15003/metrics").unwrap();
    let metrics = String::from_utf8(metrics).unwrap();
    for seen in [
        "event=\"started\",outcome=\"joined\"} 1",
        "event=\"stopped\",outcome=\"left\"} 1",
    ] {
        assert!(metrics.contains(seen), "{metrics}");
    }
}

#[test]
fn our_leecher_completes_from_aria2() {
    let lab = Lab::new(3);
    let (_tracker, torrent, bytes) = foreign_content(&lab, lab.host(2), LENGTH);
    let dir = lab.host(2).dir().display().to_string();
    let _aria2 = lab.host(2).spawn(
        "aria2",
        "aria2c",
        &[
            "--no-conf",
            "--enable-dht=false",
            "--check-integrity=true",
            "--seed-ratio=0.0",
            "--dir",
            &dir,
            &torrent,
        ],
    );
    our_leecher_completes(lab.host(3), &torrent, &bytes);
}

/// A libtorrent client on a host; it tries uTP first.
fn libtorrent(host: &Host, role: &str, torrent: &str, directory: &Path) -> Process {
    let client = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/libtorrent-client.py");
    let directory = directory.display().to_string();
    let listen = format!("{}:6881", host.ip());
    let args = [client, role, torrent, &directory, &listen];
    host.spawn("libtorrent", "/usr/bin/python3", &args)
}

#[test]
fn libtorrent_leeches_from_our_seed() {
    let lab = Lab::new(2);
    let (one, two) = (lab.host(1), lab.host(2));
    let (_herd, digest, torrent) = blob_to_leech(one, two, 3);
    let out = two.dir().join("out");
    libtorrent(two, "leech", &torrent, &out).finished(Duration::from_secs(120));
    assert_content(&out.join(digest.strip_prefix("sha256:").unwrap()), &digest);
}

#[test]
fn our_leecher_completes_from_libtorrent() {
    let lab = Lab::new(3);
    let seed = lab.host(2);
    let (_tracker, torrent, bytes) = foreign_content(&lab, seed, LENGTH);
    let _libtorrent = libtorrent(seed, "seed", &torrent, seed.dir());
    our_leecher_completes(lab.host(3), &torrent, &bytes);
}

/// What a Transmission does before TCP.
#[derive(Clone, Copy)]
enum First {
    Tcp,
    /// Its default. Whom it does not reach so, it does not reach at all.
    Utp,
}

/// A Transmission daemon on the host, with its files below `dir/transmission`.
fn transmission(host: &Host, first: First) -> Process {
    let name = "transmission";
    let config = host.dir().join("transmission-config");
    std::fs::create_dir_all(&config).unwrap();
    let settings = serde_json::json!({
        "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false,
        "utp-enabled": matches!(first, First::Utp),
        "port-forwarding-enabled": false, "rpc-enabled": true, "rpc-bind-address": "127.0.0.1",
        "rpc-whitelist-enabled": false, "rpc-host-whitelist-enabled": false,
        "download-dir": host.dir().join(name), "umask": 18, "encryption": 1,
        "ratio-limit-enabled": false, "start-added-torrents": true,
    });
    std::fs::write(config.join("settings.json"), settings.to_string()).unwrap();
    let process = host.spawn(
        name,
        "transmission-daemon",
        &[
            "--foreground",
            "--config-dir",
            &config.display().to_string(),
        ],
    );
    within(Duration::from_secs(30), "transmission answers", || {
        host.output("transmission-remote", &["--list"])
            .status
            .success()
            .then_some(())
    });
    process
}

/// Leeches with Transmission and checks the bytes of the one file.
fn transmission_completes(host: &Host, torrent: &str, name: &str, digest: &str) {
    host.run("transmission-remote", &["--add", torrent]);
    within(Duration::from_secs(180), "transmission completes", || {
        host.run("transmission-remote", &["--torrent", "1", "--info"])
            .contains("Percent Done: 100%")
            .then_some(())
    });
    assert_content(&host.dir().join("transmission").join(name), digest);
}

#[test]
fn transmission_leeches_from_our_seed_and_scrapes_our_tracker() {
    let lab = Lab::new(2);
    let (one, two) = (lab.host(1), lab.host(2));
    let (_herd, digest, torrent) = blob_to_leech(one, two, 2);
    let _daemon = transmission(two, First::Tcp);
    let name = digest.strip_prefix("sha256:").unwrap();
    transmission_completes(two, &torrent, name, &digest);

    // The tracker counts the same for both scrapers, and both say it in the same words.
    within(Duration::from_secs(30), "both scrapes say the same", || {
        let theirs = two.run("transmission-show", &["--scrape", &torrent]);
        let ours = swell_ok(two, &["torrent", "scrape", &torrent]);
        // They name the scrape's URL, we the announce's; the words behind it are the same.
        let said = |line: &str| Some(line.split_once(" ... ")?.1.trim_end().to_owned());
        let theirs: Vec<_> = theirs.lines().filter_map(said).collect();
        let same = |said: &String| ours.contains(&format!(" ... {said}"));
        assert!(!theirs.is_empty(), "it scrapes nothing");
        let whole = ours.contains("2 seeders, 0 leechers, 1 downloads");
        (whole && theirs.iter().all(same)).then_some(())
    });
    let shown = two.run("transmission-show", &[&torrent]);
    let info_hash = Metainfo::parse(&std::fs::read(&torrent).unwrap())
        .unwrap()
        .info
        .hash();
    assert!(shown.contains(&info_hash.to_string()), "{shown}");
    assert!(swell_ok(two, &["torrent", "show", &torrent]).contains(&info_hash.to_string()));
}

/// It cannot come to our seed: our seed goes to it.
#[test]
fn transmission_leeches_by_its_defaults() {
    let lab = Lab::new(3);
    let (seed, leecher) = (lab.host(2), lab.host(3));
    let (_tracker, torrent, bytes) = foreign_content(&lab, seed, LENGTH);
    let _seed = plain_seed(seed, &torrent, &[]);
    let _daemon = transmission(leecher, First::Utp);
    transmission_completes(leecher, &torrent, "content.bin", &sha256(&bytes));
}

/// Nor to an origin, which takes no part in announces: it has the web seed.
#[test]
fn transmission_leeches_from_our_herd_by_its_defaults() {
    let lab = Lab::new(2);
    let (one, two) = (lab.host(1), lab.host(2));
    let _herd = herd(one);
    let digest = upload(one, &noise(4, LENGTH));
    let torrent = two.dir().join("blob.torrent").display().to_string();
    let url = format!("http://{}:15002/torrents/{digest}", one.ip());
    two.run("curl", &["--silent", "--fail", "--output", &torrent, &url]);
    let _daemon = transmission(two, First::Utp);
    let name = digest.strip_prefix("sha256:").unwrap();
    transmission_completes(two, &torrent, name, &digest);
}

#[test]
fn our_leecher_completes_from_transmission() {
    let lab = Lab::new(3);
    let seed = lab.host(2);
    let (_tracker, torrent, bytes) = foreign_content(&lab, seed, LENGTH);
    let dir = seed.dir().join("transmission");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("content.bin"), &bytes).unwrap();
    // A .torrent of their own making, over the same bytes.
    let theirs = seed.dir().join("theirs.torrent").display().to_string();
    let file = seed.dir().join("content.bin").display().to_string();
    seed.run(
        "transmission-create",
        &[
            "-p",
            "-t",
            "http://10.77.0.1:15003/announce",
            "-o",
            &theirs,
            &file,
        ],
    );
    let _daemon = transmission(seed, First::Tcp);
    seed.run("transmission-remote", &["--add", &theirs]);
    drop(torrent);
    our_leecher_completes(lab.host(3), &theirs, &bytes);
}

#[test]
fn our_seed_serves_our_leecher_and_keeps_what_is_there() {
    let lab = Lab::new(3);
    let seed = lab.host(2);
    let (_tracker, torrent, bytes) = foreign_content(&lab, seed, LENGTH);
    let _seed = plain_seed(seed, &torrent, &[]);
    // Half of it is here already, and a lie at its end.
    let leecher = lab.host(3);
    let out = leecher.dir().join("out");
    std::fs::create_dir(&out).unwrap();
    let mut half = bytes[..LENGTH / 2].to_vec();
    *half.last_mut().unwrap() ^= 1;
    std::fs::write(out.join("content.bin"), half).unwrap();
    our_leecher_completes(leecher, &torrent, &bytes);
    let again = swell_ok(
        leecher,
        &["leech", &torrent, "--output", &out.display().to_string()],
    );
    assert!(again.contains("is complete"), "{again}");
}
