//! Tags in the directory store: one small file each, replaced by rename.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use oci::{Digest, Page, RepoName, Tag, TagPage};

use super::repos::{names_in, read_text};
use super::{DirStore, Inner, durable};
use crate::store::{Expect, StoreError, TagTable, page_of};

#[async_trait]
impl TagTable for DirStore {
    async fn tag(&self, repo: &RepoName, tag: &Tag) -> Result<Option<Digest>, StoreError> {
        let (repo, tag) = (repo.clone(), tag.clone());
        self.blocking(move |inner| read_tag(&inner.tag_path(&repo, &tag)))
            .await
    }

    async fn set_tag(
        &self,
        repo: &RepoName,
        tag: &Tag,
        digest: &Digest,
        expect: Expect,
    ) -> Result<(), StoreError> {
        let (repo, tag, digest) = (repo.clone(), tag.clone(), digest.clone());
        self.blocking(move |inner| inner.set_tag(&repo, &tag, &digest, &expect))
            .await
    }

    async fn remove_tag(
        &self,
        repo: &RepoName,
        tag: &Tag,
        expect: Expect,
    ) -> Result<bool, StoreError> {
        let (repo, tag) = (repo.clone(), tag.clone());
        self.blocking(move |inner| {
            let path = inner.tag_path(&repo, &tag);
            let _moving = inner.moving(&path);
            if expect != Expect::Any && !expect.meets(found_tag(&path)?.as_ref()) {
                return Ok(false);
            }
            durable::remove(&path)
        })
        .await
    }

    async fn tags(&self, repo: &RepoName, page: &Page) -> Result<TagPage, StoreError> {
        let (repo, page) = (repo.clone(), page.clone());
        self.blocking(move |inner| {
            let mut names = names_in(&inner.repo_dir(&repo).join("_tags"))?;
            names.retain(|name| name.parse::<Tag>().is_ok());
            names.sort_unstable();
            Ok(page_of(names.iter().map(String::as_str), &page))
        })
        .await
    }
}

impl Expect {
    fn meets(&self, found: Option<&Digest>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::Digest(digest) => found == Some(digest),
        }
    }
}

impl Inner {
    fn set_tag(
        &self,
        repo: &RepoName,
        tag: &Tag,
        digest: &Digest,
        expect: &Expect,
    ) -> Result<(), StoreError> {
        self.make(repo, Path::new("_tags"))?;
        let path = self.tag_path(repo, tag);
        let _moving = self.moving(&path);
        let found = found_tag(&path)?;
        if !expect.meets(found.as_ref()) {
            return Err(StoreError::Conflict(found));
        }
        if found.as_ref() == Some(digest) {
            return Ok(());
        }
        self.replace(&path, digest.to_string().as_bytes())
    }

    fn tag_path(&self, repo: &RepoName, tag: &Tag) -> PathBuf {
        self.repo_dir(repo).join("_tags").join(tag.as_str())
    }

    /// Whoever looks at this path and then changes it waits for others who do.
    pub(super) fn moving(&self, path: &Path) -> std::sync::MutexGuard<'_, ()> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(path);
        let slots = self.moving.len() as u64;
        let slot = usize::try_from(hash % slots).expect("fewer slots than usize counts");
        self.moving[slot]
            .lock()
            .expect("no panic while a path changes")
    }
}

/// Where a tag is for those who move it: one that cannot be read is nowhere, so that a push
/// mends it.
fn found_tag(path: &Path) -> Result<Option<Digest>, StoreError> {
    match read_tag(path) {
        Err(StoreError::Damaged { .. }) => Ok(None),
        found => found,
    }
}

fn read_tag(path: &Path) -> Result<Option<Digest>, StoreError> {
    let Some(text) = read_text(path)? else {
        return Ok(None);
    };
    match text.trim_end().parse() {
        Ok(digest) => Ok(Some(digest)),
        Err(_) => Err(StoreError::Damaged {
            path: path.to_owned(),
            what: "it holds no digest; push the tag again".into(),
        }),
    }
}
