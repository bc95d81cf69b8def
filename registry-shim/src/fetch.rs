//! One digest being downloaded: many readers, one swarm, one verdict.
//!
//! ```text
//!            pieces arrive            all there, digest right        fsync, rename
//!  Running ──────────────► Running ─────────────────────► Verified ─────────────► Stored
//!   │  ▲                                                      │ the disk refuses
//!   │  │ bytes move again,   nothing comes: readers are cut   ▼
//!   └──┴─ Stalled ◄──────    digest wrong, disk full ─────► Failed
//! ```
//!
//! Invariants: the SHA-256 of the whole is computed while the prefix grows, so that the end
//! is prompt; nothing is committed before it matched; a stall cuts readers, never the download;
//! nobody's leaving stops it. What ends it is its own verdict, or the agent's end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use leecher::content::Content;
use leecher::store::StoreError;
use leecher::{Torrent, TorrentError, TorrentStatus};
use oci::{BlobError, Digest, ErrorCode, RegistryError};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::Patience;
use crate::files::blocking;
use crate::herds::Herds;
use crate::ledger::Record;
use crate::metrics::Metrics;
use crate::shelf::{Shelf, explained};
use crate::trackers::Tiers;

/// The end of a blob is kept back until the digest of the whole is right, so that nobody ever
/// holds a complete wrong blob. Small, because this much waits for the last piece.
const HELD_BACK: u64 = 64 << 10;
/// How often counters are read and stalls looked for.
const TICK: Duration = Duration::from_millis(500);
/// Hashed in one go on a blocking thread; bounds how long a shutdown waits.
const HASH_STEP: u64 = 32 << 20;
/// Read at once while hashing.
const HASH_BUFFER: usize = 256 << 10;
/// A download that neither moves nor is read is given up after this many stalls.
const STALLS_UNREAD: u32 = 30;
/// With peers connected but silent, readers wait this many stalls.
const STALLS_CONNECTED: u32 = 3;

/// Where a download stands.
#[derive(Debug, Clone)]
pub(crate) enum State {
    /// Pieces arrive, or will.
    Running,
    /// Nothing came for long: readers are turned away with this until it passes.
    Stalled(RegistryError),
    /// All bytes are here and right.
    Verified,
    /// And they are in the store.
    Stored,
    /// It is over.
    Failed(RegistryError),
}

/// One download. Shared by its driver and its readers.
#[derive(Debug)]
pub(crate) struct Fetch {
    digest: Digest,
    torrent: Torrent,
    /// Where it is announced, now and once it is complete.
    trackers: Tiers,
    length: u64,
    state: watch::Sender<State>,
    /// The digest of the whole is right: readers go on whatever becomes of the store.
    verified: AtomicBool,
    /// Bytes verified from the start without a gap, as far as is known.
    prefix: watch::Sender<u64>,
    readers: AtomicUsize,
    record: Arc<Record>,
}

/// What a driver needs beside its download.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) herds: Herds,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) patience: Patience,
}

/// Why a download ended without content.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Torrent(#[from] TorrentError),
    #[error("cannot read back what was downloaded: {0}")]
    Read(#[from] io::Error),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("its swarm holds {found}, not this content: whoever registered the torrent is wrong")]
    Mismatch { found: Digest },
    #[error("nothing came for long and nobody waits for it")]
    Abandoned,
    #[error("the agent is stopping")]
    Stopping,
}

impl Failure {
    /// As readers and clients are told it.
    pub(crate) fn told(&self, digest: &Digest) -> RegistryError {
        let why = explained(&self.to_string());
        RegistryError::new(
            ErrorCode::Unavailable,
            format!("cannot fetch {digest}: {why}"),
        )
    }
}

impl Fetch {
    pub(crate) fn new(
        digest: Digest,
        torrent: Torrent,
        trackers: Tiers,
        record: Arc<Record>,
    ) -> Arc<Self> {
        let length = torrent.info().geometry().length();
        let resumed = verified_prefix(&torrent, 0);
        Arc::new(Self {
            digest,
            length,
            state: watch::Sender::new(State::Running),
            verified: AtomicBool::new(false),
            prefix: watch::Sender::new(resumed),
            readers: AtomicUsize::new(0),
            record,
            trackers,
            torrent,
        })
    }

    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(crate) fn torrent(&self) -> &Torrent {
        &self.torrent
    }

