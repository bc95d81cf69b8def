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
pub mod limits;
pub mod store;
pub mod webseed;

pub use content::Content;
pub use engine::{
    Config, Download, DownloadError, Engine, EngineError, Gate, Library, OpenGate, PeerStatus,
    Phase, Progress, Reader, Seed, Torrent, TorrentError, TorrentStatus, Transfer,
};
pub use store::LocalStore;
