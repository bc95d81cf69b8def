//! Content that somebody found wanting: its torrent cannot be read, its file is gone, its bytes
//! are not what they should be. Named here by whoever notices, looked into by one task.
//!
//! Invariant: a digest is in doubt once, however many notice, until it has been looked into.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard};

use oci::Digest;
use tokio::sync::Notify;

/// Digests in doubt at most: whoever meets one that was left out names it again.
const MOST: usize = 1024;

/// What is in doubt.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    digests: Mutex<HashSet<Digest>>,
    news: Notify,
}

impl Doubts {
    /// Somebody found it wanting.
    pub(crate) fn raise(&self, digest: &Digest) {
        let mut digests = self.digests();
        if digests.len() < MOST && digests.insert(digest.clone()) {
            self.news.notify_one();
        }
    }

    /// One that is to be looked into; the same again until it is [settled](Self::settled).
    pub(crate) async fn next(&self) -> Digest {
        loop {
            if let Some(digest) = self.first() {
                return digest;
            }
            self.news.notified().await;
        }
    }

    /// It was looked into.
    pub(crate) fn settled(&self, digest: &Digest) {
        self.digests().remove(digest);
    }

    fn first(&self) -> Option<Digest> {
        self.digests().iter().next().cloned()
    }

    fn digests(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.digests
            .lock()
            .expect("no panic while the doubts are held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_notice_and_one_looks() {
        let doubts = Doubts::default();
        let (one, other) = (Digest::sha256_of(b"one"), Digest::sha256_of(b"other"));
        for _ in 0..3 {
            doubts.raise(&one);
        }
        assert_eq!(doubts.next().await, one);
        doubts.settled(&one);
        let waiting = async { doubts.next().await };
        let raising = async { doubts.raise(&other) };
        assert_eq!(tokio::join!(waiting, raising).0, other);
        doubts.settled(&other);
        assert_eq!(doubts.first(), None);
    }
}
