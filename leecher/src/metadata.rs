//! Takes the info dictionary of a swarm from one of our own peers (BEP-9).
//!
//! The hash is the only thing known, so nothing a peer says is believed before the whole
//! dictionary hashes to it. Bounded: attempts at once, frames and bytes of each, and time.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use torrents::extended::{
    ExtendedHandshake, HANDSHAKE_ID, METADATA_PIECE_LEN, MetadataMessage, OUR_UT_METADATA,
};
use torrents::metainfo::{MAX_METAINFO, MetainfoError};
use torrents::wire::{self, MAX_EXTENDED_LEN, Message};
use torrents::{Info, InfoHash, PeerId};

use crate::announcer::{Announcement, Announcer, Totals};
use crate::dial::{DialFailure, dial};
use crate::engine::{Core, DownloadError};
use crate::torrent_task::STOP_TIMEOUT;

/// Peers asked at once, without those that have taken [`LONG`] already.
const ATTEMPTS: usize = 8;
/// Peers asked at once in all.
const MAX_ATTEMPTS: usize = 64;
/// Who takes longer no longer keeps others from their turn.
const LONG: Duration = Duration::from_secs(2);
/// Addresses tried in all.
const MAX_ADDRS: usize = 1_000;
/// How long one peer may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// Until a peer that failed is asked again, and between two calls for more of them.
const PAUSE: Duration = Duration::from_secs(1);
/// How often somebody may have become due.
const TICK: Duration = Duration::from_millis(100);
/// Requests on their way to one peer.
const PIPELINE: u32 = 8;
/// Messages a peer may send beside its answers.
const MAX_FRAMES: u32 = 100_000;
/// The longest message that is skipped: the bitfield of the largest torrent.
const MAX_SKIPPED: u32 = 512 * 1024;

/// What we call ourselves (`v`).
pub(crate) fn our_version() -> &'static str {
    concat!("Groundswell ", env!("CARGO_PKG_VERSION"))
}

/// Whether a peer is one of ours, by what it says. A lie gains it the hashes of pieces that it
/// can name already.
pub(crate) fn is_ours(id: PeerId) -> bool {
    id.as_bytes().starts_with(b"-SW")
}

/// Why one peer gave no metadata.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Dial(#[from] DialFailure),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it does not give metadata")]
    NotOffered,
    #[error("it rejected the request")]
    Rejected,
    #[error("it sent a message that is too long, or too many")]
    Excessive,
    #[error("what it sent is not what the hash names")]
    Wrong,
    #[error("what the hash names is no torrent we can use: {0}")]
    Unusable(#[from] MetainfoError),
    #[error("it took longer than {} s", ATTEMPT_TIMEOUT.as_secs())]
    Slow,
}

/// The search for one info dictionary.
struct Search {
    core: Arc<Core>,
    info_hash: InfoHash,
    known: HashSet<SocketAddr>,
    /// Not asked yet.
    waiting: VecDeque<SocketAddr>,
    /// Asked in vain, and from when on again; those that were not asked yet go first.
    again: VecDeque<(Instant, SocketAddr)>,
    under_way: HashMap<SocketAddr, Instant>,
    attempts: JoinSet<(SocketAddr, Result<Info, AttemptError>)>,
    last: Option<String>,
}