    pub(crate) fn content(&self) -> &Arc<Content> {
        self.torrent.content()
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn trackers(&self) -> &Tiers {
        &self.trackers
    }

    pub(crate) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// Where the part begins that waits for the digest of the whole.
    pub(crate) fn held_from(&self) -> u64 {
        self.length.saturating_sub(HELD_BACK)
    }

    /// Why a new reader is turned away, if so.
    pub(crate) fn trouble(&self) -> Option<RegistryError> {
        match &*self.state.borrow() {
            State::Stalled(error) | State::Failed(error) => Some(error.clone()),
            State::Running | State::Verified | State::Stored => None,
        }
    }

    /// Resolves when the whole is verified, or when readers must be cut.
    pub(crate) async fn verdict(&self) -> Result<(), BlobError> {
        let error = match self.reached(|state| !matches!(state, State::Running)).await {
            Err(error) if !self.verified.load(Ordering::Acquire) => error,
            _ => return Ok(()),
        };
        Err(BlobError(error.message.into()))
    }

    /// Resolves when the content is in the store, or when readers must be cut.
    pub(crate) async fn stored(&self) -> Result<(), RegistryError> {
        let over = |state: &State| !matches!(state, State::Running | State::Verified);
        self.reached(over).await
    }

    async fn reached(&self, there: impl Fn(&State) -> bool) -> Result<(), RegistryError> {
        let mut states = self.state.subscribe();
        match states.wait_for(|state| there(state)).await.as_deref() {
            Ok(State::Stalled(error) | State::Failed(error)) => Err(error.clone()),
            Ok(State::Running | State::Verified | State::Stored) => Ok(()),
            Err(_) => Err(Failure::Stopping.told(&self.digest)),
        }
    }

    /// A reader learnt that these bytes are verified.
    pub(crate) fn saw_verified(&self, from: u64, to: u64) {
        self.prefix.send_if_modified(|prefix| {
            let longer = from <= *prefix && to > *prefix;
            if longer {
                *prefix = to;
            }
            longer
        });
    }

    /// Counts a reader in until the guard is dropped.
    pub(crate) fn reading(self: &Arc<Self>) -> Reading {
        self.readers.fetch_add(1, Ordering::Relaxed);
        Reading(self.clone())
    }

    /// Drives it to its verdict. The caller puts the failure into effect with [`Self::fail`].
    pub(crate) async fn run(&self, around: &Surroundings) -> Result<(), Failure> {
        let ended = tokio::select! {
            ended = self.complete(around) => ended,
            failure = self.watch(around) => Err(failure),
        };
        self.take_stock(around);
        ended
    }

    /// Ends it: readers are cut with the reason.
    pub(crate) fn fail(&self, failure: &Failure, metrics: &Metrics) -> RegistryError {
        let told = failure.told(&self.digest);
        self.record.failed(metrics, &told.message);
        self.state.send_replace(State::Failed(told.clone()));
        told
    }

    async fn complete(&self, around: &Surroundings) -> Result<(), Failure> {
        let arriving = async {
            self.torrent.finished().await?;
            self.prefix.send_replace(self.length);
            Ok::<_, Failure>(())
        };
        let ((), found) = tokio::try_join!(arriving, self.hash())?;
        if found != self.digest {
            return Err(Failure::Mismatch { found });
        }
        self.take_stock(around);
        self.record.verified(&around.metrics);
        self.verified.store(true, Ordering::Release);
        self.state.send_replace(State::Verified);
        let store = around.shelf.store().clone();
        let name = self.digest.torrent_name();
        blocking(move || store.commit(&name)).await?;
        self.state.send_replace(State::Stored);
        Ok(())
    }

    /// Hashes the prefix as it grows, from the page cache it was just written to.
    async fn hash(&self) -> Result<Digest, Failure> {
        let mut prefix = self.prefix.subscribe();
        let mut hashed = (self.digest.verifier(), vec![0; HASH_BUFFER]);
        let mut at = 0;
        while at < self.length {
            let Ok(grown) = prefix
                .wait_for(|&grown| grown > at)
                .await
                .map(|grown| *grown)
            else {
                return Err(Failure::Stopping);
            };
            let to = grown.min(at + HASH_STEP);
            let content = self.content().clone();
            let (mut verifier, mut buffer) = hashed;
            hashed = blocking(move || {
                let mut from = at;
                while from < to {
                    let step = usize::try_from(to - from).unwrap_or(usize::MAX);
                    let part = &mut buffer[..step.min(HASH_BUFFER)];
                    content.read_at(from, part)?;
                    verifier.update(part);
                    from += part.len() as u64;
                }
                Ok::<_, io::Error>((verifier, buffer))
            })
            .await?;
            at = to;
        }
        Ok(hashed.0.finish())
    }

    /// Counts, and looks for stalls, until there is no hope and nobody who hopes.
    async fn watch(&self, around: &Surroundings) -> Failure {
        let stall = around.patience.stall;
        let period = TICK.min(stall / 4);
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        let mut moved = 0;
        let mut quiet = Quiet::default();
        loop {
            let now = ticks.tick().await;
            // A host that was asleep was not waiting.
            let step = now.duration_since(last).min(period * 2);
            last = now;
            // Without a reader at the front nobody else tells how far it is verified.
            let prefix = *self.prefix.borrow();
            self.saw_verified(0, verified_prefix(&self.torrent, prefix));
            let sum = self.take_stock(around);
            if sum != moved || !matches!(*self.state.borrow(), State::Running | State::Stalled(_)) {
                moved = sum;
                quiet = Quiet::default();
                self.resume();
                continue;
            }
            match quiet.pass(step, self.unread(), stall, around.patience.trouble) {
                Quietly::Wait => {}
                Quietly::Hope => self.resume(),
                Quietly::Cut => {
                    if self.cut_readers(quiet.hoping, around).await {
                        quiet.cut = Some(Duration::ZERO);
                    }
                }
                Quietly::GiveUp => return Failure::Abandoned,
            }
        }
    }

    /// Cuts the readers, unless connected peers may still deliver.
    async fn cut_readers(&self, quiet: Duration, around: &Surroundings) -> bool {
        let status = self.torrent.status().await;
        let connected = status
            .as_ref()
            .is_some_and(|status| !status.peers.is_empty());
        if connected && quiet < around.patience.stall * STALLS_CONNECTED {
            return false;
        }
        let why = status.as_ref().map(why_it_waits).unwrap_or_default();
        let message = format!(
            "{} is waiting: no peer and no web seed sent a byte for {} s{why}. \
             The download goes on; try again",
            self.digest,
            quiet.as_secs()
        );
        tracing::warn!(digest = %self.digest, "{message}");
        around.metrics.stalls.inc();
        self.record.note(Some(&message));
        let error = RegistryError::new(ErrorCode::Unavailable, message);
        self.state.send_if_modified(|state| {
            let running = matches!(state, State::Running);
            if running {
                *state = State::Stalled(error);
            }
            running
        });
        true
    }

    /// What the engine says of it, for the end of a sentence.
    pub(crate) async fn why_it_waits(&self) -> String {
        let status = self.torrent.status().await;
        status.as_ref().map(why_it_waits).unwrap_or_default()
    }

    fn resume(&self) {
        let resumed = self.state.send_if_modified(|state| {
            let stalled = matches!(state, State::Stalled(_));
            if stalled {
                *state = State::Running;
            }
            stalled
        });
        if resumed {
            self.record.note(None);
        }
    }

    /// Reads the engine's counters into the record; returns a number that changes when
    /// anything arrived.
    pub(crate) fn take_stock(&self, around: &Surroundings) -> u64 {
        let verified = self.verified_bytes();
        let origins = around.herds.peers();
        let transfer = || self.torrent.transfer();
        let arrived = self
            .record
            .transferred(transfer, verified, &origins, &around.metrics);
        verified + arrived
    }

    fn verified_bytes(&self) -> u64 {
        self.torrent.progress().borrow().verified
    }

    fn unread(&self) -> bool {
        self.readers.load(Ordering::Relaxed) == 0
    }
}

/// For how long nothing moved.
#[derive(Debug, Default)]
struct Quiet {
    /// In all.
    all: Duration,
    /// While somebody read.
    hoping: Duration,
    /// Since the readers were cut.
    cut: Option<Duration>,
}

/// What to do about a quiet download.
#[derive(Debug, PartialEq, Eq)]
enum Quietly {
    Wait,
    /// Readers are welcome again, for as long as the first were.
    Hope,
    Cut,
    GiveUp,
}

impl Quiet {
    /// Another `step` went by in which nothing came.
    fn pass(
        &mut self,
        step: Duration,
        unread: bool,
        stall: Duration,
        trouble: Duration,
    ) -> Quietly {
        self.all += step;
        if unread && self.all > stall * STALLS_UNREAD {
            return Quietly::GiveUp;
        }
        if let Some(cut) = &mut self.cut {
            *cut += step;
            if *cut <= trouble {
                return Quietly::Wait;
            }
            self.cut = None;
            self.hoping = Duration::ZERO;
            return Quietly::Hope;
        }
        self.hoping = if unread {
            Duration::ZERO
        } else {
            self.hoping + step
        };
        if self.hoping < stall {
            return Quietly::Wait;
        }
        Quietly::Cut
    }
}

/// A reader of a download.
#[derive(Debug)]
pub(crate) struct Reading(Arc<Fetch>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All that the engine knows of it: that no peer is connected hides that those who were sent bytes
/// that were wrong.
fn why_it_waits(status: &TorrentStatus) -> String {
    let note = status.note.iter().map(|note| format!(": {note}"));
    let wasted = Some(status.transfer.wasted).filter(|wasted| *wasted > 0);
    let wasted = wasted
        .map(|bytes| format!("; {bytes} bytes came and were thrown away, wrong or here already"));
    note.chain(wasted).collect()
}

/// Where the first gap is, everything before `from` being verified.
fn verified_prefix(torrent: &Torrent, from: u64) -> u64 {
    let geometry = torrent.info().geometry();
    let have = torrent.content().have();
    let first = geometry
        .piece_at(from)
        .map_or(geometry.pieces(), |piece| piece.get());
    let mut rest = (first..geometry.pieces()).filter_map(|index| geometry.piece(index));
    let gap = rest.find(|piece| !have.contains(*piece));
    gap.map_or(geometry.length(), |piece| geometry.piece_offset(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(1);
    const STALL: Duration = Duration::from_secs(5);
    const TROUBLE: Duration = Duration::from_secs(2);

    fn steps(quiet: &mut Quiet, unread: bool, until: &Quietly) -> u32 {
        for step in 1..1000 {
            if quiet.pass(STEP, unread, STALL, TROUBLE) == *until {
                return step;
            }
        }
        panic!("never {until:?}");
    }

    #[test]
    fn readers_are_cut_after_a_stall_and_hope_again_after_the_trouble() {
        let mut quiet = Quiet::default();
        assert_eq!(steps(&mut quiet, false, &Quietly::Cut), 5);
        quiet.cut = Some(Duration::ZERO);
        assert_eq!(steps(&mut quiet, false, &Quietly::Hope), 3);
        assert_eq!(steps(&mut quiet, false, &Quietly::Cut), 5);
    }

    #[test]
    fn a_reader_who_comes_late_waits_as_long_as_the_first() {
        let mut quiet = Quiet::default();
        for _ in 0..100 {
            assert_eq!(quiet.pass(STEP, true, STALL, TROUBLE), Quietly::Wait);
        }
        assert_eq!(steps(&mut quiet, false, &Quietly::Cut), 5);
    }

    #[test]
    fn what_nobody_reads_is_given_up_at_last() {
        let mut quiet = Quiet::default();
        let given_up = steps(&mut quiet, true, &Quietly::GiveUp);
        assert_eq!(given_up, 5 * STALLS_UNREAD + 1);
    }
}
