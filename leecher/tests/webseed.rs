//! Web seeds that serve, refuse, lie about ranges, and break off.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::ops::Range;
use std::time::Duration;

use futures_util::TryStreamExt;
use leecher::webseed::{WebSeedError, fetch, location};
use support::{multi, noise, single};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

const LENGTH: usize = 300_000;

/// Serves each connection one raw answer, made from the request's head.
async fn serve(
    answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/blobs/x", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.unwrap());
            }
            let answer = answer(std::str::from_utf8(&head).unwrap());
            // A client that has seen enough may be gone.
            drop(socket.write_all(&answer).await);
        }
    });
    (url, AbortOnDropHandle::new(task))
}

fn with_head(head: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

async fn get(url: &str, range: Range<u64>) -> Result<Vec<u8>, WebSeedError> {
    let client = leecher::http::client().unwrap();
    let stream = fetch(&client, url, range, LENGTH as u64).await?;
    let chunks: Vec<_> = stream.try_collect().await?;
    Ok(chunks.concat())
}

#[tokio::test]
async fn a_range_is_streamed_whole() {
    let (url, _server) = serve(|request| {
        let request = request.to_ascii_lowercase();
        let (_, range) = request.split_once("range: bytes=").unwrap();
        let (range, _) = range.split_once("\r\n").unwrap();
        let (first, last) = range.split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let body = &noise(LENGTH, 1)[first..=last];
        with_head(
            &format!("206 x\r\nContent-Range: bytes {range}/{LENGTH}"),
            body,
        )
    })
    .await;
    let bytes = noise(LENGTH, 1);
    assert_eq!(get(&url, 0..1).await.unwrap(), &bytes[..1]);
    assert_eq!(get(&url, 10..200_000).await.unwrap(), &bytes[10..200_000]);
    assert_eq!(
        get(&url, 299_999..300_000).await.unwrap(),
        &bytes[299_999..]
    );
    assert_eq!(get(&url, 0..300_000).await.unwrap(), bytes);
    assert_eq!(get(&url, 7..7).await.unwrap(), b"");
}

#[tokio::test]
async fn everything_may_come_as_200_and_nothing_else_may() {
    let (url, _server) = serve(|_| with_head("200 OK", &noise(LENGTH, 1))).await;
    assert_eq!(get(&url, 0..300_000).await.unwrap(), noise(LENGTH, 1));
    let error = get(&url, 0..299_999).await.unwrap_err();
    assert!(matches!(error, WebSeedError::WrongRange { .. }), "{error}");
}

#[tokio::test]
async fn another_range_than_was_asked_for_is_no_answer() {
    for head in [
        "206 x",
        "206 x\r\nContent-Range: bytes 1-10/300000",
        "206 x\r\nContent-Range: bytes 0-10/300000",
        "206 x\r\nContent-Range: bytes 0-9/300001",
        "206 x\r\nContent-Range: bytes 0-9/300000\r\nContent-Encoding: gzip",
    ] {
        let (url, _server) = serve(move |_| with_head(head, &[7; 10])).await;
        let error = get(&url, 0..10).await.unwrap_err();
        assert!(
            matches!(error, WebSeedError::WrongRange { .. }),
            "{head}: {error}"
        );
    }
    let (url, _server) =
        serve(|_| with_head("206 x\r\nContent-Range: bytes 0-9/*", &[7; 10])).await;
    assert_eq!(get(&url, 0..10).await.unwrap(), [7; 10]);
}

#[tokio::test]
async fn a_busy_server_says_when_to_come_back() {
    for (head, expected) in [
        ("503 x\r\nRetry-After: 7", Some(7)),
        ("429 x\r\nRetry-After: 999999", Some(3600)),
        ("503 x\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT", None),
        ("503 x", None),
    ] {
        let (url, _server) = serve(move |_| with_head(head, b"")).await;
        let error = get(&url, 0..10).await.unwrap_err();
        assert!(
            matches!(error, WebSeedError::Busy { .. }),
            "{head}: {error}"
        );
        assert_eq!(
            error.retry_after(),
            expected.map(Duration::from_secs),
            "{head}"
        );
    }
    let (url, _server) = serve(|_| with_head("404 x", b"")).await;
    let error = get(&url, 0..10).await.unwrap_err();
    assert_eq!(error.to_string(), "the web seed answered 404 Not Found");
    assert_eq!(error.retry_after(), None);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (target, _target) = serve(|_| with_head("200 OK", &noise(LENGTH, 1))).await;
    let (url, _server) =
        serve(move |_| with_head(&format!("302 x\r\nLocation: {target}"), b"")).await;
    let error = get(&url, 0..300_000).await.unwrap_err();
    assert!(matches!(error, WebSeedError::Redirected), "{error}");
    // Nor is it when the caller's client follows by itself.
    let client = reqwest::Client::new();
    let error = fetch(&client, &url, 0..300_000, 300_000)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, WebSeedError::Redirected), "{error}");
}

#[tokio::test]
async fn what_breaks_off_or_goes_on_too_long_is_an_error() {
    // Announces 10 bytes and gives 4.
    let (url, _server) = serve(|_| {
        let head = "HTTP/1.1 206 x\r\nContent-Range: bytes 0-9/300000\r\nContent-Length: 10";
        format!("{head}\r\n\r\nfour").into_bytes()
    })
    .await;
    assert!(get(&url, 0..10).await.is_err());
    for (body, got) in [
        ("4\r\nfour\r\n0\r\n\r\n", 4),
        ("c\r\ntwelve bytes\r\n0\r\n\r\n", 12),
    ] {
        let (url, _server) = serve(move |_| {
            let head = "HTTP/1.1 206 x\r\nContent-Range: bytes 0-9/300000";
            format!("{head}\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes()
        })
        .await;
        let error = get(&url, 0..10).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the web seed gave {got} bytes of 10")
        );
    }
    let (url, _server) =
        serve(|_| with_head("206 x\r\nContent-Range: bytes 0-9/300000", &[7; 11])).await;
    let error = get(&url, 0..10).await.unwrap_err();
    assert_eq!(error.to_string(), "the web seed gave 11 bytes of 10");
}

#[tokio::test]
async fn nobody_there_is_said_plainly() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    drop(listener);
    let error = get(&url, 0..10).await.unwrap_err().to_string();
    assert!(
        error.starts_with("the web seed gave no answer: "),
        "{error}"
    );
    assert!(error.contains("refused"), "{error}");
    let error = get("https://x/y", 0..10).await.unwrap_err().to_string();
    assert!(error.contains("https is not supported here"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let error = get(&url, 0..10).await.unwrap_err().to_string();
    assert!(
        error.contains("silent for 15 s") || error.contains("in time"),
        "{error}"
    );
    drop(listener);
}

#[test]
fn a_directory_holds_the_file_by_its_name() {
    let bytes = noise(100, 1);
    let info = single("a layer%", &bytes, 16 << 10);
    let at = |url| location(url, &info);
    assert_eq!(at("http://x/blobs/y"), Some("http://x/blobs/y".into()));
    assert_eq!(
        at("http://x/dir/"),
        Some("http://x/dir/a%20layer%25".into())
    );
    assert_eq!(at("http://x"), Some("http://x/a%20layer%25".into()));
    assert_eq!(at("https://x/y"), None);
    let several = multi("m", &[("a", 50, false), ("b", 50, false)], &bytes, 16 << 10);
    assert_eq!(location("http://x/dir/", &several), None);
}
