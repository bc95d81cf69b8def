//! The machine among peers that mean it ill or are merely odd: whatever they do, its invariants
//! hold, and one honest peer is enough.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod hand;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use hand::{US, connect_at, listens, tell};
use proptest::prelude::*;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use torrents::swarm::{Action, Event, PeerKey, PeerKind, Settings, Swarm};
use torrents::wire::Message;
use torrents::{Bitfield, Block, Geometry, PeerId, PieceIndex};

/// The one that serves whatever it is asked for.
const HONEST: PeerKey = PeerKey(1_000_000);

/// An honest peer that has everything and sends a few blocks at a time.
#[derive(Default)]
struct Honest {
    owes: VecDeque<Block>,
    gone: bool,
}

impl Honest {
    fn meet(swarm: &mut Swarm, millis: u64) -> (Self, Vec<Action>) {
        let (peer, id) = (HONEST, 99);
        let mut actions = connect_at(swarm, millis, peer.0, id, true, true);
        for message in [Message::HaveAll, Message::Unchoke] {
            actions.extend(tell(swarm, millis, Event::Message { peer, message }));
        }
        (Self::default(), actions)
    }

    /// Hears what is meant for it.
    fn hear(&mut self, action: &Action) {
        match action {
            Action::Request { peer, blocks } if *peer == HONEST => self.owes.extend(blocks),
            Action::Cancel { peer, blocks } if *peer == HONEST => {
                self.owes.retain(|owed| !blocks.contains(owed));
            }
            Action::Disconnect { peer, .. } => self.gone |= *peer == HONEST,
            _ => {}
        }
    }

    fn serve(&mut self, swarm: &mut Swarm, millis: u64) -> Vec<Action> {
        let few = self.owes.len().min(4);
        let blocks: Vec<Block> = self.owes.drain(..few).collect();
        let peer = HONEST;
        tell(
            swarm,
            millis,
            Event::Received {
                peer,
                blocks: &blocks,
            },
        )
    }
}

fn gives(swarm: &mut Swarm, millis: u64, peer: PeerKey, block: Block) -> Vec<Action> {
    let blocks = &[block];
    tell(swarm, millis, Event::Received { peer, blocks })
}

fn first_says(swarm: &mut Swarm, millis: u64, message: Message) -> Vec<Action> {
    let peer = PeerKey(1);
    tell(swarm, millis, Event::Message { peer, message })
}

/// A peer under suspicion opens pieces that it alone may finish, gives one block of each and goes
/// back on its word for the rest. It does not keep them from the honest one.
fn goes_back_on_its_word(withdraw: impl Fn(Block) -> Option<Event<'static>>, nags: bool) {
    let geometry = Geometry::new(32 << 18, 1 << 18).unwrap();
    let mut swarm = Swarm::new(geometry, Bitfield::empty(32), US, Settings::default(), 1);
    let peer = PeerKey(1);
    let mut todo = VecDeque::from(connect_at(&mut swarm, 0, 1, 1, true, false));
    for message in [Message::HaveAll, Message::Unchoke] {
        todo.extend(first_says(&mut swarm, 0, message));
    }
    let (mut honest, actions) = Honest::meet(&mut swarm, 1);
    todo.extend(actions);
    let mut spoiled: Option<PieceIndex> = None;
    let mut given = BTreeSet::new();
    let mut suspect = false;
    for millis in (10..60_000).step_by(10) {
        for action in std::mem::take(&mut todo) {
            honest.hear(&action);
            match action {
                Action::Request { peer: to, blocks } if to == peer => {
                    for block in blocks {
                        // Until the first piece is found wrong all others wait.
                        let first = *spoiled.get_or_insert(block.piece) == block.piece;
                        let event = if (suspect || first) && given.insert(block.piece) {
                            todo.extend(gives(&mut swarm, millis, peer, block));
                            continue;
                        } else if suspect {
                            let Some(event) = withdraw(block) else {
                                continue;
                            };
                            event
                        } else {
                            // Others take what it leaves.
                            todo.extend(first_says(&mut swarm, millis, Message::Choke));
                            let message = Message::Reject(block);
                            Event::Message { peer, message }
                        };
                        todo.extend(tell(&mut swarm, millis, event));
                    }
                }
                Action::Verify { piece } if spoiled == Some(piece) && !suspect => {
                    suspect = true;
                    given.clear();
                    todo.extend(tell(&mut swarm, millis, Event::Corrupt { piece }));
                    todo.extend(first_says(&mut swarm, millis, Message::Unchoke));
                }
                Action::Verify { piece } => {
                    todo.extend(tell(&mut swarm, millis, Event::Verified { piece }));
                }
                _ => {}
            }
        }
        if suspect && nags && millis % 500 == 0 {
            todo.extend(first_says(
                &mut swarm,
                millis,
                Message::Bitfield(Bitfield::full(32)),
            ));
        }
        todo.extend(honest.serve(&mut swarm, millis));
        todo.extend(tell(&mut swarm, millis, Event::Timeout));
    }
    assert!(suspect && !given.is_empty(), "it never became a suspect");
    assert!(swarm.is_complete(), "{:?}", swarm.have());
}

