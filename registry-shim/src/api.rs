//! The agent's own API: `GET /health`, `/readiness`, `/status`, `/metrics`, `/limits`; and, from
//! this host alone, `PATCH /limits` and `/limits/<digest or info hash>`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use leecher::{RatesChange, RatesReport};
use oci::serve::{LIMITS_PATH, Service, limits_path, operator_wish};
use oci::{ErrorCode, RegistryError};
use tokio::time::Instant;

use crate::agent::Addrs;
use crate::origin::Answer;
use crate::shim::Shim;
use crate::status::{BlobPhase, CacheStatus, Status};

/// A readiness answer is good for this long: probes come in crowds.
const READY_HOLDS: Duration = Duration::from_secs(3);
/// What Prometheus expects of the text format with `# EOF`.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Readiness = Result<(), String>;

/// Serves the API port.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    shim: Arc<Shim>,
    addrs: Addrs,
    ready: Arc<tokio::sync::Mutex<Option<(Instant, Readiness)>>>,
}

impl Service for Api {
    async fn call(&self, request: Request<Body>) -> Response {
        if request.method() == Method::PATCH
            && let Some(which) = limits_path(request.uri().path())
        {
            let which = which.map(str::to_owned);
            let done = self.limit(which.as_deref(), request).await;
            return done.map_or_else(IntoResponse::into_response, IntoResponse::into_response);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let message = "only PATCH /limits changes anything here\n";
            return (StatusCode::METHOD_NOT_ALLOWED, message).into_response();
        }
        match request.uri().path().trim_end_matches('/') {
            "/health" => "OK\n".into_response(),
            "/readiness" => match self.readiness().await {
                Ok(()) => "OK\n".into_response(),
                Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
            },
            "/status" => axum::Json(self.status().await).into_response(),
            "/metrics" => self.metrics().await,
            LIMITS_PATH => axum::Json(self.shim.engine.limits()).into_response(),
            _ => {
                let pages = "here are /health, /readiness, /status, /metrics and /limits\n";
                (StatusCode::NOT_FOUND, pages).into_response()
            }
        }
    }
}

impl Api {
    pub(crate) fn new(shim: Arc<Shim>, addrs: Addrs) -> Self {
        Self {
            shim,
            addrs,
            ready: Arc::default(),
        }
    }

    /// Changes the limits of the process, or of one torrent.
    async fn limit(
        &self,
        which: Option<&str>,
        request: Request<Body>,
    ) -> Result<axum::Json<RatesReport>, RegistryError> {
        let change: RatesChange = operator_wish(request, self.addrs.api).await?;
        let engine = &self.shim.engine;
        match which {
            None => engine.change_limits(change),
            Some(which) => engine
                .change_torrent_limits(self.shim.info_hash_of(which)?, change)
                .map_err(|error| RegistryError::new(ErrorCode::Unavailable, error.to_string()))?,
        }
        Ok(axum::Json(engine.limits()))
    }

    /// Whether anything can be fetched: a herd or a tracker answers.
    async fn readiness(&self) -> Readiness {
        let mut ready = self.ready.lock().await;
        if let Some((since, known)) = &*ready
            && since.elapsed() < READY_HOLDS
        {
            return known.clone();
        }
        let fresh = reachable(&self.shim).await;
        *ready = Some((Instant::now(), fresh.clone()));
        fresh
    }

    async fn status(&self) -> Status {
        let shim = &self.shim;
        let peers = self.take_stock().await;
        let shelf = &shim.around.shelf;
        let origins = shim.around.herds.origins();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_secs: shim.started.elapsed().as_secs(),
            peer: self.addrs.peer,
            registry: self.addrs.registry,
            herds: origins.iter().map(|origin| origin.status()).collect(),
            trackers: shim.trackers.tiers().into_iter().flatten().collect(),
            cache: CacheStatus {
                bytes: shelf.store().used(),
                capacity: shelf.capacity(),
                entries: shelf.store().complete().len(),
            },
            peers,
            blobs: shim.ledger.records().iter().map(|r| r.status()).collect(),
        }
    }

    async fn metrics(&self) -> Response {
        let shim = &self.shim;
        let metrics = &shim.around.metrics;
        let store = shim.around.shelf.store();
        metrics.peers.set(gauge(self.take_stock().await as u64));
        metrics.uploaded_so_far(shim.engine.uploaded());
        metrics.downloads.set(gauge(shim.fetches().len() as u64));
        metrics.cache_bytes.set(gauge(store.used()));
        metrics
            .cache_entries
            .set(gauge(store.complete().len() as u64));
        let text = HeaderValue::from_static(OPEN_METRICS);
        ([(header::CONTENT_TYPE, text)], metrics.text()).into_response()
    }

    /// Brings the records up to date; returns how many peers are connected.
    async fn take_stock(&self) -> usize {
        let shim = &self.shim;
        for fetch in shim.fetches() {
            fetch.take_stock(&shim.around);
        }
        // What is finished goes on giving to others.
        for record in shim.ledger.records() {
            if record.phase() == BlobPhase::Complete
                && let Some(torrent) = record
                    .info_hash()
                    .and_then(|hash| shim.engine.torrent(hash))
            {
                record.uploaded(|| torrent.transfer());
            }
        }
        let torrents = shim.engine.status().await;
        torrents.iter().map(|torrent| torrent.peers.len()).sum()
    }
}

/// Asks every herd and every tracker; why nobody answered, for people.
pub(crate) async fn reachable(shim: &Shim) -> Readiness {
    let herds = async {
        let origins = shim.around.herds.origins();
        let answers = join_all(origins.iter().map(|origin| origin.ping())).await;
        let mut failed = Vec::new();
        for answer in answers {
            match answer {
                Answer::Failed(why) | Answer::Odd(why) => failed.push(why),
                Answer::Yes(()) | Answer::No | Answer::Refused(_) => return Ok(()),
            }
        }
        Err(failed)
    };
    let (herds, trackers) = tokio::join!(herds, shim.trackers.ping());
    match (herds, trackers) {
        (Err(mut failed), Err(more)) => {
            failed.extend(more);
            if failed.is_empty() {
                failed.push("none is configured".to_owned());
            }
            Err(format!(
                "no herd and no tracker can be reached: {}",
                failed.join("; ")
            ))
        }
        _ => Ok(()),
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
