//! The product's promise: what is pushed to the herd is pulled from an agent, byte for byte,
//! with real clients, and the bytes come from whoever has them.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod harness;

use std::time::Duration;

use harness::docker::Docker;
use harness::lab::Lab;
use harness::roles::{SWELL, agent, agent_status, herd, swell, swell_ok};
use harness::{eventually, image, within};

const PUSHED: &str = "10.77.0.1:15000/team/app:v1";

/// Loads an image of several layers and pushes it to the herd on host 1.
fn push(lab: &Lab, docker: &Docker) -> String {
    let archive = lab.dir().join("image.tar");
    image::docker_archive(&archive, PUSHED, &["9M", "5M", "300k", "1k"]);
    docker.run(&["load", "--quiet", "--input", &archive.display().to_string()]);
    docker.run(&["push", PUSHED]);
    let digest = docker.digest(PUSHED);
    docker.run(&["image", "rm", PUSHED]);
    digest
}

/// Bytes by source, summed over the blobs of an agent: origin, other peers, web seed.
fn sources(status: &serde_json::Value) -> (u64, u64, u64) {
    let blobs = status["blobs"].as_array().expect("a list of blobs");
    let sum = |key: &str| {
        blobs
            .iter()
            .map(|blob| blob[key].as_u64().expect("a count"))
            .sum()
    };
    (sum("from_origin"), sum("from_peers"), sum("from_web_seed"))
}

#[test]
fn docker_pulls_what_docker_pushed_and_the_second_agent_takes_from_the_first() {
    let lab = Lab::new(3);
    let (one, two, three) = (lab.host(1), lab.host(2), lab.host(3));
    let _herd = herd(one);
    let (_first, _second) = (agent(two, one), agent(three, one));
    let near = Docker::start(two);
    let far = Docker::start(three);
    let pushed = push(&lab, &near);

    near.run(&["pull", "localhost:16000/team/app:v1"]);
    assert_eq!(near.digest("localhost:16000/team/app:v1"), pushed);
    far.run(&["pull", "localhost:16000/team/app:v1"]);
    assert_eq!(far.digest("localhost:16000/team/app:v1"), pushed);
    let (origin, peers, web) = sources(&agent_status(three));
    assert!(
        peers > 0,
        "nothing came from the first agent: origin {origin}, web seed {web}"
    );

    // By digest, and again from the cache.
    far.run(&["image", "rm", "localhost:16000/team/app:v1"]);
    let by_digest = format!("localhost:16000/team/app@{pushed}");
    far.run(&["pull", &by_digest]);

    // The image under its own name.
    let said = far.run(&["images", "--format", "{{.Repository}}"]);
    assert!(said.contains("localhost:16000/team/app"), "{said}");
    let output = three
        .command("env")
        .args([
            &format!("DOCKER_HOST={}", far.host()),
            SWELL,
            "pull",
            "team/app:v1",
        ])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        far.run(&["images", "--format", "{{.Repository}}:{{.Tag}}"])
            .contains("team/app:v1")
    );
}

