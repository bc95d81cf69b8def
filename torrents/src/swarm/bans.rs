//! Who sent wrong bytes.
//!
//! A ban is by address *and* id: by address alone it would hit everybody behind a NAT, by id
//! alone it is shed by a restart. It ends, later each time: a bad copy may be repaired, and
//! may then be the only one there is. Peers that are gone are remembered for a while, because
//! the proof against them comes later. Invariant: both memories are bounded.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use super::{Now, PeerKey};
use crate::id::PeerId;

const MAX_BANS: usize = 4_096;
const MAX_GONE: usize = 1_024;
/// The first ban of a peer, doubled with each that follows, and the longest.
const FIRST_BAN: Now = Now::from_secs(10);
const LONGEST_BAN: Now = Now::from_secs(600);

/// How long whoever sent wrong bytes is left alone, who was so many times before.
pub fn ban_length(times: u32) -> Now {
    (FIRST_BAN * (1 << times.min(6))).min(LONGEST_BAN)
}

/// Who a peer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) addr: SocketAddr,
    pub(super) id: PeerId,
    /// Where it listens, if known.
    pub(super) listen: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy)]
struct Ban {
    until: Now,
    /// How many there were.
    times: u32,
}

/// The banned and the departed.
#[derive(Debug, Default)]
pub(super) struct Bans {
    banned: BTreeMap<(IpAddr, PeerId), Ban>,
    gone: BTreeMap<PeerKey, Identity>,
    gone_order: VecDeque<PeerKey>,
}

impl Bans {
    /// Until when this peer is not to be spoken to.
    pub(super) fn until(&self, addr: SocketAddr, id: PeerId, now: Now) -> Option<Now> {
        let ban = self.banned.get(&(addr.ip(), id))?;
        Some(ban.until).filter(|&until| until > now)
    }

    /// Bans a peer and tells until when; what else it is accused of meanwhile changes nothing.
    pub(super) fn ban(&mut self, who: Identity, now: Now) -> Now {
        let key = (who.addr.ip(), who.id);
        if self.banned.len() >= MAX_BANS && !self.banned.contains_key(&key) {
            self.banned.pop_first();
        }
        let ban = self.banned.entry(key).or_insert(Ban {
            until: Now::ZERO,
            times: 0,
        });
        if ban.until <= now {
            ban.until = now + ban_length(ban.times);
            ban.times += 1;
        }
        ban.until
    }

    /// Remembers a peer that left and may yet be proved a liar.
    pub(super) fn remember(&mut self, key: PeerKey, who: Identity) {
        if self.gone_order.len() >= MAX_GONE
            && let Some(oldest) = self.gone_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
        self.gone.insert(key, who);
        self.gone_order.push_back(key);
    }

    /// Who a departed peer was.
    pub(super) fn departed(&self, key: PeerKey) -> Option<Identity> {
        self.gone.get(&key).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_ends_and_the_next_is_longer() {
        let mut bans = Bans::default();
        let addr = SocketAddr::from(([10, 0, 0, 1], 6881));
        let id = PeerId([7; 20]);
        let listen = None;
        let who = Identity { addr, id, listen };
        let mut now = Now::ZERO;
        let mut lengths = Vec::new();
        for _ in 0..8 {
            assert_eq!(bans.until(addr, id, now), None);
            let until = bans.ban(who, now);
            assert_eq!(bans.ban(who, now + Now::from_secs(1)), until);
            assert_eq!(bans.until(addr, id, now), Some(until));
            lengths.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(lengths, [10, 20, 40, 80, 160, 320, 600, 600]);
    }
}
