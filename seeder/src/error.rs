//! Why an origin does not start, in sentences a person can act on.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why an origin does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OriginError {
    /// A port is taken, or the address is not ours.
    #[error(
        "cannot listen on {addr} for the {what}: {source}\nhint: {}",
        bind_hint(source)
    )]
    Bind {
        /// Which of the ports.
        what: &'static str,
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(
        "cannot use the data directory {}: {source}\nhint: give --data a directory this user may write, on a disk with room",
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
    #[error("cannot start the peer: {0}")]
    Engine(#[from] leecher::EngineError),
    /// The HTTP client that registers did not start.
    #[error("cannot make the client that registers with trackers: {0}")]
    Client(#[from] reqwest::Error),
}

fn bind_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process has that port; stop it, or choose another",
        io::ErrorKind::AddrNotAvailable => "that address is not one of this host's",
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege; choose a higher one",
        _ => "choose another address or port",
    }
}