#[test]
fn with_the_origin_gone_an_agent_pulls_from_another_agent_alone() {
    let lab = Lab::new(3);
    let (one, two, three) = (lab.host(1), lab.host(2), lab.host(3));
    // Apart, so that the origin can go while the tracker stays.
    let tracker_args = ["tracker", "--listen", "10.77.0.1", "--data"];
    let data = one.dir().join("tracker").display().to_string();
    let _tracker = one.spawn("tracker", SWELL, &[&tracker_args[..], &[&data]].concat());
    harness::roles::healthy(one, "http://10.77.0.1:15003/health");
    let data = one.dir().join("origin").display().to_string();
    let origin = one.spawn(
        "origin",
        SWELL,
        &[
            "origin",
            "--listen",
            "10.77.0.1",
            "--data",
            &data,
            "--tracker",
            "http://10.77.0.1:15003",
        ],
    );
    harness::roles::healthy(one, "http://10.77.0.1:15002/health");
    let (_first, _second) = (agent(two, one), agent(three, one));
    let near = Docker::start(two);
    let far = Docker::start(three);
    let pushed = push(&lab, &near);

    near.run(&["pull", "localhost:16000/team/app:v1"]);
    eventually("the first agent seeds what it pulled", || {
        agent_status(two)["blobs"]
            .as_array()?
            .iter()
            .all(|b| b["phase"] == "complete")
            .then_some(())
    });
    origin.kill();

    let by_digest = format!("localhost:16000/team/app@{pushed}");
    far.run(&["pull", &by_digest]);
    let (from_origin, from_peers, web) = sources(&agent_status(three));
    assert_eq!((from_origin, web), (0, 0), "the origin was gone");
    assert!(
        from_peers > 14_000_000,
        "only {from_peers} bytes came from the first agent"
    );

    // A tag that an agent has seen pulls too; one nobody has seen says why not.
    near.run(&["image", "rm", "localhost:16000/team/app:v1"]);
    near.run(&["pull", "localhost:16000/team/app:v1"]);
    let said = far.fails(&["pull", "localhost:16000/team/other:v9"]);
    assert!(!said.is_empty());
}

#[test]
fn skopeo_copies_by_tag_and_by_digest_and_every_platform_of_an_index() {
    let lab = Lab::new(2);
    let (one, two) = (lab.host(1), lab.host(2));
    let _herd = herd(one);
    let _agent = agent(two, one);
    let layout = lab.dir().join("layout");
    let index = image::oci_index(&layout, &["amd64", "arm64", "s390x"], 2_500_000);
    let source = format!("oci:{}:v1", layout.display());
    let policy = ["--insecure-policy", "copy", "--all", "--preserve-digests"];
    let copy = |host: &harness::lab::Host, flags: &[&str], from: &str, to: &str| {
        host.run("skopeo", &[&policy[..], flags, &[from, to]].concat());
    };
    let herd_side = "docker://10.77.0.1:15000/team/multi:v1";
    copy(one, &["--dest-tls-verify=false"], &source, herd_side);

    let from_agent = format!("docker://127.0.0.1:16000/team/multi@{index}");
    for (name, from) in [
        ("tag", "docker://127.0.0.1:16000/team/multi:v1"),
        ("digest", &from_agent),
    ] {
        let out = lab.dir().join(format!("by-{name}"));
        let to = format!("oci:{}:v1", out.display());
        copy(two, &["--src-tls-verify=false"], from, &to);
        let got = std::fs::read_to_string(out.join("index.json")).unwrap();
        assert!(got.contains(&index), "by {name}: {got}");
        // Every blob that was pushed came out, with its own content.
        for entry in std::fs::read_dir(layout.join("blobs/sha256")).unwrap() {
            let pushed = entry.unwrap().path();
            let pulled = out.join("blobs/sha256").join(pushed.file_name().unwrap());
            assert!(
                std::fs::read(&pushed).unwrap() == std::fs::read(&pulled).unwrap(),
                "{pulled:?}"
            );
        }
    }
}

#[test]
fn a_dead_agent_falls_back_to_the_herd_and_only_both_dead_is_a_failure() {
    let lab = Lab::new(1);
    let one = lab.host(1);
    let _herd = herd(one);
    let docker = Docker::start(one);
    push(&lab, &docker);
    let pull = |fallback: &str| {
        one.command("env")
            .args([
                &format!("DOCKER_HOST={}", docker.host()),
                SWELL,
                "pull",
                "--agent",
                "localhost:16000",
                "--fallback",
                fallback,
                "team/app:v1",
            ])
            .output()
            .unwrap()
    };
    let output = pull("10.77.0.1:15000");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        docker
            .run(&["images", "--format", "{{.Repository}}:{{.Tag}}"])
            .contains("team/app:v1")
    );
    let output = pull("10.77.0.1:15999");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("localhost:16000") && said.contains("10.77.0.1:15999"),
        "{said}"
    );
}

