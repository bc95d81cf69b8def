//! The registry behind its ports: what pushes, pulls, the tag API and the origin API do to the
//! store, in the order that keeps promises.
//!
//! Invariants: an acknowledged change is durable. A blob is linked, seeded and told to the
//! trackers before a manifest can name it, and a manifest before a tag can. What a manifest in
//! a repository names is in that repository until the manifest goes. Content goes when the
//! last repository that held it lets go.
//!
//! Locks, always in this order: one per repository for manifests and removals, one per digest
//! where content comes, goes or is linked.

mod locks;
mod manifests;
mod mend;
mod names;
mod pull;
mod removal;
mod torrent_files;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use oci::{Access, Action, Caller, Digest, ErrorCode, RegistryError, RepoName};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::intake::{FinishError, Finished, Intake};
use crate::metrics::Metrics;
use crate::publisher::Publisher;
use crate::store::{BlobMeta, NewBlob, StoreError, Stores};
use locks::Locks;

pub(crate) use manifests::PutTagError;
pub(crate) use torrent_files::WebAddresses;

/// How long a manifest's answer may wait for trackers that are slow to take its blobs.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// One origin's registry.
pub(crate) struct Registry {
    stores: Stores,
    access: Arc<dyn Access>,
    publisher: Publisher,
    locks: Locks,
    web: WebAddresses,
    sparse_indexes: bool,
    metrics: Arc<Metrics>,
    /// Torrents that are made anew with larger pieces, one at a time.
    remaking: Semaphore,
    /// Owns what goes on without a client that waits for it.
    background: TaskTracker,
    stop: CancellationToken,
}

/// What a registry is made of.
pub(crate) struct Parts {
    /// Where content is kept.
    pub(crate) stores: Stores,
    /// Who may do what.
    pub(crate) access: Arc<dyn Access>,
    /// How content becomes swarms.
    pub(crate) publisher: Publisher,
    /// What goes into `.torrent` files.
    pub(crate) web: WebAddresses,
    /// Take indexes whose children are not all here.
    pub(crate) sparse_indexes: bool,
    /// What is counted.
    pub(crate) metrics: Arc<Metrics>,
    /// Owns what goes on without a client that waits for it.
    pub(crate) background: TaskTracker,
    /// Ends it.
    pub(crate) stop: CancellationToken,
}