/// Asks the peers named and found until one gives what the hash names.
pub(crate) async fn fetch(
    core: &Arc<Core>,
    info_hash: InfoHash,
    trackers: Vec<Vec<String>>,
    peers: Vec<SocketAddr>,
    within: Duration,
) -> Result<Info, DownloadError> {
    let (found_to_us, found) = mpsc::channel(4);
    let announcer = trackers.iter().any(|tier| !tier.is_empty()).then(|| {
        Announcer::start(
            core.client.clone(),
            Announcement {
                info_hash,
                peer_id: core.config.peer_id,
                addr: core.announced_addr(),
                advertise: core.config.advertise.is_some(),
                trackers,
                // How much is missing is not known; that something is, is all a tracker needs.
                totals: Arc::new(|| Totals {
                    left: 1,
                    numwant: 50,
                    ..Totals::default()
                }),
                found: found_to_us,
            },
        )
    });
    let mut search = Search {
        core: Arc::clone(core),
        info_hash,
        known: HashSet::new(),
        waiting: VecDeque::new(),
        again: VecDeque::new(),
        under_way: HashMap::new(),
        attempts: JoinSet::new(),
        last: None,
    };
    search.add(&peers);
    let outcome = tokio::select! {
        info = search.run(found, announcer.as_ref()) => Ok(info),
        () = tokio::time::sleep(within) => Err(search.last.take()),
        () = core.stop.cancelled() => return Err(DownloadError::Closed),
    };
    let trouble = announcer.as_ref().and_then(Announcer::trouble);
    if let Some(announcer) = announcer {
        // Nobody waits for trackers; the engine does, when it shuts down.
        core.spawn(async move {
            let _ = tokio::time::timeout(STOP_TIMEOUT, announcer.stop()).await;
        });
    }
    outcome.map_err(|last| DownloadError::NoMetadata {
        info_hash,
        why: last
            .or(trouble)
            .unwrap_or_else(|| "no peer has it".to_owned()),
    })
}

impl Search {
    fn add(&mut self, addrs: &[SocketAddr]) {
        for &addr in addrs {
            let ours = addr == self.core.announced_addr() || addr == self.core.local_addr;
            if !ours && self.known.len() < MAX_ADDRS && self.known.insert(addr) {
                self.waiting.push_back(addr);
            }
        }
    }

    async fn run(
        &mut self,
        mut found: mpsc::Receiver<Vec<SocketAddr>>,
        announcer: Option<&Announcer>,
    ) -> Info {
        let mut tick = tokio::time::interval(TICK);
        let mut pleaded = Instant::now();
        loop {
            while let Some(addr) = self.next() {
                self.begin(addr);
            }
            tokio::select! {
                Some(addrs) = found.recv() => self.add(&addrs),
                Some(done) = self.attempts.join_next() => match done {
                    Ok((_, Ok(info))) => return info,
                    Ok((addr, Err(why))) => self.failed(addr, &why),
                    Err(_) => self.last = Some("bug: an attempt failed".to_owned()),
                },
                _ = tick.tick() => {
                    if let Some(announcer) = announcer
                        && pleaded.elapsed() >= PAUSE
                    {
                        pleaded = Instant::now();
                        announcer.need_peers();
                    }
                }
            }
        }
    }

    /// Whom to ask now. Peers that are slow or say nothing do not keep the others from their turn.
    fn next(&mut self) -> Option<SocketAddr> {
        let young = |began: &&Instant| began.elapsed() < LONG;
        let fresh = self.under_way.values().filter(young).count();
        if fresh >= ATTEMPTS || self.under_way.len() >= MAX_ATTEMPTS {
            return None;
        }
        let untried = self.waiting.pop_front();
        untried.or_else(|| {
            self.again
                .front()
                .filter(|(due, _)| *due <= Instant::now())?;
            self.again.pop_front().map(|(_, addr)| addr)
        })
    }

    fn begin(&mut self, addr: SocketAddr) {
        self.under_way.insert(addr, Instant::now());
        let (core, info_hash) = (Arc::clone(&self.core), self.info_hash);
        self.attempts.spawn(async move {
            let asked = tokio::time::timeout(ATTEMPT_TIMEOUT, ask(core, info_hash, addr));
            (addr, asked.await.unwrap_or(Err(AttemptError::Slow)))
        });
    }

    fn failed(&mut self, addr: SocketAddr, why: &AttemptError) {
        tracing::debug!(%addr, %why, "no metadata");
        self.under_way.remove(&addr);
        self.last = Some(format!("{addr}: {why}"));
        if !matches!(why, AttemptError::Wrong | AttemptError::Unusable(_)) {
            self.again.push_back((Instant::now() + PAUSE, addr));
        }
    }
}

/// Takes the whole dictionary from one peer.
async fn ask(core: Arc<Core>, info_hash: InfoHash, addr: SocketAddr) -> Result<Info, AttemptError> {
    let connection = dial(core, info_hash, addr).await?;
    if !connection.handshake.extended || !is_ours(connection.handshake.peer_id) {
        return Err(AttemptError::NotOffered);
    }
    let mut peer = Exchange {
        stream: BufReader::new(connection.stream),
        frames: 0,
    };
    peer.introduce(connection.handshake.fast).await?;
    let (id, size) = peer.their_handshake().await?;
    let raw = peer.dictionary(id, size).await?;
    if InfoHash::of(&raw) != info_hash {
        return Err(AttemptError::Wrong);
    }
    Ok(Info::parse(raw)?)
}

