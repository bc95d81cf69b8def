//! `.torrent` files: parsed, built, composed (BEP 3, 12, 19, 27, 47).
//!
//! Owns the raw `info` bytes: the info hash is always taken over the bytes as they came,
//! never over a re-encoding.
//!
//! Invariants of an [`Info`]: the file spans cover the torrent without gaps and add up to its
//! length; every path component is safe to join to a directory and no two files collide; there
//! is one hash a piece. Keys may come in any order and unknown ones are kept in the raw bytes;
//! a key that we read may come only once, since two readers could see two torrents in it.
//! A hybrid of v1 and v2 (BEP 52) is read as its v1 half; a v2-only torrent is refused.

mod files;
mod info;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::bencode::{self, BencodeError, Limits, Value};
use crate::geometry::{Geometry, GeometryError, PieceIndex};
use crate::id::InfoHash;

pub use files::is_safe_component;

/// One piece's SHA-1.
pub type PieceHash = [u8; 20];

/// Largest `.torrent` or `info` read, in bytes: libtorrent's limit.
pub const MAX_METAINFO: usize = 10_000_000;

/// Most files in one torrent.
pub const MAX_FILES: usize = 100_000;

/// Most trackers and most web seeds kept; what follows them is ignored.
const MAX_URLS: usize = 100;

/// Longest URL kept.
const MAX_URL: usize = 2_048;

/// Longest comment kept, in characters.
const MAX_TEXT: usize = 1_024;

const LIMITS: Limits = Limits {
    depth: Limits::MAX_DEPTH,
    tokens: 3_000_000,
};

/// An `info` dictionary, checked. Cheap to clone.
#[derive(Clone)]
pub struct Info(Arc<Inner>);

