//! Pulls through an agent while something is broken: origins gone, swarms that stall, lies,
//! disks, restarts.

mod harness;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use harness::{DEADLINE, World, error_code, files_below, info_of, named_info, noise};
use leecher::Rates;
use oci::Digest;
use registry_shim::status::{BlobPhase, HerdState};
use registry_shim::{Agent, AgentError};
use reqwest::StatusCode;
use tokio::time::timeout;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_the_origin_gone_peers_give_manifest_and_layers_by_digest() {
    let mut world = World::new().await;
    let layers = [noise(1, 2 * MIB), noise(2, 300)];
    let digest = world.image("team/app", "v1", &layers).await;
    let config = Digest::sha256_of(b"{\"tag\":\"v1\"}");
    let one = world.agent("one").await;
    assert_eq!(
        one.manifest("team/app", "v1").await.status(),
        StatusCode::OK
    );
    for blob in [
        &config,
        &Digest::sha256_of(&layers[0]),
        &Digest::sha256_of(&layers[1]),
    ] {
        one.blob("team/app", blob).await.bytes().await.unwrap();
        one.until(blob, |b| b.phase == BlobPhase::Complete).await;
    }
    world.origin.stop().await;

    let two = world.agent("two").await;
    let manifest = two.manifest("team/app", &digest.to_string()).await;
    assert_eq!(manifest.status(), StatusCode::OK);
    assert_eq!(
        manifest.headers()["content-type"],
        oci::manifest::OCI_MANIFEST
    );
    let manifest = manifest.bytes().await.unwrap();
    assert_eq!(Digest::sha256_of(&manifest), digest);
    for layer in &layers {
        let body = two.blob("team/app", &Digest::sha256_of(layer)).await;
        assert!(body.bytes().await.unwrap() == *layer);
    }
    let large = Digest::sha256_of(&layers[0]);
    let status = two.until(&large, |b| b.phase == BlobPhase::Complete).await;
    assert_eq!(status.from_peers, layers[0].len() as u64, "{status:?}");
    assert_eq!(two.status().await.herds[0].state, HerdState::Unreachable);

    // A tag nobody here has seen needs an origin, and the answer says so.
    let (status, code, message) = error_code(two.manifest("team/app", "v1").await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{code}");
    assert!(message.contains("team/app:v1") && message.contains(&world.herd().name()));
    one.agent.shutdown().await;
    two.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_seen_tag_is_served_from_memory_only_while_no_origin_answers() {
    let mut world = World::new().await;
    let old = world.image("team/app", "v1", &[noise(3, 100)]).await;
    let new = world.image("team/app", "v2", &[noise(4, 100)]).await;
    let agent = world.agent("agent").await;
    assert_eq!(
        agent.manifest("team/app", "v1").await.status(),
        StatusCode::OK
    );
    agent.agent.shutdown().await;
    world.origin.stop_http().await;

    // Also after a restart: it is on the disk.
    let agent = world.agent("agent").await;
    let response = agent.manifest("team/app", "v1").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["docker-content-digest"], old.to_string());

    world.origin.tag("team/app", "v1", &new);
    world.origin.restart_http().await;
    let response = agent.manifest("team/app", "v1").await;
    assert_eq!(response.headers()["docker-content-digest"], new.to_string());
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_of_a_herd_that_is_down_is_not_gone_because_another_lacks_it() {
    let mut world = World::new().await;
    let other = World::new().await;
    let layer = noise(5, MIB);
    let digest = world
        .image("team/app", "v1", std::slice::from_ref(&layer))
        .await;
    let layer_digest = Digest::sha256_of(&layer);
    let mut config = world.config("agent");
    config.herds.push(other.herd());
    let agent = world.agent_with(config).await;
    let status = async |path: &str| agent.get(&format!("/v2/team/app/{path}")).await.status();
    assert_eq!(status("manifests/v1").await, StatusCode::OK);
    world.origin.stop_http().await;

    // Twice: the first answer must not have forgotten anything.
    assert_eq!(status("manifests/v1").await, StatusCode::OK);
    assert_eq!(status("manifests/v1").await, StatusCode::OK);
    let by_digest = format!("manifests/{digest}");
    assert_eq!(status(&by_digest).await, StatusCode::OK);
    // Its registry is silent, its swarm is not.
    let blob = agent.blob("team/app", &layer_digest).await;
    assert_eq!(blob.status(), StatusCode::OK);
    assert!(blob.bytes().await.unwrap() == layer);
    let unseen = agent.manifest("team/app", "v9").await;
    let (unavailable, _, message) = error_code(unseen).await;
    assert_eq!(unavailable, StatusCode::SERVICE_UNAVAILABLE);
    let (down, up) = (world.herd().name(), other.herd().name());
    assert!(
        message.contains(&down) && message.contains(&up),
        "{message}"
    );
    let referrers = format!("referrers/{digest}");
    for list in ["tags/list", &referrers] {
        assert_eq!(
            status(list).await,
            StatusCode::SERVICE_UNAVAILABLE,
            "{list}"
        );
    }

    world.origin.restart_http().await;
    assert_eq!(status("manifests/v9").await, StatusCode::NOT_FOUND);
    world.origin.untag("team/app", "v1");
    assert_eq!(status("manifests/v1").await, StatusCode::NOT_FOUND);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_seen_tag_does_not_wait_for_an_origin_that_hangs() {
    let world = World::new().await;
    let digest = world.image("team/app", "v1", &[noise(45, 100)]).await;
    let mut config = world.config("agent");
    config.patience.origin = 2 * DEADLINE;
    config.patience.manifest = 2 * DEADLINE;
    let agent = world.agent_with(config).await;
    assert_eq!(
        agent.manifest("team/app", "v1").await.status(),
        StatusCode::OK
    );
    world.origin.table.hanging.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let answer = timeout(DEADLINE, agent.manifest("team/app", "v1"));
        let answer = answer.await.unwrap();
        assert_eq!(
            answer.headers()["docker-content-digest"],
            digest.to_string()
        );
    }
    assert_eq!(agent.status().await.herds[0].state, HerdState::Unreachable);
    world.origin.table.hanging.store(false, Ordering::SeqCst);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cold_blob_is_refused_in_time_when_herd_and_tracker_hang() {
    let world = World::new().await;
    let digest = world.blob("team/app", noise(46, 100)).await;
    let mut config = world.config("agent");
    config.patience.origin = 2 * DEADLINE;
    // One that accepts connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    config.herds[0].trackers = vec![harness::url(silent.local_addr().unwrap())];
    let agent = world.agent_with(config).await;
    world.origin.table.hanging.store(true, Ordering::SeqCst);
    let answer = timeout(DEADLINE, agent.blob("team/app", &digest)).await;
    let (status, _, message) = error_code(answer.unwrap()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(message.contains(&world.herd().name()), "{message}");
    assert!(message.contains("trackers: no answer"), "{message}");
    world.origin.table.hanging.store(false, Ordering::SeqCst);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_origin_that_answers_5xx_is_told_as_503_with_its_reason() {
    let world = World::new().await;
    world.origin.table.broken.store(true, Ordering::SeqCst);
    let agent = world.agent("agent").await;
    let (status, _, message) = error_code(agent.manifest("team/app", "v1").await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(message.contains("the disk is on fire"), "{message}");
    assert_eq!(agent.api("/health").await.status(), StatusCode::OK);
    // The tracker answers, so content in the swarm can still be had.
    assert_eq!(agent.api("/readiness").await.status(), StatusCode::OK);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_that_makes_no_sense_is_told_as_502_and_is_no_silence() {
    let world = World::new().await;
    let digest = world.image("team/app", "v1", &[noise(47, 100)]).await;
    let referrer = serde_json::json!({
        "mediaType": oci::manifest::OCI_MANIFEST, "digest": digest, "size": 7,
        "annotations": {"much": "x".repeat(9 * MIB)},
    });
    world.origin.refer("team/app", &digest, referrer);
    let agent = world.agent("agent").await;
    let referrers = format!("/v2/team/app/referrers/{digest}");
    let (status, _, message) = error_code(agent.get(&referrers).await).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(message.contains("more than 8388608 bytes"), "{message}");
    assert_eq!(agent.status().await.herds[0].state, HerdState::Reachable);

    world.origin.table.odd.store(true, Ordering::SeqCst);
    let paths = [
        "manifests/v1".to_owned(),
        format!("blobs/{}", Digest::sha256_of(&noise(47, 100))),
        "tags/list".to_owned(),
    ];
    for path in &paths {
        let answer = agent.get(&format!("/v2/team/app/{path}")).await;
        if path.starts_with("blobs") {
            // Its swarm is there all the same.
            assert_eq!(answer.status(), StatusCode::OK);
            continue;
        }
        let (status, _, message) = error_code(answer).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{path}");
        assert!(
            message.contains("only tea") && message.contains("418"),
            "{message}"
        );
    }
    assert_eq!(agent.status().await.herds[0].state, HerdState::Reachable);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_agent_starts_before_its_herd_and_recovers_by_itself() {
    let mut world = World::new().await;
    let layer = noise(5, MIB);
    let digest = world.blob("team/app", layer.clone()).await;
    world.origin.stop_http().await;
    let mut config = world.config("agent");
    // Nothing but the origin can help.
    config.herds[0].trackers.clear();
    let agent = world.agent_with(config).await;
    let readiness = agent.api("/readiness").await;
    assert_eq!(readiness.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        readiness
            .text()
            .await
            .unwrap()
            .contains(&world.herd().name())
    );
    let (status, _, message) = error_code(agent.blob("team/app", &digest).await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(message.contains(&digest.to_string()), "{message}");
    world.origin.restart_http().await;
    let body = agent.blob("team/app", &digest).await.bytes().await.unwrap();
    assert!(body == layer);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stalled_body_is_cut_the_retry_hears_why_and_a_later_one_succeeds() {
    let world = World::new().await;
    let layer = noise(6, 2 * MIB);
    let digest = world.blob("team/app", layer.clone()).await;
    world
        .origin
        .table
        .hide_sources
        .store(true, Ordering::SeqCst);
    let agent = world.agent("agent").await;

    let response = agent.blob("team/app", &digest).await;
    assert_eq!(response.status(), StatusCode::OK);
    let cut = timeout(DEADLINE, response.bytes()).await.unwrap();
    assert!(cut.is_err(), "a body without a source ended well");
    let (status, _, message) = error_code(agent.range("team/app", &digest, "0-").await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(message.contains("no peer and no web seed"), "{message}");

    // The download goes on underneath: once a peer is there, so is the content.
    agent.introduce(&info_of(&layer), &[world.origin.peer()]);
    agent
        .until(&digest, |b| b.phase == BlobPhase::Complete)
        .await;
    let body = agent
        .range("team/app", &digest, "100-")
        .await
        .bytes()
        .await
        .unwrap();
    assert!(body == layer.slice(100..));
    let metrics = agent.api("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("swell_agent_stalls_total 1"), "{metrics}");
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_waits_for_a_source_of_bad_bytes_is_told_that_they_were_bad() {
    let world = World::new().await;
    let layer = noise(48, MIB);
    let digest = world.blob("team/app", layer.clone()).await;
    // The right torrent, seeded from a file that is not what it was.
    world.origin.seed(&noise(49, MIB), &info_of(&layer)).await;
    world.origin.table.no_web_seed.store(true, Ordering::SeqCst);
    let agent = world.agent("agent").await;
    let told = async {
        loop {
            let response = agent.blob("team/app", &digest).await;
            if response.status() != StatusCode::OK {
                return error_code(response).await;
            }
            let cut = response.bytes().await;
            assert!(cut.is_err(), "a body of bad bytes ended well");
        }
    };
    let (status, _, message) = timeout(DEADLINE, told).await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(message.contains("thrown away"), "{message}");
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_end_of_content_with_a_wrong_digest_never_goes_out() {
    let world = World::new().await;
    let layer = noise(7, 2 * MIB);
    let digest = world.blob("team/app", layer.clone()).await;
    // A torrent that is whole in itself, of other bytes, under the name of this digest.
    let forged = noise(8, 2 * MIB);
    let lie = named_info(&forged, &digest.torrent_name());
    world.origin.seed(&forged, &lie).await;
    let lies = &world.origin.table.lies;
    lies.lock().unwrap().insert(digest.clone(), lie);
    world.origin.table.no_web_seed.store(true, Ordering::SeqCst);
    let agent = world.agent("agent").await;

    let response = agent.blob("team/app", &digest).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.bytes_stream();
    let mut got = 0;
    let ended = loop {
        match timeout(DEADLINE, body.next()).await.unwrap() {
            Some(Ok(bytes)) => got += bytes.len(),
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert!(
        ended && got < layer.len(),
        "{got} bytes of the forgery went out"
    );
    let failed = agent.until(&digest, |b| b.phase == BlobPhase::Failed).await;
    assert!(failed.note.unwrap().contains("not this content"));
    let (status, _, _) = error_code(agent.range("team/app", &digest, "5-").await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);

    // Nothing of it stays; the truth is taken when it is told.
    lies.lock().unwrap().clear();
    let deadline = Instant::now() + DEADLINE;
    let body = loop {
        let response = agent.blob("team/app", &digest).await;
        if response.status() == StatusCode::OK {
            break response.bytes().await.unwrap();
        }
        assert!(Instant::now() < deadline, "still {}", response.status());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(body == layer);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_exceeds_the_capacity_goes_but_not_what_is_read() {
    let world = World::new().await;
    let layers: Vec<_> = (0..4).map(|n| noise(20 + n, MIB)).collect();
    let mut digests = Vec::new();
    for layer in &layers {
        digests.push(world.blob("team/app", layer.clone()).await);
    }
    let mut config = world.config("agent");
    config.capacity = Some(2 * MIB as u64 + 1000);
    let agent = world.agent_with(config).await;

    // A reader that has taken nothing yet of the first one protects it.
    let first = agent
        .blob("team/app", &digests[0])
        .await
        .bytes()
        .await
        .unwrap();
    assert!(first == layers[0]);
    agent.until_idle().await;
    let reader = agent.blob("team/app", &digests[0]).await;
    for (digest, layer) in digests.iter().zip(&layers).skip(1) {
        let body = agent.blob("team/app", digest).await.bytes().await.unwrap();
        assert!(body == *layer);
        agent.until_idle().await;
    }
    let within = async {
        while agent.status().await.cache.bytes > 2 * MIB as u64 + 1000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, within).await.unwrap();
    assert!(reader.bytes().await.unwrap() == layers[0]);
    let info = info_of(&layers[1]);
    assert!(
        agent.agent.engine().torrent(info.hash()).is_none(),
        "evicted but seeded"
    );
    let again = agent
        .blob("team/app", &digests[1])
        .await
        .bytes()
        .await
        .unwrap();
    assert!(again == layers[1]);
    let metrics = agent.api("/metrics").await.text().await.unwrap();
    assert!(
        !metrics.contains("swell_agent_evictions_total 0"),
        "{metrics}"
    );
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn layers_asked_for_at_once_all_have_room_made_for_them() {
    let world = World::new().await;
    let layers: Vec<_> = (0..5).map(|n| noise(50 + n, MIB)).collect();
    let mut digests = Vec::new();
    for layer in &layers {
        digests.push(world.blob("team/app", layer.clone()).await);
    }
    let mut config = world.config("agent");
    config.capacity = Some(3 * MIB as u64);
    let agent = world.agent_with(config).await;
    let (old, new) = digests.split_at(2);
    for digest in old {
        agent.blob("team/app", digest).await.bytes().await.unwrap();
        agent.until_idle().await;
    }
    assert_eq!(agent.status().await.cache.bytes, 2 * MIB as u64);

    // Nothing comes of these, so that what they will take is all that makes the others go.
    let table = &world.origin.table;
    table.hide_sources.store(true, Ordering::SeqCst);
    let asked = new.iter().map(|digest| agent.blob("team/app", digest));
    for response in futures_util::future::join_all(asked).await {
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert_eq!(agent.status().await.cache.bytes, 0);
    for digest in new {
        let status = agent.blob_status(digest).await.unwrap();
        assert_eq!(status.phase, BlobPhase::Downloading, "{status:?}");
    }
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restart_keeps_what_is_complete_and_resumes_what_is_not() {
    let mut world = World::new().await;
    let (whole, half) = (noise(30, MIB), noise(31, 6 * MIB));
    let whole_digest = world.blob("team/app", whole.clone()).await;
    let half_digest = world.blob("team/app", half.clone()).await;
    world.origin.table.no_web_seed.store(true, Ordering::SeqCst);
    let agent = world.agent("agent").await;
    agent
        .blob("team/app", &whole_digest)
        .await
        .bytes()
        .await
        .unwrap();
    agent
        .until(&whole_digest, |b| b.phase == BlobPhase::Complete)
        .await;
    world.origin.engine.set_limits(Rates {
        upload: Some(MIB as u64),
        ..Rates::default()
    });
    let reading = agent.blob("team/app", &half_digest).await;
    agent
        .until(&half_digest, |b| b.verified >= MIB as u64)
        .await;
    drop(reading);
    agent.agent.shutdown().await;
    world.origin.engine.set_limits(Rates::default());

    let agent = world.agent("agent").await;
    let peer = agent.agent.addrs().peer;
    let announced = async {
        let hash = info_of(&whole).hash();
        while !world.tracker.peers_of(hash).contains(&peer) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, announced).await.unwrap();
    let body = agent
        .blob("team/app", &half_digest)
        .await
        .bytes()
        .await
        .unwrap();
    assert!(body == half);
    let status = agent
        .until(&half_digest, |b| b.phase == BlobPhase::Complete)
        .await;
    assert!(
        status.from_origin <= (half.len() - MIB) as u64,
        "{status:?}"
    );

    // What is complete needs nobody.
    world.origin.stop().await;
    let body = agent
        .blob("team/app", &whole_digest)
        .await
        .bytes()
        .await
        .unwrap();
    assert!(body == whole);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_damaged_manifest_is_fetched_again() {
    let world = World::new().await;
    let digest = world.image("team/app", "v1", &[noise(40, 10)]).await;
    let agent = world.agent("agent").await;
    let manifest = agent
        .manifest("team/app", "v1")
        .await
        .bytes()
        .await
        .unwrap();
    agent.agent.shutdown().await;
    let stored = world.dir.path().join("agent/content/complete");
    let mut bytes = manifest.to_vec();
    bytes[0] ^= 1;
    std::fs::write(stored.join(digest.torrent_name()), bytes).unwrap();

    let agent = world.agent("agent").await;
    let again = agent.manifest("team/app", &digest.to_string()).await;
    assert_eq!(again.bytes().await.unwrap(), manifest);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_damaged_blob_is_fetched_again() {
    let world = World::new().await;
    let layer = noise(43, MIB);
    let digest = world.blob("team/app", layer.clone()).await;
    let agent = world.agent("agent").await;
    agent.blob("team/app", &digest).await.bytes().await.unwrap();
    let stored = world.dir.path().join("agent/content/complete");
    let stored = stored.join(digest.torrent_name());
    agent.until_idle().await;
    let file = std::fs::File::options().write(true).open(&stored).unwrap();
    file.set_len(1000).unwrap();
    let body = agent.blob("team/app", &digest).await.bytes();
    assert!(timeout(DEADLINE, body).await.unwrap().unwrap() == layer);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_origin_is_still_fetching_has_headers_at_once_and_a_body_later() {
    let world = World::new().await;
    let layer = noise(44, MIB);
    let digest = world.blob("team/app", layer.clone()).await;
    world.origin.table.growing.store(true, Ordering::SeqCst);
    let agent = world.agent("agent").await;
    let response = timeout(DEADLINE, agent.blob("team/app", &digest))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.content_length(), Some(layer.len() as u64));
    assert!(agent.blob_status(&digest).await.is_none());
    world.origin.table.growing.store(false, Ordering::SeqCst);
    let body = timeout(DEADLINE, response.bytes()).await.unwrap().unwrap();
    assert!(body == layer);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_one_repository_lacks_is_not_missing_in_another() {
    let world = World::new().await;
    let layer = noise(45, MIB);
    let digest = Digest::sha256_of(&layer);
    world
        .image("team/app", "v1", std::slice::from_ref(&layer))
        .await;
    let agent = world.agent("agent").await;
    // The manifest says how long the layer is, so headers go out without an answer.
    let manifest = agent.manifest("team/app", "v1").await;
    assert_eq!(manifest.status(), StatusCode::OK);
    let hanging = &world.origin.table.hanging;
    hanging.store(true, Ordering::SeqCst);
    let foreign = agent.blob("other/app", &digest).await;
    assert_eq!(foreign.status(), StatusCode::OK);
    hanging.store(false, Ordering::SeqCst);
    let cut = timeout(DEADLINE, foreign.bytes()).await.unwrap();
    assert!(cut.is_err(), "a repository gave what it lacks");

    let own = agent.blob("team/app", &digest).await;
    assert_eq!(own.status(), StatusCode::OK);
    assert!(own.bytes().await.unwrap() == layer);
    let again = agent.blob("other/app", &digest).await;
    assert_eq!(again.status(), StatusCode::NOT_FOUND);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn small_blobs_come_from_the_origin_by_http_and_are_seeded_all_the_same() {
    let world = World::new().await;
    let layer = noise(41, 5000);
    let digest = world.blob("team/app", layer.clone()).await;
    let agent = world.agent("agent").await;
    let body = agent.blob("team/app", &digest).await.bytes().await.unwrap();
    assert!(body == layer);
    let hash = info_of(&layer).hash();
    let peer = agent.agent.addrs().peer;
    let announced = async {
        while !world.tracker.peers_of(hash).contains(&peer) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, announced).await.unwrap();
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_the_tracker_dead_the_origin_alone_is_enough() {
    let world = World::new().await;
    world.tracker.silence(true);
    let layer = noise(42, 3 * MIB);
    let digest = world.blob("team/app", layer.clone()).await;
    world.origin.table.no_web_seed.store(true, Ordering::SeqCst);
    let agent = world.agent("agent").await;
    let body = agent.blob("team/app", &digest).await.bytes();
    assert!(timeout(DEADLINE, body).await.unwrap().unwrap() == layer);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_taken_port_or_directory_is_one_clear_sentence() {
    let world = World::new().await;
    let agent = world.agent("agent").await;
    let mut config = world.config("other");
    config.registry = agent.agent.addrs().registry;
    let error = Agent::start(config).await.unwrap_err();
    assert!(matches!(error, AgentError::Listen { .. }), "{error:?}");
    assert!(error.to_string().contains("address in use"), "{error}");

    let error = Agent::start(world.config("agent")).await.unwrap_err();
    assert!(
        error.to_string().contains("in use by another process"),
        "{error}"
    );

    let mut config = world.config("third");
    config.peer = "0.0.0.0:0".parse().unwrap();
    let error = Agent::start(config).await.unwrap_err();
    assert!(error.to_string().contains("--advertise"), "{error}");
    agent.agent.shutdown().await;
    // Given up, the directory is free again.
    world.agent("agent").await.agent.shutdown().await;
    assert_eq!(files_below(&world.dir.path().join("third")), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hanging_origin_keeps_nobody_beyond_his_patience() {
    let world = World::new().await;
    world.origin.table.hanging.store(true, Ordering::SeqCst);
    let mut config = world.config("agent");
    config.patience.origin = Duration::from_millis(500);
    let agent = world.agent_with(config).await;
    // Docker waits 15 s for this one at most, and no herd has a say in it.
    let base = timeout(Duration::from_secs(5), agent.get("/v2/"))
        .await
        .unwrap();
    assert_eq!(base.status(), StatusCode::OK);
    let answer = timeout(Duration::from_secs(14), agent.manifest("team/app", "v1"));
    let (status, _, message) = error_code(answer.await.unwrap()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(message.contains("no answer in time"), "{message}");
    world.origin.table.hanging.store(false, Ordering::SeqCst);
    agent.agent.shutdown().await;
}
