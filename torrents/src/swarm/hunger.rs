//! Whether connections give enough to live on.
//!
//! What comes buys time: a second for every [`ENOUGH`] bytes. Time that nothing has paid for is
//! how long we have been hungry; so a peer that trickles cannot pass for a swarm.

use super::Now;
use super::rate::time_for;

/// Bytes a second that any swarm worth waiting for gives.
const ENOUGH: u64 = 32 * 1024;
/// More is not owed, however long nothing came: whoever is fed again is well soon.
const MOST_OWED: Now = Now::from_secs(10);

/// The time that so many bytes buy.
pub(super) fn bought(bytes: u64) -> Now {
    time_for(bytes, ENOUGH)
}

/// How long we have been hungry.
#[derive(Debug, Default)]
pub(super) struct Hunger {
    paid_until: Now,
}

impl Hunger {
    /// Counts from now on.
    pub(super) fn begin(&mut self, now: Now) {
        self.paid_until = now;
    }

    /// A connection gave so many useful bytes.
    pub(super) fn eat(&mut self, now: Now, bytes: u64) {
        let from = self.paid_until.max(now.saturating_sub(MOST_OWED));
        self.paid_until = from.saturating_add(bought(bytes)).min(now);
    }

    /// For how long nothing has paid.
    pub(super) fn lasts(&self, now: Now) -> Now {
        now.saturating_sub(self.paid_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_does_not_feed_and_a_flow_does_soon() {
        let mut hunger = Hunger::default();
        let second = Now::from_secs;
        for n in 1..=20 {
            hunger.eat(second(n), 9_500);
        }
        assert!(hunger.lasts(second(20)) > Now::from_millis(6_500));
        assert_eq!(hunger.lasts(second(120)).as_secs() / 10, 10);
        hunger.eat(second(120), 1 << 20);
        assert_eq!(hunger.lasts(second(120)), Now::ZERO);
    }
}
