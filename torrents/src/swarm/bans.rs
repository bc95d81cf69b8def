//! Who sent wrong bytes.
//!
//! A ban is by address *and* id: by address alone it would hit everybody behind a NAT, by id
//! alone it is shed by a restart. Peers that are gone are remembered for a while, because the
//! proof against them comes later. Invariant: both memories are bounded.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use super::PeerKey;
use crate::id::PeerId;

const MAX_BANS: usize = 4_096;
const MAX_GONE: usize = 1_024;

/// Who a peer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) addr: SocketAddr,
    pub(super) id: PeerId,
    /// Where it listens, if known.
    pub(super) listen: Option<SocketAddr>,
}

/// The banned and the departed.
#[derive(Debug, Default)]
pub(super) struct Bans {
    banned: BTreeSet<(IpAddr, PeerId)>,
    gone: BTreeMap<PeerKey, Identity>,
    gone_order: VecDeque<PeerKey>,
}

impl Bans {
    /// Whether this peer is not to be spoken to.
    pub(super) fn is_banned(&self, addr: SocketAddr, id: PeerId) -> bool {
        self.banned.contains(&(addr.ip(), id))
    }

    pub(super) fn ban(&mut self, who: Identity) {
        if self.banned.len() >= MAX_BANS {
            self.banned.pop_first();
        }
        self.banned.insert((who.addr.ip(), who.id));
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
