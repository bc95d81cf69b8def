//! The machine among peers that do anything in any order: its invariants hold, and one honest
//! peer is enough in the end.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod hand;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use hand::{Honest, US, listens, tell};
use proptest::prelude::*;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use torrents::swarm::{Action, Event, PeerKey, PeerKind, Settings, Swarm};
use torrents::wire::Message;
use torrents::{Bitfield, Block, Geometry, PeerId, PieceIndex};

/// A peer of the storm, as the driver sees it.
struct Odd {
    key: PeerKey,
    id: u8,
    web: bool,
    fast: bool,
    owes: Vec<Block>,
    sending: VecDeque<(u32, u64)>,
}

/// A machine in which anything may happen next.
struct Storm {
    rng: Xoshiro256PlusPlus,
    geometry: Geometry,
    swarm: Swarm,
    millis: u64,
    peers: Vec<Odd>,
    verifying: Vec<PieceIndex>,
    dialling: Vec<SocketAddr>,
    keys: u64,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let pieces: u64 = rng.random_range(1..12);
        let length = (pieces << 16) - rng.random_range(0..40_000);
        let geometry = Geometry::new(length, 1 << 16).unwrap();
        let mut settings = Settings::default();
        settings.max_peers = rng.random_range(1..8);
        settings.upload_slots = rng.random_range(1..4);
        settings.budget = [128 << 10, 256 << 10, 1 << 30][rng.random_range(0..3)];
        let have = match rng.random_range(0..3) {
            0 => Bitfield::full(geometry.pieces()),
            _ => Bitfield::empty(geometry.pieces()),
        };
        Self {
            swarm: Swarm::new(geometry, have, US, settings, seed),
            rng,
            geometry,
            millis: 0,
            peers: Vec::new(),
            verifying: Vec::new(),
            dialling: Vec::new(),
            keys: 0,
        }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_range(0..n) == 0
    }

    fn any_piece(&mut self) -> PieceIndex {
        let pieces = self.geometry.pieces();
        self.geometry
            .piece(self.rng.random_range(0..pieces))
            .unwrap()
    }

    fn any_block(&mut self) -> Block {
        let piece = self.any_piece();
        let size = self.geometry.piece_size(piece);
        let begin = self.rng.random_range(0..size.div_ceil(16_384)) * 16_384;
        let most = size - begin;
        let len = match self.one_in(5) {
            true => self.rng.random_range(1..=most),
            false => most.min(16_384),
        };
        self.geometry.block(piece.get(), begin, len).unwrap()
    }

    fn tell(&mut self, event: Event<'_>) {
        for action in tell(&mut self.swarm, self.millis, event) {
            self.act(action);
        }
    }

    fn peer(&mut self, key: PeerKey) -> &mut Odd {
        let mut peers = self.peers.iter_mut();
        peers
            .find(|peer| peer.key == key)
            .expect("an action is for a peer that is here")
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Request { peer, blocks } => self.peer(peer).owes.extend(blocks),
            Action::Cancel { peer, blocks } => {
                let heeds = self.one_in(2);
                self.peer(peer)
                    .owes
                    .retain(|owed| !heeds || !blocks.contains(owed));
            }
            Action::Upload { peer, blocks } => {
                assert!(
                    blocks
                        .iter()
                        .all(|block| self.swarm.have().contains(block.piece))
                );
                let bytes = blocks.iter().map(|block| u64::from(block.len)).sum();
                self.peer(peer)
                    .sending
                    .push_back((u32::try_from(blocks.len()).unwrap(), bytes));
            }
            Action::Send { peer, .. } => {
                self.peer(peer);
            }
            Action::Verify { piece } => self.verifying.push(piece),
            Action::Dial { addr } => self.dialling.push(addr),
            Action::Disconnect { peer, .. } => self.peers.retain(|odd| odd.key != peer),
            _ => {}
        }
    }

    fn step(&mut self) {
        self.millis += [0, 1, 10, 50, 100, 1_000, 6_000][self.rng.random_range(0..7)];
        let known = match self.peers.len() {
            0 => None,
            n => Some(self.rng.random_range(0..n)),
        };
        match (self.rng.random_range(0..28), known) {
            (0 | 1, _) => self.comes(),
            (2, Some(at)) => {
                let peer = self.peers.swap_remove(at).key;
                self.tell(Event::Disconnected { peer });
            }
            (3, _) => {
                let addrs: Vec<SocketAddr> = (10..18).map(listens).collect();
                self.tell(Event::Candidates { addrs: &addrs });
            }
            (4, _) if !self.dialling.is_empty() => {
                let (addr, forever) = (self.dialling.swap_remove(0), self.one_in(5));
                self.tell(Event::DialFailed { addr, forever });
            }
            (5 | 6, _) => self.wants(),
            (7, _) if !self.verifying.is_empty() => {
                let piece = self.verifying.swap_remove(0);
                let event = match self.rng.random_range(0..8) {
                    0 | 1 => Event::Corrupt { piece },
                    2 => Event::Lost { piece },
                    _ => Event::Verified { piece },
                };
                self.tell(event);
            }
            (8, _) => {
                let piece = self.any_piece();
                if self.swarm.have().contains(piece) && self.one_in(4) {
                    self.tell(Event::Lost { piece });
                }
            }
            (9, Some(at)) => {
                let peer = self.peers[at].key;
                if let Some((blocks, bytes)) = self.peers[at].sending.pop_front() {
                    self.tell(Event::Uploaded {
                        peer,
                        blocks,
                        bytes,
                    });
                }
            }
            (10..=15, Some(at)) => self.delivers(at),
            (16..=24, Some(at)) if !self.peers[at].web => self.says(at),
            (25, _) if self.one_in(10) => {
                let peer = PeerKey(self.rng.random_range(0..=self.keys));
                self.tell(Event::Liar { peer });
            }
            _ => self.tell(Event::Timeout),
        }
    }

    /// Memory or a reader wants something else.
    fn wants(&mut self) {
        if self.one_in(2) {
            let bytes = [128 << 10, 256 << 10, 1 << 30][self.rng.random_range(0..3)];
            return self.tell(Event::Budget { bytes });
        }
        let (reader, first) = (self.rng.random_range(0..2), self.any_piece().get());
        let pieces = first..first + 3;
        self.tell(Event::Window { reader, pieces });
    }

    fn comes(&mut self) {
        self.keys += 1;
        let (key, id) = (PeerKey(self.keys), self.rng.random_range(10..18));
        let (web, fast) = (self.one_in(12), !self.one_in(4));
        let dialled = if web || self.one_in(2) {
            None
        } else {
            self.dialling.pop()
        };
        let from = SocketAddr::from(([10, 0, 0, id], self.rng.random_range(40_000..50_000)));
        let kind = match web {
            true => PeerKind::WebSeed,
            false => PeerKind::Wire {
                fast,
                extended: true,
                inbound: dialled.is_none(),
            },
        };
        self.peers.push(Odd {
            key,
            id,
            web,
            fast,
            owes: Vec::new(),
            sending: VecDeque::new(),
        });
        self.tell(Event::Connected {
            peer: key,
            addr: (!web).then_some(dialled.unwrap_or(from)),
            id: (!web).then_some(PeerId([id; 20])),
            kind,
        });
    }

    fn delivers(&mut self, at: usize) {
        let mut blocks = Vec::new();
        for _ in 0..self
            .rng
            .random_range(0..3usize)
            .min(self.peers[at].owes.len())
        {
            let which = self.rng.random_range(0..self.peers[at].owes.len());
            blocks.push(self.peers[at].owes.swap_remove(which));
        }
        if self.one_in(10) {
            blocks.push(self.any_block());
        }
        if self.one_in(20) {
            blocks.extend(blocks.first().copied());
        }
        let peer = self.peers[at].key;
        self.tell(Event::Received {
            peer,
            blocks: &blocks,
        });
    }

    fn says(&mut self, at: usize) {
        let (peer, id, fast) = (self.peers[at].key, self.peers[at].id, self.peers[at].fast);
        let (piece, block) = (self.any_piece(), self.any_block());
        let pieces = self.geometry.pieces();
        let message = match self.rng.random_range(0..20) {
            0 => Message::Choke,
            1..=3 => Message::Unchoke,
            4 => Message::Interested,
            5 => Message::NotInterested,
            6 => Message::Have(piece),
            7 if fast => Message::HaveAll,
            8 if fast => Message::HaveNone,
            9 if fast => Message::Reject(self.peers[at].owes.pop().unwrap_or(block)),
            10 if fast => Message::AllowedFast(piece),
            11 if fast => Message::Suggest(piece),
            12 | 13 => Message::Request(block),
            14 => Message::Cancel(block),
            15 => {
                let mut set = Bitfield::empty(pieces);
                let some = self.geometry.all_pieces().filter(|_| self.rng.random());
                some.for_each(|piece| {
                    set.insert(piece);
                });
                Message::Bitfield(set)
            }
            16 => return self.tell(Event::DontHave { peer, piece }),
            17 => {
                let reqq = Some(self.rng.random_range(0..20));
                return self.tell(Event::Extended {
                    peer,
                    reqq,
                    upload_only: false,
                    listen: Some(listens(id)),
                });
            }
            _ => Message::KeepAlive,
        };
        self.tell(Event::Message { peer, message });
    }

    /// Whether an honest peer finishes it, while those who are here stay and do nothing.
    fn clears_up(mut self) -> bool {
        // A driver gives up a web seed that is silent.
        let (web, mut wire): (Vec<_>, Vec<_>) = self.peers.iter().partition(|odd| odd.web);
        let leave = web.into_iter().chain(wire.split_off(wire.len().min(6)));
        for peer in leave.map(|odd| odd.key).collect::<Vec<_>>() {
            self.peers.retain(|odd| odd.key != peer);
            self.tell(Event::Disconnected { peer });
        }
        self.millis += 6_000;
        let (mut honest, mut todo) = Honest::meet(&mut self.swarm, self.millis);
        let end = self.millis + 900_000;
        while !self.swarm.is_complete() && !honest.gone && self.millis < end {
            for action in std::mem::take(&mut todo) {
                honest.hear(&action);
                if let Action::Verify { piece } = action {
                    self.verifying.push(piece);
                }
            }
            self.millis += 20;
            if let Some(piece) = self.verifying.pop() {
                todo.extend(tell(
                    &mut self.swarm,
                    self.millis,
                    Event::Verified { piece },
                ));
            }
            todo.extend(honest.serve(&mut self.swarm, self.millis));
            todo.extend(tell(&mut self.swarm, self.millis, Event::Timeout));
            if self.millis % 20_000 < 20 {
                for peer in self.peers.iter().filter(|odd| !odd.web).map(|odd| odd.key) {
                    let message = Message::KeepAlive;
                    let event = Event::Message { peer, message };
                    todo.extend(tell(&mut self.swarm, self.millis, event));
                }
            }
        }
        // There may have been no place for it.
        self.swarm.is_complete() || honest.gone
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn whatever_happens_the_invariants_hold_and_one_honest_peer_is_enough(seed: u64) {
        let mut storm = Storm::new(seed);
        (0..400).for_each(|_| storm.step());
        let wake = storm.swarm.poll_timeout();
        let now = Duration::from_millis(storm.millis);
        prop_assert!(wake.is_none_or(|wake| wake + Duration::from_secs(100) > now));
        prop_assert!(storm.clears_up());
    }
}
