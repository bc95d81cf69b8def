//! Bandwidth: the rates of the whole process and of single torrents, changeable while running.
//!
//! Every byte of payload passes two limits each way, its torrent's and then the process's, so
//! that a torrent that waits for itself takes nothing from the others. Invariant: rates set for
//! a torrent outlive its task; what is dormant today is bound by them when it wakes.

mod bucket;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Deserializer, Serialize};
use torrents::InfoHash;

use crate::{locked, upload};

use self::bucket::Limit;

/// Torrents with rates of their own at most.
const MAX_TORRENTS: usize = 10_000;

/// Bytes a second; `None` is unlimited, and at 0 nothing passes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// To peers.
    pub upload: Option<u64>,
    /// From peers and web seeds.
    pub download: Option<u64>,
}

/// A change of rates: what is absent stays as it is, and null is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatesChange {
    /// To peers.
    #[serde(
        default,
        deserialize_with = "said",
        skip_serializing_if = "Option::is_none"
    )]
    pub upload: Option<Option<u64>>,
    /// From peers and web seeds.
    #[serde(
        default,
        deserialize_with = "said",
        skip_serializing_if = "Option::is_none"
    )]
    pub download: Option<Option<u64>>,
}

/// Tells null from absent.
fn said<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(value).map(Some)
}

impl Rates {
    fn is_unlimited(self) -> bool {
        self == Self::default()
    }

    /// With what the change says.
    #[must_use]
    pub(crate) fn changed(self, change: RatesChange) -> Self {
        Self {
            upload: change.upload.unwrap_or(self.upload),
            download: change.download.unwrap_or(self.download),
        }
    }
}

/// The rates of a process and of every torrent that has its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RatesReport {
    /// Of all torrents together.
    #[serde(flatten)]
    pub process: Rates,
    /// By info hash.
    pub torrents: Vec<TorrentRates>,
}

/// The rates of one torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TorrentRates {
    /// Which.
    pub info_hash: InfoHash,
    /// Its own, within those of the process.
    #[serde(flatten)]
    pub rates: Rates,
}

/// Too many torrents have rates of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_TORRENTS} torrents have limits of their own already")]
pub struct TooManyLimits;

/// Both ways of a process, or of one torrent.
#[derive(Debug)]
pub(crate) struct Limits {
    upload: Limit,
    download: Limit,
    /// Bytes of one upload at most: less than usual when the limit is low.
    batch: AtomicU32,
}

impl Limits {
    pub(crate) fn new(rates: Rates) -> Self {
        Self {
            upload: Limit::new(rates.upload),
            download: Limit::new(rates.download),
            batch: AtomicU32::new(batch(rates.upload)),
        }
    }

    pub(crate) fn set(&self, rates: Rates) {
        self.upload.set(rates.upload);
        self.download.set(rates.download);
        self.batch.store(batch(rates.upload), Ordering::Relaxed);
    }

    pub(crate) fn rates(&self) -> Rates {
        Rates {
            upload: self.upload.rate(),
            download: self.download.rate(),
        }
    }
}

/// At a low limit a whole batch would come as a burst and then nothing for long.
fn batch(limit: Option<u64>) -> u32 {
    let tenth = limit.map_or(u64::from(upload::BATCH), |limit| limit / 10);
    u32::try_from(tenth)
        .unwrap_or(upload::BATCH)
        .clamp(16 * 1024, upload::BATCH)
}

/// What the payload of one torrent passes.
#[derive(Debug, Clone)]
pub(crate) struct Throttle {
    torrent: Arc<Limits>,
    process: Arc<Limits>,
}

impl Throttle {
    /// Waits until so much may be sent.
    pub(crate) async fn upload(&self, bytes: u64) {
        self.torrent.upload.take(bytes).await;
        self.process.upload.take(bytes).await;
    }

    /// Waits until more may be read after so much.
    pub(crate) async fn download(&self, bytes: u64) {
        self.torrent.download.take(bytes).await;
        self.process.download.take(bytes).await;
    }

    /// Bytes of one upload at most.
    pub(crate) fn batch(&self) -> u32 {
        let of = |limits: &Limits| limits.batch.load(Ordering::Relaxed);
        of(&self.torrent).min(of(&self.process))
    }
}

/// The limits of an engine.
#[derive(Debug)]
pub(crate) struct Bandwidth {
    process: Arc<Limits>,
    /// Of torrents that are live or have rates of their own.
    torrents: Mutex<HashMap<InfoHash, Arc<Limits>>>,
}

impl Bandwidth {
    pub(crate) fn new(rates: Rates) -> Self {
        Self {
            process: Arc::new(Limits::new(rates)),
            torrents: Mutex::default(),
        }
    }

    pub(crate) fn process(&self) -> &Limits {
        &self.process
    }

    /// For the task of a torrent; [`release`](Self::release) follows when it is gone.
    pub(crate) fn throttle(&self, info_hash: InfoHash) -> Throttle {
        let mut torrents = locked(&self.torrents);
        let torrent = torrents.entry(info_hash).or_insert_with(unlimited);
        Throttle {
            torrent: Arc::clone(torrent),
            process: Arc::clone(&self.process),
        }
    }

    /// Forgets what nobody uses and nobody set.
    pub(crate) fn release(&self, info_hash: InfoHash) {
        release(&mut locked(&self.torrents), info_hash);
    }

