//! BEP-19 web seeds: ranges of a single-file torrent over plain HTTP.
//!
//! Invariants: a stream that ends without an error has given exactly the bytes asked for, by
//! number and by place; never a byte more is read than asked; a server that falls silent is
//! given up. That the bytes are right is up to the piece hashes.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt, try_unfold};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, HeaderMap, RANGE};
use reqwest::header::{HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use torrents::Info;

use crate::http::{HttpError, check_url};

/// How long the server may keep silent, before the headers and between two reads.
const SILENCE: Duration = Duration::from_secs(15);
/// A longer `Retry-After` is taken for this.
const MAX_RETRY: Duration = Duration::from_secs(3600);

/// Why a web seed gave no bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebSeedError {
    /// Nobody answers, or the connection broke.
    #[error("the web seed gave no answer: {0}")]
    Http(#[from] HttpError),
    /// It was silent for too long.
    #[error("the web seed was silent for {} s", SILENCE.as_secs())]
    Silent,
    /// It has too much to do: come back later.
    #[error("the web seed is busy ({status})")]
    Busy {
        /// 429 or 503.
        status: StatusCode,
        /// When it said to come back.
        retry_after: Option<Duration>,
    },
    /// It does not have the file, or not for us.
    #[error("the web seed answered {0}")]
    Status(StatusCode),
    /// It sends us elsewhere, where we do not follow.
    #[error("the web seed redirects, which is not followed")]
    Redirected,
    /// It gave the whole file, or another range than was asked for.
    #[error("the web seed does not serve the range that was asked for ({got})")]
    WrongRange {
        /// What it said it gives.
        got: String,
    },
    /// It gave fewer or more bytes than it said.
    #[error("the web seed gave {got} bytes of {expected}")]
    Length {
        /// What came.
        got: u64,
        /// What was due.
        expected: u64,
    },
}

impl WebSeedError {
    /// When the server itself said to come back.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Where a torrent's only file lies for an entry of `url-list`: below a URL that ends in `/`,
/// at the URL itself otherwise (BEP 19). `None` for torrents of several files, which web seeds
/// are not used for here, and for URLs that cannot be asked.
pub fn location(url: &str, info: &Info) -> Option<String> {
    let [file] = info.files() else { return None };
    let mut url = check_url(url).ok()?;
    if url.path().ends_with('/') {
        // Escapes what needs it.
        url.path_segments_mut()
            .ok()?
            .pop_if_empty()
            .extend(&file.path);
    }
    Some(url.into())
}

/// Streams exactly `range` of the content at `url`, or fails. The reply must be 206 with the
/// right `Content-Range` (or 200 when the range is everything); redirects are not followed.
///
/// `length` is the length of the whole. An empty range asks nobody.
pub async fn fetch(
    client: &reqwest::Client,
    url: &str,
    range: Range<u64>,
    length: u64,
) -> Result<BoxStream<'static, Result<Bytes, WebSeedError>>, WebSeedError> {
    if range.is_empty() {
        return Ok(futures_util::stream::empty().boxed());
    }
    let url = check_url(url)?;
    let request = client
        .get(url.clone())
        .header(RANGE, format!("bytes={}-{}", range.start, range.end - 1))
        // Offsets are those of the file itself.
        .header(ACCEPT_ENCODING, "identity");
    let answer = tokio::time::timeout(SILENCE, request.send()).await;
    let answer = answer.map_err(|_| WebSeedError::Silent)?;
    let answer = answer.map_err(|error| HttpError::unreachable(&error))?;
    if answer.status().is_redirection() || *answer.url() != url {
        return Err(WebSeedError::Redirected);
    }
    check_answer(answer.status(), answer.headers(), &range, length)?;
    let expected = range.end - range.start;
    if let Some(got) = answer.content_length().filter(|got| *got != expected) {
        return Err(WebSeedError::Length { got, expected });
    }
    Ok(body(answer, expected))
}

fn check_answer(
    status: StatusCode,
    headers: &HeaderMap,
    range: &Range<u64>,
    length: u64,
) -> Result<(), WebSeedError> {
    let text = |value: Option<&HeaderValue>| {
        value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let wrong = |got: String| WebSeedError::WrongRange { got };
    match status {
        StatusCode::PARTIAL_CONTENT => {
            let got = text(headers.get(CONTENT_RANGE)).unwrap_or_default();
            if content_range(&got) != Some((range.clone(), Some(length)))
                && content_range(&got) != Some((range.clone(), None))
            {
                return Err(wrong(format!("Content-Range: {}", got.escape_debug())));
            }
        }
        StatusCode::OK if *range == (0..length) => {}
        StatusCode::OK => return Err(wrong("it gave everything".into())),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let retry_after = text(headers.get(RETRY_AFTER)).and_then(|text| {
                let seconds = text.trim().parse().ok()?;
                Some(Duration::from_secs(seconds).min(MAX_RETRY))
            });
            return Err(WebSeedError::Busy {
                status,
                retry_after,
            });
        }
        status => return Err(WebSeedError::Status(status)),
    }
    match text(headers.get(CONTENT_ENCODING)).as_deref() {
        None | Some("identity") => Ok(()),
        Some(coding) => Err(wrong(format!(
            "Content-Encoding: {}",
            coding.escape_debug()
        ))),
    }
}

/// `bytes 0-9/100`, as a half-open range and the length if it is stated.
fn content_range(value: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, length) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let end = last.parse::<u64>().ok()?.checked_add(1)?;
    let length = match length {
        "*" => None,
        length => Some(length.parse().ok()?),
    };
    Some((first.parse().ok()?..end, length))
}

fn body(answer: Response, expected: u64) -> BoxStream<'static, Result<Bytes, WebSeedError>> {
    try_unfold((answer, 0), move |(mut answer, got)| async move {
        if got == expected {
            return Ok(None);
        }
        let chunk = tokio::time::timeout(SILENCE, answer.chunk()).await;
        let chunk = chunk.map_err(|_| WebSeedError::Silent)?;
        let chunk = chunk.map_err(|error| HttpError::unreachable(&error))?;
        let Some(chunk) = chunk else {
            return Err(WebSeedError::Length { got, expected });
        };
        let got = got + chunk.len() as u64;
        if got > expected {
            return Err(WebSeedError::Length { got, expected });
        }
        Ok(Some((chunk, (answer, got))))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_content_range_is_read() {
        assert_eq!(content_range("bytes 0-9/100"), Some((0..10, Some(100))));
        assert_eq!(content_range(" bytes 5-5/* "), Some((5..6, None)));
        for bad in [
            "",
            "bytes",
            "bytes 0-9",
            "bytes */100",
            "bytes 0-/100",
            "bytes -9/100",
            "octets 0-9/100",
            "bytes 0-18446744073709551615/100",
            "bytes 0-9/-1",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
