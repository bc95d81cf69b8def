//! Queues of blocks, kept as runs of neighbours.
//!
//! Requests come and are served in order, so a queue of a thousand blocks is a dozen runs: the
//! same type holds what we asked of a peer and what it asked of us. Invariants: no run is
//! empty; all blocks of a run but the last have its step as length; `blocks` and `bytes` are
//! the sums over the runs.

use std::collections::VecDeque;

use super::Now;
use crate::geometry::{Block, PieceIndex};

/// Neighbouring blocks of one piece, queued at one time.
#[derive(Debug, Clone, Copy)]
struct Run {
    piece: PieceIndex,
    begin: u32,
    end: u32,
    step: u32,
    at: Now,
}

/// A queue of blocks.
#[derive(Debug, Default)]
pub(super) struct Runs {
    runs: VecDeque<Run>,
    blocks: usize,
    bytes: u64,
}

impl Run {
    fn blocks(&self) -> usize {
        (self.end - self.begin).div_ceil(self.step) as usize
    }

    fn block_at(&self, begin: u32) -> Block {
        Block {
            piece: self.piece,
            begin,
            len: self.step.min(self.end - begin),
        }
    }

    fn first(&self) -> Block {
        self.block_at(self.begin)
    }

    fn holds(&self, block: Block) -> bool {
        self.piece == block.piece
            && (self.begin..self.end).contains(&block.begin)
            && (block.begin - self.begin).is_multiple_of(self.step)
            && block.len == self.step.min(self.end - block.begin)
    }

    fn extends_to(&self, block: Block) -> bool {
        self.piece == block.piece
            && self.end == block.begin
            && (self.end - self.begin).is_multiple_of(self.step)
            && block.len <= self.step
    }

    fn iter(self) -> impl DoubleEndedIterator<Item = Block> {
        (0..self.end.saturating_sub(self.begin).div_ceil(self.step))
            .map(move |n| self.block_at(self.begin + n * self.step))
    }
}

impl Runs {
    /// How many blocks are queued.
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    /// How many bytes are queued.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// When the front was queued.
    pub(super) fn oldest(&self) -> Option<Now> {
        self.runs.front().map(|run| run.at)
    }

    /// Appends a block.
    pub(super) fn push(&mut self, block: Block, at: Now) {
        self.blocks += 1;
        self.bytes += u64::from(block.len);
        match self.runs.back_mut() {
            Some(run) if run.at == at && run.extends_to(block) => run.end = block.end(),
            _ => self.runs.push_back(Run {
                piece: block.piece,
                begin: block.begin,
                end: block.end(),
                step: block.len,
                at,
            }),
        }
    }

    /// Whether exactly this block is queued.
    pub(super) fn contains(&self, block: Block) -> bool {
        self.runs.iter().any(|run| run.holds(block))
    }

    /// Removes exactly this block; when it was queued.
    pub(super) fn take(&mut self, block: Block) -> Option<Now> {
        let index = self.runs.iter().position(|run| run.holds(block))?;
        self.blocks -= 1;
        self.bytes -= u64::from(block.len);
        let run = &mut self.runs[index];
        let at = run.at;
        if run.begin == block.begin {
            run.begin = block.end();
            if run.begin == run.end {
                self.runs.remove(index);
            }
        } else if run.end == block.end() {
            run.end = block.begin;
        } else {
            let tail = Run {
                begin: block.end(),
                ..*run
            };
            run.end = block.begin;
            self.runs.insert(index + 1, tail);
        }
        Some(at)
    }

    /// Moves blocks of the front run to `out`: neighbours in one piece, so that one read and
    /// one vectored write serve them.
    pub(super) fn pop_batch(&mut self, max_blocks: usize, max_bytes: u64, out: &mut Vec<Block>) {
        let mut room = max_bytes;
        for taken in 0..max_blocks {
            let Some(run) = self.runs.front_mut() else {
                return;
            };
            let block = run.first();
            let follows = out
                .last()
                .is_none_or(|last: &Block| last.piece == block.piece && last.end() == block.begin);
            if !follows || (taken > 0 && u64::from(block.len) > room) {
                return;
            }
            room = room.saturating_sub(u64::from(block.len));
            run.begin = block.end();
            if run.begin == run.end {
                self.runs.pop_front();
            }
            self.blocks -= 1;
            self.bytes -= u64::from(block.len);
            out.push(block);
        }
    }

