//! Manifests, indexes, referrers, tags and the catalogue, as registry clients ask for them.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{
    OCI_INDEX, OCI_MANIFEST, bed, bed_with, descriptor, header, image, json_of, noise, verdict,
};
use oci::Digest;
use serde_json::json;

#[tokio::test]
async fn an_image_comes_back_byte_for_byte() {
    let bed = bed().await;
    let (config, layer) = (b"{}".as_slice(), noise(11, 100_000));
    bed.push("team/app", config).await;
    bed.push("team/app", layer.clone()).await;
    // Unusual spacing is content.
    let text = serde_json::to_string_pretty(&image(config, &[&layer])).unwrap() + "\n \n";
    let digest = Digest::sha256_of(text.as_bytes());
    let put = bed
        .request("PUT", "/v2/team/app/manifests/v1")
        .header("content-type", OCI_MANIFEST)
        .body(text.clone());
    let put = put.send().await.unwrap();
    assert_eq!(put.status(), 201);
    assert_eq!(header(&put, "docker-content-digest"), digest.to_string());
    let location = format!("/v2/team/app/manifests/{digest}");
    assert_eq!(header(&put, "location"), location);
    for reference in ["v1".to_owned(), digest.to_string()] {
        let got = bed
            .send("GET", &format!("/v2/team/app/manifests/{reference}"))
            .await;
        assert_eq!(header(&got, "content-type"), OCI_MANIFEST);
        assert_eq!(header(&got, "docker-content-digest"), digest.to_string());
        assert_eq!(got.text().await.unwrap(), text);
        let head = bed
            .send("HEAD", &format!("/v2/team/app/manifests/{reference}"))
            .await;
        assert_eq!(header(&head, "content-length"), text.len().to_string());
    }
    // The same again is the same.
    assert_eq!(
        bed.push_image("again", "v1", &[b"x"]).await,
        bed.push_image("again", "v1", &[b"x"]).await
    );
}

#[tokio::test]
async fn a_manifest_names_only_what_is_here() {
    let bed = bed().await;
    let config = b"{}".as_slice();
    bed.push("team/app", config).await;
    bed.push("elsewhere", "layer").await;
    let missing = image(config, &[b"layer"]);
    let put = bed.put_manifest("team/app", "v1", &missing).await;
    assert_eq!(verdict(put).await, (400, "MANIFEST_BLOB_UNKNOWN".into()));
    bed.push("team/app", "layer").await;
    let mut wrong = image(config, &[b"layer"]);
    wrong["config"]["size"] = json!(99);
    let put = bed.put_manifest("team/app", "v1", &wrong).await;
    assert_eq!(verdict(put).await, (400, "SIZE_INVALID".into()));
    assert_eq!(bed.status("GET", "/v2/team/app/manifests/v1").await, 404);
    assert_eq!(bed.status("GET", "/v2/team/app/tags/list").await, 404);
    let mut foreign = image(config, &[b"layer", b"on a vendor's server"]);
    foreign["layers"][1]["urls"] = json!(["https://vendor.example/layer"]);
    assert_eq!(
        bed.put_manifest("team/app", "v1", &foreign).await.status(),
        201
    );
}

#[tokio::test]
async fn manifests_that_are_none_are_refused() {
    let bed = bed().await;
    bed.push("p/x", "{}").await;
    let good = image(b"{}", &[]);
    let put = |reference: String, content_type: &'static str, body: String| {
        let put = bed.request("PUT", &format!("/v2/p/x/manifests/{reference}"));
        put.header("content-type", content_type).body(body).send()
    };
    for (content_type, body) in [
        (OCI_MANIFEST, "{".to_owned()),
        (OCI_MANIFEST, "{}".to_owned()),
        (OCI_INDEX, good.to_string()),
        ("text/plain", good.to_string()),
    ] {
        let refused = put("v1".into(), content_type, body).await.unwrap();
        assert_eq!(verdict(refused).await, (400, "MANIFEST_INVALID".into()));
    }
    let other = Digest::sha256_of(b"other").to_string();
    let refused = put(other, OCI_MANIFEST, good.to_string()).await.unwrap();
    assert_eq!(verdict(refused).await, (400, "DIGEST_INVALID".into()));
    let refused = put("sha256:0".into(), OCI_MANIFEST, good.to_string())
        .await
        .unwrap();
    assert_eq!(refused.status(), 400);
    let mut padded = good.clone();
    padded["annotations"] = json!({ "padding": "x".repeat(3_900_000) });
    let large = put("large".into(), OCI_MANIFEST, padded.to_string())
        .await
        .unwrap();
    assert_eq!(large.status(), 201);
    padded["annotations"] = json!({ "padding": "x".repeat(4_300_000) });
    let too_large = put("large".into(), OCI_MANIFEST, padded.to_string())
        .await
        .unwrap();
    assert_eq!(too_large.status(), 413);
}

