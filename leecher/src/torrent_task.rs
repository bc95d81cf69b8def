//! One torrent's owner: `select`, then `apply`.
//!
//! ```text
//!  peer readers ─┐                                  ┌─▶ peer writers (outbox)
//!  web fetches  ─┤ batches                  actions ├─▶ hashing pool
//!  hash workers ─┼────────▶ TorrentTask ───────────▶├─▶ dials, fetches
//!  announcer    ─┤          (owns Swarm)            ├─▶ announcer
//!  handles      ─┘                                  └─▶ progress, board, ledger
//! ```
//!
//! It alone holds the machine, the blocks of unfinished pieces and the list of peers, so nothing
//! is locked. `select` only returns a value and is cancel-safe; `apply` never waits. Invariants:
//! actions are drained after every event; every task it starts is in its `JoinSet` and gone
//! before it returns; a reader of the torrent learns of its end before its peers do.

mod extended;
mod farewell;
mod peers;
mod pieces;
mod web;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use torrents::swarm::{Action, Event, Now, PeerKey, Swarm};
use torrents::wire::Message;
use torrents::{Block, PieceIndex};

use crate::announcer::Announcer;
use crate::assembly::Assembly;
use crate::blame::Blame;
use crate::connection::Connection;
use crate::dial::DialFailure;
use crate::engine::{Core, DownloadShare};
use crate::hashing::Hashed;
use crate::limits::Throttle;
use crate::locked;
use crate::peer_task::{Batch, FromPeer, Part};
use crate::status::Source;
use crate::torrent::{Command, Shared, TorrentError};

use peers::Peer;

pub(crate) use farewell::STOP_TIMEOUT;

/// Batches that may wait for the task. Each is one read of a peer at most.
pub(crate) const INBOX: usize = 64;
/// Batches taken at once.
const AT_ONCE: usize = 16;
/// Hashed pieces that may wait for the task.
const HASHED: usize = 64;
/// Answers of trackers that may wait.
const FOUND: usize = 8;

/// What a torrent starts with.
pub(crate) struct Beginning {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) trackers: Vec<Vec<String>>,
    pub(crate) web_seeds: Vec<String>,
    pub(crate) eager_web_seed: bool,
    /// Opened from the library: closed again when nobody needs it.
    pub(crate) on_demand: bool,
}

/// Why the task returned, when nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It was asked to.
    Stopped,
    /// Nobody needs it now.
    Dormant,
    /// The content cannot be written or read.
    Failed,
}

pub(crate) struct TorrentTask {
    core: Arc<Core>,
    shared: Arc<Shared>,
    swarm: Swarm,
    peers: HashMap<PeerKey, Peer>,
    next_key: u64,
    /// Who gave blocks that are not verified yet, and left.
    departed: VecDeque<(PeerKey, Source)>,
    /// What last went wrong with somebody who was to give, in words.
    trouble: Option<String>,
    /// When a peer that sent corrupt data was last warned of.
    warned: Option<Instant>,
    /// Peers with something staged for their writers.
    dirty: Vec<PeerKey>,

    assembly: Assembly,
    blame: Blame,
    /// Pieces at the hash workers, with the source of each block.
    verifying: HashMap<PieceIndex, Vec<PeerKey>>,
    /// The blocks of the event that is being handled, until the machine has judged them.
    incoming: Vec<Option<(Block, Bytes)>>,
    actions: Vec<Action>,

    inbox: mpsc::Receiver<FromPeer>,
    to_us: mpsc::Sender<FromPeer>,
    batches: Vec<FromPeer>,
    hashed: mpsc::Receiver<Hashed>,
    hashed_to_us: mpsc::Sender<Hashed>,
    commands: mpsc::Receiver<Command>,
    found: mpsc::Receiver<Vec<SocketAddr>>,
    announcer: Option<Announcer>,
    throttle: Throttle,
    share: Option<DownloadShare>,
    downloads: watch::Receiver<usize>,
    tasks: JoinSet<Ended>,

    timer: Pin<Box<Sleep>>,
    armed: Option<Now>,
    /// Since when there is neither a peer nor anything to fetch.
    idle_since: Option<Now>,
    on_demand: bool,
    ending: Option<End>,
}

/// What a task of this torrent came to.
enum Ended {
    Dial {
        addr: SocketAddr,
        result: Box<Result<Connection, DialFailure>>,
    },
    /// A web seed may be tried again.
    WebSeed(web::WebSeed),
    /// A reader, writer or fetch; it said all there is to say through the inbox.
    Told,
}

/// What woke the task.
enum Wake {
    Stop,
    Peers,
    Hashed(Hashed),
    Command(Option<Command>),
    Found(Vec<SocketAddr>),
    Mail,
    Ended(Option<Ended>),
    Budget,
    Timer,
}

