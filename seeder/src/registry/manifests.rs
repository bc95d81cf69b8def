//! Manifests: stored only when everything they name is here, byte for byte as they came.

use std::sync::Arc;

use bytes::Bytes;
use oci::manifest::Manifest;
use oci::{Descriptor, Digest, ErrorCode, Reference, RegistryError, RepoName, Tag};

use super::{CommitError, Registry, TOLD_WITHIN, storage};
use crate::intake::{Finished, Intake};
use crate::store::{BlobMeta, Expect, StoreError};

/// A manifest was stored.
pub(crate) struct PutManifest {
    /// What its bytes hash to.
    pub(crate) digest: Digest,
    /// Whom it refers to; the client is told that this was understood.
    pub(crate) subject: Option<Digest>,
}

impl Registry {
    /// Stores a manifest and moves the tag, if it came by tag.
    pub(crate) async fn put_manifest(
        self: &Arc<Self>,
        repo: &RepoName,
        reference: &Reference,
        content_type: Option<&str>,
        bytes: Bytes,
    ) -> Result<PutManifest, RegistryError> {
        let manifest = Manifest::parse(&bytes, content_type)?;
        let digest = match reference {
            Reference::Tag(_) => Digest::sha256_of(&bytes),
            Reference::Digest(wanted) => checked(wanted, &bytes)?,
        };
        let meta = {
            let _lock = self.locks.repo(repo).await;
            self.check_references(repo, &manifest).await?;
            self.keep_manifest(repo, &digest, bytes.clone()).await?
        };
        // Whoever sees the manifest finds everything it names in a swarm, itself included.
        let named = match reference {
            Reference::Tag(tag) => self.name_all(repo, tag, &manifest, meta).await,
            Reference::Digest(_) => Vec::new(),
        };
        self.publisher
            .told(&self.publisher.receipt(), TOLD_WITHIN)
            .await;
        let subject = manifest
            .subject
            .as_ref()
            .map(|subject| subject.digest.clone());
        let (repos, media_type) = (&self.stores.repos, &manifest.media_type);
        let _lock = self.locks.repo(repo).await;
        // Trackers were not waited for under the lock, so something may have been deleted.
        self.check_references(repo, &manifest).await?;
        self.keep_manifest(repo, &digest, bytes).await?;
        repos
            .put_manifest(repo, &digest, media_type, subject.as_ref())
            .await
            .map_err(storage)?;
        if let Reference::Tag(tag) = reference {
            self.move_tag(repo, tag, &digest, Expect::Any).await?;
            self.publisher.name_only(repo, tag, &named);
        }
        self.metrics.manifest_pushed();
        tracing::info!(%repo, %reference, %digest, "stored a manifest");
        Ok(PutManifest { digest, subject })
    }

    /// Points a tag at a manifest that the repository holds, if the tag is where the caller
    /// saw it.
    pub(crate) async fn put_tag(
        &self,
        repo: &RepoName,
        tag: &Tag,
        digest: &Digest,
        expect: Expect,
    ) -> Result<(), PutTagError> {
        let _lock = self.locks.repo(repo).await;
        let Some((manifest, meta)) = self.read_manifest(repo, digest).await? else {
            let message = format!("{repo} has no manifest {digest}; push it first");
            return Err(RegistryError::new(ErrorCode::ManifestUnknown, message).into());
        };
        let named = self.closure(repo, &manifest, meta).await;
        match self.stores.tags.set_tag(repo, tag, digest, expect).await {
            Ok(()) => {
                self.publisher.name_only(repo, tag, &named);
                Ok(())
            }
            Err(StoreError::Conflict(found)) => Err(PutTagError::Conflict(found)),
            Err(error) => Err(storage(error).into()),
        }
    }

    async fn move_tag(
        &self,
        repo: &RepoName,
        tag: &Tag,
        digest: &Digest,
        expect: Expect,
    ) -> Result<(), RegistryError> {
        self.stores
            .tags
            .set_tag(repo, tag, digest, expect)
            .await
            .map_err(storage)
    }

