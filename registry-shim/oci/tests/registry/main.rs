//! The registry over real sockets.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops, in its helpers as well"
)]

mod harness;
mod listen;
mod read;