#[test]
fn a_suspect_that_rejects_keeps_nothing_from_others() {
    let reject = |block| {
        let (peer, message) = (PeerKey(1), Message::Reject(block));
        Some(Event::Message { peer, message })
    };
    goes_back_on_its_word(reject, false);
}

#[test]
fn a_suspect_that_lost_what_it_had_keeps_nothing_from_others() {
    let lost = |block: Block| {
        let (peer, piece) = (PeerKey(1), block.piece);
        Some(Event::DontHave { peer, piece })
    };
    goes_back_on_its_word(lost, false);
}

#[test]
fn a_suspect_that_says_again_and_again_what_it_has_keeps_nothing_from_others() {
    goes_back_on_its_word(|_| None, true);
}

/// Peers that are told what to send, block by block.
struct Puppets {
    swarm: Swarm,
    millis: u64,
    owes: BTreeMap<PeerKey, Vec<Block>>,
    verifying: Vec<PieceIndex>,
}

impl Puppets {
    fn tell(&mut self, event: Event<'_>) {
        for action in tell(&mut self.swarm, self.millis, event) {
            match action {
                Action::Request { peer, blocks } => {
                    self.owes.entry(peer).or_default().extend(blocks);
                }
                Action::Cancel { peer, blocks } => {
                    let owed = self.owes.entry(peer).or_default();
                    owed.retain(|owed| !blocks.contains(owed));
                }
                Action::Verify { piece } => self.verifying.push(piece),
                _ => {}
            }
        }
    }

    fn says(&mut self, key: u64, message: Message) {
        let peer = PeerKey(key);
        self.tell(Event::Message { peer, message });
    }

    fn chokes(&mut self, key: u64) {
        self.says(key, Message::Choke);
        for block in self.owes.remove(&PeerKey(key)).unwrap_or_default() {
            self.says(key, Message::Reject(block));
        }
    }

    fn leaves(&mut self, key: u64) {
        let peer = PeerKey(key);
        self.owes.remove(&peer);
        self.tell(Event::Disconnected { peer });
    }

    /// Sends one block that it owes, of that piece if one is named.
    fn gives(&mut self, key: u64, of: Option<PieceIndex>) -> Option<PieceIndex> {
        let peer = PeerKey(key);
        let owed = self.owes.get_mut(&peer)?;
        let at = owed
            .iter()
            .position(|block| of.is_none_or(|of| of == block.piece))?;
        let block = owed.remove(at);
        self.tell(Event::Received {
            peer,
            blocks: &[block],
        });
        Some(block.piece)
    }

    fn finishes(&mut self, key: u64, piece: PieceIndex) {
        while self.verifying.is_empty() {
            self.millis += 5;
            self.tell(Event::Timeout);
            self.gives(key, Some(piece))
                .expect("it owes the rest of the piece");
        }
        assert_eq!(self.verifying.pop(), Some(piece));
    }
}

#[test]
fn what_is_half_done_begins_anew_when_only_a_suspect_is_left() {
    let geometry = Geometry::new(4 << 20, 2 << 20).unwrap();
    let mut all = Puppets {
        swarm: Swarm::new(geometry, Bitfield::empty(2), US, Settings::default(), 1),
        millis: 0,
        owes: BTreeMap::new(),
        verifying: Vec::new(),
    };
    for id in 1..=3 {
        connect_at(&mut all.swarm, 0, id.into(), id, true, false);
        all.says(id.into(), Message::HaveAll);
    }
    // The third leaves a piece half done, the first and the second spoil the other.
    all.says(3, Message::Unchoke);
    let half_done = all.gives(3, None).unwrap();
    all.says(1, Message::Unchoke);
    let piece = all.gives(1, None).unwrap();
    assert_ne!(piece, half_done);
    all.chokes(1);
    all.says(2, Message::Unchoke);
    all.finishes(2, piece);
    all.chokes(2);
    all.tell(Event::Corrupt { piece });
    // The first proves itself and leaves, and so does the third.
    all.says(1, Message::Unchoke);
    all.finishes(1, piece);
    all.tell(Event::Verified { piece });
    all.leaves(1);
    all.leaves(3);
    all.says(2, Message::Unchoke);
    while !all.swarm.is_complete() {
        all.millis += 20;
        assert!(all.millis < 60_000, "never complete");
        all.tell(Event::Timeout);
        all.gives(2, None);
        if let Some(piece) = all.verifying.pop() {
            all.tell(Event::Verified { piece });
        }
    }
}

/// libtorrent allows ten pieces, then chokes.
#[test]
fn pieces_that_may_be_had_while_choked_are_begun_no_faster_than_they_are_asked_for() {
    let geometry = Geometry::new(32 << 20, 1 << 20).unwrap();
    let mut swarm = Swarm::new(geometry, Bitfield::empty(32), US, Settings::default(), 1);
    connect_at(&mut swarm, 0, 1, 1, true, false);
    let peer = PeerKey(1);
    for index in 0..10 {
        let message = Message::AllowedFast(geometry.piece(index).unwrap());
        tell(&mut swarm, 1, Event::Message { peer, message });
    }
    let message = Message::HaveAll;
    let actions = tell(&mut swarm, 2, Event::Message { peer, message });
    let asked: usize = actions.iter().map(requested).sum();
    assert!(asked > 0);
}

