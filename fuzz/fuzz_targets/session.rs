//! Two whole peer sessions against one machine: any streams, cut anywhere, with any hashes, pauses
//! and lost pieces between them. The machine's invariants hold after every event, and what it
//! decides is what it may: it uploads what it has to whom asked, asks for what it lacks.

#![no_main]

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use torrents::extended::{ExtendedHandshake, decode_donthave};
use torrents::swarm::{Action, Event, PeerKey, PeerKind, Settings, Swarm};
use torrents::wire::{Decoder, Frame, Message, encode};
use torrents::{Bitfield, Block, Geometry, PeerId, PieceIndex};

const PIECES: u32 = 6;
const PIECE_LEN: u64 = 32_768;

fuzz_target!(|bytes: &[u8]| {
    let Some((&setup, steps)) = bytes.split_first() else {
        return;
    };
    let mut world = World::new(setup);
    let mut steps = steps.iter().copied();
    while let Some(step) = steps.next() {
        // The two low bits say what, the others how much.
        let much = step >> 2;
        match step & 3 {
            0 => world.hear(
                usize::from(much & 1),
                steps.by_ref().take((much >> 1).into()),
            ),
            1 => world.wait(much),
            2 => world.work(much),
            _ => world.happen(much),
        }
    }
});

/// One connection as the driver sees it.
struct Peer {
    key: PeerKey,
    fast: bool,
    extended: bool,
    decoder: Decoder,
    stream: BytesMut,
    payload: usize,
    open: bool,
    /// Blocks it asked for and did not get yet.
    due: Vec<Block>,
}

struct World {
    swarm: Swarm,
    geometry: Geometry,
    now: Duration,
    next_key: u64,
    setup: u8,
    peers: [Option<Peer>; 2],
    hashing: VecDeque<PieceIndex>,
    sending: VecDeque<(PeerKey, u32, u64)>,
}

impl World {
    fn new(setup: u8) -> Self {
        let geometry = Geometry::new(u64::from(PIECES - 1) * PIECE_LEN + 20_001, PIECE_LEN)
            .expect("small numbers");
        let have = match setup & 3 {
            0 => Bitfield::empty(PIECES),
            1 => Bitfield::full(PIECES),
            _ => {
                let mut some = Bitfield::empty(PIECES);
                some.insert(geometry.piece(1).expect("a piece"));
                some
            }
        };
        let mut world = Self {
            swarm: Swarm::new(geometry, have, PeerId([1; 20]), Settings::default(), 7),
            geometry,
            now: Duration::ZERO,
            next_key: 0,
            setup,
            peers: [None, None],
            hashing: VecDeque::new(),
            sending: VecDeque::new(),
        };
        world.connect(0);
        world.connect(1);
        world
    }

    fn connect(&mut self, seat: usize) {
        let bit = |n: usize| self.setup & (4 << (n + seat)) != 0;
        let (fast, extended) = (bit(0), bit(2));
        let key = PeerKey(self.next_key);
        self.next_key += 1;
        self.peers[seat] = Some(Peer {
            key,
            fast,
            extended,
            decoder: Decoder::new(self.geometry, fast, extended),
            stream: BytesMut::new(),
            payload: 0,
            open: true,
            due: Vec::new(),
        });
        let id = u8::try_from(key.0 % 200).expect("small") + 2;
        self.tell(Event::Connected {
            peer: key,
            addr: Some(([10, 0, 0, id], 6881).into()),
            id: Some(PeerId([id; 20])),
            kind: PeerKind::Wire {
                fast,
                extended,
                inbound: seat == 0,
            },
        });
    }

    /// Bytes of a peer's stream.
    fn hear(&mut self, seat: usize, bytes: impl Iterator<Item = u8>) {
        let Some(peer) = self.peers[seat].as_mut().filter(|peer| peer.open) else {
            bytes.for_each(drop);
            return self.connect(seat);
        };
        peer.stream.extend(bytes);
        while let Some(peer) = self.peers[seat].as_mut().filter(|peer| peer.open) {
            let key = peer.key;
            if peer.payload > 0 {
                // Its content does not matter: what is not there yet counts as sent.
                let taken = peer.payload.min(peer.stream.len());
                let _payload = peer.stream.split_to(taken);
                peer.payload = 0;
            }
            match peer.decoder.decode(&mut peer.stream) {
                Ok(Some(Frame::Piece(block))) => {
                    self.tell(Event::Received {
                        peer: key,
                        blocks: &[block],
                    });
                }
                Ok(Some(Frame::Oversized(_))) => {}
                Ok(Some(Frame::Message(message))) => self.said(seat, message),
                Ok(None) => return,
                Err(_) => {
                    peer.open = false;
                    return self.tell(Event::Disconnected { peer: key });
                }
            }
        }
    }

