//! One torrent's swarm as a pure state machine: [`Event`] in, [`Action`] out.
//!
//! ```text
//! swarm.handle(now, Event::Received { peer, blocks });
//! while let Some(action) = swarm.poll_action() { /* do it */ }
//! let wake = swarm.poll_timeout();
//! ```
//!
//! Owns piece states, peer sessions, the picker and the choker of one torrent. Invariants: a
//! piece is Missing, Requested, Verifying or Have; nothing is uploaded that is not Have; no
//! payload byte, clock, socket or allocation per block. The driver drains actions after every
//! `handle`, keeps payload in its own buffers, and reports facts; it takes no decision. The
//! same events with the same seed make the same actions.
//!
//! After an [`Action::Disconnect`] the peer is forgotten at once: what the driver still reports
//! about it is ignored, and its late blocks are handed back by [`Action::Discard`].

mod admission;
mod bans;
mod candidates;
mod choker;
mod contract;
mod download;
mod hunger;
mod line;
mod partial;
mod peers;
mod picker;
mod pieces;
mod places;
mod rarity;
mod rate;
mod received;
mod runs;
mod session;
mod settings;
mod spread;
mod told;
mod upkeep;
mod upload;

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

pub use bans::ban_length;
pub use contract::{Action, Event, Now, PeerKey, PeerKind, PeerView, Reason};
pub use places::site;
pub(crate) use rate::time_for;
pub use settings::Settings;

use bans::Bans;
use candidates::Candidates;
use peers::{Peers, Slot};
use picker::Picker;
use pieces::Pieces;
use spread::Spread;

use crate::bitfield::Bitfield;
use crate::geometry::{Block, Geometry, PieceIndex};
use crate::id::PeerId;
use crate::wire::Message;

/// Block vectors kept for reuse.
const MAX_SPARE: usize = 64;

/// The machine.
#[derive(Debug)]
pub struct Swarm {
    geometry: Geometry,
    have: Bitfield,
    us: PeerId,
    settings: Settings,
    rng: Xoshiro256PlusPlus,
    /// `None` when there is nothing to pick: a seed costs no memory per piece.
    picker: Option<Box<Picker>>,
    /// Only while we are a seed that serves somebody.
    spread: Option<Box<Spread>>,
    budget: u64,
    peers: Peers,
    candidates: Candidates,
    bans: Bans,
    actions: VecDeque<Action>,
    spare: Vec<Vec<Block>>,
    judged: received::Judged,
    clock: upkeep::Clock,
    uploads: upload::Uploads,
    /// Something may have become pickable: idle peers are to be asked at the end of the event.
    stirred: bool,
    /// The pace of the fastest peer, as of the last sweep.
    best_pace: u64,
    line: line::Line,
    /// Bytes that all peers owe us together.
    owed: u64,
    /// How long all we asked for takes at the rate at which all comes, as of the last sweep.
    queueing: Now,
    /// When a connection last gave us a useful block.
    progress: Now,
    hunger: hunger::Hunger,
    /// When a peer last made place because we starved.
    rotated: Now,
    /// The web seed may be used.
    web: bool,
    /// Lost pieces wait a moment, so that a full disk makes no storm of downloads.
    cooling: Vec<(Now, PieceIndex)>,
    /// Pieces that we have and cannot read.
    unreadable: BTreeSet<PieceIndex>,
}

impl Swarm {
    /// A swarm in which we have `have`. `seed` feeds every random choice.
    pub fn new(
        geometry: Geometry,
        have: Bitfield,
        us: PeerId,
        settings: Settings,
        seed: u64,
    ) -> Self {
        debug_assert_eq!(
            have.len(),
            geometry.pieces(),
            "a bitfield of another torrent"
        );
        let mut swarm = Self {
            geometry,
            have,
            us,
            budget: settings.budget,
            web: settings.eager_web_seed,
            settings,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            picker: None,
            spread: None,
            peers: Peers::default(),
            candidates: Candidates::default(),
            bans: Bans::default(),
            actions: VecDeque::new(),
            spare: Vec::new(),
            judged: received::Judged::default(),
            clock: upkeep::Clock::default(),
            uploads: upload::Uploads::default(),
            stirred: false,
            best_pace: 0,
            line: line::Line::default(),
            owed: 0,
            queueing: Now::ZERO,
            progress: Now::ZERO,
            hunger: hunger::Hunger::default(),
            rotated: Now::ZERO,
            cooling: Vec::new(),
            unreadable: BTreeSet::new(),
        };
        swarm.begin_picking();
        swarm
    }

