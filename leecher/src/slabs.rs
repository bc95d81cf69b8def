//! Receive buffers, shared by all connections of an engine.
//!
//! A slab is one allocation that a connection reads into; blocks are cut off its front without
//! copying and keep it alive until their pieces are written. Then the slab is used again: the
//! pool remembers it by a handle that `try_reclaim` turns back into the whole buffer once it is
//! the only one left. What room a slab has left is used before another one is taken.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::{Buf, BytesMut};

use crate::content::DISK_ALIGN;
use crate::locked;

/// Bytes of a slab: what one read may take from the kernel, and small enough to stay in the
/// processor's cache until it is decoded.
pub(crate) const SLAB: usize = 256 * 1024;

/// What is allocated, so that a slab is left of it behind any alignment.
const WHOLE: usize = SLAB + DISK_ALIGN;

/// A slab with less room than this is not worth another read.
pub(crate) const LEAST_ROOM: usize = 32 * 1024;
/// Nor one with less than this where whole blocks are read side by side.
const ALIGNED_ROOM: usize = 64 * 1024 + DISK_ALIGN;

/// Slabs of either list looked at for one that fits or is free again.
const LOOKS: usize = 8;

#[derive(Debug)]
pub(crate) struct Slabs {
    lists: Mutex<Lists>,
    /// Slabs in both lists at most; those beyond are left to their last block.
    remembered: usize,
}

#[derive(Debug, Default)]
struct Lists {
    /// Empty, with room left; blocks may point into what was cut off.
    open: VecDeque<BytesMut>,
    /// Empty and without room: blocks still point into them.
    spent: VecDeque<BytesMut>,
}

impl Slabs {
    /// Remembers slabs worth `memory` bytes at most.
    pub(crate) fn new(memory: u64) -> Self {
        let remembered = usize::try_from(memory / WHOLE as u64).unwrap_or(usize::MAX);
        Self {
            lists: Mutex::default(),
            remembered: remembered.max(4),
        }
    }

    /// An empty buffer with so much room at least.
    pub(crate) fn take(&self, room: usize) -> BytesMut {
        let found = locked(&self.lists).take(room);
        found.unwrap_or_else(|| BytesMut::with_capacity(room.max(WHOLE)))
    }

    /// An empty buffer for several blocks, which begins where a disk wants what it is given.
    pub(crate) fn take_aligned(&self) -> BytesMut {
        let mut slab = self.take(ALIGNED_ROOM);
        let skip = slab.as_ptr().align_offset(DISK_ALIGN);
        slab.resize(skip, 0);
        slab.advance(skip);
        slab
    }

    /// Takes a buffer back whose bytes are all cut off.
    pub(crate) fn give(&self, mut slab: BytesMut) {
        slab.clear();
        let open = slab.try_reclaim(WHOLE) || slab.capacity() >= LEAST_ROOM;
        let mut lists = locked(&self.lists);
        if lists.open.len() + lists.spent.len() >= self.remembered {
            // Dropped oldest first, those without room before others.
            let _ = lists.spent.pop_front().or_else(|| lists.open.pop_front());
        }
        match open {
            true => lists.open.push_back(slab),
            false => lists.spent.push_back(slab),
        }
    }

    /// Lets all idle memory go: nobody downloads now.
    pub(crate) fn clear(&self) {
        *locked(&self.lists) = Lists::default();
    }

    /// Makes room in `slab` for `more` bytes at least, on another slab if it must; what is in
    /// it is kept.
    pub(crate) fn make_room(&self, slab: &mut BytesMut, more: usize) {
        if slab.capacity() - slab.len() >= more.max(LEAST_ROOM) {
            return;
        }
        let mut fresh = self.take(slab.len() + more.max(LEAST_ROOM));
        fresh.extend_from_slice(slab);
        self.give(std::mem::replace(slab, fresh));
    }
}

impl Lists {
    /// The last one with enough room, else one that nobody points into any more.
    fn take(&mut self, room: usize) -> Option<BytesMut> {
        for back in 0..LOOKS.min(self.open.len()) {
            let at = self.open.len() - 1 - back;
            if self.open[at].capacity() >= room {
                return self.open.remove(at);
            }
        }
        for list in [&mut self.spent, &mut self.open] {
            for _ in 0..LOOKS.min(list.len()) {
                let mut slab = list.pop_front()?;
                if slab.try_reclaim(room.max(WHOLE)) {
                    return Some(slab);
                }
                list.push_back(slab);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slab_comes_back_when_its_last_block_is_gone() {
        let slabs = Slabs::new(1 << 20);
        let mut slab = slabs.take(LEAST_ROOM);
        let address = slab.as_ptr();
        slab.resize(SLAB, 1);
        let block = slab.split_to(SLAB).freeze();
        slabs.give(slab);
        assert_ne!(
            slabs.take(LEAST_ROOM).as_ptr(),
            address,
            "a block still points into it"
        );
        drop(block);
        let again = slabs.take(LEAST_ROOM);
        assert_eq!(again.as_ptr(), address);
        assert!(again.capacity() >= SLAB && again.is_empty());
    }

    #[test]
    fn what_is_in_a_slab_moves_with_it() {
        let slabs = Slabs::new(1 << 20);
        let mut slab = slabs.take(LEAST_ROOM);
        slab.resize(SLAB - 3, 7);
        let _ = slab.split_to(SLAB - 10);
        slabs.make_room(&mut slab, 16_384);
        assert_eq!(&slab[..], &[7; 7]);
        assert!(slab.capacity() - slab.len() >= 16_384);
    }

    /// Reads that bring one block each must not leave a trail of half used slabs.
    #[test]
    fn a_trickle_needs_as_much_as_its_blocks() {
        const BLOCK: usize = 16 * 1024;
        let slabs = Slabs::new(256 << 20);
        let mut unwritten = VecDeque::new();
        for n in 0..2000 {
            let mut slab = if n % 9 == 0 {
                slabs.take(200_000)
            } else {
                slabs.take_aligned()
            };
            slab.resize(BLOCK, 1);
            unwritten.push_back(slab.split_to(BLOCK).freeze());
            slabs.give(slab);
            if unwritten.len() > 64 {
                unwritten.pop_front();
            }
        }
        let lists = locked(&slabs.lists);
        let bytes = (lists.open.len() + lists.spent.len()) * WHOLE;
        assert!(bytes <= 4 * 64 * BLOCK, "{bytes} bytes for 64 blocks");
    }
}
