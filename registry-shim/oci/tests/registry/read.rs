//! The read half over real sockets, byte by byte: what clients rely on is what is asserted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::harness::{HandFed, Port, Registry, Shelf};
use bytes::Bytes;
use oci::manifest::OCI_MANIFEST;
use oci::{BlobError, Descriptor, Digest, ErrorCode, RegistryError, StoredManifest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// SHA-256 of "0123456789".
const TEN: &str = "sha256:84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882";

fn ten() -> Port {
    let mut shelf = Shelf::default();
    assert_eq!(shelf.add(b"0123456789").to_string(), TEN);
    Port::serve(shelf)
}

#[tokio::test]
async fn base() {
    let port = Port::serve(Shelf::default());
    for path in ["/v2/", "/v2"] {
        let reply = port.get(path).await;
        let expected = "HTTP/1.1 200 OK\n\
            content-type: application/json\n\
            docker-distribution-api-version: registry/2.0\n\
            connection: close\n\
            content-length: 2";
        assert_eq!(reply.golden(), expected);
        assert_eq!(reply.body, b"{}");
    }
    assert_eq!(port.send("HEAD", "/v2/", "").await.status, 200);
    port.close().await;
}

#[tokio::test]
async fn a_blob() {
    let port = ten();
    let reply = port
        .get(&format!("/v2/team/app/blobs/{TEN}?ns=docker.io"))
        .await;
    let expected = format!(
        "HTTP/1.1 200 OK\n\
        content-type: application/octet-stream\n\
        content-length: 10\n\
        accept-ranges: bytes\n\
        docker-content-digest: {TEN}\n\
        etag: \"{TEN}\"\n\
        cache-control: max-age=31536000, immutable\n\
        docker-distribution-api-version: registry/2.0\n\
        connection: close"
    );
    assert_eq!(reply.golden(), expected);
    assert_eq!(reply.body, b"0123456789");

    let head = port
        .send("HEAD", &format!("/v2/team/app/blobs/{TEN}"), "")
        .await;
    assert_eq!(head.golden(), expected);
    assert_eq!(head.body, b"");

    let zipped = "Accept-Encoding: gzip, zstd\r\n";
    let reply = port
        .send("GET", &format!("/v2/a/blobs/{TEN}"), zipped)
        .await;
    assert_eq!(reply.header("content-encoding"), None);
    assert_eq!(reply.body, b"0123456789");
    port.close().await;
}

#[tokio::test]
async fn an_empty_blob() {
    let mut shelf = Shelf::default();
    let path = format!("/v2/a/blobs/{}", shelf.add(b""));
    let port = Port::serve(shelf);
    for (method, headers) in [("GET", ""), ("HEAD", ""), ("GET", "Range: bytes=0-\r\n")] {
        let reply = port.send(method, &path, headers).await;
        assert_eq!(reply.status, 200);
        assert_eq!(
            reply.header("content-length"),
            Some("0"),
            "{method} {headers}"
        );
        assert_eq!(reply.body, b"");
    }
    port.close().await;
}

#[tokio::test]
async fn parts_of_a_blob() {
    let port = ten();
    let path = format!("/v2/a/blobs/{TEN}");
    for (range, status, content_range, body) in [
        ("bytes=0-", 206, Some("bytes 0-9/10"), "0123456789"),
        ("bytes=4-", 206, Some("bytes 4-9/10"), "456789"),
        ("bytes=9-", 206, Some("bytes 9-9/10"), "9"),
        ("bytes=2-5", 206, Some("bytes 2-5/10"), "2345"),
        ("bytes=2-500", 206, Some("bytes 2-9/10"), "23456789"),
        ("bytes=-3", 206, Some("bytes 7-9/10"), "789"),
        ("bytes=0-0,2-3", 200, None, "0123456789"),
        ("bytes=5-2", 200, None, "0123456789"),
        ("lines=1-2", 200, None, "0123456789"),
    ] {
        let reply = port
            .send("GET", &path, &format!("Range: {range}\r\n"))
            .await;
        assert_eq!(reply.status, status, "{range}");
        assert_eq!(reply.header("content-range"), content_range, "{range}");
        assert_eq!(
            reply.header("content-length"),
            Some(&*body.len().to_string())
        );
        assert_eq!(reply.header("docker-content-digest"), Some(TEN));
        assert_eq!(String::from_utf8(reply.body).unwrap(), body);
    }
    for range in ["bytes=10-", "bytes=11-12", "bytes=-0"] {
        let reply = port
            .send("GET", &path, &format!("Range: {range}\r\n"))
            .await;
        assert_eq!(reply.status, 416, "{range}");
        assert_eq!(reply.header("content-range"), Some("bytes */10"));
        assert_eq!(reply.code(), "RANGE_INVALID");
    }
    // HEAD has no parts.
    let reply = port.send("HEAD", &path, "Range: bytes=4-\r\n").await;
    assert_eq!(
        (reply.status, reply.header("content-length")),
        (200, Some("10"))
    );
    port.close().await;
}

#[tokio::test]
async fn conditions() {
    let port = ten();
    let path = format!("/v2/a/blobs/{TEN}");
    for (condition, status) in [
        (format!("If-None-Match: \"{TEN}\"\r\n"), 304),
        (format!("If-None-Match: \"x\", W/\"{TEN}\"\r\n"), 304),
        ("If-None-Match: *\r\n".to_owned(), 304),
        ("If-None-Match: \"x\"\r\n".to_owned(), 200),
        (format!("Range: bytes=4-\r\nIf-Range: \"{TEN}\"\r\n"), 206),
        ("Range: bytes=4-\r\nIf-Range: \"x\"\r\n".to_owned(), 200),
        (
            "Range: bytes=4-\r\nIf-Range: Wed, 21 Oct 2015 07:28:00 GMT\r\n".to_owned(),
            200,
        ),
    ] {
        let reply = port.send("GET", &path, &condition).await;
        assert_eq!(reply.status, status, "{condition}");
        let body: &[u8] = match status {
            304 => b"",
            206 => b"456789",
            _ => b"0123456789",
        };
        assert_eq!(reply.body, body, "{condition}");
    }
    port.close().await;
}

#[tokio::test]
async fn headers_come_before_the_first_byte() {
    let (feed, blob) = HandFed::new(6);
    let mut shelf = Shelf::default();
    let digest = Digest::sha256_of(b"abcdef");
    shelf.blobs.insert(digest.clone(), Arc::new(blob));
    let port = Port::serve(shelf);
    let mut stream = port.connect().await;
    let request = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();

    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await.unwrap());
    }
    assert!(seen.starts_with(b"HTTP/1.1 200 OK\r\n"));
    for part in ["abc", "def"] {
        feed.send(Ok(Bytes::from_static(part.as_bytes())))
            .await
            .unwrap();
        let mut read = [0; 3];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(read, part.as_bytes());
    }
    // The connection is kept for the next request.
    stream
        .write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(b"{}"));
    port.close().await;
}

