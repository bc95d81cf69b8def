//! Receive buffers, shared by all connections of an engine.
//!
//! A slab is one allocation that a connection reads into; blocks are cut off its front without
//! copying and keep it alive until their pieces are written. Then the slab is used again: the
//! pool remembers it by a handle that `try_reclaim` turns back into the whole buffer once it is
//! the only one left. An idle connection holds none.

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
const LEAST_ROOM: usize = 32 * 1024;

/// Spent slabs looked at for one that is free again.
const LOOKS: usize = 8;

#[derive(Debug)]
pub(crate) struct Slabs {
    lists: Mutex<Lists>,
    /// Spent slabs remembered; those beyond are left to their last block.
    remembered: usize,
}

#[derive(Debug, Default)]
struct Lists {
    /// Empty, with room.
    ready: Vec<BytesMut>,
    /// Empty and without room: blocks still point into them. Oldest first.
    spent: VecDeque<BytesMut>,
}

impl Slabs {
    /// Remembers slabs worth `memory` bytes at most.
    pub(crate) fn new(memory: u64) -> Self {
        let remembered = usize::try_from(memory / SLAB as u64).unwrap_or(usize::MAX);
        Self {
            lists: Mutex::default(),
            remembered: remembered.max(4),
        }
    }

    /// An empty buffer with room for a good read.
    pub(crate) fn take(&self) -> BytesMut {
        self.take_with(LEAST_ROOM)
    }

    /// An empty buffer with room for [`SLAB`] bytes or little less, which begins where a disk
    /// wants what it is given.
    pub(crate) fn take_aligned(&self) -> BytesMut {
        let mut slab = self.take_with(SLAB);
        let skip = slab.as_ptr().align_offset(DISK_ALIGN);
        slab.resize(skip, 0);
        slab.advance(skip);
        slab
    }

    fn take_with(&self, room: usize) -> BytesMut {
        let mut lists = locked(&self.lists);
        let fits = |slab: &BytesMut| slab.capacity() >= room;
        if let Some(at) = lists.ready.iter().rposition(fits) {
            return lists.ready.swap_remove(at);
        }
        for _ in 0..LOOKS.min(lists.spent.len()) {
            let Some(mut slab) = lists.spent.pop_front() else {
                break;
            };
            if slab.try_reclaim(WHOLE) {
                return slab;
            }
            lists.spent.push_back(slab);
        }
        drop(lists);
        BytesMut::with_capacity(WHOLE)
    }

    /// Takes a buffer back whose bytes are all cut off.
    pub(crate) fn give(&self, mut slab: BytesMut) {
        slab.clear();
        let room = slab.capacity();
        let mut lists = locked(&self.lists);
        let kept = lists.ready.len() + lists.spent.len();
        if room >= LEAST_ROOM && lists.ready.len() < self.remembered {
            lists.ready.push(slab);
        } else {
            if kept >= self.remembered {
                lists.spent.pop_front();
            }
            lists.spent.push_back(slab);
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
        let mut fresh = self.take();
        fresh.reserve(slab.len() + more);
        fresh.extend_from_slice(slab);
        self.give(std::mem::replace(slab, fresh));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slab_comes_back_when_its_last_block_is_gone() {
        let slabs = Slabs::new(1 << 20);
        let mut slab = slabs.take();
        let address = slab.as_ptr();
        slab.resize(SLAB, 1);
        let block = slab.split_to(SLAB).freeze();
        slabs.give(slab);
        assert_ne!(
            slabs.take().as_ptr(),
            address,
            "a block still points into it"
        );
        drop(block);
        let again = slabs.take();
        assert_eq!(again.as_ptr(), address);
        assert!(again.capacity() >= SLAB && again.is_empty());
    }

    #[test]
    fn what_is_in_a_slab_moves_with_it() {
        let slabs = Slabs::new(1 << 20);
        let mut slab = slabs.take();
        slab.resize(SLAB - 3, 7);
        let _ = slab.split_to(SLAB - 10);
        slabs.make_room(&mut slab, 16_384);
        assert_eq!(&slab[..], &[7; 7]);
        assert!(slab.capacity() - slab.len() >= 16_384);
    }
}
