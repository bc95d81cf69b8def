//! The client of one origin: its registry and its API.
//!
//! Owns how an origin is asked, how its answer is judged, and what is known of its health.
//! Every answer is bounded in time and size and checked before it is believed: a manifest is
//! of its digest and parses, a torrent is of the blob that was asked for. Credentials of
//! clients are never passed on.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use oci::manifest::MAX_MANIFEST;
use oci::route::Route;
use oci::{
    Descriptor, Digest, ErrorCode, Manifest, Page, Reference, RegistryError, RepoName,
    StoredManifest, TagPage, origin_api,
};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LINK, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use tokio::time::Instant;
use torrents::Metainfo;
use url::Url;

use crate::config::{Herd, below};
use crate::status::{HerdState, HerdStatus};

/// A `.torrent` of 96 GiB in 1 MiB pieces is 2 MiB; beyond this it is no torrent of ours.
const MAX_TORRENT: usize = 16 << 20;
/// Lists of tags, repositories, referrers.
const MAX_LIST: usize = 8 << 20;
/// Referrers of one manifest, all pages together.
const MAX_REFERRERS: usize = 4 * MAX_LIST;
/// Referrers asked for at once.
const REFERRERS_PAGE: usize = 1000;
/// Pages of them, so that even empty ones come to an end.
const MAX_PAGES: usize = 256;
/// Error bodies are read for their message only.
const MAX_ERROR: usize = 16 << 10;
/// Peer addresses one origin may name.
const MAX_PEERS: usize = 16;
/// What is asked for when the client named nothing.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, */*;q=0.5";

/// What an origin said.
#[derive(Debug)]
pub(crate) enum Answer<T> {
    /// It has it.
    Yes(T),
    /// It answered that there is no such thing.
    No,
    /// It answered that the asker may not.
    Refused(RegistryError),
    /// It did not answer, or that it cannot; why, for people.
    Failed(String),
    /// It is there and answered with something else; what, for people.
    Odd(String),
}

/// Why the body of an answer is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// It broke off, or did not come in time.
    #[error("{0}")]
    Broken(String),
    /// It is not what was asked for.
    #[error("{0}")]
    Odd(String),
}

impl From<String> for Unusable {
    fn from(what: String) -> Self {
        Self::Odd(what)
    }
}

impl<T> Answer<T> {
    /// The same answer about something else.
    pub(crate) fn map<U>(self, f: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Yes(value) => Answer::Yes(f(value)),
            Self::No => Answer::No,
            Self::Refused(error) => Answer::Refused(error),
            Self::Failed(why) => Answer::Failed(why),
            Self::Odd(what) => Answer::Odd(what),
        }
    }
}

/// A blob's torrent, as the origin gave it.
#[derive(Debug, Clone)]
pub(crate) enum OriginTorrent {
    /// Here it is.
    Ready {
        /// Checked to be of the blob asked for.
        metainfo: Box<Metainfo>,
        /// Where the origin's own peer listens.
        peers: Vec<SocketAddr>,
    },
    /// The origin is still fetching the blob itself.
    Growing {
        /// How long it will be.
        length: Option<u64>,
    },
}

/// How the last question went.
#[derive(Debug)]
enum Health {
    /// It was answered.
    Answered,
    /// It was not.
    Silent { since: Instant, why: String },
}

/// How long an unanswered question counts against an origin.
const GRUDGE: Duration = Duration::from_secs(15);

/// One origin. Asked by many at once.
#[derive(Debug)]
pub(crate) struct Origin {
    herd: Herd,
    client: reqwest::Client,
    attempt: Duration,
    health: Mutex<Option<Health>>,
    peers: Mutex<BTreeSet<SocketAddr>>,
}

impl Origin {
    /// `attempt` bounds one question, its answer's body included.
    pub(crate) fn new(herd: Herd, client: reqwest::Client, attempt: Duration) -> Self {
        Self {
            herd,
            client,
            attempt,
            health: Mutex::new(None),
            peers: Mutex::new(BTreeSet::new()),
        }
    }

    /// Where it is.
    pub(crate) fn herd(&self) -> &Herd {
        &self.herd
    }

    /// Whether the last question went unanswered, and lately.
    pub(crate) fn looks_down(&self) -> bool {
        matches!(&*self.health(), Some(Health::Silent { since, .. }) if since.elapsed() < GRUDGE)
    }

    /// Somebody gave up on its answer.
    pub(crate) fn gave_no_answer(&self) {
        *self.health() = Some(Health::Silent {
            since: Instant::now(),
            why: format!("{}: no answer in time", self.herd.name()),
        });
    }

