//! What this origin seeds: torrents by info hash, and the names people know them by.
//!
//! The engine opens content through it when a peer asks, and closes it again; so a thousand
//! stored blobs cost a few table entries. Nothing is hashed here: what the store holds was
//! verified when it came, and peers verify every piece. What cannot be opened is doubted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use leecher::{Content, Library};
use oci::Digest;
use torrents::register::{MAX_NAMES, Registration};
use torrents::{Info, InfoHash};

use crate::doubts::Doubts;
use crate::store::{BlobMeta, BlobStore, LocalTorrent};

/// Everything seeded.
pub(crate) struct Shelf {
    blobs: Arc<dyn BlobStore>,
    table: RwLock<Table>,
    doubts: Doubts,
}

#[derive(Default)]
struct Table {
    torrents: BTreeMap<InfoHash, Entry>,
    names: HashMap<Digest, Vec<Arc<str>>>,
}

struct Entry {
    digest: Digest,
    length: u64,
}

impl Shelf {
    /// Everything that lies in the store.
    pub(crate) fn new(blobs: Arc<dyn BlobStore>) -> Self {
        let shelf = Self {
            table: RwLock::default(),
            doubts: Doubts::default(),
            blobs,
        };
        for meta in shelf.blobs.local() {
            shelf.add(&meta);
        }
        shelf
    }

    /// What turned out not to be as it should.
    pub(crate) fn doubts(&self) -> &Doubts {
        &self.doubts
    }

    /// Seeds it from now on. Its info hash, if it is news.
    pub(crate) fn add(&self, meta: &BlobMeta) -> Option<InfoHash> {
        let info_hash = meta.info_hash?;
        let entry = Entry {
            digest: meta.digest.clone(),
            length: meta.length,
        };
        let before = self.table_mut().torrents.insert(info_hash, entry);
        before.is_none().then_some(info_hash)
    }

    /// Stops seeding it: the swarms it was in.
    pub(crate) fn remove(&self, digest: &Digest) -> Vec<InfoHash> {
        let mut table = self.table_mut();
        table.names.remove(digest);
        let hashes = table.swarms(digest);
        for hash in &hashes {
            table.torrents.remove(hash);
        }
        hashes
    }

    /// People met the digest under this name. Whether that is news. The latest names are kept.
    pub(crate) fn name(&self, digest: &Digest, name: &Arc<str>) -> bool {
        let mut table = self.table_mut();
        let names = table.names.entry(digest.clone()).or_default();
        let news = !names.contains(name);
        if news {
            if names.len() == MAX_NAMES {
                names.remove(0);
            }
            names.push(Arc::clone(name));
        }
        news
    }

    /// Takes a name from everything but these: the swarms of what had it. Looks through
    /// everything, which a tag that moves or goes is worth.
    pub(crate) fn unname_all_but(&self, named: &HashSet<&Digest>, name: &str) -> Vec<InfoHash> {
        let mut table = self.table_mut();
        let mut changed = HashSet::new();
        for (digest, names) in &mut table.names {
            let before = names.len();
            if !named.contains(digest) {
                names.retain(|known| **known != *name);
            }
            if names.len() < before {
                changed.insert(digest.clone());
            }
        }
        if changed.is_empty() {
            return Vec::new();
        }
        table.names.retain(|_, names| !names.is_empty());
        let swarms = table.torrents.iter();
        swarms
            .filter_map(|(hash, entry)| changed.contains(&entry.digest).then_some(*hash))
            .collect()
    }

    /// How many torrents there are.
    pub(crate) fn len(&self) -> usize {
        self.table().torrents.len()
    }

    /// The swarms of a digest.
    pub(crate) fn swarms(&self, digest: &Digest) -> Vec<InfoHash> {
        self.table().swarms(digest)
    }

    /// What to tell a tracker about a torrent; `None` when it is not seeded.
    pub(crate) fn registration(&self, info_hash: InfoHash) -> Option<Registration> {
        let table = self.table();
        table
            .torrents
            .get(&info_hash)
            .map(|entry| table.registration(info_hash, entry))
    }

