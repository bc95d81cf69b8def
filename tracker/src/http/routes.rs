//! The routes for people, monitoring and origins, over axum; announces and scrapes too, for a
//! connection that asked for something else before.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use torrents::announce::encode_failure;
use torrents::register::{MAX_BODY, RegisterError, RegisterRequest};

use tokio::sync::Semaphore;
use tokio::time::{Instant as Deadline, timeout_at};
use tokio_util::sync::CancellationToken;

use super::accept::Open;
use super::changes::{self, Watchers};
use super::lane;
use crate::asker::Source;
use crate::inspect::{self, PeerPage, SwarmPage};
use crate::metrics::Held;
use crate::registrations::Rejected;
use crate::service::Service;

/// How long an origin may take to send a batch of registrations.
const BATCH_TIME: Duration = Duration::from_secs(30);

/// Batches of registrations in memory at a time, each up to `MAX_BODY` and its decoded form.
const BATCHES: usize = 32;

/// Walks over the tables at a time: each takes a thread, and the announces need the cores.
const WALKS: usize = 4;

/// Looks into the registrations or the totals at a time. Short, but whoever changes the
/// registrations makes them wait.
const LOOKS: usize = 4;

/// Who connected, as the listener saw it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectedFrom(pub(crate) IpAddr);

/// The routes, made once.
#[derive(Clone)]
pub(crate) struct Routes(Router);

#[derive(Clone)]
struct Face {
    service: Arc<Service>,
    open: Open,
    watchers: Watchers,
    batches: Arc<Semaphore>,
    walks: Arc<Semaphore>,
    looks: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Routes {
    pub(crate) fn new(service: Arc<Service>, open: Open, shutdown: CancellationToken) -> Self {
        let watchers = Watchers::default();
        let router = Router::new()
            .route("/announce", get(announce))
            .route("/scrape", get(scrape))
            .route("/register", post(register))
            .route("/lookup/{label}", get(lookup))
            .route("/health", get(async || "OK"))
            .route("/readiness", get(readiness))
            .route("/metrics", get(metrics))
            .route("/api/status", get(status))
            .route("/api/changes", get(changes))
            .route("/api/swarms", get(swarms))
            .route("/api/swarms/{name}", get(swarm))
            .merge(crate::page::routes())
            .fallback(async || (StatusCode::NOT_FOUND, "not found"))
            .with_state(Face {
                service,
                open,
                watchers,
                batches: Arc::new(Semaphore::new(BATCHES)),
                walks: Arc::new(Semaphore::new(WALKS)),
                looks: Arc::new(Semaphore::new(LOOKS)),
                shutdown,
            });
        Self(router)
    }

    pub(crate) fn router(&self) -> Router {
        self.0.clone()
    }
}

impl Face {
    fn source(&self, from: ConnectedFrom, headers: &HeaderMap) -> Source {
        let forwarded = headers.get_all("x-forwarded-for").iter();
        let forwarded = forwarded.map(header::HeaderValue::as_bytes);
        self.service.table.trust().source(from.0, forwarded)
    }
}

async fn announce(
    State(face): State<Face>,
    Extension(from): Extension<ConnectedFrom>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let source = face.source(from, &headers);
    let query = uri.query().unwrap_or_default().as_bytes();
    let mut body = Vec::new();
    lane::announce(
        &face.service,
        source,
        query,
        &mut lane::Answer::default(),
        &mut body,
    );
    bencoded(body)
}

async fn scrape(
    State(face): State<Face>,
    Extension(from): Extension<ConnectedFrom>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let mut body = Vec::new();
    lane::scrape(
        &face.service,
        face.source(from, &headers),
        uri.query().unwrap_or_default().as_bytes(),
        &mut body,
    );
    bencoded(body)
}

async fn register(
    State(face): State<Face>,
    Extension(from): Extension<ConnectedFrom>,
    request: Request,
) -> Response {
    let outcome = take_registration(&face, from, request).await;
    face.service.metrics.registration(outcome.is_ok());
    outcome.into_response()
}

/// Why a registration is not taken; said in the body as trackers say it, and in the status.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("registration refused: the tracker's secret is missing or wrong")]
    Secret,
    #[error(
        "registration refused: {0} is in no trusted network, or does not say for whom it forwards, and this tracker has no secret"
    )]
    Network(IpAddr),
    #[error("a registration is at most {MAX_BODY} bytes")]
    TooLong,
    #[error("registration came too slowly")]
    TooSlow,
    #[error("too many origins register at this moment")]
    Busy,
    #[error(transparent)]
    Malformed(#[from] RegisterError),
    #[error(transparent)]
    NoRoom(#[from] Rejected),
    #[error("tracker failed to take the registration in")]
    Internal,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Secret => StatusCode::UNAUTHORIZED,
            Self::Network(_) => StatusCode::FORBIDDEN,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::NoRoom(_) | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut body = Vec::new();
        encode_failure(&self.to_string(), None, &mut body);
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        match self {
            Self::Secret => (status, challenge, bencoded(body)).into_response(),
            _ => (status, bencoded(body)).into_response(),
        }
    }
}