    /// Removes all blocks of a piece.
    pub(super) fn take_piece(&mut self, piece: PieceIndex, mut each: impl FnMut(Block)) {
        let (blocks, bytes) = (&mut self.blocks, &mut self.bytes);
        self.runs.retain(|run| {
            if run.piece != piece {
                return true;
            }
            *blocks -= run.blocks();
            *bytes -= u64::from(run.end - run.begin);
            run.iter().for_each(&mut each);
            false
        });
    }

    /// Keeps what is queued of the piece at the front and removes the rest, the last first.
    pub(super) fn keep_front_piece(&mut self, mut each: impl FnMut(Block)) {
        let Some(front) = self.runs.front().map(|run| run.piece) else {
            return;
        };
        let same = self.runs.iter().take_while(|run| run.piece == front);
        let kept = same.count();
        while self.runs.len() > kept
            && let Some(run) = self.runs.pop_back()
        {
            self.blocks -= run.blocks();
            self.bytes -= u64::from(run.end - run.begin);
            run.iter().rev().for_each(&mut each);
        }
    }

    /// Removes everything, in order.
    pub(super) fn drain(&mut self, mut each: impl FnMut(Block)) {
        for run in self.runs.drain(..) {
            run.iter().for_each(&mut each);
        }
        self.blocks = 0;
        self.bytes = 0;
    }

    /// What is queued, in order.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = Block> + '_ {
        self.runs.iter().flat_map(|run| run.iter())
    }

    /// Panics when the sums are wrong.
    pub(super) fn check_invariants(&self) {
        let blocks: usize = self.runs.iter().map(Run::blocks).sum();
        let bytes: u64 = self.iter().map(|block| u64::from(block.len)).sum();
        assert_eq!((blocks, bytes), (self.blocks, self.bytes));
        assert!(
            self.runs
                .iter()
                .all(|run| run.begin < run.end && run.step > 0)
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(piece: u32, n: u32) -> Block {
        Block {
            piece: PieceIndex(piece),
            begin: n * 16,
            len: if n == 7 { 5 } else { 16 },
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(u32, u32, u64),
        Take(u32, u32),
        Batch(usize, u64),
        Piece(u32),
        KeepFront,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..3u32, 0..8u32, 0..2u64).prop_map(|(p, n, at)| Step::Push(p, n, at)),
            4 => (0..3u32, 0..8u32).prop_map(|(p, n)| Step::Take(p, n)),
            2 => (1..6usize, 1..64u64).prop_map(|(n, bytes)| Step::Batch(n, bytes)),
            1 => (0..3u32).prop_map(Step::Piece),
            1 => Just(Step::KeepFront),
        ]
    }

    proptest! {
        #[test]
        fn runs_behave_like_a_plain_queue(steps in prop::collection::vec(step(), 0..200)) {
            let mut runs = Runs::default();
            let mut model: Vec<Block> = Vec::new();
            for step in steps {
                match step {
                    Step::Push(p, n, at) => {
                        if !model.contains(&block(p, n)) {
                            model.push(block(p, n));
                            runs.push(block(p, n), Now::from_secs(at));
                        }
                    }
                    Step::Take(p, n) => {
                        let found = model.iter().position(|&b| b == block(p, n));
                        if let Some(index) = found { model.remove(index); }
                        prop_assert_eq!(runs.take(block(p, n)).is_some(), found.is_some());
                    }
                    Step::Batch(n, bytes) => {
                        let mut out = Vec::new();
                        runs.pop_batch(n, bytes, &mut out);
                        prop_assert!(!out.is_empty() || model.is_empty());
                        prop_assert!(out.windows(2).all(|two| two[0].piece == two[1].piece
                            && two[0].end() == two[1].begin));
                        prop_assert_eq!(&model[..out.len()], &out[..]);
                        model.drain(..out.len());
                    }
                    Step::KeepFront => {
                        let front = model.first().map(|block| block.piece);
                        let mut cut = Vec::new();
                        runs.keep_front_piece(|b| cut.push(b));
                        for block in cut { prop_assert_eq!(model.pop(), Some(block)); }
                        prop_assert!(model.iter().all(|block| Some(block.piece) == front));
                    }
                    Step::Piece(p) => {
                        runs.take_piece(PieceIndex(p), |b| assert_eq!(b.piece.0, p));
                        model.retain(|b| b.piece.0 != p);
                    }
                }
                runs.check_invariants();
                prop_assert_eq!(&runs.iter().collect::<Vec<_>>(), &model);
            }
        }
    }
}
