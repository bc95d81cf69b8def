//! Locks by name, striped: those who change the same thing take turns, others as a rule do
//! not meet. Held across the store's calls; a repository's before a digest's, one of each.

use std::hash::{BuildHasher, Hash, RandomState};

use oci::{Digest, RepoName};
use tokio::sync::{Mutex, MutexGuard};

const STRIPES: usize = 256;

/// All of them.
pub(super) struct Locks {
    repos: Box<[Mutex<()>]>,
    digests: Box<[Mutex<()>]>,
    hash: RandomState,
}

impl Locks {
    /// All free.
    pub(super) fn new() -> Self {
        let stripes = || (0..STRIPES).map(|_| Mutex::new(())).collect();
        Self {
            repos: stripes(),
            digests: stripes(),
            hash: RandomState::new(),
        }
    }

    /// For manifests and removals of one repository.
    pub(super) async fn repo(&self, repo: &RepoName) -> MutexGuard<'_, ()> {
        self.repos[self.stripe(repo)].lock().await
    }

    /// For content that comes, goes or is linked.
    pub(super) async fn digest(&self, digest: &Digest) -> MutexGuard<'_, ()> {
        self.digests[self.stripe(digest)].lock().await
    }

    fn stripe(&self, name: impl Hash) -> usize {
        let hash = self.hash.hash_one(name);
        usize::try_from(hash % STRIPES as u64).expect("fewer stripes than usize counts")
    }
}
