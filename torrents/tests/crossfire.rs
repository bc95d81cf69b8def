//! The machine among peers that mean it ill or are merely odd, each driven by hand: what they
//! withdraw, withhold or think about for long keeps nothing from it. `storm` has them do anything.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod hand;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hand::{Honest, US, connect_at, listens, tell};
use torrents::swarm::{Action, Event, PeerKey, PeerKind, Settings, Swarm};
use torrents::wire::Message;
use torrents::{Bitfield, Block, Geometry, PeerId, PieceIndex};

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
