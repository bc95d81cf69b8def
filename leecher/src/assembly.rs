//! Pieces in the making: blocks in memory until all of a piece are there.
//!
//! What is filed was asked for by the machine and not discarded by it, so the memory it holds is
//! inside the machine's budget.

use std::collections::HashMap;

use bytes::Bytes;
use torrents::swarm::PeerKey;
use torrents::{Block, Geometry, PieceIndex};

#[derive(Debug)]
pub(crate) struct Assembly {
    geometry: Geometry,
    block_len: u32,
    pieces: HashMap<PieceIndex, Partial>,
}

#[derive(Debug)]
struct Partial {
    slots: Vec<Option<Slot>>,
    filled: usize,
}

#[derive(Debug)]
struct Slot {
    bytes: Bytes,
    from: PeerKey,
}

/// A piece with all its blocks, and who gave each.
#[derive(Debug)]
pub(crate) struct Assembled {
    pub(crate) blocks: Vec<Bytes>,
    pub(crate) from: Vec<PeerKey>,
}

impl Assembly {
    pub(crate) fn new(geometry: Geometry, block_len: u32) -> Self {
        Self {
            geometry,
            block_len,
            pieces: HashMap::new(),
        }
    }

    /// Which of its piece's blocks it is, when it is one that we ask for.
    fn slot(&self, block: Block) -> Option<usize> {
        let left = self.geometry.piece_size(block.piece) - block.begin;
        let ours =
            block.begin.is_multiple_of(self.block_len) && block.len == left.min(self.block_len);
        ours.then_some((block.begin / self.block_len) as usize)
    }

    /// Keeps a block, unless it is there already or is none of ours; says whether it did.
    pub(crate) fn file(&mut self, block: Block, bytes: Bytes, from: PeerKey) -> bool {
        let Some(slot) = self.slot(block) else {
            return false;
        };
        let count = self
            .geometry
            .piece_size(block.piece)
            .div_ceil(self.block_len) as usize;
        let partial = self.pieces.entry(block.piece).or_insert_with(|| Partial {
            slots: std::iter::repeat_with(|| None).take(count).collect(),
            filled: 0,
        });
        let free = partial.slots[slot].is_none();
        if free {
            partial.slots[slot] = Some(Slot { bytes, from });
            partial.filled += 1;
        }
        free
    }

    /// Drops a block that this peer gave; says whether it was there.
    pub(crate) fn discard(&mut self, block: Block, from: PeerKey) -> bool {
        let Some(slot) = self.slot(block) else {
            return false;
        };
        let Some(partial) = self.pieces.get_mut(&block.piece) else {
            return false;
        };
        if partial.slots[slot]
            .as_ref()
            .is_none_or(|slot| slot.from != from)
        {
            return false;
        }
        partial.slots[slot] = None;
        partial.filled -= 1;
        if partial.filled == 0 {
            self.pieces.remove(&block.piece);
        }
        true
    }

    /// Takes the piece out; `None` (and its blocks dropped) when one is missing.
    pub(crate) fn take(&mut self, piece: PieceIndex) -> Option<Assembled> {
        let partial = self.pieces.remove(&piece)?;
        let whole: Option<Vec<Slot>> = partial.slots.into_iter().collect();
        let (blocks, from) = whole?
            .into_iter()
            .map(|slot| (slot.bytes, slot.from))
            .unzip();
        Some(Assembled { blocks, from })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_whole_once_every_block_is_there() {
        let geometry = Geometry::new(100_000, 65_536).unwrap();
        let mut assembly = Assembly::new(geometry, 16_384);
        let last = geometry.piece(1).unwrap();
        let (a, b) = (PeerKey(1), PeerKey(2));
        let bytes = |block: Block| Bytes::from(vec![0; block.len as usize]);
        let blocks: Vec<_> = geometry.blocks(last, 16_384).collect();
        assert!(assembly.file(blocks[0], bytes(blocks[0]), a));
        assert!(
            !assembly.file(blocks[0], bytes(blocks[0]), b),
            "the first copy stays"
        );
        assert!(!assembly.discard(blocks[0], b));
        assert!(assembly.file(blocks[2], bytes(blocks[2]), b));
        let odd = geometry.block(1, 100, 16_384).unwrap();
        assert!(!assembly.file(odd, bytes(odd), a));
        assert!(assembly.file(blocks[1], bytes(blocks[1]), a));
        let whole = assembly.take(last).unwrap();
        assert_eq!(whole.from, [a, a, b]);
        assert_eq!(whole.blocks.iter().map(Bytes::len).sum::<usize>(), 34_464);
        assert!(assembly.take(last).is_none());
    }

    #[test]
    fn what_is_discarded_leaves_no_trace() {
        let geometry = Geometry::new(65_536, 65_536).unwrap();
        let mut assembly = Assembly::new(geometry, 16_384);
        let block = geometry.block(0, 0, 16_384).unwrap();
        assert!(assembly.file(block, Bytes::from_static(&[0; 16_384]), PeerKey(1)));
        assert!(assembly.discard(block, PeerKey(1)));
        assert!(assembly.pieces.is_empty());
    }
}
