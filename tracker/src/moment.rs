//! The tracker's clock as a value: tenths of a second since the day before it started.
//!
//! The pure table never reads a clock; it is handed a `Moment`. Four bytes, so that a peer
//! record can afford several; they last thirteen years of uptime and then saturate. What other
//! trackers heard before this one started has a place too, up to a day back.

use std::time::Duration;

/// The start, in tenths: a day.
const START: u32 = 24 * 60 * 60 * 10;

/// A point in the tracker's life, its start by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u32);

impl Default for Moment {
    fn default() -> Self {
        Self(START)
    }
}

impl Moment {
    pub(crate) const EARLIEST: Self = Self(0);

    pub(crate) fn after_start(uptime: Duration) -> Self {
        Self::default().plus(uptime)
    }

    pub(crate) fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(tenths(duration)))
    }

    pub(crate) fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(tenths(duration)))
    }

    /// Zero when `earlier` is not earlier.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::from(self.0.saturating_sub(earlier.0)) * 100)
    }
}

fn tenths(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis() / 100).unwrap_or(u32::MAX)
}