impl TorrentTask {
    pub(crate) fn new(core: Arc<Core>, beginning: Beginning) -> Self {
        let shared = beginning.shared;
        let geometry = *shared.info.geometry();
        let mut settings = core.config.swarm.clone();
        settings.eager_web_seed |= beginning.eager_web_seed;
        let block_len = settings.block_len;
        let have = shared.content.have();
        let share = (!have.is_full()).then(|| core.share());
        let swarm = Swarm::new(
            geometry,
            have,
            core.config.peer_id,
            settings,
            rand::random(),
        );
        let (to_us, inbox) = mpsc::channel(INBOX);
        let (hashed_to_us, hashed) = mpsc::channel(HASHED);
        let (found_to_us, found) = mpsc::channel(FOUND);
        let announcer = core.announce(&shared, beginning.trackers, found_to_us);
        let mut task = Self {
            downloads: core.downloads(),
            timer: Box::pin(tokio::time::sleep_until(Instant::now())),
            armed: None,
            throttle: core.bandwidth.throttle(shared.info.hash()),
            idle_since: None,
            on_demand: beginning.on_demand,
            ending: None,
            assembly: Assembly::new(geometry, block_len),
            core,
            shared,
            swarm,
            peers: HashMap::new(),
            next_key: 0,
            departed: VecDeque::new(),
            trouble: None,
            warned: None,
            dirty: Vec::new(),
            blame: Blame::default(),
            verifying: HashMap::new(),
            incoming: Vec::new(),
            actions: Vec::new(),
            inbox,
            to_us,
            batches: Vec::with_capacity(AT_ONCE),
            hashed,
            hashed_to_us,
            commands: beginning.commands,
            found,
            announcer,
            share,
            tasks: JoinSet::new(),
        };
        task.set_budget();
        task.meet_web_seeds(beginning.web_seeds);
        task
    }

    /// Drives the torrent until it is stopped, idle or broken; then cleans up.
    pub(crate) async fn run(mut self) {
        while self.ending.is_none() {
            self.flush();
            self.rest();
            let wake = self.select().await;
            self.apply(wake);
        }
        self.farewell().await;
    }

    fn now(&self) -> Now {
        self.core.epoch.elapsed()
    }

    async fn select(&mut self) -> Wake {
        tokio::select! {
            () = self.shared.stop.cancelled() => Wake::Stop,
            _ = self.inbox.recv_many(&mut self.batches, AT_ONCE) => Wake::Peers,
            Some(hashed) = self.hashed.recv() => Wake::Hashed(hashed),
            command = self.commands.recv() => Wake::Command(command),
            Some(addrs) = self.found.recv() => Wake::Found(addrs),
            () = self.shared.mailbox.wake.notified() => Wake::Mail,
            Some(ended) = self.tasks.join_next() => Wake::Ended(ended.ok()),
            Ok(()) = self.downloads.changed(), if self.share.is_some() => Wake::Budget,
            () = &mut self.timer, if self.armed.is_some() => Wake::Timer,
        }
    }

    fn apply(&mut self, wake: Wake) {
        match wake {
            Wake::Stop | Wake::Command(None) => self.ending = Some(End::Stopped),
            Wake::Peers => {
                let mut batches = std::mem::take(&mut self.batches);
                for batch in batches.drain(..) {
                    self.heard(batch);
                }
                self.batches = batches;
            }
            Wake::Hashed(hashed) => self.hashed(hashed),
            Wake::Command(Some(Command::Inbound(connection))) => self.connected(*connection),
            Wake::Command(Some(Command::Status(reply))) => {
                // Whoever asked may have gone.
                let _ = reply.send(self.status());
            }
            Wake::Found(addrs) => self.candidates(addrs),
            Wake::Mail => self.mail(),
            Wake::Ended(Some(Ended::Dial { addr, result })) => self.dialled(addr, *result),
            Wake::Ended(Some(Ended::WebSeed(seed))) => self.meet_web_seed(seed),
            Wake::Ended(Some(Ended::Told) | None) => {}
            Wake::Budget => self.set_budget(),
            Wake::Timer => self.timer(),
        }
    }

    fn heard(&mut self, message: FromPeer) {
        match message {
            FromPeer::Batch(batch) => self.batch(batch),
            FromPeer::Uploaded {
                peer,
                blocks,
                bytes,
            } => {
                locked(&self.shared.ledger).uploaded(bytes);
                self.core.uploaded.fetch_add(bytes, Ordering::Relaxed);
                self.handle(Event::Uploaded {
                    peer,
                    blocks,
                    bytes,
                });
            }
            FromPeer::Gone { peer, why } => self.gone(peer, &why),
            FromPeer::Unreadable { why } => self.fail(&why),
            FromPeer::BadSector { piece, why } => {
                let info = &self.shared.info;
                tracing::error!(
                    info_hash = %info.hash(), name = info.name(), %piece, %why,
                    "a piece cannot be read, and nobody gets it from here"
                );
                self.handle(Event::Unreadable { piece });
            }
        }
    }