/// A connection on which nothing but extended messages matters.
struct Exchange {
    stream: BufReader<TcpStream>,
    frames: u32,
}

impl Exchange {
    async fn send(&mut self, messages: &[Message]) -> io::Result<()> {
        let mut out = BytesMut::new();
        for message in messages {
            wire::encode(message, &mut out);
        }
        self.stream.write_all(&out).await
    }

    async fn introduce(&mut self, fast: bool) -> io::Result<()> {
        let handshake = ExtendedHandshake {
            client: Some(our_version().to_owned()),
            ut_metadata: Some(OUR_UT_METADATA),
            ..ExtendedHandshake::default()
        };
        let handshake = Message::Extended {
            id: HANDSHAKE_ID,
            payload: handshake.encode(),
        };
        if fast {
            self.send(&[Message::HaveNone, handshake]).await
        } else {
            self.send(&[handshake]).await
        }
    }

    /// The next extended message; all others are skipped.
    async fn next(&mut self) -> Result<(u8, Bytes), AttemptError> {
        loop {
            self.frames += 1;
            let len = self.stream.read_u32().await?;
            if self.frames > MAX_FRAMES || len > MAX_SKIPPED {
                return Err(AttemptError::Excessive);
            }
            if len == 0 {
                continue;
            }
            let extended = self.stream.read_u8().await? == 20;
            let rest = u64::from(len - 1);
            if extended && (2..=MAX_EXTENDED_LEN).contains(&len) {
                let mut body = Vec::new();
                (&mut self.stream).take(rest).read_to_end(&mut body).await?;
                if body.len() as u64 != rest {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                let mut body = Bytes::from(body);
                let id = body.split_to(1)[0];
                return Ok((id, body));
            }
            let mut skipped = (&mut self.stream).take(rest);
            tokio::io::copy(&mut skipped, &mut tokio::io::sink()).await?;
        }
    }

    /// Its number for `ut_metadata`, and the dictionary's length.
    async fn their_handshake(&mut self) -> Result<(u8, u32), AttemptError> {
        loop {
            let (id, payload) = self.next().await?;
            if id != HANDSHAKE_ID {
                continue;
            }
            let said = ExtendedHandshake::decode(&payload).map_err(|_| AttemptError::NotOffered)?;
            let size = said
                .metadata_size
                .filter(|&size| size as usize <= MAX_METAINFO);
            return match (said.ut_metadata, size) {
                (Some(id), Some(size)) if id != 0 => Ok((id, size)),
                _ => Err(AttemptError::NotOffered),
            };
        }
    }

    /// All pieces, in order; several requests are on their way at once.
    async fn dictionary(&mut self, id: u8, size: u32) -> Result<Bytes, AttemptError> {
        let pieces = size.div_ceil(METADATA_PIECE_LEN);
        let mut asked = 0;
        let mut raw = BytesMut::new();
        for due in 0..pieces {
            while asked < pieces.min(due + PIPELINE) {
                let payload = MetadataMessage::Request { piece: asked }.encode();
                self.send(&[Message::Extended { id, payload }]).await?;
                asked += 1;
            }
            raw.extend_from_slice(&self.piece(due, size).await?);
        }
        Ok(raw.freeze())
    }

    async fn piece(&mut self, due: u32, size: u32) -> Result<Bytes, AttemptError> {
        loop {
            let (id, payload) = self.next().await?;
            if id != OUR_UT_METADATA {
                continue;
            }
            match MetadataMessage::decode(&payload) {
                Ok(MetadataMessage::Data {
                    piece,
                    total_size,
                    bytes,
                }) if piece == due && total_size == size => return Ok(bytes),
                Ok(MetadataMessage::Request { .. }) => {}
                Ok(MetadataMessage::Reject { .. }) => return Err(AttemptError::Rejected),
                _ => return Err(AttemptError::Wrong),
            }
        }
    }
}
