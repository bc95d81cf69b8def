//! What came from where: one record a download, live or lately finished.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leecher::Transfer;
use oci::{Digest, RepoName};
use tokio::time::Instant;
use torrents::InfoHash;

use crate::metrics::{Metrics, Source};
use crate::recent::Recent;
use crate::status::{BlobPhase, BlobStatus, SourceStatus};

/// Records kept, live ones included.
const CAPACITY: usize = 512;

/// The records, newest first.
#[derive(Debug)]
pub(crate) struct Ledger(Mutex<Recent<Digest, Arc<Record>>>);

/// One download.
#[derive(Debug)]
pub(crate) struct Record {
    digest: Digest,
    repository: RepoName,
    info_hash: Option<InfoHash>,
    length: u64,
    /// When the first request came.
    asked: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: BlobPhase,
    verified: u64,
    flow: Flow,
    /// What the live torrent said it uploaded when it was last asked.
    seeded: u64,
    sources: Vec<(SocketAddr, u64)>,
    origins: Vec<SocketAddr>,
    first_byte: Option<Duration>,
    ended: Option<Duration>,
    note: Option<String>,
}

/// Bytes by source.
#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    origin: u64,
    peers: u64,
    web_seed: u64,
    uploaded: u64,
    wasted: u64,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Recent::new(CAPACITY)))
    }

    /// Starts a record; the former one of that digest is replaced.
    pub(crate) fn open(&self, record: Record) -> Arc<Record> {
        let record = Arc::new(record);
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        records.insert(record.digest.clone(), record.clone());
        record
    }

    /// The latest record of a digest.
    pub(crate) fn find(&self, digest: &Digest) -> Option<Arc<Record>> {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        records.find(digest).cloned()
    }

    /// All records, newest first.
    pub(crate) fn records(&self) -> Vec<Arc<Record>> {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        records
            .newest_first()
            .map(|(_, record)| record.clone())
            .collect()
    }
}

impl Record {
    /// A download that starts.
    pub(crate) fn new(
        digest: &Digest,
        repository: &RepoName,
        info_hash: InfoHash,
        length: u64,
        asked: Instant,
    ) -> Self {
        Self {
            digest: digest.clone(),
            repository: repository.clone(),
            info_hash: Some(info_hash),
            length,
            asked,
            state: Mutex::new(State {
                phase: BlobPhase::Downloading,
                verified: 0,
                flow: Flow::default(),
                seeded: 0,
                sources: Vec::new(),
                origins: Vec::new(),
                first_byte: None,
                ended: None,
                note: None,
            }),
        }
    }

    /// Which swarm it is of.
    pub(crate) fn info_hash(&self) -> Option<InfoHash> {
        self.info_hash
    }

    /// The content came whole from an origin's registry.
    pub(crate) fn came_whole(&self, metrics: &Metrics) {
        metrics.received(Source::web_seed, self.length);
        let mut state = self.state();
        state.phase = BlobPhase::Complete;
        state.verified = self.length;
        state.flow.web_seed = self.length;
        state.ended = Some(self.asked.elapsed());
    }

    /// The engine's counters as they are now. What grew since the last call is added to the
    /// metrics. `origins` are the addresses that count as an origin. Returns the useful bytes
    /// that arrived so far.
    pub(crate) fn transferred(
        &self,
        transfer: impl FnOnce() -> Transfer,
        verified: u64,
        origins: &[SocketAddr],
        metrics: &Metrics,
    ) -> u64 {
        let mut state = self.state();
        // Read under the lock: an older count after a newer one would be added twice.
        let transfer = transfer();
        let listed = transfer.from_peers.iter();
        let origin: u64 = listed
            .filter(|(addr, _)| origins.contains(addr))
            .map(|(_, bytes)| bytes)
            .sum();
        let flow = Flow {
            origin,
            peers: transfer.downloaded.saturating_sub(origin),
            web_seed: transfer.from_web_seeds,
            uploaded: transfer.uploaded,
            wasted: transfer.wasted,
        };
        let was = std::mem::replace(&mut state.flow, flow);
        state.verified = verified;
        state.seeded = transfer.uploaded;
        state.sources = transfer.from_peers;
        state.origins = origins.to_vec();
        for (source, now, was) in [
            (Source::origin, flow.origin, was.origin),
            (Source::peer, flow.peers, was.peers),
            (Source::web_seed, flow.web_seed, was.web_seed),
        ] {
            metrics.received(source, now.saturating_sub(was));
        }
        metrics
            .wasted
            .inc_by(flow.wasted.saturating_sub(was.wasted));
        transfer.downloaded + transfer.from_web_seeds
    }

