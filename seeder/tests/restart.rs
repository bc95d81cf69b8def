//! What was acknowledged is there after any end, what was not is gone, and a start costs little.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{bed, config, header, json_of, noise, start_again};
use oci::Digest;
use seeder::{Origin, OriginError};
use torrents::hashing::{StreamHasher, piece_len_for};
use torrents::{Geometry, Info, Metainfo};

fn blob_dir(data: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    data.join("blobs/sha256").join(&hex[..2]).join(hex)
}

#[tokio::test]
async fn everything_survives_a_clean_end_and_a_crash() {
    let mut bed = bed().await;
    let layer = noise(20, 2_000_000);
    let digest = bed.push_image("team/app", "v1", &[&layer]).await;
    let layer_digest = Digest::sha256_of(&layer);
    let torrent_path = format!("/torrents/{layer_digest}?repo=team/app");
    let torrent = bed.api(&torrent_path).await.bytes().await.unwrap();
    let before = Metainfo::parse(&torrent).unwrap();
    for cleanly in [true, false, false, true] {
        bed = bed.restart(cleanly).await;
        let manifest = bed.send("GET", "/v2/team/app/manifests/v1").await;
        assert_eq!(
            header(&manifest, "docker-content-digest"),
            digest.to_string()
        );
        let got = bed
            .send("GET", &format!("/v2/team/app/blobs/{layer_digest}"))
            .await;
        assert_eq!(got.bytes().await.unwrap(), layer);
        let torrent = bed.api(&torrent_path).await.bytes().await.unwrap();
        let after = Metainfo::parse(&torrent).unwrap();
        assert_eq!(after.info.raw(), before.info.raw());
        let status = json_of(bed.api("/status").await).await;
        // The layer, the config and the manifest.
        assert_eq!(status["stored"]["torrents"], 3);
    }
}

#[tokio::test]
async fn what_was_not_acknowledged_is_gone() {
    let bed = bed().await;
    let session = bed.session("p/x").await;
    let patch = bed.request("PATCH", &session).body(noise(21, 1_500_000));
    assert_eq!(patch.send().await.unwrap().status(), 202);
    assert_eq!(bed.spooled().len(), 1);
    let bed = bed.restart(false).await;
    assert_eq!(bed.status("GET", &session).await, 404);
    assert!(bed.spooled().is_empty());
}

#[tokio::test]
async fn content_that_nobody_holds_goes_at_the_next_start() {
    let bed = bed().await;
    let (held, unheld) = (noise(30, 100_000), noise(31, 100_000));
    let (held, unheld) = (bed.push("p/x", held).await, bed.push("p/x", unheld).await);
    // As a deletion that was killed halfway once left it.
    let link = unheld.to_string().replace(':', "-");
    fs::remove_file(bed.data().join("repos/p/x/_blobs").join(link)).unwrap();
    let bed = bed.restart(false).await;
    assert!(!blob_dir(&bed.data(), &unheld).exists());
    assert!(blob_dir(&bed.data(), &held).exists());
    let status = json_of(bed.api("/status").await).await;
    assert_eq!(status["stored"]["torrents"], 1);
    assert_eq!(fs::read_dir(bed.data().join("aside")).unwrap().count(), 0);
    assert!(bed.spooled().is_empty());
}

/// `repos` is a mount that is missing, or was not copied: nothing is taken for deleted.
#[tokio::test]
async fn content_stays_where_no_repository_is_there_at_all() {
    let bed = bed().await;
    let blob = bed.push("p/x", noise(33, 100_000)).await;
    let (repos, elsewhere) = (bed.data().join("repos"), bed.data().join("elsewhere"));
    fs::rename(&repos, &elsewhere).unwrap();
    let bed = bed.restart(false).await;
    assert!(blob_dir(&bed.data(), &blob).exists());
    let path = format!("/v2/p/x/blobs/{blob}");
    assert_eq!(bed.status("HEAD", &path).await, 404);
    // A push has it back, and so has whoever brings the repositories back.
    assert_eq!(bed.push("p/new", noise(33, 100_000)).await, blob);
    fs::remove_dir_all(&repos).unwrap();
    fs::rename(&elsewhere, &repos).unwrap();
    let bed = bed.restart(false).await;
    assert_eq!(bed.status("HEAD", &path).await, 200);
}

