//! The head start of a cold blob: its first piece straight from an origin, asked for beside
//! everything else that a download needs before it begins, so that its reader does not wait until
//! peers have met.
//!
//! Invariants: whatever goes wrong, the download begins [`WITHIN`] later at most and nobody is
//! told; what came is believed by nobody here: the engine keeps what its pieces' hashes say.
//! An origin that has too much to do says so soon, and the swarm is not slower for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oci::Digest;
use tokio_util::task::AbortOnDropHandle;
use torrents::hashing::piece_len_for;

use crate::shim::Shim;

/// Longer pieces are not worth it.
const LONGEST: u32 = 1 << 20;
/// An origin that takes longer is no faster than the swarm.
const WITHIN: Duration = Duration::from_millis(250);

/// Bytes on their way; none come when nobody was asked. Dropping it ends the request.
pub(crate) struct HeadStart(Option<AbortOnDropHandle<Bytes>>);

impl HeadStart {
    /// What came, after [`WITHIN`] at most.
    pub(crate) async fn bytes(self) -> Bytes {
        match self.0 {
            Some(asked) => asked.await.unwrap_or_default(),
            None => Bytes::new(),
        }
    }
}

impl Shim {
    /// Asks for the beginning of a blob that nothing is here of. Where the process limits its
    /// downloads, the swarm alone brings it, within the limit.
    pub(crate) fn head_start(self: &Arc<Self>, digest: &Digest) -> HeadStart {
        let size = self.knowledge.size(digest);
        let wanted = size.map_or(LONGEST, piece_len_for);
        let limited = self.engine.limits().process.download.is_some();
        let origin = self.around.herds.first();
        let Some(origin) = origin.filter(|_| wanted <= LONGEST && !limited) else {
            return HeadStart(None);
        };
        let digest = digest.clone();
        let asking = tokio::spawn(async move {
            match origin.head_start(&digest, wanted, WITHIN).await {
                Ok(bytes) => bytes,
                Err(why) => {
                    tracing::debug!(%digest, %why, "no head start");
                    Bytes::new()
                }
            }
        });
        HeadStart(Some(AbortOnDropHandle::new(asking)))
    }
}
