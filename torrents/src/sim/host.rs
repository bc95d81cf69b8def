//! One simulated host: its links to the world, a node for each layer, and what a driver would
//! keep for them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::time_for;
use super::uplink::Uplink;
use crate::geometry::{Block, PieceIndex};
use crate::id::PeerId;
use crate::swarm::{Now, PeerKey, Reason, Settings, Swarm};

/// How a host behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// As it should.
    Honest,
    /// One in so many batches it sends is wrong.
    Liar {
        /// 1: all.
        one_in: u32,
    },
    /// It takes requests and never answers.
    Staller,
    /// It tells pieces it does not have: it rejects every request.
    Boaster,
    /// It sends so many requests to every peer every ten milliseconds, allowed or not, and
    /// throws away what comes.
    Flooder {
        /// Requests at once.
        requests: u32,
    },
}

/// A host to be.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HostSpec {
    /// Bytes a second out.
    pub uplink: u64,
    /// Bytes a second in.
    pub downlink: u64,
    /// Bytes a second hashed, one piece after the other.
    pub hashing: u64,
    /// It has everything from the start.
    pub complete: bool,
    /// It registers with the trackers instead of announcing, so every reply names it.
    pub origin: bool,
    /// How it behaves.
    pub behaviour: Behaviour,
    /// A reader that follows the verified prefix and wants so many bytes ahead.
    pub reader: Option<u64>,
    /// Bytes a second that a web seed gives this host.
    pub web_seed: Option<u64>,
    /// So many pieces cannot be written, the first ones.
    pub failing_writes: u32,
    /// For its machines.
    pub settings: Settings,
}

impl HostSpec {
    /// An honest host with nothing and an equal link both ways.
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            uplink: bytes_per_second,
            downlink: bytes_per_second,
            hashing: 1_500_000_000,
            complete: false,
            origin: false,
            behaviour: Behaviour::Honest,
            reader: None,
            web_seed: None,
            failing_writes: 0,
            settings: Settings::default(),
        }
    }

    pub(super) fn hash_time(&self, bytes: u64) -> Duration {
        time_for(bytes, self.hashing)
    }
}

/// What became of a host.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Outcome {
    /// When it came, the last time.
    pub joined: Now,
    /// When its last piece was verified.
    pub completed: Option<Now>,
    /// Layers it has whole.
    pub layers: usize,
    /// Payload sent, useful or not.
    pub uploaded: u64,
    /// Payload received, useful or not.
    pub downloaded: u64,
    /// Payload from the web seed.
    pub web: u64,
    /// Pieces whose hash was wrong.
    pub corrupt: u32,
    /// Pieces that could not be written.
    pub lost: u32,
    /// How often it asked for more peers.
    pub pleas: u32,
    /// Events its machines took.
    pub events: u64,
    /// Why it let peers go.
    pub partings: BTreeMap<&'static str, u32>,
}

impl Outcome {
    pub(super) fn count(&mut self, reason: Reason) {
        let name = match reason {
            Reason::Corrupt => "corrupt",
            Reason::Protocol => "protocol",
            Reason::BothSeeds => "both seeds",
            Reason::Duplicate => "duplicate",
            Reason::Silent => "silent",
            Reason::Useless => "useless",
            Reason::Banned => "banned",
            Reason::Full => "full",
        };
        *self.partings.entry(name).or_default() += 1;
    }
}

/// A host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) spec: HostSpec,
    pub(super) peer_id: PeerId,
    pub(super) here: bool,
    pub(super) gone: bool,
    /// It went without a word: who dials it waits in vain.
    pub(super) dark: bool,
    /// How often it came back.
    pub(super) life: u32,
    /// How far its clock is ahead.
    pub(super) skew: Duration,
    /// Which of the parted islands it is on.
    pub(super) island: usize,
    pub(super) uplink: Uplink,
    pub(super) downlink_free: Now,
    pub(super) hasher_free: Now,
    pub(super) web_free: Now,
    pub(super) outcome: Outcome,
}

impl Host {
    pub(super) fn new(spec: HostSpec, peer_id: PeerId, at: Now) -> Self {
        Self {
            uplink: Uplink::new(spec.uplink),
            spec,
            peer_id,
            here: false,
            gone: false,
            dark: false,
            life: 0,
            skew: Duration::ZERO,
            island: 0,
            downlink_free: Now::ZERO,
            hasher_free: Now::ZERO,
            web_free: Now::ZERO,
            outcome: Outcome {
                joined: at,
                ..Outcome::default()
            },
        }
    }

    /// It can be reached.
    pub(super) fn is_up(&self) -> bool {
        self.here && !self.gone
    }

    /// It is waited for.
    pub(super) fn is_pending(&self) -> bool {
        self.spec.behaviour == Behaviour::Honest
            && !self.spec.complete
            && !self.gone
            && self.outcome.completed.is_none()
    }
}

/// One layer on one host.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) swarm: Swarm,
    /// When the machine is to be woken.
    pub(super) wake: Option<Now>,
    /// When it announces.
    pub(super) announce: Option<Now>,
    pub(super) announced: Option<Now>,
    /// Failed announces in a row.
    pub(super) failures: u32,
    /// The next piece the reader wants.
    pub(super) read: u32,
    /// Wrong blocks in the buffers.
    tainted: BTreeMap<PieceIndex, BTreeSet<(PeerKey, u32)>>,
    /// Who sent wrong blocks for a piece that was dropped.
    fingerprints: BTreeMap<PieceIndex, BTreeSet<PeerKey>>,
}

impl Node {
    pub(super) fn new(swarm: Swarm) -> Self {
        Self {
            swarm,
            wake: None,
            announce: None,
            announced: None,
            failures: 0,
            read: 0,
            tainted: BTreeMap::new(),
            fingerprints: BTreeMap::new(),
        }
    }

    /// Wrong blocks came.
    pub(super) fn taint(&mut self, from: PeerKey, blocks: &[Block]) {
        for block in blocks {
            let tainted = self.tainted.entry(block.piece).or_default();
            tainted.insert((from, block.begin));
        }
    }

    /// Blocks are dropped from the buffers.
    pub(super) fn discard(&mut self, from: PeerKey, blocks: &[Block]) {
        for block in blocks {
            if let Some(tainted) = self.tainted.get_mut(&block.piece) {
                tainted.remove(&(from, block.begin));
            }
        }
    }

    /// Whether the piece has a wrong block; if so it is dropped and remembered.
    pub(super) fn is_tainted(&mut self, piece: PieceIndex) -> bool {
        let tainted = self.tainted.remove(&piece).unwrap_or_default();
        if tainted.is_empty() {
            return false;
        }
        let known = self.fingerprints.entry(piece).or_default();
        known.extend(tainted.iter().map(|&(from, _)| from));
        true
    }

    /// The piece came right: who sent wrong blocks for it before?
    pub(super) fn unmask(&mut self, piece: PieceIndex) -> BTreeSet<PeerKey> {
        self.fingerprints.remove(&piece).unwrap_or_default()
    }
}