#[tokio::test]
async fn a_deletion_that_failed_says_so_and_can_be_repeated() {
    let bed = bed().await;
    let blob = bed.push("p/x", noise(32, 100_000)).await;
    let manifest = bed.push_image("p/y", "v1", &[]).await;
    // The blob, the image's config and its manifest.
    let mut seeded = 3;
    // Content goes by way of the spool.
    let spool = bed.data().join("spool");
    for (path, digest) in [
        (format!("/v2/p/x/blobs/{blob}"), &blob),
        (format!("/v2/p/y/manifests/{manifest}"), &manifest),
    ] {
        fs::remove_dir_all(&spool).unwrap();
        assert_eq!(bed.status("DELETE", &path).await, 503);
        assert_eq!(bed.status("HEAD", &path).await, 200);
        let status = json_of(bed.api("/status").await).await;
        assert_eq!(status["stored"]["torrents"], seeded, "it is still seeded");
        fs::create_dir(&spool).unwrap();
        assert_eq!(bed.status("DELETE", &path).await, 202);
        assert_eq!(bed.status("HEAD", &path).await, 404);
        assert!(!blob_dir(&bed.data(), digest).exists());
        assert_eq!(bed.status("DELETE", &path).await, 404);
        seeded -= 1;
    }
}

/// Content goes before the link to it: a crash between the two leaves this.
#[tokio::test]
async fn a_link_to_nothing_can_be_deleted() {
    let bed = bed().await;
    let digest = bed.push_image("p/x", "v1", &[]).await;
    fs::remove_dir_all(blob_dir(&bed.data(), &digest)).unwrap();
    let bed = bed.restart(false).await;
    let path = format!("/v2/p/x/manifests/{digest}");
    assert_eq!(bed.status("HEAD", &path).await, 404);
    assert_eq!(bed.status("DELETE", &path).await, 202);
    assert_eq!(bed.status("DELETE", &path).await, 404);
}

#[tokio::test]
async fn damage_is_set_aside_and_healed_by_a_push() {
    let bed = bed().await;
    let contents = [noise(22, 300_000), noise(23, 300_000), noise(24, 300_000)];
    let mut digests = Vec::new();
    for content in &contents {
        digests.push(bed.push("p/x", content.clone()).await);
    }
    let data = bed.data();
    let dirs: Vec<_> = digests
        .iter()
        .map(|digest| blob_dir(&data, digest))
        .collect();
    // One is too short, one has lost its torrent, one its bytes.
    fs::File::options()
        .write(true)
        .open(dirs[0].join("data"))
        .unwrap()
        .set_len(5)
        .unwrap();
    for entry in fs::read_dir(&dirs[1]).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() != "data" {
            fs::remove_file(path).unwrap();
        }
    }
    fs::remove_file(dirs[2].join("data")).unwrap();
    let bed = bed.restart(true).await;
    assert_eq!(fs::read_dir(data.join("aside")).unwrap().count(), 3);
    for (digest, content) in digests.iter().zip(&contents) {
        let path = format!("/v2/p/x/blobs/{digest}");
        assert_eq!(bed.status("HEAD", &path).await, 404);
        bed.push("p/x", content.clone()).await;
        assert_eq!(bed.send("GET", &path).await.bytes().await.unwrap(), content);
    }
}

/// Files of a stored blob: its data, its torrent.
fn files_of(data: &Path, digest: &Digest) -> (PathBuf, PathBuf) {
    let dir = blob_dir(data, digest);
    let mut entries = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path());
    let torrent = entries.find(|path| !path.ends_with("data")).unwrap();
    (dir.join("data"), torrent)
}

/// Other bytes in a file, as many as there were.
fn spoil(path: &Path) {
    let length = usize::try_from(fs::metadata(path).unwrap().len()).unwrap();
    fs::write(path, noise(99, length)).unwrap();
}

