//! Handles to one live torrent: what the outside may ask of it.
//!
//! Handles share [`Shared`] with the torrent's task, which alone writes progress, board and
//! ledger. Nothing here blocks the task: windows and addresses to try go through a mailbox in
//! which the latest wish replaces the former.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use torrents::Info;

use crate::board::Board;
use crate::connection::Connection;
use crate::content::Content;
use crate::locked;
use crate::status::{Ledger, Phase, Progress, TorrentStatus, Transfer};

/// How far ahead of a reader pieces are wanted soon, in bytes.
const WINDOW: u64 = 16 * 1024 * 1024;
/// And in pieces at least.
const WINDOW_PIECES: u32 = 2;

/// Addresses that may wait in the mailbox; more than the machine would keep.
const MAX_MAIL: usize = 3_000;

/// Why a torrent stopped.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TorrentError {
    /// Writing or reading content failed (disk full, ...).
    #[error("{0}")]
    Storage(Arc<str>),
    /// It was forgotten, or the engine shut down.
    #[error("the torrent was closed")]
    Closed,
    /// Our own fault; the log has the details.
    #[error("bug: the torrent's task failed")]
    Bug,
}

/// A live torrent. Cheap to clone; dropping it stops nothing.
#[derive(Debug, Clone)]
pub struct Torrent {
    pub(crate) shared: Arc<Shared>,
}

/// What a torrent's task and its handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) info: Info,
    pub(crate) content: Arc<Content>,
    pub(crate) board: Board,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) mailbox: Mailbox,
    pub(crate) commands: mpsc::Sender<Command>,
    /// Asks the task to end.
    pub(crate) stop: CancellationToken,
    /// The task and everything it started are gone.
    pub(crate) ended: CancellationToken,
    /// It announces itself, so that nobody else need do it.
    pub(crate) announced: bool,
    readers: AtomicU64,
}

/// What the task is asked to do, in order.
#[derive(Debug)]
pub(crate) enum Command {
    /// A peer dialled us; both handshakes are done.
    Inbound(Box<Connection>),
    /// Somebody looks.
    Status(oneshot::Sender<TorrentStatus>),
}

/// Wishes of which only the latest counts.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    pub(crate) wake: Notify,
}

#[derive(Debug, Default)]
pub(crate) struct Mail {
    /// By reader; `None` when it is gone.
    pub(crate) windows: HashMap<u64, Option<Range<u32>>>,
    pub(crate) peers: Vec<SocketAddr>,
    /// Somebody tried to come and could not.
    pub(crate) knocked: bool,
}

impl Mailbox {
    fn put(&self, write: impl FnOnce(&mut Mail)) {
        write(&mut locked(&self.mail));
        self.wake.notify_one();
    }

    pub(crate) fn take(&self) -> Mail {
        std::mem::take(&mut *locked(&self.mail))
    }
}

impl Shared {
    pub(crate) fn new(
        info: Info,
        content: Arc<Content>,
        commands: mpsc::Sender<Command>,
        stop: CancellationToken,
        announced: bool,
    ) -> Self {
        let have = content.have();
        let geometry = info.geometry();
        let verified = have
            .iter()
            .map(|piece| u64::from(geometry.piece_size(piece)))
            .sum();
        let phase = if have.is_full() {
            Phase::Seeding
        } else {
            Phase::Downloading
        };
        let length = geometry.length();
        Self {
            board: Board::new(&have),
            progress: watch::Sender::new(Progress {
                phase,
                verified,
                length,
            }),
            info,
            content,
            ledger: Mutex::default(),
            mailbox: Mailbox::default(),
            commands,
            stop,
            ended: CancellationToken::new(),
            announced,
            readers: AtomicU64::new(0),
        }
    }

    /// Whether its task takes no more part in anything.
    pub(crate) fn is_over(&self) -> bool {
        self.commands.is_closed() || self.board.ended().is_some()
    }

    /// It is over: readers and waiters learn why. What is complete stays complete when it is
    /// merely closed.
    pub(crate) fn end(&self, why: TorrentError) {
        let closed = matches!(why, TorrentError::Closed);
        self.board.end(why);
        self.progress.send_if_modified(|progress| {
            let keep = closed && progress.phase == Phase::Seeding;
            let failed = !keep && progress.phase != Phase::Failed;
            if failed {
                progress.phase = Phase::Failed;
            }
            failed
        });
    }