    /// Where its peer listens, as far as it said.
    pub(crate) fn peers(&self) -> Vec<SocketAddr> {
        self.known_peers().iter().copied().collect()
    }

    /// For `GET /status`.
    pub(crate) fn status(&self) -> HerdStatus {
        let (state, note) = match &*self.health() {
            None => (HerdState::Unknown, None),
            Some(Health::Answered) => (HerdState::Reachable, None),
            Some(Health::Silent { why, .. }) => (HerdState::Unreachable, Some(why.clone())),
        };
        HerdStatus {
            registry: self.herd.registry.to_string(),
            api: self.herd.api.to_string(),
            state,
            note,
            peers: self.peers(),
        }
    }

    /// Whether its registry answers at all.
    pub(crate) async fn ping(&self) -> Answer<()> {
        self.ask(self.registry(Method::GET, "v2/"), async |_| Ok(()))
            .await
    }

    /// A manifest, checked against its digest.
    pub(crate) async fn manifest(
        &self,
        repo: &RepoName,
        reference: &Reference,
        accept: &[HeaderValue],
    ) -> Answer<StoredManifest> {
        let path = Route::Manifest(repo.clone(), reference.clone()).path();
        let mut request = self.registry(Method::GET, &path);
        if accept.is_empty() {
            request = request.header(ACCEPT, MANIFEST_TYPES);
        }
        for value in accept {
            request = request.header(ACCEPT, value);
        }
        self.ask(request, async |response| {
            let headers = response.headers().clone();
            let bytes = bounded(response, MAX_MANIFEST).await?;
            Ok(checked_manifest(reference, &headers, bytes)?)
        })
        .await
    }

    /// Whether the repository holds that manifest.
    pub(crate) async fn has_manifest(&self, repo: &RepoName, digest: &Digest) -> Answer<()> {
        let reference = Reference::Digest(digest.clone());
        let path = Route::Manifest(repo.clone(), reference).path();
        let request = self
            .registry(Method::HEAD, &path)
            .header(ACCEPT, MANIFEST_TYPES);
        self.ask(request, async |_| Ok(())).await
    }

    /// Whether the repository holds that blob, and how long it is.
    pub(crate) async fn has_blob(&self, repo: &RepoName, digest: &Digest) -> Answer<Option<u64>> {
        let path = Route::Blob(repo.clone(), digest.clone()).path();
        self.ask(self.registry(Method::HEAD, &path), async |response| {
            Ok(number(response.headers(), CONTENT_LENGTH.as_str()))
        })
        .await
    }

    /// The blob's torrent, if the repository holds the blob.
    pub(crate) async fn torrent(&self, repo: &RepoName, digest: &Digest) -> Answer<OriginTorrent> {
        let request = self.request(
            Method::GET,
            &self.herd.api,
            &origin_api::torrent_path(digest, repo),
        );
        let answer = self
            .ask(request, async |response| {
                let headers = response.headers().clone();
                if response.status() == StatusCode::ACCEPTED {
                    let length = number(&headers, origin_api::LENGTH_HEADER);
                    return Ok(OriginTorrent::Growing { length });
                }
                let body = bounded(response, MAX_TORRENT).await?;
                let metainfo = checked_torrent(digest, &body)?;
                Ok(OriginTorrent::Ready {
                    metainfo: Box::new(metainfo),
                    peers: named_peers(&headers),
                })
            })
            .await;
        if let Answer::Yes(OriginTorrent::Ready { peers, .. }) = &answer {
            let mut known = self.known_peers();
            known.extend(peers.iter().copied());
            while known.len() > MAX_PEERS {
                known.pop_first();
            }
        }
        answer
    }

