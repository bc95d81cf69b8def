//! The table of connected peers.
//!
//! Slots are small numbers that are used again, so that the picker can name peers cheaply;
//! keys are the driver's and never come back. Order of iteration is the order of slots, never
//! that of a hash table: the same events make the same actions.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::PeerKey;
use super::session::Peer;

/// Where a peer sits in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(pub(super) u32);

/// All connected peers and web seeds.
#[derive(Debug, Default)]
pub(super) struct Peers {
    slots: Vec<Option<Box<Peer>>>,
    vacant: Vec<Slot>,
    /// Looked up only; the hasher has fixed keys.
    by_key: HashMap<PeerKey, Slot, BuildHasherDefault<KeyHasher>>,
    wire: usize,
}

/// Keys are the driver's own numbers, which nobody outside chooses: one multiplication spreads
/// them. Every message looks its peer up.
#[derive(Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

impl Peers {
    /// Connections, web seeds not counted.
    pub(super) fn wire(&self) -> usize {
        self.wire
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn slot(&self, key: PeerKey) -> Option<Slot> {
        self.by_key.get(&key).copied()
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Peer> {
        self.slots.get(slot.0 as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Peer> {
        self.slots.get_mut(slot.0 as usize)?.as_deref_mut()
    }

    pub(super) fn insert(&mut self, peer: Peer) -> Slot {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot(u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
        });
        self.wire += usize::from(!peer.is_web());
        self.by_key.insert(peer.key, slot);
        self.slots[slot.0 as usize] = Some(Box::new(peer));
        slot
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<Box<Peer>> {
        let peer = self.slots.get_mut(slot.0 as usize)?.take()?;
        self.wire -= usize::from(!peer.is_web());
        self.by_key.remove(&peer.key);
        self.vacant.push(slot);
        Some(peer)
    }

    /// One past the highest slot: for loops that change peers as they go.
    pub(super) fn end(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Peer)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(slot, peer)| Some((Slot(slot), peer.as_deref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Slot, &mut Peer)> {
        (0..)
            .zip(&mut self.slots)
            .filter_map(|(slot, peer)| Some((Slot(slot), peer.as_deref_mut()?)))
    }
}
