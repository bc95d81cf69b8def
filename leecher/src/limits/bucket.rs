//! Token buckets for bandwidth, changeable while running; unlimited costs one atomic load.
//!
//! Bytes are counted twice, as two ever-growing odometers:
//!
//! ```text
//!   granted ──▶ what the rate has let through by now; never more than a burst beyond `asked`
//!   asked   ──▶ what all takers together have asked for, in the order they came
//! ```
//!
//! Each `take` draws a ticket (the value of `asked` after it) and passes once `granted` has
//! reached it: first come, first served, whoever asks for however much. A ticket that is given
//! up returns its bytes to those behind it. Invariant: what passes in any span of time is at
//! most rate × span + one burst (plus one request, which is never cut).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How much may pass at once after a pause.
const BURST: Duration = Duration::from_millis(250);
/// Nobody sleeps longer without looking again, so that a tiny rate overflows no clock.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// A rate shared by many tasks.
#[derive(Debug)]
pub(super) struct Limit {
    limited: AtomicBool,
    bucket: Mutex<Bucket>,
    /// Wakes everyone who waits: the rate changed, or bytes came back.
    changed: Notify,
}

#[derive(Debug)]
struct Bucket {
    /// Bytes a second; `None` is unlimited.
    rate: Option<u64>,
    /// Bytes let through up to `since`; what came after it follows from the rate.
    granted: u64,
    since: Option<Instant>,
    asked: u64,
}