async fn take_registration(
    face: &Face,
    from: ConnectedFrom,
    request: Request,
) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    admit_origin(
        &face.service,
        face.source(from, &parts.headers),
        &parts.headers,
    )?;
    let deadline = Deadline::now() + BATCH_TIME;
    let turn = Arc::clone(&face.batches).acquire_owned();
    // Never closed, so what ends the wait is the deadline.
    let Ok(Ok(turn)) = timeout_at(deadline, turn).await else {
        return Err(Refused::Busy);
    };
    let request = RegisterRequest::decode(&read_batch(body, deadline).await?)?;
    let service = Arc::clone(&face.service);
    // A full batch keeps the registrations locked for milliseconds: not on this thread.
    let reply = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        service.table.register(service.now(Instant::now()), request)
    });
    let reply = reply.await.map_err(|_| Refused::Internal)??;
    Ok(bencoded(reply.encode()))
}

/// Whoever registers is handed out as a seed: only who carries the secret, or, when there is
/// none, who comes from a trusted network.
fn admit_origin(service: &Service, source: Source, headers: &HeaderMap) -> Result<(), Refused> {
    let Some(secret) = &service.secret else {
        let trusted = service.anyone_registers || source.is_trusted();
        return if trusted {
            Ok(())
        } else {
            Err(Refused::Network(source.ip()))
        };
    };
    let said = headers
        .get(header::AUTHORIZATION)
        .map(header::HeaderValue::as_bytes);
    let said = said
        .and_then(|value| value.strip_prefix(b"Bearer "))
        .unwrap_or_default();
    let known = same_secret(said.trim_ascii(), secret.as_bytes());
    if known { Ok(()) } else { Err(Refused::Secret) }
}

/// Takes as long for a near miss as for a far one.
fn same_secret(said: &[u8], secret: &[u8]) -> bool {
    let differences = said.iter().zip(secret).fold(0, |all, (a, b)| all | (a ^ b));
    said.len() == secret.len() && std::hint::black_box(differences) == 0
}

async fn read_batch(body: Body, deadline: Deadline) -> Result<axum::body::Bytes, Refused> {
    let body = timeout_at(deadline, axum::body::to_bytes(body, MAX_BODY));
    body.await
        .map_err(|_| Refused::TooSlow)?
        .map_err(|_| Refused::TooLong)
}

async fn lookup(State(face): State<Face>, Path(label): Path<String>) -> Response {
    let service = Arc::clone(&face.service);
    match aside(&face.looks, move || service.table.lookup(&label)).await {
        Some(Some(reply)) => bencoded(reply.encode()),
        Some(None) => (
            StatusCode::NOT_FOUND,
            "no swarm is registered under this label",
        )
            .into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Whether it is of use to send announces here: not while it goes down.
async fn readiness(State(face): State<Face>) -> Response {
    if face.shutdown.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down").into_response();
    }
    "OK".into_response()
}

async fn changes(State(face): State<Face>) -> Response {
    changes::stream(face.service, face.watchers, face.shutdown)
}

async fn metrics(State(face): State<Face>) -> Response {
    let service = Arc::clone(&face.service);
    let Some(totals) = aside(&face.looks, move || service.table.totals()).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let held = Held {
        swarms: totals.swarms,
        seeds: totals.seeds,
        leechers: totals.peers - totals.seeds,
        registered: totals.registered,
        origins: totals.origins,
        connections: face.open.count(),
    };
    match face.service.metrics.encode(held) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn status(State(face): State<Face>) -> Response {
    let service = Arc::clone(&face.service);
    answer(&face.walks, move || {
        Some(inspect::status(&service.table, service.now(Instant::now())))
    })
    .await
}

async fn swarms(State(face): State<Face>, Query(page): Query<SwarmPage>) -> Response {
    let service = Arc::clone(&face.service);
    answer(&face.walks, move || {
        Some(inspect::swarms(&service.table, &page))
    })
    .await
}

async fn swarm(
    State(face): State<Face>,
    Path(name): Path<String>,
    Query(page): Query<PeerPage>,
) -> Response {
    let service = Arc::clone(&face.service);
    let view = move || inspect::swarm(&service.table, service.now(Instant::now()), &name, &page);
    answer(&face.walks, view).await
}

/// What a walk over the tables found, as JSON.
async fn answer<T: serde::Serialize + Send + 'static>(
    walks: &Arc<Semaphore>,
    work: impl FnOnce() -> Option<T> + Send + 'static,
) -> Response {
    match aside(walks, work).await {
        Some(Some(found)) => Json(found).into_response(),
        Some(None) => (StatusCode::NOT_FOUND, "no such swarm").into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Runs what may wait for a lock off the threads that answer announces, so many at a time;
/// `None` when it panicked.
async fn aside<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    // Never closed; whoever waits is one of a bounded number of connections.
    let turn = Arc::clone(turns).acquire_owned().await.ok()?;
    let work = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    work.await.ok()
}

fn bencoded(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain")], body).into_response()
}

#[cfg(test)]
mod tests;
