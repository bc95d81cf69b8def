//! The origin's own port: `.torrent` files by digest, the web seed, health, readiness, metrics,
//! status and, changed from this host alone, limits. The paths of the first two are spelled in [`oci::origin_api`].

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName,
    IF_NONE_MATCH,
};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use leecher::{Engine, Phase, RatesChange};
use oci::origin_api::{HEAD_START, LENGTH_HEADER, PEER_HEADER};
use oci::route::{Route, query_value};
use oci::serve::{LIMITS_PATH, Service, caller, limits_path, operator_wish, read};
use oci::{Action, Caller, Digest, ErrorCode, RegistryError, RepoName};
use serde::Serialize;
use serde_json::json;

use crate::heads::{HeadStarts, Turn};
use crate::metrics::Standing;
use crate::registry::Registry;
use crate::sessions::Sessions;

/// The API of an origin. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ApiPort {
    pub(crate) registry: Arc<Registry>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) engine: Engine,
    pub(crate) heads: HeadStarts,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
}

type Answer = Result<Response, RegistryError>;

impl Service for ApiPort {
    async fn call(&self, request: Request) -> Response {
        let is_head = request.method() == Method::HEAD;
        let changes =
            request.method() == Method::PATCH && limits_path(request.uri().path()).is_some();
        if !is_head && !changes && request.method() != Method::GET {
            let message = format!("{} is not possible here", request.method());
            return RegistryError::new(ErrorCode::Unsupported, message).into_response();
        }
        let answer = self
            .answer(request)
            .await
            .unwrap_or_else(IntoResponse::into_response);
        let counted = self.registry.metrics().api.counted("api", answer);
        if is_head {
            counted.map(|_| Body::empty())
        } else {
            counted
        }
    }
}

impl ApiPort {
    async fn answer(&self, request: Request) -> Answer {
        let path = request.uri().path().to_owned();
        if let Some(digest) = path.strip_prefix("/torrents/") {
            let caller = caller(&request);
            return self.torrent(digest, &caller, &request.into_parts().0).await;
        }
        if let Some(digest) = path.strip_prefix("/blobs/") {
            return self.blob(digest, request).await;
        }
        if request.method() == Method::PATCH
            && let Some(which) = limits_path(&path)
        {
            return self.limit(which, request).await;
        }
        match path.as_str() {
            LIMITS_PATH => Ok(json_response(&self.engine.limits())),
            "/health" => Ok(plain(StatusCode::OK, "OK\n".into())),
            "/readiness" => Ok(self.readiness()),
            "/metrics" => self.metrics().await,
            "/status" => Ok(self.status().await),
            _ => {
                let message = format!(
                    "there is nothing at {path}; there are /torrents/<digest>, /blobs/<digest>, /health, /readiness, /metrics, /status and /limits"
                );
                Err(RegistryError::new(ErrorCode::Unsupported, message)
                    .with_status(StatusCode::NOT_FOUND))
            }
        }
    }

    /// Changes the limits of the process, or of the swarms of one blob.
    async fn limit(&self, which: Option<&str>, request: Request) -> Answer {
        let change: RatesChange = operator_wish(request, self.addr).await?;
        match which {
            None => self.engine.change_limits(change),
            Some(which) => {
                for swarm in self.registry.publisher().swarms(&decoded(which))? {
                    let changed = self.engine.change_torrent_limits(swarm, change);
                    changed.map_err(|error| {
                        RegistryError::new(ErrorCode::Unavailable, error.to_string())
                    })?;
                }
            }
        }
        Ok(json_response(&self.engine.limits()))
    }

    async fn torrent(&self, name: &str, caller: &Caller, request: &Parts) -> Answer {
        let digest: Digest = decoded(name.strip_suffix(".torrent").unwrap_or(name)).parse()?;
        let unknown = || {
            let message = format!("this origin has no {digest}");
            RegistryError::new(ErrorCode::BlobUnknown, message)
        };
        let repo = match query_value(request.uri.query(), "repo") {
            Some(repo) => {
                let repo: RepoName = repo.parse()?;
                self.registry
                    .permit(caller, Action::Pull, &repo, Some(&digest))?;
                Arc::new(repo)
            }
            None => {
                let held = self.registry.readable_holder(caller, &digest).await?;
                held.ok_or_else(unknown)?
            }
        };
        let meta = self
            .registry
            .blob_in(&repo, &digest)
            .await?
            .ok_or_else(unknown)?;
        let torrent = self
            .registry
            .torrent_file(&meta, format!("{repo}@{digest}"))
            .await?;
        let torrent = torrent.ok_or_else(|| {
            let message = format!("{digest} is empty, and nothing has no torrent");
            RegistryError::new(ErrorCode::BlobUnknown, message)
        })?;
        self.registry.metrics().torrent_served();
        Ok(self.torrent_response(&digest, meta.length, torrent, request))
    }

