//! The BitTorrent engine: drives [`torrents`] over tokio, downloads and uploads, and keeps the
//! local content store.
//!
//! BEP-3 has no seeder protocol: a seed is a peer whose bitfield is full. So there is one
//! engine; an origin hands it complete files, an agent empty ones.
//!
//! Invariants: one task owns a torrent's machine, nothing locks per block; no byte is written
//! or shared before its piece's SHA-1 is right; every task has an owner that joins it; hashing
//! and blocking disk work run on blocking threads. This room knows no manifest, tag or layer:
//! content has opaque names.

pub mod announcer;
pub mod content;
pub mod engine;
pub mod http;
pub mod store;
pub mod webseed;

mod assembly;
mod blame;
mod board;
mod connection;
mod dial;
mod hashing;
mod head;
mod limits;
mod listen;
mod memory;
mod metadata;
mod niceness;
mod outbox;
mod peer_task;
mod places;
mod receive;
mod run;
mod slabs;
mod status;
mod torrent;
mod torrent_task;
mod upload;
mod utp;

pub use content::Content;
pub use engine::{
    Config, Download, DownloadError, Engine, EngineError, Gate, Library, OpenGate, PeerStatus,
    Phase, Progress, Rates, RatesChange, RatesReport, Reader, Seed, TooManyLimits, Torrent,
    TorrentError, TorrentRates, TorrentStatus, Transfer,
};
pub use store::LocalStore;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; after a panic elsewhere too, for what is behind our locks is changed in single steps.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
