//! Web seeds as peers that have everything: each run of blocks that the machine asks for is one
//! range request, its bytes are cut into blocks and come in like anybody's.
//!
//! A web seed that fails, or gives wrong bytes, leaves the swarm and is met again later, as
//! somebody new.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use torrents::Block;
use torrents::swarm::{Event, PeerKey, PeerKind, ban_length};

use super::peers::Peer;
use super::{Ended, TorrentTask};
use crate::engine::Core;
use crate::http::shown;
use crate::limits::Throttle;
use crate::peer_task::{Batch, FromPeer, Gone};
use crate::webseed;

/// The first pause after a failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Web seeds of one torrent.
const MAX_WEB_SEEDS: usize = 8;

/// Payload of one batch at most.
const BATCH: usize = 256 * 1024;
/// Blocks of a slow one are passed on after this at the latest.
const SOON: Duration = Duration::from_millis(250);

/// Where it is, how often in a row it failed, and how often it gave wrong bytes.
#[derive(Debug, Clone)]
pub(super) struct WebSeed {
    url: Arc<str>,
    failures: u32,
    lies: u32,
}

/// A web seed among the peers.
pub(super) struct Web {
    seed: WebSeed,
    fetches: Vec<Fetch>,
}

struct Fetch {
    owed: Vec<Block>,
    task: AbortHandle,
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Web {
    /// Blocks came, or are not wanted: a fetch that owes nothing more is dropped.
    fn settle(&mut self, blocks: &[Block]) {
        for fetch in &mut self.fetches {
            fetch.owed.retain(|owed| !blocks.contains(owed));
        }
        self.fetches.retain(|fetch| !fetch.owed.is_empty());
    }

    pub(super) fn cancel(&mut self, blocks: &[Block]) {
        self.settle(blocks);
    }

    pub(super) fn received(&mut self, blocks: &[Block]) {
        self.seed.failures = 0;
        self.settle(blocks);
    }
}

impl TorrentTask {
    pub(super) fn meet_web_seeds(&mut self, urls: Vec<String>) {
        let places: Vec<String> = urls
            .iter()
            .filter_map(|url| webseed::location(url, &self.shared.info))
            .take(MAX_WEB_SEEDS)
            .collect();
        for url in places {
            self.meet_web_seed(WebSeed {
                url: url.into(),
                failures: 0,
                lies: 0,
            });
        }
    }

    pub(super) fn meet_web_seed(&mut self, seed: WebSeed) {
        if self.swarm.is_complete() {
            return;
        }
        let peer = self.next_key();
        let fetches = Vec::new();
        self.peers.insert(peer, Peer::Web(Web { seed, fetches }));
        self.handle(Event::Connected {
            peer,
            addr: None,
            id: None,
            kind: PeerKind::WebSeed,
        });
    }

    pub(super) fn part_from_web_seeds(&mut self) {
        let web = self
            .peers
            .iter()
            .filter(|(_, peer)| matches!(peer, Peer::Web(_)));
        let keys: Vec<PeerKey> = web.map(|(&key, _)| key).collect();
        for peer in keys {
            self.part(peer);
            self.handle(Event::Disconnected { peer });
        }
    }

    /// It will be met again after a while, longer each time.
    pub(super) fn web_seed_failed(&mut self, peer: PeerKey, why: &Gone) {
        let Some(Peer::Web(web)) = self.peers.get(&peer) else {
            return;
        };
        let mut seed = web.seed.clone();
        tracing::debug!(url = %seed.url, %why, "web seed failed");
        self.trouble = Some(format!("web seed {}: {why}", shown(&seed.url)));
        let ours = (FIRST_PAUSE * (1 << seed.failures.min(5))).min(LONGEST_PAUSE);
        let pause = match why {
            Gone::WebSeed(error) => error.retry_after().map_or(ours, |after| after.max(ours)),
            _ => ours,
        };
        seed.failures += 1;
        self.meet_again(seed, pause);
    }

