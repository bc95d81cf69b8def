//! What goes wrong in production, done on purpose: liars, full disks, killed processes, absent
//! herds. The bytes that come out are right or none come out, and a retry later succeeds.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod harness;

use std::fs::OpenOptions;
use std::io::{Seek, Write};
use std::process::Command;
use std::time::Duration;

use harness::lab::{Host, Lab};
use harness::roles::{
    SWELL, agent, agent_status, agent_with, foreign_content, healthy, herd, plain_seed, swell,
    upload,
};
use harness::{eventually, noise, sha256, within};

/// Where the agent on its own host serves a blob.
fn blob_url(digest: &str) -> String {
    format!("http://127.0.0.1:16000/v2/team/app/blobs/{digest}")
}

/// Pulls a blob from the agent on the host, trying again as a client would.
fn pull(host: &Host, digest: &str) {
    let url = blob_url(digest);
    within(Duration::from_secs(120), "the blob comes whole", || {
        let (status, body) = host.get(&url)?;
        (status == 200).then(|| assert_eq!(sha256(&body), digest))
    });
}

/// Useful bytes that the agent on the host fetched for the blob.
fn fetched(host: &Host, digest: &str) -> u64 {
    let status = agent_status(host);
    let blobs = status["blobs"].as_array().expect("a list");
    let blob = blobs
        .iter()
        .find(|blob| blob["digest"] == digest)
        .expect("the blob is listed");
    ["from_origin", "from_peers", "from_web_seed"]
        .iter()
        .map(|key| blob[key].as_u64().expect("a count"))
        .sum()
}

#[test]
fn a_seed_that_lies_is_banned_and_the_download_completes_from_an_honest_one() {
    let lab = Lab::new(4);
    let (honest, liar, leecher) = (lab.host(2), lab.host(3), lab.host(4));
    let (_tracker, torrent, bytes) = foreign_content(&lab, honest, 12_000_000);
    let lying = liar.dir().join("content.bin");
    std::fs::write(&lying, &bytes).unwrap();
    // The honest one is slow, so that the liar is asked for plenty.
    let _honest = plain_seed(honest, &torrent, &["--upload-limit", "3MB"]);
    let _liar = plain_seed(liar, &torrent, &[]);
    eventually("both seeds are known", || {
        let said = swell(lab.host(1), &["torrent", "scrape", &torrent]).stdout;
        String::from_utf8_lossy(&said)
            .contains("2 seeders")
            .then_some(())
    });
    // Behind its back: what it vouched for is no longer what it sends.
    let mut file = OpenOptions::new().write(true).open(&lying).unwrap();
    for offset in (0..12_000_000).step_by(16_384) {
        file.seek(std::io::SeekFrom::Start(offset)).unwrap();
        file.write_all(b"a lie").unwrap();
    }
    file.sync_all().unwrap();

    let out = leecher.dir().join("out").display().to_string();
    let mut leech = leecher.spawn(
        "leech",
        SWELL,
        &["--log", "warn", "leech", &torrent, "--output", &out],
    );
    leech.finished(Duration::from_secs(120));
    let got = std::fs::read(leecher.dir().join("out/content.bin")).unwrap();
    assert_eq!(sha256(&got), sha256(&bytes));
    assert!(
        leech.log().contains(&liar.ip().to_string()),
        "nobody was blamed: {}",
        leech.log()
    );
}

#[test]
fn a_leecher_whose_dials_get_nowhere_is_dialled_by_the_seed() {
    let lab = Lab::new(3);
    let (seed, leecher) = (lab.host(2), lab.host(3));
    let (_tracker, torrent, bytes) = foreign_content(&lab, seed, 3_000_000);
    let listen = format!("{}:6881", seed.ip());
    let _seed = plain_seed(seed, &torrent, &["--listen", &listen]);
    leecher.block_port(6881);
    let out = leecher.dir().join("out");
    let args = ["leech", &torrent, "--output", &out.display().to_string()];
    leecher
        .spawn("leech", SWELL, &args)
        .finished(Duration::from_secs(120));
    assert_eq!(std::fs::read(out.join("content.bin")).unwrap(), bytes);
}

