//! The origin's API and the tag API, as tools and people use them.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Bed, bed, bed_with, code, header, json_of, noise, verdict};
use oci::Digest;
use reqwest::Response;
use serde_json::json;
use torrents::Metainfo;

#[tokio::test]
async fn a_torrent_is_composed_when_it_is_asked_for() {
    let bed = bed_with(|config| {
        config.api_url = Some("http://origin.example:15002/".into());
        config.trackers = ["http://a.example:1", "http://b.example:2"]
            .map(|url| url.parse().unwrap())
            .to_vec();
    })
    .await;
    let content = noise(40, 1_000_000);
    let digest = bed.push("team/app", content).await;
    let response = bed.api(&format!("/torrents/{digest}?repo=team/app")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(
        header(&response, "content-type"),
        "application/x-bittorrent"
    );
    assert_eq!(
        header(&response, "swell-peer"),
        bed.origin.addrs().peer.to_string()
    );
    let etag = header(&response, "etag");
    let bytes = response.bytes().await.unwrap();
    let metainfo = Metainfo::parse(&bytes).unwrap();
    assert!(metainfo.info.private());
    assert_eq!(metainfo.info.name(), digest.hex());
    assert_eq!(metainfo.info.geometry().length(), 1_000_000);
    assert_eq!(metainfo.info.geometry().piece_len(), 256 * 1024);
    assert_eq!(
        metainfo.url_list,
        [format!("http://origin.example:15002/blobs/{digest}")]
    );
    assert_eq!(metainfo.comment.unwrap(), format!("team/app@{digest}"));
    // One tracker a tier, in the order that everybody computes.
    let urls = ["http://a.example:1/announce", "http://b.example:2/announce"].map(String::from);
    let order = leecher::announcer::order_tiers(metainfo.info.hash(), &urls);
    assert_eq!(metainfo.trackers, order);
    // The same by another name, and nothing at all when it is known already.
    let again = bed.api(&format!("/torrents/{digest}.torrent")).await;
    assert_eq!(again.bytes().await.unwrap(), bytes);
    let url = format!("http://{}/torrents/{digest}", bed.origin.addrs().api);
    let known = bed
        .client
        .get(&url)
        .header("if-none-match", etag)
        .send()
        .await
        .unwrap();
    assert_eq!(known.status(), 304);
    let head = bed.client.head(&url).send().await.unwrap();
    assert_eq!(header(&head, "content-length"), bytes.len().to_string());
    // Not from a repository that does not have it.
    let other = bed.api(&format!("/torrents/{digest}?repo=other")).await;
    assert_eq!(verdict(other).await, (404, "BLOB_UNKNOWN".into()));
    assert_eq!(bed.api("/torrents/nonsense").await.status(), 400);
    assert_eq!(
        bed.api(&format!("/torrents/{digest}?repo=NOT"))
            .await
            .status(),
        400
    );
}

#[tokio::test]
async fn two_origins_make_the_same_torrent() {
    let content = noise(41, 700_000);
    let mut raws = Vec::new();
    for repo in ["one", "two"] {
        let bed = bed().await;
        let digest = bed.push(repo, content.clone()).await;
        let torrent = bed
            .api(&format!("/torrents/{digest}"))
            .await
            .bytes()
            .await
            .unwrap();
        raws.push(Metainfo::parse(&torrent).unwrap().info.raw().clone());
    }
    assert_eq!(raws[0], raws[1]);
}

#[tokio::test]
async fn the_web_seed_has_ranges() {
    let bed = bed().await;
    let content = noise(42, 2_000_000);
    let digest = bed.push("p/x", content.clone()).await;
    let url = format!("http://{}/blobs/{digest}", bed.origin.addrs().api);
    let part = bed
        .client
        .get(&url)
        .header("range", "bytes=700000-1899999")
        .send()
        .await
        .unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(
        header(&part, "content-range"),
        "bytes 700000-1899999/2000000"
    );
    assert_eq!(part.bytes().await.unwrap(), content[700_000..1_900_000]);
    let whole = bed.client.get(&url).send().await.unwrap();
    assert_eq!(whole.bytes().await.unwrap(), content);
    let beyond = bed
        .client
        .get(&url)
        .header("range", "bytes=2000000-")
        .send()
        .await
        .unwrap();
    assert_eq!(beyond.status(), 416);
    let head = bed.client.head(&url).send().await.unwrap();
    assert_eq!(header(&head, "content-length"), "2000000");
    let absent = bed
        .api(&format!("/blobs/{}", Digest::sha256_of(b"absent")))
        .await;
    assert_eq!(verdict(absent).await, (404, "BLOB_UNKNOWN".into()));
}

#[tokio::test]
async fn few_have_a_head_start_at_a_time_and_the_web_seed_serves_all() {
    let bed = bed().await;
    let content = noise(43, 40_000_000);
    let digest = bed.push("p/x", content.clone()).await;
    let url = format!("http://{}/blobs/{digest}", bed.origin.addrs().api);
    let ask = |url: String, range: &'static str| bed.client.get(url).header("range", range).send();
    let head_start = format!("{url}?head-start");
    let first = ask(head_start.clone(), "bytes=0-262143").await.unwrap();
    assert_eq!(first.status(), 206);
    assert_eq!(first.bytes().await.unwrap(), content[..262_144]);
    // Bodies that nobody reads are turns that do not end.
    let mut unread = Vec::new();
    let refused = loop {
        let answer = ask(head_start.clone(), "bytes=0-39999999").await.unwrap();
        match answer.status().as_u16() {
            206 => unread.push(answer),
            _ => break answer,
        }
        assert!(unread.len() < 20, "nobody is refused");
    };
    assert_eq!(verdict(refused).await, (429, "TOOMANYREQUESTS".into()));
    assert!(!unread.is_empty());
    let beside = ask(url, "bytes=10-19").await.unwrap();
    assert_eq!(beside.bytes().await.unwrap(), content[10..20]);
}

#[tokio::test]
async fn people_and_machines_see_how_it_is() {
    let bed = bed().await;
    bed.push("p/x", "bytes").await;
    assert_eq!(bed.api("/health").await.text().await.unwrap(), "OK\n");
    assert_eq!(bed.api("/readiness").await.status(), 200);
    let metrics = bed.api("/metrics").await.text().await.unwrap();
    for line in [
        "swell_origin_blobs_pushed_total 1",
        "swell_origin_blob_bytes_pushed_total 5",
        "swell_origin_blobs 1",
        "swell_origin_torrents 1",
        "swell_origin_uploads 0",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} is not in\n{metrics}"
        );
    }
    let status = json_of(bed.api("/status").await).await;
    assert_eq!(status["peer"], json!(bed.origin.addrs().peer));
    assert_eq!(status["stored"]["blob_bytes"], 5);
    assert_eq!(bed.api("/nothing").await.status(), 404);
    let post = bed
        .client
        .post(format!("http://{}/health", bed.origin.addrs().api));
    assert_eq!(post.send().await.unwrap().status(), 405);
}

