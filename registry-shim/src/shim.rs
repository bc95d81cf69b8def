//! What the parts of an agent share, and how a request is answered from it.
//!
//! Owns the table of downloads under way: at most one per digest, entered and left only with
//! the digest's turn on the shelf.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use leecher::Engine;
use oci::{Blob, BytesBlob, Digest, ErrorCode, FileBlob, Flights, RegistryError, RepoName};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use torrents::InfoHash;

use crate::body::{LocalBlob, SwarmBlob};
use crate::config::Config;
use crate::fetch::{Fetch, Surroundings};
use crate::files::blocking;
use crate::herds::{Verdict, Wait};
use crate::knowledge::Knowledge;
use crate::ledger::Ledger;
use crate::origin::{Answer, Origin};
use crate::recent::Recent;
use crate::tags::Tags;
use crate::trackers::Trackers;

/// Troubles remembered.
const TROUBLES: usize = 1024;

/// What failed: content, whoever asks; or one repository's finding of it, which is not for others
/// to hear.
type Troubled = (Digest, Option<RepoName>);

/// One agent's inside.
#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) config: Config,
    pub(crate) around: Surroundings,
    pub(crate) engine: Engine,
    pub(crate) trackers: Trackers,
    pub(crate) tags: Tags,
    pub(crate) knowledge: Knowledge,
    pub(crate) ledger: Ledger,
    pub(crate) started: Instant,
    /// Says that the agent ends.
    pub(crate) stop: CancellationToken,
    /// Drivers of downloads and other work of the agent's own.
    pub(crate) tasks: TaskTracker,
    /// Finding a digest's torrent and starting its download, per repository that asks.
    pub(crate) fetching: Flights<(RepoName, Digest), Result<(), RegistryError>>,
    /// Storing manifests.
    pub(crate) keeping: Flights<Digest, ()>,
    active: Mutex<HashMap<Digest, Arc<Fetch>>>,
    /// What failed lately, and why: new readers are told for a while.
    troubles: Mutex<Recent<Troubled, (RegistryError, Instant)>>,
}

/// What a [`Shim`] is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) around: Surroundings,
    pub(crate) engine: Engine,
    pub(crate) trackers: Trackers,
    pub(crate) tags: Tags,
}

/// Content that can be read now.
#[derive(Debug)]
pub(crate) enum Here {
    /// All of it is in the store.
    Whole(Arc<LocalBlob>),
    /// It is being downloaded.
    Growing(Arc<SwarmBlob>, Arc<Fetch>),
}

impl Here {
    pub(crate) fn blob(self) -> Arc<dyn Blob> {
        match self {
            Self::Whole(blob) => blob,
            Self::Growing(blob, _) => blob,
        }
    }
}

