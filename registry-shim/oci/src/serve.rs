//! The read half of `/v2/` over a [`Pull`](crate::Pull), and how a registry port is served:
//! headers at once, exact lengths, ranges, HEAD like GET, an answer or a close to a TLS hello.
//!
//! - [`read()`] turns a route into a response; it knows no socket.
//! - [`listen`] turns a listener into requests; it knows no registry, so that the origin's API
//!   port is served by it as well.
//! - [`operator_wish`] reads what only this host may ask.
//! - [`Counters`] counts what went out, for whoever publishes metrics.

mod bind;
mod body;
mod connection;
mod counters;
mod listen;
mod operator;
mod pace;
mod read;

pub use bind::{BindError, bind};
pub use counters::Counters;
pub use listen::{Limits, Service, listen, listen_with};
pub use operator::{LIMITS_PATH, limits_path, operator_wish};
pub use read::{MAX_PAGE, caller, read};
