//! Pulls through an agent while everything works: sources, single flight, ranges, headers.

mod harness;

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use harness::origin::HeadStarts;
use harness::{Client, DEADLINE, World, error_code, info_of, json, noise};
use leecher::Rates;
use oci::Digest;
use registry_shim::status::BlobPhase;
use reqwest::StatusCode;
use tokio::time::timeout;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_image_travels_from_origin_to_agent_to_agent() {
    let world = World::new().await;
    let layers = [noise(1, 3 * MIB + 17), noise(2, 700)];
    let digest = world.image("team/app", "v1", &layers).await;

    let one = world.agent("one").await;
    let response = one.manifest("team/app", "v1").await;
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers().clone();
    assert_eq!(headers["docker-content-digest"], digest.to_string());
    assert_eq!(headers["content-type"], oci::manifest::OCI_MANIFEST);
    let manifest = response.bytes().await.unwrap();
    assert_eq!(Digest::sha256_of(&manifest), digest);
    for layer in &layers {
        let got = one.blob("team/app", &Digest::sha256_of(layer)).await;
        assert_eq!(got.status(), StatusCode::OK);
        assert_eq!(got.content_length(), Some(layer.len() as u64));
        assert_eq!(got.bytes().await.unwrap(), layer);
    }
    let large = Digest::sha256_of(&layers[0]);
    let from_origin = one.until(&large, |b| b.phase == BlobPhase::Complete).await;
    assert_eq!(from_origin.from_peers, 0);
    assert_eq!(
        from_origin.from_origin + from_origin.from_web_seed,
        layers[0].len() as u64
    );
    assert!(from_origin.first_byte_ms.is_some());

    // The second agent meets the first one, and its bytes are told apart.
    let info = info_of(&layers[0]);
    let two = world.agent("two").await;
    let wanted = one.agent.addrs().peer;
    let known = async {
        while !world.tracker.peers_of(info.hash()).contains(&wanted) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, known).await.unwrap();
    world.origin.engine.set_limits(Rates {
        upload: Some(64 << 10),
        ..Rates::default()
    });
    world.origin.table.no_web_seed.store(true, Ordering::SeqCst);
    let got = two.blob("team/app", &large).await.bytes().await.unwrap();
    assert_eq!(got, layers[0]);
    let second = two.until(&large, |b| b.phase == BlobPhase::Complete).await;
    assert!(second.from_peers > 0, "{second:?}");
    assert!(second.sources.iter().any(|s| s.addr == wanted && !s.origin));
    one.agent.shutdown().await;
    two.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_an_earlier_life_stored_counts_when_it_is_given_to_peers() {
    let world = World::new().await;
    let layer = noise(3, 2 * MIB);
    let digest = world.blob("team/app", layer.clone()).await;
    let one = world.agent("one").await;
    assert!(one.blob("team/app", &digest).await.bytes().await.unwrap() == layer);
    one.until_idle().await;
    one.agent.shutdown().await;

    // It knows of no download, and nobody but it gives.
    let one = world.agent("one").await;
    let table = &world.origin.table;
    table.hide_sources.store(true, Ordering::SeqCst);
    table.no_web_seed.store(true, Ordering::SeqCst);
    let two = world.agent("two").await;
    let response = two.blob("team/app", &digest).await;
    two.introduce(&info_of(&layer), &[one.agent.addrs().peer]);
    assert!(response.bytes().await.unwrap() == layer);
    assert!(one.blob_status(&digest).await.is_none());
    // The last batch is counted once it is written, which its reader need not wait for.
    let counted = async {
        loop {
            let metrics = one.api("/metrics").await.text().await.unwrap();
            let name = "swell_agent_uploaded_bytes_total ";
            let counted = metrics.lines().find_map(|line| line.strip_prefix(name));
            if counted.unwrap().parse::<usize>().unwrap() >= layer.len() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, counted).await.unwrap();
    one.agent.shutdown().await;
    two.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_layer_begins_before_any_peer_is_met() {
    let world = World::new().await;
    let layer = noise(5, 2 * MIB);
    let digest = world.blob("team/app", layer.clone()).await;
    let table = &world.origin.table;
    table.hide_sources.store(true, Ordering::SeqCst);
    *table.head_starts.lock().unwrap() = HeadStarts::Given;
    let agent = world.agent("agent").await;
    let mut body = agent.blob("team/app", &digest).await.bytes_stream();
    let mut got = Vec::new();
    while got.len() < 256 << 10 {
        got.extend(
            timeout(DEADLINE, body.next())
                .await
                .unwrap()
                .unwrap()
                .unwrap(),
        );
    }
    assert!(layer.starts_with(&got));
    let status = agent.until(&digest, |_| true).await;
    assert_eq!(status.phase, BlobPhase::Downloading, "{status:?}");
    assert!(status.from_web_seed >= 256 << 10, "{status:?}");
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_wrong_head_start_is_no_part_of_a_layer() {
    let world = World::new().await;
    let layer = noise(6, 2 * MIB);
    let digest = world.blob("team/app", layer.clone()).await;
    *world.origin.table.head_starts.lock().unwrap() = HeadStarts::Wrong;
    let agent = world.agent("agent").await;
    let got = agent.blob("team/app", &digest).await.bytes().await.unwrap();
    assert!(got == layer);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_clients_share_one_download() {
    let world = World::new().await;
    let layer = noise(3, 2 * MIB);
    let digest = world.blob("team/app", layer.clone()).await;
    let agent = world.agent("agent").await;
    let bodies = join_all((0..100).map(|_| async {
        let response = agent.blob("team/app", &digest).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.bytes().await.unwrap()
    }));
    for body in bodies.await {
        assert!(body == layer);
    }
    let asked = &world.origin.table.torrents_asked;
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let status = agent
        .until(&digest, |b| b.phase == BlobPhase::Complete)
        .await;
    let received = status.from_origin + status.from_peers + status.from_web_seed;
    assert_eq!(received, layer.len() as u64, "{status:?}");
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn headers_go_out_before_anything_arrives_and_the_body_follows() {
    let world = World::new().await;
    let layer = noise(4, 2 * MIB);
    let digest = world.blob("team/app", layer.clone()).await;
    world
        .origin
        .table
        .hide_sources
        .store(true, Ordering::SeqCst);
    let mut config = world.config("agent");
    config.patience.stall = DEADLINE;
    let agent = world.agent_with(config).await;

    let response = agent.blob("team/app", &digest).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.content_length(), Some(layer.len() as u64));
    assert_eq!(
        response.headers()["docker-content-digest"],
        digest.to_string()
    );
    let status = agent.blob_status(&digest).await.unwrap();
    assert_eq!(status.verified, 0);
    assert_eq!(status.phase, BlobPhase::Downloading);

    agent.introduce(&info_of(&layer), &[world.origin.peer()]);
    let body = timeout(DEADLINE, response.bytes()).await.unwrap().unwrap();
    assert!(body == layer);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ranges_are_answered_while_the_rest_is_still_missing() {
    let world = World::new().await;
    let layer = noise(5, 6 * MIB);
    let digest = world.blob("team/app", layer.clone()).await;
    world.origin.table.no_web_seed.store(true, Ordering::SeqCst);
    world.origin.engine.set_limits(Rates {
        upload: Some(MIB as u64),
        ..Rates::default()
    });
    let agent = world.agent("agent").await;

    let mut front = agent.blob("team/app", &digest).await.bytes_stream();
    let first = timeout(DEADLINE, front.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(layer.starts_with(&first));

    let middle = agent.range("team/app", &digest, "3000000-3000099").await;
    assert_eq!(middle.status(), StatusCode::PARTIAL_CONTENT);
    let total = layer.len();
    let expected = format!("bytes 3000000-3000099/{total}");
    assert_eq!(middle.headers()["content-range"], expected);
    let middle = timeout(DEADLINE, middle.bytes()).await.unwrap().unwrap();
    assert_eq!(middle, layer.slice(3_000_000..3_000_100));
    let status = agent.blob_status(&digest).await.unwrap();
    assert!(status.verified < total as u64, "{status:?}");

    // A client that was cut resumes to the end while the first goes on.
    let resumed = agent.range("team/app", &digest, "1000000-").await;
    assert_eq!(resumed.content_length(), Some(total as u64 - 1_000_000));
    world.origin.engine.set_limits(Rates::default());
    let resumed = timeout(DEADLINE, resumed.bytes()).await.unwrap().unwrap();
    assert!(resumed == layer.slice(1_000_000..));
    let beyond = agent.range("team/app", &digest, "99999999-").await;
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_does_not_exist_is_404_at_once() {
    let world = World::new().await;
    let agent = world.agent("agent").await;
    let nothing = Digest::sha256_of(b"nothing");
    for (path, code) in [
        (format!("/v2/team/app/blobs/{nothing}"), "BLOB_UNKNOWN"),
        (
            format!("/v2/team/app/manifests/{nothing}"),
            "MANIFEST_UNKNOWN",
        ),
        ("/v2/team/app/manifests/v9".to_owned(), "MANIFEST_UNKNOWN"),
    ] {
        // Well before the patience for an origin that does not answer.
        let answer = timeout(Duration::from_secs(3), agent.get(&path))
            .await
            .unwrap();
        let (status, found, message) = error_code(answer).await;
        assert_eq!(
            (status, found.as_str()),
            (StatusCode::NOT_FOUND, code),
            "{message}"
        );
        assert!(message.contains("team/app"), "{message}");
    }
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn content_of_one_repository_is_not_read_through_another() {
    let world = World::new().await;
    let layer = noise(6, MIB);
    let digest = world.blob("secret/app", layer.clone()).await;
    let agent = world.agent("agent").await;
    assert_eq!(
        agent.blob("other/app", &digest).await.status(),
        StatusCode::NOT_FOUND
    );
    let body = agent
        .blob("secret/app", &digest)
        .await
        .bytes()
        .await
        .unwrap();
    assert!(body == layer);
    agent
        .until(&digest, |b| b.phase == BlobPhase::Complete)
        .await;
    let (status, code, _) = error_code(agent.blob("other/app", &digest).await).await;
    assert_eq!(
        (status, code.as_str()),
        (StatusCode::NOT_FOUND, "BLOB_UNKNOWN")
    );

    // Once a push mounts it there, it is read there, from the local copy.
    world.origin.link("mounted/app", &digest);
    let before = world.origin.table.torrents_asked.load(Ordering::SeqCst);
    let body = agent
        .blob("mounted/app", &digest)
        .await
        .bytes()
        .await
        .unwrap();
    assert!(body == layer);
    let after = world.origin.table.torrents_asked.load(Ordering::SeqCst);
    assert_eq!(before, after);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_moved_tag_is_never_stale_and_a_deleted_one_is_gone() {
    let world = World::new().await;
    let old = world.image("team/app", "latest", &[noise(7, 100)]).await;
    let new = world.image("team/app", "next", &[noise(8, 100)]).await;
    let agent = world.agent("agent").await;
    let digest = async || {
        let response = agent.manifest("team/app", "latest").await;
        let header = response.headers().get("docker-content-digest").cloned();
        (response.status(), header)
    };
    let text = |digest: &Digest| Some(digest.to_string().parse().unwrap());
    assert_eq!(digest().await, (StatusCode::OK, text(&old)));
    world.origin.tag("team/app", "latest", &new);
    assert_eq!(digest().await, (StatusCode::OK, text(&new)));
    world.origin.untag("team/app", "latest");
    assert_eq!(digest().await.0, StatusCode::NOT_FOUND);
    let by_digest = agent.manifest("team/app", &new.to_string()).await;
    assert_eq!(by_digest.status(), StatusCode::OK);
    agent.agent.shutdown().await;
}

/// A herd with an image of its own, one of another registry under the same name, and an agent.
/// Returns their digests and a layer of the other one.
async fn namesakes(world: &World) -> (Client, Digest, Digest, Digest) {
    let own = world.image("team/app", "v1", &[noise(9, 10)]).await;
    let layer = noise(10, 10);
    let layers = std::slice::from_ref(&layer);
    let other = world.image("ghcr.io/team/app", "v1", layers).await;
    let mut config = world.config("agent");
    config.aliases = vec!["registry.corp:5000".to_owned()];
    let agent = world.agent_with(config).await;
    (agent, own, other, Digest::sha256_of(&layer))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_image_of_another_registry_is_not_the_herds_own_of_that_name() {
    let world = World::new().await;
    let (agent, own, other, _) = namesakes(&world).await;
    let found = async |registry: &str| {
        let path = format!("/v2/team/app/manifests/v1?ns={registry}");
        let response = agent.get(&path).await;
        let digest = response.headers().get("docker-content-digest");
        let digest = digest.map(|text| text.to_str().unwrap().parse().unwrap());
        (response.status(), digest)
    };
    let (herd, this) = (world.herd().name(), agent.agent.addrs().registry);
    let of_our_own = [
        "",
        &herd,
        "127.0.0.1",
        &this.to_string(),
        "localhost",
        "registry.corp:5000",
    ];
    for registry in of_our_own {
        let image = (StatusCode::OK, Some(own.clone()));
        assert_eq!(found(registry).await, image, "{registry}");
    }
    assert_eq!(found("ghcr.io").await, (StatusCode::OK, Some(other)));
    // A key, never an address: nothing is dialled for it, and nothing else is given instead.
    let of_others = [
        "docker.io",
        "registry.corp",
        "registry.corp:5001",
        "127.0.0.1:9",
        "a/b",
    ];
    for registry in of_others {
        assert_eq!(found(registry).await.0, StatusCode::NOT_FOUND, "{registry}");
    }
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn blobs_tags_and_referrers_are_of_the_registry_that_is_meant() {
    let world = World::new().await;
    let (agent, own, other, layer) = namesakes(&world).await;
    world.origin.tag("ghcr.io/team/app", "v2", &other);
    let signature = serde_json::json!({
        "mediaType": oci::manifest::OCI_MANIFEST, "digest": own, "size": 7,
    });
    world.origin.refer("team/app", &other, signature);
    let herd = world.herd().name();
    let ask = async |path: &str, registry: &str| {
        agent
            .get(&format!("/v2/team/app/{path}?ns={registry}"))
            .await
    };
    let blob = format!("blobs/{layer}");
    assert_eq!(ask(&blob, "ghcr.io").await.status(), StatusCode::OK);
    assert_eq!(ask(&blob, &herd).await.status(), StatusCode::NOT_FOUND);
    let tags: serde_json::Value = json(ask("tags/list", "ghcr.io").await).await;
    assert_eq!(tags["tags"], serde_json::json!(["v1", "v2"]));
    let referrers = format!("referrers/{other}");
    for (registry, known) in [(herd.as_str(), 1), ("ghcr.io", 0)] {
        let index: serde_json::Value = json(ask(&referrers, registry).await).await;
        let found = index["manifests"].as_array().unwrap().len();
        assert_eq!(found, known, "{registry}");
    }
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn referrers_come_page_by_page_from_the_herd_that_was_asked() {
    let world = World::new().await;
    let digest = world.image("team/app", "v1", &[noise(12, 10)]).await;
    for n in 0..2500 {
        let referrer = serde_json::json!({
            "mediaType": oci::manifest::OCI_MANIFEST, "digest": digest, "size": n,
        });
        world.origin.refer("team/app", &digest, referrer);
    }
    let agent = world.agent("agent").await;
    let path = format!("/v2/team/app/referrers/{digest}");
    for unpaged in [false, true] {
        world.origin.table.unpaged.store(unpaged, Ordering::SeqCst);
        let index: serde_json::Value = json(agent.get(&path).await).await;
        let manifests = index["manifests"].as_array().unwrap();
        let sizes = manifests.iter().map(|one| one["size"].as_u64().unwrap());
        assert!(sizes.eq(0..2500), "{} came", manifests.len());
    }
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_push_is_refused_with_directions() {
    let world = World::new().await;
    let agent = world.agent("agent").await;
    let base = agent.get("/v2/").await;
    assert_eq!(base.status(), StatusCode::OK);
    assert_eq!(base.text().await.unwrap(), "{}");
    for (method, path) in [
        ("POST", "/v2/team/app/blobs/uploads/"),
        ("PATCH", "/v2/team/app/blobs/uploads/1"),
        ("PUT", "/v2/team/app/manifests/v1"),
        ("DELETE", "/v2/team/app/manifests/v1"),
    ] {
        let request = agent.http.request(method.parse().unwrap(), agent.url(path));
        let answer = request.body("x").send().await.unwrap();
        let (status, code, message) = error_code(answer).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(code, "UNSUPPORTED");
        assert!(message.contains(&world.herd().name()), "{message}");
    }
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_empty_blob_and_heads_cost_no_download() {
    let world = World::new().await;
    let layer = noise(10, MIB);
    let digest = world.blob("team/app", layer.clone()).await;
    let agent = world.agent("agent").await;
    let empty = agent.blob("team/app", &Digest::sha256_of(b"")).await;
    assert_eq!(empty.status(), StatusCode::OK);
    assert_eq!(empty.content_length(), Some(0));
    let request = agent.http.head(agent.blob_url("team/app", &digest));
    let head = request.send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()["content-length"], layer.len().to_string());
    assert_eq!(head.headers()["docker-content-digest"], digest.to_string());
    assert!(agent.blob_status(&digest).await.is_none());
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_has_the_blob_costs_no_download_and_one_that_has_another_gets_it() {
    let world = World::new().await;
    let layer = noise(13, MIB);
    let digest = world.blob("team/app", layer.clone()).await;
    let agent = world.agent("agent").await;
    let ask = async |tag: &str| {
        let request = agent.http.get(agent.blob_url("team/app", &digest));
        request.header("if-none-match", tag).send().await.unwrap()
    };
    let known = ask(&format!("\"{digest}\"")).await;
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    assert!(agent.blob_status(&digest).await.is_none());
    let other = ask("\"another\"").await;
    assert_eq!(other.status(), StatusCode::OK);
    assert!(other.bytes().await.unwrap() == layer);
    let absent = Digest::sha256_of(b"nothing");
    let request = agent.http.get(agent.blob_url("team/app", &absent));
    let absent = request.header("if-none-match", "*").send().await.unwrap();
    assert_eq!(absent.status(), StatusCode::NOT_FOUND);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn accept_is_passed_on_as_the_client_said_it() {
    let world = World::new().await;
    world.image("team/app", "v1", &[noise(11, 10)]).await;
    let agent = world.agent("agent").await;
    let types = [oci::manifest::OCI_INDEX, oci::manifest::OCI_MANIFEST];
    let mut request = agent.http.get(agent.url("/v2/team/app/manifests/v1"));
    for media_type in types {
        request = request.header("accept", media_type);
    }
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(*world.origin.table.accept.lock().unwrap(), types);
    assert!(world.origin.table.manifests_asked.load(Ordering::SeqCst) > 0);
    agent.agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn limits_change_while_a_layer_comes() {
    let world = World::new().await;
    let layer = noise(31, 3 * MIB);
    let digest = world.blob("team/app", layer.clone()).await;
    let agent = world.agent("agent").await;
    let limits = format!("http://{}/limits", agent.agent.addrs().api);
    let change = async |url: String, body: &'static str| {
        let sent = agent.http.patch(url).body(body).send().await;
        sent.unwrap()
    };
    let set = change(limits.clone(), r#"{"download": 400000, "upload": 5}"#).await;
    assert_eq!(set.status(), StatusCode::OK);
    let mut body = agent.blob("team/app", &digest).await.bytes_stream();
    agent.until(&digest, |b| b.verified > 0).await;
    let one = format!("{limits}/{digest}");
    let set = change(one, r#"{"upload": 7}"#).await;
    let told: serde_json::Value = json(set).await;
    assert_eq!(told["upload"], 5);
    assert_eq!(told["torrents"][0]["upload"], 7);
    assert_eq!(told["torrents"][0]["download"], serde_json::Value::Null);
    let hash = told["torrents"][0]["info_hash"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(hash, info_of(&layer).hash().to_string());
    let status = agent.blob_status(&digest).await.unwrap();
    assert!(status.verified < 3 * MIB as u64, "{status:?}");

    let set = change(limits.clone(), r#"{"download": null}"#).await;
    assert_eq!(set.status(), StatusCode::OK);
    let mut got = Vec::new();
    while let Some(chunk) = timeout(DEADLINE, body.next()).await.unwrap() {
        got.extend_from_slice(&chunk.unwrap());
    }
    assert!(got == layer);
    let set = change(format!("{limits}/{hash}"), r#"{"upload": null}"#).await;
    let told: serde_json::Value = json(set).await;
    assert_eq!(told["torrents"], serde_json::json!([]));

    let unknown = format!("{limits}/{}", Digest::sha256_of(b"never seen"));
    let refused = change(unknown, r#"{"upload": 7}"#).await;
    assert_eq!(refused.status(), StatusCode::NOT_FOUND);
    for bad in ["", "{", r#"{"upload": -1}"#, r#"{"uploads": 7}"#] {
        let refused = change(limits.clone(), bad).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{bad}");
    }
    let told: serde_json::Value = json(agent.api("/limits").await).await;
    assert_eq!(
        told,
        serde_json::json!({"upload": 5, "download": null, "torrents": []})
    );
    agent.agent.shutdown().await;
}