#[test]
fn killed_origin_and_agent_come_back_with_what_they_acknowledged() {
    let lab = Lab::new(2);
    let (one, two) = (lab.host(1), lab.host(2));
    let herd_process = herd(one);
    let agent_process = agent(two, one);
    let docker = Docker::start(two);
    let pushed = push(&lab, &docker);
    docker.run(&["pull", "localhost:16000/team/app:v1"]);
    docker.run(&["image", "rm", "localhost:16000/team/app:v1"]);
    herd_process.kill();
    agent_process.kill();

    // The agent alone serves what it had; then the herd is back and serves everybody.
    let _agent = agent(two, one);
    docker.run(&["pull", &format!("localhost:16000/team/app@{pushed}")]);
    let _herd = herd(one);
    let direct = format!("10.77.0.1:15000/team/app@{pushed}");
    docker.run(&["pull", &direct]);
    within(
        Duration::from_secs(60),
        "everything stored is seeded again",
        || {
            let swarms = one.json("http://10.77.0.1:15003/api/swarms");
            (swarms["swarms"].as_array()?.len() >= 5).then_some(())
        },
    );
    let listed = swell_ok(two, &["status", "--herd", "10.77.0.1"]);
    assert!(listed.contains("team/app:v1"), "{listed}");
}

#[test]
fn limits_are_changed_on_the_host_itself_alone() {
    let lab = Lab::new(2);
    let (one, two) = (lab.host(1), lab.host(2));
    let _herd = herd(one);
    let _agent = agent(two, one);
    let all = |listed: &str| {
        let row = listed.lines().find(|line| line.starts_with("all together"));
        let words: Vec<String> = row.unwrap().split_whitespace().map(String::from).collect();
        words[2..].join(" ")
    };
    let set = swell_ok(two, &["limit", "--upload", "2MiB"]);
    assert_eq!(all(&set), "2.0 MiB/s unlimited");
    let set = swell_ok(two, &["limit", "--download", "512KiB", "--upload", "none"]);
    assert_eq!(all(&set), "unlimited 512.0 KiB/s");
    assert_eq!(swell_ok(two, &["limit"]), set);

    let origin = ["limit", "--api", "10.77.0.1:15002"];
    let changed = [&origin[..], &["--upload", "1MiB"]].concat();
    assert_eq!(all(&swell_ok(one, &changed)), "1.0 MiB/s unlimited");
    assert_eq!(all(&swell_ok(two, &origin)), "1.0 MiB/s unlimited");
    let refused = swell(two, &changed);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("from the host itself"), "{said}");
    let nobodys = "ab".repeat(20);
    let unknown = [&origin[..], &["--upload", "0", &nobodys]].concat();
    let refused = swell(one, &unknown);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("no swarm of abab"), "{said}");
}

#[test]
fn bad_input_gets_one_clear_sentence() {
    let lab = Lab::new(1);
    let one = lab.host(1);
    let _herd = herd(one);
    let fails = |args: &[&str], code: i32, needle: &str| {
        let output = swell(one, args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(needle), "{args:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    };
    let other = one.dir().join("other").display().to_string();
    let taken = one.dir().join("herd").display().to_string();
    fails(
        &["herd", "--listen", "10.77.0.1", "--data", &other],
        1,
        "in use",
    );
    fails(
        &[
            "herd",
            "--listen",
            "10.77.0.1",
            "--data",
            &taken,
            "--registry-port",
            "25000",
            "--peer-port",
            "25001",
            "--api-port",
            "25002",
            "--tracker-port",
            "25003",
            "--tags-port",
            "25004",
        ],
        1,
        "another process",
    );
    fails(
        &["herd", "--listen", "0.0.0.0", "--data", &other],
        2,
        "--advertise",
    );
    fails(&["agent", "--data", &other], 2, "--herd");
    fails(
        &["tracker", "--data", "/proc/nowhere", "--port", "25003"],
        1,
        "/proc/nowhere",
    );
    fails(&["torrent", "show", "/etc/hostname"], 1, "/etc/hostname");
    fails(&["status", "--herd", "10.77.0.9"], 1, "10.77.0.9");
}
