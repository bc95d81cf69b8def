//! The connections of the process: how many there may be, and whose.
//!
//! A torrent sees to its own places. But whoever asks for many torrents could take all that the
//! process has, and none of its downloads would reach anybody. So a quarter is kept for those we
//! dial, and once half of the others are taken, no address has more than an eighth of them.
//!
//! Invariant: a [`Place`] is counted from when it is given until it is dropped. Never waits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use torrents::swarm::site;

use crate::locked;

/// All places of a process.
#[derive(Debug)]
pub(crate) struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    all: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    dialled: usize,
    came: usize,
    /// Of those that came, by address.
    of: HashMap<IpAddr, usize>,
}

/// One connection's place.
#[derive(Debug)]
pub(crate) struct Place {
    shared: Arc<Shared>,
    /// Where it came from; nothing for one that we dialled.
    from: Option<IpAddr>,
}

impl Places {
    pub(crate) fn new(all: usize) -> Self {
        let taken = Mutex::default();
        Self(Arc::new(Shared { all, taken }))
    }

    /// For a peer that we dial.
    pub(crate) fn dial(&self) -> Option<Place> {
        let mut taken = locked(&self.0.taken);
        if taken.dialled + taken.came >= self.0.all {
            return None;
        }
        taken.dialled += 1;
        Some(self.place(None))
    }

    /// For a peer that came from there.
    pub(crate) fn receive(&self, ip: IpAddr) -> Option<Place> {
        let (all, from) = (self.0.all, site(ip));
        let mut taken = locked(&self.0.taken);
        let room = (all - all / 4).min(all.saturating_sub(taken.dialled));
        let own = taken.of.get(&from).copied().unwrap_or_default();
        let crowds = taken.came >= room / 2 && own >= (room / 8).max(1);
        if taken.came >= room || crowds {
            return None;
        }
        taken.came += 1;
        *taken.of.entry(from).or_default() += 1;
        Some(self.place(Some(from)))
    }

    fn place(&self, from: Option<IpAddr>) -> Place {
        let shared = Arc::clone(&self.0);
        Place { shared, from }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = locked(&self.shared.taken);
        let Some(from) = self.from else {
            taken.dialled -= 1;
            return;
        };
        taken.came -= 1;
        if let Some(own) = taken.of.get_mut(&from) {
            *own -= 1;
            if *own == 0 {
                taken.of.remove(&from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn no_address_keeps_the_others_and_nobody_keeps_us_out() {
        let places = Places::new(64);
        let crowd: Vec<_> = std::iter::from_fn(|| places.receive(host(1))).collect();
        assert_eq!(crowd.len(), 24, "half of what those who come may have");
        let second: Vec<_> = std::iter::from_fn(|| places.receive(host(2))).collect();
        assert_eq!(second.len(), 6, "an eighth of it");
        let others: Vec<_> = (3..100).filter_map(|n| places.receive(host(n))).collect();
        assert_eq!(others.len(), 18, "one each, until all are taken");
        let dialled: Vec<_> = std::iter::from_fn(|| places.dial()).collect();
        assert_eq!(dialled.len(), 16, "the quarter that is kept");
        drop((crowd, second, others, dialled));
        let taken = locked(&places.0.taken);
        assert_eq!((taken.came, taken.dialled, taken.of.len()), (0, 0, 0));
    }

    #[test]
    fn a_host_has_a_whole_network_of_ipv6() {
        let places = Places::new(64);
        let hosts = (0..).map(|n: u128| IpAddr::V6((0x2001_0db8 << 96 | n).into()));
        let crowd: Vec<_> = hosts.map_while(|ip| places.receive(ip)).collect();
        assert_eq!(crowd.len(), 24);
    }

    #[test]
    fn what_we_dial_may_take_all() {
        let places = Places::new(8);
        let dialled: Vec<_> = std::iter::from_fn(|| places.dial()).collect();
        assert_eq!(dialled.len(), 8);
        assert!(places.receive(host(1)).is_none());
    }
}
