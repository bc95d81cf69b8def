//! The two thin tasks of a connection: socket to frames, and batches to socket.
//!
//! The reader sends what one read brought ([`crate::receive`]) as one [`Batch`], messages and
//! blocks in their order. The writer ([`crate::upload`]) drains the peer's outbox. Neither decides
//! anything; the torrent's task does, and aborts both when the peer is let go.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use torrents::swarm::PeerKey;
use torrents::wire::{Message, WireError};
use torrents::{Block, PieceIndex};

use crate::engine::Core;
use crate::limits::Throttle;
use crate::receive::Receiver;
use crate::webseed::WebSeedError;

/// How long a connection may hold a slab for the sake of an unfinished frame.
const IDLE: Duration = Duration::from_secs(5);

/// Reads without payload and requests at the beginning of a connection that are acknowledged at
/// once.
const GREETINGS: u32 = 8;

/// What a connection or web seed tells its torrent's task.
#[derive(Debug)]
pub(crate) enum FromPeer {
    /// One read's worth.
    Batch(Batch),
    /// The kernel took these blocks.
    Uploaded {
        peer: PeerKey,
        blocks: u32,
        bytes: u64,
    },
    /// It ends here; nothing follows.
    Gone { peer: PeerKey, why: Gone },
    /// Our content could not be read.
    Unreadable { why: io::Error },
    /// A piece of the content could not be read for it, while others may be.
    BadSector { piece: PieceIndex, why: io::Error },
}

/// Frames in the order they came, payload beside them.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) peer: PeerKey,
    pub(crate) parts: Vec<Part>,
    pub(crate) blocks: Vec<Block>,
    /// One for each of `blocks`.
    pub(crate) payload: Vec<Bytes>,
    pub(crate) requests: Vec<Block>,
}

#[derive(Debug)]
pub(crate) enum Part {
    Message(Message),
    /// A request for more than we serve at once.
    Oversized(Block),
    /// So many of the blocks.
    Blocks(usize),
    /// So many of the requests.
    Requests(usize),
}

/// Why a connection ended by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Gone {
    #[error("closed by the peer")]
    Closed,
    #[error("protocol error: {0}")]
    Protocol(#[from] WireError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("long messages without end, and no payload")]
    Chatter,
    #[error("it reads nothing of what it is sent")]
    Stalled,
    #[error(transparent)]
    WebSeed(#[from] WebSeedError),
    #[error("bug: its task failed")]
    Bug,
}

/// What the reader of a connection works with.
pub(crate) struct Reader {
    pub(crate) core: Arc<Core>,
    pub(crate) throttle: Throttle,
    pub(crate) peer: PeerKey,
    pub(crate) socket: OwnedReadHalf,
    pub(crate) receiver: Receiver,
    pub(crate) to_torrent: mpsc::Sender<FromPeer>,
}

impl Batch {
    pub(crate) fn new(peer: PeerKey) -> Self {
        Self {
            peer,
            parts: Vec::new(),
            blocks: Vec::new(),
            payload: Vec::new(),
            requests: Vec::new(),
        }
    }

    pub(crate) fn push_block(&mut self, block: Block, bytes: Bytes) {
        self.blocks.push(block);
        self.payload.push(bytes);
        match self.parts.last_mut() {
            Some(Part::Blocks(run)) => *run += 1,
            _ => self.parts.push(Part::Blocks(1)),
        }
    }

    pub(crate) fn push_message(&mut self, message: Message) {
        let Message::Request(block) = message else {
            return self.parts.push(Part::Message(message));
        };
        self.requests.push(block);
        match self.parts.last_mut() {
            Some(Part::Requests(run)) => *run += 1,
            _ => self.parts.push(Part::Requests(1)),
        }
    }
}

/// Lets the peer know at once that its words arrived. Some clients (Nagle's algorithm) hold the
/// first requests back until then, and the kernel would wait 40 ms for something to say.
fn acknowledge(socket: &OwnedReadHalf) {
    // Where it cannot be, they wait.
    let _ = socket2::SockRef::from(socket.as_ref()).set_tcp_quickack(true);
}

impl Reader {
    /// Reads until the connection ends.
    pub(crate) async fn run(mut self) -> Gone {
        let mut idle = tokio::time::interval(IDLE);
        idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut quiet = false;
        let mut greetings = GREETINGS;
        loop {
            tokio::select! {
                ready = self.socket.readable() => if let Err(error) = ready {
                    return Gone::Io(error);
                },
                _ = idle.tick() => {
                    if std::mem::replace(&mut quiet, true)
                        && self.receiver.shrink(&self.core.slabs)
                    {
                        self.core.freed.notify_one();
                    }
                    continue;
                }
            }
            let mut batch = Batch::new(self.peer);
            let slabs = &self.core.slabs;
            let read = self
                .receiver
                .read(&mut self.socket, slabs, &mut batch)
                .await;
            let payload: u64 = batch.blocks.iter().map(|block| u64::from(block.len)).sum();
            if greetings > 0 && batch.requests.is_empty() && payload == 0 {
                greetings -= 1;
                acknowledge(&self.socket);
            }
            // A frame that trickles in is no more than what has come of it.
            quiet &= batch.parts.is_empty();
            if !batch.parts.is_empty() {
                // An error means that the torrent ended, and this task is about to be aborted.
                let _ = self.to_torrent.send(FromPeer::Batch(batch)).await;
            }
            if let Err(gone) = read {
                return gone;
            }
            // A peer that sends what means nothing must not keep others from their turn.
            tokio::task::coop::consume_budget().await;
            if payload > 0 {
                self.throttle.download(payload).await;
                self.core.hashers.room().await;
            }
        }
    }
}