    fn said(&mut self, seat: usize, message: Message) {
        let Some(peer) = &mut self.peers[seat] else {
            return;
        };
        let key = peer.key;
        match message {
            Message::Request(block) => {
                peer.due.push(block);
                self.tell(Event::Requested {
                    peer: key,
                    blocks: &[block],
                });
            }
            Message::Extended { id: 0, payload } => {
                if let Ok(hello) = ExtendedHandshake::decode(&payload) {
                    self.tell(Event::Extended {
                        peer: key,
                        reqq: hello.reqq,
                        upload_only: hello.upload_only,
                        listen: None,
                    });
                }
            }
            Message::Extended { payload, .. } => {
                let piece = decode_donthave(&payload).ok();
                if let Some(piece) = piece.and_then(|piece| self.geometry.piece(piece)) {
                    self.tell(Event::DontHave { peer: key, piece });
                }
            }
            message => self.tell(Event::Message { peer: key, message }),
        }
    }

    fn wait(&mut self, much: u8) {
        self.now += Duration::from_millis(1 << (much % 18));
        if self.swarm.poll_timeout().is_some_and(|at| at <= self.now) {
            self.tell(Event::Timeout);
        }
    }

    /// What the driver was given to do is done, well or badly.
    fn work(&mut self, how: u8) {
        if how & 1 == 0
            && let Some((peer, blocks, bytes)) = self.sending.pop_front()
        {
            return self.tell(Event::Uploaded {
                peer,
                blocks,
                bytes,
            });
        }
        if let Some(piece) = self.hashing.pop_front() {
            self.tell(match how >> 1 & 3 {
                0 => Event::Corrupt { piece },
                1 => Event::Lost { piece },
                _ => Event::Verified { piece },
            });
        }
    }

    fn happen(&mut self, what: u8) {
        let number = u32::from(what >> 3);
        let seat = usize::from(what & 1);
        match what >> 1 & 3 {
            0 => self.tell(Event::Window {
                reader: 1,
                pieces: number..number + 3,
            }),
            1 => self.tell(Event::Budget {
                bytes: u64::from(number) << 14,
            }),
            2 => {
                let piece = self.geometry.piece(number % PIECES).expect("a piece");
                if self.swarm.have().contains(piece) {
                    self.tell(Event::Lost { piece });
                }
            }
            _ => match &mut self.peers[seat] {
                Some(peer) if peer.open => {
                    peer.open = false;
                    let peer = peer.key;
                    self.tell(Event::Disconnected { peer });
                }
                _ => self.connect(seat),
            },
        }
    }

    fn tell(&mut self, event: Event<'_>) {
        self.swarm.handle(self.now, event);
        self.swarm.check_invariants();
        while let Some(action) = self.swarm.poll_action() {
            self.take(action);
        }
    }

    fn peer(&mut self, key: PeerKey) -> &mut Peer {
        let mut all = self.peers.iter_mut().flatten();
        let found = all.find(|peer| peer.key == key && peer.open);
        found.expect("nothing is decided about a peer that is gone")
    }

    fn take(&mut self, action: Action) {
        match action {
            Action::Send { peer, message } => {
                let peer = self.peer(peer);
                let needs_fast = matches!(
                    message,
                    Message::Suggest(_)
                        | Message::HaveAll
                        | Message::HaveNone
                        | Message::Reject(_)
                        | Message::AllowedFast(_)
                );
                assert!(peer.fast || !needs_fast, "{message:?} without BEP 6");
                assert!(peer.extended || !matches!(message, Message::Extended { .. }));
                if let Message::Reject(block) = message {
                    let at = peer.due.iter().position(|&due| due == block);
                    at.map(|at| peer.due.swap_remove(at));
                }
                encode(&message, &mut BytesMut::new());
            }
            Action::Request { peer, blocks } => {
                self.peer(peer);
                for block in blocks {
                    assert!(!self.swarm.have().contains(block.piece), "asked for again");
                }
            }
            Action::Cancel { peer, .. } => drop(self.peer(peer)),
            Action::Upload { peer: key, blocks } => {
                let peer = self.peer(key);
                for block in &blocks {
                    let at = peer.due.iter().position(|due| due == block);
                    peer.due
                        .swap_remove(at.expect("nobody asked for what is uploaded"));
                }
                let bytes = blocks.iter().map(|block| u64::from(block.len)).sum();
                let count = u32::try_from(blocks.len()).expect("few");
                assert!(
                    blocks
                        .iter()
                        .all(|block| self.swarm.have().contains(block.piece)),
                    "what we lack is uploaded"
                );
                self.sending.push_back((key, count, bytes));
                self.swarm.recycle(blocks);
            }
            Action::Verify { piece } => {
                assert!(!self.hashing.contains(&piece));
                self.hashing.push_back(piece);
            }
            Action::Disconnect { peer, .. } => self.peer(peer).open = false,
            Action::Discard { .. } | Action::Dial { .. } => {}
            Action::NeedPeers | Action::Complete => {}
        }
    }
}
