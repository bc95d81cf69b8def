//! Machines wired to each other without a network: what one sends the next receives at once.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use torrents::swarm::{Action, Event, PeerKey, PeerKind, Settings, Swarm};
use torrents::wire::Message;
use torrents::{Bitfield, Geometry, PeerId};

/// A full mesh in which time passes only when nothing else happens.
struct Mesh {
    swarms: Vec<Swarm>,
    now: Duration,
    /// Bytes sent, by (from, to).
    sent: BTreeMap<(usize, usize), u64>,
}

/// The key under which `us` knows `them`.
fn key(them: usize) -> PeerKey {
    PeerKey(them as u64)
}

impl Mesh {
    fn new(geometry: Geometry, haves: &[bool], fast: bool) -> Self {
        let swarms = haves.iter().zip(1..).map(|(&full, n)| {
            let have = if full {
                Bitfield::full(geometry.pieces())
            } else {
                Bitfield::empty(geometry.pieces())
            };
            Swarm::new(
                geometry,
                have,
                PeerId([n; 20]),
                Settings::default(),
                n.into(),
            )
        });
        let mut mesh = Self {
            swarms: swarms.collect(),
            now: Duration::ZERO,
            sent: BTreeMap::new(),
        };
        for one in 0..haves.len() {
            for other in 0..haves.len() {
                if one == other {
                    continue;
                }
                let id = PeerId([u8::try_from(other + 1).unwrap(); 20]);
                let addr = ([10, 0, 0, id.0[0]], 6881).into();
                let kind = PeerKind::Wire {
                    fast,
                    extended: true,
                    inbound: other < one,
                };
                mesh.swarms[one].handle(
                    mesh.now,
                    Event::Connected {
                        peer: key(other),
                        addr: Some(addr),
                        id: Some(id),
                        kind,
                    },
                );
            }
        }
        mesh
    }

    fn run(&mut self) {
        for _ in 0..10_000 {
            if !self.drain() {
                if self.swarms.iter().all(Swarm::is_complete) {
                    return;
                }
                self.now += Duration::from_millis(100);
                for swarm in &mut self.swarms {
                    swarm.handle(self.now, Event::Timeout);
                }
            }
        }
        panic!(
            "not complete: {:?}",
            self.swarms.iter().map(Swarm::have).collect::<Vec<_>>()
        );
    }

    fn drain(&mut self) -> bool {
        let mut queue = VecDeque::new();
        for (at, swarm) in self.swarms.iter_mut().enumerate() {
            while let Some(action) = swarm.poll_action() {
                queue.push_back((at, action));
            }
            swarm.check_invariants();
        }
        let any = !queue.is_empty();
        self.now += Duration::from_micros(100);
        for (us, action) in queue {
            self.apply(us, action);
        }
        any
    }

    fn apply(&mut self, us: usize, action: Action) {
        let now = self.now;
        let at = |peer: PeerKey| usize::try_from(peer.0).unwrap();
        match action {
            Action::Send { peer, message } => {
                let peer_ = key(us);
                self.swarms[at(peer)].handle(
                    now,
                    Event::Message {
                        peer: peer_,
                        message,
                    },
                );
            }
            Action::Request { peer, blocks } => {
                let from = key(us);
                self.swarms[at(peer)].handle(
                    now,
                    Event::Requested {
                        peer: from,
                        blocks: &blocks,
                    },
                );
            }
            Action::Upload { peer, blocks } => {
                let bytes = blocks.iter().map(|block| u64::from(block.len)).sum();
                *self.sent.entry((us, at(peer))).or_default() += bytes;
                let from = key(us);
                self.swarms[at(peer)].handle(
                    now,
                    Event::Received {
                        peer: from,
                        blocks: &blocks,
                    },
                );
                let blocks = u32::try_from(blocks.len()).unwrap();
                self.swarms[us].handle(
                    now,
                    Event::Uploaded {
                        peer,
                        blocks,
                        bytes,
                    },
                );
            }
            Action::Verify { piece } => self.swarms[us].handle(now, Event::Verified { piece }),
            Action::Disconnect { peer, .. } => {
                self.swarms[at(peer)].handle(now, Event::Disconnected { peer: key(us) });
            }
            _ => {}
        }
    }
}

#[test]
fn one_seed_one_leecher_moves_each_byte_once() {
    for fast in [false, true] {
        let geometry = Geometry::new(10_000_000, 262_144).unwrap();
        let mut mesh = Mesh::new(geometry, &[true, false], fast);
        mesh.run();
        assert_eq!(mesh.sent[&(0, 1)], 10_000_000);
    }
}

#[test]
fn leechers_share_what_they_get() {
    for fast in [false, true] {
        let geometry = Geometry::new(40_000_000, 262_144).unwrap();
        let mut mesh = Mesh::new(geometry, &[true, false, false, false, false], fast);
        mesh.run();
        let total: u64 = mesh.sent.values().sum();
        let seed: u64 = (1..5).filter_map(|to| mesh.sent.get(&(0, to))).sum();
        assert!(total < 40_000_000 * 4 * 11 / 10, "{total} bytes moved");
        assert!(seed < 40_000_000 * 3, "the seed sent {seed} bytes");
    }
}

/// aria2 sends its whole bitfield again where many HAVEs would be due.
#[test]
fn a_peer_may_tell_what_it_has_again() {
    let geometry = Geometry::new(10 << 14, 1 << 14).unwrap();
    let full = Bitfield::full(geometry.pieces());
    let mut seed = Swarm::new(geometry, full, PeerId([1; 20]), Settings::default(), 1);
    let peer = PeerKey(7);
    let (now, addr, id) = (
        Duration::ZERO,
        ([10, 0, 0, 2], 6881).into(),
        PeerId([2; 20]),
    );
    let kind = PeerKind::Wire {
        fast: true,
        extended: true,
        inbound: true,
    };
    seed.handle(
        now,
        Event::Connected {
            peer,
            addr: Some(addr),
            id: Some(id),
            kind,
        },
    );
    let mut half = Bitfield::empty(geometry.pieces());
    geometry
        .all_pieces()
        .take(5)
        .for_each(|piece| assert!(half.insert(piece)));
    for message in [
        Message::HaveNone,
        Message::Interested,
        Message::Bitfield(half),
    ] {
        seed.handle(now, Event::Message { peer, message });
        seed.check_invariants();
    }
    let gone = std::iter::from_fn(|| seed.poll_action())
        .any(|action| matches!(action, Action::Disconnect { .. }));
    assert!(!gone);
    assert_eq!(
        seed.peers().map(|peer| peer.pieces).collect::<Vec<_>>(),
        [5]
    );
}
