//! What manifests and origins taught: how long content is, and which repository holds it.
//!
//! Lengths let a blob's headers go out before its torrent is known. Membership keeps content
//! that came through one repository from being read through another: it is asked of an
//! origin once and kept for a while. Both are bounded and in memory only; what is forgotten
//! is asked again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oci::{Digest, Manifest, RepoName};
use tokio::time::Instant;

use crate::recent::Recent;

/// Lengths remembered.
const SIZES: usize = 16_384;
/// Memberships remembered.
const MEMBERS: usize = 16_384;
/// A repository may lose content, so even a yes is asked again.
const YES_HOLDS: Duration = Duration::from_secs(600);
/// A push may follow a no at once.
const NO_HOLDS: Duration = Duration::from_secs(3);

/// Bounded memory of lengths and memberships.
#[derive(Debug)]
pub(crate) struct Knowledge {
    sizes: Mutex<Recent<Digest, u64>>,
    members: Mutex<Recent<(RepoName, Digest), (bool, Instant)>>,
}

impl Knowledge {
    pub(crate) fn new() -> Self {
        Self {
            sizes: Mutex::new(Recent::new(SIZES)),
            members: Mutex::new(Recent::new(MEMBERS)),
        }
    }

    /// How long the content is, if anybody said.
    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        lock(&self.sizes).find(digest).copied()
    }

    pub(crate) fn note_size(&self, digest: &Digest, size: u64) {
        lock(&self.sizes).insert(digest.clone(), size);
    }

    /// Whether the repository holds the content, if an origin said so lately.
    pub(crate) fn member(&self, repo: &RepoName, digest: &Digest) -> Option<bool> {
        let key = (repo.clone(), digest.clone());
        let (holds, since) = *lock(&self.members).find(&key)?;
        let fresh = since.elapsed() < if holds { YES_HOLDS } else { NO_HOLDS };
        fresh.then_some(holds)
    }

    pub(crate) fn note_member(&self, repo: &RepoName, digest: &Digest, holds: bool) {
        let key = (repo.clone(), digest.clone());
        lock(&self.members).insert(key, (holds, Instant::now()));
    }

    /// A manifest was served: how long what it names is. If it is known to be of that
    /// repository, what it names is as well, since an origin takes no manifest whose content
    /// the repository lacks.
    pub(crate) fn note_manifest(&self, repo: &RepoName, digest: &Digest, manifest: &Manifest) {
        let confirmed = self.member(repo, digest) == Some(true);
        for named in manifest.references().filter(|named| !named.is_foreign()) {
            self.note_size(&named.digest, named.size);
            if confirmed {
                self.note_member(repo, &named.digest, true);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_no_is_soon_asked_again_and_a_yes_later() {
        let knowledge = Knowledge::new();
        let repo: RepoName = "team/app".parse().unwrap();
        let digest = Digest::sha256_of(b"layer");
        knowledge.note_member(&repo, &digest, false);
        assert_eq!(knowledge.member(&repo, &digest), Some(false));
        tokio::time::advance(NO_HOLDS).await;
        assert_eq!(knowledge.member(&repo, &digest), None);
        knowledge.note_member(&repo, &digest, true);
        tokio::time::advance(NO_HOLDS).await;
        assert_eq!(knowledge.member(&repo, &digest), Some(true));
        tokio::time::advance(YES_HOLDS).await;
        assert_eq!(knowledge.member(&repo, &digest), None);
    }

    #[test]
    fn a_manifest_teaches_lengths_and_membership() {
        let knowledge = Knowledge::new();
        let repo: RepoName = "team/app".parse().unwrap();
        let config = Digest::sha256_of(b"{}");
        let body = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":
               {{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},
               "layers":[]}}"#,
            oci::manifest::OCI_MANIFEST
        );
        let manifest = Manifest::parse(body.as_bytes(), None).unwrap();
        let digest = Digest::sha256_of(body.as_bytes());
        knowledge.note_manifest(&repo, &digest, &manifest);
        assert_eq!(knowledge.size(&config), Some(2));
        assert_eq!(knowledge.member(&repo, &config), None);
        knowledge.note_member(&repo, &digest, true);
        knowledge.note_manifest(&repo, &digest, &manifest);
        assert_eq!(knowledge.member(&repo, &config), Some(true));
        let other: RepoName = "team/other".parse().unwrap();
        assert_eq!(knowledge.member(&other, &config), None);
    }
}
