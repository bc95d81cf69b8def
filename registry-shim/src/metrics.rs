//! What an agent counts, for Prometheus. Each agent has a registry of its own, so several run
//! in one process.

use std::sync::atomic::Ordering;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(
    non_camel_case_types,
    reason = "the label values, as Prometheus users write them"
)]
pub(crate) enum Kind {
    manifest,
    blob,
}

/// How a pull was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(
    non_camel_case_types,
    reason = "the label values, as Prometheus users write them"
)]
pub(crate) enum Outcome {
    /// From the local store.
    local,
    /// By a download, started or joined.
    swarm,
    /// By an origin.
    origin,
    /// A tag from memory, no origin being reachable.
    memory,
    /// It does not exist.
    unknown,
    /// The asker may not.
    denied,
    /// It could not be had now.
    failed,
}

/// Where payload came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(
    non_camel_case_types,
    reason = "the label values, as Prometheus users write them"
)]
pub(crate) enum Source {
    /// An origin's peer, on the wire.
    origin,
    /// Any other peer, on the wire.
    peer,
    /// An origin's web seed or registry, by HTTP.
    web_seed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PullLabels {
    kind: Kind,
    result: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: Source,
}

/// The counters, cheap to touch from anywhere.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pulls: Family<PullLabels, Counter>,
    received: Family<SourceLabels, Counter>,
    /// Bytes given to clients.
    pub(crate) served: Counter,
    /// Bytes given to peers, as the engine counts them.
    uploaded: Counter,
    /// Bytes thrown away.
    pub(crate) wasted: Counter,
    /// Entries removed to make room.
    pub(crate) evictions: Counter,
    /// Downloads that ended in an error.
    pub(crate) failures: Counter,
    /// Bodies cut because nothing came.
    pub(crate) stalls: Counter,
    /// Bytes of complete content.
    pub(crate) cache_bytes: Gauge,
    /// Complete entries.
    pub(crate) cache_entries: Gauge,
    /// Downloads under way.
    pub(crate) downloads: Gauge,
    /// Connected peers.
    pub(crate) peers: Gauge,
    /// From the first request for a cold blob to the first byte of its body.
    pub(crate) first_byte: Histogram,
    /// From the first request for a cold blob until it is verified.
    pub(crate) duration: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 20));
        let mut metrics = Self {
            registry: Registry::with_prefix("swell_agent"),
            pulls: Family::default(),
            received: Family::default(),
            served: Counter::default(),
            uploaded: Counter::default(),
            wasted: Counter::default(),
            evictions: Counter::default(),
            failures: Counter::default(),
            stalls: Counter::default(),
            cache_bytes: Gauge::default(),
            cache_entries: Gauge::default(),
            downloads: Gauge::default(),
            peers: Gauge::default(),
            first_byte: seconds(),
            duration: seconds(),
        };
        metrics.register_counters();
        metrics.register_states();
        metrics
    }

    fn register_counters(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "pulls",
            "Requests for content, by how they were answered",
            self.pulls.clone(),
        );
        registry.register_with_unit(
            "received",
            "Useful payload, by where it came from",
            Unit::Bytes,
            self.received.clone(),
        );
        let bytes = [
            ("served", "Payload given to registry clients", &self.served),
            ("uploaded", "Payload given to peers", &self.uploaded),
            (
                "wasted",
                "Payload thrown away: duplicates and bad pieces",
                &self.wasted,
            ),
        ];
        for (name, help, counter) in bytes {
            registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
        }
        let events = [
            ("evictions", "Entries removed to make room", &self.evictions),
            (
                "download_failures",
                "Downloads that ended in an error",
                &self.failures,
            ),
            (
                "stalls",
                "Times bodies were cut because nothing came",
                &self.stalls,
            ),
        ];
        for (name, help, counter) in events {
            registry.register(name, help, counter.clone());
        }
    }

    fn register_states(&mut self) {
        let registry = &mut self.registry;
        let bytes = self.cache_bytes.clone();
        registry.register_with_unit("cache", "Complete content", Unit::Bytes, bytes);
        let gauges = [
            (
                "cache_entries",
                "Complete blobs and manifests",
                &self.cache_entries,
            ),
            ("downloads", "Downloads under way", &self.downloads),
            ("peers", "Connected peers", &self.peers),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let times = [
            (
                "first_byte",
                "From the first request for a cold blob to its first byte",
                &self.first_byte,
            ),
            (
                "download",
                "From the first request for a cold blob until it is verified",
                &self.duration,
            ),
        ];
        for (name, help, histogram) in times {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
    }

    /// One request was answered.
    pub(crate) fn pulled(&self, kind: Kind, result: Outcome) {
        self.pulls.get_or_create(&PullLabels { kind, result }).inc();
    }

    /// Payload came in.
    pub(crate) fn received(&self, source: Source, bytes: u64) {
        self.received
            .get_or_create(&SourceLabels { source })
            .inc_by(bytes);
    }

    /// What the engine gave to peers since the start.
    pub(crate) fn uploaded_so_far(&self, bytes: u64) {
        // Two who look at once may come here in the other order.
        self.uploaded.inner().fetch_max(bytes, Ordering::Relaxed);
    }

    /// Everything, in the text format of Prometheus.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_agents_of_one_process_count_apart() {
        let (one, two) = (Metrics::new(), Metrics::new());
        one.pulled(Kind::blob, Outcome::swarm);
        one.received(Source::web_seed, 7);
        one.first_byte.observe(0.02);
        let text = one.text();
        for line in [
            "swell_agent_pulls_total{kind=\"blob\",result=\"swarm\"} 1",
            "swell_agent_received_bytes_total{source=\"web_seed\"} 7",
            "swell_agent_first_byte_seconds_count 1",
            "swell_agent_cache_bytes 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(!two.text().contains("result=\"swarm\""));
    }
}
