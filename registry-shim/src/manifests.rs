//! Manifests: by tag from an origin, by digest from wherever they are.
//!
//! A tag is an origin's to answer, every time: one that moved is never stale while an origin
//! can be reached. What was answered is kept by digest and seeded like any blob, and the tag
//! is remembered for the day no origin answers. Content by digest never changes, so the local
//! store comes first, then the origins, then the swarm.

use std::sync::Arc;
use std::time::Duration;

use leecher::Seed;
use oci::manifest::MAX_MANIFEST;
use oci::{Digest, ErrorCode, Manifest, Reference, RegistryError, RepoName, StoredManifest, Tag};
use reqwest::header::HeaderValue;
use tokio::time::{Instant, timeout, timeout_at};
use torrents::hashing::{piece_hash, piece_len_for};
use torrents::{Geometry, Info};

use crate::files::blocking;
use crate::herds::{Verdict, Wait};
use crate::ledger::Record;
use crate::metrics::{Kind, Outcome};
use crate::origin::{Answer, Origin, OriginTorrent};
use crate::shelf::{Claim, refusal};
use crate::shim::{Here, Shim, absent};
use crate::trackers::Tiers;

/// How long origins are asked for a tag before it is answered from memory, a second try included.
const STALE_AFTER: Duration = Duration::from_millis(1500);
/// A manifest is answered this long after it came even if it is not stored yet.
const KEPT_WITHIN: Duration = Duration::from_secs(2);

impl Shim {
    /// A manifest, by tag or digest.
    pub(crate) async fn manifest(
        self: &Arc<Self>,
        repo: &RepoName,
        reference: &Reference,
        accept: &[HeaderValue],
    ) -> Result<StoredManifest, RegistryError> {
        let (manifest, outcome) = match reference {
            Reference::Tag(tag) => self.tagged(repo, tag, accept).await?,
            Reference::Digest(digest) => self.by_digest(repo, digest, accept).await?,
        };
        self.around.metrics.pulled(Kind::manifest, outcome);
        Ok(manifest)
    }

    async fn tagged(
        self: &Arc<Self>,
        repo: &RepoName,
        tag: &Tag,
        accept: &[HeaderValue],
    ) -> Result<(StoredManifest, Outcome), RegistryError> {
        let remembered = self.tags.recall(repo, tag);
        // Docker never retries a manifest, so it is retried here; less with an answer of last
        // resort at hand, but one broken connection must not make a tag stale.
        let patience = self.around.patience.manifest;
        let wait = match remembered {
            Some(_) => {
                let limit = patience.min(STALE_AFTER);
                Wait::patiently(limit).within(limit).or_otherwise()
            }
            None => Wait::patiently(patience),
        };
        let reference = Reference::Tag(tag.clone());
        match self.ask_manifest(repo, &reference, accept, wait).await {
            Verdict::Found((manifest, origin)) => {
                let (_, remembered) = tokio::join!(
                    self.took(repo, &manifest, &origin),
                    self.tags.remember(repo, tag, &manifest.digest)
                );
                if let Err(error) = remembered {
                    tracing::warn!("cannot remember that {repo}:{tag} was seen: {error}");
                }
                Ok((manifest, Outcome::origin))
            }
            Verdict::Absent => {
                if let Err(error) = self.tags.forget(repo, tag).await {
                    tracing::warn!("cannot forget {repo}:{tag}: {error}");
                }
                let what = format!("tag {tag}");
                Err(absent(ErrorCode::ManifestUnknown, repo, &what))
            }
            Verdict::Denied(error) | Verdict::Odd(error) => Err(error),
            Verdict::Unreachable(tried) => {
                let Some(digest) = remembered else {
                    return Err(tried.unavailable(&format!("{repo}:{tag}")));
                };
                tracing::warn!(%tried, "{repo}:{tag} is {digest}, as last seen");
                let (manifest, _) = self.by_digest(repo, &digest, accept).await?;
                Ok((manifest, Outcome::memory))
            }
        }
    }

