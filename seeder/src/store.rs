//! The durable store, as three async traits: content by digest, what each repository holds,
//! and tags.
//!
//! Every call that changes something returns only when the change survives power loss, and
//! reads see it from then on. Writes are conditional where two writers could meet: content is
//! stored once per digest, a tag moves only from where its writer saw it. What is seeded is
//! always a local file, wherever the durable copy lives. The embedded default, [`DirStore`],
//! keeps everything in one directory.

mod dir;
mod staged;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use oci::{Blob, Digest, Page, RepoName, Tag, TagPage};
use torrents::{Info, InfoHash};

pub(crate) use dir::{DirStore, OpenError};
pub(crate) use staged::Staged;

/// Stored content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlobMeta {
    /// Its name.
    pub(crate) digest: Digest,
    /// Bytes.
    pub(crate) length: u64,
    /// Its swarm; empty content has none.
    pub(crate) info_hash: Option<InfoHash>,
}

/// Content on its way in: received, hashed, verified.
#[derive(Debug)]
pub(crate) struct NewBlob {
    /// What the bytes hash to.
    pub(crate) digest: Digest,
    /// Bytes.
    pub(crate) length: u64,
    /// Its torrent; `None` for empty content.
    pub(crate) info: Option<Info>,
    /// Where the bytes are; removed again unless the store takes them over.
    pub(crate) staged: Staged,
}

/// A local file and its torrent.
#[derive(Debug, Clone)]
pub(crate) struct LocalTorrent {
    /// Where the bytes are.
    pub(crate) path: PathBuf,
    /// What they are.
    pub(crate) info: Info,
}

/// Content by digest.
#[async_trait]
pub(crate) trait BlobStore: Send + Sync + 'static {
    /// A place for content to arrive in.
    async fn stage(&self) -> Result<Staged, StoreError>;
    /// Keeps content. If that digest is stored already, the bytes that were verified last take
    /// the place of the others, and what else is damaged is made good: a push heals.
    async fn put(&self, blob: NewBlob) -> Result<BlobMeta, StoreError>;
    /// What is stored under that digest, as far as is known.
    async fn stat(&self, digest: &Digest) -> Result<Option<BlobMeta>, StoreError>;
    /// The same, having looked: its file is there, and as long as it should be.
    async fn file(&self, digest: &Digest) -> Result<Option<(BlobMeta, Arc<File>)>, StoreError>;
    /// Opens content to be read in ranges. It stays readable when it is removed meanwhile.
    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn Blob>>, StoreError>;
    /// The file and torrent to seed under an info hash; `None` when there is no such torrent.
    async fn torrent(
        &self,
        digest: &Digest,
        info_hash: InfoHash,
    ) -> Result<Option<LocalTorrent>, StoreError>;
    /// Gives content another torrent beside the one it has, preferred from now on. The older
    /// one is dropped at the next start.
    async fn retorrent(&self, digest: &Digest, info: Info) -> Result<(), StoreError>;
    /// Content is not what its name says: it is kept for a person to judge and counts as
    /// absent, so that a push brings it again. `read` is the file that was found wrong; `None`
    /// when there is none of the right length. `false` when that is no longer so.
    async fn set_aside(
        &self,
        digest: &Digest,
        read: Option<Arc<File>>,
        what: &'static str,
    ) -> Result<bool, StoreError>;
    /// Drops content and its torrent.
    async fn remove(&self, digest: &Digest) -> Result<bool, StoreError>;
    /// Everything that lies on this host and can be seeded.
    fn local(&self) -> Vec<BlobMeta>;
    /// How much that is: blobs, and their bytes.
    fn totals(&self) -> (u64, u64);
}

