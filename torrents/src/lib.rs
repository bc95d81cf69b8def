//! BEP-3 without I/O.
//!
//! This room owns the protocol as pure functions and one pure state machine: metainfo, info
//! hash, geometry, bitfield, wire codec, handshakes, tracker messages (both ends), piece
//! hashing, and one swarm as `Event in → Action out`.
//!
//! Invariants: nothing here opens a socket, touches a file, spawns a task or reads a clock;
//! time and randomness are arguments; payload bytes never enter the swarm machine; nothing
//! here knows Docker. `clippy.toml` beside this crate enforces what a lint can.

pub mod announce;
pub mod bencode;
pub mod bitfield;
pub mod extended;
pub mod geometry;
pub mod handshake;
pub mod hashing;
pub mod id;
pub mod metainfo;
pub mod register;
pub mod sim;
pub mod swarm;
pub mod wire;

pub use bitfield::Bitfield;
pub use geometry::{BLOCK_LEN, Block, Geometry, PieceIndex};
pub use id::{InfoHash, PeerId};
pub use metainfo::{Info, Metainfo};