    /// Everything the manifest is made of is in this repository, with the size it states.
    async fn check_references(
        &self,
        repo: &RepoName,
        manifest: &Manifest,
    ) -> Result<(), RegistryError> {
        for blob in &manifest.blobs {
            match self.present_in(repo, &blob.digest).await? {
                Some(found) => check_size(blob, &found)?,
                None if blob.is_foreign() => {}
                None => return Err(unknown(repo, "blob", blob)),
            }
        }
        for child in &manifest.children {
            // A child is a manifest as a rule; build caches list blobs in their indexes.
            match self.present_in(repo, &child.digest).await? {
                Some(found) => check_size(child, &found)?,
                None if self.sparse_indexes || child.is_foreign() => {}
                None => return Err(unknown(repo, "manifest", child)),
            }
        }
        Ok(())
    }

    /// Stores a manifest's bytes as content with a torrent of its own, and seeds it.
    async fn keep_manifest(
        &self,
        repo: &RepoName,
        digest: &Digest,
        bytes: Bytes,
    ) -> Result<BlobMeta, RegistryError> {
        // One that cannot be read is one to be healed.
        if let Some(kept) = self.present_in(repo, digest).await?
            && let Ok(Some(stored)) = self.read_whole(&kept).await
            && stored == bytes
        {
            return Ok(kept);
        }
        let mut intake = Intake::new(Arc::clone(&self.stores.blobs), digest.algorithm());
        intake.take(&bytes).await.map_err(storage)?;
        let finished = intake.finish(digest).await;
        let Finished { blob, .. } =
            finished.map_err(|error| CommitError::from(error).into_answer())?;
        self.keep(repo, blob).await.map_err(storage)
    }

    /// A manifest that the repository holds, and where its bytes are.
    pub(super) async fn read_manifest(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Option<(Manifest, BlobMeta)>, RegistryError> {
        let Some(media_type) = self
            .stores
            .repos
            .manifest(repo, digest)
            .await
            .map_err(storage)?
        else {
            return Ok(None);
        };
        let Some(meta) = self.stat(digest).await? else {
            return Ok(None);
        };
        let Some(bytes) = self.read_whole(&meta).await? else {
            return Ok(None);
        };
        Ok(Some((Manifest::parse_stored(&bytes, &media_type)?, meta)))
    }

    /// The same for those who look through all of them: one that is no longer a manifest is
    /// passed over.
    pub(super) async fn legible_manifest(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Option<(Manifest, BlobMeta)>, RegistryError> {
        match self.read_manifest(repo, digest).await {
            Err(error) if error.code == ErrorCode::ManifestInvalid => {
                tracing::warn!(%repo, %digest, %error, "a stored manifest cannot be read; push it again");
                Ok(None)
            }
            read => read,
        }
    }
}

/// Why a tag was not put.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PutTagError {
    /// The tag is not where the caller saw it, but here.
    #[error("the tag is elsewhere")]
    Conflict(Option<Digest>),
    /// Anything else.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// The digest, if it is that of the bytes.
pub(super) fn checked(wanted: &Digest, bytes: &[u8]) -> Result<Digest, RegistryError> {
    let mut verifier = wanted.verifier();
    verifier.update(bytes);
    let actual = verifier.finish();
    if actual == *wanted {
        return Ok(actual);
    }
    let message = format!("the manifest hashes to {actual}, not to {wanted}");
    Err(RegistryError::new(ErrorCode::DigestInvalid, message))
}

fn check_size(named: &Descriptor, found: &BlobMeta) -> Result<(), RegistryError> {
    if named.size == found.length {
        return Ok(());
    }
    let message = format!(
        "{} is {} bytes, the manifest says {}",
        named.digest, found.length, named.size
    );
    Err(RegistryError::new(ErrorCode::SizeInvalid, message))
}

fn unknown(repo: &RepoName, what: &str, named: &Descriptor) -> RegistryError {
    let digest = &named.digest;
    let message = format!(
        "the manifest names the {what} {digest}, which {repo} does not have; push it first"
    );
    RegistryError::new(ErrorCode::ManifestBlobUnknown, message)
        .with_detail(serde_json::json!({ "digest": digest }))
}