    /// One read of a peer, part by part.
    fn batch(&mut self, batch: Batch) {
        let peer = batch.peer;
        let mut payload = batch.payload.into_iter();
        let mut blocks = &batch.blocks[..];
        let mut requests = &batch.requests[..];
        for part in batch.parts {
            if !self.peers.contains_key(&peer) {
                let late = blocks.iter().map(|block| u64::from(block.len)).sum();
                return locked(&self.shared.ledger).wasted(late);
            }
            match part {
                Part::Message(Message::Extended { id, payload }) => {
                    self.extended(peer, id, payload);
                }
                Part::Message(message) => self.handle(Event::Message { peer, message }),
                Part::Oversized(block) => self.refuse(peer, block),
                Part::Requests(run) => {
                    let (these, rest) = requests.split_at(run);
                    requests = rest;
                    self.handle(Event::Requested {
                        peer,
                        blocks: these,
                    });
                }
                Part::Blocks(run) => {
                    let (these, rest) = blocks.split_at(run);
                    blocks = rest;
                    self.received(peer, these, payload.by_ref().take(run));
                }
            }
        }
    }

    /// Tells the machine, and does what it says.
    fn handle(&mut self, event: Event<'_>) {
        let now = self.now();
        self.swarm.handle(now, event);
        while let Some(action) = self.swarm.poll_action() {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { peer, message } => self.send(peer, &message),
            Action::Request { peer, blocks } => self.request(peer, blocks),
            Action::Cancel { peer, blocks } => self.cancel(peer, blocks),
            Action::Upload { peer, blocks } => self.upload(peer, blocks),
            Action::Verify { piece } => self.verify(piece),
            Action::Discard { blocks, peer } => self.discard(blocks, peer),
            Action::Dial { addr } => self.dial(addr),
            Action::Disconnect { peer, reason } => self.disconnect(peer, reason),
            Action::NeedPeers => {
                if let Some(announcer) = &self.announcer {
                    announcer.need_peers();
                }
            }
            Action::Complete => self.completed(),
        }
    }

    fn candidates(&mut self, mut addrs: Vec<SocketAddr>) {
        let ours = [self.core.local_addr, self.core.announced_addr()];
        addrs.retain(|addr| !ours.contains(addr));
        self.handle(Event::Candidates { addrs: &addrs });
    }

    fn mail(&mut self) {
        let mail = self.shared.mailbox.take();
        for (reader, window) in mail.windows {
            self.handle(match window {
                Some(pieces) => Event::Window { reader, pieces },
                None => Event::WindowClosed { reader },
            });
        }
        if !mail.peers.is_empty() {
            self.candidates(mail.peers);
        }
        if mail.knocked
            && self.swarm.is_complete()
            && let Some(announcer) = &self.announcer
        {
            announcer.ask_again();
        }
    }

    /// An equal share of the memory for everybody who downloads, but never less than what lets
    /// a piece be finished while the next begins.
    fn set_budget(&mut self) {
        let Some(share) = &self.share else {
            return;
        };
        let least = 2 * u64::from(self.shared.info.geometry().piece_len());
        let bytes = share.bytes().max(least);
        self.handle(Event::Budget { bytes });
    }

    /// Sets the timer to what comes first: the machine's wish or the end of an idle torrent.
    fn rest(&mut self) {
        let idle = self.swarm.is_complete() && self.peers.is_empty();
        self.idle_since = match (idle, self.idle_since) {
            (false, _) => None,
            (true, None) => Some(self.now()),
            (true, since) => since,
        };
        let dormant = self
            .idle_since
            .map(|since| since + self.core.config.dormant_after);
        let due = [self.swarm.poll_timeout(), dormant]
            .into_iter()
            .flatten()
            .min();
        // A timer that fires early costs less than one that is set anew for each batch.
        if let Some(due) = due
            && self.armed.is_none_or(|armed| due < armed)
        {
            self.armed = Some(due);
            self.timer.as_mut().reset(self.core.epoch + due);
        }
    }

    fn timer(&mut self) {
        self.armed = None;
        let now = self.now();
        if self.swarm.poll_timeout().is_some_and(|due| due <= now) {
            self.handle(Event::Timeout);
        }
        let idle = self.idle_since.map(|since| now.saturating_sub(since));
        if idle.is_some_and(|idle| idle >= self.core.config.dormant_after)
            && (self.on_demand || self.core.is_seed(self.shared.info.hash()))
        {
            self.ending = Some(End::Dormant);
        } else if idle.is_some_and(|idle| idle >= self.core.config.dormant_after) {
            self.idle_since = Some(now);
        }
    }

    /// The content is of no use any more: everybody is told why, once.
    fn fail(&mut self, why: &std::io::Error) {
        if self.ending.is_some() {
            return;
        }
        let info = &self.shared.info;
        tracing::error!(info_hash = %info.hash(), name = info.name(), %why, "torrent stopped");
        self.ending = Some(End::Failed);
        self.shared
            .end(TorrentError::Storage(why.to_string().into()));
    }
}