    /// What we have.
    pub fn have(&self) -> &Bitfield {
        &self.have
    }

    /// Whether we have everything.
    pub fn is_complete(&self) -> bool {
        self.have.is_full()
    }

    /// The peers, for onlookers.
    pub fn peers(&self) -> impl Iterator<Item = PeerView> + '_ {
        let (now, total) = (self.clock.now, self.geometry.pieces());
        self.peers.iter().map(move |(_, peer)| PeerView {
            peer: peer.key,
            addr: peer.addr,
            listen: peer.dialled_at(),
            id: peer.id,
            kind: peer.kind,
            downloaded: peer.downloaded,
            uploaded: peer.uploaded,
            rates: (peer.down.per_second(now), peer.up.per_second(now)),
            pieces: peer.pieces.count(total),
            choked: (peer.chokes_us, peer.choked),
            interested: (peer.interested, peer.is_interested),
            requests: (
                peer.asked.blocks(),
                peer.queue.blocks() + peer.sending_blocks as usize,
            ),
        })
    }

    /// Whether a complete copy exists among us and the connected peers.
    pub fn distributed_copies(&self) -> f64 {
        let copies = |picker: &Picker| picker.copies(&self.have);
        self.picker
            .as_deref()
            .map_or_else(|| copies(&self.survey()), copies)
    }

    /// Takes an event. Nothing a peer does is an error here: a bad peer is an
    /// [`Action::Disconnect`]. `debug_assert!`s guard the driver's own mistakes.
    pub fn handle(&mut self, now: Now, event: Event<'_>) {
        debug_assert!(now >= self.clock.now, "time runs backwards");
        let now = now.max(self.clock.now);
        if !self.clock.started {
            self.clock.started = true;
            self.progress = now;
            self.hunger.begin(now);
        }
        self.clock.now = now;
        match event {
            Event::Received { peer, blocks } => self.received(peer, blocks, now),
            Event::Requested { peer, blocks } => self.requested(peer, blocks, now),
            Event::Message { peer, message } => self.message(peer, message, now),
            Event::Uploaded {
                peer,
                blocks,
                bytes,
            } => self.uploaded(peer, blocks, bytes, now),
            Event::Verified { piece } => self.verified(piece, now),
            Event::Corrupt { piece } => self.corrupt(piece, now),
            Event::Liar { peer } => self.liar(peer, now),
            Event::Lost { piece } => self.lost(piece, now),
            Event::Unreadable { piece } => self.unreadable(piece),
            Event::Connected {
                peer,
                addr,
                id,
                kind,
            } => self.connected(peer, addr, id, kind, now),
            Event::Disconnected { peer } => self.disconnected(peer, now),
            Event::Extended {
                peer,
                reqq,
                upload_only,
                listen,
            } => self.extended(peer, reqq, upload_only, listen),
            Event::DontHave { peer, piece } => self.dont_have(peer, piece, now),
            Event::Candidates { addrs } => self.add_candidates(addrs, now),
            Event::DialFailed { addr, forever } => self.dial_failed(addr, forever, now),
            Event::Window { reader, pieces } => self.window(reader, pieces),
            Event::WindowClosed { reader } => self.window(reader, 0..0),
            Event::Budget { bytes } => self.set_budget(bytes),
            Event::Timeout => self.sweep(now),
        }
        self.settle(now);
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to send [`Event::Timeout`].
    pub fn poll_timeout(&self) -> Option<Now> {
        self.clock.wake
    }

    /// Takes the vector of a finished [`Action`] back, to be filled again.
    pub fn recycle(&mut self, mut blocks: Vec<Block>) {
        if self.spare.len() < MAX_SPARE {
            blocks.clear();
            self.spare.push(blocks);
        }
    }

    fn window(&mut self, reader: u64, pieces: Range<u32>) {
        if let Some(picker) = &mut self.picker {
            picker.set_window(reader, pieces, self.clock.now);
            self.stirred = true;
        }
    }

    fn set_budget(&mut self, bytes: u64) {
        self.budget = bytes;
        if let Some(picker) = &mut self.picker {
            picker.set_budget(bytes);
            self.stirred = true;
        }
    }

    fn message(&mut self, key: PeerKey, message: Message, now: Now) {
        let Some(slot) = self.peers.slot(key) else {
            return;
        };
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.heard = now;
        }
        match message {
            Message::KeepAlive | Message::Port(_) | Message::Extended { .. } => {}
            Message::Bitfield(set) => self.told_all(slot, Pieces::new(set), now),
            Message::HaveAll => self.told_all(slot, Pieces::All, now),
            Message::HaveNone => self.told_all(slot, Pieces::None, now),
            Message::Have(piece) => self.told_one(slot, piece, now),
            Message::Choke => self.choked(slot, now),
            Message::Unchoke => self.unchoked(slot, now),
            Message::Reject(block) => self.rejected(slot, block, now),
            Message::AllowedFast(piece) => self.allowed_fast(slot, piece, now),
            Message::Suggest(piece) => self.suggested(slot, piece, now),
            Message::Interested => self.is_interested(slot, true),
            Message::NotInterested => self.is_interested(slot, false),
            Message::Request(block) => self.requested(key, &[block], now),
            Message::Cancel(block) => self.cancelled(slot, block),
        }
    }

    /// What follows from an event, once for all its parts.
    fn settle(&mut self, now: Now) {
        if std::mem::take(&mut self.stirred) {
            self.fill_all(now);
        }
        self.rechoke(now);
        self.dial(now);
        self.reschedule(now);
    }

    fn send(&mut self, slot: Slot, message: Message) {
        let now = self.clock.now;
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        if peer.is_web() {
            return;
        }
        peer.spoke = now;
        self.actions.push_back(Action::Send {
            peer: peer.key,
            message,
        });
    }

    fn vector(&mut self) -> Vec<Block> {
        self.spare.pop().unwrap_or_default()
    }

    fn survey(&self) -> Picker {
        let mut picker = Picker::new(
            self.geometry,
            &self.have,
            self.settings.block_len,
            self.budget,
            0,
        );
        let wire = self.peers.iter().filter(|(_, peer)| !peer.is_web());
        wire.for_each(|(_, peer)| picker.peer_joined(&peer.pieces));
        picker
    }

    fn begin_picking(&mut self) {
        if self.have.is_full() || self.settings.upload_only {
            return;
        }
        let seed = self.rng.random();
        let mut picker = Picker::new(
            self.geometry,
            &self.have,
            self.settings.block_len,
            self.budget,
            seed,
        );
        let wire = self.peers.iter().filter(|(_, peer)| !peer.is_web());
        wire.for_each(|(_, peer)| picker.peer_joined(&peer.pieces));
        self.picker = Some(Box::new(picker));
    }

    /// Whether the peer told us of the piece, as far as that is kept; for simulations, which
    /// bring what many messages will need into the cache at once.
    #[doc(hidden)]
    pub fn was_told(&self, peer: PeerKey, piece: PieceIndex) -> bool {
        let peer = self.peers.slot(peer).and_then(|slot| self.peers.get(slot));
        peer.is_some_and(|peer| peer.pieces.contains(piece) && peer.heard <= self.clock.now)
    }

    /// Panics when an invariant of the machine does not hold; for tests and simulations.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        self.candidates.check_invariants();
        let owed: u64 = self.peers.iter().map(|(_, peer)| peer.asked.bytes()).sum();
        assert_eq!(owed, self.owed);
        if let Some(picker) = &self.picker {
            picker.check_invariants();
        }
        for (slot, peer) in self.peers.iter() {
            assert_eq!(self.peers.slot(peer.key), Some(slot));
            peer.asked.check_invariants();
            peer.queue.check_invariants();
            assert_eq!(peer.wanted, peer.pieces.missing_in(&self.have));
            assert!(self.picker.is_some() || peer.asked.is_empty());
            assert!(!peer.choked || peer.is_fast() || peer.queue.is_empty());
            assert!(peer.queue.blocks() <= self.settings.max_inbound_requests);
            assert!(
                peer.asked
                    .iter()
                    .all(|block| !self.have.contains(block.piece))
            );
            assert!(
                peer.queue
                    .iter()
                    .all(|block| self.have.contains(block.piece))
            );
            let may = !peer.chokes_us || peer.is_fast();
            assert!(may || peer.asked.is_empty());
        }
    }
}
