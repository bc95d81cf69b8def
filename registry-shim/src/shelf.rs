//! The local store as an agent uses it: what is here, who reads it, what must go.
//!
//! Invariants: content that is being read is never evicted; content that was evicted is not
//! begun again before the engine has let go of it (its live torrent would write into a file
//! that is gone). A name's begin, put and eviction therefore take turns. Room is given once: what
//! was promised to one and is not on the disk yet, files being sparse, is nobody else's.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use leecher::content::Content;
use leecher::store::{StoreError, Stored};
use leecher::{Engine, Library, LocalStore};
use oci::{ErrorCode, RegistryError};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep};
use torrents::{Geometry, Info, InfoHash};

use crate::files::blocking;
use crate::metrics::Metrics;

/// Evictions under way at once.
const EVICT_AT_ONCE: usize = 32;
/// Left free for everything else that writes to the disk: a hundredth of it, at most this.
const RESERVE: u64 = 64 << 20;
/// What was evicted takes its place until the last who has it open closes it: a connection that
/// was being served, or a read under way.
const FREED_WITHIN: Duration = Duration::from_secs(2);
/// How often the disk is looked at meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// The engine's view of the store: it opens complete content when a peer asks for it.
#[derive(Debug)]
pub(crate) struct ShelfLibrary(pub(crate) LocalStore);

#[async_trait]
impl Library for ShelfLibrary {
    async fn open(&self, info_hash: InfoHash) -> Option<(Info, Arc<Content>)> {
        let stored = self.0.by_info_hash(info_hash)?;
        let store = self.0.clone();
        let path = stored.path.clone();
        let opened = blocking(move || {
            let info = store.info(&stored.name).map_err(io::Error::other)?;
            let info = info.ok_or(io::ErrorKind::NotFound)?;
            let content = Content::complete(&stored.path, &info).map_err(io::Error::other)?;
            Ok::<_, io::Error>((info, Arc::new(content)))
        });
        match opened.await {
            Ok(open) => Some(open),
            Err(error) => {
                tracing::warn!("cannot seed {info_hash}: {}: {error}", path.display());
                None
            }
        }
    }
}

/// The store, its readers and its limits.
#[derive(Debug)]
pub(crate) struct Shelf {
    store: LocalStore,
    engine: Engine,
    dir: PathBuf,
    capacity: Option<u64>,
    metrics: Arc<Metrics>,
    /// How many read each name.
    pins: Mutex<HashMap<String, usize>>,
    turns: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// Complete content that could not be read.
    suspects: Mutex<HashSet<String>>,
    /// Held from the look at what is free until it is claimed: two that need room must not count
    /// the same bytes.
    making_room: tokio::sync::Mutex<()>,
    claims: Mutex<Claims>,
}

/// What those who were given room will take.
#[derive(Debug, Default)]
struct Claims {
    next: u64,
    live: HashMap<u64, Claim>,
}

/// What somebody wants to store.
#[derive(Debug)]
pub(crate) enum Claim {
    /// A file, written at once.
    File(u64),
    /// Partial content, whose missing pieces will come.
    Partial(Geometry, Arc<Content>),
}

/// Room for one claim, nobody else's while it lives. Given back by dropping it: once what it was
/// for is stored, or never will be.
#[derive(Debug)]
#[must_use = "room that is dropped is given to others"]
pub(crate) struct Room {
    shelf: Arc<Shelf>,
    claim: u64,
}

/// The exclusive right to begin, put or evict one name.
pub(crate) type Turn = OwnedMutexGuard<()>;

/// Keeps content from being evicted while it lives.
#[derive(Debug)]
pub(crate) struct Pin {
    shelf: Arc<Shelf>,
    name: String,
}

/// The file system the store is on.
#[derive(Debug, Clone, Copy)]
struct Disk {
    free: u64,
    reserve: u64,
}

