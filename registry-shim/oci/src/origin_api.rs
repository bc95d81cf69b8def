//! The origin's own API on port 15002, as servers and clients spell it.
//!
//! - `GET /torrents/<digest>?repo=<name>`: 200 the `.torrent`, with [`PEER_HEADER`]; 202 with
//!   [`LENGTH_HEADER`] while the origin is still fetching the blob itself; 403; 404.
//! - `GET /blobs/<digest>`: the web seed, with ranges; also a growing blob.
//! - `GET /blobs/<digest>?head-start`: the same, for the first bytes of a download that begins;
//!   429 soon while too many have theirs.

use crate::digest::Digest;
use crate::name::RepoName;

/// Where the origin's peer listens (`ip:port`, comma separated when several).
pub const PEER_HEADER: &str = "swell-peer";
/// The blob's length, on 202.
pub const LENGTH_HEADER: &str = "swell-length";

/// The path and query of a `.torrent`.
pub fn torrent_path(digest: &Digest, repo: &RepoName) -> String {
    format!("/torrents/{digest}?repo={repo}")
}
/// The path of a web seed: no query, since some clients refuse one.
pub fn blob_path(digest: &Digest) -> String {
    format!("/blobs/{digest}")
}
/// What marks a head start among the requests for a web seed.
pub const HEAD_START: &str = "head-start";

/// The path and query of a head start.
pub fn head_start_path(digest: &Digest) -> String {
    format!("{}?{HEAD_START}", blob_path(digest))
}