    async fn by_digest(
        self: &Arc<Self>,
        repo: &RepoName,
        digest: &Digest,
        accept: &[HeaderValue],
    ) -> Result<(StoredManifest, Outcome), RegistryError> {
        let unknown = ErrorCode::ManifestUnknown;
        if let Some(manifest) = self.local_manifest(digest).await {
            self.permit(repo, digest, unknown, |origin| async move {
                origin.has_manifest(repo, digest).await
            })
            .await?;
            self.learn(repo, &manifest);
            return Ok((manifest, Outcome::local));
        }
        let reference = Reference::Digest(digest.clone());
        let wait = Wait::once().or_otherwise();
        match self.ask_manifest(repo, &reference, accept, wait).await {
            Verdict::Found((manifest, origin)) => {
                self.took(repo, &manifest, &origin).await;
                Ok((manifest, Outcome::origin))
            }
            Verdict::Absent => Err(absent(unknown, repo, &format!("manifest {digest}"))),
            Verdict::Denied(error) => Err(error),
            Verdict::Odd(error) => {
                // Whatever became of it there, others may have it as it was.
                let manifest = self.manifest_from_swarm(repo, digest).await;
                Ok((manifest.map_err(|_| error)?, Outcome::swarm))
            }
            Verdict::Unreachable(_) => {
                let manifest = self.manifest_from_swarm(repo, digest).await?;
                Ok((manifest, Outcome::swarm))
            }
        }
    }

    async fn ask_manifest(
        &self,
        repo: &RepoName,
        reference: &Reference,
        accept: &[HeaderValue],
        wait: Wait,
    ) -> Verdict<(StoredManifest, Arc<Origin>)> {
        let question = |origin: Arc<Origin>| async move {
            let answer = origin.manifest(repo, reference, accept).await;
            answer.map(|manifest| (manifest, origin))
        };
        self.around.herds.ask(wait, question).await
    }

    /// A manifest came from an origin: what it teaches, and its copy in the store.
    async fn took(
        self: &Arc<Self>,
        repo: &RepoName,
        manifest: &StoredManifest,
        from: &Arc<Origin>,
    ) {
        self.knowledge.note_member(repo, &manifest.digest, true);
        self.learn(repo, manifest);
        let name = manifest.digest.torrent_name();
        if self.around.shelf.store().get(&name).is_some() {
            return;
        }
        let job = {
            let (shim, repo, manifest, from) =
                (self.clone(), repo.clone(), manifest.clone(), from.clone());
            || async move { shim.keep(&repo, &manifest, &from).await }
        };
        // Waited for, so that a herd that dies after a pull leaves everything that was pulled
        // in the swarm; not for long, because the client waits.
        let kept = self.keeping.join(manifest.digest.clone(), job);
        if timeout(KEPT_WITHIN, kept).await.is_err() {
            tracing::debug!(digest = %manifest.digest, "the manifest is still being stored");
        }
    }

    /// What a manifest says of its content; and, if an origin confirmed that it is of that
    /// repository, where that content may be read.
    fn learn(&self, repo: &RepoName, manifest: &StoredManifest) {
        match Manifest::parse_stored(&manifest.bytes, &manifest.media_type) {
            Ok(parsed) => self
                .knowledge
                .note_manifest(repo, &manifest.digest, &parsed),
            Err(error) => tracing::debug!(digest = %manifest.digest, "{error}"),
        }
    }

