//! What the directory holds when it is opened: names and lengths are read, content is not.
//!
//! Content that cannot be what its name says (wrong length, no torrent) is set aside with a
//! warning and counts as absent, so that a push brings it again. What cannot be looked at stays
//! where it is and counts as absent too: one bad file does not keep the rest from being served.
//! Content that nobody holds goes, unless no repository is there at all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci::{Digest, RepoName};
use torrents::InfoHash;

use super::blobs::{blob_dir, from_torrent_name, parse_torrent};
use super::repos::{digests_in, names_in};
use super::{Index, durable};
use crate::store::staged::{DATA, discard};
use crate::store::{BlobMeta, StoreError};

/// Reads everything.
pub(super) fn read(root: &Path) -> Result<Index, StoreError> {
    let mut index = Index::default();
    for algorithm in ["sha256", "sha512"] {
        let shards = root.join("blobs").join(algorithm);
        for shard in names_in(&shards)? {
            read_shard(root, algorithm, &shards.join(shard), &mut index)?;
        }
    }
    read_repos(&root.join("repos"), "", &mut index)?;
    drop_unheld(root, &mut index);
    Ok(index)
}

/// A repository holds content before it comes and until it has gone. What nobody holds is what a
/// deletion could not remove, or a push not keep: nobody could reach or delete it, and yet it
/// would be seeded. But where there is no repository at all they are missing, not empty (a mount, a
/// copy of a part): then nothing is removed, and nothing served.
fn drop_unheld(root: &Path, index: &mut Index) {
    let Index { blobs, holders, .. } = index;
    if holders.is_empty() && !blobs.is_empty() {
        let (count, repos) = (blobs.len(), root.join("repos"));
        tracing::error!(
            count, repos = %repos.display(),
            "there is content and no repository that holds it: it is left alone and not served"
        );
        blobs.clear();
        return;
    }
    blobs.retain(|digest, _| {
        let held = holders.contains_key(digest);
        if !held {
            tracing::warn!(%digest, "stored content that no repository holds is removed");
            let (dir, gone) = (
                blob_dir(root, digest),
                root.join("spool").join(digest.hex()),
            );
            match move_away(&dir, &gone) {
                Ok(()) => discard(&gone),
                Err(error) => tracing::warn!(%digest, %error, "it stays on disk"),
            }
        }
        held
    });
}

fn read_shard(
    root: &Path,
    algorithm: &str,
    shard: &Path,
    index: &mut Index,
) -> Result<(), StoreError> {
    for name in names_below(shard)? {
        let dir = shard.join(&name);
        let Ok(digest) = format!("{algorithm}:{name}").parse::<Digest>() else {
            set_aside(root, &dir, &name, "its name is no digest")?;
            continue;
        };
        match read_blob(&dir, &digest) {
            Ok(Ok(meta)) => drop(index.blobs.insert(digest, meta)),
            Ok(Err(what)) => set_aside(root, &dir, &name, &what)?,
            Err(error) => {
                tracing::warn!(%digest, %error, "stored content cannot be looked at and counts as absent; push it again to have it back");
            }
        }
    }
    Ok(())
}

/// The inner error says what is wrong with it.
fn read_blob(dir: &Path, digest: &Digest) -> Result<Result<BlobMeta, String>, StoreError> {
    let path = dir.join(DATA);
    let length = match fs::metadata(&path) {
        Ok(found) if found.is_file() => found.len(),
        Ok(_) => return Ok(Err("its data is no file".into())),
        Err(error) if is_nothing(&error) => return Ok(Err("its data is missing".into())),
        Err(source) => return Err(StoreError::Io { path, source }),
    };
    let torrents: Vec<_> = names_in(dir)?
        .iter()
        .filter_map(|name| from_torrent_name(name))
        .collect();
    if let Some((_, stated)) = torrents.iter().find(|(_, stated)| *stated != length) {
        return Ok(Err(format!(
            "it has {length} bytes, its torrent says {stated}"
        )));
    }
    let info_hash = match torrents[..] {
        [] if length == 0 => None,
        [] => return Ok(Err("its torrent is missing".into())),
        [(info_hash, _)] => Some(info_hash),
        _ => match preferred(dir, &torrents)? {
            Some(info_hash) => Some(info_hash),
            None => return Ok(Err("none of its torrents can be read".into())),
        },
    };
    Ok(Ok(BlobMeta {
        digest: digest.clone(),
        length,
        info_hash,
    }))
}

/// Of several torrents the one with the largest pieces is the newest; the others go.
fn preferred(dir: &Path, found: &[(InfoHash, u64)]) -> Result<Option<InfoHash>, StoreError> {
    let path_of = |&(hash, length): &(InfoHash, u64)| -> PathBuf {
        dir.join(super::blobs::torrent_name(hash, length))
    };
    let mut best: Option<(u32, (InfoHash, u64))> = None;
    for torrent in found {
        let path = path_of(torrent);
        let raw = fs::read(&path).map_err(StoreError::at(&path))?;
        if let Ok(info) = parse_torrent(&path, raw) {
            best = best.max(Some((info.geometry().piece_len(), *torrent)));
        }
    }
    let Some((_, best)) = best else {
        return Ok(None);
    };
    for torrent in found.iter().filter(|torrent| **torrent != best) {
        durable::remove(&path_of(torrent))?;
    }
    Ok(Some(best.0))
}

/// Out of the way, and kept.
pub(super) fn set_aside(root: &Path, dir: &Path, name: &str, what: &str) -> Result<(), StoreError> {
    let aside = root.join("aside");
    let place = (0_u32..)
        .map(|n| aside.join(format!("{name}.{n}")))
        .find(|place| !place.exists())
        .unwrap_or_else(|| aside.join(name));
    tracing::warn!(
        path = %dir.display(), aside = %place.display(),
        "stored content is set aside because {what}; push it again to have it back"
    );
    move_away(dir, &place)
}

/// Both ends are durable.
fn move_away(dir: &Path, place: &Path) -> Result<(), StoreError> {
    durable::rename(dir, place)?;
    durable::sync_dir(dir.parent().unwrap_or(dir))
}

/// The names in a directory of directories. People and their file managers leave files there
/// (`.DS_Store`): nothing is in them.
fn names_below(dir: &Path) -> Result<Vec<String>, StoreError> {
    match names_in(dir) {
        Err(StoreError::Io { path, source }) if is_nothing(&source) => {
            tracing::warn!(path = %path.display(), "this is no directory, and nothing of the store");
            Ok(Vec::new())
        }
        names => names,
    }
}

/// There is nothing at a path, also because something above it is no directory.
fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Repository names nest; what belongs to a repository starts with an underscore, which no
/// name can.
fn read_repos(dir: &Path, prefix: &str, index: &mut Index) -> Result<(), StoreError> {
    let mut owned = Vec::new();
    for name in names_below(dir)? {
        if name.starts_with('_') {
            owned.push(name);
        } else {
            let nested = if prefix.is_empty() {
                name.clone()
            } else {
                format!("{prefix}/{name}")
            };
            read_repos(&dir.join(&name), &nested, index)?;
        }
    }
    let Ok(repo) = prefix.parse::<RepoName>() else {
        return Ok(());
    };
    let has = |part: &str| owned.iter().any(|name| name == part);
    if has("_manifests") {
        let (_, held) = index.repo(&repo);
        held.known = true;
        held.manifests.extend(digests_in(&dir.join("_manifests"))?);
    }
    if has("_blobs") {
        for digest in digests_in(&dir.join("_blobs"))? {
            index.add_blob(&repo, &digest);
        }
    }
    Ok(())
}