    /// The same of at most `limit` torrents that follow `after` in order of info hash.
    pub(crate) fn registrations(&self, after: Option<InfoHash>, limit: usize) -> Vec<Registration> {
        let table = self.table();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let following = table.torrents.range((start, Bound::Unbounded));
        following
            .take(limit)
            .map(|(hash, entry)| table.registration(*hash, entry))
            .collect()
    }

    /// The file and torrent behind an info hash. What is wrong with it, if something is, is
    /// logged.
    async fn find(&self, info_hash: InfoHash) -> Option<(Digest, LocalTorrent)> {
        let digest = self.table().torrents.get(&info_hash)?.digest.clone();
        match self.blobs.torrent(&digest, info_hash).await {
            Ok(Some(found)) => return Some((digest, found)),
            Ok(None) => tracing::error!(%digest, %info_hash, "a torrent is missing"),
            Err(error) => {
                tracing::error!(%digest, %info_hash, %error, "cannot seed stored content");
            }
        }
        self.doubts.raise(&digest);
        None
    }

    fn table(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().expect("no panic while the table is held")
    }

    fn table_mut(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.table
            .write()
            .expect("no panic while the table is held")
    }
}

impl Table {
    /// One as a rule, two after a torrent was made anew.
    fn swarms(&self, digest: &Digest) -> Vec<InfoHash> {
        let of_it = |(hash, entry): (&InfoHash, &Entry)| (entry.digest == *digest).then_some(*hash);
        self.torrents.iter().filter_map(of_it).collect()
    }

    fn registration(&self, info_hash: InfoHash, entry: &Entry) -> Registration {
        let names = self.names.get(&entry.digest).map_or(&[][..], Vec::as_slice);
        Registration {
            info_hash,
            label: entry.digest.to_string(),
            length: entry.length,
            names: names.iter().map(|name| name.to_string()).collect(),
        }
    }
}

#[async_trait]
impl Library for Shelf {
    async fn open(&self, info_hash: InfoHash) -> Option<(Info, Arc<Content>)> {
        let (digest, LocalTorrent { path, info }) = self.find(info_hash).await?;
        let opened = tokio::task::spawn_blocking(move || {
            Content::complete(&path, &info)
                .map(|content| (info, Arc::new(content)))
                .inspect_err(|error| {
                    tracing::error!(path = %path.display(), %error, "cannot seed stored content");
                })
        });
        let opened = opened.await.ok()?;
        if opened.is_err() {
            self.doubts.raise(&digest);
        }
        opened.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DirStore;

    #[test]
    fn the_latest_names_are_kept_and_those_of_tags_that_moved_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::open(&dir.path().join("data")).unwrap();
        let shelf = Shelf::new(store.stores().blobs);
        let metas = [b"base ", b"layer"].map(|bytes| BlobMeta {
            digest: Digest::sha256_of(&bytes[..]),
            length: 1,
            info_hash: Some(InfoHash([bytes[0]; 20])),
        });
        let [base, layer] = &metas;
        for meta in &metas {
            assert!(shelf.add(meta).is_some());
        }
        let names = |of: &BlobMeta| shelf.registration(of.info_hash.unwrap()).unwrap().names;
        let tags: Vec<Arc<str>> = (0..=MAX_NAMES)
            .map(|n| format!("app:v{n}").into())
            .collect();
        for tag in &tags {
            assert!(shelf.name(&base.digest, tag));
            assert!(!shelf.name(&base.digest, tag), "it is no news");
        }
        assert!(
            names(base)
                .iter()
                .map(String::as_str)
                .eq(tags[1..].iter().map(|tag| &**tag))
        );
        assert!(shelf.name(&layer.digest, &tags[1]));
        // The tag moves to what is made of the layer alone, and then goes.
        let kept = HashSet::from([&layer.digest]);
        assert_eq!(
            shelf.unname_all_but(&kept, &tags[1]),
            [base.info_hash.unwrap()]
        );
        assert_eq!(names(base).len(), MAX_NAMES - 1);
        assert_eq!(names(layer), [&*tags[1]]);
        let gone = shelf.unname_all_but(&HashSet::new(), &tags[1]);
        assert_eq!(gone, [layer.info_hash.unwrap()]);
        assert!(names(layer).is_empty());
        assert!(shelf.unname_all_but(&HashSet::new(), &tags[1]).is_empty());
    }
}
