//! Which pieces of a torrent are verified, for everybody but the machine, and those who wait
//! for one of them.
//!
//! The torrent's task is the only writer. A verified piece costs one store and one look into
//! the waiting list, however many readers wait elsewhere; a reader sleeps until its own piece
//! is there or the torrent ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::Notify;
use torrents::{Bitfield, PieceIndex};

use crate::locked;
use crate::torrent::TorrentError;

#[derive(Debug)]
pub(crate) struct Board {
    words: Box<[AtomicU64]>,
    waiting: Mutex<HashMap<u32, Arc<Notify>>>,
    ended: OnceLock<TorrentError>,
}

impl Board {
    pub(crate) fn new(have: &Bitfield) -> Self {
        let words = (0..have.len().div_ceil(64))
            .map(|_| AtomicU64::new(0))
            .collect();
        let board = Self {
            words,
            waiting: Mutex::default(),
            ended: OnceLock::new(),
        };
        for piece in have.iter() {
            board.mark(piece.get());
        }
        board
    }

    fn mark(&self, piece: u32) {
        // Release: whoever sees the bit sees the piece's bytes.
        self.words[piece as usize / 64].fetch_or(1 << (piece % 64), Ordering::Release);
    }

    pub(crate) fn contains(&self, piece: u32) -> bool {
        self.words
            .get(piece as usize / 64)
            .is_some_and(|word| word.load(Ordering::Acquire) & (1 << (piece % 64)) != 0)
    }

    /// The piece is verified.
    pub(crate) fn set(&self, piece: PieceIndex) {
        self.mark(piece.get());
        if let Some(waiting) = locked(&self.waiting).remove(&piece.get()) {
            waiting.notify_waiters();
        }
    }

    /// The torrent ends: who waits for a missing piece is told why. The first reason stays.
    pub(crate) fn end(&self, why: TorrentError) {
        let _ = self.ended.set(why);
        for (_, waiting) in locked(&self.waiting).drain() {
            waiting.notify_waiters();
        }
    }

    pub(crate) fn ended(&self) -> Option<&TorrentError> {
        self.ended.get()
    }

    /// The first missing piece of `from..to`, or `to`.
    pub(crate) fn run_end(&self, from: u32, to: u32) -> u32 {
        let mut at = from;
        while at < to {
            let word = self.words[at as usize / 64].load(Ordering::Acquire);
            let ones = (word >> (at % 64)).trailing_ones();
            at += ones;
            if ones == 0 || !at.is_multiple_of(64) {
                break;
            }
        }
        at.min(to)
    }

    /// Waits until the piece is verified, or the torrent ended without it.
    pub(crate) async fn wait(&self, piece: u32) -> Result<(), TorrentError> {
        loop {
            let notify = {
                let mut waiting = locked(&self.waiting);
                if self.contains(piece) {
                    return Ok(());
                }
                // Looked at under the lock that `end` takes after setting it.
                if let Some(why) = self.ended.get() {
                    return Err(why.clone());
                }
                Arc::clone(waiting.entry(piece).or_default())
            };
            let notified = notify.notified();
            // Set or ended between the lock and the line above: it would sleep for good.
            if self.contains(piece) || self.ended.get().is_some() {
                continue;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use torrents::Geometry;

    fn board(pieces: u32) -> (Arc<Board>, Geometry) {
        let geometry = Geometry::new(u64::from(pieces) * 16_384, 16_384).unwrap();
        (Arc::new(Board::new(&Bitfield::empty(pieces))), geometry)
    }

    #[test]
    fn runs_cross_words_and_stop_at_holes() {
        let (board, geometry) = board(200);
        for piece in geometry.all_pieces().filter(|p| p.get() != 150) {
            board.set(piece);
        }
        assert_eq!(board.run_end(0, 200), 150);
        assert_eq!(board.run_end(3, 64), 64);
        assert_eq!(board.run_end(150, 200), 150);
        assert_eq!(board.run_end(151, 200), 200);
        assert_eq!(board.run_end(200, 200), 200);
    }

    #[tokio::test]
    async fn a_reader_wakes_for_its_piece_and_for_the_end() {
        let (board, geometry) = board(3);
        let waits = |n| {
            let board = Arc::clone(&board);
            tokio::spawn(async move { board.wait(n).await })
        };
        let (first, last) = (waits(0), waits(2));
        tokio::task::yield_now().await;
        board.set(geometry.piece(0).unwrap());
        assert!(first.await.unwrap().is_ok());
        assert!(!last.is_finished());
        board.end(TorrentError::Closed);
        assert!(last.await.unwrap().is_err());
        assert!(board.wait(1).await.is_err());
        assert!(
            board.wait(0).await.is_ok(),
            "what is verified stays readable"
        );
    }
}
