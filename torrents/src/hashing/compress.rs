//! SHA-1's compression of several messages, by the fastest way this CPU has.

use super::PieceHash;
#[cfg(target_arch = "x86_64")]
use super::{
    multi::ShaNi,
    wide::{self, Wide},
};

/// The five words a SHA-1 carries from block to block.
pub(super) type State = [u32; 5];

/// What is mixed in at once.
pub(super) type Block = [u8; BLOCK];

/// Never are more messages hashed together.
pub(super) const MOST_LANES: u32 = 8;

/// Bytes of a block.
pub(super) const BLOCK: usize = 64;

/// FIPS 180-4, 5.3.1.
pub(super) const INITIAL: State = [
    0x6745_2301,
    0xefcd_ab89,
    0x98ba_dcfe,
    0x1032_5476,
    0xc3d2_e1f0,
];

/// Mixes into each state its blocks; as many for each as the shortest has.
pub(super) fn compress<const N: usize>(states: &mut [State; N], blocks: [&[Block]; N]) {
    #[cfg(target_arch = "x86_64")]
    if N >= wide::FROM
        && let Some(wide) = Wide::pays()
    {
        return wide.compress(states, blocks);
    }
    #[cfg(target_arch = "x86_64")]
    if N > 1
        && let Some(sha_ni) = ShaNi::detect()
    {
        return sha_ni.compress(states, blocks);
    }
    one_by_one(states, blocks);
}

/// Messages that are hashed fastest together: eight words wide, or as many as leave room for
/// their vectors in the registers.
pub(super) fn lanes() -> u32 {
    #[cfg(target_arch = "x86_64")]
    if Wide::pays().is_some() {
        return MOST_LANES;
    }
    4
}

/// The same without instructions of our own. For one lane it is as fast.
fn one_by_one<const N: usize>(states: &mut [State; N], blocks: [&[Block]; N]) {
    let count = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
    for (state, blocks) in states.iter_mut().zip(blocks) {
        sha1::block_api::compress(state, &blocks[..count]);
    }
}

/// The block or two that end a message of `length` bytes: what is left of it (less than a
/// block), a one bit, zeros, and the length in bits.
pub(super) fn last_blocks(left: &[u8], length: u64) -> ([Block; 2], usize) {
    let mut blocks = [[0; BLOCK]; 2];
    blocks[0][..left.len()].copy_from_slice(left);
    blocks[0][left.len()] = 0x80;
    let count = if left.len() < BLOCK - 8 { 1 } else { 2 };
    let bits = (length * 8).to_be_bytes();
    blocks[count - 1][BLOCK - 8..].copy_from_slice(&bits);
    (blocks, count)
}

/// The hash that a state is in the end.
pub(super) fn digest(state: State) -> PieceHash {
    let mut hash = [0; 20];
    hash.as_chunks_mut()
        .0
        .iter_mut()
        .zip(state)
        .for_each(|(four, word)| *four = word.to_be_bytes());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks that differ in every lane.
    fn blocks(lane: usize) -> Vec<Block> {
        let byte = |n: usize, i: usize| (lane * 31 + n * 57 + i * i).to_le_bytes()[0];
        (0..7)
            .map(|n| std::array::from_fn(|i| byte(n, i)))
            .collect()
    }

    fn lanes_agree<const N: usize>() {
        let blocks: [_; N] = std::array::from_fn(blocks);
        for count in 0..blocks[0].len() {
            let now = blocks.each_ref().map(|blocks| &blocks[..count]);
            let mut ours = [INITIAL; N];
            compress(&mut ours, now);
            let mut plain = [INITIAL; N];
            one_by_one(&mut plain, now);
            assert_eq!(ours, plain, "{N} lanes, {count} blocks");
        }
    }

    #[test]
    fn any_number_of_lanes_gives_what_the_sha1_crate_gives() {
        lanes_agree::<1>();
        lanes_agree::<2>();
        lanes_agree::<3>();
        lanes_agree::<4>();
        lanes_agree::<8>();
    }

    #[test]
    fn the_lane_with_the_fewest_blocks_decides() {
        let (long, short) = (blocks(1), blocks(2));
        let mut states = [INITIAL; 2];
        compress(&mut states, [&long, &short[..2]]);
        let mut plain = [INITIAL; 2];
        one_by_one(&mut plain, [&long[..2], &short[..2]]);
        assert_eq!(states, plain);
        compress(&mut states, [&long, &[]]);
        assert_eq!(states, plain);
    }

    #[test]
    fn a_message_ends_in_as_many_blocks_as_its_length_needs() {
        for (left, count) in [(0, 1), (55, 1), (56, 2), (63, 2)] {
            let (blocks, got) = last_blocks(&vec![0xff; left], 64 + left as u64);
            assert_eq!(got, count, "{left} bytes left");
            assert_eq!(blocks[0][left], 0x80);
            let bits = ((64 + left as u64) * 8).to_be_bytes();
            assert_eq!(blocks[count - 1][56..], bits);
        }
    }
}
