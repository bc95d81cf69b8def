//! Where a peer listens, in the bytes BEP-23 and BEP-7 put on the wire: 6 for IPv4, 18 for IPv6.

use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// One address family; a swarm keeps a list for each.
pub(crate) trait Endpoint: Copy + Eq + Debug {
    /// `None` when the address is of the other family.
    fn of(addr: SocketAddr) -> Option<Self>;
    fn addr(&self) -> SocketAddr;
    /// Feeds the address without the port.
    fn hash_ip<H: Hasher>(&self, state: &mut H);
    fn hash_port<H: Hasher>(&self, state: &mut H);
    fn same_ip(&self, other: &Self) -> bool;
    /// Feeds what limits count as one address: an IPv6 host has a whole /64 of them.
    fn hash_host<H: Hasher>(&self, state: &mut H);
    fn same_host(&self, other: &Self) -> bool;
    fn is_loopback(&self) -> bool;
    fn put(&self, out: &mut Compact);
}

/// Peers as a compact reply carries them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Compact {
    pub(crate) v4: Vec<[u8; 6]>,
    pub(crate) v6: Vec<[u8; 18]>,
}

impl Compact {
    pub(crate) fn clear(&mut self) {
        self.v4.clear();
        self.v6.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    pub(crate) fn push(&mut self, addr: SocketAddr) {
        match addr {
            SocketAddr::V4(addr) => V4::new(*addr.ip(), addr.port()).put(self),
            SocketAddr::V6(addr) => V6::new(*addr.ip(), addr.port()).put(self),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct V4([u8; 6]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct V6([u8; 18]);

impl V4 {
    fn new(ip: Ipv4Addr, port: u16) -> Self {
        let mut bytes = [0; 6];
        bytes[..4].copy_from_slice(&ip.octets());
        bytes[4..].copy_from_slice(&port.to_be_bytes());
        Self(bytes)
    }

    fn ip(self) -> Ipv4Addr {
        let [a, b, c, d, _, _] = self.0;
        Ipv4Addr::new(a, b, c, d)
    }
}

impl V6 {
    fn new(ip: Ipv6Addr, port: u16) -> Self {
        let mut bytes = [0; 18];
        bytes[..16].copy_from_slice(&ip.octets());
        bytes[16..].copy_from_slice(&port.to_be_bytes());
        Self(bytes)
    }

    fn ip(self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.0[..16]);
        Ipv6Addr::from(octets)
    }
}

impl Endpoint for V4 {
    fn of(addr: SocketAddr) -> Option<Self> {
        match addr {
            SocketAddr::V4(addr) => Some(Self::new(*addr.ip(), addr.port())),
            SocketAddr::V6(_) => None,
        }
    }
    fn addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip().into(), u16::from_be_bytes([self.0[4], self.0[5]]))
    }
    fn hash_ip<H: Hasher>(&self, state: &mut H) {
        self.0[..4].hash(state);
    }
    fn hash_port<H: Hasher>(&self, state: &mut H) {
        self.0[4..].hash(state);
    }
    fn same_ip(&self, other: &Self) -> bool {
        self.0[..4] == other.0[..4]
    }
    fn hash_host<H: Hasher>(&self, state: &mut H) {
        self.hash_ip(state);
    }
    fn same_host(&self, other: &Self) -> bool {
        self.same_ip(other)
    }
    fn is_loopback(&self) -> bool {
        self.0[0] == 127
    }
    fn put(&self, out: &mut Compact) {
        out.v4.push(self.0);
    }
}

impl Endpoint for V6 {
    fn of(addr: SocketAddr) -> Option<Self> {
        match addr {
            SocketAddr::V4(_) => None,
            SocketAddr::V6(addr) => Some(Self::new(*addr.ip(), addr.port())),
        }
    }
    fn addr(&self) -> SocketAddr {
        let port = u16::from_be_bytes([self.0[16], self.0[17]]);
        SocketAddr::new(self.ip().into(), port)
    }
    fn hash_ip<H: Hasher>(&self, state: &mut H) {
        self.0[..16].hash(state);
    }
    fn hash_port<H: Hasher>(&self, state: &mut H) {
        self.0[16..].hash(state);
    }
    fn same_ip(&self, other: &Self) -> bool {
        self.0[..16] == other.0[..16]
    }
    fn hash_host<H: Hasher>(&self, state: &mut H) {
        self.0[..8].hash(state);
    }
    fn same_host(&self, other: &Self) -> bool {
        self.0[..8] == other.0[..8]
    }
    fn is_loopback(&self) -> bool {
        self.ip().is_loopback()
    }
    fn put(&self, out: &mut Compact) {
        out.v6.push(self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn an_endpoint_reads_back() {
        for text in ["10.0.1.2:16001", "[2001:db8::7]:6881"] {
            let addr: SocketAddr = text.parse().unwrap();
            let back = match addr.ip() {
                IpAddr::V4(ip) => V4::new(ip, addr.port()).addr(),
                IpAddr::V6(ip) => V6::new(ip, addr.port()).addr(),
            };
            assert_eq!(back, addr);
        }
    }
}