    /// Changes the rates of one torrent, live or not.
    pub(crate) fn change(
        &self,
        info_hash: InfoHash,
        change: RatesChange,
    ) -> Result<(), TooManyLimits> {
        let mut torrents = locked(&self.torrents);
        let before = torrents.get(&info_hash).map(|limits| limits.rates());
        let before = before.unwrap_or_default();
        let rates = before.changed(change);
        let set = || torrents.values().filter(|limits| is_set(limits)).count();
        if before.is_unlimited() && !rates.is_unlimited() && set() >= MAX_TORRENTS {
            return Err(TooManyLimits);
        }
        let limits = torrents.entry(info_hash).or_insert_with(unlimited);
        limits.set(rates);
        release(&mut torrents, info_hash);
        Ok(())
    }

    /// Every torrent with rates of its own, by info hash.
    pub(crate) fn all(&self) -> Vec<TorrentRates> {
        let torrents = locked(&self.torrents);
        let set = torrents.iter().filter(|(_, limits)| is_set(limits));
        let mut all: Vec<_> = set
            .map(|(&info_hash, limits)| TorrentRates {
                info_hash,
                rates: limits.rates(),
            })
            .collect();
        all.sort_unstable_by_key(|torrent| torrent.info_hash);
        all
    }
}

fn unlimited() -> Arc<Limits> {
    Arc::new(Limits::new(Rates::default()))
}

fn is_set(limits: &Limits) -> bool {
    !limits.rates().is_unlimited()
}

fn release(torrents: &mut HashMap<InfoHash, Arc<Limits>>, info_hash: InfoHash) {
    let limits = torrents.get(&info_hash);
    if limits.is_some_and(|limits| Arc::strong_count(limits) == 1 && !is_set(limits)) {
        torrents.remove(&info_hash);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    const SLOW: Rates = Rates {
        upload: Some(1_000_000),
        download: None,
    };
    const SLOWER: RatesChange = RatesChange {
        upload: Some(Some(1_000_000)),
        download: None,
    };
    const FREE: RatesChange = RatesChange {
        upload: Some(None),
        download: Some(None),
    };
    const ONE: InfoHash = InfoHash([1; 20]);
    const OTHER: InfoHash = InfoHash([2; 20]);

    async fn sent_after(throttle: &Throttle, bytes: u64) -> Duration {
        let start = Instant::now();
        throttle.upload(bytes).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_torrents_rate_binds_it_alone_and_whenever_it_is_live() {
        let bandwidth = Bandwidth::new(Rates::default());
        let (one, other) = (bandwidth.throttle(ONE), bandwidth.throttle(OTHER));
        bandwidth.change(ONE, SLOWER).unwrap();
        assert!(sent_after(&one, 2_250_000).await >= Duration::from_secs(2));
        assert_eq!(sent_after(&other, 1 << 30).await, Duration::ZERO);
        assert_eq!(one.batch(), 100_000);
        assert_eq!(other.batch(), upload::BATCH);

        drop((one, other));
        bandwidth.release(ONE);
        bandwidth.release(OTHER);
        assert_eq!(locked(&bandwidth.torrents).len(), 1);
        let slow = TorrentRates {
            info_hash: ONE,
            rates: SLOW,
        };
        assert_eq!(bandwidth.all(), [slow]);
        let again = bandwidth.throttle(ONE);
        assert!(sent_after(&again, 1_250_000).await >= Duration::from_secs(1));

        bandwidth.change(ONE, FREE).unwrap();
        assert_eq!(sent_after(&again, 1 << 30).await, Duration::ZERO);
        drop(again);
        bandwidth.release(ONE);
        assert!(locked(&bandwidth.torrents).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_process_binds_all_torrents_together() {
        let bandwidth = Bandwidth::new(SLOW);
        let (one, other) = (bandwidth.throttle(ONE), bandwidth.throttle(OTHER));
        let start = Instant::now();
        tokio::join!(one.upload(1_250_000), other.upload(1_000_000));
        assert!(start.elapsed() >= Duration::from_secs(2));
        bandwidth.process().set(Rates::default());
        assert_eq!(sent_after(&one, 1 << 30).await, Duration::ZERO);
    }

    #[test]
    fn a_change_tells_null_from_absent() {
        let change = |json: &str| serde_json::from_str::<RatesChange>(json);
        let rates = SLOW.changed(change(r#"{"download": 7}"#).unwrap());
        assert_eq!((rates.upload, rates.download), (SLOW.upload, Some(7)));
        let rates = rates.changed(change(r#"{"upload": null}"#).unwrap());
        assert_eq!((rates.upload, rates.download), (None, Some(7)));
        for bad in [r#"{"up": 7}"#, r#"{"upload": -1}"#, r#"{"upload": "7"}"#] {
            assert!(change(bad).is_err(), "{bad}");
        }
        let told = serde_json::to_string(&RatesChange {
            upload: Some(None),
            download: None,
        });
        assert_eq!(told.unwrap(), r#"{"upload":null}"#);
    }

    #[test]
    fn torrents_with_rates_are_bounded() {
        let bandwidth = Bandwidth::new(Rates::default());
        let hash = |n: usize| {
            let mut hash = InfoHash([0; 20]);
            hash.0[..8].copy_from_slice(&n.to_be_bytes());
            hash
        };
        for n in 0..MAX_TORRENTS {
            bandwidth.change(hash(n), SLOWER).unwrap();
        }
        let one_more = hash(MAX_TORRENTS);
        assert_eq!(bandwidth.change(one_more, SLOWER), Err(TooManyLimits));
        bandwidth.change(one_more, FREE).unwrap();
        bandwidth.change(hash(7), SLOWER).unwrap();
        bandwidth.change(hash(7), FREE).unwrap();
        bandwidth.change(one_more, SLOWER).unwrap();
        assert_eq!(bandwidth.all().len(), MAX_TORRENTS);
    }
}