/// What each repository holds.
#[async_trait]
pub(crate) trait RepoStore: Send + Sync + 'static {
    /// The repository holds that blob from now on.
    async fn link(&self, repo: &RepoName, digest: &Digest) -> Result<(), StoreError>;
    /// It no longer does. `false` when it did not.
    async fn unlink(&self, repo: &RepoName, digest: &Digest) -> Result<bool, StoreError>;
    /// Whether it holds that blob.
    async fn linked(&self, repo: &RepoName, digest: &Digest) -> Result<bool, StoreError>;
    /// Every repository that holds that blob.
    async fn holders(&self, digest: &Digest) -> Result<Vec<Arc<RepoName>>, StoreError>;
    /// Records that a blob the repository holds is a manifest of that type, and whom it refers
    /// to.
    async fn put_manifest(
        &self,
        repo: &RepoName,
        digest: &Digest,
        media_type: &str,
        subject: Option<&Digest>,
    ) -> Result<(), StoreError>;
    /// The type of a manifest the repository holds.
    async fn manifest(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Option<String>, StoreError>;
    /// Every manifest it holds.
    async fn manifests(&self, repo: &RepoName) -> Result<Vec<Digest>, StoreError>;
    /// Forgets a manifest. `false` when it was not held.
    async fn remove_manifest(
        &self,
        repo: &RepoName,
        digest: &Digest,
        subject: Option<&Digest>,
    ) -> Result<bool, StoreError>;
    /// Manifests that said they refer to `subject`.
    async fn referrers(&self, repo: &RepoName, subject: &Digest)
    -> Result<Vec<Digest>, StoreError>;
    /// Repositories that hold manifests, in byte order.
    async fn repositories(&self, page: &Page) -> Result<TagPage, StoreError>;
    /// Whether the repository has, or once had, a manifest.
    async fn knows(&self, repo: &RepoName) -> Result<bool, StoreError>;
}

/// What a tag's writer saw before it writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Whatever is there.
    Any,
    /// Nothing.
    Absent,
    /// Something.
    Present,
    /// This.
    Digest(Digest),
}

/// Tags.
#[async_trait]
pub(crate) trait TagTable: Send + Sync + 'static {
    /// Where a tag points.
    async fn tag(&self, repo: &RepoName, tag: &Tag) -> Result<Option<Digest>, StoreError>;
    /// Moves a tag, atomically, if it is where the writer saw it.
    async fn set_tag(
        &self,
        repo: &RepoName,
        tag: &Tag,
        digest: &Digest,
        expect: Expect,
    ) -> Result<(), StoreError>;
    /// Removes a tag. `false` when there is none, or it is not where the writer saw it.
    async fn remove_tag(
        &self,
        repo: &RepoName,
        tag: &Tag,
        expect: Expect,
    ) -> Result<bool, StoreError>;
    /// The repository's tags in byte order.
    async fn tags(&self, repo: &RepoName, page: &Page) -> Result<TagPage, StoreError>;
}

/// The three together.
#[derive(Clone)]
pub(crate) struct Stores {
    /// Content.
    pub(crate) blobs: Arc<dyn BlobStore>,
    /// Who holds what.
    pub(crate) repos: Arc<dyn RepoStore>,
    /// Tags.
    pub(crate) tags: Arc<dyn TagTable>,
}

/// Why a store did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The operating system said no.
    #[error("{path}: {source}")]
    Io {
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is stored cannot be read back as what was written.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// What.
        path: PathBuf,
        /// How.
        what: String,
    },
    /// The tag is not where its writer saw it.
    #[error("the tag is at {}", .0.as_ref().map_or_else(|| "nothing".into(), Digest::to_string))]
    Conflict(Option<Digest>),
    /// The process is stopping.
    #[error("the store is closing")]
    Closing,
}

impl StoreError {
    /// Whether it tells about what was to be opened: a process that may open nothing more, or is
    /// ending, knows nothing about that.
    pub(crate) fn is_about_content(&self) -> bool {
        use rustix::io::Errno;
        let ours = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
        match self {
            Self::Io { source, .. } => {
                !Errno::from_io_error(source).is_some_and(|errno| ours.contains(&errno))
            }
            Self::Damaged { .. } => true,
            Self::Conflict(_) | Self::Closing => false,
        }
    }

    /// Names the path in an I/O error.
    pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// Cuts a page out of names in byte order.
pub(crate) fn page_of<'a>(names: impl Iterator<Item = &'a str>, page: &Page) -> TagPage {
    let limit = page.n.unwrap_or(usize::MAX);
    let mut names = names.skip_while(|name| page.last.as_deref().is_some_and(|last| *name <= last));
    let listed: Vec<String> = names.by_ref().take(limit).map(str::to_owned).collect();
    // `n=0` asks for nothing, and nothing follows it: there is no name to continue from.
    TagPage {
        more: limit > 0 && names.next().is_some(),
        names: listed,
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_process_without_room_knows_nothing_about_content() {
        let about = |errno: Errno| {
            let source = errno.into();
            let path = "data".into();
            StoreError::Io { path, source }.is_about_content()
        };
        assert!(about(Errno::IO) && about(Errno::ACCESS) && about(Errno::LOOP));
        assert!(!about(Errno::MFILE) && !about(Errno::NFILE) && !about(Errno::NOMEM));
    }
}
