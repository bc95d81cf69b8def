//! The tracker's numbers, for Prometheus. One registry per tracker, so that several run in one
//! process; no label is chosen by a client.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use torrents::announce::AnnounceEvent;

use crate::peers::Stored;
use crate::swarms::{Announced, Refusal};

/// What became of an announce, as operators tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Outcome {
    Joined,
    Renewed,
    Replaced,
    Left,
    /// Answered, but not stored: an origin, a leaver the table does not hold, one that does not
    /// listen, an impostor.
    Unstored,
    /// Answered, but there was no room to store it.
    NoRoom,
    Unregistered,
    Denied,
    /// Refused for want of room for another swarm.
    Full,
    Undialable,
    TooFast,
    Malformed,
}

const OUTCOMES: [(Outcome, &str); 12] = [
    (Outcome::Joined, "joined"),
    (Outcome::Renewed, "renewed"),
    (Outcome::Replaced, "replaced"),
    (Outcome::Left, "left"),
    (Outcome::Unstored, "unstored"),
    (Outcome::NoRoom, "no_room"),
    (Outcome::Unregistered, "unregistered"),
    (Outcome::Denied, "denied"),
    (Outcome::Full, "full"),
    (Outcome::Undialable, "undialable"),
    (Outcome::TooFast, "too_fast"),
    (Outcome::Malformed, "malformed"),
];

const EVENTS: [(Option<AnnounceEvent>, &str); 6] = [
    (Some(AnnounceEvent::None), "none"),
    (Some(AnnounceEvent::Started), "started"),
    (Some(AnnounceEvent::Completed), "completed"),
    (Some(AnnounceEvent::Stopped), "stopped"),
    (Some(AnnounceEvent::Paused), "paused"),
    (None, "unread"),
];

/// Upper bounds of the latency buckets, in microseconds.
const BUCKETS: [u64; 12] = [
    2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 100_000,
];

impl From<Announced> for Outcome {
    fn from(announced: Announced) -> Self {
        match announced {
            Announced::Stored(Stored::Joined { .. }) => Self::Joined,
            Announced::Stored(Stored::Renewed) => Self::Renewed,
            Announced::Stored(Stored::Replaced) => Self::Replaced,
            Announced::Stored(Stored::Full) => Self::NoRoom,
            Announced::Stored(Stored::Impostor) | Announced::Unknown => Self::Unstored,
            Announced::Left => Self::Left,
        }
    }
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unregistered { .. } => Self::Unregistered,
            Refusal::Denied => Self::Denied,
            Refusal::Full => Self::Full,
            Refusal::Undialable(_) => Self::Undialable,
            Refusal::TooFast => Self::TooFast,
        }
    }
}

/// Counters the request path writes; what the tables hold is read when asked for.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    announces: [[AtomicU64; OUTCOMES.len()]; EVENTS.len()],
    seconds: Histogram,
    scrapes: AtomicU64,
    scraped: AtomicU64,
    registrations: AtomicU64,
    registrations_refused: AtomicU64,
    reply_bytes: AtomicU64,
    malformed: AtomicU64,
    connections: AtomicU64,
    connections_refused: AtomicU64,
    saves_failed: AtomicU64,
}