    fn torrent_response(
        &self,
        digest: &Digest,
        length: u64,
        torrent: Vec<u8>,
        request: &Parts,
    ) -> Response {
        let etag = format!("\"{}\"", &Digest::sha256_of(&torrent).hex()[..32]);
        let known = request.headers.get(IF_NONE_MATCH);
        let known = known
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let size = torrent.len();
        let mut response = if known.split(',').any(|tag| tag.trim() == etag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let mut response = Response::new(Body::from(torrent));
            let file = format!("attachment; filename=\"{}.torrent\"", digest.torrent_name());
            let headers = response.headers_mut();
            headers.insert(CONTENT_LENGTH, size.into());
            headers.insert(CONTENT_DISPOSITION, ascii(&file));
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("application/x-bittorrent"),
            );
            response
        };
        let headers = response.headers_mut();
        headers.insert(ETAG, ascii(&etag));
        // Trackers and addresses may change, so it is asked for each time.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        let peer = self.engine.announced_addr().to_string();
        headers.insert(HeaderName::from_static(PEER_HEADER), ascii(&peer));
        headers.insert(HeaderName::from_static(LENGTH_HEADER), length.into());
        response
    }

    /// The web seed: as the registry serves the blob, without naming a repository.
    async fn blob(&self, name: &str, request: Request) -> Answer {
        let digest: Digest = decoded(name).parse()?;
        let caller = caller(&request);
        let Some(repo) = self.registry.readable_holder(&caller, &digest).await? else {
            let message = format!("this origin has no {digest}");
            return Err(RegistryError::new(ErrorCode::BlobUnknown, message));
        };
        let turn = match query_value(request.uri().query(), HEAD_START) {
            Some(_) => Some(self.heads.begin().await.ok_or_else(others_first)?),
            None => None,
        };
        let route = Route::Blob((*repo).clone(), digest);
        let access = self.registry.access();
        let response = read(&self.registry, access.as_ref(), route, request).await;
        Ok(match turn {
            Some(turn) => response.map(|body| kept_until_sent(turn, body)),
            None => response,
        })
    }

    /// Ready when pulls through the swarm work: some tracker knows everything.
    fn readiness(&self) -> Response {
        let trackers = self.registry.publisher().trackers();
        if trackers.is_empty() || trackers.iter().any(|tracker| tracker.registered) {
            return plain(StatusCode::OK, "OK\n".into());
        }
        let mut text = String::from("no tracker knows what this origin seeds\n");
        for tracker in trackers {
            let why = tracker.trouble.as_deref().unwrap_or("registering");
            let _ = writeln!(text, "{}: {why}", tracker.url);
        }
        plain(StatusCode::SERVICE_UNAVAILABLE, text)
    }

    async fn metrics(&self) -> Answer {
        let standing = self.standing(&self.engine.status().await);
        let text = self.registry.metrics().encode(&standing).map_err(|error| {
            RegistryError::new(
                ErrorCode::Internal,
                format!("cannot write metrics: {error}"),
            )
        })?;
        let mut response = plain(StatusCode::OK, text);
        let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        let openmetrics = HeaderValue::from_static(openmetrics);
        response.headers_mut().insert(CONTENT_TYPE, openmetrics);
        Ok(response)
    }

    async fn status(&self) -> Response {
        let torrents = self.engine.status().await;
        let status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "peer": self.engine.announced_addr(),
            "peer_id": self.engine.peer_id().to_string(),
            "stored": self.standing(&torrents),
            "trackers": self.registry.publisher().trackers(),
            "torrents": torrents,
        });
        json_response(&status)
    }

    fn standing(&self, torrents: &[leecher::TorrentStatus]) -> Standing {
        let (blobs, blob_bytes) = self.registry.stores().blobs.totals();
        let trackers = self.registry.publisher().trackers();
        let live = torrents
            .iter()
            .filter(|torrent| torrent.progress.phase != Phase::Failed);
        Standing {
            uploads: self.sessions.count() as u64,
            blobs,
            blob_bytes,
            torrents: self.registry.publisher().seeded() as u64,
            live_torrents: live.count() as u64,
            peers: torrents
                .iter()
                .map(|torrent| torrent.peers.len() as u64)
                .sum(),
            peer_bytes: self.engine.uploaded(),
            trackers_registered: trackers.iter().filter(|one| one.registered).count() as u64,
            trackers: trackers.len() as u64,
        }
    }
}

/// A path segment without its escapes; what is no text stays as it is, and parses as nothing.
pub(crate) fn decoded(segment: &str) -> String {
    percent_encoding::percent_decode_str(segment)
        .decode_utf8()
        .map_or_else(|_| segment.to_owned(), std::borrow::Cow::into_owned)
}

fn others_first() -> RegistryError {
    let message = "others have their head start; the swarm is there for everyone";
    RegistryError::new(ErrorCode::TooManyRequests, message)
}

/// The body, which holds on to the turn.
fn kept_until_sent(turn: Turn, body: Body) -> Body {
    Body::from_stream(body.into_data_stream().inspect(move |_| {
        let _held = &turn;
    }))
}

pub(crate) fn plain(status: StatusCode, text: String) -> Response {
    (status, text).into_response()
}

fn json_response(body: &impl Serialize) -> Response {
    axum::Json(body).into_response()
}

fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("hexadecimal and addresses are ASCII")
}
