//! SHA-1 of several messages at once with the SHA instructions of x86-64.
//!
//! One SHA-1 is a chain: each instruction waits for the one before, and the unit idles for
//! most of the time. The chains of independent messages fill the gaps, so that one core does
//! in one pass what it would do in about two and a half.
//!
//! Its `unsafe` is of the kind that `wide` has too: intrinsics behind a proof ([`ShaNi`]) that the
//! CPU has them, and unaligned loads from arrays of exactly that size. It owns the rounds and
//! nothing else; padding, segments and the choice of lanes are its callers'.

#![allow(
    unsafe_code,
    reason = "the SHA instructions have no safe form, and hashing bounds the whole engine"
)]

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_loadu_si128, _mm_set_epi32, _mm_set_epi64x, _mm_sha1msg1_epu32,
    _mm_sha1msg2_epu32, _mm_sha1nexte_epu32, _mm_sha1rnds4_epu32, _mm_shuffle_epi8,
    _mm_storeu_si128, _mm_xor_si128,
};

use super::compress::{Block, State};

/// Proof that this CPU has the instructions.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShaNi(());

impl ShaNi {
    /// Asks the CPU (the answer is remembered).
    pub(super) fn detect() -> Option<Self> {
        let there = is_x86_feature_detected!("sha")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("sse4.1");
        there.then_some(Self(()))
    }

    /// Mixes into each state its blocks; as many for each as the shortest has.
    pub(super) fn compress<const N: usize>(self, states: &mut [State; N], blocks: [&[Block]; N]) {
        // SAFETY: `self` exists only where `detect` found every feature that is enabled there.
        unsafe { compress(states, blocks) }
    }
}

/// One vector of each message.
type Lanes<const N: usize> = [__m128i; N];

#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn compress<const N: usize>(states: &mut [State; N], blocks: [&[Block]; N]) {
    let count = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
    let blocks = blocks.map(|blocks| &blocks[..count]);
    let mut abcd: Lanes<N> = [_mm_set_epi32(0, 0, 0, 0); N];
    let mut e: Lanes<N> = abcd;
    for lane in 0..N {
        let [a, b, c, d, last] = states[lane].map(u32::cast_signed);
        abcd[lane] = _mm_set_epi32(a, b, c, d);
        e[lane] = _mm_set_epi32(last, 0, 0, 0);
    }
    for n in 0..count {
        block(&mut abcd, &mut e, blocks.map(|blocks| &blocks[n]));
    }
    for lane in 0..N {
        let [d, c, b, a] = words(abcd[lane]);
        let [.., last] = words(e[lane]);
        states[lane] = [a, b, c, d, last];
    }
}

/// The eighty rounds, four at a time, each four for all lanes before the next.
#[inline]
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn block<const N: usize>(abcd: &mut Lanes<N>, e: &mut Lanes<N>, blocks: [&Block; N]) {
    let big_endian = _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f);
    let (abcd_before, e_before) = (*abcd, *e);
    let mut w: [Lanes<N>; 4] = [*e; 4];
    // What `a` of four rounds ago turns into `e` of the next four.
    let mut old = *e;

    /// Four rounds. In the first sixteen the message is read, then it is expanded from the
    /// sixteen words before.
    macro_rules! rounds {
        ($four:literal, $kind:literal) => {
            for lane in 0..N {
                w[$four % 4][lane] = if $four < 4 {
                    let words = load(blocks[lane], $four % 4);
                    _mm_shuffle_epi8(words, big_endian)
                } else {
                    let mixed = _mm_sha1msg1_epu32(w[$four % 4][lane], w[($four + 1) % 4][lane]);
                    let mixed = _mm_xor_si128(mixed, w[($four + 2) % 4][lane]);
                    _mm_sha1msg2_epu32(mixed, w[($four + 3) % 4][lane])
                };
                let next = if $four == 0 {
                    _mm_add_epi32(old[lane], w[0][lane])
                } else {
                    _mm_sha1nexte_epu32(old[lane], w[$four % 4][lane])
                };
                old[lane] = abcd[lane];
                abcd[lane] = _mm_sha1rnds4_epu32::<$kind>(abcd[lane], next);
            }
        };
    }
    rounds!(0, 0);
    rounds!(1, 0);
    rounds!(2, 0);
    rounds!(3, 0);
    rounds!(4, 0);
    rounds!(5, 1);
    rounds!(6, 1);
    rounds!(7, 1);
    rounds!(8, 1);
    rounds!(9, 1);
    rounds!(10, 2);
    rounds!(11, 2);
    rounds!(12, 2);
    rounds!(13, 2);
    rounds!(14, 2);
    rounds!(15, 3);
    rounds!(16, 3);
    rounds!(17, 3);
    rounds!(18, 3);
    rounds!(19, 3);

    for lane in 0..N {
        abcd[lane] = _mm_add_epi32(abcd[lane], abcd_before[lane]);
        e[lane] = _mm_sha1nexte_epu32(old[lane], e_before[lane]);
    }
}

/// The `n`th sixteen bytes of a block.
#[inline]
#[target_feature(enable = "sse2")]
fn load(block: &Block, n: usize) -> __m128i {
    let sixteen = &block.as_chunks::<16>().0[n];
    // SAFETY: the reference covers the sixteen bytes that an unaligned load reads.
    unsafe { _mm_loadu_si128(sixteen.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "sse2")]
fn words(vector: __m128i) -> [u32; 4] {
    let mut words = [0; 4];
    // SAFETY: the array is the sixteen bytes that an unaligned store writes.
    unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), vector) };
    words
}