    /// A finished download's torrent, as it goes on giving. Counters of a torrent that was
    /// closed and opened again start anew, so only what grew is added.
    pub(crate) fn uploaded(&self, transfer: impl FnOnce() -> Transfer) {
        let mut state = self.state();
        let transfer = transfer();
        let seen = &mut state.seeded;
        let grown = transfer
            .uploaded
            .checked_sub(*seen)
            .unwrap_or(transfer.uploaded);
        *seen = transfer.uploaded;
        state.flow.uploaded += grown;
    }

    /// A body's first byte goes out; only the first one counts.
    pub(crate) fn first_byte(&self, metrics: &Metrics) {
        let mut state = self.state();
        if state.first_byte.is_none() {
            let took = self.asked.elapsed();
            state.first_byte = Some(took);
            metrics.first_byte.observe(took.as_secs_f64());
        }
    }

    /// Everything is here and the digest is right.
    pub(crate) fn verified(&self, metrics: &Metrics) {
        let took = self.asked.elapsed();
        metrics.duration.observe(took.as_secs_f64());
        let mut state = self.state();
        state.phase = BlobPhase::Complete;
        state.verified = self.length;
        state.ended = Some(took);
        state.note = None;
        let flow = state.flow;
        drop(state);
        tracing::info!(
            digest = %self.digest,
            repository = %self.repository,
            bytes = self.length,
            from_origin = flow.origin,
            from_peers = flow.peers,
            from_web_seed = flow.web_seed,
            seconds = took.as_secs_f64(),
            "fetched"
        );
    }

    /// It stopped.
    pub(crate) fn failed(&self, metrics: &Metrics, why: &str) {
        metrics.failures.inc();
        let mut state = self.state();
        state.phase = BlobPhase::Failed;
        state.ended = Some(self.asked.elapsed());
        state.note = Some(why.to_owned());
    }

    /// Why it waits, or that it no longer does.
    pub(crate) fn note(&self, why: Option<&str>) {
        self.state().note = why.map(str::to_owned);
    }

    /// For `GET /status`.
    pub(crate) fn status(&self) -> BlobStatus {
        let state = self.state();
        let millis = |took: Duration| took.as_secs_f64() * 1e3;
        let sources = state.sources.iter().map(|&(addr, bytes)| SourceStatus {
            addr,
            origin: state.origins.contains(&addr),
            bytes,
        });
        BlobStatus {
            digest: self.digest.clone(),
            repository: self.repository.to_string(),
            info_hash: self.info_hash.map(|hash| hash.to_string()),
            phase: state.phase,
            length: self.length,
            verified: state.verified,
            from_origin: state.flow.origin,
            from_peers: state.flow.peers,
            from_web_seed: state.flow.web_seed,
            uploaded: state.flow.uploaded,
            wasted: state.flow.wasted,
            sources: sources.collect(),
            first_byte_ms: state.first_byte.map(millis),
            duration_ms: millis(state.ended.unwrap_or_else(|| self.asked.elapsed())),
            note: state.note.clone(),
        }
    }

    /// Its state, still downloading or what came of it.
    pub(crate) fn phase(&self) -> BlobPhase {
        self.state().phase
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_apart_by_source_and_counted_once() {
        let metrics = Metrics::new();
        let digest = Digest::sha256_of(b"x");
        let repo = "team/app".parse().unwrap();
        let record = Record::new(&digest, &repo, InfoHash([7; 20]), 100, Instant::now());
        let origin: SocketAddr = "10.0.0.1:15001".parse().unwrap();
        let agent: SocketAddr = "10.0.0.2:16001".parse().unwrap();
        let transfer = |from_origin, from_agent| Transfer {
            from_peers: vec![(agent, from_agent), (origin, from_origin)],
            downloaded: from_origin + from_agent,
            from_web_seeds: 5,
            ..Transfer::default()
        };
        record.transferred(|| transfer(10, 20), 16, &[origin], &metrics);
        record.transferred(|| transfer(30, 65), 100, &[origin], &metrics);
        record.verified(&metrics);
        let status = record.status();
        assert_eq!(status.from_origin, 30);
        assert_eq!(status.from_peers, 65);
        assert_eq!(status.from_web_seed, 5);
        assert_eq!(status.phase, BlobPhase::Complete);
        assert!(status.sources.iter().any(|s| s.addr == origin && s.origin));
        assert!(status.sources.iter().any(|s| s.addr == agent && !s.origin));
        let text = metrics.text();
        assert!(
            text.contains("received_bytes_total{source=\"origin\"} 30"),
            "{text}"
        );
        assert!(
            text.contains("received_bytes_total{source=\"peer\"} 65"),
            "{text}"
        );
    }
}
