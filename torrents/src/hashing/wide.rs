//! SHA-1 of eight messages at once with the 256-bit vectors of AVX-512: each vector holds one
//! word of every message, and the rounds are those of the standard.
//!
//! Intel's processors have one port for their SHA instructions, which is busy with two chains
//! already; these vectors have three. Elsewhere the SHA instructions are as fast as this.
//!
//! It owns the rounds and nothing else. Its `unsafe` is of the kind that `multi` has: intrinsics
//! behind a proof ([`Wide`]) that the CPU has them, and unaligned loads and stores of arrays of
//! exactly that size.

#![allow(
    unsafe_code,
    reason = "the vector instructions have no safe form, and hashing bounds the whole engine"
)]

use std::arch::x86_64::{
    __cpuid, __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_permute2x128_si256,
    _mm256_rol_epi32, _mm256_set_epi64x, _mm256_set1_epi32, _mm256_shuffle_epi8,
    _mm256_storeu_si256, _mm256_ternarylogic_epi32, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64,
    _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm256_xor_si256,
};

use std::sync::LazyLock;

use super::compress::{Block, MOST_LANES, State};

/// Messages at once.
pub(super) const LANES: usize = MOST_LANES as usize;

/// Messages from which on it pays.
pub(super) const FROM: usize = 4;

/// One word of each message.
type Words = __m256i;

/// Proof that this CPU has the instructions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wide(());

/// Whether the instructions are there, and pay.
struct Found {
    wide: Wide,
    pays: bool,
}

static FOUND: LazyLock<Option<Found>> = LazyLock::new(|| {
    let there = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl");
    there.then(|| Found {
        wide: Wide(()),
        pays: is_intel() || !is_x86_feature_detected!("sha"),
    })
});

impl Wide {
    /// The proof, where this way is the faster one for [`FROM`] messages or more.
    pub(super) fn pays() -> Option<Self> {
        FOUND
            .as_ref()
            .filter(|found| found.pays)
            .map(|found| found.wide)
    }

    /// Mixes into each state its blocks; as many for each as the shortest has. Fewer than eight
    /// cost as much as eight.
    pub(super) fn compress<const N: usize>(self, states: &mut [State; N], blocks: [&[Block]; N]) {
        const { assert!(0 < N && N <= LANES, "a message for every lane at most") };
        let mut eight: [State; LANES] = std::array::from_fn(|lane| states[lane.min(N - 1)]);
        let blocks = std::array::from_fn(|lane: usize| blocks[lane.min(N - 1)]);
        // SAFETY: `self` exists only where `FOUND` has every feature that is enabled there.
        unsafe { compress(&mut eight, blocks) };
        states.copy_from_slice(&eight[..N]);
    }
}

fn is_intel() -> bool {
    let leaf = __cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx] == [*b"Genu", *b"ineI", *b"ntel"].map(u32::from_le_bytes)
}

#[target_feature(enable = "avx2,avx512f,avx512vl")]
fn compress(states: &mut [State; LANES], blocks: [&[Block]; LANES]) {
    let count = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
    let blocks = blocks.map(|blocks| &blocks[..count]);
    let mut state: [Words; 5] = std::array::from_fn(|word| {
        let mut bytes = [0; 32];
        for (four, state) in bytes.as_chunks_mut().0.iter_mut().zip(&*states) {
            *four = state[word].to_ne_bytes();
        }
        load(&bytes)
    });
    for n in 0..count {
        block(&mut state, blocks.map(|blocks| &blocks[n]));
    }
    for (word, vector) in state.into_iter().enumerate() {
        for (state, value) in states.iter_mut().zip(words(vector)) {
            state[word] = value;
        }
    }
}

