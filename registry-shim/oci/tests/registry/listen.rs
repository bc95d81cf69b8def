//! The port: TLS hellos, slow and stalled clients, the cap, the end.
//!
//! Time limits are tested with limits of a fraction of a second against clients that would
//! wait for ever: what is asserted is that the server ends it, not when.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures_util::StreamExt;
use oci::chunks::CHUNK;
use oci::serve::{Counters, Limits, Service};
use oci::{BlobError, GrowingBlob, Source, SourceReader};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};

use crate::harness::{HandFed, Port, Reply, Shelf};

/// The beginning of the ClientHello of Go's TLS client.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x01\x34\x01\x00\x01\x30\x03\x03";

const SHORT: Duration = Duration::from_millis(200);

/// Calls the function; what a test needs of a service.
#[derive(Clone)]
struct Call<F>(F);

impl<F, R> Service for Call<F>
where
    F: Fn(Request<Body>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response> + Send,
{
    async fn call(&self, request: Request<Body>) -> Response {
        (self.0)(request).await
    }
}

fn hello() -> impl Service {
    Call(|_| async { Response::new(Body::from("hello")) })
}

async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

#[tokio::test]
async fn a_tls_hello_is_answered_in_plain_text_and_closed() {
    let port = Port::serve(Shelf::default());
    // The whole hello at once, as it comes in reality, and its first byte alone.
    for sent in [CLIENT_HELLO, &CLIENT_HELLO[..1]] {
        let mut stream = port.connect().await;
        stream.write_all(sent).await.unwrap();
        let reply = Reply::parse(&rest(&mut stream).await);
        assert_eq!(reply.status, 400);
        let length = reply.body.len().to_string();
        assert_eq!(reply.header("content-length"), Some(&*length));
        assert!(
            String::from_utf8(reply.body)
                .unwrap()
                .contains("plain HTTP")
        );
    }
    port.close().await;
}

#[tokio::test]
async fn a_slow_head_ends() {
    let limits = Limits {
        head: SHORT,
        ..Limits::default()
    };
    let port = Port::open(hello(), limits);
    for begun in ["", "G", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        let mut stream = port.connect().await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        assert_eq!(rest(&mut stream).await, b"", "{begun:?}");
    }
    // Nor does a client win time by sending a little now and then.
    let mut stream = port.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let drip = async {
        while stream.write_all(b"a: b\r\n").await.is_ok() {
            tokio::time::sleep(SHORT / 4).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), drip)
        .await
        .unwrap();
    port.close().await;
}

#[tokio::test]
async fn an_idle_connection_ends() {
    let limits = Limits {
        idle: SHORT,
        ..Limits::default()
    };
    let port = Port::open(hello(), limits);
    let mut stream = port.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(rest(&mut stream).await.ends_with(b"hello"));
    port.close().await;
}

/// Chunks that are in memory now, and the most there were.
#[derive(Default)]
struct Held {
    now: AtomicUsize,
    most: AtomicUsize,
}

struct HeldChunk(Arc<Held>, Vec<u8>);

impl AsRef<[u8]> for HeldChunk {
    fn as_ref(&self) -> &[u8] {
        &self.1
    }
}

impl Drop for HeldChunk {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Has every byte at once.
#[derive(Clone)]
struct Ready(Arc<Held>);

impl Source for Ready {
    type Reader = Self;

    fn length(&self) -> u64 {
        1 << 30
    }

    fn reader(&self, _: Range<u64>) -> Self {
        self.clone()
    }
}

#[async_trait]
impl SourceReader for Ready {
    async fn ready(&mut self, range: Range<u64>) -> Result<u64, BlobError> {
        Ok(range.end)
    }

    async fn read(&mut self, range: Range<u64>) -> Result<Bytes, BlobError> {
        let now = self.0.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.most.fetch_max(now, Ordering::Relaxed);
        let length = usize::try_from(range.end - range.start).unwrap();
        Ok(Bytes::from_owner(HeldChunk(
            self.0.clone(),
            vec![0; length],
        )))
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_little() {
    let held = Arc::new(Held::default());
    let mut shelf = Shelf::default();
    let digest = oci::Digest::sha256_of(b"large");
    let blob = GrowingBlob(Ready(held.clone()));
    shelf.blobs.insert(digest.clone(), Arc::new(blob));
    let port = Port::serve(shelf);
    let mut stream = port.connect().await;
    let get = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    // Until the kernel takes no more: the last chunks stay where they are.
    let mut before = usize::MAX;
    while held.now.load(Ordering::Relaxed) == 0 || before != held.most.load(Ordering::Relaxed) {
        before = held.most.load(Ordering::Relaxed);
        tokio::time::sleep(SHORT).await;
    }
    // One that is being sent, one behind it, one read ahead.
    assert!(before * CHUNK <= 3 * 128 * 1024, "{before} chunks");
    drop(stream);
    port.close().await;
}

#[tokio::test]
async fn a_body_that_waits_for_the_swarm_is_not_the_clients_fault() {
    let (feed, blob) = HandFed::new(6);
    let mut shelf = Shelf::default();
    let digest = oci::Digest::sha256_of(b"abcdef");
    shelf.blobs.insert(digest.clone(), Arc::new(blob));
    let registry = crate::harness::Registry {
        shelf: Arc::new(shelf),
        access: Arc::new(oci::OpenAccess),
    };
    let limits = Limits {
        idle: SHORT,
        stalled_read: SHORT,
        stalled_write: SHORT,
        ..Limits::default()
    };
    let port = Port::open(registry, limits);
    let path = format!("/v2/a/blobs/{digest}");
    let slowly = async {
        feed.send(Ok(Bytes::from_static(b"abc"))).await.unwrap();
        tokio::time::sleep(SHORT * 4).await;
        feed.send(Ok(Bytes::from_static(b"def"))).await.unwrap();
    };
    let (reply, ()) = tokio::join!(port.get(&path), slowly);
    assert_eq!(reply.body, b"abcdef");
    port.close().await;
}

#[tokio::test]
async fn a_client_that_stops_reading_ends() {
    let sending = Arc::new(Notify::new());
    struct Ended(Arc<Notify>);
    impl Drop for Ended {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let ended = sending.clone();
    let endless = Call(move |_| {
        let ended = Ended(ended.clone());
        async move {
            let chunks = futures_util::stream::repeat_with(move || {
                let _until_dropped = &ended;
                Ok::<_, Infallible>(Bytes::from_static(&[0; 65536]))
            });
            Response::new(Body::from_stream(chunks))
        }
    });
    let limits = Limits {
        stalled_write: SHORT,
        ..Limits::default()
    };
    let port = Port::open(endless, limits);
    let mut stream = port.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    sending.notified().await;
    port.close().await;
}

#[tokio::test]
async fn a_body_that_stops_coming_is_an_error_to_the_handler() {
    let (seen, mut errors) = tokio::sync::mpsc::channel(1);
    let upload = Call(move |request: Request<Body>| {
        let seen = seen.clone();
        async move {
            let mut body = request.into_body().into_data_stream();
            let first = body.next().await.unwrap().unwrap();
            assert_eq!(first, "123");
            let error = body.next().await.unwrap().unwrap_err();
            seen.send(error.to_string()).await.unwrap();
            Response::new(Body::from("too slow"))
        }
    });
    let limits = Limits {
        stalled_read: SHORT,
        ..Limits::default()
    };
    let port = Port::open(upload, limits);
    let mut stream = port.connect().await;
    let head = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n123";
    stream.write_all(head).await.unwrap();
    let error = errors.recv().await.unwrap();
    assert!(error.contains("stopped sending"), "{error}");
    let reply = Reply::parse(&rest(&mut stream).await);
    assert_eq!(reply.body, b"too slow");
    port.close().await;
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let refusing = Call(|_| async {
        let mut response = Response::new(Body::from("too large"));
        *response.status_mut() = http::StatusCode::PAYLOAD_TOO_LARGE;
        response
    });
    let port = Port::open(refusing, Limits::default());
    let (mut reading, mut writing) = port.connect().await.into_split();
    let head = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n";
    writing.write_all(head).await.unwrap();
    // All of it is sent before the client looks for an answer.
    for _ in 0..128 {
        writing.write_all(&[0; 65536]).await.unwrap();
    }
    writing.shutdown().await.unwrap();
    let mut reply = Vec::new();
    reading.read_to_end(&mut reply).await.unwrap();
    assert_eq!(Reply::parse(&reply).status, 413);
    port.close().await;
}

#[tokio::test]
async fn heads_are_bounded() {
    let port = Port::open(hello(), Limits::default());
    let mut stream = port.connect().await;
    let flood = async {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nA: ")
            .await?;
        loop {
            stream.write_all(&[b'a'; 4096]).await?;
        }
    };
    let _: std::io::Result<Infallible> = flood.await;
    port.close().await;

    // What real clients send fits: a long token, a long list of types.
    let port = Port::open(hello(), Limits::default());
    let token = format!("Authorization: Bearer {}\r\n", "t".repeat(32 * 1024));
    assert_eq!(port.send("GET", "/", &token).await.body, b"hello");
    port.close().await;
}

#[tokio::test]
async fn later_clients_wait_for_a_slot() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opened, entered) = (gate.clone(), inside.clone());
    let port = Arc::new(Port::open(
        Call(move |_| {
            let (gate, inside) = (opened.clone(), entered.clone());
            async move {
                inside.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                Response::new(Body::from("done"))
            }
        }),
        limits,
    ));
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let port = port.clone();
            tokio::spawn(async move { port.get("/").await.body })
        })
        .collect();
    while inside.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(SHORT).await;
    assert_eq!(inside.load(Ordering::SeqCst), 2);
    gate.add_permits(6);
    for client in clients {
        assert_eq!(client.await.unwrap(), b"done");
    }
    Arc::into_inner(port).unwrap().close().await;
}

#[tokio::test]
async fn open_requests_may_end_when_the_port_closes() {
    let (feed, blob) = HandFed::new(6);
    let mut shelf = Shelf::default();
    let digest = oci::Digest::sha256_of(b"abcdef");
    shelf.blobs.insert(digest.clone(), Arc::new(blob));
    let mut port = Port::serve(shelf);
    let mut idle = port.connect().await;
    let mut silent = port.connect().await;
    idle.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut reply = Vec::new();
    while !reply.ends_with(b"{}") {
        reply.push(idle.read_u8().await.unwrap());
    }
    let mut busy = port.connect().await;
    let request = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n");
    busy.write_all(request.as_bytes()).await.unwrap();
    busy.read_u8().await.unwrap();

    port.begin_close();
    assert_eq!(rest(&mut idle).await, b"");
    assert_eq!(rest(&mut silent).await, b"");
    feed.send(Ok(Bytes::from_static(b"abcdef"))).await.unwrap();
    assert!(rest(&mut busy).await.ends_with(b"\r\n\r\nabcdef"));
    let addr = port.addr;
    port.close().await;
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn requests_that_do_not_end_are_ended() {
    let limits = Limits {
        grace: SHORT,
        ..Limits::default()
    };
    let never = Call(|_| std::future::pending());
    let mut port = Port::open(never, limits);
    let mut stream = port.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut tls = port.connect().await;
    tls.write_all(CLIENT_HELLO).await.unwrap();
    port.begin_close();
    port.close().await;
    assert_eq!(rest(&mut stream).await, b"");
}

#[tokio::test]
async fn a_panicking_handler_takes_down_its_connection_only() {
    let port = Port::open(
        Call(|request: Request<Body>| async move {
            assert_ne!(request.uri().path(), "/bad", "expected by this test");
            Response::new(Body::from("fine"))
        }),
        Limits::default(),
    );
    let mut stream = port.connect().await;
    stream
        .write_all(b"GET /bad HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(rest(&mut stream).await, b"");
    assert_eq!(port.get("/good").await.body, b"fine");
    port.close().await;
}

#[tokio::test]
async fn a_router_is_a_service() {
    async fn who(ConnectInfo(peer): ConnectInfo<std::net::SocketAddr>) -> String {
        peer.ip().to_string()
    }
    let router = axum::Router::new().route("/who", get(who));
    let port = Port::open(router, Limits::default());
    assert_eq!(port.get("/who").await.body, b"127.0.0.1");
    assert_eq!(port.get("/other").await.status, 404);
    port.close().await;
}

#[tokio::test]
async fn what_went_out_is_counted() {
    let counters = Arc::new(Counters::default());
    let counting = counters.clone();
    let (feed, blob) = HandFed::new(100);
    let mut shelf = Shelf::default();
    let (small, cut) = (shelf.add(b"0123456789"), oci::Digest::sha256_of(b"cut"));
    shelf.blobs.insert(cut.clone(), Arc::new(blob));
    let registry = crate::harness::Registry {
        shelf: Arc::new(shelf),
        access: Arc::new(oci::OpenAccess),
    };
    let port = Port::open(
        Call(move |request: Request<Body>| {
            let (registry, counters) = (registry.clone(), counting.clone());
            async move {
                let route = oci::route::Route::parse(request.uri().path());
                let kind = route.as_ref().map_or("other", |route| route.kind());
                counters.counted(kind, registry.call(request).await)
            }
        }),
        Limits::default(),
    );
    port.get(&format!("/v2/a/blobs/{small}")).await;
    port.send("HEAD", &format!("/v2/a/blobs/{small}"), "").await;
    port.send(
        "GET",
        &format!("/v2/a/blobs/{small}"),
        "Range: bytes=8-\r\n",
    )
    .await;
    feed.send(Ok(Bytes::from_static(b"abc"))).await.unwrap();
    feed.send(Err(BlobError("gone".into()))).await.unwrap();
    port.get(&format!("/v2/a/blobs/{cut}")).await;
    assert_eq!(counters.responses(), [("blob", 200, 3), ("blob", 206, 1)]);
    assert_eq!(counters.body_bytes(), 10 + 2 + 3);
    assert_eq!((counters.bodies_cut(), counters.bodies_abandoned()), (1, 0));
    port.close().await;
}