#[tokio::test]
async fn lost_content_comes_back_with_a_push() {
    let bed = bed().await;
    let content = noise(25, 300_000);
    let digest = bed.push("p/x", content.clone()).await;
    let path = format!("/v2/p/x/blobs/{digest}");
    let image = common::image(&content, &[]);
    for again in 0..2 {
        fs::remove_file(files_of(&bed.data(), &digest).0).unwrap();
        // Whatever promises that the bytes are there looks.
        let mount = format!("/v2/p/y/blobs/uploads/?mount={digest}&from=p/x");
        assert_eq!(bed.status("POST", &mount).await, 202);
        let put = bed.put_manifest("p/x", "v1", &image).await;
        assert_eq!(common::code(put).await, "MANIFEST_BLOB_UNKNOWN");
        assert_eq!(bed.status("HEAD", &path).await, 404);
        bed.push("p/x", content.clone()).await;
        assert_eq!(bed.send("GET", &path).await.bytes().await.unwrap(), content);
        let torrent = bed.api(&format!("/torrents/{digest}?repo=p/x")).await;
        assert_eq!(torrent.status(), 200, "{again}");
    }
    assert_eq!(
        bed.put_manifest("p/x", "v1", &image).await.status(),
        201,
        "all of it is here again"
    );
}

/// As a disk does that no longer gives what it holds: opening fails, and not because nothing is
/// there.
fn bar(path: &Path) {
    fs::remove_file(path).unwrap();
    std::os::unix::fs::symlink(path, path).unwrap();
    let error = fs::File::open(path).unwrap_err();
    assert_ne!(error.kind(), std::io::ErrorKind::NotFound);
}

#[tokio::test]
async fn content_that_cannot_be_opened_comes_back_with_a_push() {
    let bed = bed().await;
    let layer = noise(33, 300_000);
    let layer_digest = Digest::sha256_of(&layer);
    let digest = bed.push_image("p/x", "v1", &[&layer]).await;
    let path = format!("/v2/p/x/blobs/{layer_digest}");
    let mount = format!("/v2/p/y/blobs/uploads/?mount={layer_digest}&from=p/x");
    let image = common::image(b"{\"layers\":1}", &[&layer]);

    bar(&blob_dir(&bed.data(), &layer_digest).join("data"));
    for method in ["HEAD", "GET"] {
        assert_eq!(bed.status(method, &path).await, 404);
    }
    assert_eq!(bed.status("POST", &mount).await, 202);
    let put = bed.put_manifest("p/x", "v2", &image).await;
    assert_eq!(common::code(put).await, "MANIFEST_BLOB_UNKNOWN");
    bed.push("p/x", layer.clone()).await;
    assert_eq!(bed.send("GET", &path).await.bytes().await.unwrap(), layer);

    bar(&blob_dir(&bed.data(), &digest).join("data"));
    assert_eq!(bed.status("GET", "/v2/p/x/manifests/v1").await, 404);
    let put = bed.put_manifest("p/x", "v1", &image).await;
    assert_eq!(put.status(), 201);
    let got = bed.send("GET", "/v2/p/x/manifests/v1").await;
    assert_eq!(got.text().await.unwrap(), image.to_string());
    let torrent = bed.api(&format!("/torrents/{layer_digest}?repo=p/x")).await;
    assert_eq!(torrent.status(), 200);
}

#[tokio::test]
async fn bytes_that_nobody_knew_to_be_wrong_are_replaced_by_a_push() {
    let bed = bed().await;
    let content = noise(26, 300_000);
    let digest = bed.push("p/x", content.clone()).await;
    spoil(&files_of(&bed.data(), &digest).0);
    bed.push("p/x", content.clone()).await;
    let bed = bed.restart(false).await;
    let got = bed.send("GET", &format!("/v2/p/x/blobs/{digest}")).await;
    assert_eq!(got.bytes().await.unwrap(), content);
    bed.spool_empties().await;
}

