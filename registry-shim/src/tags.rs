//! What tags pointed to when an origin was last asked: the answer of last resort.
//!
//! One small file a tag, `<repository>/_tags/<tag>` with the digest inside (no repository
//! has a component that starts with an underscore), so that remembering costs the same
//! however many are known. Bounded: the longest unconfirmed goes first.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use oci::{Digest, RepoName, Tag};

use crate::files;
use crate::recent::Recent;

/// Tags remembered at most: about 2 MB in memory.
const CAPACITY: usize = 10_000;
/// Stands between a repository and its tags.
const TAGS: &str = "_tags";
/// Directories below one another at most; a repository name of 255 bytes has 128 components.
const MAX_DEPTH: usize = 130;

type Key = (RepoName, Tag);

/// Tags as they were last seen.
#[derive(Debug)]
pub(crate) struct Tags {
    dir: PathBuf,
    known: Mutex<Recent<Key, Digest>>,
    /// Held while a file changes, so that the last answer is also the last one written.
    writing: tokio::sync::Mutex<()>,
}

impl Tags {
    /// Reads what earlier runs remembered, and removes what they left half-written. Blocking.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut found = Vec::new();
        collect(dir, dir, 0, &mut found)?;
        found.sort_by_key(|(seen, ..)| *seen);
        let mut known = Recent::new(CAPACITY);
        for (_, key, digest) in found {
            if let Some((gone, _)) = known.insert(key, digest) {
                remove(&place(dir, &gone))?;
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            known: Mutex::new(known),
            writing: tokio::sync::Mutex::new(()),
        })
    }

    /// What the tag pointed to when an origin was last asked.
    pub(crate) fn recall(&self, repo: &RepoName, tag: &Tag) -> Option<Digest> {
        let key = (repo.clone(), tag.clone());
        self.known().find(&key).cloned()
    }

    /// An origin just said so. A tag that cannot be written is remembered until the process
    /// ends, and the error says why it will be forgotten then.
    pub(crate) async fn remember(
        &self,
        repo: &RepoName,
        tag: &Tag,
        digest: &Digest,
    ) -> io::Result<()> {
        let key = (repo.clone(), tag.clone());
        if self.confirm(&key, digest) {
            return Ok(());
        }
        let _turn = self.writing.lock().await;
        let pushed_out = self.known().insert(key.clone(), digest.clone());
        let path = place(&self.dir, &key);
        let text = format!("{digest}\n");
        let old = pushed_out.map(|(key, _)| place(&self.dir, &key));
        files::blocking(move || {
            if let Some(old) = old {
                remove(&old)?;
            }
            files::replace(&path, text.as_bytes())
        })
        .await
    }

    /// An origin just said that the tag does not exist.
    pub(crate) async fn forget(&self, repo: &RepoName, tag: &Tag) -> io::Result<()> {
        let key = (repo.clone(), tag.clone());
        if self.known().find(&key).is_none() {
            return Ok(());
        }
        let _turn = self.writing.lock().await;
        self.known().remove(&key);
        let path = place(&self.dir, &key);
        files::blocking(move || remove(&path)).await
    }

    /// Whether that is known already; if so, it counts as newest.
    fn confirm(&self, key: &Key, digest: &Digest) -> bool {
        let mut known = self.known();
        let same = known.find(key) == Some(digest);
        if same {
            known.insert(key.clone(), digest.clone());
        }
        same
    }

    fn known(&self) -> MutexGuard<'_, Recent<Key, Digest>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(dir: &Path, (repo, tag): &Key) -> PathBuf {
    dir.join(repo.as_str()).join(TAGS).join(tag.to_string())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn collect(
    root: &Path,
    dir: &Path,
    depth: usize,
    found: &mut Vec<(SystemTime, Key, Digest)>,
) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let kind = entry.file_type()?;
        if kind.is_dir() && depth < MAX_DEPTH {
            collect(root, &path, depth + 1, found)?;
        } else if kind.is_file() && files::is_unfinished(&path) {
            remove(&path)?;
        } else if kind.is_file()
            && let Some((key, digest)) = read(root, &path)
        {
            let seen = entry
                .metadata()?
                .modified()
                .unwrap_or(SystemTime::UNIX_EPOCH);
            found.push((seen, key, digest));
        }
    }
    Ok(())
}

/// One remembered tag; `None` for a file that is none of ours.
fn read(root: &Path, path: &Path) -> Option<(Key, Digest)> {
    let tag = path.file_name()?.to_str()?.parse().ok()?;
    let tags = path.parent()?;
    if tags.file_name()?.to_str()? != TAGS {
        return None;
    }
    let repo = tags.parent()?.strip_prefix(root).ok()?;
    let repo = repo.to_str()?.parse().ok()?;
    let digest = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    Some(((repo, tag), digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tag_outlives_the_process_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let repo: RepoName = "team/app".parse().unwrap();
        let tag: Tag = "v1.0".parse().unwrap();
        let (one, two) = (Digest::sha256_of(b"1"), Digest::sha256_of(b"2"));
        let tags = Tags::open(dir.path()).unwrap();
        assert_eq!(tags.recall(&repo, &tag), None);
        tags.remember(&repo, &tag, &one).await.unwrap();
        tags.remember(&repo, &tag, &two).await.unwrap();

        let half = dir.path().join("team/app/_tags/v1.0+7");
        fs::write(&half, "sha256:").unwrap();
        fs::write(dir.path().join("team/app/_tags/bad"), "no digest").unwrap();
        let tags = Tags::open(dir.path()).unwrap();
        assert_eq!(tags.recall(&repo, &tag), Some(two));
        assert!(!half.exists());

        tags.forget(&repo, &tag).await.unwrap();
        assert_eq!(tags.recall(&repo, &tag), None);
        let tags = Tags::open(dir.path()).unwrap();
        assert_eq!(tags.recall(&repo, &tag), None);
    }

    #[tokio::test]
    async fn repositories_within_one_another_do_not_mix() {
        let dir = tempfile::tempdir().unwrap();
        let (outer, inner): (RepoName, RepoName) =
            ("team".parse().unwrap(), "team/app".parse().unwrap());
        let tag: Tag = "app".parse().unwrap();
        let tags = Tags::open(dir.path()).unwrap();
        let (one, two) = (Digest::sha256_of(b"1"), Digest::sha256_of(b"2"));
        tags.remember(&outer, &tag, &one).await.unwrap();
        tags.remember(&inner, &tag, &two).await.unwrap();
        let tags = Tags::open(dir.path()).unwrap();
        assert_eq!(tags.recall(&outer, &tag), Some(one));
        assert_eq!(tags.recall(&inner, &tag), Some(two));
    }
}