    /// The first `bytes` of a blob, or all of a shorter one, if it has time for that now. Says
    /// nothing about its health.
    pub(crate) async fn head_start(
        &self,
        digest: &Digest,
        bytes: u32,
        within: Duration,
    ) -> Result<Bytes, String> {
        let path = origin_api::head_start_path(digest);
        let range = format!("bytes=0-{}", bytes.saturating_sub(1));
        let request = self
            .request(Method::GET, &self.herd.api, &path)
            .header(RANGE, range)
            .timeout(within);
        let response = request.send().await.map_err(|error| cause(&error))?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT | StatusCode::OK => {
                let body = bounded(response, bytes as usize).await;
                body.map_err(|error| error.to_string())
            }
            status => Err(format!("it answered {status}")),
        }
    }

    /// A page of the repository's tags.
    pub(crate) async fn tags(&self, repo: &RepoName, page: &Page) -> Answer<TagPage> {
        #[derive(serde::Deserialize)]
        struct Tags {
            tags: Option<Vec<String>>,
        }
        let path = Route::Tags(repo.clone()).path();
        let request = self.registry(Method::GET, &paged(path, page));
        self.list(request, |Tags { tags }| tags.unwrap_or_default())
            .await
    }

    /// A page of its repositories.
    pub(crate) async fn catalog(&self, page: &Page) -> Answer<TagPage> {
        #[derive(serde::Deserialize)]
        struct Catalog {
            repositories: Option<Vec<String>>,
        }
        let request = self.registry(Method::GET, &paged(Route::Catalog.path(), page));
        self.list(request, |Catalog { repositories }| {
            repositories.unwrap_or_default()
        })
        .await
    }

    /// What refers to that manifest; a no, when nothing does: another origin may know something.
    pub(crate) async fn referrers(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Answer<Vec<Descriptor>> {
        #[derive(serde::Deserialize)]
        struct Index {
            #[serde(default)]
            manifests: Vec<Descriptor>,
        }
        let path = Route::Referrers(repo.clone(), digest.clone()).path();
        let (mut found, mut room) = (Vec::new(), MAX_REFERRERS);
        let mut page = Some(format!("n={REFERRERS_PAGE}"));
        while let Some(query) = page {
            if room == 0 {
                let name = self.herd.name();
                let what = format!("{name}: more refers to {digest} than {MAX_REFERRERS} bytes");
                return Answer::Odd(what);
            }
            let request = self.registry(Method::GET, &format!("{path}?{query}"));
            let answer = self.ask(request, async |response| {
                let next = next_page(response.headers());
                let body = bounded(response, MAX_LIST).await?;
                let index: Index = parsed(&body)?;
                Ok((index.manifests, next, body.len()))
            });
            match answer.await {
                Answer::Yes((manifests, next, length)) => {
                    found.extend(manifests);
                    room = room.saturating_sub(length.max(MAX_REFERRERS / MAX_PAGES));
                    page = next;
                }
                answer => return answer.map(|(manifests, ..)| manifests),
            }
        }
        match found.as_slice() {
            [] => Answer::No,
            _ => Answer::Yes(found),
        }
    }

    async fn list<B: serde::de::DeserializeOwned>(
        &self,
        request: RequestBuilder,
        names: impl Fn(B) -> Vec<String>,
    ) -> Answer<TagPage> {
        self.ask(request, async |response| {
            let more = response.headers().contains_key(LINK);
            let body = bounded(response, MAX_LIST).await?;
            let names = names(parsed(&body)?);
            Ok(TagPage { names, more })
        })
        .await
    }

    fn registry(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, &self.herd.registry, path)
    }

    fn request(&self, method: Method, base: &Url, path: &str) -> RequestBuilder {
        // A path made from checked names always joins; the base alone would be answered 404.
        let url = below(base, path).unwrap_or_else(|| base.clone());
        self.client.request(method, url).timeout(self.attempt)
    }

    /// Sends, judges the status, reads what a good answer carries, and notes its health.
    async fn ask<T>(
        &self,
        request: RequestBuilder,
        read: impl AsyncFnOnce(Response) -> Result<T, Unusable>,
    ) -> Answer<T> {
        let answer = self.judge(request, read).await;
        *self.health() = Some(match &answer {
            Answer::Failed(why) => Health::Silent {
                since: Instant::now(),
                why: why.clone(),
            },
            Answer::Yes(_) | Answer::No | Answer::Refused(_) | Answer::Odd(_) => Health::Answered,
        });
        answer
    }

    async fn judge<T>(
        &self,
        request: RequestBuilder,
        read: impl AsyncFnOnce(Response) -> Result<T, Unusable>,
    ) -> Answer<T> {
        let name = self.herd.name();
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Answer::Failed(format!("{name}: {}", cause(&error))),
        };
        match response.status() {
            StatusCode::OK | StatusCode::ACCEPTED => match read(response).await {
                Ok(value) => Answer::Yes(value),
                Err(Unusable::Broken(why)) => Answer::Failed(format!("{name}: {why}")),
                Err(Unusable::Odd(what)) => Answer::Odd(format!("{name}: {what}")),
            },
            StatusCode::NOT_FOUND => Answer::No,
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                let said = message(response).await;
                let told = said.unwrap_or_else(|| format!("the herd {name} answered {status}"));
                // 403 either way: a mirror that challenges makes docker send it the
                // credentials of somebody else's registry.
                Answer::Refused(RegistryError::new(ErrorCode::Denied, told))
            }
            status => {
                let said = message(response).await.unwrap_or_default();
                let gap = if said.is_empty() { "" } else { ": " };
                let told = format!("{name}: it answered {status}{gap}{said}");
                // Whatever it is, it is there; only a server error says that it cannot.
                match status.is_server_error() {
                    true => Answer::Failed(told),
                    false => Answer::Odd(told),
                }
            }
        }
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Option<Health>> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_peers(&self) -> std::sync::MutexGuard<'_, BTreeSet<SocketAddr>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The innermost reason of an error: what the operating system said, not who wrapped it.
pub(crate) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(error) = error.downcast_ref::<reqwest::Error>()
        && error.is_timeout()
    {
        return "no answer in time".to_owned();
    }
    let mut inner = error;
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner.to_string()
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn bounded(mut response: Response, limit: usize) -> Result<Bytes, Unusable> {
    let mut body = BytesMut::new();
    let broken = |error| Unusable::Broken(cause(&error));
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > limit {
            let what = format!("it answered with more than {limit} bytes");
            return Err(Unusable::Odd(what));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The first message of a registry error body, if it is one.
async fn message(response: Response) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        message: String,
    }
    let body = bounded(response, MAX_ERROR).await.ok()?;
    let Body { errors } = serde_json::from_slice(&body).ok()?;
    let said = errors.into_iter().next()?.message;
    Some(said.chars().filter(|c| !c.is_control()).take(512).collect())
}

