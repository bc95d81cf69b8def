//! What a tracker tells about its swarms, as `swell status` and `swell top` read it, and who in
//! a swarm is slow or stalled: the same rule as on the tracker's page.

use std::fmt;
use std::time::Duration;

use registry_shim::Herd;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::report::Failure;
use crate::units::Size;

/// A host that got no nearer to the end for so many seconds is stalled.
const STALLED: u64 = 20;
/// One that gets less than a part of the usual rate is slow.
const SLOW: u64 = 4;

/// The tracker at a glance.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Totals {
    pub(crate) uptime_seconds: u64,
    pub(crate) swarms: u64,
    pub(crate) seeds: u64,
    pub(crate) leechers: u64,
    pub(crate) origins: Vec<OriginRow>,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |count, one, many| match count {
            1 => format!("1 {one}"),
            _ => format!("{count} {many}"),
        };
        let origins = self.origins.iter().filter(|origin| origin.live).count() as u64;
        let parts = [
            counted(self.swarms, "swarm", "swarms"),
            counted(self.leechers, "download", "downloads"),
            counted(self.seeds, "host copy", "host copies"),
            counted(origins, "origin", "origins"),
        ];
        f.write_str(&parts.join(", "))
    }
}

/// An origin.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct OriginRow {
    /// It holds a lease.
    pub(crate) live: bool,
}

/// A page of swarms.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct SwarmList {
    pub(crate) total: u64,
    pub(crate) swarms: Vec<SwarmRow>,
}

/// One swarm.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct SwarmRow {
    pub(crate) info_hash: String,
    pub(crate) label: Option<String>,
    pub(crate) names: Vec<String>,
    pub(crate) length: Option<u64>,
    pub(crate) seeds: u32,
    pub(crate) leechers: u32,
    pub(crate) completed: u32,
}

/// One swarm and its hosts.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct SwarmView {
    pub(crate) origin_addrs: Vec<String>,
    pub(crate) total_peers: usize,
    pub(crate) peers: Vec<PeerRow>,
}

/// One host in a swarm.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct PeerRow {
    pub(crate) addr: String,
    pub(crate) client: Option<String>,
    pub(crate) seed: bool,
    pub(crate) progress: Option<f64>,
    pub(crate) rate: u64,
    pub(crate) stalled_seconds: Option<u64>,
}

/// How a host fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mark {
    Stalled(u64),
    Slow,
    Loading,
    Done,
}

impl SwarmRow {
    /// What people call it: its images, else its digest, else its info hash.
    pub(crate) fn title(&self) -> String {
        if self.names.is_empty() {
            return plain(self.digest());
        }
        plain(&self.names.join(" "))
    }

    /// Its digest, or its info hash.
    pub(crate) fn digest(&self) -> &str {
        self.label.as_deref().unwrap_or(&self.info_hash)
    }

    /// Its size, for people.
    pub(crate) fn size(&self) -> String {
        self.length
            .map_or_else(String::new, |n| Size(n).to_string())
    }
}

impl SwarmView {
    /// How each host fares, in the order of `peers`.
    pub(crate) fn marks(&self) -> Vec<Mark> {
        let mut rates: Vec<u64> = self.loading().map(|p| p.rate).filter(|r| *r > 0).collect();
        rates.sort_unstable();
        let usual = rates.get(rates.len() / 2).copied().unwrap_or(0);
        self.peers.iter().map(|peer| peer.mark(usual)).collect()
    }

    /// How far those that download are, on average, from 0 to 1.
    pub(crate) fn progress(&self) -> Option<f64> {
        let shares: Vec<f64> = self.loading().filter_map(|peer| peer.progress).collect();
        let count = u32::try_from(shares.len()).ok().filter(|n| *n > 0)?;
        Some(shares.iter().sum::<f64>() / f64::from(count))
    }

    fn loading(&self) -> impl Iterator<Item = &PeerRow> {
        self.peers.iter().filter(|peer| !peer.seed)
    }
}

impl PeerRow {
    fn mark(&self, usual: u64) -> Mark {
        match self.stalled_seconds {
            _ if self.seed => Mark::Done,
            Some(seconds) if seconds >= STALLED => Mark::Stalled(seconds),
            _ if self.rate > 0 && self.rate.saturating_mul(SLOW) < usual => Mark::Slow,
            _ => Mark::Loading,
        }
    }

    /// What is said of it behind its progress.
    pub(crate) fn state(&self, mark: Mark) -> String {
        let rate = || match self.rate {
            0 => String::new(),
            rate => format!("{}/s", Size(rate)),
        };
        match mark {
            Mark::Done => "complete".to_owned(),
            Mark::Stalled(seconds) => format!("STALLED {seconds} s"),
            Mark::Slow => format!("SLOW {}", rate()),
            Mark::Loading => rate(),
        }
    }
}