#[tokio::test]
async fn a_failed_body_cuts_the_connection() {
    for broken in [Some(Err(BlobError("the swarm is gone".into()))), None] {
        let (feed, blob) = HandFed::new(100);
        let mut shelf = Shelf::default();
        let digest = Digest::sha256_of(b"whatever");
        shelf.blobs.insert(digest.clone(), Arc::new(blob));
        let port = Port::serve(shelf);
        feed.send(Ok(Bytes::from_static(b"first"))).await.unwrap();
        if let Some(error) = broken {
            feed.send(error).await.unwrap();
        }
        drop(feed);
        let reply = port.get(&format!("/v2/a/blobs/{digest}")).await;
        assert_eq!(reply.header("content-length"), Some("100"));
        assert_eq!(reply.body, b"first");
        port.close().await;
    }
}

#[tokio::test]
async fn a_source_that_gives_too_much_is_cut() {
    let (feed, blob) = HandFed::new(4);
    let mut shelf = Shelf::default();
    let digest = Digest::sha256_of(b"whatever");
    shelf.blobs.insert(digest.clone(), Arc::new(blob));
    let port = Port::serve(shelf);
    feed.send(Ok(Bytes::from_static(b"12345"))).await.unwrap();
    let reply = port.get(&format!("/v2/a/blobs/{digest}")).await;
    assert_eq!(reply.body, b"");
    port.close().await;
}

