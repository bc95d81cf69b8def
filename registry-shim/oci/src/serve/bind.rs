//! Listening sockets, with errors a person can act upon.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// Connections the kernel holds for us while we are busy: a fleet that pulls at once comes
/// within milliseconds. The kernel cuts this to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Why a port cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: {}; hint: {}", self.why(), self.hint())]
pub struct BindError {
    /// The address asked for.
    pub addr: SocketAddr,
    /// What the operating system said.
    pub source: io::Error,
}

impl BindError {
    /// What is wrong.
    pub fn why(&self) -> String {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => "address in use".to_owned(),
            io::ErrorKind::AddrNotAvailable => "this host has no such address".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => self.source.to_string(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        let port = self.addr.port();
        match self.source.kind() {
            io::ErrorKind::AddrInUse => {
                format!("stop the program that has port {port}, or choose another port")
            }
            io::ErrorKind::AddrNotAvailable => {
                "choose an address of this host (`ip address` lists them)".to_owned()
            }
            io::ErrorKind::PermissionDenied if port < 1024 => {
                "ports below 1024 need privileges; choose a port above".to_owned()
            }
            _ => "choose another address or port".to_owned(),
        }
    }
}

/// Listens on `addr`. Within a tokio runtime.
pub fn bind(addr: SocketAddr) -> Result<TcpListener, BindError> {
    let listen = || {
        let socket = match addr {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // A restart must not wait for the last process's connections to time out.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| BindError { addr, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_explained() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = first.local_addr().unwrap();
        let error = bind(addr).unwrap_err().to_string();
        let expected = format!("cannot listen on {addr}: address in use; hint: ");
        assert!(error.starts_with(&expected), "{error}");
    }

    #[tokio::test]
    async fn a_foreign_address_is_explained() {
        let error = bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert_eq!(error.why(), "this host has no such address");
    }
}
