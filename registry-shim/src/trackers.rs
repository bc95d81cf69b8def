//! Which trackers introduce our swarms, and what they know by label.
//!
//! The trackers of a torrent that came from an origin are the torrent's own; they are
//! remembered on disk per herd, because after a restart, or with the origin gone, they are
//! what leads back into its swarms, and an operator need not repeat them to every agent.
//! Metadata that came from peers never names a tracker.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use oci::Digest;
use reqwest::StatusCode;
use torrents::register::LookupReply;
use url::Url;

use crate::config::{Config, below};
use crate::files;
use crate::origin::{bounded, cause};

/// Trackers remembered for one herd at most.
const MAX_LEARNT: usize = 8;
/// A look-up reply is a few dozen bytes.
const MAX_REPLY: usize = 4 << 10;

/// Trackers by tier, as the engine takes them.
pub(crate) type Tiers = Vec<Vec<String>>;

/// What the trackers together know of a label.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// Its swarm.
    Found(LookupReply),
    /// No tracker knows a swarm; what each said, for people.
    Nowhere(Vec<String>),
}

/// The configured trackers and those learnt from torrents.
#[derive(Debug)]
pub(crate) struct Trackers {
    client: reqwest::Client,
    attempt: Duration,
    /// Herd registry address → announce addresses of its configuration.
    herds: Vec<(String, Vec<String>)>,
    /// Announce addresses configured beside the herds.
    others: Vec<String>,
    learnt: Mutex<Learnt>,
    path: PathBuf,
}

/// What torrents named.
#[derive(Debug, Default)]
struct Learnt {
    /// Herd registry address → announce addresses its torrents named last.
    of: BTreeMap<String, Vec<String>>,
    /// The file does not say so yet.
    unsaved: bool,
}

impl Trackers {
    /// Reads what earlier runs learnt; a file that cannot be read is as good as none. Blocking.
    pub(crate) fn open(config: &Config, client: reqwest::Client) -> Self {
        let path = config.data.join("trackers.json");
        let of = std::fs::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let announces =
            |urls: &[Url]| -> Vec<String> { urls.iter().filter_map(announce).collect() };
        let herds = config.herds.iter();
        Self {
            client,
            attempt: config.patience.origin,
            herds: herds
                .map(|herd| (herd.registry.to_string(), announces(&herd.trackers)))
                .collect(),
            others: announces(&config.trackers),
            learnt: Mutex::new(Learnt { of, unsaved: false }),
            path,
        }
    }

    /// Where content is announced whose torrent is not at hand: what each herd's torrents
    /// named last, else what is configured for it. One tracker a tier.
    pub(crate) fn tiers(&self) -> Tiers {
        let learnt = self.learnt();
        let mut flat: Vec<&String> = Vec::new();
        for (herd, configured) in &self.herds {
            flat.extend(learnt.of.get(herd).unwrap_or(configured));
        }
        flat.extend(&self.others);
        tiers(flat)
    }

    /// Where a torrent of that herd is announced, remembering what it says. The file is
    /// written by [`Self::save`]: a pull does not wait for a disk to sync.
    pub(crate) fn of_torrent(&self, herd: &Url, named: &[Vec<String>]) -> Tiers {
        let named: Vec<String> = named.iter().flatten().take(MAX_LEARNT).cloned().collect();
        if named.is_empty() {
            return self.tiers();
        }
        let mut learnt = self.learnt();
        if learnt.of.get(herd.as_str()) != Some(&named) {
            // Herds of former configurations would otherwise stay for ever.
            learnt
                .of
                .retain(|known, _| self.herds.iter().any(|(herd, _)| herd == known));
            learnt.of.insert(herd.to_string(), named.clone());
            learnt.unsaved = true;
        }
        drop(learnt);
        tiers(named.iter().chain(&self.others).collect())
    }

    /// Writes what was learnt since the last call.
    pub(crate) async fn save(&self) {
        let text = {
            let mut learnt = self.learnt();
            if !std::mem::take(&mut learnt.unsaved) {
                return;
            }
            serde_json::to_vec_pretty(&learnt.of).unwrap_or_default()
        };
        let path = self.path.clone();
        let write = move || files::replace(&path, &text);
        if let Err(error) = files::blocking(write).await {
            let path = self.path.display();
            tracing::warn!("cannot remember trackers: {path}: {error}");
        }
    }

