//! Places: how many connections we open, and whose place another may have.
//!
//! Half of the places are for those who come, so that newcomers find some. But no number of
//! connections that give nothing keeps us from the one that would: whoever starves dials until
//! all places are taken, and then lets one go each second for somebody not tried lately. And no
//! address keeps the others out: when all places are taken, whoever has most of them makes place
//! for whoever has fewer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use super::session::{Peer, SHIRKING};
use super::{Now, Reason, Slot, Swarm};

/// Peers are asked for when fewer than this are known or connected.
const FEW_PEERS: usize = 8;
/// A seed dials only while it knows fewer: leechers come by themselves.
const SEED_DIALS: usize = 8;
/// A newcomer is not sent away before it had time to show its use.
const PROBATION: Now = Now::from_secs(5);
/// Who has what we want and neither gave nor took anything for so long does likewise.
const WITHHOLDING: Now = Now::from_secs(30);
/// So long without enough to live on is starving.
const STARVING: Now = Now::from_secs(5);
/// Between two that make place while we starve.
const ROTATION: Now = Now::from_secs(1);
/// So many connections of one address are no crowd, whoever else wants a place.
const CROWD: usize = 4;

impl Swarm {
    /// How many connections we open ourselves.
    pub(super) fn wanted_peers(&self, now: Now) -> usize {
        let all = self.settings.max_peers;
        match self.picker {
            None => SEED_DIALS.min(all),
            Some(_) if self.is_starving(now) => all,
            Some(_) => all - all / 2,
        }
    }

    /// Whether more addresses are needed badly: hardly any are known.
    pub(super) fn lacks_peers(&self) -> bool {
        let known = self.peers.wire() + self.candidates.dialling() + self.candidates.waiting();
        self.picker.is_some() && known < FEW_PEERS.min(self.settings.max_peers)
    }

    pub(super) fn is_starving(&self, now: Now) -> bool {
        self.picker.is_some() && self.hunger.lasts(now) >= STARVING
    }

    /// All places are taken, nobody gives anything, and there is somebody to try: one goes.
    pub(super) fn rotate(&mut self, now: Now) {
        let full = self.peers.wire() + self.candidates.dialling() >= self.settings.max_peers;
        let due = self.candidates.next_due().is_some_and(|due| due <= now);
        if !full || !due || !self.is_starving(now) || now < self.rotated + ROTATION {
            return;
        }
        let settled = self.peers.iter().filter(|(_, peer)| is_settled(peer, now));
        let worst = settled.min_by_key(|&(slot, peer)| {
            let asks = self.asks(peer, now);
            (asks, peer.down.per_second(now), peer.since, slot)
        });
        if let Some((slot, _)) = worst {
            self.rotated = now;
            self.drop_peer(slot, Reason::Useless, now);
        }
    }

    /// Whose place a newcomer from that address may have, when all are taken.
    pub(super) fn place_for(&self, ip: IpAddr, now: Now) -> Option<Slot> {
        self.least_useful(now).or_else(|| self.most_crowded(ip))
    }

    fn least_useful(&self, now: Now) -> Option<Slot> {
        let total = self.geometry.pieces();
        let idle = |peer: &Peer| !peer.interested && !self.asks(peer, now);
        // Whoever has most can do without us best.
        let replete =
            |peer: &Peer| self.is_complete() && peer.choked && peer.pieces.count(total) > total / 2;
        let withholds = |peer: &Peer| {
            let barren = now.saturating_sub(peer.gave) >= WITHHOLDING;
            barren && peer.interested && peer.chokes_us && !self.asks(peer, now)
        };
        self.peers
            .iter()
            .filter(|(_, peer)| is_settled(peer, now))
            .filter(|(_, peer)| idle(peer) || replete(peer) || withholds(peer))
            .max_by_key(|&(slot, peer)| (idle(peer), peer.pieces.count(total), slot))
            .map(|(slot, _)| slot)
    }

    /// Of the address with most places the one that gave and took least, if the newcomer's has
    /// fewer even with one more.
    fn most_crowded(&self, ip: IpAddr) -> Option<Slot> {
        let mut places: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (_, peer) in self.peers.iter() {
            if let Some(addr) = peer.addr {
                *places.entry(site(addr.ip())).or_default() += 1;
            }
        }
        let (&crowd, &most) = places.iter().max_by_key(|&(_, count)| *count)?;
        let own = places.get(&site(ip)).copied().unwrap_or(0);
        if most <= CROWD || most <= own + 1 {
            return None;
        }
        let from = |peer: &Peer| peer.addr.map(|addr| site(addr.ip()));
        self.peers
            .iter()
            .filter(|(_, peer)| from(peer) == Some(crowd))
            .min_by_key(|&(slot, peer)| (peer.downloaded + peer.uploaded, slot))
            .map(|(slot, _)| slot)
    }

    /// Whether it wants something of us and takes it.
    fn asks(&self, peer: &Peer, now: Now) -> bool {
        peer.is_interested && peer.shirking(now) < SHIRKING && !self.have.is_empty()
    }
}

fn is_settled(peer: &Peer, now: Now) -> bool {
    !peer.is_web() && now.saturating_sub(peer.since) >= PROBATION
}

/// Whose address that is, as far as addresses are scarce: of IPv6 a host has a whole network.
pub fn site(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let network = u128::from(ip) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        ip => ip,
    }
}
