//! Independent messages, each a list of segments, hashed side by side.
//!
//! A lane holds one message. In each step all lanes take as many blocks as the one with the
//! fewest at hand; a lane whose message is done takes the next one that waits. Blocks are read
//! where they lie; only one that spans segments, and the last, are copied together.

use std::slice;

use bytes::Bytes;

use super::PieceHash;
use super::compress::{BLOCK, Block, INITIAL, State, compress, digest, lanes, last_blocks};

pub(super) fn hash_all(messages: &[&[Bytes]]) -> Vec<PieceHash> {
    let mut hashes = vec![PieceHash::default(); messages.len()];
    let mut waiting = messages.iter().zip(&mut hashes);
    let most = lanes() as usize;
    let mut lanes: Vec<Lane<'_>> = Vec::with_capacity(most);
    loop {
        let free = most - lanes.len();
        lanes.extend(waiting.by_ref().take(free).map(Lane::new));
        match &mut lanes[..] {
            [] => return hashes,
            [a] => step([a]),
            [a, b] => step([a, b]),
            [a, b, c] => step([a, b, c]),
            [a, b, c, d] => step([a, b, c, d]),
            [a, b, c, d, e] => step([a, b, c, d, e]),
            [a, b, c, d, e, f] => step([a, b, c, d, e, f]),
            [a, b, c, d, e, f, g] => step([a, b, c, d, e, f, g]),
            [a, b, c, d, e, f, g, h] => step([a, b, c, d, e, f, g, h]),
            _ => unreachable!("no more than MOST_LANES"),
        }
        lanes.retain_mut(|lane| !lane.finish());
    }
}

fn step<const N: usize>(mut lanes: [&mut Lane<'_>; N]) {
    let mut states = lanes.each_ref().map(|lane| lane.state);
    let blocks = lanes.each_ref().map(|lane| lane.blocks());
    let count = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
    compress(&mut states, blocks);
    for (lane, state) in lanes.iter_mut().zip(states) {
        lane.state = state;
        lane.advance(count);
    }
}

/// One message on its way. Invariant: unless it is done, there is a block to take.
struct Lane<'m> {
    state: State,
    hash: &'m mut PieceHash,
    segments: slice::Iter<'m, Bytes>,
    /// What is left of the segment at hand.
    rest: &'m [u8],
    length: u64,
    /// Blocks that lie in no segment, and which of them are still to be taken.
    joined: [Block; 2],
    pending: std::ops::Range<usize>,
    /// The last blocks are in `joined` or taken.
    ended: bool,
}

impl<'m> Lane<'m> {
    fn new((message, hash): (&&'m [Bytes], &'m mut PieceHash)) -> Self {
        let mut lane = Self {
            state: INITIAL,
            hash,
            segments: message.iter(),
            rest: &[],
            length: message.iter().map(|segment| segment.len() as u64).sum(),
            joined: [[0; BLOCK]; 2],
            pending: 0..0,
            ended: false,
        };
        lane.refill();
        lane
    }

    /// The blocks at hand.
    fn blocks(&self) -> &[Block] {
        match &self.joined[self.pending.clone()] {
            [] => self.rest.as_chunks().0,
            joined => joined,
        }
    }

    /// Drops the first `count` of the blocks at hand.
    fn advance(&mut self, count: usize) {
        if self.pending.is_empty() {
            self.rest = &self.rest[count * BLOCK..];
        } else {
            self.pending.start += count;
        }
        self.refill();
    }

    /// Puts a block at hand if none is: one joined across segments, or the last.
    fn refill(&mut self) {
        if !self.pending.is_empty() || self.rest.len() >= BLOCK || self.ended {
            return;
        }
        let mut len = 0;
        loop {
            let take = self.rest.len().min(BLOCK - len);
            let (taken, rest) = self.rest.split_at(take);
            self.joined[0][len..len + take].copy_from_slice(taken);
            self.rest = rest;
            len += take;
            if len == BLOCK {
                self.pending = 0..1;
                return;
            }
            let Some(segment) = self.segments.next() else {
                break;
            };
            self.rest = segment;
            if len == 0 && self.rest.len() >= BLOCK {
                return;
            }
        }
        let (last, count) = last_blocks(&self.joined[0][..len], self.length);
        self.joined = last;
        self.pending = 0..count;
        self.ended = true;
    }

    /// Writes the hash when the message is done.
    fn finish(&mut self) -> bool {
        let done = self.ended && self.pending.is_empty();
        if done {
            *self.hash = digest(self.state);
        }
        done
    }
}
