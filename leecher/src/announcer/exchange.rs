//! One announce or scrape over HTTP: compose, ask, read, and say in words what went wrong.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Client, StatusCode};
use torrents::InfoHash;
use torrents::announce::{
    AnnounceReply, AnnounceRequest, MAX_REPLY, MAX_REPLY_PEERS, ReplyError, ReplyPeer, ScrapeEntry,
    TrackerAnswer, decode_scrape, dialable, scrape_url,
};

use crate::http::{HttpError, shown, small_get};

/// A whole exchange, redirects included.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the hosts that a reply names may take to be looked up.
const LOOK_UP: Duration = Duration::from_secs(3);

/// Why a tracker gave no answer. Reads well after "tracker HOST:PORT: ".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrackerError {
    /// Nobody answers, or not over HTTP as we speak it.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It answers, but not as a tracker.
    #[error("it answered {0}")]
    Status(StatusCode),
    /// It answers, but not as a tracker.
    #[error(transparent)]
    Reply(#[from] ReplyError),
    /// It says no.
    #[error("it refused: {reason}")]
    Refused {
        /// In its own words, cleaned.
        reason: String,
        /// BEP 31: when to come back, in minutes; `Some(None)` is never.
        retry_in: Option<Option<u32>>,
    },
    /// The announce URL has no scrape URL by the convention of BEP 48.
    #[error("its announce URL names no scrape URL (BEP 48)")]
    NoScrape,
}

/// Announces once.
pub(super) async fn announce(
    client: &Client,
    url: &str,
    request: &AnnounceRequest,
    time: Duration,
) -> Result<AnnounceReply, TrackerError> {
    let answer = small_get(client, &request.to_url(url), MAX_REPLY, time).await?;
    let mut reply = read(answer, AnnounceReply::decode)?;
    let hosts = std::mem::take(&mut reply.hosts);
    // What cannot be looked up in time is left out.
    let look_up = tokio::time::timeout(LOOK_UP, join_all(hosts.into_iter().map(addresses)));
    for addr in look_up.await.into_iter().flatten().flatten() {
        if reply.peers.len() < MAX_REPLY_PEERS {
            reply.peers.push(ReplyPeer { addr, id: None });
        }
    }
    Ok(reply)
}

/// Where a peer that is named by host listens.
async fn addresses((host, port): (String, u16)) -> Vec<SocketAddr> {
    let found = tokio::net::lookup_host((host.as_str(), port)).await;
    found.into_iter().flatten().filter_map(dialable).collect()
}

/// Asks a tracker how many seeds and leechers it knows in each of these swarms (BEP 48).
/// Swarms it does not know may be missing from the answer, or be all zeros.
pub async fn scrape(
    client: &Client,
    announce_url: &str,
    hashes: &[InfoHash],
) -> Result<Vec<(InfoHash, ScrapeEntry)>, TrackerError> {
    crate::http::check_url(announce_url)?;
    let url = scrape_url(announce_url, hashes).ok_or(TrackerError::NoScrape)?;
    let answer = small_get(client, &url, MAX_REPLY, TIMEOUT).await?;
    read(answer, decode_scrape)
}

/// Some trackers refuse with a status other than 200 and still say why.
fn read<T>(
    (status, body): (StatusCode, Vec<u8>),
    decode: impl Fn(&[u8]) -> Result<TrackerAnswer<T>, ReplyError>,
) -> Result<T, TrackerError> {
    match decode(&body) {
        Ok(TrackerAnswer::Failure { reason, retry_in }) => {
            Err(TrackerError::Refused { reason, retry_in })
        }
        _ if !status.is_success() => Err(TrackerError::Status(status)),
        Ok(TrackerAnswer::Ok(reply)) => Ok(reply),
        Err(error) => Err(error.into()),
    }
}

impl TrackerError {
    /// For people, with the tracker's host; its path may hold a secret.
    pub(super) fn told(&self, url: &str) -> String {
        format!("tracker {}: {self}", shown(url))
    }
}