    /// The status of a torrent whose task is gone.
    pub(crate) fn epitaph(&self) -> TorrentStatus {
        TorrentStatus {
            info_hash: self.info.hash(),
            name: self.info.name().to_owned(),
            progress: self.progress.borrow().clone(),
            transfer: locked(&self.ledger).transfer(),
            down_rate: 0,
            up_rate: 0,
            peers: Vec::new(),
            note: self.board.ended().map(ToString::to_string),
        }
    }
}

impl Torrent {
    /// What it is.
    pub fn info(&self) -> &Info {
        &self.shared.info
    }

    /// Where its bytes are.
    pub fn content(&self) -> &Arc<Content> {
        &self.shared.content
    }

    /// How far it is, as it changes.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// Everything for people, peers included; without peers and rates once it stopped.
    pub async fn status(&self) -> Option<TorrentStatus> {
        let (reply, answer) = oneshot::channel();
        let asked = self.shared.commands.send(Command::Status(reply)).await;
        match asked {
            Ok(()) => answer.await.ok(),
            Err(_) => None,
        }
        .or_else(|| Some(self.shared.epitaph()))
    }

    /// Where its bytes came from so far.
    pub fn transfer(&self) -> Transfer {
        locked(&self.shared.ledger).transfer()
    }

    /// A reader with a window of its own.
    pub fn reader(&self) -> Reader {
        Reader {
            shared: Arc::clone(&self.shared),
            id: self.shared.readers.fetch_add(1, Ordering::Relaxed),
            window: None,
        }
    }

    /// Waits until everything is verified.
    pub async fn finished(&self) -> Result<(), TorrentError> {
        let mut progress = self.progress();
        let settled = progress
            .wait_for(|now| now.phase != Phase::Downloading)
            .await;
        let phase = settled.map(|now| now.phase);
        match phase {
            Ok(Phase::Seeding) => Ok(()),
            _ => Err(self.why()),
        }
    }

    fn why(&self) -> TorrentError {
        let why = self.shared.board.ended().cloned();
        why.unwrap_or(TorrentError::Closed)
    }

    /// Adds peers to try.
    pub fn add_peers(&self, peers: &[SocketAddr]) {
        if peers.is_empty() {
            return;
        }
        self.shared.mailbox.put(|mail| {
            let room = MAX_MAIL.saturating_sub(mail.peers.len());
            mail.peers.extend(peers.iter().take(room));
        });
    }

    /// Somebody tried to come, for whatever torrent, in a way that we do not answer.
    pub(crate) fn knocked(&self) {
        self.shared.mailbox.put(|mail| mail.knocked = true);
    }
}

/// Reads verified bytes in any order and steers the picker to what is read next. Dropping it
/// gives its window up.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    id: u64,
    window: Option<Range<u32>>,
}

impl Reader {
    /// Waits until the byte at `range.start` is verified and returns where the verified run
    /// from there ends (never beyond `range.end`). Steers the picker to `range.start`.
    ///
    /// A range that is empty or begins outside of the torrent is ready at once.
    pub async fn ready(&mut self, range: Range<u64>) -> Result<u64, TorrentError> {
        let geometry = *self.shared.info.geometry();
        let end = range.end.min(geometry.length());
        let (Some(first), true) = (geometry.piece_at(range.start), range.start < end) else {
            return Ok(range.start);
        };
        let last = geometry
            .piece_at(end - 1)
            .map_or(first.get(), |piece| piece.get());
        if !self.shared.board.contains(first.get()) {
            self.steer(first.get()..last + 1);
            self.shared.board.wait(first.get()).await?;
        }
        let run = self.shared.board.run_end(first.get(), last + 1);
        self.steer(run..last + 1);
        let ready = match geometry.piece(run) {
            Some(missing) => geometry.piece_offset(missing),
            None => geometry.length(),
        };
        Ok(ready.min(end))
    }

    /// Wants the first pieces of `pieces` next; nothing is said when nothing changes.
    fn steer(&mut self, pieces: Range<u32>) {
        let piece_len = u64::from(self.shared.info.geometry().piece_len());
        let width = u32::try_from(WINDOW.div_ceil(piece_len)).unwrap_or(u32::MAX);
        let end = pieces
            .end
            .min(pieces.start.saturating_add(width.max(WINDOW_PIECES)));
        let window = pieces.start..end;
        if self.window.as_ref() == Some(&window) {
            return;
        }
        if window.is_empty() && self.window.is_none() {
            return;
        }
        self.window = Some(window.clone());
        let id = self.id;
        self.shared.mailbox.put(|mail| {
            mail.windows.insert(id, Some(window));
        });
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.window.is_some() && !self.shared.is_over() {
            let id = self.id;
            self.shared.mailbox.put(|mail| {
                mail.windows.insert(id, None);
            });
        }
    }
}