impl Limit {
    /// Bytes a second; `None` is unlimited. At 0 nothing passes until the rate is changed.
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self {
            limited: AtomicBool::new(rate.is_some()),
            bucket: Mutex::new(Bucket {
                rate,
                granted: burst(rate),
                since: None,
                asked: 0,
            }),
            changed: Notify::new(),
        }
    }

    /// Changes the rate, also for those who wait.
    pub(super) fn set(&self, rate: Option<u64>) {
        let mut bucket = self.lock();
        if bucket.rate == rate {
            return;
        }
        let now = Instant::now();
        bucket.settle(now);
        if bucket.rate.is_none() {
            // Whoever still queues was free to pass already; start as full as a new one.
            bucket.granted = bucket.asked.saturating_add(burst(rate));
        }
        bucket.rate = rate;
        // What the old rate had begun to earn must not be counted at the new one.
        bucket.since = Some(now);
        self.limited.store(rate.is_some(), Ordering::Relaxed);
        drop(bucket);
        self.changed.notify_waiters();
    }

    /// The rate as it is set.
    pub(super) fn rate(&self) -> Option<u64> {
        self.lock().rate
    }

    /// Waits until `bytes` may pass. Dropping the future gives the place up.
    pub(super) async fn take(&self, bytes: u64) {
        if !self.limited.load(Ordering::Relaxed) {
            return;
        }
        let mut ticket = Ticket::draw(self, bytes);
        loop {
            // Registered before the look, so that no change between the two is missed.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let Some(wait) = ticket.wait() else { return };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Bucket> {
        // Plain numbers, right after every statement.
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue.
struct Ticket<'a> {
    limit: &'a Limit,
    bytes: u64,
    /// Passes once this much is granted.
    number: u64,
    passed: bool,
}

impl<'a> Ticket<'a> {
    fn draw(limit: &'a Limit, bytes: u64) -> Self {
        let mut bucket = limit.lock();
        bucket.settle(Instant::now());
        bucket.asked = bucket.asked.saturating_add(bytes);
        Self {
            limit,
            bytes,
            number: bucket.asked,
            passed: false,
        }
    }

    /// How long until it may pass; `None` is now.
    fn wait(&mut self) -> Option<Duration> {
        let mut bucket = self.limit.lock();
        bucket.settle(Instant::now());
        let wait = bucket.until(self.number);
        self.passed = wait.is_none();
        wait
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.passed {
            return;
        }
        let mut bucket = self.limit.lock();
        bucket.granted = bucket.granted.saturating_add(self.bytes);
        drop(bucket);
        self.limit.changed.notify_waiters();
    }
}

impl Bucket {
    /// Brings `granted` up to `now`.
    fn settle(&mut self, now: Instant) {
        let Some(rate) = self.rate else {
            self.since = None;
            return;
        };
        let since = *self.since.get_or_insert(now);
        let earned = earned(rate, now.saturating_duration_since(since));
        let most = self.asked.saturating_add(burst(Some(rate)));
        if self.granted.saturating_add(earned) >= most {
            (self.granted, self.since) = (most, Some(now));
        } else if earned > 0 {
            // Time that earned no whole byte yet is kept.
            self.granted += earned;
            self.since = Some(since + worth(rate, earned));
        }
    }

    fn until(&self, number: u64) -> Option<Duration> {
        let missing = number.saturating_sub(self.granted);
        match self.rate {
            None => None,
            Some(_) if missing == 0 => None,
            Some(0) => Some(LOOK_AGAIN),
            Some(rate) => Some(worth(rate, missing).min(LOOK_AGAIN)),
        }
    }
}

fn burst(rate: Option<u64>) -> u64 {
    rate.map_or(0, |rate| earned(rate, BURST))
}

/// Whole bytes in a span of time.
fn earned(rate: u64, span: Duration) -> u64 {
    let bytes = u128::from(rate).saturating_mul(span.as_nanos()) / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// The time some bytes take, rounded up so that a sleeper does not wake a moment early.
fn worth(rate: u64, bytes: u64) -> Duration {
    let nanos = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(rate.max(1)));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use super::*;

    const MIB: u64 = 1 << 20;

    async fn passed_after(limit: &Limit, bytes: &[u64]) -> Duration {
        let start = Instant::now();
        for &bytes in bytes {
            limit.take(bytes).await;
        }
        start.elapsed()
    }

    fn close(got: Duration, want: Duration) {
        let off = got.abs_diff(want);
        assert!(
            off < Duration::from_millis(5),
            "{got:?} is not about {want:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_at_once_and_then_the_rate_holds() {
        let limit = Limit::new(Some(4 * MIB));
        close(passed_after(&limit, &[MIB]).await, Duration::ZERO);
        let got = passed_after(&limit, &vec![16 << 10; 4 * 64]).await;
        close(got, Duration::from_secs(1));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let got = passed_after(&limit, &[MIB, MIB]).await;
        close(got, Duration::from_millis(250));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_larger_than_the_burst_waits_for_the_rest_only() {
        let limit = Limit::new(Some(4 * MIB));
        close(
            passed_after(&limit, &[9 * MIB]).await,
            Duration::from_secs(2),
        );
    }

    #[tokio::test(start_paused = true)]
    async fn takers_share_the_rate_in_the_order_they_come() {
        let limit = Arc::new(Limit::new(Some(MIB)));
        let totals: Vec<_> = (0..8).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let tasks: Vec<_> = totals
            .iter()
            .map(|total| {
                let (limit, total) = (limit.clone(), total.clone());
                tokio::spawn(async move {
                    loop {
                        limit.take(16 << 10).await;
                        total.fetch_add(16 << 10, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(20)).await;
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        let totals: Vec<_> = totals.iter().map(|t| t.load(Ordering::Relaxed)).collect();
        let (least, most) = (totals.iter().min().unwrap(), totals.iter().max().unwrap());
        // Whoever comes first finds the burst; from then on they take turns.
        assert!(most - least <= MIB / 4 + (16 << 10), "unfair: {totals:?}");
        let sum: u64 = totals.iter().sum();
        assert!((20 * MIB..=21 * MIB).contains(&sum), "{sum} bytes in 20 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_rate_reaches_those_who_wait() {
        let limit = Arc::new(Limit::new(Some(0)));
        let start = Instant::now();
        let waiter = tokio::spawn({
            let limit = limit.clone();
            async move { limit.take(2 * MIB).await }
        });
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(!waiter.is_finished(), "nothing passes at 0");
        limit.set(Some(MIB));
        waiter.await.unwrap();
        close(start.elapsed(), Duration::from_secs(102));

        let waiter = tokio::spawn({
            let limit = limit.clone();
            async move { limit.take(1 << 40).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        limit.set(None);
        waiter.await.unwrap();
        close(start.elapsed(), Duration::from_secs(103));
        limit.set(Some(MIB));
        close(
            passed_after(&limit, &[MIB / 2]).await,
            Duration::from_millis(250),
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_given_up_delays_nobody() {
        let limit = Limit::new(Some(MIB));
        let gave_up = tokio::time::timeout(Duration::from_secs(1), limit.take(1 << 40)).await;
        assert!(gave_up.is_err());
        let got = passed_after(&limit, &[MIB, MIB]).await;
        assert!(got < Duration::from_millis(1_800), "{got:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_rate_loses_no_fractions() {
        let limit = Arc::new(Limit::new(Some(3)));
        let start = Instant::now();
        for _ in 0..30 {
            // Settles more often than a byte is earned.
            limit.take(0).await;
            limit.take(1).await;
        }
        let got = start.elapsed();
        assert!(got <= Duration::from_millis(10_050), "{got:?}");
        assert!(got >= Duration::from_millis(9_500), "{got:?}");
    }
}
