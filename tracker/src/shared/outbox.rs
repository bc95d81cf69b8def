//! What waits for Redis: bounded by count and by bytes, taken batch by batch.
//!
//! Telling never waits. What does not fit is lost to the others until it is said again, which is
//! logged once for each time the outbox was full.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::mpsc;

use super::record::Heard;

/// What waits at most: announces of a few minutes, or some dozens of the largest registrations.
pub(super) const RECORDS: usize = 1 << 16;
pub(super) const BYTES: usize = 32 << 20;

/// A batch ends with the record that makes it this long. One that is as long as it can be is still
/// well below what Redis takes (512 MB by default).
const BATCH_RECORDS: usize = 1 << 10;
const BATCH_BYTES: usize = 1 << 20;

/// Something heard, and when.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) heard: Heard,
    pub(super) since: Instant,
}

/// Where the table puts what it heard.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    records: mpsc::Sender<Waiting>,
    fill: Arc<Fill>,
}

/// Its other end.
#[derive(Debug)]
pub(super) struct Queue {
    records: mpsc::Receiver<Waiting>,
    fill: Arc<Fill>,
}

#[derive(Debug)]
struct Fill {
    bytes: AtomicUsize,
    most: usize,
    overflowing: AtomicBool,
}

pub(super) fn outbox(records: usize, bytes: usize) -> (Outbox, Queue) {
    let (sender, receiver) = mpsc::channel(records);
    let fill = Arc::new(Fill {
        bytes: AtomicUsize::new(0),
        most: bytes,
        overflowing: AtomicBool::new(false),
    });
    let outbox = Outbox {
        records: sender,
        fill: Arc::clone(&fill),
    };
    let queue = Queue {
        records: receiver,
        fill,
    };
    (outbox, queue)
}

impl Outbox {
    pub(crate) fn tell(&self, heard: Heard) {
        let size = heard.size();
        let since = Instant::now();
        if !self.fill.take(size) {
            self.lost();
        } else if self.records.try_send(Waiting { heard, since }).is_err() {
            self.fill.give_back(size);
            self.lost();
        }
    }

    fn lost(&self) {
        if !self.fill.overflowing.swap(true, Ordering::Relaxed) {
            tracing::warn!("Redis does not keep up: other trackers hear later of some peers");
        }
    }
}

impl Queue {
    /// The next records, once there are some; none when nobody tells any more. Nothing is lost
    /// when it is cancelled.
    pub(super) async fn batch(&mut self) -> Vec<Waiting> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut next = self.records.recv().await;
        while let Some(waiting) = next {
            bytes += waiting.heard.size();
            batch.push(waiting);
            let more = batch.len() < BATCH_RECORDS && bytes < BATCH_BYTES;
            next = more.then(|| self.records.try_recv().ok()).flatten();
        }
        self.fill.give_back(bytes);
        if self.records.is_empty() {
            self.fill.overflowing.store(false, Ordering::Relaxed);
        }
        batch
    }
}

impl Fill {
    fn take(&self, bytes: usize) -> bool {
        let fits = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.most;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    fn give_back(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(length: usize) -> Heard {
        Heard::Register(vec![0; length])
    }

    #[tokio::test]
    async fn an_outbox_that_is_full_loses_records_and_not_time() {
        let (outbox, mut queue) = outbox(2, 1 << 20);
        for _ in 0..5 {
            outbox.tell(body(0));
        }
        assert!(outbox.fill.overflowing.load(Ordering::Relaxed));
        assert_eq!(queue.batch().await.len(), 2);
        assert!(!outbox.fill.overflowing.load(Ordering::Relaxed));
        outbox.tell(body(0));
        assert_eq!(queue.batch().await.len(), 1);
        assert_eq!(outbox.fill.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn large_records_fill_it_as_many_do() {
        let (outbox, mut queue) = outbox(RECORDS, BYTES);
        for _ in 0..100 {
            outbox.tell(body(1 << 20));
        }
        assert!(outbox.fill.overflowing.load(Ordering::Relaxed));
        let mut taken = 0;
        while !queue.records.is_empty() {
            taken += queue.batch().await.len();
        }
        assert_eq!(taken, 31, "32 MiB, less what frames them");
        outbox.tell(body(1 << 20));
        assert_eq!(queue.batch().await.len(), 1);
    }

    #[tokio::test]
    async fn a_batch_ends_by_its_bytes_too() {
        let (outbox, mut queue) = outbox(RECORDS, BYTES);
        for length in [400 << 10, 400 << 10, 400 << 10, 1 << 20, 1, 1] {
            outbox.tell(body(length));
        }
        for expected in [3, 1, 2] {
            assert_eq!(queue.batch().await.len(), expected);
        }
    }
}