#[tokio::test]
async fn a_reader_that_leaves_gives_up_its_claim() {
    let (feed, blob) = HandFed::new(1 << 40);
    let mut shelf = Shelf::default();
    let digest = Digest::sha256_of(b"whatever");
    shelf.blobs.insert(digest.clone(), Arc::new(blob));
    let port = Port::serve(shelf);
    let mut stream = port.connect().await;
    let request = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.read_u8().await.unwrap();
    drop(stream);
    feed.closed().await;
    port.close().await;
}

#[tokio::test]
async fn head_claims_nothing() {
    let (_feed, blob) = HandFed::new(5);
    let blob = Arc::new(blob);
    let mut shelf = Shelf::default();
    let digest = Digest::sha256_of(b"whatever");
    shelf.blobs.insert(digest.clone(), blob.clone());
    let port = Port::serve(shelf);
    let reply = port
        .send("HEAD", &format!("/v2/a/blobs/{digest}"), "")
        .await;
    assert_eq!(
        (reply.status, reply.header("content-length")),
        (200, Some("5"))
    );
    assert_eq!(blob.readers.load(Ordering::Relaxed), 0);
    port.close().await;
}

#[tokio::test]
async fn a_blob_in_trouble_is_503_with_the_reason() {
    let (_feed, mut blob) = HandFed::new(5);
    let trouble = RegistryError::new(ErrorCode::Unavailable, "no peer has it; try again")
        .with_retry_after(std::time::Duration::from_secs(3));
    blob.trouble = Some(trouble);
    let mut shelf = Shelf::default();
    let digest = Digest::sha256_of(b"whatever");
    shelf.blobs.insert(digest.clone(), Arc::new(blob));
    let port = Port::serve(shelf);
    let path = format!("/v2/a/blobs/{digest}");
    let reply = port.send("GET", &path, "Range: bytes=3-\r\n").await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.header("retry-after"), Some("3"));
    assert_eq!(
        reply.json()["errors"][0]["message"],
        "no peer has it; try again"
    );
    let head = port.send("HEAD", &path, "").await;
    assert_eq!((head.status, head.body.len()), (503, 0));
    port.close().await;
}

fn stored(bytes: &'static [u8]) -> StoredManifest {
    StoredManifest {
        digest: Digest::sha256_of(bytes),
        media_type: OCI_MANIFEST.to_owned(),
        bytes: Bytes::from_static(bytes),
    }
}

#[tokio::test]
async fn manifests() {
    let manifest = stored(b"{ \"as\": \"pushed\" }\n");
    let digest = manifest.digest.to_string();
    let mut shelf = Shelf::default();
    shelf.manifests.insert("v1".to_owned(), manifest.clone());
    shelf.manifests.insert(digest.clone(), manifest);
    let port = Port::serve(shelf);
    let expected = format!(
        "HTTP/1.1 200 OK\n\
        content-type: {OCI_MANIFEST}\n\
        content-length: 19\n\
        docker-content-digest: {digest}\n\
        etag: \"{digest}\"\n\
        docker-distribution-api-version: registry/2.0\n\
        connection: close"
    );
    let docker_only = "Accept: application/vnd.docker.distribution.manifest.v2+json\r\n";
    for reference in ["v1", &digest] {
        for accept in ["", "Accept: */*\r\n", docker_only] {
            let path = format!("/v2/a/manifests/{reference}");
            let reply = port.send("GET", &path, accept).await;
            assert_eq!(reply.golden(), expected);
            assert_eq!(reply.body, b"{ \"as\": \"pushed\" }\n");
            let head = port.send("HEAD", &path, accept).await;
            assert_eq!(head.golden(), expected);
            assert_eq!(head.body, b"");
        }
    }
    let known = format!("If-None-Match: \"{digest}\"\r\n");
    assert_eq!(
        port.send("GET", "/v2/a/manifests/v1", &known).await.status,
        304
    );
    port.close().await;
}

