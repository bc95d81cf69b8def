//! The local store as an agent uses it: what is here, who reads it, what must go.
//!
//! Invariants: content that is being read is never evicted; content that was evicted is not
//! begun again before the engine has let go of it (its live torrent would write into a file
//! that is gone). A name's begin, put and eviction therefore take turns.

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
use torrents::{Info, InfoHash};

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
    /// Held while room is made: two that need room must not count the same bytes.
    room: tokio::sync::Mutex<()>,
}

/// The exclusive right to begin, put or evict one name.
pub(crate) type Turn = OwnedMutexGuard<()>;

/// Keeps content from being evicted while it lives.
#[derive(Debug)]
pub(crate) struct Pin {
    shelf: Arc<Shelf>,
    name: String,
}

/// What downloads under way have promised themselves.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Promised {
    /// Bytes they will take in all.
    pub(crate) length: u64,
    /// Bytes of these that are not on the disk yet.
    pub(crate) unwritten: u64,
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
            room: tokio::sync::Mutex::new(()),
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

    /// Evicts what was used longest ago until `need` more bytes fit under the capacity and on
    /// the disk. `Err` when the disk stays too full; content larger than the capacity is
    /// still taken, and goes when nobody reads it any more.
    pub(crate) async fn make_room(
        &self,
        need: u64,
        promised: Promised,
        spare: &str,
    ) -> Result<(), RegistryError> {
        let _room = self.room.lock().await;
        if let Some(capacity) = self.capacity {
            let keep = capacity.saturating_sub(promised.length.saturating_add(need));
            if self.store.used() > keep {
                self.drop_leftovers(spare).await;
                self.evict_down_to(keep, spare).await;
            }
        }
        if need == 0 {
            return Ok(());
        }
        let wanted = need.saturating_add(promised.unwritten);
        let missing = |disk: &Disk| {
            let all = wanted.saturating_add(disk.reserve);
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
                "the disk under {} is full: {wanted} bytes are needed and {} stay free, \
                 but only {} are left and nothing more can be evicted. Free some space, \
                 or give the agent another --data directory",
                self.dir.display(),
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

    fn suspects(&self) -> MutexGuard<'_, HashSet<String>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pins(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
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

    use super::*;

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
