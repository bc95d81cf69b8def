//! What an origin counts, in the OpenMetrics text format. One instance per origin; no label
//! that a client chooses.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oci::serve::Counters;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// Counters of one origin. Every number only grows.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    blobs_pushed: AtomicU64,
    blob_bytes_pushed: AtomicU64,
    manifests_pushed: AtomicU64,
    upload_bytes_received: AtomicU64,
    uploads_cut: AtomicU64,
    uploads_refused: AtomicU64,
    torrents_served: AtomicU64,
    /// The registry's port.
    pub(crate) registry: Arc<Counters>,
    /// The API's port.
    pub(crate) api: Arc<Counters>,
}

/// How things stand when somebody looks.
#[derive(Debug, Default, Clone, serde::Serialize)]
pub(crate) struct Standing {
    /// Upload sessions open.
    pub(crate) uploads: u64,
    /// Blobs stored, manifests among them.
    pub(crate) blobs: u64,
    /// Their bytes.
    pub(crate) blob_bytes: u64,
    /// Torrents seeded.
    pub(crate) torrents: u64,
    /// Torrents that peers are connected for.
    pub(crate) live_torrents: u64,
    /// Connections of peers.
    pub(crate) peers: u64,
    /// Payload given to peers since the start.
    pub(crate) peer_bytes: u64,
    /// Trackers to register with.
    pub(crate) trackers: u64,
    /// Of them, those that know everything seeded.
    pub(crate) trackers_registered: u64,
}

impl Metrics {
    /// Content was acknowledged.
    pub(crate) fn blob_pushed(&self, bytes: u64) {
        add(&self.blobs_pushed, 1);
        add(&self.blob_bytes_pushed, bytes);
    }

    /// A manifest was acknowledged.
    pub(crate) fn manifest_pushed(&self) {
        add(&self.manifests_pushed, 1);
    }

    /// Bytes of an upload came.
    pub(crate) fn upload_received(&self, bytes: u64) {
        add(&self.upload_bytes_received, bytes);
    }

    /// An upload's body ended before its end.
    pub(crate) fn upload_cut(&self) {
        add(&self.uploads_cut, 1);
    }

    /// An upload came whole and was not taken.
    pub(crate) fn upload_refused(&self) {
        add(&self.uploads_refused, 1);
    }

    /// A `.torrent` went out.
    pub(crate) fn torrent_served(&self) {
        add(&self.torrents_served, 1);
    }

    /// Writes everything.
    pub(crate) fn encode(&self, standing: &Standing) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("swell_origin");
        registry.register_collector(Box::new(self.read(standing)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }

    fn read(&self, standing: &Standing) -> Numbers {
        let mut counters = self.pushed();
        counters.extend(self.sent());
        counters.push(("peer_bytes", "Payload given to peers", standing.peer_bytes));
        Numbers {
            counters,
            gauges: standing.gauges(),
            responses: self.registry.responses(),
        }
    }

    fn pushed(&self) -> Vec<Number> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        vec![
            (
                "blobs_pushed",
                "Blobs acknowledged",
                read(&self.blobs_pushed),
            ),
            (
                "blob_bytes_pushed",
                "Bytes of blobs acknowledged",
                read(&self.blob_bytes_pushed),
            ),
            (
                "manifests_pushed",
                "Manifests acknowledged",
                read(&self.manifests_pushed),
            ),
            (
                "upload_bytes_received",
                "Bytes of upload bodies, kept or not",
                read(&self.upload_bytes_received),
            ),
            (
                "uploads_cut",
                "Upload bodies that ended early",
                read(&self.uploads_cut),
            ),
            (
                "uploads_refused",
                "Uploads that came whole and were not taken",
                read(&self.uploads_refused),
            ),
        ]
    }

    fn sent(&self) -> Vec<Number> {
        let served = self.torrents_served.load(Ordering::Relaxed);
        vec![
            ("torrents_served", "Torrent files sent", served),
            (
                "registry_body_bytes",
                "Bytes of the registry's response bodies",
                self.registry.body_bytes(),
            ),
            (
                "registry_bodies_cut",
                "Registry responses cut for a failure of ours",
                self.registry.bodies_cut(),
            ),
            (
                "registry_bodies_abandoned",
                "Registry responses whose client left early",
                self.registry.bodies_abandoned(),
            ),
            (
                "api_body_bytes",
                "Bytes of the API's response bodies, the web seed's above all",
                self.api.body_bytes(),
            ),
        ]
    }
}

impl Standing {
    fn gauges(&self) -> Vec<Number> {
        vec![
            ("uploads", "Upload sessions open", self.uploads),
            ("blobs", "Blobs stored, manifests among them", self.blobs),
            ("blob_bytes", "Bytes of blobs stored", self.blob_bytes),
            ("torrents", "Torrents seeded", self.torrents),
            (
                "live_torrents",
                "Torrents that peers are connected for",
                self.live_torrents,
            ),
            ("peers", "Connections of peers", self.peers),
            ("trackers", "Trackers to register with", self.trackers),
            (
                "trackers_registered",
                "Trackers that know everything seeded",
                self.trackers_registered,
            ),
        ]
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Name, help and value.
type Number = (&'static str, &'static str, u64);

/// A reading of everything at one time.
#[derive(Debug)]
struct Numbers {
    counters: Vec<Number>,
    gauges: Vec<Number>,
    responses: Vec<(&'static str, u16, u64)>,
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Registry responses by kind of route and status";
        let mut family =
            encoder.encode_descriptor("registry_responses", help, None, MetricType::Counter)?;
        for (kind, status, count) in &self.responses {
            let labels = [("kind", (*kind).to_owned()), ("status", status.to_string())];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
        for (name, help, count) in &self.counters {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(*count).encode(metric)?;
        }
        for (name, help, count) in &self.gauges {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(metric)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_can_be_scraped() {
        let metrics = Metrics::default();
        metrics.blob_pushed(812);
        let standing = Standing {
            torrents: 3,
            peer_bytes: 7,
            ..Standing::default()
        };
        let text = metrics.encode(&standing).unwrap();
        assert!(
            text.contains("swell_origin_blob_bytes_pushed_total 812\n"),
            "{text}"
        );
        assert!(text.contains("swell_origin_torrents 3\n"), "{text}");
        assert!(text.contains("swell_origin_peer_bytes_total 7\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