#[tokio::test]
async fn refusals() {
    let port = ten();
    let md5 = "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e";
    for (method, path, status, code) in [
        ("GET", "/v2/a/manifests/v1", 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/a/manifests/.x", 404, "TAG_INVALID"),
        ("GET", "/v2/a/manifests/sha256:x", 400, "DIGEST_INVALID"),
        ("GET", "/v2/A/manifests/v1", 400, "NAME_INVALID"),
        ("GET", md5, 400, "DIGEST_INVALID"),
        ("GET", "/v1/", 404, "UNSUPPORTED"),
        ("POST", "/v2/a/blobs/uploads/", 405, "UNSUPPORTED"),
        ("PUT", "/v2/a/manifests/v1", 405, "UNSUPPORTED"),
        ("DELETE", "/v2/a/manifests/v1", 405, "UNSUPPORTED"),
        ("GET", "/v2/a/blobs/uploads/x", 405, "UNSUPPORTED"),
    ] {
        let reply = port.send(method, path, "").await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (status, code),
            "{method} {path}"
        );
        if status == 405 {
            assert_eq!(reply.header("allow"), Some("GET, HEAD"));
        }
    }
    let missing = Digest::sha256_of(b"missing");
    let path = format!("/v2/a/blobs/{missing}");
    assert_eq!(port.get(&path).await.code(), "BLOB_UNKNOWN");
    let head = port.send("HEAD", &path, "").await;
    assert_eq!((head.status, head.body.len()), (404, 0));
    assert!(
        head.header("content-length")
            .is_some_and(|length| length != "0")
    );
    port.close().await;
}

#[tokio::test]
async fn access_is_asked_first() {
    let mut shelf = Shelf::default();
    let digest = shelf.add(b"secret");
    shelf.repositories = ["a", "secret/b", "team/c"].map(str::to_owned).to_vec();
    let port = Port::serve(shelf);
    for path in [
        format!("/v2/secret/b/blobs/{digest}"),
        format!("/v2/secret/b/referrers/{digest}"),
        "/v2/secret/b/manifests/v1".to_owned(),
        "/v2/secret/b/tags/list".to_owned(),
    ] {
        let reply = port.get(&path).await;
        assert_eq!((reply.status, &*reply.code()), (403, "DENIED"), "{path}");
    }
    let names = port.get("/v2/_catalog").await.json();
    assert_eq!(names, serde_json::json!({"repositories": ["a", "team/c"]}));
    port.close().await;
}

#[tokio::test]
async fn who_asks() {
    let shelf = Arc::new(Shelf::default());
    let registry = Registry {
        shelf: shelf.clone(),
        access: Arc::new(oci::OpenAccess),
    };
    let port = Port::open(registry, oci::serve::Limits::default());
    let with = "Authorization: Bearer abc\r\n";
    port.send("GET", "/v2/a/manifests/v1", with).await;
    port.get("/v2/a/manifests/v1").await;
    port.close().await;
    let callers = shelf.callers.lock().unwrap();
    assert_eq!(callers[0].authorization.as_deref(), Some("Bearer abc"));
    assert_eq!(callers[1].authorization, None);
    assert!(callers.iter().all(|c| c.addr.unwrap().ip().is_loopback()));
}

