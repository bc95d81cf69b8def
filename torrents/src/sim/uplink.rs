//! One host's uplink, shared equally by the connections that have something to send, as TCP
//! shares a bottleneck.
//!
//! Processor sharing in virtual time: the clock counts the bytes that every busy connection has
//! got so far, so a batch ends when the clock has advanced by its size, whoever comes and goes
//! meanwhile. Invariant: what all connections get together is never more than the rate.

use std::collections::VecDeque;

use crate::geometry::Block;
use crate::swarm::Now;

/// Virtual time counts parts of bytes.
const PARTS: u32 = 20;

/// A batch on the wire or behind one.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) link: u32,
    pub(super) blocks: Vec<Block>,
    pub(super) bytes: u64,
    /// When the receiver's downlink has room for the end of it.
    pub(super) due: Now,
}

#[derive(Debug)]
struct Flow {
    batch: Batch,
    ends: u64,
    behind: VecDeque<Batch>,
}

/// The uplink.
#[derive(Debug)]
pub(super) struct Uplink {
    rate: u64,
    clock: u64,
    at: Now,
    flows: Vec<Flow>,
    /// The event that is scheduled.
    pub(super) scheduled: Option<Now>,
}

impl Uplink {
    pub(super) fn new(rate: u64) -> Self {
        Self {
            rate: rate.max(1),
            clock: 0,
            at: Now::ZERO,
            flows: Vec::new(),
            scheduled: None,
        }
    }

    /// Whether the connection has nothing on the wire.
    pub(super) fn is_idle(&self, link: u32) -> bool {
        self.flows.iter().all(|flow| flow.batch.link != link)
    }

    /// Behind what the connection has on the wire.
    pub(super) fn queue(&mut self, batch: Batch) {
        let link = batch.link;
        let flow = self.flows.iter_mut().find(|flow| flow.batch.link == link);
        debug_assert!(flow.is_some(), "nothing is on the wire");
        if let Some(flow) = flow {
            flow.behind.push_back(batch);
        }
    }

    /// Puts a batch of an idle connection on the wire.
    pub(super) fn start(&mut self, now: Now, batch: Batch) {
        self.advance(now);
        let ends = self.clock + (batch.bytes << PARTS);
        self.flows.push(Flow {
            batch,
            ends,
            behind: VecDeque::new(),
        });
    }

    /// When the next batch ends if nothing changes.
    pub(super) fn next_end(&self) -> Option<Now> {
        let ends = self.flows.iter().map(|flow| flow.ends).min()?;
        let left = u128::from(ends.saturating_sub(self.clock)) * self.flows.len() as u128;
        let nanos = (left * 1_000_000_000).div_ceil(u128::from(self.rate) << PARTS);
        Some(self.at + Now::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2)))
    }

    /// A batch that has ended by now, and what is behind it.
    pub(super) fn take_ended(&mut self, now: Now) -> Option<(Batch, VecDeque<Batch>)> {
        self.advance(now);
        let index = (0..self.flows.len()).min_by_key(|&index| self.flows[index].ends)?;
        if self.flows[index].ends > self.clock {
            return None;
        }
        let flow = self.flows.swap_remove(index);
        Some((flow.batch, flow.behind))
    }

    /// The host is gone.
    pub(super) fn clear(&mut self) {
        self.flows.clear();
        self.scheduled = None;
    }

    fn advance(&mut self, now: Now) {
        let nanos = now.saturating_sub(self.at).as_nanos();
        self.at = now;
        if self.flows.is_empty() {
            return;
        }
        let parts = (nanos * u128::from(self.rate)) << PARTS;
        let parts = parts / (1_000_000_000 * self.flows.len() as u128);
        self.clock += u64::try_from(parts).unwrap_or(u64::MAX / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(link: u32, bytes: u64) -> Batch {
        Batch {
            link,
            blocks: Vec::new(),
            bytes,
            due: Now::ZERO,
        }
    }

    /// When each batch ends, of connections that begin at the given milliseconds.
    fn ends(rate: u64, batches: &[(u64, u32, u64)]) -> Vec<(u32, u64)> {
        let mut uplink = Uplink::new(rate);
        let mut all = Vec::new();
        let mut drain = |uplink: &mut Uplink, until: Option<Now>| {
            while let Some(at) = uplink
                .next_end()
                .filter(|&at| until.is_none_or(|u| at <= u))
            {
                while let Some((batch, _)) = uplink.take_ended(at) {
                    all.push((batch.link, u64::try_from(at.as_micros()).unwrap()));
                }
            }
        };
        for &(at, link, bytes) in batches {
            let at = Now::from_millis(at);
            drain(&mut uplink, Some(at));
            uplink.start(at, batch(link, bytes));
        }
        drain(&mut uplink, None);
        all
    }

    #[test]
    fn connections_share_equally() {
        // 1 MB/s: two of 1,000 B each from 0 ms, one of 500 B from 1 ms.
        let mut got = ends(1_000_000, &[(0, 1, 1_000), (0, 2, 1_000), (1, 3, 500)]);
        got.sort_unstable();
        assert_eq!(got.iter().map(|end| end.0).collect::<Vec<_>>(), [1, 2, 3]);
        // At 1 ms the first two have 500 B left, as the third: 1.5 ms for all three.
        assert!(
            got.iter().all(|end| (2_500..=2_501).contains(&end.1)),
            "{got:?}"
        );
    }

    #[test]
    fn the_rate_is_never_exceeded() {
        let batches: Vec<(u64, u32, u64)> = (0..200)
            .map(|n| (u64::from(n % 37), n, 1_000 + u64::from(n) * 7))
            .collect();
        let mut sorted = batches.clone();
        sorted.sort_unstable();
        let total: u64 = batches.iter().map(|batch| batch.2).sum();
        let got = ends(1_000_000, &sorted);
        let last = got.iter().map(|end| end.1).max().unwrap();
        assert_eq!(got.len(), 200);
        assert!((total..total + 500).contains(&last), "{last} for {total}");
    }
}