#[tokio::test]
async fn what_does_not_belong_there_keeps_nothing_from_starting() {
    let bed = bed().await;
    let (layer, barred) = (noise(34, 100_000), noise(35, 100_000));
    bed.push_image("p/x", "v1", &[&layer]).await;
    let barred_digest = bed.push("p/x", barred.clone()).await;
    let data = bed.data();
    let shard = blob_dir(&data, &Digest::sha256_of(&layer));
    let shard = shard.parent().unwrap();
    let no_directory = Digest::sha256_of(b"no directory");
    for stray in [
        data.join("repos/.DS_Store"),
        data.join("repos/notes"),
        data.join("repos/p/.DS_Store"),
        data.join("repos/p/x/.DS_Store"),
        data.join("blobs/.DS_Store"),
        data.join("blobs/sha256/.DS_Store"),
        shard.join(".DS_Store"),
        blob_dir(&data, &no_directory),
    ] {
        fs::write(stray, "stray").unwrap();
    }
    bar(&blob_dir(&data, &barred_digest).join("data"));
    let bed = bed.restart(true).await;
    let catalog = json_of(bed.send("GET", "/v2/_catalog").await).await;
    assert_eq!(catalog["repositories"], serde_json::json!(["p/x"]));
    for (digest, status) in [
        (Digest::sha256_of(&layer), 200),
        (barred_digest.clone(), 404),
    ] {
        let path = format!("/v2/p/x/blobs/{digest}");
        assert_eq!(bed.status("HEAD", &path).await, status);
    }
    bed.push("p/x", barred.clone()).await;
    bed.push("p/x", "no directory").await;
    let path = format!("/v2/p/x/blobs/{barred_digest}");
    assert_eq!(bed.send("GET", &path).await.bytes().await.unwrap(), barred);
}

#[tokio::test]
async fn a_damaged_torrent_is_made_anew() {
    let bed = bed().await;
    let content = noise(27, 300_000);
    let digest = bed.push("p/x", content.clone()).await;
    let path = format!("/torrents/{digest}?repo=p/x");
    let before = bed.api(&path).await.bytes().await.unwrap();
    for pushed in [false, true] {
        spoil(&files_of(&bed.data(), &digest).1);
        if pushed {
            bed.push("p/x", content.clone()).await;
        } else {
            assert_eq!(bed.api(&path).await.status(), 503);
        }
        let deadline = Instant::now() + common::SOON;
        let mut after = bed.api(&path).await;
        while after.status() != 200 && !pushed && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
            after = bed.api(&path).await;
        }
        assert_eq!(after.bytes().await.unwrap(), before);
    }
    let got = bed.send("GET", &format!("/v2/p/x/blobs/{digest}")).await;
    assert_eq!(got.bytes().await.unwrap(), content);
}

#[tokio::test]
async fn wrong_bytes_are_set_aside_once_somebody_notices() {
    let bed = bed().await;
    let layer = noise(28, 300_000);
    let digest = bed.push_image("p/x", "v1", &[&layer]).await;
    let layer_digest = Digest::sha256_of(&layer);
    // A manifest is looked at whenever it is read, a layer when its torrent fails.
    spoil(&files_of(&bed.data(), &digest).0);
    assert_eq!(bed.status("GET", "/v2/p/x/manifests/v1").await, 404);
    let (bytes, torrent) = files_of(&bed.data(), &layer_digest);
    spoil(&bytes);
    spoil(&torrent);
    let api = format!("/torrents/{layer_digest}?repo=p/x");
    assert_eq!(bed.api(&api).await.status(), 503);
    let aside = bed.data().join("aside");
    common::soon(|| fs::read_dir(&aside).unwrap().count() == 2).await;
    let path = format!("/v2/p/x/blobs/{layer_digest}");
    assert_eq!(bed.status("HEAD", &path).await, 404);
    assert_eq!(bed.push_image("p/x", "v1", &[&layer]).await, digest);
    let bed = bed.restart(false).await;
    assert_eq!(bed.send("GET", &path).await.bytes().await.unwrap(), layer);
    assert_eq!(bed.status("GET", "/v2/p/x/manifests/v1").await, 200);
    assert_eq!(bed.api(&api).await.status(), 200);
}

