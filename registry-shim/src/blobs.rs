//! Blobs: from the store, from the download under way, or from one that starts now.
//!
//! One download per digest, however many ask and through however many repositories; but each
//! repository is checked by itself, for content of one must not be read through another.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use leecher::store::StoreError;
use leecher::{Content, Download, Seed, Torrent};
use oci::{Blob, BlobError, BlobStream, Digest, ErrorCode, RegistryError, RepoName, origin_api};
use tokio::time::{Instant, sleep, timeout_at};
use torrents::Info;

use crate::config::below;
use crate::fetch::{Failure, Fetch};
use crate::files::blocking;
use crate::head_start::HeadStart;
use crate::herds::{Verdict, Wait};
use crate::ledger::Record;
use crate::metrics::{Kind, Outcome};
use crate::origin::{Origin, OriginTorrent};
use crate::shelf::{Claim, Pin, Room, refusal};
use crate::shim::{Here, Shim, absent, stopping};
use crate::trackers::{Lookup, Tiers};

/// A torrent is usually told within milliseconds; a blob whose length is known waits this
/// long for it, to answer 404 rather than a body that is cut, and then sends its headers.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// How often an origin that is still fetching the blob itself is asked again.
const GROWING_PAUSE: Duration = Duration::from_millis(500);
/// Pause before origins and trackers are asked again for a torrent that none could name.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// For an origin or the trackers to answer in any case, however late it is.
const LAST_TRY: Duration = Duration::from_secs(1);
/// For peers to hand out metadata.
const METADATA_WITHIN: Duration = Duration::from_secs(20);

/// What a download needs to start.
#[derive(Debug)]
struct Source {
    info: Info,
    trackers: Tiers,
    web_seeds: Vec<String>,
    peers: Vec<SocketAddr>,
}

