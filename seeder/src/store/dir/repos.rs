//! What each repository holds, in the directory store.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use oci::{Digest, Page, RepoName, TagPage};

use super::{DirStore, Inner, durable, file_name, from_file_name};
use crate::store::{RepoStore, StoreError, page_of};

#[async_trait]
impl RepoStore for DirStore {
    async fn link(&self, repo: &RepoName, digest: &Digest) -> Result<(), StoreError> {
        if self.inner.index().has_blob(repo, digest) {
            return self.blocking(Inner::settle).await;
        }
        let (repo, digest) = (repo.clone(), digest.clone());
        self.blocking(move |inner| {
            let dir = inner.make(&repo, Path::new("_blobs"))?;
            durable::write_new(&dir.join(file_name(&digest)), b"")?;
            durable::sync_dir(&dir)?;
            inner.index_mut().add_blob(&repo, &digest);
            Ok(())
        })
        .await
    }

    async fn unlink(&self, repo: &RepoName, digest: &Digest) -> Result<bool, StoreError> {
        let (repo, digest) = (repo.clone(), digest.clone());
        self.blocking(move |inner| {
            let path = inner
                .repo_dir(&repo)
                .join("_blobs")
                .join(file_name(&digest));
            let removed = durable::remove(&path)?;
            inner.index_mut().remove_blob(&repo, &digest);
            Ok(removed)
        })
        .await
    }

    async fn linked(&self, repo: &RepoName, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.inner.index().has_blob(repo, digest))
    }

    async fn holders(&self, digest: &Digest) -> Result<Vec<Arc<RepoName>>, StoreError> {
        Ok(self
            .inner
            .index()
            .holders
            .get(digest)
            .cloned()
            .unwrap_or_default())
    }

    async fn put_manifest(
        &self,
        repo: &RepoName,
        digest: &Digest,
        media_type: &str,
        subject: Option<&Digest>,
    ) -> Result<(), StoreError> {
        let (repo, digest, media_type) = (repo.clone(), digest.clone(), media_type.to_owned());
        let subject = subject.cloned();
        self.blocking(move |inner| {
            if let Some(subject) = subject {
                let dir = inner.make(&repo, &Path::new("_referrers").join(file_name(&subject)))?;
                durable::write_new(&dir.join(file_name(&digest)), b"")?;
                durable::sync_dir(&dir)?;
            }
            let dir = inner.make(&repo, Path::new("_manifests"))?;
            inner.replace(&dir.join(file_name(&digest)), media_type.as_bytes())?;
            let mut index = inner.index_mut();
            let (_, held) = index.repo(&repo);
            held.known = true;
            held.manifests.insert(digest);
            Ok(())
        })
        .await
    }

    async fn manifest(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Option<String>, StoreError> {
        if !self.inner.index().has_manifest(repo, digest) {
            return Ok(None);
        }
        let (repo, digest) = (repo.clone(), digest.clone());
        self.blocking(move |inner| {
            read_text(
                &inner
                    .repo_dir(&repo)
                    .join("_manifests")
                    .join(file_name(&digest)),
            )
        })
        .await
    }

    async fn manifests(&self, repo: &RepoName) -> Result<Vec<Digest>, StoreError> {
        let repo = repo.clone();
        self.blocking(move |inner| digests_in(&inner.repo_dir(&repo).join("_manifests")))
            .await
    }

    async fn remove_manifest(
        &self,
        repo: &RepoName,
        digest: &Digest,
        subject: Option<&Digest>,
    ) -> Result<bool, StoreError> {
        let (repo, digest, subject) = (repo.clone(), digest.clone(), subject.cloned());
        self.blocking(move |inner| {
            let dir = inner.repo_dir(&repo);
            let removed = durable::remove(&dir.join("_manifests").join(file_name(&digest)))?;
            if let Some(subject) = subject {
                let marks = dir.join("_referrers").join(file_name(&subject));
                durable::remove(&marks.join(file_name(&digest)))?;
            }
            inner.index_mut().repo(&repo).1.manifests.remove(&digest);
            Ok(removed)
        })
        .await
    }

    async fn referrers(
        &self,
        repo: &RepoName,
        subject: &Digest,
    ) -> Result<Vec<Digest>, StoreError> {
        let (repo, subject) = (repo.clone(), subject.clone());
        self.blocking(move |inner| {
            let dir = inner
                .repo_dir(&repo)
                .join("_referrers")
                .join(file_name(&subject));
            let mut marked = digests_in(&dir)?;
            // A mark is made before its manifest: a crash between the two leaves it alone.
            let index = inner.index();
            marked.retain(|digest| index.has_manifest(&repo, digest));
            Ok(marked)
        })
        .await
    }

    async fn repositories(&self, page: &Page) -> Result<TagPage, StoreError> {
        let index = self.inner.index();
        let known = index.repos.iter().filter(|(_, held)| held.known);
        Ok(page_of(known.map(|(repo, _)| repo.as_str()), page))
    }

    async fn knows(&self, repo: &RepoName) -> Result<bool, StoreError> {
        Ok(self
            .inner
            .index()
            .repos
            .get(repo)
            .is_some_and(|held| held.known))
    }
}

impl Inner {
    /// A directory of the repository, durable when it returns.
    pub(super) fn make(&self, repo: &RepoName, below: &Path) -> Result<PathBuf, StoreError> {
        self.settle()?;
        let dir = self.repo_dir(repo).join(below);
        let _making = self
            .making
            .lock()
            .expect("no panic while directories are made");
        durable::make_dirs(&self.root.join("repos"), &dir)?;
        Ok(dir)
    }

    /// Replaces a small file, by way of the spool.
    pub(super) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        durable::replace(&self.staging_dir(), path, bytes)
    }
}

/// A small text file, or `None` when there is none. What is no text is for the caller to find
/// no sense in.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, StoreError> {
    match fs::read(path) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The digests that are names of files in a directory, sorted; none when it is missing.
pub(super) fn digests_in(dir: &Path) -> Result<Vec<Digest>, StoreError> {
    let mut digests: Vec<_> = names_in(dir)?
        .iter()
        .filter_map(|name| from_file_name(name))
        .collect();
    digests.sort_unstable();
    Ok(digests)
}

/// The names in a directory, as they come; none when it is missing.
pub(super) fn names_in(dir: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(StoreError::Io {
                path: dir.to_owned(),
                source,
            });
        }
    };
    entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .map_err(StoreError::at(dir))
}
