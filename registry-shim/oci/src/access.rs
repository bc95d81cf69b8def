//! Who may do what: the place to say no. The first policy is open.
//!
//! Asked before any side effect, so that a refused push leaves no trace, not even the name of
//! its repository.

use std::fmt;
use std::net::SocketAddr;

use crate::digest::Digest;
use crate::error::RegistryError;
use crate::name::RepoName;

/// Who asks.
#[derive(Clone, Default)]
pub struct Caller {
    /// From where, when known.
    pub addr: Option<SocketAddr>,
    /// The `Authorization` header as sent; never logged.
    pub authorization: Option<String>,
}

/// Says whether there are credentials, never which.
impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("addr", &self.addr)
            .field("authorized", &self.authorization.is_some())
            .finish()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_never_printed() {
        let caller = Caller {
            addr: None,
            authorization: Some("Basic c2VjcmV0".to_owned()),
        };
        assert!(!format!("{caller:?}").contains("c2VjcmV0"));
    }
}
