//! Blocks into pieces, pieces through the hash workers, and what follows.

use bytes::Bytes;
use torrents::swarm::{Action, Event, PeerKey};
use torrents::{Block, PieceIndex};

use super::TorrentTask;
use super::peers::Peer;
use crate::hashing::{Hashed, Job, Outcome};
use crate::locked;
use crate::status::Phase;

impl TorrentTask {
    /// Lets the machine judge blocks that came, and files what it keeps before anything else is
    /// done: a `Verify` may be among its answers.
    pub(super) fn received(
        &mut self,
        peer: PeerKey,
        blocks: &[Block],
        payload: impl Iterator<Item = Bytes>,
    ) {
        if let Some(Peer::Web(web)) = self.peers.get_mut(&peer) {
            web.received(blocks);
        }
        self.incoming
            .extend(blocks.iter().copied().zip(payload).map(Some));
        let now = self.now();
        self.swarm.handle(now, Event::Received { peer, blocks });
        let mut actions = std::mem::take(&mut self.actions);
        while let Some(action) = self.swarm.poll_action() {
            match action {
                Action::Discard { blocks, peer: from } if from == peer => {
                    self.refuse_all(&blocks, peer)
                }
                action => actions.push(action),
            }
        }
        for (block, bytes) in self.incoming.drain(..).flatten() {
            let kept = self.assembly.file(block, bytes, peer);
            debug_assert!(kept, "the machine kept a block that has no place");
        }
        for action in actions.drain(..) {
            self.act(action);
        }
        self.actions = actions;
    }

    /// Drops what is of no use: of the blocks that just came, the last of equal ones, for the
    /// machine keeps the first; else one filed before.
    fn refuse_all(&mut self, blocks: &[Block], from: PeerKey) {
        let mut wasted = 0;
        for block in blocks {
            wasted += u64::from(block.len);
            let fresh = self
                .incoming
                .iter_mut()
                .rev()
                .find(|entry| entry.as_ref().is_some_and(|(came, _)| came == block));
            match fresh {
                Some(entry) => *entry = None,
                None => {
                    self.assembly.discard(*block, from);
                }
            }
        }
        locked(&self.shared.ledger).wasted(wasted);
    }

    pub(super) fn discard(&mut self, blocks: Vec<Block>, from: PeerKey) {
        let mut wasted = 0;
        for &block in &blocks {
            if self.assembly.discard(block, from) {
                wasted += u64::from(block.len);
            }
        }
        locked(&self.shared.ledger).wasted(wasted);
        self.swarm.recycle(blocks);
    }

    /// Hands a whole piece to the hash workers.
    pub(super) fn verify(&mut self, piece: PieceIndex) {
        let Some(whole) = self.assembly.take(piece) else {
            debug_assert!(false, "piece {piece} is to be verified without being whole");
            return self.handle(Event::Lost { piece });
        };
        self.verifying.insert(piece, whole.from);
        let info = &self.shared.info;
        self.core.hashers.submit(Job {
            piece,
            expected: *info.piece_hash(piece),
            offset: info.geometry().piece_offset(piece),
            blocks: whole.blocks,
            content: self.shared.content.clone(),
            suspect: self.blame.suspects(piece),
            reply: self.hashed_to_us.clone(),
        });
    }

    /// What the hash workers say of a piece.
    pub(super) fn hashed(&mut self, hashed: Hashed) {
        let piece = hashed.piece;
        let Some(from) = self.verifying.remove(&piece) else {
            return;
        };
        match hashed.outcome {
            Outcome::Verified => {
                self.credit(piece, &from);
                // Before progress is told: whoever hears of it may read at once.
                self.shared.board.set(piece);
                let size = u64::from(self.shared.info.geometry().piece_size(piece));
                self.shared
                    .progress
                    .send_modify(|progress| progress.verified += size);
                for peer in self.blame.verified(piece, &hashed.fingerprints) {
                    self.handle(Event::Liar { peer });
                }
                self.handle(Event::Verified { piece });
            }
            Outcome::Corrupt => {
                let size = self.shared.info.geometry().piece_size(piece);
                locked(&self.shared.ledger).wasted(u64::from(size));
                self.blame.corrupt(piece, from, hashed.fingerprints);
                self.handle(Event::Corrupt { piece });
            }
            Outcome::Unwritten(why) => self.fail(&why),
            Outcome::Bug => {
                tracing::error!(%piece, "bug: a hash worker failed");
                self.handle(Event::Lost { piece });
            }
        }
    }

    /// Counts the blocks of a good piece for those who gave them.
    fn credit(&self, piece: PieceIndex, from: &[PeerKey]) {
        let geometry = self.shared.info.geometry();
        let block_len = self.core.config.swarm.block_len;
        let lens = geometry
            .blocks(piece, block_len)
            .map(|block| u64::from(block.len));
        let mut ledger = locked(&self.shared.ledger);
        let mut blocks = from.iter().zip(lens).peekable();
        while let Some((&peer, mut bytes)) = blocks.next() {
            while let Some((_, more)) = blocks.next_if(|&(&next, _)| next == peer) {
                bytes += more;
            }
            if let Some(source) = self.source(peer) {
                ledger.credit(source, bytes);
            }
        }
    }

    /// The last piece is verified.
    pub(super) fn completed(&mut self) {
        let info = &self.shared.info;
        let transfer = locked(&self.shared.ledger).transfer();
        tracing::info!(
            info_hash = %info.hash(), name = info.name(), bytes = info.geometry().length(),
            from_peers = transfer.downloaded, from_web_seeds = transfer.from_web_seeds,
            "torrent complete"
        );
        self.share = None;
        self.core.release_memory();
        self.part_from_web_seeds();
        if let Some(announcer) = &self.announcer {
            announcer.completed();
        }
        self.shared
            .progress
            .send_modify(|progress| progress.phase = Phase::Seeding);
    }
}
