//! What goes into the swarm machine and what comes out: facts in, decisions out.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use crate::geometry::{Block, PieceIndex};
use crate::id::PeerId;
use crate::wire::Message;

/// Time since the driver's own start; the machine knows no other clock.
pub type Now = Duration;

/// One connection or web seed, named by the driver; never reused within a swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey(pub u64);

/// What a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerKind {
    /// A BEP-3 peer after its handshake.
    Wire {
        /// Both sides set the bit of BEP-6.
        fast: bool,
        /// Both sides set the bit of BEP-10.
        extended: bool,
        /// It dialled us.
        inbound: bool,
    },
    /// A BEP-19 web seed: has everything, never chokes, takes [`Action::Request`] in long runs.
    WebSeed,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A handshake is done, or a web seed is known. The machine answers with what it sends
    /// first (bitfield or have-all/none).
    Connected {
        /// Its name from now on.
        peer: PeerKey,
        /// Where it is (for an inbound one: its ephemeral port). `None` for a web seed.
        addr: Option<SocketAddr>,
        /// Who it says it is. `None` for a web seed.
        id: Option<PeerId>,
        /// What it is.
        kind: PeerKind,
    },
    /// The connection is gone; every block it owed is free again.
    Disconnected {
        /// Who.
        peer: PeerKey,
    },
    /// Requests that came together: handed on at once, so that neighbours are served by one
    /// read and one write. [`Event::Message`] takes a single one as well.
    Requested {
        /// By whom.
        peer: PeerKey,
        /// What.
        blocks: &'a [Block],
    },
    /// A message without payload. `Extended` messages are the driver's: it tells what matters
    /// by [`Event::Extended`].
    Message {
        /// From whom.
        peer: PeerKey,
        /// What.
        message: Message,
    },
    /// What the extended handshake said.
    Extended {
        /// From whom.
        peer: PeerKey,
        /// Requests it queues.
        reqq: Option<u32>,
        /// BEP-21.
        upload_only: bool,
        /// Where it listens, when it said so: not to be dialled again.
        listen: Option<SocketAddr>,
    },
    /// BEP-54: it no longer has the piece.
    DontHave {
        /// Who.
        peer: PeerKey,
        /// What.
        piece: PieceIndex,
    },
    /// Payload is in the driver's buffers, in the order it came.
    Received {
        /// From whom.
        peer: PeerKey,
        /// Which ranges.
        blocks: &'a [Block],
    },
    /// The kernel took these blocks of earlier [`Action::Upload`]s.
    Uploaded {
        /// To whom.
        peer: PeerKey,
        /// How many blocks.
        blocks: u32,
        /// How many bytes.
        bytes: u64,
    },
    /// The piece's hash is right and its bytes are readable by uploads and readers.
    Verified {
        /// Which.
        piece: PieceIndex,
    },
    /// The piece's hash is wrong; the driver dropped its bytes (but keeps fingerprints).
    Corrupt {
        /// Which.
        piece: PieceIndex,
    },
    /// A later good copy proved that this peer sent wrong bytes for an earlier bad one.
    Liar {
        /// Who (may be gone by now: then its address and id are banned all the same).
        peer: PeerKey,
    },
    /// The piece could not be written or read back; it is Missing again.
    Lost {
        /// Which.
        piece: PieceIndex,
    },
    /// The piece cannot be read any more, though the rest can: nobody gets it from us.
    Unreadable {
        /// Which.
        piece: PieceIndex,
    },
    /// Addresses to dial, from a tracker or the user.
    Candidates {
        /// Where peers listen.
        addrs: &'a [SocketAddr],
    },
    /// A dial failed, or the handshake did (wrong torrent, self, refused).
    DialFailed {
        /// Where.
        addr: SocketAddr,
        /// Never try it again (it is ourselves, or speaks another protocol).
        forever: bool,
    },
    /// A reader wants these pieces next, in this order; replaces its former window.
    Window {
        /// Which reader.
        reader: u64,
        /// Pieces by number; may be empty.
        pieces: Range<u32>,
    },
    /// The reader is gone.
    WindowClosed {
        /// Which reader.
        reader: u64,
    },
    /// How many bytes may be requested or held unverified from now on (memory budget).
    Budget {
        /// Bytes.
        bytes: u64,
    },
    /// `poll_timeout` has come.
    Timeout,
}

/// What the driver is to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a message (never a request, cancel or piece).
    Send {
        /// To whom.
        peer: PeerKey,
        /// What.
        message: Message,
    },
    /// Ask for blocks: `request` messages to a wire peer, one range GET of consecutive blocks
    /// to a web seed.
    Request {
        /// Of whom.
        peer: PeerKey,
        /// What.
        blocks: Vec<Block>,
    },
    /// Take requests back (a web seed's GET is dropped when all its blocks are cancelled).
    Cancel {
        /// Of whom.
        peer: PeerKey,
        /// What.
        blocks: Vec<Block>,
    },
    /// Read these verified ranges and send them as `piece` messages; report
    /// [`Event::Uploaded`]. The machine keeps only a bounded amount with the driver, so that
    /// cancels and chokes cost little.
    Upload {
        /// To whom.
        peer: PeerKey,
        /// What.
        blocks: Vec<Block>,
    },
    /// All blocks of the piece are in: hash, write, then report.
    Verify {
        /// Which.
        piece: PieceIndex,
    },
    /// These received blocks are of no use (duplicates, or the piece was given up): free them.
    Discard {
        /// Which.
        blocks: Vec<Block>,
        /// From whom.
        peer: PeerKey,
    },
    /// Open a connection.
    Dial {
        /// Where.
        addr: SocketAddr,
    },
    /// Close a connection.
    Disconnect {
        /// Whose.
        peer: PeerKey,
        /// Why, for the log and the counters.
        reason: Reason,
    },
    /// More peers are needed now: announce out of turn (the driver paces it).
    NeedPeers,
    /// The last piece is verified.
    Complete,
}

/// Why a peer was let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each names itself")]
#[non_exhaustive]
pub enum Reason {
    /// It sent wrong bytes: banned by address and id for a while, longer each time.
    Corrupt,
    /// It broke the protocol.
    Protocol,
    /// Both of us have everything.
    BothSeeds,
    /// We or it are connected already.
    Duplicate,
    /// It was silent too long.
    Silent,
    /// Its place is needed for a better one.
    Useless,
    /// It is banned.
    Banned,
    /// All places are taken.
    Full,
}

/// What an onlooker sees of a peer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PeerView {
    /// Who.
    pub peer: PeerKey,
    /// Where.
    pub addr: Option<SocketAddr>,
    /// Where it listens, if known.
    pub listen: Option<SocketAddr>,
    /// Its id.
    pub id: Option<PeerId>,
    /// What it is.
    pub kind: PeerKind,
    /// Useful bytes it gave us.
    pub downloaded: u64,
    /// Bytes we gave it.
    pub uploaded: u64,
    /// Bytes a second lately, from it and to it.
    pub rates: (u64, u64),
    /// Pieces it has.
    pub pieces: u32,
    /// It chokes us; we choke it.
    pub choked: (bool, bool),
    /// We are interested in it; it is in us.
    pub interested: (bool, bool),
    /// Requests outstanding with it; queued by it.
    pub requests: (usize, usize),
}
