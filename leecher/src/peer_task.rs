//! The two thin tasks of a connection: socket to frames, and batches to socket.
//!
//! The reader takes all the kernel has into a slab, cuts blocks off it without copying and
//! sends what one read brought as one [`Batch`], messages and blocks in their order. The writer
//! ([`crate::upload`]) drains the peer's outbox. Neither decides anything; the torrent's task
//! does, and aborts both when the peer is let go.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use torrents::Block;
use torrents::swarm::PeerKey;
use torrents::wire::{Decoder, Frame, Message, WireError};

use crate::engine::Core;
use crate::limits::Throttle;
use crate::slabs::Slabs;
use crate::webseed::WebSeedError;

/// How long a connection may hold a slab for the sake of an unfinished frame.
const IDLE: Duration = Duration::from_secs(5);

/// Spare room that an idle connection may keep.
const SMALL: usize = 4096;

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
    pub(crate) decoder: Decoder,
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

    fn push_message(&mut self, message: Message) {
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

impl Reader {
    /// Reads until the connection ends.
    pub(crate) async fn run(mut self) -> Gone {
        let mut idle = tokio::time::interval(IDLE);
        idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // None while nothing is begun: then an idle connection costs no memory.
        let mut slab: Option<BytesMut> = None;
        let mut owed = None;
        let mut quiet = false;
        loop {
            tokio::select! {
                ready = self.socket.readable() => if let Err(error) = ready {
                    return Gone::Io(error);
                },
                _ = idle.tick() => {
                    if std::mem::replace(&mut quiet, true) {
                        slab = slab.map(|slab| shrunk(&self.core.slabs, slab));
                    }
                    continue;
                }
            }
            quiet = false;
            let mut current = slab.take().unwrap_or_else(|| self.core.slabs.take());
            match self.read(&mut current, &mut owed).await {
                Ok(true) => {}
                Ok(false) => return Gone::Closed,
                Err(gone) => return gone,
            }
            if current.is_empty() {
                self.core.slabs.give(current);
            } else {
                slab = Some(current);
            }
        }
    }

    /// One read, decoded and passed on; false at the end of the stream.
    async fn read(&mut self, slab: &mut BytesMut, owed: &mut Option<Block>) -> Result<bool, Gone> {
        let missing = match owed {
            Some(block) => (block.len as usize).saturating_sub(slab.len()),
            None => self.decoder.max_buffered().saturating_sub(slab.len()),
        };
        self.core.slabs.make_room(slab, missing);
        if self.socket.read_buf(slab).await? == 0 {
            return Ok(false);
        }
        let mut batch = Batch::new(self.peer);
        let broken = self.cut(slab, owed, &mut batch).err();
        let payload: u64 = batch.blocks.iter().map(|block| u64::from(block.len)).sum();
        if !batch.parts.is_empty() {
            // An error means that the torrent ended, and this task is about to be aborted.
            let _ = self.to_torrent.send(FromPeer::Batch(batch)).await;
        }
        if let Some(error) = broken {
            return Err(error.into());
        }
        if payload > 0 {
            self.throttle.download(payload).await;
            self.core.hashers.room().await;
        }
        Ok(true)
    }

    /// Cuts all whole frames off the front of the slab.
    fn cut(
        &self,
        slab: &mut BytesMut,
        owed: &mut Option<Block>,
        batch: &mut Batch,
    ) -> Result<(), WireError> {
        loop {
            if let Some(block) = *owed {
                let len = block.len as usize;
                if slab.len() < len {
                    return Ok(());
                }
                batch.push_block(block, slab.split_to(len).freeze());
                *owed = None;
            }
            match self.decoder.decode(slab)? {
                Some(Frame::Piece(block)) => *owed = Some(block),
                Some(Frame::Message(message)) => batch.push_message(message),
                Some(Frame::Oversized(block)) => batch.parts.push(Part::Oversized(block)),
                None => return Ok(()),
            }
        }
    }
}

/// Leaves an idle connection no more memory than the bytes it holds.
fn shrunk(slabs: &Slabs, slab: BytesMut) -> BytesMut {
    if slab.capacity() <= slab.len() + SMALL {
        return slab;
    }
    let rest = BytesMut::from(&slab[..]);
    slabs.give(slab);
    rest
}
