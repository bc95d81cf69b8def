//! What the end-to-end tests stand on: hosts as network namespaces on one switch, processes
//! that never outlive their test, a private Docker engine, images made on the spot.
//!
//! Needs root and the packages that `scripts/test` installs; a missing one is a failure with
//! its name, never a skip. Nothing outside the namespaces is touched.

#![allow(
    dead_code,
    reason = "each test binary uses its own part of the harness"
)]

pub(crate) mod browser;
pub(crate) mod docker;
pub(crate) mod image;
pub(crate) mod lab;
pub(crate) mod roles;

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Asks until the answer is there; panics with `what` when it does not come. Generous: the
/// machine may be busy.
pub(crate) fn eventually<T>(what: impl Display, mut ask: impl FnMut() -> Option<T>) -> T {
    within(Duration::from_secs(60), what, &mut ask)
}

/// The same with a bound of one's own.
pub(crate) fn within<T>(
    bound: Duration,
    what: impl Display,
    mut ask: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            Instant::now() < deadline,
            "waited {bound:?} in vain: {what}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Bytes that no compressor shrinks, the same for the same seed (xorshift).
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// `sha256:<hex>` of bytes.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    oci::Digest::sha256_of(bytes).to_string()
}