#[tokio::test]
async fn a_damaged_tag_is_mended_by_a_push() {
    let bed = bed().await;
    let digest = bed.push_image("p/x", "v1", &[b"layer"]).await;
    let tag = bed.data().join("repos/p/x/_tags/v1");
    fs::write(&tag, "").unwrap();
    assert_eq!(bed.status("GET", "/v2/p/x/manifests/v1").await, 503);
    assert_eq!(bed.push_image("p/x", "v1", &[b"layer"]).await, digest);
    assert_eq!(bed.status("GET", "/v2/p/x/manifests/v1").await, 200);
    // Nor does it keep anything from being deleted.
    fs::write(&tag, "").unwrap();
    let path = format!("/v2/p/x/manifests/{digest}");
    assert_eq!(bed.status("DELETE", &path).await, 202);
}

#[tokio::test]
async fn a_directory_has_one_owner() {
    let bed = bed().await;
    let error = Origin::start(bed.config.clone()).await.unwrap_err();
    assert!(matches!(error, OriginError::Locked { .. }));
    assert!(error.to_string().contains("\nhint: "), "{error}");
}

#[tokio::test]
async fn what_is_in_the_way_is_named() {
    let bed = bed().await;
    let dir = tempfile::tempdir().unwrap();
    let mut taken = config(&dir.path().join("data"));
    taken.api = bed.origin.addrs().registry;
    let error = Origin::start(taken.clone()).await.unwrap_err().to_string();
    let expected = format!("cannot listen on {} for the origin API", taken.api);
    assert!(error.starts_with(&expected), "{error}");

    let mut everywhere = config(&dir.path().join("data"));
    everywhere.peer = "0.0.0.0:0".parse().unwrap();
    let error = Origin::start(everywhere.clone()).await.unwrap_err();
    assert!(matches!(error, OriginError::NoAddress { .. }));
    assert!(error.to_string().contains("--advertise"), "{error}");
    everywhere.advertise = Some("127.0.0.1".parse().unwrap());
    Origin::start(everywhere).await.unwrap().shutdown().await;

    let file = dir.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let error = Origin::start(config(&file)).await.unwrap_err();
    assert!(matches!(error, OriginError::Data { .. }), "{error}");
    assert!(error.to_string().contains("file"), "{error}");

    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("format"), "something else 7\n").unwrap();
    let error = Origin::start(config(&foreign))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("another version"), "{error}");
}

/// A store as an origin leaves it, without the time a thousand pushes take.
fn thousand_blobs(data: &Path) -> Vec<Digest> {
    let links = data.join("repos/many/_blobs");
    fs::create_dir_all(&links).unwrap();
    (0..1_000)
        .map(|n| {
            let content = noise(1_000 + n, 1_000);
            let digest = Digest::sha256_of(&content);
            let dir = blob_dir(data, &digest);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("data"), &content).unwrap();
            let mut hasher = StreamHasher::new();
            hasher.update(&content);
            let hashed = hasher.finish();
            assert_eq!(hashed.piece_len, piece_len_for(1_000));
            let geometry = Geometry::new(1_000, u64::from(hashed.piece_len)).unwrap();
            let info = Info::build(&digest.torrent_name(), geometry, &hashed.pieces).unwrap();
            fs::write(
                dir.join(format!("torrent-{}-1000", info.hash())),
                info.raw(),
            )
            .unwrap();
            fs::write(links.join(digest.to_string().replace(':', "-")), "").unwrap();
            digest
        })
        .collect()
}

#[tokio::test]
async fn a_thousand_blobs_are_seeded_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("data"));
    let digests = thousand_blobs(&config.data);
    let begun = Instant::now();
    let origin = start_again(&config).await;
    let took = begun.elapsed();
    // Generous: this is milliseconds on a machine that does nothing else.
    assert!(took < Duration::from_secs(20), "the start took {took:?}");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/status", origin.addrs().api);
    let status = json_of(client.get(url).send().await.unwrap()).await;
    assert_eq!(status["stored"]["torrents"], 1_000);
    for digest in digests.iter().step_by(250) {
        let url = format!("http://{}/torrents/{digest}", origin.addrs().api);
        let torrent = client.get(url).send().await.unwrap().bytes().await.unwrap();
        let metainfo = Metainfo::parse(&torrent).unwrap();
        let ours = origin.engine().torrent(metainfo.info.hash());
        assert!(ours.is_none(), "a torrent without peers is not open");
    }
    println!("a start over 1,000 blobs took {took:?}");
    origin.shutdown().await;
}
