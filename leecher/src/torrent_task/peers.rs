//! The peers of a torrent: how they come, what they are sent, how they go.
//!
//! Owns their connections and tasks; each has one reader and one writer, which end when it parts.
//! What a peer is told is put into its outbox, never written here: nothing in this file waits for a
//! socket.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::BytesMut;
use futures_util::FutureExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use torrents::swarm::{Event, PeerKey, PeerKind, Reason};
use torrents::wire::{self, Decoder, Message};
use torrents::{Block, PeerId};

use super::web::Web;
use super::{Ended, TorrentTask};
use crate::connection::Connection;
use crate::dial::{DialFailure, dial};
use crate::outbox::Outbox;
use crate::peer_task::{FromPeer, Gone, Reader};
use crate::places::Place;
use crate::receive::Receiver;
use crate::status::{PeerStatus, Source, TorrentStatus};
use crate::upload::Writer;

/// How long a broken write waits for the reader to find out what else came before.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(2);

/// Between two warnings of peers that sent corrupt data.
const WARN_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Departed sources remembered for the ledger.
const MAX_DEPARTED: usize = 1024;

/// Somebody who gives or takes.
pub(super) enum Peer {
    Wire(Box<Wire>),
    Web(Web),
}

/// A connection.
pub(super) struct Wire {
    pub(super) addr: SocketAddr,
    /// Where it can be dialled, as far as it said.
    pub(super) listen: Option<SocketAddr>,
    pub(super) id: PeerId,
    pub(super) client: Option<String>,
    pub(super) inbound: bool,
    pub(super) fast: bool,
    /// Its number for `ut_metadata`, if it may have ours.
    pub(super) ut_metadata: Option<u8>,
    /// Pieces of metadata it may still ask for.
    pub(super) metadata_left: u32,
    /// Messages and blocks that go to the writer at the end of this turn.
    control: BytesMut,
    uploads: Vec<Block>,
    dirty: bool,
    outbox: Arc<Outbox>,
    reader: AbortHandle,
    writer: AbortHandle,
    _place: Place,
}

impl Wire {
    fn source(&self) -> SocketAddr {
        self.listen.unwrap_or(self.addr)
    }
}