/// The eighty rounds.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512vl")]
fn block(state: &mut [Words; 5], blocks: [&Block; LANES]) {
    let mut w = message(blocks);
    let [mut a, mut b, mut c, mut d, mut e] = *state;

    /// One round. The message is expanded in place, from the sixteen words before.
    macro_rules! round {
        ($t:expr, $choice:literal, $k:expr) => {
            if $t >= 16 {
                let mixed = _mm256_ternarylogic_epi32::<XOR>(
                    w[($t + 13) % 16],
                    w[($t + 8) % 16],
                    w[($t + 2) % 16],
                );
                w[$t % 16] = _mm256_rol_epi32::<1>(_mm256_xor_si256(mixed, w[$t % 16]));
            }
            let chosen = _mm256_ternarylogic_epi32::<$choice>(b, c, d);
            let rest = _mm256_add_epi32(_mm256_add_epi32(e, $k), w[$t % 16]);
            let mixed = _mm256_add_epi32(_mm256_rol_epi32::<5>(a), chosen);
            e = d;
            d = c;
            c = _mm256_rol_epi32::<30>(b);
            b = a;
            a = _mm256_add_epi32(mixed, rest);
        };
    }
    macro_rules! twenty {
        ($from:literal, $choice:literal, $k:literal) => {{
            let k: u32 = $k;
            let k = _mm256_set1_epi32(k.cast_signed());
            round!($from, $choice, k);
            round!($from + 1, $choice, k);
            round!($from + 2, $choice, k);
            round!($from + 3, $choice, k);
            round!($from + 4, $choice, k);
            round!($from + 5, $choice, k);
            round!($from + 6, $choice, k);
            round!($from + 7, $choice, k);
            round!($from + 8, $choice, k);
            round!($from + 9, $choice, k);
            round!($from + 10, $choice, k);
            round!($from + 11, $choice, k);
            round!($from + 12, $choice, k);
            round!($from + 13, $choice, k);
            round!($from + 14, $choice, k);
            round!($from + 15, $choice, k);
            round!($from + 16, $choice, k);
            round!($from + 17, $choice, k);
            round!($from + 18, $choice, k);
            round!($from + 19, $choice, k);
        }};
    }
    // Of `b`, `c` and `d`: choose, parity, majority, parity (FIPS 180-4, 4.1.1 and 4.2.1).
    twenty!(0, 0xca, 0x5a82_7999);
    twenty!(20, 0x96, 0x6ed9_eba1);
    twenty!(40, 0xe8, 0x8f1b_bcdc);
    twenty!(60, 0x96, 0xca62_c1d6);

    for (before, after) in state.iter_mut().zip([a, b, c, d, e]) {
        *before = _mm256_add_epi32(*before, after);
    }
}

/// The exclusive or of three.
const XOR: i32 = 0x96;

/// The sixteen words of each block, each vector one word of all.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512vl")]
fn message(blocks: [&Block; LANES]) -> [Words; 16] {
    let half = |n: usize| transpose(blocks.map(|block| load(&block.as_chunks::<32>().0[n])));
    let (first, second) = (half(0), half(1));
    std::array::from_fn(|word| {
        if word < 8 {
            first[word]
        } else {
            second[word - 8]
        }
    })
}

/// Eight rows of eight big-endian words become eight columns of native ones.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512vl")]
fn transpose(rows: [Words; 8]) -> [Words; 8] {
    let big_endian = _mm256_set_epi64x(
        0x0c0d_0e0f_0809_0a0b,
        0x0405_0607_0001_0203,
        0x0c0d_0e0f_0809_0a0b,
        0x0405_0607_0001_0203,
    );
    let [r0, r1, r2, r3, r4, r5, r6, r7] = rows.map(|row| _mm256_shuffle_epi8(row, big_endian));
    let pairs = |a, b| (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let ((a0, a1), (a2, a3)) = (pairs(r0, r1), pairs(r2, r3));
    let ((a4, a5), (a6, a7)) = (pairs(r4, r5), pairs(r6, r7));
    let fours = |a, b| (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let ((b0, b1), (b2, b3)) = (fours(a0, a2), fours(a1, a3));
    let ((b4, b5), (b6, b7)) = (fours(a4, a6), fours(a5, a7));
    let low = |a, b| _mm256_permute2x128_si256::<0x20>(a, b);
    let high = |a, b| _mm256_permute2x128_si256::<0x31>(a, b);
    [
        low(b0, b4),
        low(b1, b5),
        low(b2, b6),
        low(b3, b7),
        high(b0, b4),
        high(b1, b5),
        high(b2, b6),
        high(b3, b7),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> Words {
    // SAFETY: the reference covers the bytes that an unaligned load reads.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn words(vector: Words) -> [u32; LANES] {
    let mut words = [0; LANES];
    // SAFETY: the array is the bytes that an unaligned store writes.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), vector) };
    words
}

#[cfg(test)]
mod tests {
    use super::super::compress::INITIAL;
    use super::*;

    /// Also on processors where it is not used.
    #[test]
    fn each_lane_is_the_sha1_of_its_blocks() {
        let Some(found) = FOUND.as_ref() else { return };
        let blocks: [Vec<Block>; LANES] = std::array::from_fn(|lane| {
            let byte = |n: usize, i: usize| (lane * 37 + n * 11 + i * i * i).to_le_bytes()[0];
            (0..5)
                .map(|n| std::array::from_fn(|i| byte(n, i)))
                .collect()
        });
        let mut states = [INITIAL; LANES];
        found
            .wide
            .compress(&mut states, blocks.each_ref().map(|blocks| &blocks[..]));
        for (state, blocks) in states.into_iter().zip(&blocks) {
            let mut plain = INITIAL;
            sha1::block_api::compress(&mut plain, blocks);
            assert_eq!(state, plain);
        }
    }
}
