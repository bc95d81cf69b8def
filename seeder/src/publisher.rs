//! Content becomes a swarm: put on the shelf, told to every tracker, named for people.

use std::sync::Arc;
use std::time::Duration;

use leecher::Engine;
use oci::{Digest, ErrorCode, RegistryError, RepoName, Tag};
use torrents::InfoHash;

use crate::doubts::Doubts;
use crate::ledger::Change;
use crate::registrar::{Registrar, TrackerStatus};
use crate::shelf::Shelf;
use crate::store::BlobMeta;

/// The shelf and those who are told of it.
pub(crate) struct Publisher {
    shelf: Arc<Shelf>,
    registrars: Vec<Arc<Registrar>>,
    engine: Engine,
}

/// Something was said to every tracker; see [`Publisher::told`].
#[derive(Debug, Default)]
pub(crate) struct Receipt(Vec<u64>);

impl Publisher {
    /// Over what is on the shelf already.
    pub(crate) fn new(shelf: Arc<Shelf>, registrars: Vec<Arc<Registrar>>, engine: Engine) -> Self {
        Self {
            shelf,
            registrars,
            engine,
        }
    }

    /// What turned out not to be as it should.
    pub(crate) fn doubts(&self) -> &Doubts {
        self.shelf.doubts()
    }

    /// Seeds content and tells the trackers.
    pub(crate) fn publish(&self, meta: &BlobMeta) {
        if let Some(info_hash) = self.shelf.add(meta) {
            self.note(Change::Add(info_hash));
        }
    }

    /// Stops seeding content: peers are cut off, trackers told.
    pub(crate) async fn withdraw(&self, digest: &Digest) {
        for info_hash in self.shelf.remove(digest) {
            self.engine.forget(info_hash).await;
            self.note(Change::Remove(info_hash));
        }
    }

    /// People met these under that tag.
    pub(crate) fn name(&self, repo: &RepoName, tag: &Tag, metas: &[BlobMeta]) {
        let name = tag_name(repo, tag);
        for meta in metas {
            if self.shelf.name(&meta.digest, &name)
                && let Some(info_hash) = meta.info_hash
            {
                self.note(Change::Add(info_hash));
            }
        }
    }

    /// The tag names these now and nothing else.
    pub(crate) fn name_only(&self, repo: &RepoName, tag: &Tag, metas: &[BlobMeta]) {
        self.name(repo, tag, metas);
        let named = metas.iter().map(|meta| &meta.digest).collect();
        for info_hash in self.shelf.unname_all_but(&named, &tag_name(repo, tag)) {
            self.note(Change::Add(info_hash));
        }
    }

    /// A receipt for everything said so far.
    pub(crate) fn receipt(&self) -> Receipt {
        Receipt(
            self.registrars
                .iter()
                .map(|registrar| registrar.noted())
                .collect(),
        )
    }

    /// Waits until every tracker that answers has been told, but no longer than that: a push
    /// does not fail because a tracker is down.
    pub(crate) async fn told(&self, receipt: &Receipt, within: Duration) {
        let all = async {
            for (registrar, number) in self.registrars.iter().zip(&receipt.0) {
                registrar.told(*number).await;
            }
        };
        let _ = tokio::time::timeout(within, all).await;
    }

    /// How the trackers stand.
    pub(crate) fn trackers(&self) -> Vec<TrackerStatus> {
        self.registrars
            .iter()
            .map(|registrar| registrar.status())
            .collect()
    }

    /// Torrents seeded.
    pub(crate) fn seeded(&self) -> usize {
        self.shelf.len()
    }

    /// The swarms an operator means: those that are fed, by digest or info hash.
    pub(crate) fn swarms(&self, named: &str) -> Result<Vec<InfoHash>, RegistryError> {
        let swarms = if let Ok(info_hash) = named.parse() {
            let fed = self.shelf.registration(info_hash);
            fed.map(|_| info_hash).into_iter().collect()
        } else {
            self.shelf.swarms(&named.parse()?)
        };
        if swarms.is_empty() {
            let message = format!("no swarm of {named} is fed here");
            return Err(RegistryError::new(ErrorCode::BlobUnknown, message));
        }
        Ok(swarms)
    }

    fn note(&self, change: Change) {
        for registrar in &self.registrars {
            registrar.note(change);
        }
    }
}

/// `team/app:v1`.
pub(crate) fn tag_name(repo: &RepoName, tag: &Tag) -> Arc<str> {
    format!("{repo}:{tag}").into()
}