/// What the tables hold when the numbers are asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) swarms: usize,
    pub(crate) seeds: usize,
    pub(crate) leechers: usize,
    pub(crate) registered: usize,
    pub(crate) origins: usize,
    pub(crate) connections: usize,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl Metrics {
    pub(crate) fn announce(
        &self,
        event: Option<AnnounceEvent>,
        outcome: Outcome,
        took: Duration,
        bytes: usize,
    ) {
        let event = match event {
            Some(AnnounceEvent::None) => 0,
            Some(AnnounceEvent::Started) => 1,
            Some(AnnounceEvent::Completed) => 2,
            Some(AnnounceEvent::Stopped) => 3,
            Some(AnnounceEvent::Paused) => 4,
            None => 5,
        };
        add(&self.announces[event][outcome as usize], 1);
        add(&self.reply_bytes, bytes as u64);
        self.seconds.observe(took);
    }

    pub(crate) fn scrape(&self, hashes: usize, bytes: usize) {
        add(&self.scrapes, 1);
        add(&self.scraped, hashes as u64);
        add(&self.reply_bytes, bytes as u64);
    }

    pub(crate) fn registration(&self, taken: bool) {
        add(
            if taken {
                &self.registrations
            } else {
                &self.registrations_refused
            },
            1,
        );
    }

    /// Something that is no HTTP came in.
    pub(crate) fn malformed(&self) {
        add(&self.malformed, 1);
    }

    pub(crate) fn connection(&self, taken: bool) {
        add(
            if taken {
                &self.connections
            } else {
                &self.connections_refused
            },
            1,
        );
    }

    /// The registrations could not be saved.
    pub(crate) fn save_failed(&self) {
        add(&self.saves_failed, 1);
    }

    #[cfg(test)]
    pub(crate) fn reply_bytes(&self) -> u64 {
        read(&self.reply_bytes)
    }

    /// Writes everything in the OpenMetrics text format.
    pub(crate) fn encode(&self, held: Held) -> Result<String, fmt::Error> {
        let mut registry = prometheus_client::registry::Registry::with_prefix("swell_tracker");
        registry.register_collector(Box::new(Numbers::read(self, held)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Histogram {
    fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|bound| *bound < micros);
        add(&self.buckets[bucket], 1);
        add(&self.micros, micros);
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// A reading of everything at one time.
#[derive(Debug)]
struct Numbers {
    held: Held,
    announces: Vec<(&'static str, &'static str, u64)>,
    buckets: Vec<(f64, u64)>,
    answered: u64,
    seconds: f64,
    counters: Vec<(&'static str, &'static str, u64)>,
}

impl Numbers {
    fn read(metrics: &Metrics, held: Held) -> Self {
        let mut announces = Vec::new();
        for ((_, event), row) in EVENTS.iter().zip(&metrics.announces) {
            for ((_, outcome), count) in OUTCOMES.iter().zip(row) {
                announces.push((*event, *outcome, read(count)));
            }
        }
        // Each bucket counts its own; the encoder wants them so and adds them up.
        let bounds = BUCKETS
            .iter()
            .map(|micros| *micros as f64 / 1e6)
            .chain([f64::INFINITY]);
        let counts = metrics.seconds.buckets.iter().map(read);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        Self {
            held,
            announces,
            answered: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
            seconds: read(&metrics.seconds.micros) as f64 / 1e6,
            counters: metrics.counters(),
        }
    }
}

impl Metrics {
    fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        vec![
            (
                "scrapes",
                "Scrapes answered or refused",
                read(&self.scrapes),
            ),
            (
                "scraped_torrents",
                "Torrents named in scrapes",
                read(&self.scraped),
            ),
            (
                "registration_batches",
                "Registrations taken in",
                read(&self.registrations),
            ),
            (
                "registration_batches_refused",
                "Registrations refused",
                read(&self.registrations_refused),
            ),
            (
                "reply_body_bytes",
                "Bytes of announce and scrape bodies",
                read(&self.reply_bytes),
            ),
            (
                "malformed_requests",
                "Requests that were no HTTP",
                read(&self.malformed),
            ),
            ("connections", "Connections taken", read(&self.connections)),
            (
                "connections_refused",
                "Connections closed because too many were open",
                read(&self.connections_refused),
            ),
            (
                "cache_saves_failed",
                "Times the registrations could not be saved",
                read(&self.saves_failed),
            ),
        ]
    }
}

impl prometheus_client::collector::Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            "announces",
            "Announces by event and by what became of them",
            None,
            MetricType::Counter,
        )?;
        for (event, outcome, count) in &self.announces {
            let labels = [("event", *event), ("outcome", *outcome)];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
        encoder
            .encode_descriptor(
                "announce_seconds",
                "Time from reading an announce to having its reply",
                None,
                MetricType::Histogram,
            )?
            .encode_histogram::<NoLabelSet>(self.seconds, self.answered, &self.buckets, None)?;
        for (name, help, count) in &self.counters {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(*count).encode(metric)?;
        }
        self.encode_held(&mut encoder)
    }
}

impl Numbers {
    fn encode_held(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut peers = encoder.encode_descriptor(
            "peers",
            "Peers in all swarms, origins not counted",
            None,
            MetricType::Gauge,
        )?;
        for (kind, count) in [("seed", self.held.seeds), ("leecher", self.held.leechers)] {
            gauge(count).encode(peers.encode_family(&[("kind", kind)])?)?;
        }
        for (name, help, count) in [
            ("swarms", "Swarms held", self.held.swarms),
            (
                "registered_swarms",
                "Swarms registered by origins",
                self.held.registered,
            ),
            ("origins", "Origins that hold a lease", self.held.origins),
            (
                "open_connections",
                "Connections open now",
                self.held.connections,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge(count).encode(metric)?;
        }
        Ok(())
    }
}

fn gauge(count: usize) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX))
}