impl Shelf {
    pub(crate) fn new(
        store: LocalStore,
        engine: Engine,
        dir: &Path,
        capacity: Option<u64>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            engine,
            dir: dir.to_owned(),
            capacity,
            metrics,
            pins: Mutex::new(HashMap::new()),
            turns: Mutex::new(HashMap::new()),
            suspects: Mutex::new(HashSet::new()),
            making_room: tokio::sync::Mutex::default(),
            claims: Mutex::default(),
        })
    }

    pub(crate) fn store(&self) -> &LocalStore {
        &self.store
    }

    pub(crate) fn capacity(&self) -> Option<u64> {
        self.capacity
    }

    /// Complete content, protected from eviction until the pin is dropped.
    pub(crate) fn find(self: &Arc<Self>, name: &str) -> Option<(Stored, Pin)> {
        // Pinned first: an eviction that decided before leaves nothing to find.
        let pin = self.pin(name);
        let stored = self.store.get(name)?;
        Some((stored, pin))
    }

    /// Protects a name, whether it is complete yet or not.
    pub(crate) fn pin(self: &Arc<Self>, name: &str) -> Pin {
        *self.pins().entry(name.to_owned()).or_default() += 1;
        Pin {
            shelf: self.clone(),
            name: name.to_owned(),
        }
    }

    /// The bytes of small complete content.
    pub(crate) async fn read(
        self: &Arc<Self>,
        name: &str,
        limit: u64,
    ) -> io::Result<Option<Bytes>> {
        let Some((stored, pin)) = self.find(name) else {
            return Ok(None);
        };
        if stored.length > limit {
            return Err(io::Error::other(format!(
                "{} is larger than {limit} bytes",
                stored.path.display()
            )));
        }
        let read = blocking(move || std::fs::read(stored.path)).await;
        drop(pin);
        match read {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits for the exclusive right to change what is stored under a name.
    pub(crate) async fn turn(&self, name: &str) -> Turn {
        self.turns_of(name).lock_owned().await
    }

    /// The same right, unless somebody has it.
    fn free_turn(&self, name: &str) -> Option<Turn> {
        self.turns_of(name).try_lock_owned().ok()
    }

    fn turns_of(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.len() > 64 {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let known = turns.get(name).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let fresh = Arc::default();
            turns.insert(name.to_owned(), Arc::downgrade(&fresh));
            fresh
        })
    }

    /// Removes a name for good: the engine lets go of it first. The caller holds its turn.
    pub(crate) async fn discard(
        &self,
        name: &str,
        info_hash: Option<InfoHash>,
        _turn: &Turn,
    ) -> Result<(), StoreError> {
        if let Some(info_hash) = info_hash {
            self.engine.forget(info_hash).await;
        }
        let store = self.store.clone();
        let removed = name.to_owned();
        blocking(move || store.remove(&removed)).await?;
        self.suspects().remove(name);
        Ok(())
    }

    /// Whether the content failed to be read since it was stored.
    pub(crate) fn is_suspect(&self, name: &str) -> bool {
        self.suspects().contains(name)
    }

    /// Evicts what was used longest ago until a claim fits under the capacity and on the disk,
    /// beside everything that others claimed. `Err` when the disk stays too full; content larger
    /// than the capacity is still taken, and goes when nobody reads it any more.
    pub(crate) async fn make_room(
        self: &Arc<Self>,
        claim: Claim,
        spare: &str,
    ) -> Result<Room, RegistryError> {
        let _one = self.making_room.lock().await;
        self.keep_within_capacity(claim.length(), spare).await;
        let need = claim.unwritten();
        if need > 0 {
            self.free_on_disk(need, spare).await?;
        }
        let mut claims = self.claims();
        claims.next += 1;
        let number = claims.next;
        claims.live.insert(number, claim);
        Ok(Room {
            shelf: self.clone(),
            claim: number,
        })
    }

    /// Evicts what exceeds the capacity.
    pub(crate) async fn trim(&self) {
        let _one = self.making_room.lock().await;
        self.keep_within_capacity(0, "").await;
    }

    /// `more` bytes are to be stored.
    async fn keep_within_capacity(&self, more: u64, spare: &str) {
        let Some(capacity) = self.capacity else {
            return;
        };
        let claimed = self.claimed(Claim::length);
        let keep = capacity.saturating_sub(claimed.saturating_add(more));
        if self.store.used() > keep {
            self.drop_leftovers(spare).await;
            self.evict_down_to(keep, spare).await;
        }
    }

    /// `more` bytes are to be written.
    async fn free_on_disk(&self, more: u64, spare: &str) -> Result<(), RegistryError> {
        // Claims only become smaller meanwhile, since no other is made.
        let wanted = || more.saturating_add(self.claimed(Claim::unwritten));
        let missing = |disk: &Disk| {
            let all = wanted().saturating_add(disk.reserve);
            all.saturating_sub(disk.free)
        };
        if missing(&self.disk().await?) == 0 {
            return Ok(());
        }
        self.drop_leftovers(spare).await;
        let short = missing(&self.disk().await?);
        // Where everything there is would not be enough, nothing is lost in vain.
        let evicted = match self.store.used().checked_sub(short) {
            Some(keep) => self.evict_down_to(keep, spare).await,
            None => false,
        };
        let patience = if evicted {
            FREED_WITHIN
        } else {
            Duration::ZERO
        };
        let disk = once_free(patience, missing, || self.disk()).await?;
        if missing(&disk) == 0 {
            return Ok(());
        }
        Err(RegistryError::new(
            ErrorCode::Unavailable,
            format!(
                "the disk under {} is full: {} bytes are needed and {} stay free, \
                 but only {} are left and nothing more can be evicted. Free some space, \
                 or give the agent another --data directory",
                self.dir.display(),
                wanted(),
                disk.reserve,
                disk.free
            ),
        ))
    }

    /// Removes interrupted downloads that nobody asked for since.
    async fn drop_leftovers(&self, spare: &str) {
        for name in self.store.partial() {
            let Some(turn) = self.free_turn(&name) else {
                continue;
            };
            if name == spare || self.pins().contains_key(&name) {
                continue;
            }
            match self.discard(&name, None, &turn).await {
                Ok(()) => tracing::info!(name, "dropped an interrupted download to make room"),
                Err(error) => tracing::warn!("cannot drop an interrupted download: {error}"),
            }
        }
    }

    /// Returns whether anything went.
    async fn evict_down_to(&self, keep: u64, spare: &str) -> bool {
        // Side by side: each may wait for a tracker that does not answer.
        let going = self.store.over(keep);
        let gone = &AtomicBool::new(false);
        stream::iter(going.iter().filter(|stored| stored.name != spare))
            .for_each_concurrent(EVICT_AT_ONCE, |stored| async move {
                gone.fetch_or(self.evict(stored).await, Ordering::Relaxed);
            })
            .await;
        gone.load(Ordering::Relaxed)
    }

    async fn evict(&self, stored: &Stored) -> bool {
        // Who has the turn may wait for the very room that is being made here; and what
        // somebody works on is not what was used longest ago.
        let Some(turn) = self.free_turn(&stored.name) else {
            return false;
        };
        // A reader that pins after this look finds nothing, or an open file that stays.
        if self.pins().contains_key(&stored.name) {
            return false;
        }
        match self.discard(&stored.name, stored.info_hash, &turn).await {
            Ok(()) => {
                self.metrics.evictions.inc();
                tracing::info!(name = stored.name, bytes = stored.length, "evicted");
                true
            }
            Err(error) => {
                tracing::warn!("cannot evict: {error}");
                false
            }
        }
    }

    async fn disk(&self) -> Result<Disk, RegistryError> {
        let dir = self.dir.clone();
        let stat = blocking(move || rustix::fs::statvfs(&dir)).await;
        stat.map(|stat| Disk {
            // Some network and overlay file systems do not know their size.
            free: match stat.f_blocks {
                0 => u64::MAX,
                _ => stat.f_bavail.saturating_mul(stat.f_frsize),
            },
            reserve: RESERVE.min(stat.f_blocks.saturating_mul(stat.f_frsize) / 100),
        })
        .map_err(|error| {
            let path = self.dir.display();
            let why = io::Error::from(error);
            RegistryError::new(ErrorCode::Unavailable, format!("{path}: {why}"))
        })
    }

    /// The sum over all claims.
    fn claimed(&self, part: impl Fn(&Claim) -> u64) -> u64 {
        let claims = self.claims();
        let parts = claims.live.values().map(part);
        parts.fold(0, u64::saturating_add)
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn suspects(&self) -> MutexGuard<'_, HashSet<String>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pins(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Bytes it takes in all.
    fn length(&self) -> u64 {
        match self {
            Self::File(length) => *length,
            Self::Partial(geometry, _) => geometry.length(),
        }
    }

    /// Bytes of it that are not on the disk yet.
    fn unwritten(&self) -> u64 {
        match self {
            Self::File(length) => *length,
            Self::Partial(geometry, content) => {
                let have = content.have();
                let pieces = geometry.all_pieces();
                let missing = pieces.filter(|piece| !have.contains(*piece));
                missing
                    .map(|piece| u64::from(geometry.piece_size(piece)))
                    .sum()
            }
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shelf.claims().live.remove(&self.claim);
    }
}

impl Pin {
    /// The content could not be read: the next who wants it shall fetch it again.
    pub(crate) fn suspect(&self) {
        self.shelf.suspects().insert(self.name.clone());
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.shelf.pins();
        if let Some(count) = pins.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.name);
            }
        }
    }
}

