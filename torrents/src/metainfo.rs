//! `.torrent` files: parsed, built, composed (BEP 3, 12, 19, 27, 47).
//!
//! Owns the raw `info` bytes: the info hash is always taken over the bytes as they came,
//! never over a re-encoding.

use std::sync::Arc;

use bytes::Bytes;

use crate::geometry::Geometry;
use crate::id::InfoHash;

/// One piece's SHA-1.
pub type PieceHash = [u8; 20];

/// An `info` dictionary, checked. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Info(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    raw: Bytes,
    hash: InfoHash,
    name: String,
    geometry: Geometry,
    private: bool,
    files: Vec<FileSpan>,
    pieces: Vec<PieceHash>,
}

/// One file of a torrent. Our own torrents have exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpan {
    /// Safe path components below the output directory (the torrent's name comes first when
    /// there are several files).
    pub path: Vec<String>,
    /// Where it starts in the torrent's bytes.
    pub offset: u64,
    /// Its length; may be 0 in a torrent of several files.
    pub length: u64,
    /// A BEP-47 pad file: zeros that are never written.
    pub pad: bool,
}

/// A whole `.torrent`: the info and what is around it.
#[derive(Debug, Clone)]
pub struct Metainfo {
    /// What is hashed.
    pub info: Info,
    /// Trackers by tier (BEP-12); a lone `announce` is one tier of one.
    pub trackers: Vec<Vec<String>>,
    /// Web seeds (BEP-19).
    pub url_list: Vec<String>,
    /// For people.
    pub comment: Option<String>,
    /// For people.
    pub created_by: Option<String>,
    /// Seconds since 1970.
    pub creation_date: Option<i64>,
}

/// Why bytes are no usable metainfo.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetainfoError {}

impl Info {
    /// Parses the raw `info` dictionary, within the limits of libtorrent.
    pub fn parse(raw: Bytes) -> Result<Self, MetainfoError> {
        let _ = raw;
        todo!()
    }
    /// Builds our own form: `length, name, piece length, pieces, private: 1` and nothing else.
    ///
    /// `pieces.len()` must equal `geometry.pieces()`; `name` must be a safe path component.
    pub fn build(name: &str, geometry: Geometry, pieces: &[PieceHash]) -> Self {
        let _ = (name, geometry, pieces);
        todo!()
    }
    /// The raw bytes that are hashed.
    pub fn raw(&self) -> &Bytes {
        &self.0.raw
    }
    /// The swarm's name.
    pub fn hash(&self) -> InfoHash {
        self.0.hash
    }
    /// The suggested file or directory name, a safe path component.
    pub fn name(&self) -> &str {
        &self.0.name
    }
    /// Lengths.
    pub fn geometry(&self) -> &Geometry {
        &self.0.geometry
    }
    /// BEP-27.
    pub fn private(&self) -> bool {
        self.0.private
    }
    /// The files, in order, covering the torrent without gaps.
    pub fn files(&self) -> &[FileSpan] {
        &self.0.files
    }
    /// The hash of each piece.
    pub fn pieces(&self) -> &[PieceHash] {
        &self.0.pieces
    }
}

impl Metainfo {
    /// Parses a `.torrent` file.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetainfoError> {
        let _ = bytes;
        todo!()
    }
    /// The `.torrent` file, canonical, with the info bytes as they are.
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }
}