impl Registry {
    /// Over what is in the store.
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            stores: parts.stores,
            access: parts.access,
            publisher: parts.publisher,
            locks: Locks::new(),
            web: parts.web,
            sparse_indexes: parts.sparse_indexes,
            metrics: parts.metrics,
            remaking: Semaphore::new(1),
            background: parts.background,
            stop: parts.stop,
        }
    }

    /// Where content is kept.
    pub(crate) fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Who may do what.
    pub(crate) fn access(&self) -> &Arc<dyn Access> {
        &self.access
    }

    /// What is seeded, and who was told.
    pub(crate) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Whether the caller may; the answer if not.
    pub(crate) fn permit(
        &self,
        caller: &Caller,
        action: Action,
        repo: &RepoName,
        digest: Option<&Digest>,
    ) -> Result<(), RegistryError> {
        self.access.check(caller, action, repo, digest)
    }

    /// An upload is complete: what came becomes a blob of the repository. Everything that takes
    /// longer with its length was done while it came.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        repo: &RepoName,
        wanted: &Digest,
        intake: Intake,
    ) -> Result<(), CommitError> {
        let Finished { blob, rehash } = intake.finish(wanted).await?;
        let length = blob.length;
        let meta = self.keep(repo, blob).await?;
        self.metrics.blob_pushed(length);
        tracing::info!(%repo, digest = %wanted, bytes = length, "stored a blob");
        if rehash {
            self.remake_later(meta);
        }
        Ok(())
    }

    /// Stores content for a repository and seeds it. The repository holds it first, so that no
    /// moment exists in which a removal elsewhere could take it away; a crash in between
    /// leaves a link to nothing, which counts as nothing.
    async fn keep(&self, repo: &RepoName, blob: NewBlob) -> Result<BlobMeta, StoreError> {
        let digest = blob.digest.clone();
        let blobs = &self.stores.blobs;
        let _lock = self.locks.digest(&digest).await;
        // What cannot be opened counts as lost: this push brings it again.
        let known = blobs.stat(&digest).await?;
        let there = blobs.file(&digest).await.ok().flatten();
        self.stores.repos.link(repo, &digest).await?;
        match blobs.put(blob).await {
            Ok(meta) => {
                // The engine may still have open what was lost.
                let lost = |known: BlobMeta| there.is_none() || known.info_hash != meta.info_hash;
                if known.is_some_and(lost) {
                    self.publisher.withdraw(&digest).await;
                }
                self.publisher.publish(&meta);
                Ok(meta)
            }
            Err(error) => {
                if let Ok(None) = blobs.stat(&digest).await {
                    let _ = self.stores.repos.unlink(repo, &digest).await;
                }
                Err(error)
            }
        }
    }

    /// Links content that another repository holds. `false` when there is none the caller may
    /// read: it must be uploaded.
    pub(crate) async fn mount(
        &self,
        caller: &Caller,
        repo: &RepoName,
        digest: &Digest,
        from: Option<&RepoName>,
    ) -> Result<bool, RegistryError> {
        let _lock = self.locks.digest(digest).await;
        let readable = |held: &RepoName| {
            self.permit(caller, Action::Pull, held, Some(digest))
                .is_ok()
        };
        let source = match from {
            Some(from) => {
                let linked = self.stores.repos.linked(from, digest).await;
                linked.map_err(storage)? && readable(from)
            }
            None => {
                let holders = self.stores.repos.holders(digest).await.map_err(storage)?;
                holders.iter().any(|held| readable(held))
            }
        };
        // A client that hears of a mount sends nothing: the bytes must be there.
        if !source || self.file(digest).await?.is_none() {
            return Ok(false);
        }
        self.stores
            .repos
            .link(repo, digest)
            .await
            .map_err(storage)?;
        tracing::info!(%repo, %digest, "mounted a blob");
        Ok(true)
    }

    /// What the repository holds under that digest; manifests are blobs too.
    pub(crate) async fn blob_in(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Option<BlobMeta>, RegistryError> {
        if self
            .stores
            .repos
            .linked(repo, digest)
            .await
            .map_err(storage)?
        {
            self.stat(digest).await
        } else {
            Ok(None)
        }
    }

    /// The same, having looked whether the bytes are there.
    async fn present_in(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Option<BlobMeta>, RegistryError> {
        match self.blob_in(repo, digest).await? {
            Some(_) => self.file(digest).await,
            None => Ok(None),
        }
    }

    /// A repository that holds the digest and that the caller may read. For those who ask by
    /// digest alone.
    pub(crate) async fn readable_holder(
        &self,
        caller: &Caller,
        digest: &Digest,
    ) -> Result<Option<Arc<RepoName>>, RegistryError> {
        let holders = self.stores.repos.holders(digest).await.map_err(storage)?;
        let mut refused = None;
        for held in holders {
            match self.permit(caller, Action::Pull, &held, Some(digest)) {
                Ok(()) => return Ok(Some(held)),
                Err(error) => refused = Some(error),
            }
        }
        refused.map_or(Ok(None), Err)
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<BlobMeta>, RegistryError> {
        self.stores.blobs.stat(digest).await.map_err(storage)
    }

    /// What is stored, having looked whether it is there.
    async fn file(&self, digest: &Digest) -> Result<Option<BlobMeta>, RegistryError> {
        let found = self.stores.blobs.file(digest).await;
        let found = self.found_or_doubted(digest, found).await?;
        Ok(found.map(|(meta, _)| meta))
    }

    /// What opening content came to. What is known and cannot be opened is doubted and counts as
    /// absent, so that a push brings it again.
    async fn found_or_doubted<T>(
        &self,
        digest: &Digest,
        opened: Result<Option<T>, StoreError>,
    ) -> Result<Option<T>, RegistryError> {
        let found = match opened {
            Err(error) if error.is_about_content() => {
                tracing::error!(%digest, %error, "cannot open stored content");
                None
            }
            opened => opened.map_err(storage)?,
        };
        if found.is_none() && self.stat(digest).await?.is_some() {
            self.publisher.doubts().raise(digest);
        }
        Ok(found)
    }
}

/// Why an upload was not committed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    /// The client's fault: it may not try the same again.
    #[error(transparent)]
    Refused(RegistryError),
    /// Ours: the same may work later.
    #[error(transparent)]
    Failed(RegistryError),
}

impl CommitError {
    /// The answer.
    pub(crate) fn into_answer(self) -> RegistryError {
        let (Self::Refused(error) | Self::Failed(error)) = self;
        error
    }
}

impl From<FinishError> for CommitError {
    fn from(error: FinishError) -> Self {
        match error {
            FinishError::Mismatch { .. } => Self::Refused(RegistryError::new(
                ErrorCode::DigestInvalid,
                error.to_string(),
            )),
            FinishError::TooLarge(_) => Self::Refused(RegistryError::new(
                ErrorCode::SizeInvalid,
                error.to_string(),
            )),
            FinishError::Torrent(_) => {
                tracing::error!(%error, "bug: a blob makes no torrent");
                Self::Failed(RegistryError::new(ErrorCode::Internal, error.to_string()))
            }
            FinishError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for CommitError {
    fn from(error: StoreError) -> Self {
        Self::Failed(storage(error))
    }
}

/// What a client is told when the store fails; the log is told where and why.
pub(crate) fn storage(error: StoreError) -> RegistryError {
    tracing::error!(%error, "the store failed");
    let message = match &error {
        StoreError::Io { source, .. } => match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "the origin's disk is full; make room there and try again".into()
            }
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                format!("the origin may not write to its disk ({source}); its log says where")
            }
            _ => format!("the origin's storage failed ({source}); its log says where"),
        },
        StoreError::Damaged { .. } => {
            "what the origin stored is damaged, and is looked into; its log says where. \
             Try again, and push the image again if that does not help"
                .into()
        }
        StoreError::Conflict(_) => "the tag was moved by somebody else meanwhile".into(),
        StoreError::Closing => "the origin is stopping; try again".into(),
    };
    RegistryError::new(ErrorCode::Unavailable, message).with_retry_after(Duration::from_secs(10))
}