/// Writes until it cannot. What the peer sent before it stopped reading may still be of use, so
/// a broken line is not told at once.
async fn write(writer: Writer) -> Gone {
    let why = writer.run().await;
    if matches!(why, Gone::Io(_)) {
        tokio::time::sleep(LAST_WORDS).await;
    }
    why
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

impl Peer {
    pub(super) fn source(&self) -> Source {
        match self {
            Self::Wire(wire) => Source::Peer(wire.source()),
            Self::Web(_) => Source::WebSeed,
        }
    }
}

impl TorrentTask {
    pub(super) fn next_key(&mut self) -> PeerKey {
        self.next_key += 1;
        PeerKey(self.next_key)
    }

    pub(super) fn wire(&mut self, peer: PeerKey) -> Option<&mut Wire> {
        match self.peers.get_mut(&peer) {
            Some(Peer::Wire(wire)) => Some(wire),
            _ => None,
        }
    }

    // How they come.

    pub(super) fn dial(&mut self, addr: SocketAddr) {
        let (core, info_hash) = (Arc::clone(&self.core), self.shared.info.hash());
        self.tasks.spawn(async move {
            let result = Box::new(dial(core, info_hash, addr).await);
            Ended::Dial { addr, result }
        });
    }

    pub(super) fn dialled(&mut self, addr: SocketAddr, result: Result<Connection, DialFailure>) {
        match result {
            Ok(connection) => self.connected(connection),
            Err(why) => {
                tracing::debug!(%addr, %why, "cannot connect");
                self.trouble = Some(format!("cannot connect to {addr}: {why}"));
                let forever = why.is_final();
                self.handle(Event::DialFailed { addr, forever });
            }
        }
    }

    fn reader(&self, peer: PeerKey, socket: OwnedReadHalf, fast: bool, extended: bool) -> Reader {
        let geometry = *self.shared.info.geometry();
        Reader {
            core: Arc::clone(&self.core),
            throttle: self.throttle.clone(),
            peer,
            socket,
            receiver: Receiver::new(Decoder::new(geometry, fast, extended)),
            to_torrent: self.to_us.clone(),
        }
    }

    fn writer(&self, peer: PeerKey, socket: OwnedWriteHalf, outbox: Arc<Outbox>) -> Writer {
        Writer {
            core: Arc::clone(&self.core),
            throttle: self.throttle.clone(),
            peer,
            socket,
            outbox,
            content: Arc::clone(&self.shared.content),
            geometry: *self.shared.info.geometry(),
            to_torrent: self.to_us.clone(),
        }
    }

    /// Both handshakes are done: starts the two tasks and introduces the peer to the machine.
    pub(super) fn connected(&mut self, connection: Connection) {
        let peer = self.next_key();
        let Connection {
            stream,
            addr,
            handshake,
            inbound,
            place,
        } = connection;
        tracing::debug!(%addr, id = %handshake.peer_id, inbound, "peer connected");
        let (fast, extended) = (handshake.fast, handshake.extended);
        let (read_half, write_half) = stream.into_split();
        let outbox = Arc::new(Outbox::default());
        let reader = self.reader(peer, read_half, fast, extended);
        let writer = self.writer(peer, write_half, Arc::clone(&outbox));
        let wire = Wire {
            addr,
            listen: (!inbound).then_some(addr),
            id: handshake.peer_id,
            client: None,
            inbound,
            fast,
            ut_metadata: None,
            metadata_left: 0,
            control: BytesMut::new(),
            uploads: Vec::new(),
            dirty: false,
            outbox,
            reader: self.watch(peer, reader.run()),
            writer: self.watch(peer, write(writer)),
            _place: place,
        };
        self.peers.insert(peer, Peer::Wire(Box::new(wire)));
        self.handle(Event::Connected {
            peer,
            addr: Some(addr),
            id: Some(handshake.peer_id),
            kind: PeerKind::Wire {
                fast,
                extended,
                inbound,
            },
        });
        if extended {
            self.introduce(peer);
        }
    }

    /// Runs a task of a peer; its end is told through the inbox, after all it sent.
    pub(super) fn watch(
        &mut self,
        peer: PeerKey,
        task: impl Future<Output = Gone> + Send + 'static,
    ) -> AbortHandle {
        let to_torrent = self.to_us.clone();
        self.tasks.spawn(async move {
            let why = AssertUnwindSafe(task).catch_unwind().await;
            let why = why.unwrap_or(Gone::Bug);
            // An error means that the torrent is ending too.
            let _ = to_torrent.send(FromPeer::Gone { peer, why }).await;
            Ended::Told
        })
    }

    // What they are sent.

    /// Stages a message; it leaves at the end of this turn.
    pub(super) fn send(&mut self, peer: PeerKey, message: &Message) {
        self.stage(peer, |wire| wire::encode(message, &mut wire.control));
    }

    fn stage(&mut self, peer: PeerKey, write: impl FnOnce(&mut Wire)) {
        let Some(Peer::Wire(wire)) = self.peers.get_mut(&peer) else {
            return;
        };
        write(wire);
        if !std::mem::replace(&mut wire.dirty, true) {
            self.dirty.push(peer);
        }
    }

    pub(super) fn request(&mut self, peer: PeerKey, blocks: Vec<Block>) {
        if let Some(Peer::Web(_)) = self.peers.get(&peer) {
            return self.fetch(peer, blocks);
        }
        self.stage(peer, |wire| {
            for &block in &blocks {
                wire::encode(&Message::Request(block), &mut wire.control);
            }
        });
        self.swarm.recycle(blocks);
    }

    pub(super) fn cancel(&mut self, peer: PeerKey, blocks: Vec<Block>) {
        if let Some(Peer::Web(web)) = self.peers.get_mut(&peer) {
            web.cancel(&blocks);
        } else {
            self.stage(peer, |wire| {
                for &block in &blocks {
                    wire::encode(&Message::Cancel(block), &mut wire.control);
                }
            });
        }
        self.swarm.recycle(blocks);
    }

    pub(super) fn upload(&mut self, peer: PeerKey, blocks: Vec<Block>) {
        self.stage(peer, |wire| wire.uploads.extend_from_slice(&blocks));
        self.swarm.recycle(blocks);
    }

    /// A request for more than anybody serves at once.
    pub(super) fn refuse(&mut self, peer: PeerKey, block: Block) {
        if self.wire(peer).is_some_and(|wire| wire.fast) {
            self.send(peer, &Message::Reject(block));
        }
    }

    /// Hands what is staged to the writers, one lock each.
    pub(super) fn flush(&mut self) {
        while let Some(peer) = self.dirty.pop() {
            let Some(wire) = self.wire(peer) else {
                continue;
            };
            wire.dirty = false;
            if wire
                .outbox
                .put(&mut wire.control, &mut wire.uploads)
                .is_err()
            {
                self.gone(peer, &Gone::Stalled);
            }
        }
    }

    // How they go.

    /// The machine lets a peer go.
    pub(super) fn disconnect(&mut self, peer: PeerKey, reason: Reason) {
        match self.peers.get(&peer) {
            Some(Peer::Wire(wire)) if reason == Reason::Corrupt => {
                let (addr, client) = (wire.addr, wire.client.as_deref());
                self.trouble = Some(format!("{} sent corrupt data", wire.source()));
                // Once a second: those who come again and again under other names are many.
                if self.warned.is_none_or(|at| at.elapsed() > WARN_AGAIN) {
                    self.warned = Some(Instant::now());
                    tracing::warn!(
                        %addr, id = %wire.id, client, info_hash = %self.shared.info.hash(),
                        "banned a peer that sent corrupt data"
                    );
                }
            }
            Some(Peer::Wire(wire)) => tracing::debug!(addr = %wire.addr, ?reason, "disconnected"),
            Some(Peer::Web(_)) if reason == Reason::Corrupt => self.web_seed_lied(peer),
            _ => {}
        }
        self.part(peer);
    }

    /// A connection or web seed ended by itself.
    pub(super) fn gone(&mut self, peer: PeerKey, why: &Gone) {
        match self.peers.get(&peer) {
            None => return,
            Some(Peer::Wire(wire)) => {
                let addr = wire.addr;
                if matches!(why, Gone::Bug) {
                    tracing::error!(%addr, "bug: the task of a peer failed");
                } else {
                    tracing::debug!(%addr, %why, "peer gone");
                }
                if matches!(why, Gone::Protocol(_)) {
                    self.trouble = Some(format!("{}: {why}", wire.source()));
                }
            }
            Some(Peer::Web(_)) => self.web_seed_failed(peer, why),
        }
        self.part(peer);
        self.handle(Event::Disconnected { peer });
    }

    /// Forgets a peer, but not what it gave.
    pub(super) fn part(&mut self, peer: PeerKey) {
        if let Some(gone) = self.peers.remove(&peer) {
            if self.departed.len() >= MAX_DEPARTED {
                self.departed.pop_front();
            }
            self.departed.push_back((peer, gone.source()));
        }
    }

    /// Who that is or was.
    pub(super) fn source(&self, peer: PeerKey) -> Option<Source> {
        let departed = |departed: &VecDeque<(PeerKey, Source)>| {
            let found = departed.iter().rev().find(|(key, _)| *key == peer);
            found.map(|&(_, source)| source)
        };
        self.peers
            .get(&peer)
            .map(Peer::source)
            .or_else(|| departed(&self.departed))
    }

    // What people see of them.

    pub(super) fn status(&self) -> TorrentStatus {
        let total = f64::from(self.shared.info.geometry().pieces());
        let (mut down_rate, mut up_rate) = (0, 0);
        let mut peers = Vec::new();
        for view in self.swarm.peers() {
            down_rate += view.rates.0;
            up_rate += view.rates.1;
            let Some(Peer::Wire(wire)) = self.peers.get(&view.peer) else {
                continue;
            };
            let client = wire.client.clone();
            peers.push(PeerStatus {
                addr: wire.source(),
                client: client
                    .or_else(|| wire.id.client().map(str::to_owned))
                    .unwrap_or_else(|| "unknown".to_owned()),
                progress: f64::from(view.pieces) / total,
                downloaded: view.downloaded,
                uploaded: view.uploaded,
                down_rate: view.rates.0,
                up_rate: view.rates.1,
            });
        }
        TorrentStatus {
            down_rate,
            up_rate,
            note: self.note(),
            peers,
            ..self.shared.epitaph()
        }
    }

    /// Why it waits, if it does.
    fn note(&self) -> Option<String> {
        if self.swarm.is_complete() {
            return None;
        }
        let trackers = self.announcer.as_ref();
        let trouble = trackers.and_then(|announcer| announcer.trouble());
        trouble.or_else(|| self.want())
    }

    /// What the peers there are lack.
    fn want(&self) -> Option<String> {
        let (mut peers, mut have, mut open) = (0, 0, 0);
        for view in self.swarm.peers().filter(|view| view.addr.is_some()) {
            peers += 1;
            have += usize::from(view.interested.0);
            open += usize::from(view.interested.0 && !view.choked.0);
        }
        match (peers, have, open) {
            (0, ..) => {
                let trouble = self.trouble.clone();
                trouble.or_else(|| Some("no peer is connected".into()))
            }
            (_, 0, _) => Some("none of them has what is missing".into()),
            (_, have, 0) => Some(format!(
                "{have} of them have what is missing, none serves us"
            )),
            _ => None,
        }
    }
}
