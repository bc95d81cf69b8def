//! How a torrent ends: readers first, then peers, trackers and disk, each within a bound.

use std::sync::Arc;
use std::time::Duration;

use super::{End, TorrentTask};
use crate::hashing::Outcome;
use crate::torrent::{Command, TorrentError};

/// How long `stopped` may take to reach the trackers.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// How long pieces at the hash workers are waited for.
const HASH_TIMEOUT: Duration = Duration::from_secs(10);

impl TorrentTask {
    /// Nothing of the torrent is left when it returns. A dormant one stays announced.
    pub(super) async fn farewell(mut self) {
        let end = self.ending.unwrap_or(End::Stopped);
        // From here on the engine opens the torrent anew for whoever comes.
        self.commands.close();
        self.shared.end(TorrentError::Closed);
        self.share = None;
        self.peers.clear();
        self.tasks.shutdown().await;
        self.core.release_memory();
        let announcer = self.announcer.take();
        let trackers = async {
            match announcer {
                Some(announcer) if end != End::Dormant => {
                    // Late is as good as never: we are leaving.
                    let _ = tokio::time::timeout(STOP_TIMEOUT, announcer.stop()).await;
                }
                _ => {}
            }
        };
        let (core, shared) = (Arc::clone(&self.core), Arc::clone(&self.shared));
        tokio::join!(trackers, async {
            // A timeout leaves pieces unrecorded; they are hashed again next time.
            let _ = tokio::time::timeout(HASH_TIMEOUT, self.last_pieces()).await;
            if end == End::Stopped {
                self.sync().await;
            }
            while let Ok(command) = self.commands.try_recv() {
                if let (Command::Inbound(connection), End::Dormant) = (command, end) {
                    core.bring(*connection);
                }
            }
        });
        if end == End::Dormant {
            tracing::debug!(info_hash = %shared.info.hash(), "dormant");
        }
    }

    /// Waits for the pieces that are being written: the record must not miss them, and nobody
    /// may open the content anew while they are.
    async fn last_pieces(&mut self) {
        while !self.verifying.is_empty() {
            let Some(hashed) = self.hashed.recv().await else {
                return;
            };
            if matches!(hashed.outcome, Outcome::Verified) {
                self.shared.board.set(hashed.piece);
            }
            self.verifying.remove(&hashed.piece);
        }
    }

    async fn sync(&self) {
        let content = Arc::clone(&self.shared.content);
        let synced = tokio::task::spawn_blocking(move || content.sync()).await;
        if let Ok(Err(why)) = synced {
            let info_hash = self.shared.info.hash();
            tracing::warn!(%info_hash, %why, "cannot make the torrent's data durable");
        }
    }
}
