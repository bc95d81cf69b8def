//! How many bytes flowed lately, in whole numbers, so that a trace is the same everywhere.

use super::Now;

const SLOTS: usize = 8;

/// Bytes of the last second, or of eight times so many microseconds.
#[derive(Debug, Clone, Default)]
pub(super) struct Rate<const SLOT_MICROS: u64 = 125_000> {
    slots: [u64; SLOTS],
    sum: u64,
    /// The slot of the last byte.
    current: u64,
    /// Micros at which the present flow began: a young flow is not averaged over a whole second.
    since: u64,
}

/// How long so many bytes take at a rate.
pub(crate) fn time_for(bytes: u64, rate: u64) -> Now {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Now::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn micros(now: Now) -> u64 {
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

impl<const SLOT_MICROS: u64> Rate<SLOT_MICROS> {
    /// Counts bytes that flowed just now.
    pub(super) fn add(&mut self, now: Now, bytes: u64) {
        self.advance(now);
        if self.sum == 0 {
            self.since = micros(now);
        }
        let slot = usize::try_from(self.current % SLOTS as u64).unwrap_or(0);
        self.slots[slot] += bytes;
        self.sum += bytes;
    }

    /// Bytes per second over the last eight slots, or since the flow began if that is younger.
    pub(super) fn per_second(&self, now: Now) -> u64 {
        let mut then = self.clone();
        then.advance(now);
        if then.sum == 0 {
            return 0;
        }
        let now = micros(now);
        // The oldest slot still counted is whole, the present one is not.
        let covered = (SLOTS as u64 - 1) * SLOT_MICROS + now % SLOT_MICROS;
        let span = now
            .saturating_sub(then.since)
            .min(covered)
            .max(SLOT_MICROS / 6);
        then.sum.saturating_mul(1_000_000) / span
    }

    fn advance(&mut self, now: Now) {
        let target = micros(now) / SLOT_MICROS;
        if target <= self.current {
            return;
        }
        if target - self.current >= SLOTS as u64 {
            self.slots = [0; SLOTS];
            self.sum = 0;
        } else {
            for slot in self.current + 1..=target {
                let slot = usize::try_from(slot % SLOTS as u64).unwrap_or(0);
                self.sum -= std::mem::take(&mut self.slots[slot]);
            }
        }
        self.current = target;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_flow_reads_true_and_a_dead_one_reads_zero() {
        let mut rate = Rate::<125_000>::default();
        for tick in 0..300u64 {
            rate.add(Now::from_millis(tick * 10), 10_000);
        }
        let read = rate.per_second(Now::from_millis(2_995));
        assert!((950_000..1_100_000).contains(&read), "{read}");
        assert_eq!(rate.per_second(Now::from_millis(4_200)), 0);
    }

    #[test]
    fn a_young_flow_is_not_averaged_over_time_it_did_not_flow() {
        let mut rate = Rate::<125_000>::default();
        rate.add(Now::from_millis(10_000), 500_000);
        rate.add(Now::from_millis(10_100), 500_000);
        let read = rate.per_second(Now::from_millis(10_100));
        assert_eq!(read, 10_000_000);
    }
}
