//! Who may do what: the place to say no. The first policy is open.

use std::net::SocketAddr;

use crate::digest::Digest;
use crate::error::RegistryError;
use crate::name::RepoName;

/// Who asks.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// From where, when known.
    pub addr: Option<SocketAddr>,
    /// The `Authorization` header as sent; never logged.
    pub authorization: Option<String>,
}

/// What they want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Read manifests, blobs, tags, torrents.
    Pull,
    /// Upload blobs, put manifests.
    Push,
    /// Delete.
    Delete,
}

/// Asked before every registry, metainfo and store call.
pub trait Access: Send + Sync + 'static {
    /// `Err` is answered as it is (401 or 403). `digest` when one is asked for.
    fn check(
        &self,
        caller: &Caller,
        action: Action,
        repo: &RepoName,
        digest: Option<&Digest>,
    ) -> Result<(), RegistryError>;
}

/// Everybody may do everything.
#[derive(Debug, Default, Clone, Copy)]
pub struct OpenAccess;

impl Access for OpenAccess {
    fn check(
        &self,
        _: &Caller,
        _: Action,
        _: &RepoName,
        _: Option<&Digest>,
    ) -> Result<(), RegistryError> {
        Ok(())
    }
}
