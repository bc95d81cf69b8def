//! Why an origin does not start, in sentences a person can act on.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use oci::serve::BindError;

use crate::store::OpenError;

/// Why an origin does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OriginError {
    /// A port is taken, or the address is not ours.
    #[error(
        "cannot listen on {} for the {what}: {}\nhint: {}",
        source.addr, source.why(), source.hint()
    )]
    Bind {
        /// Which of the ports.
        what: &'static str,
        /// Where, and why.
        source: BindError,
    },
    /// The data directory cannot be used.
    #[error(
        "cannot use {} in the data directory: {source}\nhint: give --data a directory this user may write, on a disk with room",
        path.display()
    )]
    Data {
        /// The directory, or what in it is in the way.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process owns it.
    #[error(
        "the data directory {} is in use by another process\nhint: stop the other origin, or give this one a --data of its own",
        path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// Peers could not be told where to dial.
    #[error(
        "the peer port listens on every address ({addr}), so there is none to announce\nhint: give --advertise the address other hosts reach this one at, or --peer-listen one address"
    )]
    NoAddress {
        /// What it listens on.
        addr: SocketAddr,
    },
    /// The peer side did not start.
    #[error(transparent)]
    Engine(#[from] leecher::EngineError),
    /// The HTTP client that registers did not start.
    #[error("cannot make the client that registers with trackers: {0}")]
    Client(#[from] reqwest::Error),
    /// The process is stopping.
    #[error("interrupted while starting")]
    Interrupted,
}

impl From<OpenError> for OriginError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Locked(path) => Self::Locked { path },
            OpenError::Io { path, source } => Self::Data { path, source },
        }
    }
}