#[test]
fn a_full_disk_is_said_and_a_retry_succeeds_when_there_is_room() {
    let lab = Lab::new(2);
    let (one, two) = (lab.host(1), lab.host(2));
    let _herd = herd(one);
    let digest = upload(one, &noise(3, 24_000_000));
    let disk = two.dir().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let disk = disk.display().to_string();
    let mount = |options: &str| {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs", &disk])
            .status();
        assert!(status.unwrap().success());
    };
    mount("size=8m");
    let process = agent_with(two, one, &["--data", &disk]);
    let refused = within(Duration::from_secs(60), "the full disk is said", || {
        let (status, body) = two.get(&blob_url(&digest))?;
        assert_ne!(status, 200, "24 MB do not fit into 8");
        (status == 503).then(|| String::from_utf8_lossy(&body).into_owned())
    });
    assert!(refused.contains("errors"), "{refused}");
    mount("remount,size=64m");
    pull(two, &digest);
    process.stop();
    assert!(
        Command::new("umount")
            .arg(&disk)
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn a_killed_agent_resumes_from_what_it_had_verified() {
    let lab = Lab::new(2);
    let (one, two) = (lab.host(1), lab.host(2));
    let _herd = herd(one);
    let length = 40_000_000;
    let digest = upload(one, &noise(4, length));
    let process = agent_with(two, one, &["--download-limit", "6MB"]);
    let url = blob_url(&digest);
    let client = two.spawn("curl", "curl", &["-s", "-o", "/dev/null", &url]);
    within(Duration::from_secs(60), "half of it is verified", || {
        let status = agent_status(two);
        let verified = status["blobs"].as_array()?.first()?["verified"].as_u64()?;
        (verified > 15_000_000).then_some(())
    });
    process.kill();
    drop(client);

    let _agent = agent(two, one);
    pull(two, &digest);
    let again = fetched(two, &digest);
    assert!(
        again < 30_000_000,
        "{again} of {length} bytes were fetched again"
    );
}

#[test]
fn an_absent_herd_is_said_and_a_retry_succeeds_when_it_is_back() {
    let lab = Lab::new(2);
    let (one, two) = (lab.host(1), lab.host(2));
    let _agent = agent(two, one);
    let (status, body) = two
        .get("http://127.0.0.1:16000/v2/team/app/manifests/v1")
        .expect("an answer, not a hang");
    assert_eq!(status, 503, "{}", String::from_utf8_lossy(&body));
    assert!(
        String::from_utf8_lossy(&body).contains("10.77.0.1"),
        "it says who did not answer"
    );
    let (ready, _) = two.get("http://127.0.0.1:16002/readiness").unwrap();
    assert_eq!(ready, 503);

    let _herd = herd(one);
    let digest = upload(one, &noise(5, 3_000_000));
    pull(two, &digest);
    healthy(two, "http://127.0.0.1:16002/readiness");
}

#[test]
fn the_tracker_and_the_web_seed_may_die_in_mid_pull() {
    let lab = Lab::new(3);
    let (one, two, three) = (lab.host(1), lab.host(2), lab.host(3));
    let herd_process = herd(one);
    let digest = upload(one, &noise(6, 30_000_000));
    let _first = agent(two, one);
    pull(two, &digest);
    let _second = agent_with(three, one, &["--download-limit", "8MB"]);
    let url = blob_url(&digest);
    let out = three.dir().join("got").display().to_string();
    let mut client = three.spawn("curl", "curl", &["-sS", "--fail", "-o", &out, &url]);
    within(
        Duration::from_secs(60),
        "it comes from the first agent too",
        || {
            let status = agent_status(three);
            let blob = status["blobs"].as_array()?.first()?.clone();
            (blob["from_peers"].as_u64()? > 0).then_some(())
        },
    );
    herd_process.kill();
    client.finished(Duration::from_secs(120));
    assert_eq!(sha256(&std::fs::read(out).unwrap()), digest);
}

#[test]
fn a_cut_push_leaves_nothing() {
    let lab = Lab::new(1);
    let one = lab.host(1);
    let _herd = herd(one);
    let bytes = noise(7, 8_000_000);
    let digest = sha256(&bytes);
    let file = one.dir().join("layer");
    std::fs::write(&file, &bytes).unwrap();
    let url = format!("http://10.77.0.1:15000/v2/team/app/blobs/uploads/?digest={digest}");
    let data = format!("@{}", file.display());
    let cut = one.spawn(
        "cut",
        "curl",
        &[
            "-s",
            "--limit-rate",
            "2M",
            "-X",
            "POST",
            "--data-binary",
            &data,
            &url,
        ],
    );
    std::thread::sleep(Duration::from_secs(1));
    cut.kill();
    let exists = || {
        let url = format!("http://10.77.0.1:15000/v2/team/app/blobs/{digest}");
        one.get(&url).map(|(status, _)| status)
    };
    assert_eq!(exists(), Some(404));
    // Half an upload takes no room: what is left below the data directory is small.
    eventually("the half upload is gone", || {
        let data = one.dir().join("herd");
        let find = ["-type", "f", "-printf", "%s\n"];
        let said = Command::new("find")
            .arg(&data)
            .args(find)
            .output()
            .unwrap()
            .stdout;
        let sizes = String::from_utf8_lossy(&said).into_owned();
        let bytes: u64 = sizes
            .lines()
            .filter_map(|size| size.parse::<u64>().ok())
            .sum();
        (bytes < 1_000_000).then_some(())
    });
    // A wrong digest is refused, and the right bytes are welcome afterwards.
    let wrong = format!(
        "http://10.77.0.1:15000/v2/team/app/blobs/uploads/?digest={}",
        sha256(b"no")
    );
    let (status, body) = one
        .curl(&["-X", "POST", "--data-binary", &data, &wrong])
        .unwrap();
    assert_eq!(status, 400);
    assert!(String::from_utf8_lossy(&body).contains("DIGEST_INVALID"));
    upload(one, &bytes);
    assert_eq!(exists(), Some(200));
}
