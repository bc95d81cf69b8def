//! Buffers that blobs are read into, used again and again.
//!
//! A body is sent in chunks of [`CHUNK`] bytes: large enough that a system call and a wake-up
//! per chunk do not matter, small enough to stay in the processor's cache between the two, and
//! that a thousand readers who take nothing fit in memory. A fresh
//! buffer of that size costs page faults worth about as much as the read itself, so each
//! stream keeps a few: what the connection has sent comes back and is filled again.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Bytes of a chunk.
pub const CHUNK: usize = 128 * 1024;
/// Spare buffers a pool keeps: one being sent, one ready, one being filled.
const SPARE: usize = 3;

/// A few buffers of [`CHUNK`] bytes. Cheap to clone; clones share the buffers.
#[derive(Debug, Clone, Default)]
pub struct ChunkPool {
    spare: Arc<Mutex<Vec<Box<[u8]>>>>,
}

impl ChunkPool {
    /// An empty pool.
    pub fn new() -> Self {
        Self::default()
    }

    /// A buffer of `length` bytes, at most [`CHUNK`]. Its content is whatever it was.
    pub fn take(&self, length: usize) -> Chunk {
        debug_assert!(length <= CHUNK);
        let spare = self.lock().pop();
        Chunk {
            buffer: spare.unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice()),
            length: length.min(CHUNK),
            pool: self.clone(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Box<[u8]>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer on loan; goes back to its pool when dropped, also as [`Bytes`].
#[derive(Debug)]
pub struct Chunk {
    buffer: Box<[u8]>,
    length: usize,
    pool: ChunkPool,
}

impl Chunk {
    /// The filled chunk, without a copy.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl DerefMut for Chunk {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.length]
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut spare = self.pool.lock();
        if spare.len() < SPARE {
            spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back() {
        let pool = ChunkPool::new();
        let mut chunk = pool.take(3);
        chunk.copy_from_slice(b"abc");
        let address = chunk.as_ptr();
        let bytes = chunk.freeze();
        let part = bytes.slice(1..);
        drop(bytes);
        assert_eq!(pool.lock().len(), 0);
        assert_eq!(part, &b"bc"[..]);
        drop(part);
        assert_eq!(pool.lock().len(), 1);
        assert_eq!(pool.take(CHUNK).as_ptr(), address);
    }

    #[test]
    fn no_more_than_a_few_are_kept() {
        let pool = ChunkPool::new();
        let many: Vec<_> = (0..SPARE + 5).map(|_| pool.take(1)).collect();
        drop(many);
        assert_eq!(pool.lock().len(), SPARE);
    }
}