    /// It gave wrong bytes.
    pub(super) fn web_seed_lied(&mut self, peer: PeerKey) {
        let Some(Peer::Web(web)) = self.peers.get(&peer) else {
            return;
        };
        let mut seed = web.seed.clone();
        let pause = ban_length(seed.lies);
        tracing::warn!(
            url = %seed.url, info_hash = %self.shared.info.hash(), ?pause,
            "a web seed sent corrupt data"
        );
        self.trouble = Some(format!("web seed {} sent corrupt data", shown(&seed.url)));
        seed.lies += 1;
        self.meet_again(seed, pause);
    }

    fn meet_again(&mut self, seed: WebSeed, pause: Duration) {
        self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            Ended::WebSeed(seed)
        });
    }

    /// Fetches consecutive blocks with one request.
    pub(super) fn fetch(&mut self, peer: PeerKey, blocks: Vec<Block>) {
        let geometry = self.shared.info.geometry();
        let (Some(&first), Some(&last)) = (blocks.first(), blocks.last()) else {
            return;
        };
        let start = geometry.block_offset(first);
        let end = geometry.block_offset(last) + u64::from(last.len);
        let length = geometry.length();
        let Some(Peer::Web(web)) = self.peers.get(&peer) else {
            return;
        };
        let fetcher = Fetcher {
            core: Arc::clone(&self.core),
            throttle: self.throttle.clone(),
            url: Arc::clone(&web.seed.url),
            peer,
            to_torrent: self.to_us.clone(),
        };
        let owed = blocks.clone();
        let task = self.watch_fetch(peer, async move {
            fetcher.run(start..end, length, blocks).await
        });
        if let Some(Peer::Web(web)) = self.peers.get_mut(&peer) {
            web.fetches.push(Fetch { owed, task });
        }
    }

    /// Like `watch`, but only a failure is an end.
    fn watch_fetch(
        &mut self,
        peer: PeerKey,
        fetch: impl Future<Output = Result<(), Gone>> + Send + 'static,
    ) -> AbortHandle {
        let to_torrent = self.to_us.clone();
        self.tasks.spawn(async move {
            let result = AssertUnwindSafe(fetch).catch_unwind().await;
            if let Err(why) = result.unwrap_or(Err(Gone::Bug)) {
                let _ = to_torrent.send(FromPeer::Gone { peer, why }).await;
            }
            Ended::Told
        })
    }
}

/// One range request.
struct Fetcher {
    core: Arc<Core>,
    throttle: Throttle,
    url: Arc<str>,
    peer: PeerKey,
    to_torrent: mpsc::Sender<FromPeer>,
}

impl Fetcher {
    async fn run(
        self,
        range: std::ops::Range<u64>,
        length: u64,
        blocks: Vec<Block>,
    ) -> Result<(), Gone> {
        let mut body = webseed::fetch(&self.core.client, &self.url, range, length).await?;
        let mut due = blocks.into_iter().peekable();
        let mut slab = BytesMut::with_capacity(BATCH);
        let mut batch = Batch::new(self.peer);
        let mut passed = Instant::now();
        loop {
            // What is here already does not wait for what may not come.
            let chunk = match batch.blocks.is_empty() {
                true => body.next().await,
                false => match tokio::time::timeout(SOON, body.next()).await {
                    Ok(chunk) => chunk,
                    Err(_) => {
                        self.pass(&mut batch).await;
                        continue;
                    }
                },
            };
            let chunk = match chunk {
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => {
                    self.pass(&mut batch).await;
                    return Err(error.into());
                }
                None => break,
            };
            self.throttle.download(chunk.len() as u64).await;
            slab.extend_from_slice(&chunk);
            while let Some(block) = due.next_if(|block| slab.len() >= block.len as usize) {
                batch.push_block(block, slab.split_to(block.len as usize).freeze());
            }
            let much = batch.blocks.len() * 16 * 1024 >= BATCH || due.peek().is_none();
            if much || passed.elapsed() >= SOON {
                self.pass(&mut batch).await;
                passed = Instant::now();
            }
        }
        // A stream that ends well gave every byte that was asked for.
        self.pass(&mut batch).await;
        Ok(())
    }

    async fn pass(&self, batch: &mut Batch) {
        if !batch.blocks.is_empty() {
            let full = std::mem::replace(batch, Batch::new(self.peer));
            // An error means that the torrent is ending, and with it this task.
            let _ = self.to_torrent.send(FromPeer::Batch(full)).await;
            self.core.hashers.room().await;
        }
    }
}