/// Looks at the disk until nothing is missing on it or patience ends.
async fn once_free<F>(
    patience: Duration,
    missing: impl Fn(&Disk) -> u64,
    look: impl Fn() -> F,
) -> Result<Disk, RegistryError>
where
    F: Future<Output = Result<Disk, RegistryError>>,
{
    let deadline = Instant::now() + patience;
    loop {
        let disk = look().await?;
        if missing(&disk) == 0 || Instant::now() >= deadline {
            return Ok(disk);
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// A store's refusal, for people: it says where, and what helps when the disk is full.
pub(crate) fn refusal(error: &StoreError) -> RegistryError {
    RegistryError::new(ErrorCode::Unavailable, explained(&error.to_string()))
}

/// Adds what helps to a sentence about a failing disk.
pub(crate) fn explained(why: &str) -> String {
    if why.contains("No space left") || why.contains("os error 28") {
        format!("{why}. Free some space, or give the agent another --data directory")
    } else {
        why.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::SocketAddr;

    use leecher::OpenGate;
    use torrents::hashing::{piece_hash, piece_len_for};

    use super::*;

    async fn shelf(dir: &Path, capacity: Option<u64>) -> Arc<Shelf> {
        let store = LocalStore::open(&dir.join("content")).unwrap();
        let config = leecher::Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..leecher::Config::default()
        };
        let library = Arc::new(ShelfLibrary(store.clone()));
        let engine = Engine::start(config, library, Arc::new(OpenGate));
        let engine = engine.await.unwrap();
        Shelf::new(store, engine, dir, capacity, Arc::new(Metrics::new()))
    }

    #[tokio::test]
    async fn two_who_ask_at_once_are_not_given_the_same_room() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = shelf(dir.path(), None).await;
        // Each fits, both do not, whatever else happens on this disk meanwhile.
        let most = || async { Claim::File(shelf.disk().await.unwrap().free / 10 * 7) };
        let (one, other) = tokio::join!(most(), most());
        let (one, other) = tokio::join!(shelf.make_room(one, ""), shelf.make_room(other, ""));
        let refused = other.unwrap_err();
        assert!(refused.message.contains("is full"), "{}", refused.message);
        let one = one.unwrap();
        let refused = shelf.make_room(most().await, "").await;
        assert!(refused.is_err(), "the room was given twice");
        drop(one);
        drop(shelf.make_room(most().await, "").await.unwrap());
    }

    #[tokio::test]
    async fn two_who_ask_at_once_both_count_against_the_capacity() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = shelf(dir.path(), Some(300)).await;
        for name in ["a", "b", "c"] {
            shelf.store().put(name, &[1; 100], None).unwrap();
        }
        let claim = || Claim::File(100);
        let rooms = tokio::join!(shelf.make_room(claim(), ""), shelf.make_room(claim(), ""));
        assert_eq!(shelf.store().used(), 100);
        drop(rooms);
        shelf.trim().await;
        assert_eq!(shelf.store().used(), 100);
    }

    #[tokio::test]
    async fn partial_content_claims_what_it_lacks_and_counts_whole() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = shelf(dir.path(), None).await;
        let bytes = vec![7; 300 << 10];
        let length = bytes.len() as u64;
        let geometry = Geometry::new(length, u64::from(piece_len_for(length))).unwrap();
        let pieces = bytes.chunks(geometry.piece_len() as usize);
        let pieces: Vec<_> = pieces.map(|piece| piece_hash(&[piece])).collect();
        let info = Info::build("partial", geometry, &pieces).unwrap();
        let content = shelf.store().begin("partial", &info).unwrap();
        let claim = Claim::Partial(geometry, content.clone());
        assert_eq!((claim.length(), claim.unwritten()), (length, length));
        let first = geometry.piece(0).unwrap();
        content.record(first);
        let rest = length - u64::from(geometry.piece_size(first));
        assert_eq!((claim.length(), claim.unwritten()), (length, rest));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_evicted_is_waited_for_and_what_was_not_is_not() {
        let started = Instant::now();
        let missing = |disk: &Disk| 100u64.saturating_sub(disk.free);
        let looks = Cell::new(0u32);
        let look = |freed_after: u32| {
            looks.set(looks.get() + 1);
            let free = if looks.get() > freed_after { 100 } else { 10 };
            async move { Ok(Disk { free, reserve: 0 }) }
        };
        let disk = once_free(FREED_WITHIN, missing, || look(3)).await.unwrap();
        assert_eq!((disk.free, looks.take()), (100, 4));
        assert_eq!(started.elapsed(), LOOK_AGAIN * 3);

        let disk = once_free(FREED_WITHIN, missing, || look(1000))
            .await
            .unwrap();
        assert_eq!(disk.free, 10);
        assert_eq!(started.elapsed(), LOOK_AGAIN * 3 + FREED_WITHIN);

        looks.set(0);
        once_free(Duration::ZERO, missing, || look(1000))
            .await
            .unwrap();
        assert_eq!(looks.get(), 1);
    }
}