async fn tags(bed: &Bed, method: &str, path: &str) -> Response {
    tags_if(bed, method, path, None).await
}

async fn tags_if(
    bed: &Bed,
    method: &str,
    path: &str,
    condition: Option<(&str, String)>,
) -> Response {
    let url = format!("http://{}{path}", bed.origin.addrs().tags);
    let mut request = bed.client.request(method.parse().unwrap(), url);
    if let Some((name, value)) = condition {
        request = request.header(name, value);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn tags_are_read_and_moved() {
    let bed = bed().await;
    let one = bed.push_image("team/app", "v1", &[b"one"]).await;
    let two = bed.push_image("team/app", "v2", &[b"two"]).await;
    for path in [
        "/tags/team/app:v1",
        "/tags/team%2Fapp:v1",
        "/tags/team%2fapp%3Av1",
    ] {
        let got = tags(&bed, "GET", path).await;
        assert_eq!(got.status(), 200, "{path}");
        assert_eq!(got.text().await.unwrap(), one.to_string());
    }
    assert_eq!(tags(&bed, "HEAD", "/tags/team/app:v1").await.status(), 200);
    assert_eq!(tags(&bed, "HEAD", "/tags/team/app:v9").await.status(), 404);
    let put = format!("/tags/team%2Fapp:latest/digest/{two}");
    assert_eq!(tags(&bed, "PUT", &put).await.status(), 200);
    let latest = bed.send("GET", "/v2/team/app/manifests/latest").await;
    assert_eq!(header(&latest, "docker-content-digest"), two.to_string());
    // Only from where it is.
    let to_one = format!("/tags/team/app:latest/digest/{one}");
    let stale = tags_if(
        &bed,
        "PUT",
        &to_one,
        Some(("if-match", format!("\"{one}\""))),
    )
    .await;
    assert_eq!(stale.status(), 412);
    let taken = tags_if(&bed, "PUT", &to_one, Some(("if-none-match", "*".into()))).await;
    assert_eq!(taken.status(), 412);
    let fresh = tags_if(
        &bed,
        "PUT",
        &to_one,
        Some(("if-match", format!("\"{two}\""))),
    )
    .await;
    assert_eq!(fresh.status(), 200);
    // Only where there is one, wherever that is.
    let any = Some(("if-match", "*".to_owned()));
    let moved = tags_if(&bed, "PUT", &to_one, any.clone()).await;
    assert_eq!(moved.status(), 200);
    let to_new = format!("/tags/team/app:new/digest/{one}");
    assert_eq!(tags_if(&bed, "PUT", &to_new, any).await.status(), 412);
    // A tag names a manifest that is here.
    let absent = Digest::sha256_of(b"absent");
    let dangling = tags(&bed, "PUT", &format!("/tags/team/app:v3/digest/{absent}")).await;
    assert_eq!(verdict(dangling).await, (404, "MANIFEST_UNKNOWN".into()));
    let elsewhere = tags(&bed, "PUT", &format!("/tags/other:v1/digest/{one}")).await;
    assert_eq!(elsewhere.status(), 404);
    let bad = tags(&bed, "PUT", "/tags/team/app:v3/digest/sha256:0").await;
    assert_eq!(code(bad).await, "DIGEST_INVALID");
    assert_eq!(tags(&bed, "GET", "/tags/no-colon").await.status(), 400);
    assert_eq!(
        tags(&bed, "DELETE", "/tags/team/app:v1").await.status(),
        405
    );
    assert_eq!(
        tags(&bed, "GET", "/health").await.text().await.unwrap(),
        "OK\n"
    );
}

#[tokio::test]
async fn tags_are_listed_a_page_at_a_time() {
    let bed = bed().await;
    for (repo, tag) in [
        ("team/app", "v1"),
        ("team/app", "v2"),
        ("team/web", "v1"),
        ("x", "v1"),
    ] {
        bed.push_image(repo, tag, &[b"layer"]).await;
    }
    let all = json_of(tags(&bed, "GET", "/repositories/team%2Fapp/tags").await).await;
    assert_eq!(all["result"], json!(["v1", "v2"]));
    assert_eq!(
        (&all["size"], &all["links"]["next"]),
        (&json!(2), &json!(""))
    );
    let first = json_of(tags(&bed, "GET", "/list/team/?limit=2").await).await;
    assert_eq!(first["result"], json!(["team/app:v1", "team/app:v2"]));
    let next = first["links"]["next"].as_str().unwrap();
    let second = json_of(tags(&bed, "GET", next).await).await;
    assert_eq!(second["result"], json!(["team/web:v1"]));
    assert_eq!(second["links"]["next"], "");
    let prefix = json_of(tags(&bed, "GET", "/list/team/app:v2").await).await;
    assert_eq!(prefix["result"], json!(["team/app:v2"]));
    let everything = json_of(tags(&bed, "GET", "/list/").await).await;
    assert_eq!(everything["size"], 4);
    let bad = tags(&bed, "GET", "/list/?limit=many").await;
    assert_eq!(
        verdict(bad).await,
        (400, "PAGINATION_NUMBER_INVALID".into())
    );
}

#[tokio::test]
async fn moving_a_tag_is_never_seen_half_done() {
    let bed = bed().await;
    let one = bed.push_image("p/x", "a", &[b"one"]).await;
    let two = bed.push_image("p/x", "b", &[b"two"]).await;
    let path = |digest: &Digest| format!("/tags/p/x:moving/digest/{digest}");
    assert_eq!(tags(&bed, "PUT", &path(&one)).await.status(), 200);
    let move_it = async {
        for n in 0..20 {
            let to = if n % 2 == 0 { &two } else { &one };
            assert_eq!(tags(&bed, "PUT", &path(to)).await.status(), 200);
        }
    };
    let watch_it = async {
        for _ in 0..100 {
            let seen = tags(&bed, "GET", "/tags/p/x:moving")
                .await
                .text()
                .await
                .unwrap();
            assert!(seen == one.to_string() || seen == two.to_string(), "{seen}");
        }
    };
    tokio::join!(move_it, watch_it);
    // Of many who all saw the same, one moves it.
    let race = (0..8).map(|_| {
        let condition = Some(("if-match", format!("\"{one}\"")));
        let (bed, path) = (&bed, path(&two));
        async move {
            tags_if(bed, "PUT", &path, condition)
                .await
                .status()
                .as_u16()
        }
    });
    let verdicts = futures_util::future::join_all(race).await;
    assert_eq!(
        verdicts.iter().filter(|status| **status == 200).count(),
        1,
        "{verdicts:?}"
    );
}

#[tokio::test]
async fn limits_change_while_it_runs() {
    let bed = bed().await;
    let digest = bed.push("team/app", noise(41, 300_000)).await;
    let limits = format!("http://{}/limits", bed.origin.addrs().api);
    let change = async |url: String, body: &'static str| {
        let sent = bed.client.patch(url).body(body).send().await;
        sent.unwrap()
    };
    let set = change(limits.clone(), r#"{"upload": 1000000}"#).await;
    assert_eq!(set.status(), 200);
    let told = json_of(change(format!("{limits}/{digest}"), r#"{"upload": 7}"#).await).await;
    assert_eq!(told["upload"], 1_000_000);
    assert_eq!(told["torrents"][0]["upload"], 7);
    let hash = told["torrents"][0]["info_hash"].as_str().unwrap();
    let told = json_of(change(format!("{limits}/{hash}"), r#"{"upload": null}"#).await).await;
    assert_eq!(told["torrents"], json!([]));
    let unknown = format!("{limits}/{}", Digest::sha256_of(b"never pushed"));
    assert_eq!(change(unknown, r#"{"upload": 7}"#).await.status(), 404);
    assert_eq!(
        change(limits.clone(), r#"{"upload": "fast"}"#)
            .await
            .status(),
        400
    );
    assert_eq!(change(format!("{limits}s"), "{}").await.status(), 405);
    let told = json_of(bed.api("/limits").await).await;
    assert_eq!(
        told,
        json!({"upload": 1_000_000, "download": null, "torrents": []})
    );
}