impl Shim {
    /// A blob that can be read; its download starts if it must.
    pub(crate) async fn blob(
        self: &Arc<Self>,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Arc<dyn Blob>, RegistryError> {
        if let Some(empty) = Self::empty(digest) {
            return Ok(empty);
        }
        if let Some(here) = self.here(repo, digest).await? {
            self.permit_blob(repo, digest).await?;
            let outcome = match &here {
                Here::Whole(_) => Outcome::local,
                Here::Growing(..) => Outcome::swarm,
            };
            self.around.metrics.pulled(Kind::blob, outcome);
            return Ok(here.blob());
        }
        let blob = self.cold_blob(repo, digest).await?;
        self.around.metrics.pulled(Kind::blob, Outcome::swarm);
        Ok(blob)
    }

    /// A blob of which perhaps nothing but the headers is wanted (HEAD, or a client that names
    /// what it has): nothing is downloaded before its body is read.
    pub(crate) async fn blob_unread(
        self: &Arc<Self>,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Arc<dyn Blob>, RegistryError> {
        if let Some(empty) = Self::empty(digest) {
            return Ok(empty);
        }
        if let Ok(Some(here)) = self.here(repo, digest).await {
            self.permit_blob(repo, digest).await?;
            return Ok(here.blob());
        }
        let told = match self.knowledge.member(repo, digest) {
            Some(true) => self.knowledge.size(digest),
            _ => None,
        };
        let length = match told {
            Some(length) => length,
            None => self.resolve(repo, digest).await?.info.geometry().length(),
        };
        Ok(self.pending(repo, digest, length))
    }

    /// Starts the download and returns once its length is known.
    async fn cold_blob(
        self: &Arc<Self>,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Arc<dyn Blob>, RegistryError> {
        let asked = Instant::now();
        let fetched = self.fetched(repo, digest);
        tokio::pin!(fetched);
        loop {
            tokio::select! {
                here = &mut fetched => {
                    let here = here?;
                    // Complete already: its record would not hear of a first byte otherwise.
                    if let (Here::Whole(_), Some(record)) = (&here, self.ledger.find(digest)) {
                        record.first_byte(&self.around.metrics);
                    }
                    return Ok(here.blob());
                }
                () = sleep(TOLD_WITHIN) => {}
            }
            // Headers must not wait with the body: clients give up after 30 s without them.
            if let Some(length) = self.knowledge.size(digest) {
                return Ok(self.pending(repo, digest, length));
            }
            if asked.elapsed() >= self.around.patience.headers {
                let message = format!(
                    "cannot fetch {digest}: nobody told its length within {} s; try again",
                    asked.elapsed().as_secs()
                );
                return Err(RegistryError::new(ErrorCode::Unavailable, message));
            }
        }
    }

    fn pending(self: &Arc<Self>, repo: &RepoName, digest: &Digest, length: u64) -> Arc<dyn Blob> {
        Arc::new(PendingBlob {
            shim: self.clone(),
            repo: repo.clone(),
            digest: digest.clone(),
            length,
        })
    }

    /// Waits until content can be read, starting its download if none is under way.
    pub(crate) async fn fetched(
        self: &Arc<Self>,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Here, RegistryError> {
        let (shim, key) = (self.clone(), (repo.clone(), digest.clone()));
        let asked = Instant::now();
        let job = || async move {
            let (repo, digest) = key;
            // Another flight may have ended since the caller looked. What failed is tried again.
            if let Ok(Some(_)) = shim.here(&repo, &digest).await {
                return shim.permit_blob(&repo, &digest).await;
            }
            let head = shim.head_start(&digest);
            let source = shim.resolve(&repo, &digest).await?;
            shim.begin(&repo, &digest, source, head, asked).await
        };
        let flight = self.fetching.join((repo.clone(), digest.clone()), job);
        flight.await.unwrap_or_else(|| Err(stopping()))?;
        match self.here(repo, digest).await? {
            Some(here) => Ok(here),
            None => Err(Failure::Abandoned.told(digest)),
        }
    }

    async fn permit_blob(&self, repo: &RepoName, digest: &Digest) -> Result<(), RegistryError> {
        self.permit(repo, digest, ErrorCode::BlobUnknown, |origin| async move {
            origin.has_blob(repo, digest).await.map(|_| ())
        })
        .await
    }

    /// Finds the torrent of a digest: at an origin, or, when none can be reached, through the
    /// trackers and the peers themselves.
    async fn resolve(&self, repo: &RepoName, digest: &Digest) -> Result<Source, RegistryError> {
        let patience = self.around.patience.manifest;
        let mut deadline = Instant::now() + patience;
        // The swarm is another way, once: an origin may be slow and not down.
        let mut wait = Wait::once().or_otherwise();
        loop {
            let question = |origin: Arc<Origin>| async move {
                let answer = origin.torrent(repo, digest).await;
                answer.map(|torrent| (torrent, origin))
            };
            let left = LAST_TRY.max(deadline - Instant::now());
            match self.around.herds.ask(wait.within(left), question).await {
                Verdict::Found((OriginTorrent::Ready { metainfo, peers }, origin)) => {
                    self.knowledge.note_member(repo, digest, true);
                    let herd = origin.herd();
                    return Ok(Source {
                        trackers: self.trackers.of_torrent(&herd.registry, &metainfo.trackers),
                        web_seeds: metainfo.url_list,
                        info: metainfo.info,
                        peers,
                    });
                }
                Verdict::Found((OriginTorrent::Growing { length }, _)) => {
                    if let Some(length) = length {
                        self.knowledge.note_size(digest, length);
                    }
                    sleep(GROWING_PAUSE).await;
                    deadline = Instant::now() + patience;
                }
                Verdict::Absent => {
                    self.knowledge.note_member(repo, digest, false);
                    return Err(absent(ErrorCode::BlobUnknown, repo, &digest.to_string()));
                }
                Verdict::Denied(error) => return Err(error),
                Verdict::Odd(error) => {
                    let source = self.without_origin(digest, deadline).await;
                    return source.map_err(|_| error);
                }
                Verdict::Unreachable(tried) => match self.without_origin(digest, deadline).await {
                    Ok(source) => return Ok(source),
                    Err(why) if Instant::now() + RETRY_PAUSE >= deadline => {
                        return Err(tried.and(why).unavailable(&digest.to_string()));
                    }
                    Err(_) => {
                        wait = Wait::once();
                        sleep(RETRY_PAUSE).await;
                    }
                },
            }
        }
    }

    /// The torrent of a digest when no origin can be reached: what an interrupted download
    /// left, or what a tracker and its peers say. Their word needs no trust: the digest of
    /// the whole is checked. Only our own trackers and web seeds are used.
    async fn without_origin(
        &self,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<Source, Vec<String>> {
        let trackers = self.trackers.tiers();
        let peers = self.around.herds.peers();
        let name = digest.torrent_name();
        let store = self.around.shelf.store().clone();
        let info = match blocking(move || store.info(&name)).await {
            Ok(Some(info)) => info,
            Ok(None) | Err(_) => {
                self.info_from_peers(digest, &trackers, &peers, deadline)
                    .await?
            }
        };
        let web_seeds = self.config.herds.iter();
        Ok(Source {
            info,
            trackers,
            web_seeds: web_seeds
                .filter_map(|herd| below(&herd.api, &origin_api::blob_path(digest)))
                .map(String::from)
                .collect(),
            peers,
        })
    }

    async fn info_from_peers(
        &self,
        digest: &Digest,
        trackers: &Tiers,
        peers: &[SocketAddr],
        deadline: Instant,
    ) -> Result<Info, Vec<String>> {
        let deadline = deadline.max(Instant::now() + LAST_TRY);
        let reply = match timeout_at(deadline, self.trackers.lookup(digest)).await {
            Ok(Lookup::Found(reply)) => reply,
            Ok(Lookup::Nowhere(tried)) => return Err(tried),
            Err(_) => return Err(vec!["trackers: no answer in time".to_owned()]),
        };
        self.knowledge.note_size(digest, reply.length);
        let found = self.engine.metadata(
            reply.info_hash,
            trackers.clone(),
            peers.to_vec(),
            METADATA_WITHIN,
        );
        let info = found
            .await
            .map_err(|error| vec![format!("peers of {}: {error}", reply.info_hash)])?;
        if info.name() != digest.torrent_name() || info.geometry().length() != reply.length {
            let hash = reply.info_hash;
            return Err(vec![format!("the swarm {hash} is not of this content")]);
        }
        tracing::info!(%digest, "no origin answers; fetching from peers alone");
        Ok(info)
    }

    /// Starts the download, unless it is under way or done.
    async fn begin(
        self: &Arc<Self>,
        repo: &RepoName,
        digest: &Digest,
        source: Source,
        head: HeadStart,
        asked: Instant,
    ) -> Result<(), RegistryError> {
        let shelf = &self.around.shelf;
        let name = digest.torrent_name();
        let _turn = shelf.turn(&name).await;
        // What is stored but cannot be opened goes through a download that checks every byte:
        // the store takes over what is left of it.
        if self.fetch_of(digest).is_some() || self.open_whole(digest).await.is_some() {
            return Ok(());
        }
        let length = source.info.geometry().length();
        self.knowledge.note_size(digest, length);
        // Before anything can fail: an eviction that makes room must spare this one.
        let pin = shelf.pin(&name);
        // A torrent that is live without a download here seeds a file that is no longer what
        // it was: it must not be joined.
        let hash = source.info.hash();
        if self.engine.torrent(hash).is_some() {
            self.engine.forget(hash).await;
        }
        let trackers = source.trackers.clone();
        let (torrent, room) = self.download(&name, source, head).await?;
        let record = self
            .ledger
            .open(Record::new(digest, repo, hash, length, asked));
        let fetch = Fetch::new(digest.clone(), torrent, trackers, record);
        self.enter(fetch.clone());
        self.drive(fetch, pin, room);
        Ok(())
    }

    async fn download(
        &self,
        name: &str,
        source: Source,
        head: HeadStart,
    ) -> Result<(Torrent, Room), RegistryError> {
        let content = self.begin_content(name, &source.info).await?;
        let geometry = source.info.geometry();
        let claim = Claim::Partial(*geometry, content.clone());
        let room = self.around.shelf.make_room(claim, name).await?;
        let download = Download {
            eager_web_seed: geometry.pieces() == 1,
            head: head.bytes().await,
            info: source.info,
            content,
            trackers: source.trackers,
            web_seeds: source.web_seeds,
            peers: source.peers,
        };
        let begun = self.engine.download(download).await;
        let torrent = begun.map_err(|error| {
            let message = format!("cannot fetch {name}: {error}");
            RegistryError::new(ErrorCode::Unavailable, message)
        })?;
        Ok((torrent, room))
    }

    /// What is there of the content already, and a place for the rest.
    async fn begin_content(&self, name: &str, info: &Info) -> Result<Arc<Content>, RegistryError> {
        let shelf = &self.around.shelf;
        let begin = || {
            let (store, name, info) = (shelf.store().clone(), name.to_owned(), info.clone());
            blocking(move || store.begin(&name, &info))
        };
        let begun = match begin().await {
            Err(StoreError::NoSpace { needed, .. }) => {
                // Held until it is begun; from then on the content says what it lacks.
                let _room = shelf.make_room(Claim::File(needed), name).await?;
                begin().await
            }
            begun => begun,
        };
        begun.map_err(|error| refusal(&error))
    }

    /// Owns the download until its verdict is in effect.
    fn drive(self: &Arc<Self>, fetch: Arc<Fetch>, pin: Pin, room: Room) {
        let shim = self.clone();
        let task = async move {
            let ended = tokio::select! {
                biased;
                () = shim.stop.cancelled() => Err(Failure::Stopping),
                ended = fetch.run(&shim.around) => ended,
            };
            match ended {
                Ok(()) => {
                    // Its torrent announces itself while it lives, and the engine afterwards.
                    shim.engine.seed(Seed {
                        info_hash: fetch.torrent().info().hash(),
                        trackers: fetch.trackers().clone(),
                    });
                    shim.leave(fetch.digest());
                }
                Err(failure) => shim.bury(&fetch, &failure).await,
            }
            drop((pin, room));
            shim.tidy().await;
        };
        // It hashes every byte once more.
        self.tasks.spawn_on(task, self.engine.runtime());
    }

    /// Puts a failure into effect: readers are cut at once, the engine lets go, what is wrong
    /// is removed, and only then may the digest be tried again.
    async fn bury(&self, fetch: &Fetch, failure: &Failure) {
        let digest = fetch.digest();
        let told = fetch.fail(failure, &self.around.metrics);
        if matches!(failure, Failure::Stopping) {
            return self.leave(digest);
        }
        tracing::warn!("{}", told.message);
        if !matches!(failure, Failure::Abandoned) {
            self.note_trouble(digest, told);
        }
        let shelf = &self.around.shelf;
        let name = digest.torrent_name();
        let turn = shelf.turn(&name).await;
        let hash = fetch.torrent().info().hash();
        if matches!(failure, Failure::Mismatch { .. }) {
            if let Err(error) = shelf.discard(&name, Some(hash), &turn).await {
                tracing::warn!("cannot remove what {digest} is not: {error}");
            }
        } else {
            self.engine.forget(hash).await;
        }
        self.leave(digest);
    }

    /// What can wait for the end of a download, or the next half minute.
    pub(crate) async fn tidy(&self) {
        self.around.shelf.trim().await;
        self.trackers.save().await;
    }
}

/// A blob whose length is known; its torrent and its download are its body's to wait for.
struct PendingBlob {
    shim: Arc<Shim>,
    repo: RepoName,
    digest: Digest,
    length: u64,
}

impl Blob for PendingBlob {
    fn length(&self) -> u64 {
        self.length
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> BlobStream {
        let body = async move {
            match self.shim.fetched(&self.repo, &self.digest).await {
                Ok(here) => {
                    let blob = here.blob();
                    if blob.length() == self.length {
                        return blob.stream(range);
                    }
                    let (told, is) = (self.length, blob.length());
                    let digest = &self.digest;
                    failed(format!(
                        "{digest} is {is} bytes long, its manifest says {told}"
                    ))
                }
                Err(error) => {
                    // The headers are gone already; the next request hears the reason. Through
                    // another repository the content may well be found.
                    let Self {
                        shim, repo, digest, ..
                    } = &*self;
                    shim.note_trouble_of(repo, digest, error.clone());
                    failed(error.message)
                }
            }
        };
        Box::pin(stream::once(body).flatten())
    }
}

fn failed(why: String) -> BlobStream {
    Box::pin(stream::once(async move { Err(BlobError(why.into())) }))
}
