//! What goes: tags, manifests, blobs. Nothing goes that something else still needs: that is
//! DENIED, not UNSUPPORTED, by which tools learn that a registry deletes nothing at all.

use oci::{Digest, ErrorCode, Page, RegistryError, RepoName, Tag};

use super::{Registry, storage};
use crate::store::Expect;

impl Registry {
    /// Removes a tag and nothing else.
    pub(crate) async fn delete_tag(&self, repo: &RepoName, tag: &Tag) -> Result<(), RegistryError> {
        let _lock = self.locks.repo(repo).await;
        let removed = self.stores.tags.remove_tag(repo, tag, Expect::Any).await;
        if removed.map_err(storage)? {
            self.publisher.name_only(repo, tag, &[]);
            tracing::info!(%repo, %tag, "deleted a tag");
            return Ok(());
        }
        let message = format!("{repo} has no tag {tag}");
        Err(RegistryError::new(ErrorCode::ManifestUnknown, message))
    }

    /// Removes a manifest and the tags that point at it.
    pub(crate) async fn delete_manifest(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<(), RegistryError> {
        let _lock = self.locks.repo(repo).await;
        let held = self
            .stores
            .repos
            .manifest(repo, digest)
            .await
            .map_err(storage)?;
        if held.is_none() {
            let message = format!("{repo} has no manifest {digest}");
            return Err(RegistryError::new(ErrorCode::ManifestUnknown, message));
        }
        self.check_unneeded(repo, digest).await?;
        // A manifest that can no longer be read has no subject we could know; it goes anyway.
        let read = self.read_manifest(repo, digest).await.ok().flatten();
        let subject = read.and_then(|(manifest, _)| manifest.subject);
        let subject = subject.map(|subject| subject.digest);
        self.delete_tags_at(repo, digest).await?;
        let _content = self.locks.digest(digest).await;
        self.drop_unless_shared(repo, digest).await?;
        let repos = &self.stores.repos;
        repos
            .remove_manifest(repo, digest, subject.as_ref())
            .await
            .map_err(storage)?;
        repos.unlink(repo, digest).await.map_err(storage)?;
        tracing::info!(%repo, %digest, "deleted a manifest");
        Ok(())
    }

    /// Takes a blob out of a repository.
    pub(crate) async fn delete_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<(), RegistryError> {
        let _lock = self.locks.repo(repo).await;
        // Also what was lost: a link to nothing is there to be removed.
        let linked = self.stores.repos.linked(repo, digest).await;
        if !linked.map_err(storage)? {
            let message = format!("{repo} has no blob {digest}");
            return Err(RegistryError::new(ErrorCode::BlobUnknown, message));
        }
        if self
            .stores
            .repos
            .manifest(repo, digest)
            .await
            .map_err(storage)?
            .is_some()
        {
            let message = format!("{digest} is a manifest; delete it as one");
            return Err(RegistryError::new(ErrorCode::Denied, message));
        }
        self.check_unneeded(repo, digest).await?;
        let _content = self.locks.digest(digest).await;
        self.drop_unless_shared(repo, digest).await?;
        let unlinked = self.stores.repos.unlink(repo, digest).await;
        unlinked.map_err(storage)?;
        tracing::info!(%repo, %digest, "deleted a blob");
        Ok(())
    }

    /// Refuses when a manifest of the repository names the digest. Reads them all: deleting by
    /// hand is rare, and an index of references would have to be right at every push.
    async fn check_unneeded(&self, repo: &RepoName, digest: &Digest) -> Result<(), RegistryError> {
        for other in self.stores.repos.manifests(repo).await.map_err(storage)? {
            let Some((manifest, _)) = self.legible_manifest(repo, &other).await? else {
                continue;
            };
            if manifest.references().any(|named| named.digest == *digest) {
                let message =
                    format!("{digest} is part of the manifest {other}; delete that first");
                return Err(RegistryError::new(ErrorCode::Denied, message));
            }
        }
        Ok(())
    }

    async fn delete_tags_at(&self, repo: &RepoName, digest: &Digest) -> Result<(), RegistryError> {
        let tags = &self.stores.tags;
        for name in tags
            .tags(repo, &Page::default())
            .await
            .map_err(storage)?
            .names
        {
            let Ok(tag) = name.parse::<Tag>() else {
                continue;
            };
            let expect = Expect::Digest(digest.clone());
            if tags.remove_tag(repo, &tag, expect).await.map_err(storage)? {
                self.publisher.name_only(repo, &tag, &[]);
            }
        }
        Ok(())
    }

    /// The repository is about to let go of the content; when no other holds it, it goes, and
    /// its swarm with it. It goes first and the link to it after: whatever ends this in between
    /// leaves a link to nothing, which counts as nothing and can be deleted again. The other way
    /// round would leave content that nobody can delete and that the next start would seed.
    async fn drop_unless_shared(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<(), RegistryError> {
        let holders = self.stores.repos.holders(digest).await.map_err(storage)?;
        if holders.iter().any(|holder| **holder != *repo) {
            return Ok(());
        }
        self.publisher.withdraw(digest).await;
        let removed = self.stores.blobs.remove(digest).await;
        if removed.is_err()
            && let Ok(Some(meta)) = self.stat(digest).await
        {
            // It is as it was, and whoever asked may ask again.
            self.publisher.publish(&meta);
        }
        removed.map(drop).map_err(storage)
    }
}