    /// Stores a manifest and seeds it.
    async fn keep(&self, repo: &RepoName, manifest: &StoredManifest, from: &Origin) {
        let digest = &manifest.digest;
        let asked = Instant::now();
        let Some((info, trackers)) = self.manifest_torrent(repo, manifest, from).await else {
            return;
        };
        let shelf = &self.around.shelf;
        let name = digest.torrent_name();
        let _turn = shelf.turn(&name).await;
        if self.fetch_of(digest).is_some() || shelf.store().get(&name).is_some() {
            return;
        }
        let length = manifest.bytes.len() as u64;
        let room = shelf.make_room(Claim::File(length), &name).await;
        let info_hash = info.hash();
        let put = async {
            let _room = room?;
            let (store, bytes) = (shelf.store().clone(), manifest.bytes.clone());
            blocking(move || store.put(&name, &bytes, Some(&info)))
                .await
                .map_err(|error| refusal(&error))
        };
        if let Err(error) = put.await {
            tracing::warn!("cannot keep the manifest {digest}: {}", error.message);
            return;
        }
        let record = Record::new(digest, repo, info_hash, length, asked);
        self.ledger.open(record).came_whole(&self.around.metrics);
        self.engine.seed(Seed {
            info_hash,
            trackers,
        });
    }

    /// The manifest's torrent from the origin that gave it; made here if that fails, for the
    /// same bytes make the same torrent everywhere.
    async fn manifest_torrent(
        &self,
        repo: &RepoName,
        manifest: &StoredManifest,
        from: &Origin,
    ) -> Option<(Info, Tiers)> {
        let length = manifest.bytes.len() as u64;
        match from.torrent(repo, &manifest.digest).await {
            Answer::Yes(OriginTorrent::Ready { metainfo, .. })
                if metainfo.info.geometry().length() == length =>
            {
                let herd = &from.herd().registry;
                let trackers = self.trackers.of_torrent(herd, &metainfo.trackers);
                Some((metainfo.info, trackers))
            }
            answer => {
                tracing::debug!(digest = %manifest.digest, "no torrent for it: {answer:?}");
                Some((own_torrent(manifest)?, self.trackers.tiers()))
            }
        }
    }

    /// The manifest in the local store, if it is there and intact.
    async fn local_manifest(&self, digest: &Digest) -> Option<StoredManifest> {
        let shelf = &self.around.shelf;
        let name = digest.torrent_name();
        let bytes = match shelf.read(&name, MAX_MANIFEST as u64).await {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::warn!("cannot read the manifest {digest}: {error}");
                return None;
            }
        };
        let mut verifier = digest.verifier();
        verifier.update(&bytes);
        if verifier.finish() != *digest {
            self.discard_damaged(digest).await;
            return None;
        }
        let parsed = Manifest::parse(&bytes, None).ok()?;
        Some(StoredManifest {
            digest: digest.clone(),
            media_type: parsed.media_type,
            bytes,
        })
    }

    /// The manifest from its peers, no origin being reachable.
    async fn manifest_from_swarm(
        self: &Arc<Self>,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<StoredManifest, RegistryError> {
        let deadline = Instant::now() + self.around.patience.headers;
        let fetched = async {
            match self.fetched(repo, digest).await? {
                Here::Whole(_) => Ok(()),
                Here::Growing(_, fetch) => fetch.stored().await,
            }
        };
        let Ok(fetched) = timeout_at(deadline, fetched).await else {
            let why = match self.fetch_of(digest) {
                Some(fetch) => fetch.why_it_waits().await,
                None => String::new(),
            };
            let message = format!("cannot fetch {digest} from its peers in time{why}");
            return Err(RegistryError::new(ErrorCode::Unavailable, message));
        };
        fetched?;
        let manifest = self.local_manifest(digest).await.ok_or_else(|| {
            let message = format!("{digest} came from its peers and is no manifest");
            RegistryError::new(ErrorCode::ManifestInvalid, message)
        })?;
        self.learn(repo, &manifest);
        Ok(manifest)
    }
}

/// The torrent every origin makes of these bytes.
fn own_torrent(manifest: &StoredManifest) -> Option<Info> {
    let length = manifest.bytes.len() as u64;
    let geometry = Geometry::new(length, u64::from(piece_len_for(length))).ok()?;
    let pieces: Vec<_> = manifest
        .bytes
        .chunks(geometry.piece_len() as usize)
        .map(|piece| piece_hash(&[piece]))
        .collect();
    let name = manifest.digest.torrent_name();
    Info::build(&name, geometry, &pieces).ok()
}