fn parsed<B: serde::de::DeserializeOwned>(body: &[u8]) -> Result<B, String> {
    serde_json::from_slice(body).map_err(|error| format!("it answered no such list: {error}"))
}

fn checked_manifest(
    reference: &Reference,
    headers: &HeaderMap,
    bytes: Bytes,
) -> Result<StoredManifest, String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let stated = match (reference, text("docker-content-digest")) {
        (Reference::Digest(digest), _) => digest.clone(),
        (Reference::Tag(_), Some(stated)) => stated.parse().map_err(said)?,
        (Reference::Tag(_), None) => Digest::sha256_of(&bytes),
    };
    let mut verifier = stated.verifier();
    verifier.update(&bytes);
    let found = verifier.finish();
    if found != stated {
        return Err(format!(
            "it sent {found} as the manifest {reference}, which is {stated}"
        ));
    }
    let content_type = text(CONTENT_TYPE.as_str());
    // What the herd took once is what it is.
    let manifest = match content_type {
        Some(content_type) => Manifest::parse_stored(&bytes, content_type),
        None => Manifest::parse(&bytes, None),
    };
    let manifest =
        manifest.map_err(|error| format!("what it sent as {reference} is no manifest: {error}"))?;
    Ok(StoredManifest {
        digest: stated,
        media_type: manifest.media_type,
        bytes,
    })
}

fn checked_torrent(digest: &Digest, body: &[u8]) -> Result<Metainfo, String> {
    let metainfo = Metainfo::parse(body)
        .map_err(|error| format!("what it sent for {digest} is no torrent: {error}"))?;
    let name = metainfo.info.name();
    if name != digest.torrent_name() {
        return Err(format!("it sent the torrent of {name:?} for {digest}"));
    }
    Ok(metainfo)
}

fn named_peers(headers: &HeaderMap) -> Vec<SocketAddr> {
    let values = headers.get_all(origin_api::PEER_HEADER);
    values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|addr| addr.trim().parse().ok())
        .take(MAX_PEERS)
        .collect()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// The query of the page that `Link` calls the next. Its place is the page's own: nothing is
/// dialled that an answer names.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(LINK).iter();
    let mut links = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','));
    let next = links.find(|link| link.contains("rel=\"next\"") || link.contains("rel=next"))?;
    let (target, _) = next.trim().strip_prefix('<')?.split_once('>')?;
    let (_, query) = target.split_once('?')?;
    Some(query.to_owned())
}

/// The path with `n` and `last` as its query.
fn paged(path: String, page: &Page) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if let Some(n) = page.n {
        query.append_pair("n", &n.to_string());
    }
    if let Some(last) = &page.last {
        query.append_pair("last", last);
    }
    match query.finish() {
        none if none.is_empty() => path,
        query => format!("{path}?{query}"),
    }
}

fn said(error: impl Display) -> String {
    error.to_string()
}
