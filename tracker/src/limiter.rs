//! How much one address may ask: announces in a window of time, and connections at once.
//!
//! Addresses share a fixed number of counters by a keyed hash, so that no flood of addresses
//! can grow memory, and counting takes one atomic step. Two addresses that meet in a counter
//! share a budget made for a crowd behind one address; nobody outside can tell which do.
//! An IPv6 host has a whole /64 of addresses and is counted as that.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::moment::Moment;

/// Counters of each kind, as many as two bytes can name: 768 KiB in all.
const COUNTERS: usize = 1 << u16::BITS;

/// The window in which announces are counted.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);

/// Counters over addresses.
#[derive(Debug)]
pub(crate) struct Limiter {
    hasher: RandomState,
    /// The window's number in the upper half, announces in it in the lower.
    announces: Box<[AtomicU64]>,
    connections: Box<[AtomicU32]>,
    announces_most: u32,
    connections_most: u32,
}

impl Limiter {
    pub(crate) fn new(announces_most: u32, connections_most: u32) -> Self {
        Self {
            hasher: RandomState::new(),
            announces: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect(),
            connections: (0..COUNTERS).map(|_| AtomicU32::new(0)).collect(),
            announces_most,
            connections_most,
        }
    }

    /// Counts an announce; false when the address has had its share of this window.
    pub(crate) fn announce(&self, now: Moment, ip: IpAddr) -> bool {
        let window = now.since(Moment::default()).as_secs() / WINDOW.as_secs();
        let counter = &self.announces[self.counter(ip)];
        let counted = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |value| {
            let (of, count) = (value >> 32, value & u64::from(u32::MAX));
            let count = if of == window { count } else { 0 };
            (count < self.announces_most.into()).then_some(window << 32 | (count + 1))
        });
        counted.is_ok()
    }

    /// Counts a connection until `disconnect`; false when the address has its fill, and then
    /// nothing is to be undone.
    pub(crate) fn connect(&self, ip: IpAddr) -> bool {
        let counter = &self.connections[self.counter(ip)];
        let most = self.connections_most;
        let admit = |count: u32| (count < most).then_some(count + 1);
        let counted = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, admit);
        counted.is_ok()
    }

    pub(crate) fn disconnect(&self, ip: IpAddr) {
        self.connections[self.counter(ip)].fetch_sub(1, Ordering::Relaxed);
    }

    fn counter(&self, ip: IpAddr) -> usize {
        let bits = match ip {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
        };
        let [high, low, ..] = self.hasher.hash_one((ip.is_ipv4(), bits)).to_be_bytes();
        usize::from(u16::from_be_bytes([high, low]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    #[test]
    fn an_address_has_its_share_of_each_window() {
        let limiter = Limiter::new(3, 1);
        let taken = |seconds, text: &str| limiter.announce(at(seconds), ip(text));
        for _ in 0..3 {
            assert!(taken(1, "192.0.2.1"));
        }
        assert!(!taken(9, "192.0.2.1"));
        assert!(taken(10, "192.0.2.1"), "the next window");
        // Hosts of one IPv6 network share, as one host may use them all.
        for n in 0..3 {
            assert!(taken(1, &format!("2001:db8::{n}")));
        }
        assert!(!taken(1, "2001:db8::ffff:1"));
    }

    #[test]
    fn connections_come_back_when_they_end() {
        let limiter = Limiter::new(1, 2);
        let address = ip("192.0.2.1");
        assert!(limiter.connect(address) && limiter.connect(address));
        assert!(!limiter.connect(address));
        limiter.disconnect(address);
        assert!(limiter.connect(address));
        assert!(!limiter.connect(address));
    }

    #[test]
    fn addresses_are_spread_over_the_counters() {
        let limiter = Limiter::new(1, 1);
        let mut refused = 0;
        for n in 0..1_000_u32 {
            let address = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            refused += u32::from(!limiter.announce(at(1), address));
        }
        // About 8 collisions expected.
        assert!(refused < 60, "{refused}");
    }
}