fn requested(action: &Action) -> usize {
    match action {
        Action::Request { blocks, .. } => blocks.len(),
        _ => 0,
    }
}

#[test]
fn a_piece_to_which_too_many_contributed_begins_anew() {
    let geometry = Geometry::new(8 << 20, 8 << 20).unwrap();
    let mut swarm = Swarm::new(geometry, Bitfield::empty(1), US, Settings::default(), 1);
    let mut millis = 0;
    let mut discarded = 0;
    for key in 1..=300 {
        let (peer, id) = (PeerKey(key), u8::try_from(10 + key % 200).unwrap());
        connect_at(&mut swarm, millis, key, id, true, true);
        let mut actions = Vec::new();
        for message in [Message::HaveAll, Message::Unchoke] {
            actions.extend(tell(&mut swarm, millis, Event::Message { peer, message }));
        }
        let asked = actions.iter().find_map(|action| match action {
            Action::Request { blocks, .. } => blocks.first().copied(),
            _ => None,
        });
        if let Some(block) = asked {
            gives(&mut swarm, millis, peer, block);
        }
        tell(&mut swarm, millis, Event::Disconnected { peer });
        millis += 200;
        for action in tell(&mut swarm, millis, Event::Timeout) {
            discarded += match action {
                Action::Discard { blocks, .. } => blocks.len(),
                _ => 0,
            };
        }
    }
    assert!(discarded > 200, "{discarded}");
    let (mut honest, mut todo) = Honest::meet(&mut swarm, millis);
    while !swarm.is_complete() {
        for action in std::mem::take(&mut todo) {
            honest.hear(&action);
            if let Action::Verify { piece } = action {
                tell(&mut swarm, millis, Event::Verified { piece });
            }
        }
        millis += 20;
        assert!(millis < 200_000, "never complete");
        todo.extend(honest.serve(&mut swarm, millis));
        todo.extend(tell(&mut swarm, millis, Event::Timeout));
    }
}

/// Answers each request after so long; what is taken back it does not send. How long the whole
/// takes, in seconds, or `None` after ten minutes.
fn slow(kind: PeerKind, thinks: u64) -> Option<u64> {
    let geometry = Geometry::new(1 << 20, 1 << 18).unwrap();
    let mut swarm = Swarm::new(geometry, Bitfield::empty(4), US, Settings::default(), 1);
    let peer = PeerKey(1);
    let wire = kind != PeerKind::WebSeed;
    let event = Event::Connected {
        peer,
        addr: wire.then(|| listens(1)),
        id: wire.then_some(PeerId([1; 20])),
        kind,
    };
    let mut todo = VecDeque::from(tell(&mut swarm, 0, event));
    for message in [Message::HaveAll, Message::Unchoke]
        .into_iter()
        .filter(|_| wire)
    {
        todo.extend(tell(&mut swarm, 0, Event::Message { peer, message }));
    }
    let mut owes: VecDeque<(u64, Block)> = VecDeque::new();
    for millis in (0..600_000).step_by(10) {
        for action in std::mem::take(&mut todo) {
            match action {
                Action::Request { blocks, .. } => {
                    owes.extend(blocks.into_iter().map(|block| (millis + thinks, block)));
                }
                Action::Cancel { blocks, .. } => {
                    owes.retain(|(_, owed)| !blocks.contains(owed));
                    for block in blocks.into_iter().filter(|_| wire) {
                        let message = Message::Reject(block);
                        todo.extend(tell(&mut swarm, millis, Event::Message { peer, message }));
                    }
                }
                Action::Verify { piece } => {
                    todo.extend(tell(&mut swarm, millis, Event::Verified { piece }));
                }
                _ => {}
            }
        }
        while owes.front().is_some_and(|&(due, _)| due <= millis) {
            let block = owes.pop_front().unwrap().1;
            todo.extend(gives(&mut swarm, millis, peer, block));
        }
        todo.extend(tell(&mut swarm, millis, Event::Timeout));
        if swarm.is_complete() {
            return Some(millis / 1_000);
        }
    }
    None
}

#[test]
fn who_thinks_for_seconds_is_still_of_use() {
    let wire = PeerKind::Wire {
        fast: true,
        extended: false,
        inbound: false,
    };
    for (kind, thinks, within) in [
        (wire, 200, 1),
        (wire, 1_500, 60),
        (wire, 3_000, 120),
        (PeerKind::WebSeed, 1_500, 5),
        (PeerKind::WebSeed, 10_000, 45),
    ] {
        let took = slow(kind, thinks);
        assert!(
            took.is_some_and(|took| took <= within),
            "{kind:?} {thinks}: {took:?}"
        );
    }
}

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
