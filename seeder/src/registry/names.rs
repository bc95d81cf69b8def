//! Names for people: under which tags content is known. Trackers show them; nothing depends on
//! them, so a failure here is logged and forgotten.

use std::collections::HashSet;

use oci::manifest::Manifest;
use oci::{Digest, Page, RegistryError, RepoName, Tag};

use super::{Registry, storage};
use crate::store::BlobMeta;

/// Manifests looked into behind one tag, and levels of indexes inside indexes.
const MAX_MANIFESTS: usize = 1_000;
const MAX_DEPTH: usize = 4;

impl Registry {
    /// Gives a manifest and everything it is made of, which is returned, the name of a tag.
    pub(super) async fn name_all(
        &self,
        repo: &RepoName,
        tag: &Tag,
        manifest: &Manifest,
        meta: BlobMeta,
    ) -> Vec<BlobMeta> {
        let metas = self.closure(repo, manifest, meta).await;
        self.publisher.name(repo, tag, &metas);
        metas
    }

    /// Names everything the store holds by its tags: once, at start.
    pub(crate) async fn name_stored(&self) {
        if let Err(error) = self.try_name_stored().await {
            tracing::warn!(%error, "cannot read the names of stored content");
        }
    }

    async fn try_name_stored(&self) -> Result<(), RegistryError> {
        let everything = Page::default();
        let repos = self
            .stores
            .repos
            .repositories(&everything)
            .await
            .map_err(storage)?;
        for repo in repos.names {
            let Ok(repo) = repo.parse::<RepoName>() else {
                continue;
            };
            let tags = self
                .stores
                .tags
                .tags(&repo, &everything)
                .await
                .map_err(storage)?;
            for tag in tags.names {
                let Ok(tag) = tag.parse::<Tag>() else {
                    continue;
                };
                if let Err(error) = self.name_tag(&repo, &tag).await {
                    tracing::warn!(%repo, %tag, %error, "cannot read what a tag names");
                }
            }
        }
        Ok(())
    }

    async fn name_tag(&self, repo: &RepoName, tag: &Tag) -> Result<(), RegistryError> {
        // So that a tag which moves or goes meanwhile leaves no name behind.
        let _lock = self.locks.repo(repo).await;
        let Some(digest) = self.stores.tags.tag(repo, tag).await.map_err(storage)? else {
            return Ok(());
        };
        if let Some((manifest, meta)) = self.read_manifest(repo, &digest).await? {
            self.name_all(repo, tag, &manifest, meta).await;
        }
        Ok(())
    }

    /// A manifest, its blobs, and those of its children; what cannot be read is left out.
    pub(super) async fn closure(
        &self,
        repo: &RepoName,
        manifest: &Manifest,
        meta: BlobMeta,
    ) -> Vec<BlobMeta> {
        let mut metas = vec![meta];
        let mut seen: HashSet<Digest> = HashSet::new();
        let mut level: Vec<Digest> = manifest
            .references()
            .map(|named| named.digest.clone())
            .collect();
        for _ in 0..MAX_DEPTH {
            let mut below = Vec::new();
            for digest in level {
                if seen.len() >= MAX_MANIFESTS || !seen.insert(digest.clone()) {
                    continue;
                }
                if let Ok(Some(meta)) = self.blob_in(repo, &digest).await {
                    metas.push(meta);
                }
                if let Ok(Some((child, _))) = self.read_manifest(repo, &digest).await {
                    below.extend(child.references().map(|named| named.digest.clone()));
                }
            }
            level = below;
        }
        metas
    }
}