struct Inner {
    raw: Bytes,
    hash: InfoHash,
    name: String,
    geometry: Geometry,
    private: bool,
    files: Vec<FileSpan>,
    /// A view into `raw`: the hashes are most of it, so they are not kept twice.
    pieces: Bytes,
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetainfoError {
    /// Over [`MAX_METAINFO`].
    #[error("it has {0} bytes, more than {MAX_METAINFO}")]
    TooLarge(usize),
    /// No bencode within the limits.
    #[error("it is no bencode: {0}")]
    Bencode(#[from] BencodeError),
    /// Something else than a dictionary.
    #[error("it is no dictionary")]
    NotDictionary,
    /// A key that must be there is not.
    #[error("it has no `{0}`")]
    Missing(&'static str),
    /// A key is there twice.
    #[error("it has `{0}` twice")]
    Twice(&'static str),
    /// A value of the wrong type or out of range.
    #[error("its `{0}` is not what BEP 3 says")]
    Malformed(&'static str),
    /// BEP-52 without the keys of BEP-3.
    #[error("it is a v2-only torrent (BEP 52), which needs v1 hashes too: make a hybrid or v1 one")]
    V2Only,
    /// `length` and `files` at once.
    #[error("it has both `length` and `files`")]
    LengthAndFiles,
    /// Lengths that make no torrent.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// Lengths that do not add up in 64 bits.
    #[error("the lengths of its files overflow")]
    LengthOverflow,
    /// Another number of hashes than of pieces.
    #[error("it has {got} bytes of piece hashes where {want} are due")]
    PieceHashes {
        /// Bytes of `pieces`.
        got: usize,
        /// 20 a piece.
        want: usize,
    },
    /// Over [`MAX_FILES`].
    #[error("it has more than {MAX_FILES} files")]
    TooManyFiles,
    /// A name that could leave the output directory or cannot be a file's.
    #[error("the name \"{}\" is not safe as a file name", .0.escape_debug())]
    UnsafeName(String),
    /// Two files at one path, or a file where another needs a directory.
    #[error("two of its files collide at \"{}\"", .0.escape_debug())]
    Collision(String),
}

impl Info {
    /// Parses the raw `info` dictionary, within the limits of libtorrent.
    pub fn parse(raw: Bytes) -> Result<Self, MetainfoError> {
        info::parse(raw).map(|inner| Self(Arc::new(inner)))
    }

    /// Builds our own form: `length, name, piece length, pieces, private: 1` and nothing else.
    ///
    /// Fails when `pieces.len()` is not `geometry.pieces()` or `name` is not a safe path
    /// component.
    pub fn build(
        name: &str,
        geometry: Geometry,
        pieces: &[PieceHash],
    ) -> Result<Self, MetainfoError> {
        info::build(name, geometry, pieces).map(|inner| Self(Arc::new(inner)))
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
        self.0.pieces.as_chunks().0
    }

    /// The hash of that piece.
    pub fn piece_hash(&self, piece: PieceIndex) -> &PieceHash {
        &self.pieces()[piece.at()]
    }
}

impl PartialEq for Info {
    fn eq(&self, other: &Self) -> bool {
        self.0.raw == other.0.raw
    }
}

impl Eq for Info {}

impl fmt::Debug for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Info")
            .field("hash", &self.0.hash)
            .field("name", &self.0.name)
            .field("geometry", &self.0.geometry)
            .finish_non_exhaustive()
    }
}

impl Metainfo {
    /// An info with the trackers (by tier) and web seeds of today around it.
    pub fn compose(info: Info, trackers: Vec<Vec<String>>, url_list: Vec<String>) -> Self {
        Self {
            info,
            trackers,
            url_list,
            comment: None,
            created_by: None,
            creation_date: None,
        }
    }

    /// Parses a `.torrent` file.
    ///
    /// Only `info` must be right; what is around it is kept as far as it is usable.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetainfoError> {
        if bytes.len() > MAX_METAINFO {
            return Err(MetainfoError::TooLarge(bytes.len()));
        }
        // A line break after its end, and whatever else tools leave there, is no part of it.
        let (file, _) = Value::parse_prefix(bytes, LIMITS)?;
        let entries = file.entries().ok_or(MetainfoError::NotDictionary)?;
        let mut raw_info = None;
        let (mut announce, mut tiers) = (None, None);
        let (mut url_list, mut comment, mut created_by, mut creation_date) =
            (None, None, None, None);
        for (key, value) in entries {
            match key {
                b"info" if raw_info.is_some() => return Err(MetainfoError::Twice("info")),
                b"info" => raw_info = Some(value.raw()),
                b"announce" => announce = url(value),
                b"announce-list" => tiers = Some(announce_list(value)),
                b"url-list" => url_list = Some(url_list_of(value)),
                b"comment" => comment = text(value),
                b"created by" => created_by = text(value),
                b"creation date" => creation_date = value.as_int(),
                _ => {}
            }
        }
        let raw_info = raw_info.ok_or(MetainfoError::Missing("info"))?;
        Ok(Self {
            info: Info::parse(Bytes::copy_from_slice(raw_info))?,
            trackers: trackers(tiers.unwrap_or_default(), announce),
            url_list: url_list.unwrap_or_default(),
            comment,
            created_by,
            creation_date,
        })
    }

    /// The `.torrent` file, canonical, with the info bytes as they are.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.info.raw().len() + 512);
        out.push(b'd');
        let mut urls = self.trackers.iter().flatten();
        if let Some(first) = urls.next() {
            put_text(&mut out, "announce", first);
            if urls.next().is_some() {
                put_tiers(&mut out, &self.trackers);
            }
        }
        if let Some(comment) = &self.comment {
            put_text(&mut out, "comment", comment);
        }
        if let Some(created_by) = &self.created_by {
            put_text(&mut out, "created by", created_by);
        }
        if let Some(date) = self.creation_date {
            out.extend_from_slice(b"13:creation date");
            bencode::put_int(&mut out, date);
        }
        out.extend_from_slice(b"4:info");
        out.extend_from_slice(self.info.raw());
        match &self.url_list[..] {
            [] => {}
            [one] => put_text(&mut out, "url-list", one),
            several => {
                out.extend_from_slice(b"8:url-list");
                put_list(&mut out, several);
            }
        }
        out.push(b'e');
        out
    }
}

fn put_text(out: &mut Vec<u8>, key: &str, text: &str) {
    bencode::put_bytes(out, key.as_bytes());
    bencode::put_bytes(out, text.as_bytes());
}

fn put_list(out: &mut Vec<u8>, texts: &[String]) {
    out.push(b'l');
    for text in texts {
        bencode::put_bytes(out, text.as_bytes());
    }
    out.push(b'e');
}

fn put_tiers(out: &mut Vec<u8>, tiers: &[Vec<String>]) {
    out.extend_from_slice(b"13:announce-listl");
    for tier in tiers.iter().filter(|tier| !tier.is_empty()) {
        put_list(out, tier);
    }
    out.push(b'e');
}

/// BEP-12: where there is a list, the lone `announce` is ignored; but where only that one can be
/// asked over HTTP, it comes last.
fn trackers(mut tiers: Vec<Vec<String>>, announce: Option<String>) -> Vec<Vec<String>> {
    let over_http = |url: &String| url.starts_with("http://");
    let needed = |url: &String| {
        tiers.is_empty() || (over_http(url) && !tiers.iter().flatten().any(over_http))
    };
    if let Some(announce) = announce.filter(needed) {
        tiers.push(vec![announce]);
    }
    tiers
}

/// Tiers of trackers. A flat list, which some tools write, is tiers of one.
fn announce_list(value: Value<'_>) -> Vec<Vec<String>> {
    let mut left = MAX_URLS;
    let mut tiers = Vec::new();
    for tier in value.items().into_iter().flatten() {
        let urls: Vec<_> = match tier.items() {
            Some(urls) => urls.filter_map(url).take(left).collect(),
            None => url(tier).into_iter().take(left).collect(),
        };
        left -= urls.len();
        if !urls.is_empty() {
            tiers.push(urls);
        }
    }
    tiers
}

/// BEP-19: one string or a list of them.
fn url_list_of(value: Value<'_>) -> Vec<String> {
    match value.items() {
        Some(urls) => urls.filter_map(url).take(MAX_URLS).collect(),
        None => url(value).into_iter().collect(),
    }
}

/// A text that can be a URL; what scheme it has is for those who use it. Spaces, which file names
/// bring in, are escaped.
fn url(value: Value<'_>) -> Option<String> {
    let text = value.as_str()?.trim().replace(' ', "%20");
    let usable = (1..=MAX_URL).contains(&text.len())
        && !text.chars().any(|c| c.is_control() || c.is_whitespace());
    usable.then_some(text)
}

fn text(value: Value<'_>) -> Option<String> {
    let text = bencode::display_text(value.as_bytes()?, MAX_TEXT);
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests;
