//! The head of a download: bytes of its beginning that somebody gave before the swarm was joined,
//! because whoever reads a cold layer from its start should not wait until peers have met.
//!
//! Invariants: nothing is kept but whole pieces whose SHA-1 is right, and nobody is told of
//! others; no other task writes to the content meanwhile.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use torrents::Info;
use torrents::hashing::piece_hash;

use crate::content::Content;

/// Writes the pieces of `head` that are right and missing; tells how many bytes they are.
pub(crate) async fn keep(info: &Info, content: &Arc<Content>, head: Bytes) -> u64 {
    if head.is_empty() {
        return 0;
    }
    let (info, content) = (info.clone(), Arc::clone(content));
    let kept = tokio::task::spawn_blocking(move || write(&info, &content, &head));
    match kept.await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            // The swarm's pieces will meet the same disk, and say so.
            tracing::debug!(%error, "the head of a download is lost");
            0
        }
        Err(_) => 0,
    }
}

fn write(info: &Info, content: &Content, head: &Bytes) -> io::Result<u64> {
    let (geometry, have) = (info.geometry(), content.have());
    let mut kept = 0;
    for piece in geometry.all_pieces() {
        let start = geometry.piece_offset(piece);
        let size = geometry.piece_size(piece);
        let range = usize::try_from(start).ok().zip(usize::try_from(size).ok());
        let bytes = range.and_then(|(start, size)| head.get(start..start.checked_add(size)?));
        let Some(bytes) = bytes else { break };
        if have.contains(piece) || piece_hash(&[bytes]) != *info.piece_hash(piece) {
            continue;
        }
        content.write_at(start, &mut [IoSlice::new(bytes)])?;
        content.record(piece);
        kept += u64::from(size);
    }
    Ok(kept)
}
