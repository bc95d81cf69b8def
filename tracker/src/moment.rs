//! The tracker's clock as a value: tenths of a second since it started.
//!
//! The pure table never reads a clock; it is handed a `Moment`. Four bytes, so that a peer
//! record can afford several; they last thirteen years of uptime and then saturate.

use std::time::Duration;

/// A point in the tracker's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Moment(u32);

impl Moment {
    pub(crate) fn after_start(uptime: Duration) -> Self {
        Self(tenths(uptime))
    }

    pub(crate) fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(tenths(duration)))
    }

    /// Zero when `earlier` is not earlier.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::from(self.0.saturating_sub(earlier.0)) * 100)
    }
}

fn tenths(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis() / 100).unwrap_or(u32::MAX)
}
