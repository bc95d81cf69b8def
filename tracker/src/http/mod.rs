//! The tracker's HTTP face: a fast lane for announces and scrapes, a general server for people.
//!
//! ```text
//!   accept ──▶ connection ──▶ lane (announce, scrape: parsed and answered by hand)
//!                   │
//!                   └─ any other request ──▶ hyper + axum (routes), which know announces too
//! ```

pub(crate) mod accept;
mod changes;
pub(crate) mod connection;
mod handover;
mod head;
pub(crate) mod lane;
pub(crate) mod routes;
