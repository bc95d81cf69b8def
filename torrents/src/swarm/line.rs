//! Our own line: how fast everything comes, and how fast it can.
//!
//! While the line is full, a second request for a block that somebody owes us brings nothing
//! sooner; when it runs empty, somebody is slow. Measured over arrivals instead of time, so that
//! it fits slow lines and fast ones.

use super::{Now, time_for};

const ARRIVALS: usize = 16;
/// Arrivals that came at once do not make a rate.
const SHORTEST: u128 = 10_000;
/// So much may be on its way while nothing is known of the line.
const FIRST: u64 = 8 << 20;

/// The last arrivals of payload.
#[derive(Debug, Default)]
pub(super) struct Line {
    arrivals: [(Now, u64); ARRIVALS],
    next: usize,
    sum: u64,
    /// The best rate of late.
    peak: u64,
}

impl Line {
    pub(super) fn add(&mut self, now: Now, bytes: u64) {
        let before = self.per_second(now);
        let oldest = std::mem::replace(&mut self.arrivals[self.next], (now, bytes));
        self.sum = self.sum - oldest.1 + bytes;
        self.next = (self.next + 1) % ARRIVALS;
        self.peak = self.peak.max(before);
    }

    /// The best is forgotten slowly: lines get slower.
    pub(super) fn age(&mut self) {
        self.peak -= self.peak / 32;
    }

    /// How much may be asked for in all: about what comes within a second. More would not come
    /// sooner, but would be lost with a peer, or wait behind what is more urgent.
    pub(super) fn allows(&self) -> u64 {
        self.peak.max(FIRST)
    }

    /// How long so many bytes take at best; no time while nothing has come.
    pub(super) fn time_for(&self, bytes: u64) -> Now {
        match self.peak {
            0 => Now::ZERO,
            peak => time_for(bytes, peak),
        }
    }

    /// Whether about as much comes as ever did.
    pub(super) fn is_full(&self, now: Now) -> bool {
        self.peak > 0 && self.per_second(now) > self.peak / 2
    }

    /// What came since the oldest arrival, which only marks the time.
    fn per_second(&self, now: Now) -> u64 {
        let first = if self.arrivals[self.next].1 > 0 {
            self.next
        } else {
            0
        };
        let (since, bytes) = self.arrivals[first];
        let micros = now.saturating_sub(since).as_micros().max(SHORTEST);
        let rate = u128::from(self.sum - bytes) * 1_000_000 / micros;
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_full_until_less_comes() {
        let mut line = Line::default();
        assert!(!line.is_full(Now::ZERO));
        assert_eq!(line.time_for(1_000_000), Now::ZERO);
        for tick in 100..200 {
            line.add(Now::from_millis(tick * 10), 1_000_000);
        }
        assert!(line.is_full(Now::from_millis(2_000)));
        let time = line.time_for(1_000_000);
        assert!((10..13).contains(&time.as_millis()), "{time:?}");
        assert!(line.is_full(Now::from_millis(2_020)));
        assert!(!line.is_full(Now::from_millis(2_200)));
        for _ in 0..200 {
            line.age();
        }
        for tick in 3_000..3_030 {
            line.add(Now::from_millis(tick * 10), 100_000);
        }
        assert!(line.is_full(Now::from_millis(30_300)));
    }
}
