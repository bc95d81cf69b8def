//! HTTP as this room uses it: small bounded answers, no surprises.
//!
//! Invariants: an answer is never larger in memory than the caller allows, unpacked or not;
//! nothing outlives its deadline; only `http` is spoken, also where a redirect leads.

use std::error::Error;
use std::io::Read;
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use reqwest::header::{CONTENT_ENCODING, LOCATION};
use reqwest::{Client, Response, StatusCode};
use url::Url;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a kept connection may lie idle; trackers close theirs later than that.
const IDLE: Duration = Duration::from_secs(20);
/// Redirects followed by [`small_get`].
const MAX_REDIRECTS: usize = 3;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The URL is none, or not one that this build can ask.
    #[error("{0}")]
    Url(&'static str),
    /// Nobody answered in time, or at all.
    #[error("{why}")]
    Unreachable {
        /// What the operating system said.
        why: String,
    },
    /// It answers, but with more than is believable.
    #[error("the answer is larger than {limit} bytes")]
    TooLong {
        /// What was allowed.
        limit: usize,
    },
    /// It answers with something that says it is gzip and is not.
    #[error("the answer cannot be unpacked: {0}")]
    Packed(std::io::Error),
    /// It sends us round and round.
    #[error("more than {MAX_REDIRECTS} redirects")]
    Redirects,
}

/// The client that trackers and web seeds are asked with: one per process, cheap to clone.
///
/// Redirects are not followed by themselves, because a web seed's must not be at all. No proxy of
/// the environment comes between: a tracker would take its address for ours.
pub fn client() -> Result<Client, HttpError> {
    Client::builder()
        .user_agent(concat!("swell/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(4)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| HttpError::unreachable(&error))
}

/// The URL, if it is one that can be asked.
pub(crate) fn check_url(text: &str) -> Result<Url, HttpError> {
    let url = Url::parse(text).map_err(|_| HttpError::Url("this is no URL"))?;
    match url.scheme() {
        "http" if url.host().is_some() => Ok(url),
        "http" => Err(HttpError::Url("the URL names no host")),
        "https" => Err(HttpError::Url("https is not supported here; use http")),
        "udp" => Err(HttpError::Url("udp trackers are not supported; use http")),
        _ => Err(HttpError::Url("only http is supported")),
    }
}

/// Host and port for messages: paths of foreign trackers may hold a secret.
pub(crate) fn shown(url: &str) -> String {
    let url = Url::parse(url).ok();
    let host = url.as_ref().and_then(|url| url.host_str());
    match (host, url.as_ref().and_then(Url::port_or_known_default)) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.into(),
        _ => "(no host)".into(),
    }
}

/// Fetches something small, whatever its status, within `time` in all.
pub(crate) async fn small_get(
    client: &Client,
    url: &str,
    limit: usize,
    time: Duration,
) -> Result<(StatusCode, Vec<u8>), HttpError> {
    let deadline = Instant::now() + time;
    let mut url = check_url(url)?;
    for _ in 0..=MAX_REDIRECTS {
        let left = deadline.saturating_duration_since(Instant::now());
        let request = client.get(url.clone()).timeout(left);
        let answer = request.send().await;
        let answer = answer.map_err(|error| HttpError::unreachable(&error))?;
        match redirect(&url, &answer)? {
            Some(next) => url = next,
            None => {
                let (status, packed) = (answer.status(), is_gzip(&answer));
                let body = body(answer, limit).await?;
                let body = if packed { unpack(&body, limit)? } else { body };
                return Ok((status, body));
            }
        }
    }
    Err(HttpError::Redirects)
}

fn redirect(from: &Url, answer: &Response) -> Result<Option<Url>, HttpError> {
    let location = answer.headers().get(LOCATION);
    let (true, Some(location)) = (answer.status().is_redirection(), location) else {
        return Ok(None);
    };
    let next = location.to_str().ok().and_then(|to| from.join(to).ok());
    let next = next.ok_or(HttpError::Url("the redirect leads to no URL"))?;
    check_url(next.as_str()).map(Some)
}

/// Some trackers pack every answer, whether the client said that it can unpack or not.
fn is_gzip(answer: &Response) -> bool {
    let coding = answer.headers().get(CONTENT_ENCODING);
    coding.is_some_and(|coding| matches!(coding.as_bytes(), b"gzip" | b"x-gzip"))
}

fn unpack(packed: &[u8], limit: usize) -> Result<Vec<u8>, HttpError> {
    let mut body = Vec::new();
    let most = limit as u64 + 1;
    let unpacked = MultiGzDecoder::new(packed)
        .take(most)
        .read_to_end(&mut body);
    unpacked.map_err(HttpError::Packed)?;
    if body.len() > limit {
        return Err(HttpError::TooLong { limit });
    }
    Ok(body)
}

async fn body(mut answer: Response, limit: usize) -> Result<Vec<u8>, HttpError> {
    let mut body = Vec::new();
    loop {
        let chunk = answer.chunk().await;
        let Some(chunk) = chunk.map_err(|error| HttpError::unreachable(&error))? else {
            return Ok(body);
        };
        if body.len() + chunk.len() > limit {
            return Err(HttpError::TooLong { limit });
        }
        body.extend_from_slice(&chunk);
    }
}

impl HttpError {
    /// The innermost cause says what people can act on ("connection refused"); what is around
    /// it repeats the URL, secrets included.
    pub(crate) fn unreachable(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            let why = "no answer in time".into();
            return Self::Unreachable { why };
        }
        let mut cause: &dyn Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let why = match std::ptr::eq(cause, error as &dyn Error) {
            true => "the request failed".into(),
            false => cause.to_string(),
        };
        Self::Unreachable { why }
    }
}