#[tokio::test]
async fn an_index_needs_its_children() {
    let bed = bed().await;
    let child = image(b"{}", &[]);
    let text = child.to_string();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [descriptor(OCI_MANIFEST, text.as_bytes())],
    });
    let early = bed.put_manifest("p/x", "multi", &index).await;
    assert_eq!(verdict(early).await, (400, "MANIFEST_BLOB_UNKNOWN".into()));
    bed.push("p/x", "{}").await;
    let digest = Digest::sha256_of(text.as_bytes());
    assert_eq!(
        bed.put_manifest("p/x", &digest.to_string(), &child)
            .await
            .status(),
        201
    );
    assert_eq!(bed.put_manifest("p/x", "multi", &index).await.status(), 201);
    // The child stays while the index needs it.
    let child_path = format!("/v2/p/x/manifests/{digest}");
    let kept = bed.send("DELETE", &child_path).await;
    assert_eq!(verdict(kept).await, (403, "DENIED".into()));
    let index_digest = Digest::sha256_of(index.to_string().as_bytes());
    assert_eq!(
        bed.status("DELETE", &format!("/v2/p/x/manifests/{index_digest}"))
            .await,
        202
    );
    assert_eq!(bed.status("DELETE", &child_path).await, 202);

    let sparse = bed_with(|config| config.limits.sparse_indexes = true).await;
    assert_eq!(
        sparse.put_manifest("p/x", "multi", &index).await.status(),
        201
    );
}

#[tokio::test]
async fn referrers_are_listed() {
    let bed = bed().await;
    bed.push("p/x", "{}").await;
    let subject = bed.push_image("p/x", "v1", &[b"layer"]).await;
    let referrers = format!("/v2/p/x/referrers/{subject}");
    let none = json_of(bed.send("GET", &referrers).await).await;
    assert_eq!(none["manifests"], json!([]));
    let mut signature = image(b"{}", &[]);
    signature["artifactType"] = json!("application/vnd.example.signature");
    signature["annotations"] = json!({ "by": "me" });
    signature["subject"] = json!({ "mediaType": OCI_MANIFEST, "digest": subject, "size": 1 });
    let digest = Digest::sha256_of(signature.to_string().as_bytes());
    let put = bed
        .put_manifest("p/x", &digest.to_string(), &signature)
        .await;
    assert_eq!(put.status(), 201);
    assert_eq!(header(&put, "oci-subject"), subject.to_string());
    let listed = json_of(bed.send("GET", &referrers).await).await;
    assert_eq!(listed["manifests"][0]["digest"], json!(digest));
    assert_eq!(
        listed["manifests"][0]["artifactType"],
        "application/vnd.example.signature"
    );
    assert_eq!(listed["manifests"][0]["annotations"]["by"], "me");
    // What clients of older registries keep under a tag counts as well, once.
    let legacy = image(b"{}", &[b"layer"]);
    bed.put_manifest("p/x", "legacy", &legacy).await;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            descriptor(OCI_MANIFEST, legacy.to_string().as_bytes()),
            descriptor(OCI_MANIFEST, signature.to_string().as_bytes()),
        ],
    });
    let tag = subject.to_string().replace(':', "-");
    assert_eq!(bed.put_manifest("p/x", &tag, &index).await.status(), 201);
    let listed = json_of(bed.send("GET", &referrers).await).await;
    assert_eq!(listed["manifests"].as_array().unwrap().len(), 2);
    let filtered = bed
        .send("GET", &format!("{referrers}?artifactType=none"))
        .await;
    let filtered = json_of(filtered).await;
    assert_eq!(filtered["manifests"], json!([]));
    // Gone with its manifest.
    let bed = bed.restart(true).await;
    bed.send("DELETE", &format!("/v2/p/x/manifests/{tag}"))
        .await;
    let index = Digest::sha256_of(index.to_string().as_bytes());
    assert_eq!(
        bed.status("DELETE", &format!("/v2/p/x/manifests/{index}"))
            .await,
        202
    );
    assert_eq!(
        bed.status("DELETE", &format!("/v2/p/x/manifests/{digest}"))
            .await,
        202
    );
    let none = json_of(bed.send("GET", &referrers).await).await;
    assert_eq!(none["manifests"], json!([]));
}

