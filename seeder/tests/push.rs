//! The push half of the registry, request by request, as real clients send them.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{
    Bed, bed, bed_as, bed_with, begin, code, header, image, json_of, noise, rest, soon, verdict,
};
use oci::{Access, Action, Caller, Digest, ErrorCode, RegistryError, RepoName};
use serde_json::json;
use tokio::io::AsyncReadExt;

#[tokio::test]
async fn docker_pushes_a_layer_of_unknown_length() {
    let bed = bed().await;
    let layer = noise(1, 3_000_000);
    let digest = Digest::sha256_of(&layer);
    let session = bed.session("p/x").await;
    let chunks: Vec<Result<Vec<u8>, std::io::Error>> = layer
        .chunks(32 * 1024)
        .map(|chunk| Ok(chunk.to_vec()))
        .collect();
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
    let patched = bed
        .request("PATCH", &session)
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(patched.status(), 202);
    assert_eq!(header(&patched, "range"), "0-2999999");
    let location = header(&patched, "location");
    let status = bed.send("GET", &location).await;
    assert_eq!(status.status(), 204);
    assert_eq!(header(&status, "range"), "0-2999999");
    let put = bed
        .send("PUT", &format!("{location}?digest={digest}"))
        .await;
    assert_eq!(put.status(), 201);
    assert_eq!(header(&put, "docker-content-digest"), digest.to_string());
    assert_eq!(header(&put, "location"), format!("/v2/p/x/blobs/{digest}"));
    let head = bed.send("HEAD", &format!("/v2/p/x/blobs/{digest}")).await;
    assert_eq!(head.status(), 200);
    assert_eq!(header(&head, "content-length"), "3000000");
    let got = bed.send("GET", &format!("/v2/p/x/blobs/{digest}")).await;
    assert_eq!(got.bytes().await.unwrap(), layer);
    assert_eq!(
        bed.status("PUT", &format!("{location}?digest={digest}"))
            .await,
        404
    );
    bed.spool_empties().await;
}

#[tokio::test]
async fn containerd_pushes_a_layer_in_one_request() {
    let bed = bed().await;
    let layer = noise(2, 700_000);
    let digest = Digest::sha256_of(&layer);
    assert_eq!(
        bed.status("HEAD", &format!("/v2/p/x/blobs/{digest}")).await,
        404
    );
    // The mount names a repository of another registry: a session is opened instead.
    let path = format!("/v2/p/x/blobs/uploads/?mount={digest}&from=push29/y");
    let opened = bed.send("POST", &path).await;
    assert_eq!(opened.status(), 202);
    let session = header(&opened, "location");
    let put = bed
        .request("PUT", &format!("{session}?digest={digest}"))
        .body(layer);
    assert_eq!(put.send().await.unwrap().status(), 201);
    assert_eq!(
        bed.status("HEAD", &format!("/v2/p/x/blobs/{digest}")).await,
        200
    );
    assert_eq!(
        bed.status("HEAD", &format!("/v2/other/blobs/{digest}"))
            .await,
        404
    );
}

#[tokio::test]
async fn a_blob_may_come_with_the_post() {
    let bed = bed().await;
    let digest = Digest::sha256_of(b"whole");
    let path = format!("/v2/p/x/blobs/uploads/?digest={digest}");
    let post = bed
        .request("POST", &path)
        .body("whole")
        .send()
        .await
        .unwrap();
    assert_eq!(post.status(), 201);
    assert_eq!(header(&post, "location"), format!("/v2/p/x/blobs/{digest}"));
    let wrong = bed
        .request("POST", &path)
        .body("other")
        .send()
        .await
        .unwrap();
    assert_eq!(verdict(wrong).await, (400, "DIGEST_INVALID".into()));
    // Without a body it only opens a session, as registries without this shortcut do.
    let opened = bed.send("POST", &path).await;
    assert_eq!(opened.status(), 202);
    let session = header(&opened, "location");
    let put = bed
        .request("PUT", &format!("{session}?digest={digest}"))
        .body("whole");
    assert_eq!(put.send().await.unwrap().status(), 201);
    bed.spool_empties().await;
}

