//! One connection: the first byte, then HTTP/1 until either side is done.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::body::{AnsweringBody, PatientBody};
use super::listen::{Limits, Service};
use super::pace::{LINGER, Paced, Requests};
use crate::chunks::CHUNK;

/// The first byte of a TLS record that begins a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// Bytes of a request's head at most. Bearer tokens are long, and a few KiB each.
const MAX_HEAD: usize = 64 * 1024;
/// What a TLS client gets. Not a TLS alert: containerd and Docker fall back to plain HTTP
/// when what comes back *reads as HTTP*, and Go recognises it by the first five bytes.
const PLAIN_ONLY: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Connection: close\r\n\
    Content-Length: 42\r\n\
    \r\n\
    this port speaks plain HTTP, not HTTPS/TLS";

/// Serves one client until it leaves, stalls, or `closing` and its request is answered.
pub(super) async fn connection_task<S: Service>(
    stream: TcpStream,
    peer: SocketAddr,
    service: S,
    limits: Limits,
    closing: CancellationToken,
) {
    let peer = SocketAddr::new(canonical(peer.ip()), peer.port());
    let first = tokio::select! {
        () = closing.cancelled() => return,
        first = timeout(limits.head, first_byte(&stream)) => first,
    };
    match first {
        Ok(Ok(Some(TLS_HANDSHAKE))) => {
            let linger = timeout(LINGER, refuse_tls(stream));
            if let Ok(Err(error)) = linger.await {
                tracing::debug!(%peer, %error, "a TLS client left");
            }
        }
        Ok(Ok(Some(_))) => http(stream, peer, service, limits, closing).await,
        // A port scan, a health probe, a client that thought better of it.
        Ok(Ok(None) | Err(_)) | Err(_) => {}
    }
}

/// Looks at the first byte without taking it. `None` at the end of the stream.
async fn first_byte(stream: &TcpStream) -> io::Result<Option<u8>> {
    let mut byte = [0];
    let seen = stream.peek(&mut byte).await?;
    Ok((seen > 0).then_some(byte[0]))
}

/// Answers, then reads until the client hangs up: closing a socket with unread bytes resets
/// the connection, and the reset may overtake the answer.
async fn refuse_tls(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(PLAIN_ONLY).await?;
    stream.shutdown().await?;
    let mut unread = [0; 2048];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}

async fn http<S: Service>(
    stream: TcpStream,
    peer: SocketAddr,
    service: S,
    limits: Limits,
    closing: CancellationToken,
) {
    // Headers go out alone when a body is late: Nagle would hold them back.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "no TCP_NODELAY");
    }
    let requests = Arc::new(Requests::default());
    let stalled_read = limits.stalled_read;
    let io = TokioIo::new(Paced::new(stream, limits, requests.clone()));
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, answering) = (service.clone(), requests.begin());
        async move {
            let response = service.call(received(request, peer, stalled_read)).await;
            let sent = |body: Body| AnsweringBody::new(body, answering);
            Ok::<Response<AnsweringBody>, Infallible>(response.map(sent))
        }
    });
    let mut server = http1::Builder::new();
    // `Paced` keeps time, and tells an idle connection from a slow head.
    server.header_read_timeout(None).max_header_size(MAX_HEAD);
    // While a chunk waits to be sent, hyper takes no other: what a client that reads nothing
    // holds is this one and the one behind it.
    server.max_buf_size(CHUNK);
    let mut connection = pin!(server.serve_connection(io, answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // Whoever caused it (a body that was cut, a stall) has said so where it matters.
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

fn received(request: Request<Incoming>, peer: SocketAddr, stalled: Duration) -> Request<Body> {
    let mut request = request.map(|body| {
        if body.is_end_stream() {
            Body::empty()
        } else {
            Body::new(PatientBody::new(body, stalled))
        }
    });
    request.extensions_mut().insert(peer);
    request.extensions_mut().insert(ConnectInfo(peer));
    request
}

/// An IPv4 client of a dual-stack socket is an IPv4 client.
fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}
