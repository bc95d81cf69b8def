//! What happens next.
//!
//! Everything that takes exactly one latency is in order by itself and needs no heap, and so are
//! the batches of HAVEs. Ties are broken by the order of scheduling, so a run repeats exactly.

use std::cmp::Reverse;
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

/// An entry of the heap: small, because a heap moves and compares its entries a lot.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Now,
    order: u64,
    /// Where in `kept` it says what.
    what: u32,
}

/// The future.
#[derive(Debug)]
pub(super) struct Queue {
    latency: Duration,
    ring: VecDeque<Entry>,
    /// Inboxes, in order of time.
    inboxes: VecDeque<Entry>,
    heap: BinaryHeap<Reverse<Due>>,
    /// What the heap's entries are about.
    kept: Vec<Option<Happening>>,
    vacant: Vec<u32>,
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
            kept: Vec::new(),
            vacant: Vec::new(),
            order: 0,
        }
    }

    /// At any time.
    pub(super) fn push(&mut self, at: Now, what: Happening) {
        let Entry { at, order, what } = self.entry(at, what);
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.kept.push(None);
            u32::try_from(self.kept.len() - 1).unwrap_or(u32::MAX)
        });
        self.kept[place as usize] = Some(what);
        let what = place;
        self.heap.push(Reverse(Due { at, order, what }));
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
        let key = |entry: &Entry| (entry.at, entry.order);
        let fronts = [
            (self.ring.front().map(key), Source::Ring),
            (self.inboxes.front().map(key), Source::Inboxes),
            (
                self.heap.peek().map(|Reverse(due)| (due.at, due.order)),
                Source::Heap,
            ),
        ];
        let due = fronts
            .into_iter()
            .filter_map(|(key, source)| Some((key?, source)));
        let ((at, _), source) = due.min_by_key(|&(key, _)| key)?;
        if at > until {
            return None;
        }
        let entry = |entry: Entry| entry.what;
        let what = match source {
            Source::Ring => self.ring.pop_front().map(entry),
            Source::Inboxes => self.inboxes.pop_front().map(entry),
            Source::Heap => self.heap.pop().and_then(|Reverse(due)| {
                self.vacant.push(due.what);
                self.kept[due.what as usize].take()
            }),
        };
        what.map(|what| (at, what))
    }

    fn entry(&mut self, at: Now, what: Happening) -> Entry {
        self.order += 1;
        let order = self.order;
        Entry { at, order, what }
    }
}