#[tokio::test]
async fn chunks_come_in_order() {
    let bed = bed().await;
    let session = bed.session("p/x").await;
    let chunk = |range: &'static str, body: &'static str| {
        bed.request("PATCH", &session)
            .header("content-range", range)
            .body(body)
            .send()
    };
    let early = chunk("5-9", "world").await.unwrap();
    assert_eq!(early.status(), 416);
    assert_eq!(header(&early, "range"), "0-0");
    assert_eq!(header(&early, "location"), session);
    assert_eq!(chunk("0-4", "hello").await.unwrap().status(), 202);
    assert_eq!(
        verdict(chunk("0-4", "hello").await.unwrap()).await,
        (416, "RANGE_INVALID".into())
    );
    assert_eq!(chunk("5-9", "oops").await.unwrap().status(), 416);
    let nonsense = chunk("five to nine", "world").await.unwrap();
    assert_eq!(verdict(nonsense).await, (400, "BLOB_UPLOAD_INVALID".into()));
    let status = bed.send("GET", &session).await;
    assert_eq!(
        (status.status().as_u16(), header(&status, "range")),
        (204, "0-4".into())
    );
    let second = chunk("5-9", "world").await.unwrap();
    assert_eq!(
        (second.status().as_u16(), header(&second, "range")),
        (202, "0-9".into())
    );
    let digest = Digest::sha256_of(b"helloworld!");
    let close = |range: &'static str| {
        let put = bed.request("PUT", &format!("{session}?digest={digest}"));
        put.header("content-range", range).body("!").send()
    };
    assert_eq!(close("11-11").await.unwrap().status(), 416);
    assert_eq!(close("10-10").await.unwrap().status(), 201);
    let got = bed.send("GET", &format!("/v2/p/x/blobs/{digest}")).await;
    assert_eq!(got.text().await.unwrap(), "helloworld!");
}

#[tokio::test]
async fn a_put_needs_a_digest_it_can_check() {
    let bed = bed().await;
    let session = bed.session("p/x").await;
    bed.request("PATCH", &session)
        .body("bytes")
        .send()
        .await
        .unwrap();
    for query in ["", "?digest=", "?digest=md5:0123", "?digest=sha256:zz"] {
        let put = bed.send("PUT", &format!("{session}{query}")).await;
        assert_eq!(
            verdict(put).await,
            (400, "DIGEST_INVALID".into()),
            "{query}"
        );
    }
    // The session has suffered nothing.
    let digest = Digest::sha256_of(b"bytes");
    assert_eq!(
        bed.status("PUT", &format!("{session}?digest={digest}"))
            .await,
        201
    );
}

#[tokio::test]
async fn bytes_that_are_not_the_digest_leave_nothing() {
    let bed = bed().await;
    let wanted = Digest::sha256_of(b"what was meant");
    let session = bed.session("p/x").await;
    bed.request("PATCH", &session)
        .body(noise(3, 2_000_000))
        .send()
        .await
        .unwrap();
    assert_eq!(bed.spooled().len(), 1);
    let put = bed.send("PUT", &format!("{session}?digest={wanted}")).await;
    assert_eq!(verdict(put).await, (400, "DIGEST_INVALID".into()));
    assert_eq!(bed.status("GET", &session).await, 404);
    assert_eq!(
        bed.status("HEAD", &format!("/v2/p/x/blobs/{wanted}")).await,
        404
    );
    assert_eq!(bed.api(&format!("/torrents/{wanted}")).await.status(), 404);
    bed.spool_empties().await;
    let session = bed.session("p/x").await;
    let put = bed
        .request("PUT", &format!("{session}?digest={wanted}"))
        .body("other");
    let put = put.send().await.unwrap();
    assert_eq!(verdict(put).await, (400, "DIGEST_INVALID".into()));
    bed.spool_empties().await;
    let stored = json_of(bed.api("/status").await).await;
    assert_eq!(stored["stored"]["blobs"], 0);
    assert_eq!(stored["stored"]["torrents"], 0);
}