/// A whole percentage, never 100 before the end.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", (share.clamp(0.0, 1.0) * 100.0).floor())
}

/// Text from others as a terminal may show it: one cell a character, nothing that moves the
/// cursor or turns the line around.
pub(crate) fn plain(text: &str) -> String {
    let one = |c: char| match c {
        ' '..='~' => c,
        _ => '?',
    };
    text.chars().map(one).collect()
}

/// A tracker's JSON API.
#[derive(Debug, Clone)]
pub(crate) struct Inspection {
    client: reqwest::Client,
    base: String,
}

impl Inspection {
    /// The tracker of the first of these herds.
    pub(crate) fn of_herd(named: Option<&str>) -> Result<Self, Failure> {
        let named = named.unwrap_or("localhost");
        let herd: Herd = named
            .split(',')
            .next()
            .unwrap_or(named)
            .parse()
            .map_err(|error| Failure::from_error(&error))?;
        let tracker = herd.trackers.first();
        let base = tracker.map_or("", |url| url.as_str().trim_end_matches('/'));
        Ok(Self {
            client: client()?,
            base: base.to_owned(),
        })
    }

    /// Where it is.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// A path of its API as it answers.
    pub(crate) async fn raw(&self, path: &str) -> Result<Value, Failure> {
        ask(&self.client, &format!("{}/api/{path}", self.base)).await
    }

    /// A path of its API, read.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let value = self.raw(path).await?;
        serde_json::from_value(value)
            .map_err(|error| Failure::new(format!("the tracker's {path} cannot be read: {error}")))
    }

    /// One swarm's hosts.
    pub(crate) async fn swarm(&self, info_hash: &str) -> Result<SwarmView, Failure> {
        self.get(&format!("swarms/{info_hash}?limit=500")).await
    }
}

/// A client that does not wait long. It asks the hosts of one network, with no proxy between.
pub(crate) fn client() -> Result<reqwest::Client, Failure> {
    reqwest::Client::builder()
        .no_proxy()
        .connect_timeout(Duration::from_secs(3))
        .timeout(Duration::from_secs(10))
        .build()
        .map_err(|error| Failure::from_error(&error))
}

/// A JSON document.
pub(crate) async fn ask(client: &reqwest::Client, url: &str) -> Result<Value, Failure> {
    answer(client.get(url), url).await
}

/// The JSON document a request is answered with, or what the answer complains of.
pub(crate) async fn answer(request: reqwest::RequestBuilder, url: &str) -> Result<Value, Failure> {
    let failed = |error: reqwest::Error| {
        Failure::new(format!("cannot ask {url}: {}", cause(&error)))
            .hint("is it running, and are host and port right?")
    };
    let reply = request.send().await.map_err(failed)?;
    let status = reply.status();
    let body = reply.bytes().await.map_err(failed)?;
    let json = serde_json::from_slice::<Value>(&body);
    if !status.is_success() {
        let told = json.ok();
        let told = told
            .as_ref()
            .and_then(|json| json["errors"][0]["message"].as_str());
        let why = told.map_or_else(|| status.to_string(), plain);
        return Err(Failure::new(format!("{url}: {why}")));
    }
    json.map_err(|error| Failure::new(format!("{url} did not answer in JSON: {error}")))
}

/// The innermost cause says most: "connection refused", not "error sending request".
fn cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(rate: u64, stalled: Option<u64>, progress: f64) -> PeerRow {
        PeerRow {
            rate,
            stalled_seconds: stalled,
            progress: Some(progress),
            ..PeerRow::default()
        }
    }

    #[test]
    fn slow_and_stalled_are_told_from_the_others() {
        let seed = PeerRow {
            seed: true,
            ..PeerRow::default()
        };
        let view = SwarmView {
            peers: vec![
                host(100, Some(0), 0.5),
                host(120, Some(3), 0.5),
                host(20, Some(1), 0.1),
                host(0, Some(40), 0.3),
                host(0, Some(2), 0.0),
                seed,
            ],
            ..SwarmView::default()
        };
        let golden = [
            Mark::Loading,
            Mark::Loading,
            Mark::Slow,
            Mark::Stalled(40),
            Mark::Loading,
            Mark::Done,
        ];
        assert_eq!(view.marks(), golden);
        assert_eq!(percent(view.progress().unwrap()), "28 %");
        assert_eq!(percent(0.9999), "99 %");
        assert_eq!(SwarmView::default().progress(), None);
    }

    #[test]
    fn hostile_text_is_plain() {
        assert_eq!(plain("a\x1b[2J\u{202e}b\n"), "a?[2J?b?");
    }
}
