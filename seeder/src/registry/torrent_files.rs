//! `.torrent` files, composed when they are asked for: the stored info dictionary never
//! changes, while addresses and trackers may. And torrents that are made anew, because a blob
//! turned out too large for the pieces it was hashed in.

use std::io;
use std::sync::Arc;

use leecher::Content;
use leecher::announcer::order_tiers;
use oci::{Digest, RegistryError, origin_api};
use torrents::hashing::{piece_hash, piece_len_for};
use torrents::{Geometry, Info, Metainfo};
use url::Url;

use super::{Registry, storage};
use crate::store::{BlobMeta, LocalTorrent, StoreError};

/// What goes around the info dictionary.
#[derive(Debug, Clone)]
pub(crate) struct WebAddresses {
    /// The base of the web seed.
    pub(crate) api: String,
    /// Announce URLs of the trackers.
    pub(crate) announce: Vec<String>,
}

impl WebAddresses {
    /// From the base URLs of the API and the trackers.
    pub(crate) fn new(api: &str, trackers: &[Url]) -> Self {
        let announce = |base: &Url| format!("{}/announce", base.as_str().trim_end_matches('/'));
        Self {
            api: api.trim_end_matches('/').to_owned(),
            announce: trackers.iter().map(announce).collect(),
        }
    }
}

impl Registry {
    /// The `.torrent` of stored content; `None` when there is none, as for empty content.
    pub(crate) async fn torrent_file(
        &self,
        meta: &BlobMeta,
        comment: String,
    ) -> Result<Option<Vec<u8>>, RegistryError> {
        let Some(info_hash) = meta.info_hash else {
            return Ok(None);
        };
        let found = self.stores.blobs.torrent(&meta.digest, info_hash).await;
        let missing = || StoreError::Damaged {
            path: meta.digest.to_string().into(),
            what: "its torrent is missing".into(),
        };
        let found = found.and_then(|found| found.ok_or_else(missing));
        let LocalTorrent { info, .. } = found.map_err(|error| {
            self.publisher.doubts().raise(&meta.digest);
            storage(error)
        })?;
        let metainfo = Metainfo {
            info,
            trackers: order_tiers(info_hash, &self.web.announce),
            url_list: vec![self.web_seed(&meta.digest)],
            comment: Some(comment),
            created_by: Some(concat!("groundswell ", env!("CARGO_PKG_VERSION")).into()),
            creation_date: None,
        };
        Ok(Some(metainfo.encode()))
    }

    fn web_seed(&self, digest: &Digest) -> String {
        format!("{}{}", self.web.api, origin_api::blob_path(digest))
    }

    /// Makes torrents anew that a crash left with pieces too small for their content.
    pub(crate) fn remake_stored(self: &Arc<Self>) {
        for meta in self.stores.blobs.local() {
            // The table's last step; below it, every torrent was made right the first time.
            if piece_len_for(meta.length) > piece_len_for(1 << 30) {
                self.remake_later(meta);
            }
        }
    }

    /// Makes a torrent anew in the background. It reads everything again: one at a time.
    pub(super) fn remake_later(self: &Arc<Self>, meta: BlobMeta) {
        let this = Arc::clone(self);
        self.background.spawn(async move {
            let Ok(_turn) = this.remaking.acquire().await else { return };
            let wanted = piece_len_for(meta.length);
            match this.remake(&meta, wanted).await {
                Ok(true) => tracing::info!(digest = %meta.digest, piece_length = wanted, "made a torrent anew"),
                Ok(false) => {}
                Err(error) => tracing::error!(digest = %meta.digest, %error, "cannot make a torrent anew"),
            }
        });
    }

    /// `false` when the torrent has such pieces already, or the content is gone.
    async fn remake(&self, meta: &BlobMeta, piece_len: u32) -> Result<bool, RegistryError> {
        let Some(info_hash) = meta.info_hash else {
            return Ok(false);
        };
        let found = self
            .stores
            .blobs
            .torrent(&meta.digest, info_hash)
            .await
            .map_err(storage)?;
        let Some(local) = found.filter(|local| local.info.geometry().piece_len() != piece_len)
        else {
            return Ok(false);
        };
        let stop = self.stop.clone();
        let hash = move || hash_anew(&local, piece_len, || stop.is_cancelled());
        let Ok(hashed) = tokio::task::spawn_blocking(hash).await else {
            return Ok(false);
        };
        let failed = |source| {
            storage(StoreError::Io {
                path: meta.digest.to_string().into(),
                source,
            })
        };
        let Some(info) = hashed.map_err(failed)? else {
            return Ok(false);
        };
        let _lock = self.locks.digest(&meta.digest).await;
        if self.stat(&meta.digest).await?.is_none() {
            return Ok(false);
        }
        let meta = BlobMeta {
            info_hash: Some(info.hash()),
            ..meta.clone()
        };
        self.stores
            .blobs
            .retorrent(&meta.digest, info)
            .await
            .map_err(storage)?;
        self.publisher.publish(&meta);
        Ok(true)
    }
}

/// Hashes a file in pieces of another length. `None` when told to stop. Blocking.
fn hash_anew(
    local: &LocalTorrent,
    piece_len: u32,
    stop: impl Fn() -> bool,
) -> io::Result<Option<Info>> {
    let content = Content::complete(&local.path, &local.info)?;
    let length = local.info.geometry().length();
    let geometry = Geometry::new(length, u64::from(piece_len)).map_err(io::Error::other)?;
    let mut pieces = Vec::with_capacity(geometry.pieces() as usize);
    let mut buffer = vec![0; piece_len as usize];
    for piece in geometry.all_pieces() {
        if stop() {
            return Ok(None);
        }
        let bytes = &mut buffer[..geometry.piece_size(piece) as usize];
        content.read_at(geometry.piece_offset(piece), bytes)?;
        pieces.push(piece_hash(&[bytes]));
    }
    let info = Info::build(local.info.name(), geometry, &pieces).map_err(io::Error::other)?;
    Ok(Some(info))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_torrent_made_anew_describes_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&path, &bytes).unwrap();
        let pieces_of = |len: usize| -> Vec<_> {
            bytes
                .chunks(len)
                .map(|piece| piece_hash(&[piece]))
                .collect()
        };
        let geometry = |len: u64| Geometry::new(bytes.len() as u64, len).unwrap();
        let info = Info::build("blob", geometry(16_384), &pieces_of(16_384)).unwrap();
        let local = LocalTorrent { path, info };
        let anew = hash_anew(&local, 65_536, || false).unwrap().unwrap();
        assert_eq!(anew.pieces(), pieces_of(65_536));
        assert_eq!(anew.name(), "blob");
        assert!(hash_anew(&local, 65_536, || true).unwrap().is_none());
        let parsed = Info::parse(Bytes::copy_from_slice(anew.raw())).unwrap();
        assert_eq!(parsed.hash(), anew.hash());
    }

    #[test]
    fn addresses_are_joined_without_doubled_slashes() {
        let trackers = ["http://a:15003", "http://b:15003/sub/"].map(|url| url.parse().unwrap());
        let web = WebAddresses::new("http://o:15002/", &trackers);
        assert_eq!(web.api, "http://o:15002");
        assert_eq!(
            web.announce,
            ["http://a:15003/announce", "http://b:15003/sub/announce"]
        );
    }
}
