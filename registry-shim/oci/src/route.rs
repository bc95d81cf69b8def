//! `(method, path) → Route`, and back: one table for servers and clients.
//!
//! Repository names contain slashes, which no router pattern before a suffix can match; so
//! paths are parsed here.

use crate::digest::Digest;
use crate::error::RegistryError;
use crate::name::{Reference, RepoName};

/// A place below `/v2/`. The method is the caller's to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/v2/` and `/v2`.
    Base,
    /// `/v2/_catalog`.
    Catalog,
    /// `/v2/<name>/tags/list`.
    Tags(RepoName),
    /// `/v2/<name>/manifests/<reference>`.
    Manifest(RepoName, Reference),
    /// `/v2/<name>/blobs/<digest>`.
    Blob(RepoName, Digest),
    /// `/v2/<name>/blobs/uploads/`, with or without the last slash.
    Uploads(RepoName),
    /// `/v2/<name>/blobs/uploads/<id>`.
    Upload(RepoName, String),
    /// `/v2/<name>/referrers/<digest>`.
    Referrers(RepoName, Digest),
}

impl Route {
    /// Reads a path (percent-encoded as it came, no query). `Err` is the answer to give:
    /// NAME_INVALID, DIGEST_INVALID, TAG_INVALID, or a plain 404 outside the table.
    pub fn parse(path: &str) -> Result<Self, RegistryError> {
        let _ = path;
        todo!()
    }
    /// The path for a client.
    pub fn path(&self) -> String {
        todo!()
    }
}