impl Shim {
    pub(crate) fn new(parts: Parts, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            config: parts.config,
            around: parts.around,
            engine: parts.engine,
            trackers: parts.trackers,
            tags: parts.tags,
            knowledge: Knowledge::new(),
            ledger: Ledger::new(),
            started: Instant::now(),
            stop,
            tasks: TaskTracker::new(),
            fetching: Flights::new(),
            keeping: Flights::new(),
            active: Mutex::new(HashMap::new()),
            troubles: Mutex::new(Recent::new(TROUBLES)),
        })
    }

    /// What can be read of a digest now, if anything; `Err` while its last failure is fresh, or
    /// that repository's to find it. Whether the repository may is not asked.
    pub(crate) async fn here(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Option<Here>, RegistryError> {
        let shelf = &self.around.shelf;
        let name = digest.torrent_name();
        // A download is looked for first: it leaves the table only after its content can be
        // found in the store.
        if let Some(fetch) = self.fetch_of(digest) {
            if let Some(error) = fetch.trouble() {
                return Err(error);
            }
            let metrics = self.around.metrics.clone();
            let blob = SwarmBlob::new(fetch.clone(), metrics, shelf.pin(&name));
            return Ok(Some(Here::Growing(Arc::new(blob), fetch)));
        }
        if let Some(blob) = self.open_whole(digest).await {
            return Ok(Some(Here::Whole(Arc::new(blob))));
        }
        match self.trouble(repo, digest) {
            Some(error) => Err(error),
            None => Ok(None),
        }
    }

    /// Complete content of the store, open. `None` also when it is there and cannot be opened
    /// or failed to be read lately: then it is as good as missing.
    pub(crate) async fn open_whole(&self, digest: &Digest) -> Option<LocalBlob> {
        let shelf = &self.around.shelf;
        let name = digest.torrent_name();
        if shelf.is_suspect(&name) {
            self.discard_damaged(digest).await;
        }
        let (stored, pin) = shelf.find(&name)?;
        let opened = blocking(move || match FileBlob::open(&stored.path) {
            Ok(file) if file.length() == stored.length => Ok(file),
            Ok(file) => Err(format!("its file is {} bytes long", file.length())),
            Err(error) => Err(error.to_string()),
        });
        match opened.await {
            Ok(file) => {
                let metrics = self.around.metrics.clone();
                Some(LocalBlob::new(file, metrics, pin))
            }
            Err(why) => {
                tracing::warn!("the stored copy of {digest} is fetched again: {why}");
                None
            }
        }
    }

    /// What the disk gives back is not what was stored: it is removed, to be fetched again.
    pub(crate) async fn discard_damaged(&self, digest: &Digest) {
        tracing::warn!("the stored copy of {digest} is damaged; it is removed and fetched again");
        let shelf = &self.around.shelf;
        let name = digest.torrent_name();
        let turn = shelf.turn(&name).await;
        let Some(stored) = shelf.store().get(&name) else {
            return;
        };
        if let Err(error) = shelf.discard(&name, stored.info_hash, &turn).await {
            tracing::warn!("cannot remove the damaged copy of {digest}: {error}");
        }
    }

    /// The empty blob is known to everybody and is in no swarm.
    pub(crate) fn empty(digest: &Digest) -> Option<Arc<dyn Blob>> {
        let nothing = digest.verifier().finish();
        (nothing == *digest).then(|| Arc::new(BytesBlob(Bytes::new())) as Arc<dyn Blob>)
    }

    /// Whether local content may be served through that repository. An origin is asked once
    /// in a while; when none can be reached, content is served to whoever knows its digest:
    /// then availability counts for more than keeping repositories apart.
    pub(crate) async fn permit<F>(
        &self,
        repo: &RepoName,
        digest: &Digest,
        unknown: ErrorCode,
        question: impl Fn(Arc<Origin>) -> F,
    ) -> Result<(), RegistryError>
    where
        F: Future<Output = Answer<()>>,
    {
        let missing = || absent(unknown, repo, &digest.to_string());
        match self.knowledge.member(repo, digest) {
            Some(true) => return Ok(()),
            Some(false) => return Err(missing()),
            // Nobody is made to wait for a herd that just did not answer.
            None if self.around.herds.look_down() => return Ok(()),
            None => {}
        }
        match self.around.herds.ask(Wait::once(), question).await {
            Verdict::Found(()) => {
                self.knowledge.note_member(repo, digest, true);
                Ok(())
            }
            Verdict::Absent => {
                self.knowledge.note_member(repo, digest, false);
                Err(missing())
            }
            Verdict::Denied(error) => Err(error),
            Verdict::Odd(_) | Verdict::Unreachable(_) => Ok(()),
        }
    }

    /// The download of a digest, if one is under way.
    pub(crate) fn fetch_of(&self, digest: &Digest) -> Option<Arc<Fetch>> {
        self.active().get(digest).cloned()
    }

    /// All downloads under way.
    pub(crate) fn fetches(&self) -> Vec<Arc<Fetch>> {
        self.active().values().cloned().collect()
    }

    pub(crate) fn enter(&self, fetch: Arc<Fetch>) {
        self.active().insert(fetch.digest().clone(), fetch);
    }

    pub(crate) fn leave(&self, digest: &Digest) {
        self.active().remove(digest);
    }

    /// The swarm an operator means: one that is here, by digest or info hash.
    pub(crate) fn info_hash_of(&self, named: &str) -> Result<InfoHash, RegistryError> {
        let store = self.around.shelf.store();
        let found = if let Ok(info_hash) = named.parse() {
            let here =
                self.engine.torrent(info_hash).is_some() || store.by_info_hash(info_hash).is_some();
            here.then_some(info_hash)
        } else {
            let digest: Digest = named.parse()?;
            let record = self.ledger.find(&digest);
            let live = record.and_then(|record| record.info_hash());
            let stored = || store.get(&digest.torrent_name())?.info_hash;
            live.or_else(stored)
        };
        found.ok_or_else(|| {
            let message = format!("no swarm of {named} is here");
            RegistryError::new(ErrorCode::BlobUnknown, message)
        })
    }

    /// Remembers why content failed, for everybody who asks for it.
    pub(crate) fn note_trouble(&self, digest: &Digest, error: RegistryError) {
        self.note((digest.clone(), None), error);
    }

    /// Remembers why a repository could not find content.
    pub(crate) fn note_trouble_of(&self, repo: &RepoName, digest: &Digest, error: RegistryError) {
        self.note((digest.clone(), Some(repo.clone())), error);
    }

    fn note(&self, what: Troubled, error: RegistryError) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.insert(what, (error, Instant::now()));
    }

    fn trouble(&self, repo: &RepoName, digest: &Digest) -> Option<RegistryError> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        [None, Some(repo.clone())].into_iter().find_map(|asker| {
            let (error, since) = troubles.find(&(digest.clone(), asker))?;
            (since.elapsed() < self.around.patience.trouble).then(|| error.clone())
        })
    }

    fn active(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Fetch>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to what does not exist.
pub(crate) fn absent(code: ErrorCode, repo: &RepoName, what: &str) -> RegistryError {
    RegistryError::new(code, format!("{repo} has no {what}"))
}

/// The answer while the agent ends.
pub(crate) fn stopping() -> RegistryError {
    RegistryError::new(ErrorCode::Unavailable, "the agent is stopping")
}