#[tokio::test]
async fn a_referrer_that_is_gone_is_not_listed_by_its_tag() {
    let bed = bed_with(|config| config.limits.sparse_indexes = true).await;
    let subject = bed.push_image("p/x", "v1", &[b"layer"]).await;
    bed.push("p/x", "{}").await;
    let here = image(b"{}", &[b"layer"]);
    assert_eq!(bed.put_manifest("p/x", "here", &here).await.status(), 201);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            descriptor(OCI_MANIFEST, here.to_string().as_bytes()),
            descriptor(OCI_MANIFEST, b"gone"),
        ],
    });
    let tag = subject.to_string().replace(':', "-");
    assert_eq!(bed.put_manifest("p/x", &tag, &index).await.status(), 201);
    let path = format!("/v2/p/x/referrers/{subject}");
    let listed = json_of(bed.send("GET", &path).await).await;
    let here = Digest::sha256_of(here.to_string().as_bytes());
    assert_eq!(listed["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(listed["manifests"][0]["digest"], json!(here));
}

#[tokio::test]
async fn many_referrers_come_in_pages() {
    let bed = bed().await;
    bed.push("p/x", "{}").await;
    let subject = bed.push_image("p/x", "v1", &[b"layer"]).await;
    let mut pushed = std::collections::BTreeSet::new();
    for n in 0..5 {
        let mut referrer = image(b"{}", &[]);
        let padding = "x".repeat(1_500_000);
        referrer["annotations"] = json!({ "n": format!("{n}"), "padding": padding });
        referrer["subject"] = json!({ "mediaType": OCI_MANIFEST, "digest": subject, "size": 1 });
        let digest = Digest::sha256_of(referrer.to_string().as_bytes()).to_string();
        let put = bed.put_manifest("p/x", &digest, &referrer).await;
        assert_eq!(put.status(), 201);
        pushed.insert(digest);
    }
    let mut found = std::collections::BTreeSet::new();
    let mut next = Some(format!("/v2/p/x/referrers/{subject}"));
    let mut pages = 0;
    while let Some(path) = next {
        let page = bed.send("GET", &path).await;
        let link = header(&page, "link");
        next = link
            .strip_prefix('<')
            .and_then(|link| link.split_once('>'))
            .map(|(path, _)| path.to_owned());
        let text = page.text().await.unwrap();
        assert!(text.len() < 5 << 20);
        let index: serde_json::Value = serde_json::from_str(&text).unwrap();
        for one in index["manifests"].as_array().unwrap() {
            assert!(found.insert(one["digest"].as_str().unwrap().to_owned()));
        }
        pages += 1;
    }
    assert_eq!(found, pushed);
    assert_eq!(pages, 3);
}

#[tokio::test]
async fn a_manifest_that_is_none_any_more_keeps_nothing_from_going() {
    let bed = bed().await;
    let broken = bed.push_image("p/x", "broken", &[b"one"]).await;
    let kept = bed.push_image("p/x", "kept", &[b"two"]).await;
    let name = broken.to_string().replace(':', "-");
    let media_type = bed.data().join("repos/p/x/_manifests").join(name);
    for nonsense in [b"nonsense".as_slice(), b"\xff\xfe"] {
        std::fs::write(&media_type, nonsense).unwrap();
        let spare = bed.push("p/x", nonsense).await;
        let path = format!("/v2/p/x/blobs/{spare}");
        assert_eq!(bed.status("DELETE", &path).await, 202);
    }
    for manifest in [kept, broken] {
        let path = format!("/v2/p/x/manifests/{manifest}");
        assert_eq!(bed.status("DELETE", &path).await, 202);
    }
}

#[tokio::test]
async fn a_docker_manifest_says_that_it_is_one() {
    let bed = bed().await;
    bed.push("p/x", "{}").await;
    let mut bare = image(b"{}", &[]);
    bare.as_object_mut().unwrap().remove("mediaType");
    for (media_type, status) in [
        ("application/vnd.docker.distribution.manifest.v2+json", 400),
        (OCI_MANIFEST, 201),
    ] {
        let put = bed.request("PUT", "/v2/p/x/manifests/v1");
        let put = put
            .header("content-type", media_type)
            .body(bare.to_string());
        assert_eq!(put.send().await.unwrap().status(), status);
    }
}

#[tokio::test]
async fn tags_and_repositories_are_paged_in_order() {
    let bed = bed().await;
    for (repo, tag) in [
        ("b/y", "v10"),
        ("b/y", "v2"),
        ("b/y", "v1"),
        ("a", "v1"),
        ("b", "v1"),
    ] {
        bed.push_image(repo, tag, &[b"layer"]).await;
    }
    let all = json_of(bed.send("GET", "/v2/b/y/tags/list").await).await;
    assert_eq!(all, json!({ "name": "b/y", "tags": ["v1", "v10", "v2"] }));
    let first = bed.send("GET", "/v2/b/y/tags/list?n=2").await;
    assert!(header(&first, "link").contains("last=v10"));
    let first = json_of(first).await;
    assert_eq!(first["tags"], json!(["v1", "v10"]));
    let second = bed.send("GET", "/v2/b/y/tags/list?n=2&last=v10").await;
    assert_eq!(header(&second, "link"), "");
    let none = json_of(bed.send("GET", "/v2/b/y/tags/list?n=0").await).await;
    assert_eq!(none["tags"], json!([]));
    let unknown = bed.send("GET", "/v2/nobody/tags/list").await;
    assert_eq!(verdict(unknown).await, (404, "NAME_UNKNOWN".into()));
    let repos = json_of(bed.send("GET", "/v2/_catalog").await).await;
    assert_eq!(repos["repositories"], json!(["a", "b", "b/y"]));
    let bed = bed.restart(false).await;
    let repos = json_of(bed.send("GET", "/v2/_catalog?n=1&last=a").await).await;
    assert_eq!(repos["repositories"], json!(["b"]));
}
