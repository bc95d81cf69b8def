//! What happens next.
//!
//! Everything that takes exactly one latency is in order by itself and needs no heap, and so are
//! the batches of HAVEs. Ties are broken by the order of scheduling, so a run repeats exactly.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use super::{HostId, NodeId};
use crate::geometry::{Block, PieceIndex};
use crate::swarm::Now;
use crate::wire::Message;

/// Something that will happen.
#[derive(Debug)]
pub(super) enum Happening {
    Join(HostId),
    /// The process dies: its connections are closed.
    Leave(HostId),
    /// The machine loses power: nobody is told.
    Vanish(HostId),
    /// It is back with the pieces it had.
    Return(HostId),
    Cut,
    Announce(NodeId),
    /// A tracker's reply.
    Found {
        node: NodeId,
        addrs: Vec<SocketAddr>,
    },
    Trackers {
        up: bool,
    },
    /// The island is cut off.
    Part(usize),
    /// The island is back.
    Heal(usize),
    Jump {
        host: HostId,
        by: Duration,
    },
    Flood(NodeId),
    Wake(NodeId),
    Dialled {
        from: NodeId,
        to: NodeId,
    },
    Undialled {
        from: NodeId,
        to: NodeId,
    },
    Message {
        link: u32,
        to: NodeId,
        message: Message,
    },
    /// What is in the node's inbox.
    Haves(NodeId),
    Requests {
        link: u32,
        to: NodeId,
        blocks: Vec<Block>,
    },
    Cancels {
        link: u32,
        to: NodeId,
        blocks: Vec<Block>,
    },
    Closed {
        link: u32,
        to: NodeId,
    },
    /// A batch may be through the uplink.
    Sent(HostId),
    /// The kernel took a batch that will go nowhere.
    Swallowed {
        link: u32,
        node: NodeId,
        blocks: u32,
        bytes: u64,
    },
    /// A batch is through the downlink.
    Landed {
        link: u32,
        to: NodeId,
        blocks: Vec<Block>,
        /// The sender's kernel took it before.
        taken: bool,
    },
    Hashed {
        node: NodeId,
        piece: PieceIndex,
        /// Of which life of the host.
        life: u32,
    },
    Web {
        node: NodeId,
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
    /// Inboxes, in order of time.
    inboxes: VecDeque<Entry>,
    heap: BinaryHeap<Entry>,
    order: u64,
}

#[derive(Clone, Copy)]
enum Source {
    Ring,
    Inboxes,
    Heap,
}

impl Queue {
    pub(super) fn new(latency: Duration) -> Self {
        Self {
            latency,
            ring: VecDeque::new(),
            inboxes: VecDeque::new(),
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

    /// An inbox is read one latency and `wait`, always the same, from now.
    pub(super) fn read_inbox(&mut self, now: Now, wait: Duration, node: NodeId) {
        let entry = self.entry(now + self.latency + wait, Happening::Haves(node));
        self.inboxes.push_back(entry);
    }

    /// The next event, if it is not after `until`.
    pub(super) fn pop(&mut self, until: Now) -> Option<(Now, Happening)> {
        let mut next: Option<(Now, u64, Source)> = None;
        let fronts = [
            (self.ring.front(), Source::Ring),
            (self.inboxes.front(), Source::Inboxes),
            (self.heap.peek(), Source::Heap),
        ];
        for (entry, source) in fronts {
            if let Some(entry) = entry
                && next.is_none_or(|(at, order, _)| (entry.at, entry.order) < (at, order))
            {
                next = Some((entry.at, entry.order, source));
            }
        }
        let (_, _, source) = next.filter(|&(at, ..)| at <= until)?;
        let entry = match source {
            Source::Ring => self.ring.pop_front(),
            Source::Inboxes => self.inboxes.pop_front(),
            Source::Heap => self.heap.pop(),
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
