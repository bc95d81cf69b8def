//! What people and other rooms see of a torrent: how far it is, and where its bytes came from.

use std::collections::HashMap;
use std::net::SocketAddr;

use serde::Serialize;
use torrents::InfoHash;

/// Sources told apart in a [`Transfer`]; later ones count in the totals only.
const MAX_SOURCES: usize = 1024;

/// Where a torrent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Fetching pieces.
    Downloading,
    /// Everything is here.
    Seeding,
    /// It stopped; see the error.
    Failed,
}

/// How far a torrent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Where it stands.
    pub phase: Phase,
    /// Verified bytes.
    pub verified: u64,
    /// Bytes in all.
    pub length: u64,
}

/// Payload by where it came from and went to, since the torrent was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// Useful bytes from peers on the wire, by listening address (or connection address when
    /// unknown), most first, bounded.
    pub from_peers: Vec<(SocketAddr, u64)>,
    /// Useful bytes from peers on the wire in all.
    pub downloaded: u64,
    /// Useful bytes from web seeds.
    pub from_web_seeds: u64,
    /// Bytes given to peers.
    pub uploaded: u64,
    /// Bytes thrown away: duplicates and bad pieces.
    pub wasted: u64,
}

/// One peer, for people.
#[derive(Debug, Clone, Serialize)]
pub struct PeerStatus {
    /// Where.
    pub addr: SocketAddr,
    /// Its client, cleaned for display.
    pub client: String,
    /// Share of the pieces it has, 0 to 1.
    pub progress: f64,
    /// Useful bytes from it.
    pub downloaded: u64,
    /// Bytes to it.
    pub uploaded: u64,
    /// Bytes a second from it.
    pub down_rate: u64,
    /// Bytes a second to it.
    pub up_rate: u64,
}

/// One torrent, for people.
#[derive(Debug, Clone, Serialize)]
pub struct TorrentStatus {
    /// Its name.
    pub info_hash: InfoHash,
    /// What it is called.
    pub name: String,
    /// How far it is.
    pub progress: Progress,
    /// Where its bytes came from.
    pub transfer: Transfer,
    /// Bytes a second down.
    pub down_rate: u64,
    /// Bytes a second up.
    pub up_rate: u64,
    /// Connected peers.
    pub peers: Vec<PeerStatus>,
    /// Why it waits or failed, for people: last tracker failure, no peers, disk.
    pub note: Option<String>,
}

/// Counts payload by source. A block is credited when its piece is verified, so every figure is
/// of bytes that were of use; what peers come and go stays in it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    peers: HashMap<SocketAddr, u64>,
    downloaded: u64,
    from_web_seeds: u64,
    uploaded: u64,
    wasted: u64,
}

/// Who gave a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Peer(SocketAddr),
    WebSeed,
}

impl Ledger {
    pub(crate) fn credit(&mut self, source: Source, bytes: u64) {
        match source {
            Source::WebSeed => self.from_web_seeds += bytes,
            Source::Peer(addr) => {
                self.downloaded += bytes;
                if let Some(sum) = self.peers.get_mut(&addr) {
                    *sum += bytes;
                } else if self.peers.len() < MAX_SOURCES {
                    self.peers.insert(addr, bytes);
                }
            }
        }
    }

    pub(crate) fn uploaded(&mut self, bytes: u64) {
        self.uploaded += bytes;
    }

    pub(crate) fn wasted(&mut self, bytes: u64) {
        self.wasted += bytes;
    }

    /// Bytes up and down, as trackers are told.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.uploaded, self.downloaded + self.from_web_seeds)
    }

    pub(crate) fn transfer(&self) -> Transfer {
        let mut from_peers: Vec<_> = self.peers.iter().map(|(&addr, &sum)| (addr, sum)).collect();
        from_peers.sort_unstable_by_key(|&(addr, sum)| (std::cmp::Reverse(sum), addr));
        Transfer {
            from_peers,
            downloaded: self.downloaded,
            from_web_seeds: self.from_web_seeds,
            uploaded: self.uploaded,
            wasted: self.wasted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_bounded_and_totals_are_not() {
        let mut ledger = Ledger::default();
        for n in 0..2_000u16 {
            let addr = SocketAddr::from(([10, 0, 0, 1], n + 1));
            ledger.credit(Source::Peer(addr), u64::from(n));
        }
        ledger.credit(Source::WebSeed, 7);
        let transfer = ledger.transfer();
        assert_eq!(transfer.from_peers.len(), MAX_SOURCES);
        assert_eq!(transfer.downloaded, (0..2_000).sum::<u64>());
        assert_eq!(transfer.from_web_seeds, 7);
        assert!(
            transfer
                .from_peers
                .is_sorted_by_key(|&(_, sum)| std::cmp::Reverse(sum))
        );
    }
}