#[tokio::test]
async fn tags_page_by_page() {
    let mut shelf = Shelf {
        tags: ["V", "a", "b", "c", "d"].map(str::to_owned).to_vec(),
        ..Shelf::default()
    };
    shelf.repositories = ["a/b", "c"].map(str::to_owned).to_vec();
    let port = Port::serve(shelf);
    let all = port.get("/v2/team/app/tags/list").await;
    assert_eq!(all.header("link"), None);
    assert_eq!(
        all.json(),
        serde_json::json!({"name": "team/app", "tags": ["V", "a", "b", "c", "d"]})
    );

    let mut path = "/v2/team/app/tags/list?n=2".to_owned();
    let mut pages = Vec::new();
    loop {
        let reply = port.get(&path).await;
        pages.push(reply.json()["tags"].clone());
        let Some(link) = reply.header("link") else {
            break;
        };
        let next = link
            .strip_prefix('<')
            .and_then(|l| l.strip_suffix(">; rel=\"next\""));
        path = next.unwrap().to_owned();
    }
    assert_eq!(
        serde_json::json!(pages),
        serde_json::json!([["V", "a"], ["b", "c"], ["d"]])
    );

    let none = port.get("/v2/team/app/tags/list?n=0").await;
    assert_eq!((none.status, none.header("link")), (200, None));
    assert_eq!(none.json()["tags"], serde_json::json!([]));
    let first = port.get("/v2/_catalog?n=1").await;
    assert_eq!(
        first.header("link"),
        Some("</v2/_catalog?n=1&last=a%2Fb>; rel=\"next\"")
    );
    let second = port.get("/v2/_catalog?n=1&last=a%2Fb").await;
    assert_eq!(second.json()["repositories"], serde_json::json!(["c"]));
    assert_eq!(second.header("link"), None);

    for bad in ["-1", "x", "", "1.5", "%2B1"] {
        let reply = port.get(&format!("/v2/a/tags/list?n={bad}")).await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (400, "PAGINATION_NUMBER_INVALID"),
            "{bad}"
        );
    }
    let many = port.get("/v2/a/tags/list?n=99999999999999999999999").await;
    assert_eq!(many.json()["tags"].as_array().unwrap().len(), 5);
    port.close().await;
}

#[tokio::test]
async fn referrers() {
    let one = |artifact_type: &str| Descriptor {
        media_type: OCI_MANIFEST.to_owned(),
        digest: Digest::sha256_of(artifact_type.as_bytes()),
        size: 7,
        urls: Vec::new(),
        artifact_type: Some(artifact_type.to_owned()),
        annotations: [("k".to_owned(), "v".to_owned())].into(),
        platform: None,
    };
    let shelf = Shelf {
        referrers: vec![one("text/sbom"), one("text/signature+json")],
        ..Shelf::default()
    };
    let port = Port::serve(shelf);
    let path = format!("/v2/a/referrers/{TEN}");
    let all = port.get(&path).await;
    assert_eq!(all.status, 200);
    assert_eq!(
        all.header("content-type"),
        Some("application/vnd.oci.image.index.v1+json")
    );
    assert_eq!(all.header("oci-filters-applied"), None);
    let index = all.json();
    assert_eq!(index["schemaVersion"], 2);
    assert_eq!(
        index["mediaType"],
        "application/vnd.oci.image.index.v1+json"
    );
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(index["manifests"][0]["annotations"]["k"], "v");

    let filtered = port
        .get(&format!("{path}?artifactType=text%2Fsignature%2Bjson"))
        .await;
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    let found = filtered.json()["manifests"].clone();
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["artifactType"], "text/signature+json");
    assert_eq!(filtered.header("link"), None);

    let filter = "artifactType=text%2Fsbom&n=0";
    let none = port.get(&format!("{path}?{filter}")).await;
    assert_eq!(none.json()["manifests"], serde_json::json!([]));
    let first = port.get(&format!("{path}?n=1")).await;
    let link = first.header("link").unwrap().to_owned();
    let first = first.json()["manifests"][0].clone();
    assert!(link.contains("rel=\"next\""), "{link}");
    let next = link.trim_start_matches('<').split('>').next().unwrap();
    let second = port.get(next).await;
    assert_eq!(second.header("link"), None);
    let second = second.json()["manifests"][0].clone();
    assert_ne!(first["digest"], second["digest"]);
    let nonsense = port.get(&format!("{path}?last=x")).await;
    assert_eq!(
        (nonsense.status, &*nonsense.code()),
        (400, "DIGEST_INVALID")
    );
    port.close().await;
}