    /// Asks every tracker for the swarm of a digest, all at once; the first that knows wins.
    pub(crate) async fn lookup(&self, digest: &Digest) -> Lookup {
        let mut asked: FuturesUnordered<_> = self
            .lookups(digest)
            .into_iter()
            .map(|url| self.lookup_at(url))
            .collect();
        let mut tried = Vec::new();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(reply) => return Lookup::Found(reply),
                Err(why) => tried.push(why),
            }
        }
        Lookup::Nowhere(tried)
    }

    async fn lookup_at(&self, url: Url) -> Result<LookupReply, String> {
        let host = url.host_str().unwrap_or_default();
        let tracker = match url.port_or_known_default() {
            Some(port) => format!("tracker {host}:{port}"),
            None => format!("tracker {host}"),
        };
        let request = self.client.get(url).timeout(self.attempt);
        let response = request
            .send()
            .await
            .map_err(|error| format!("{tracker}: {}", cause(&error)))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(format!("{tracker}: it knows no swarm for it")),
            status => return Err(format!("{tracker}: it answered {status}")),
        }
        let body = bounded(response, MAX_REPLY)
            .await
            .map_err(|why| format!("{tracker}: {why}"))?;
        LookupReply::decode(&body).map_err(|error| format!("{tracker}: {error}"))
    }

    /// Whether any tracker answers; why not, for people.
    pub(crate) async fn ping(&self) -> Result<(), Vec<String>> {
        let bases = self
            .all()
            .into_iter()
            .filter_map(|announce| base(&announce));
        let mut asked: FuturesUnordered<_> = bases
            .filter_map(|base| below(&base, "health"))
            .map(|url| async move {
                let host = url.authority().to_owned();
                let request = self.client.get(url).timeout(self.attempt);
                match request.send().await {
                    Ok(response) if response.status().is_success() => Ok(()),
                    Ok(response) => Err(format!("tracker {host}: {}", response.status())),
                    Err(error) => Err(format!("tracker {host}: {}", cause(&error))),
                }
            })
            .collect();
        let mut tried = Vec::new();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(()) => return Ok(()),
                Err(why) => tried.push(why),
            }
        }
        Err(tried)
    }

    fn lookups(&self, digest: &Digest) -> Vec<Url> {
        let all = self.all();
        let bases = all.iter().filter_map(|announce| base(announce));
        bases
            .filter_map(|base| below(&base, &format!("lookup/{digest}")))
            .collect()
    }

    /// Every announce address, configured or learnt, without repetition.
    fn all(&self) -> Vec<String> {
        let learnt = self.learnt();
        let configured = self.herds.iter().flat_map(|(_, urls)| urls);
        let flat = configured
            .chain(&self.others)
            .chain(learnt.of.values().flatten());
        tiers(flat.collect()).into_iter().flatten().collect()
    }

    fn learnt(&self) -> std::sync::MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One tracker a tier, each once.
fn tiers(flat: Vec<&String>) -> Tiers {
    let mut tiers: Tiers = Vec::new();
    for url in flat {
        if !tiers.iter().any(|tier| tier.contains(url)) {
            tiers.push(vec![url.clone()]);
        }
    }
    tiers
}

fn announce(tracker: &Url) -> Option<String> {
    below(tracker, "announce").map(String::from)
}

/// The tracker an announce address belongs to: what precedes its last `/announce`.
fn base(announce: &str) -> Option<Url> {
    Url::parse(announce.strip_suffix("/announce")?).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(dir: &Path) -> Config {
        Config {
            data: dir.to_owned(),
            herds: vec!["a".parse().unwrap(), "b".parse().unwrap()],
            trackers: vec![
                "http://a:15003".parse().unwrap(),
                "http://t/base/".parse().unwrap(),
            ],
            ..Config::default()
        }
    }

    fn flat(tiers: Tiers) -> Vec<String> {
        assert!(tiers.iter().all(|tier| tier.len() == 1));
        tiers.into_iter().flatten().collect()
    }

    #[tokio::test]
    async fn what_torrents_name_replaces_what_is_configured_and_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let trackers = Trackers::open(&config, reqwest::Client::new());
        let before = [
            "http://a:15003/announce",
            "http://b:15003/announce",
            "http://t/base/announce",
        ];
        assert_eq!(flat(trackers.tiers()), before);

        let named = vec![vec!["http://10.0.0.1:15003/announce".to_owned()]];
        let herd = &config.herds[0].registry;
        let of_torrent = trackers.of_torrent(herd, &named);
        assert_eq!(flat(of_torrent)[0], "http://10.0.0.1:15003/announce");

        trackers.save().await;
        let again = Trackers::open(&config, reqwest::Client::new());
        assert_eq!(flat(again.tiers())[0], "http://10.0.0.1:15003/announce");
        let digest = Digest::sha256_of(b"x");
        let asked: Vec<_> = again.lookups(&digest).iter().map(Url::to_string).collect();
        assert!(asked.contains(&format!("http://a:15003/lookup/{digest}")));
        assert!(asked.contains(&format!("http://10.0.0.1:15003/lookup/{digest}")));
        assert!(asked.contains(&format!("http://t/base/lookup/{digest}")));
    }

    #[test]
    fn a_spoilt_file_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("trackers.json"), "{").unwrap();
        let trackers = Trackers::open(&config(dir.path()), reqwest::Client::new());
        assert_eq!(trackers.tiers().len(), 3);
    }
}
