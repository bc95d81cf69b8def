//! The read half, from the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use oci::manifest::{MAX_MANIFEST, Manifest};
use oci::referrers::Wanted;
use oci::serve::MAX_PAGE;
use oci::{
    Blob, Caller, Descriptor, Digest, ErrorCode, Page, Pull, Reference, ReferrersPage,
    RegistryError, RepoName, StoredManifest, Tag, TagPage,
};

use super::manifests::checked;
use super::{Registry, storage};
use crate::store::BlobMeta;

impl Pull for Registry {
    async fn manifest(
        &self,
        _: &Caller,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<StoredManifest, RegistryError> {
        let unknown = || {
            let message = format!("{repo} has no manifest {reference}");
            RegistryError::new(ErrorCode::ManifestUnknown, message)
        };
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(tag) => {
                let found = self.stores.tags.tag(repo, tag).await.map_err(storage)?;
                found.ok_or_else(unknown)?
            }
        };
        let held = self
            .stores
            .repos
            .manifest(repo, &digest)
            .await
            .map_err(storage)?;
        let media_type = held.ok_or_else(unknown)?;
        let meta = self.stat(&digest).await?.ok_or_else(unknown)?;
        let bytes = self.read_whole(&meta).await?.ok_or_else(unknown)?;
        Ok(StoredManifest {
            digest,
            media_type,
            bytes,
        })
    }

    async fn blob(
        &self,
        _: &Caller,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Arc<dyn Blob>, RegistryError> {
        if self.blob_in(repo, digest).await?.is_none() {
            return Err(no_blob(repo, digest));
        }
        let opened = self.stores.blobs.open(digest).await;
        let found = self.found_or_doubted(digest, opened).await?;
        // Known, and not there: a client that hears 404 pushes it again.
        found.ok_or_else(|| no_blob(repo, digest))
    }

    async fn tags(
        &self,
        _: &Caller,
        repo: &RepoName,
        page: &Page,
    ) -> Result<TagPage, RegistryError> {
        if !self.stores.repos.knows(repo).await.map_err(storage)? {
            let message = format!("there is no repository {repo}");
            return Err(RegistryError::new(ErrorCode::NameUnknown, message));
        }
        self.stores
            .tags
            .tags(repo, &bounded(page))
            .await
            .map_err(storage)
    }

    async fn catalog(&self, _: &Caller, page: &Page) -> Result<TagPage, RegistryError> {
        self.stores
            .repos
            .repositories(&bounded(page))
            .await
            .map_err(storage)
    }

    async fn referrers(
        &self,
        caller: &Caller,
        repo: &RepoName,
        subject: &Digest,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let mut found = Vec::new();
        let mut wanted = Wanted::default();
        loop {
            let page = self.referrers_page(caller, repo, subject, wanted.clone());
            let (listed, next) = page.await?.finish();
            found.extend(listed);
            wanted.last = next;
            if wanted.last.is_none() {
                return Ok(found);
            }
        }
    }

    async fn referrers_page(
        &self,
        _: &Caller,
        repo: &RepoName,
        subject: &Digest,
        wanted: Wanted,
    ) -> Result<ReferrersPage, RegistryError> {
        let mut page = ReferrersPage::new(wanted);
        let mut listed: BTreeMap<Digest, Option<Descriptor>> = BTreeMap::new();
        for child in self.fallback(repo, subject).await? {
            listed.insert(child.digest.clone(), Some(child));
        }
        let marked = self.stores.repos.referrers(repo, subject).await;
        for digest in marked.map_err(storage)? {
            listed.insert(digest, None);
        }
        for (digest, by_tag) in listed {
            if !page.may_list(&digest) {
                continue;
            }
            let referrer = match by_tag {
                // Nobody takes it off that list when it goes.
                Some(listed) => self.has_manifest(repo, &digest).await?.then_some(listed),
                None => self
                    .legible_manifest(repo, &digest)
                    .await?
                    .map(|(manifest, meta)| manifest.as_referrer(digest, meta.length)),
            };
            if referrer.is_some_and(|referrer| !page.add(referrer)) {
                break;
            }
        }
        Ok(page)
    }
}

impl Registry {
    /// All of a manifest's bytes; `None` when they are gone or no longer what they were, which
    /// is cheap to see in something so small.
    pub(super) async fn read_whole(&self, meta: &BlobMeta) -> Result<Option<Bytes>, RegistryError> {
        if meta.length > MAX_MANIFEST as u64 {
            return Ok(None);
        }
        let opened = self.stores.blobs.open(&meta.digest).await;
        let Some(blob) = self.found_or_doubted(&meta.digest, opened).await? else {
            return Ok(None);
        };
        let mut bytes = BytesMut::new();
        let mut stream = blob.stream(0..meta.length);
        while let Some(step) = stream.next().await {
            let step = step
                .map_err(|error| RegistryError::new(ErrorCode::Unavailable, error.to_string()))?;
            bytes.extend_from_slice(&step);
        }
        if checked(&meta.digest, &bytes).is_err() {
            self.publisher.doubts().raise(&meta.digest);
            return Ok(None);
        }
        Ok(Some(bytes.freeze()))
    }

    async fn has_manifest(&self, repo: &RepoName, digest: &Digest) -> Result<bool, RegistryError> {
        let held = self.stores.repos.manifest(repo, digest).await;
        Ok(held.map_err(storage)?.is_some() && self.present_in(repo, digest).await?.is_some())
    }

    /// What clients of older registries listed under the tag `<algorithm>-<hex>`.
    async fn fallback(
        &self,
        repo: &RepoName,
        subject: &Digest,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let Ok(tag) = subject.to_string().replacen(':', "-", 1).parse::<Tag>() else {
            return Ok(Vec::new());
        };
        let Some(digest) = self.stores.tags.tag(repo, &tag).await.map_err(storage)? else {
            return Ok(Vec::new());
        };
        let listed = self.legible_manifest(repo, &digest).await?;
        Ok(listed.map_or_else(Vec::new, |(Manifest { children, .. }, _)| children))
    }
}

fn no_blob(repo: &RepoName, digest: &Digest) -> RegistryError {
    let message = format!("{repo} has no blob {digest}");
    RegistryError::new(ErrorCode::BlobUnknown, message)
}

fn bounded(page: &Page) -> Page {
    Page {
        n: Some(page.n.unwrap_or(MAX_PAGE).min(MAX_PAGE)),
        last: page.last.clone(),
    }
}
