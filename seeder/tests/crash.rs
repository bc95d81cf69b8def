//! `kill -9` in the middle of pushes: what was acknowledged is there, what was not is gone.
//!
//! The origin that dies is a process of its own: this test binary again, told by a variable
//! which directory to serve.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::path::Path;
use std::process::Stdio;

use common::{config, header, image, noise, start_again};
use oci::Digest;
use seeder::Origin;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const DATA: &str = "SWELL_TEST_CRASH_DATA";

/// Not a test of its own: the process that is killed. Without the variable it does nothing.
#[tokio::test]
async fn the_process_that_dies() {
    let Some(data) = std::env::var_os(DATA) else {
        return;
    };
    let origin = Origin::start(config(Path::new(&data))).await.unwrap();
    println!("\nregistry={}", origin.addrs().registry);
    std::future::pending::<()>().await;
}

async fn start(data: &Path) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_dies", "--nocapture"])
        .env(DATA, data)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines: Lines<BufReader<ChildStdout>> =
        BufReader::new(child.stdout.take().unwrap()).lines();
    loop {
        let line = lines
            .next_line()
            .await
            .unwrap()
            .expect("it says where it listens");
        if let Some(addr) = line.strip_prefix("registry=") {
            return (child, format!("http://{addr}"));
        }
    }
}

/// Pushes images until the connection breaks; the tags that were acknowledged.
async fn push_until_death(client: reqwest::Client, base: String, round: u64) -> Vec<Pushed> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        let layer = noise(round * 1_000 + n, 300_000);
        match push(&client, &base, &format!("v{round}-{n}"), &layer).await {
            Ok(pushed) => acknowledged.push(pushed),
            Err(_) => break,
        }
    }
    acknowledged
}

#[derive(Clone)]
struct Pushed {
    tag: String,
    manifest: Digest,
    layer: Digest,
}

async fn push(
    client: &reqwest::Client,
    base: &str,
    tag: &str,
    layer: &[u8],
) -> Result<Pushed, reqwest::Error> {
    for blob in [b"{}".as_slice(), layer] {
        let digest = Digest::sha256_of(blob);
        let url = format!("{base}/v2/team/app/blobs/uploads/?digest={digest}");
        let post = client.post(url).body(blob.to_vec()).send().await?;
        assert_eq!(post.status(), 201);
    }
    let manifest = image(b"{}", &[layer]).to_string();
    let put = client
        .put(format!("{base}/v2/team/app/manifests/{tag}"))
        .header("content-type", common::OCI_MANIFEST)
        .body(manifest.clone())
        .send()
        .await?;
    assert_eq!(put.status(), 201);
    Ok(Pushed {
        tag: tag.to_owned(),
        manifest: Digest::sha256_of(manifest.as_bytes()),
        layer: Digest::sha256_of(layer),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_being_killed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let (mut child, base) = start(&data).await;
        let pushing = tokio::spawn(push_until_death(client.clone(), base.clone(), round));
        // Killed in the middle of something, whatever it is: once two tags are there.
        let watched = format!("{base}/v2/team/app/manifests/v{round}-1");
        while client.head(&watched).send().await.unwrap().status() != 200 {}
        child.kill().await.unwrap();
        acknowledged.extend(pushing.await.unwrap());
    }
    let origin = start_again(&config(&data)).await;
    let base = format!("http://{}", origin.addrs().registry);
    assert!(acknowledged.len() >= 3, "{}", acknowledged.len());
    for Pushed {
        tag,
        manifest,
        layer,
    } in acknowledged
    {
        let got = client
            .get(format!("{base}/v2/team/app/manifests/{tag}"))
            .send()
            .await
            .unwrap();
        assert_eq!(header(&got, "docker-content-digest"), manifest.to_string());
        let got = client
            .get(format!("{base}/v2/team/app/blobs/{layer}"))
            .send()
            .await
            .unwrap();
        assert_eq!(Digest::sha256_of(&got.bytes().await.unwrap()), layer);
        let url = format!("http://{}/torrents/{layer}", origin.addrs().api);
        assert_eq!(client.get(url).send().await.unwrap().status(), 200);
    }
    assert_eq!(std::fs::read_dir(data.join("spool")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(data.join("aside")).unwrap().count(), 0);
    origin.shutdown().await;
}
