//! The read half of `/v2/` over a [`Pull`], and how a registry port is served: headers at
//! once, exact lengths, ranges, HEAD like GET, an answer or a close to a TLS hello.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use tokio::net::TcpListener;

use crate::access::Access;
use crate::pull::Pull;
use crate::route::Route;

/// Who asks, from a request: its address extension (set by [`listen`]) and headers.
pub fn caller(request: &Request) -> crate::access::Caller {
    let _ = request;
    todo!()
}

/// Answers a GET or HEAD of the read half; other methods get 405 UNSUPPORTED.
pub async fn read<P: Pull>(
    pull: &Arc<P>,
    access: &dyn Access,
    route: Route,
    request: Request,
) -> Response {
    let _ = (pull, access, route, request);
    todo!()
}

/// A service from requests to responses.
pub trait Service: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn call(&self, request: Request<Body>) -> impl Future<Output = Response> + Send;
}

/// Serves HTTP/1 on the listener until `stop` resolves, then lets open requests end within a
/// grace period. A connection whose first byte is a TLS hello (0x16) is answered and closed
/// at once; slow headers are bounded in time; bodies have no deadline, only idle ones. The
/// peer's address is in the request's extensions. Every connection task is joined.
pub async fn listen<S: Service>(
    listener: TcpListener,
    service: S,
    stop: impl Future<Output = ()> + Send,
) {
    let _ = (listener, service, stop);
    let _: Option<SocketAddr> = None;
    todo!()
}
