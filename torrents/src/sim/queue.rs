//! What happens next.
//!
//! Everything that takes exactly one latency is in order by itself and needs no heap. Ties are
//! broken by the order of scheduling, so a run repeats exactly.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::HostId;
use crate::geometry::{Block, PieceIndex};
use crate::swarm::Now;
use crate::wire::Message;

/// Something that will happen.
#[derive(Debug)]
pub(super) enum Happening {
    Join(HostId),
    Leave(HostId),
    Cut,
    Announce(HostId),
    Wake(HostId),
    Dialled {
        from: HostId,
        to: HostId,
    },
    Message {
        link: u32,
        to: HostId,
        message: Message,
    },
    Requests {
        link: u32,
        to: HostId,
        blocks: Vec<Block>,
    },
    Cancels {
        link: u32,
        to: HostId,
        blocks: Vec<Block>,
    },
    Closed {
        link: u32,
        to: HostId,
    },
    /// The uplink is free again.
    Sent {
        host: HostId,
    },
    /// A batch is through the downlink.
    Landed {
        link: u32,
        to: HostId,
        blocks: Vec<Block>,
    },
    Hashed {
        host: HostId,
        piece: PieceIndex,
    },
    Web {
        host: HostId,
        blocks: Vec<Block>,
    },
}

#[derive(Debug)]
struct Entry {
    at: Now,
    order: u64,
    what: Happening,
}

/// The future.
#[derive(Debug)]
pub(super) struct Queue {
    latency: Duration,
    ring: VecDeque<Entry>,
    heap: BinaryHeap<Entry>,
    order: u64,
}

impl Queue {
    pub(super) fn new(latency: Duration) -> Self {
        Self {
            latency,
            ring: VecDeque::new(),
            heap: BinaryHeap::new(),
            order: 0,
        }
    }

    /// At any time.
    pub(super) fn push(&mut self, at: Now, what: Happening) {
        let entry = self.entry(at, what);
        self.heap.push(entry);
    }

    /// One latency from now.
    pub(super) fn soon(&mut self, now: Now, what: Happening) {
        let entry = self.entry(now + self.latency, what);
        debug_assert!(self.ring.back().is_none_or(|last| last.at <= entry.at));
        self.ring.push_back(entry);
    }

    /// The next event, if it is not after `until`.
    pub(super) fn pop(&mut self, until: Now) -> Option<(Now, Happening)> {
        let from_ring = match (self.ring.front(), self.heap.peek()) {
            (Some(ring), Some(heap)) => (ring.at, ring.order) < (heap.at, heap.order),
            (ring, _) => ring.is_some(),
        };
        let next = if from_ring {
            self.ring.front()
        } else {
            self.heap.peek()
        };
        if next?.at > until {
            return None;
        }
        let entry = if from_ring {
            self.ring.pop_front()
        } else {
            self.heap.pop()
        };
        entry.map(|entry| (entry.at, entry.what))
    }

    fn entry(&mut self, at: Now, what: Happening) -> Entry {
        self.order += 1;
        let order = self.order;
        Entry { at, order, what }
    }
}

impl Ord for Entry {
    /// Reversed, because the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