#[tokio::test]
async fn a_cut_upload_leaves_nothing_and_may_start_again_on_the_same_url() {
    let bed = bed().await;
    let bytes = noise(4, 4_000_000);
    let digest = Digest::sha256_of(&bytes);
    let session = bed.session("p/x").await;
    for (method, query) in [
        ("PATCH", String::new()),
        ("PUT", format!("?digest={digest}")),
    ] {
        let head = format!(
            "{method} {session}{query} HTTP/1.1\r\nHost: o\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        let mut stream = bed.raw().await;
        begin(&mut stream, &head, &bytes[..3_000_000]).await;
        soon(|| !bed.spooled().is_empty()).await;
        drop(stream);
        bed.spool_empties().await;
        let status = bed.send("GET", &session).await;
        assert_eq!(
            (status.status().as_u16(), header(&status, "range")),
            (204, "0-0".into())
        );
    }
    // A chunked body that ends without its last chunk is cut as well.
    let head = format!("PATCH {session} HTTP/1.1\r\nHost: o\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut stream = bed.raw().await;
    begin(&mut stream, &head, b"5\r\nhello\r\n").await;
    drop(stream);
    retried(&bed, &session, &digest, &bytes).await;
    let got = bed.send("GET", &format!("/v2/p/x/blobs/{digest}")).await;
    assert_eq!(got.bytes().await.unwrap(), bytes);
}

/// Sends the whole on a session whose last writer may not have been given up yet.
async fn retried(bed: &Bed, session: &str, digest: &Digest, bytes: &[u8]) {
    loop {
        let put = bed
            .request("PUT", &format!("{session}?digest={digest}"))
            .body(bytes.to_vec());
        match put.send().await.unwrap().status().as_u16() {
            409 => tokio::time::sleep(Duration::from_millis(20)).await,
            status => return assert_eq!(status, 201),
        }
    }
}

#[tokio::test]
async fn a_cut_chunk_takes_back_only_itself() {
    let bed = bed().await;
    let bytes = noise(5, 5_000_000);
    let digest = Digest::sha256_of(&bytes);
    let session = bed.session("p/x").await;
    let first = bed
        .request("PATCH", &session)
        .body(bytes[..2_000_000].to_vec());
    assert_eq!(first.send().await.unwrap().status(), 202);
    let head = format!(
        "PATCH {session} HTTP/1.1\r\nHost: o\r\nContent-Length: 3000000\r\nContent-Range: 2000000-4999999\r\n\r\n"
    );
    let mut stream = bed.raw().await;
    begin(&mut stream, &head, &noise(6, 2_500_000)).await;
    let data = bed.spooled()[0].join("data");
    soon(|| std::fs::metadata(&data).unwrap().len() > 2_000_000).await;
    drop(stream);
    soon(|| std::fs::metadata(&data).unwrap().len() == 2_000_000).await;
    let status = bed.send("GET", &session).await;
    assert_eq!(header(&status, "range"), "0-1999999");
    retried(&bed, &session, &digest, &bytes[2_000_000..]).await;
}

#[tokio::test]
async fn one_request_writes_to_a_session() {
    let bed = bed().await;
    let session = bed.session("p/x").await;
    let mut first = bed.raw().await;
    let head = format!("PATCH {session} HTTP/1.1\r\nHost: o\r\nContent-Length: 5\r\n\r\n");
    begin(&mut first, &head, b"he").await;
    // The first request has the session as soon as its head has been read.
    let mut refused = 202;
    while refused == 202 {
        let digest = Digest::sha256_of(b"x");
        let put = bed
            .request("PUT", &format!("{session}?digest={digest}"))
            .body("y");
        let response = put.send().await.unwrap();
        refused = response.status().as_u16();
        assert_eq!(refused, 409, "{}", code(response).await);
    }
    begin(&mut first, "", b"llo").await;
    let mut answer = [0; 12];
    first.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 202");
    let digest = Digest::sha256_of(b"hello");
    assert_eq!(
        bed.status("PUT", &format!("{session}?digest={digest}"))
            .await,
        201
    );
}

#[tokio::test]
async fn a_cancelled_upload_stops_its_writer() {
    let bed = bed().await;
    let session = bed.session("p/x").await;
    let mut stream = bed.raw().await;
    let head = format!("PATCH {session} HTTP/1.1\r\nHost: o\r\nContent-Length: 9000000\r\n\r\n");
    begin(&mut stream, &head, &noise(7, 3_000_000)).await;
    soon(|| !bed.spooled().is_empty()).await;
    assert_eq!(bed.status("DELETE", &session).await, 204);
    assert!(rest(stream).await.starts_with("HTTP/1.1 404"));
    bed.spool_empties().await;
    for method in ["GET", "PATCH", "DELETE"] {
        let gone = bed.send(method, &session).await;
        assert_eq!(verdict(gone).await, (404, "BLOB_UPLOAD_UNKNOWN".into()));
    }
}

#[tokio::test]
async fn a_client_that_is_refused_while_it_sends_learns_why() {
    let bed = bed_as(|_| {}, Arc::new(Policy)).await;
    let body = noise(13, 8_000_000);
    let requests = [
        ("PATCH", "/v2/p/x/blobs/uploads/none", 404),
        ("PUT", "/v2/p/x/manifests/v1", 413),
        (
            "PUT",
            "/v2/locked/x/blobs/uploads/none?digest=sha256:0",
            403,
        ),
    ];
    for (method, path, status) in requests {
        let mut stream = bed.raw().await;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: o\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        // All of it can be sent, although the answer came long before.
        begin(&mut stream, &head, &body).await;
        let answer = rest(stream).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.contains("\"errors\":"), "{answer}");
    }
}

#[tokio::test]
async fn sessions_belong_to_their_repository_and_end() {
    let bed = bed_with(|config| {
        config.limits.session_idle = Duration::from_millis(200);
        config.limits.sessions = 2;
    })
    .await;
    let session = bed.session("p/x").await;
    assert_eq!(bed.status("GET", &session.replace("p/x", "p/y")).await, 404);
    bed.request("PATCH", &session)
        .body(noise(8, 1_500_000))
        .send()
        .await
        .unwrap();
    bed.session("p/x").await;
    let third = bed.send("POST", "/v2/p/x/blobs/uploads/").await;
    assert_eq!(
        (third.status().as_u16(), header(&third, "retry-after")),
        (429, "10".into())
    );
    bed.spool_empties().await;
    assert_eq!(bed.status("GET", &session).await, 404);
    bed.session("p/x").await;
}

#[tokio::test]
async fn the_same_blob_may_come_from_many_at_once() {
    let bed = bed().await;
    let bytes = noise(9, 3_000_000);
    let digest = Digest::sha256_of(&bytes);
    let pushes = (0..6).map(|n| {
        let (bed, bytes) = (&bed, bytes.clone());
        async move { bed.push(&format!("team/app{}", n % 2), bytes).await }
    });
    for pushed in futures_util::future::join_all(pushes).await {
        assert_eq!(pushed, digest);
    }
    let stored = json_of(bed.api("/status").await).await;
    assert_eq!(stored["stored"]["blobs"], 1);
    bed.spool_empties().await;
    for repo in ["team/app0", "team/app1"] {
        assert_eq!(
            bed.status("HEAD", &format!("/v2/{repo}/blobs/{digest}"))
                .await,
            200
        );
    }
}

#[tokio::test]
async fn blobs_are_mounted_from_where_they_are() {
    let bed = bed().await;
    let digest = bed.push("base/os", "layer").await;
    let mount = format!("/v2/team/app/blobs/uploads/?mount={digest}&from=base/os");
    let mounted = bed.send("POST", &mount).await;
    assert_eq!(mounted.status(), 201);
    assert_eq!(
        header(&mounted, "docker-content-digest"),
        digest.to_string()
    );
    assert_eq!(
        header(&mounted, "location"),
        format!("/v2/team/app/blobs/{digest}")
    );
    assert_eq!(
        bed.status("HEAD", &format!("/v2/team/app/blobs/{digest}"))
            .await,
        200
    );
    let anywhere = format!("/v2/third/blobs/uploads/?mount={digest}");
    assert_eq!(bed.status("POST", &anywhere).await, 201);
    for query in [
        format!("mount={digest}&from=nobody"),
        format!("mount={digest}&from=NOT%20A%20NAME"),
        format!("mount={}&from=base/os", Digest::sha256_of(b"absent")),
    ] {
        let missed = bed
            .send("POST", &format!("/v2/fourth/blobs/uploads/?{query}"))
            .await;
        assert_eq!(missed.status(), 202, "{query}");
        assert!(!header(&missed, "location").is_empty());
    }
    let bad = bed
        .send(
            "POST",
            "/v2/fourth/blobs/uploads/?mount=sha256:0&from=base/os",
        )
        .await;
    assert_eq!(verdict(bad).await, (400, "DIGEST_INVALID".into()));
}

#[tokio::test]
async fn nothing_at_all_is_a_blob_too() {
    let bed = bed().await;
    let digest = bed.push("p/x", "").await;
    let got = bed.send("GET", &format!("/v2/p/x/blobs/{digest}")).await;
    assert_eq!(
        (got.status().as_u16(), got.bytes().await.unwrap().len()),
        (200, 0)
    );
    assert_eq!(
        bed.api(&format!("/torrents/{digest}?repo=p/x"))
            .await
            .status(),
        404
    );
    let bed = bed.restart(true).await;
    assert_eq!(
        bed.status("HEAD", &format!("/v2/p/x/blobs/{digest}")).await,
        200
    );
}

#[tokio::test]
async fn sha512_is_a_digest_too() {
    let bed = bed().await;
    let bytes = noise(10, 400_000);
    let mut verifier = oci::Verifier::new(oci::digest::Algorithm::Sha512);
    verifier.update(&bytes);
    let digest = verifier.finish();
    // Known from the start, and only at the end.
    let whole = format!("/v2/p/x/blobs/uploads/?digest={digest}");
    let post = bed
        .request("POST", &whole)
        .body(bytes.clone())
        .send()
        .await
        .unwrap();
    assert_eq!(post.status(), 201);
    let session = bed.session("p/y").await;
    bed.request("PATCH", &session)
        .body(bytes.clone())
        .send()
        .await
        .unwrap();
    assert_eq!(
        bed.status("PUT", &format!("{session}?digest={digest}"))
            .await,
        201
    );
    let got = bed.send("GET", &format!("/v2/p/y/blobs/{digest}")).await;
    assert_eq!(got.bytes().await.unwrap(), bytes);
    let torrent = bed.api(&format!("/torrents/{digest}")).await;
    let metainfo = torrents::Metainfo::parse(&torrent.bytes().await.unwrap()).unwrap();
    assert_eq!(metainfo.info.name(), digest.torrent_name());
}

#[tokio::test]
async fn what_is_deleted_is_what_was_named() {
    let bed = bed().await;
    let layer = noise(12, 50_000);
    let digest = bed.push_image("p/x", "v1", &[&layer]).await;
    bed.push_image("p/x", "v2", &[&layer]).await;
    let layer_path = format!("/v2/p/x/blobs/{}", Digest::sha256_of(&layer));
    assert_eq!(bed.status("DELETE", "/v2/p/x/manifests/v1").await, 202);
    assert_eq!(bed.status("DELETE", "/v2/p/x/manifests/v1").await, 404);
    assert_eq!(
        bed.status("GET", &format!("/v2/p/x/manifests/{digest}"))
            .await,
        200
    );
    let needed = bed.send("DELETE", &layer_path).await;
    assert_eq!(verdict(needed).await, (403, "DENIED".into()));
    assert_eq!(
        bed.status("DELETE", &format!("/v2/p/x/blobs/{digest}"))
            .await,
        403
    );
    let manifest = format!("/v2/p/x/manifests/{digest}");
    assert_eq!(bed.status("DELETE", &manifest).await, 202);
    assert_eq!(bed.status("GET", "/v2/p/x/manifests/v2").await, 404);
    assert_eq!(verdict(bed.send("DELETE", &manifest).await).await.0, 404);
    let tags = json_of(bed.send("GET", "/v2/p/x/tags/list").await).await;
    assert_eq!(tags["tags"], json!([]));
    // Another repository keeps the bytes alive; the last one takes them along.
    let mount = format!(
        "/v2/other/blobs/uploads/?mount={}&from=p/x",
        Digest::sha256_of(&layer)
    );
    assert_eq!(bed.status("POST", &mount).await, 201);
    assert_eq!(bed.status("DELETE", &layer_path).await, 202);
    assert_eq!(
        verdict(bed.send("DELETE", &layer_path).await).await,
        (404, "BLOB_UNKNOWN".into())
    );
    let other = layer_path.replace("p/x", "other");
    assert_eq!(bed.status("HEAD", &other).await, 200);
    let torrent = format!("/torrents/{}", Digest::sha256_of(&layer));
    assert_eq!(bed.api(&torrent).await.status(), 200);
    assert_eq!(bed.status("DELETE", &other).await, 202);
    assert_eq!(bed.api(&torrent).await.status(), 404);
    bed.spool_empties().await;
    let bed = bed.restart(true).await;
    assert_eq!(bed.status("HEAD", &other).await, 404);
}

#[tokio::test]
async fn other_methods_and_names_are_refused() {
    let bed = bed().await;
    assert_eq!(bed.status("GET", "/v2/").await, 200);
    for (method, path) in [
        ("PUT", "/v2/p/x/blobs/uploads/"),
        ("GET", "/v2/p/x/blobs/uploads/"),
        ("POST", "/v2/p/x/manifests/v1"),
        ("DELETE", "/v2/p/x/tags/list"),
        ("POST", "/v2/"),
    ] {
        let refused = bed.send(method, path).await;
        assert_eq!(
            verdict(refused).await,
            (405, "UNSUPPORTED".into()),
            "{method} {path}"
        );
    }
    let upper = bed.send("POST", "/v2/Upper/blobs/uploads/").await;
    assert_eq!(verdict(upper).await, (400, "NAME_INVALID".into()));
    let unknown = bed.send("PATCH", "/v2/p/x/blobs/uploads/none").await;
    assert_eq!(verdict(unknown).await, (404, "BLOB_UPLOAD_UNKNOWN".into()));
    let dotted = bed
        .send("GET", "/v2/p/x/blobs/uploads/..%2f..%2fspool")
        .await;
    assert_eq!(dotted.status().as_u16() / 100, 4);
}

/// Everybody pushes but to `locked/` and reads but in `secret/`; nobody deletes.
struct Policy;

impl Access for Policy {
    fn check(
        &self,
        _: &Caller,
        action: Action,
        repo: &RepoName,
        _: Option<&Digest>,
    ) -> Result<(), RegistryError> {
        let allowed = match action {
            Action::Pull => !repo.as_str().starts_with("secret/"),
            Action::Push => !repo.as_str().starts_with("locked/"),
            Action::Delete => false,
        };
        let denied = || RegistryError::new(ErrorCode::Denied, "not for you");
        if allowed { Ok(()) } else { Err(denied()) }
    }
}

#[tokio::test]
async fn policy_is_asked_everywhere() {
    let bed = bed_as(|_| {}, Arc::new(Policy)).await;
    let digest = bed.push("secret/x", "hidden").await;
    let blob = format!("/v2/secret/x/blobs/{digest}");
    let reads = [
        bed.send("GET", &blob).await,
        bed.api(&format!("/torrents/{digest}?repo=secret/x")).await,
        bed.api(&format!("/torrents/{digest}")).await,
        bed.api(&format!("/blobs/{digest}")).await,
        bed.send("DELETE", &blob).await,
        bed.send("POST", "/v2/locked/x/blobs/uploads/").await,
        bed.put_manifest("locked/x", "v1", &image(b"{}", &[])).await,
    ];
    for refused in reads {
        assert_eq!(verdict(refused).await, (403, "DENIED".into()));
    }
    // Nobody mounts what he may not read, nor learns that it is there.
    for from in ["&from=secret/x", ""] {
        let mount = format!("/v2/team/x/blobs/uploads/?mount={digest}{from}");
        assert_eq!(bed.status("POST", &mount).await, 202);
    }
    // The same bytes pushed where they may be read can be read there.
    bed.push("team/x", "hidden").await;
    assert_eq!(bed.api(&format!("/torrents/{digest}")).await.status(), 200);
    assert_eq!(bed.api(&format!("/blobs/{digest}")).await.status(), 200);
    let tags = format!("http://{}/tags/secret/x:v1", bed.origin.addrs().tags);
    assert_eq!(bed.client.get(tags).send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn silent_and_dripping_uploads_let_others_by() {
    let bed = bed_with(|config| config.limits.receiving = 2).await;
    let bytes = noise(41, 700_000);
    let digest = Digest::sha256_of(&bytes);
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let session = bed.session("p/x").await;
        let mut stream = bed.raw().await;
        let head = format!(
            "PUT {session}?digest={digest} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            bytes.len()
        );
        begin(&mut stream, &head, &bytes[..300_000]).await;
        stalled.push(stream);
    }
    // Two that are never silent for long: they hold every place there is.
    let mut drips = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let session = bed.session("p/x").await;
        let mut stream = bed.raw().await;
        let head =
            format!("PATCH {session} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n");
        begin(&mut stream, &head, b"").await;
        drips.spawn(async move {
            loop {
                begin(&mut stream, "", b"x").await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
    tokio::time::timeout(common::SOON, bed.push("p/x", "small"))
        .await
        .expect("others are let by");
    drips.shutdown().await;
    // Silence has cost those who were silent nothing.
    for mut stream in stalled {
        begin(&mut stream, "", &bytes[300_000..]).await;
        let answer = rest(stream).await;
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
    let got = bed.send("GET", &format!("/v2/p/x/blobs/{digest}")).await;
    assert_eq!(got.bytes().await.unwrap(), bytes);
}
