//! The workers that hash pieces from memory and write the good ones, for all torrents.
//!
//! A worker takes as many queued pieces at once as the processor hashes fastest together, four or
//! eight independent messages in little more time than one. A piece whose hash is right is written
//! with one call and reported; a wrong one is dropped, and only fingerprints of its blocks are
//! kept, to tell later who lied.
//!
//! What stands in the queue is inside the memory budget that every torrent's machine keeps. Well
//! below that, whoever brings payload waits for [`HashPool::room`]: a network that runs far ahead
//! of the disk gains nothing, and bytes that went cold are dear to hash.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use torrents::PieceIndex;
use torrents::hashing::{at_once, piece_hash, piece_hashes};
use torrents::metainfo::PieceHash;

use crate::content::Content;
use crate::locked;

/// Bytes that may wait or be worked on before those who bring more have to wait, for each worker
/// and at least: while two workers hold eight pieces of a MiB each, eight more can gather.
const BACKLOG: u64 = 4 << 20;
const LEAST_BACKLOG: u64 = 24 << 20;

/// What is remembered of a block of a bad piece.
pub(crate) type Fingerprint = PieceHash;

/// One complete piece.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) piece: PieceIndex,
    pub(crate) expected: PieceHash,
    /// Where it goes.
    pub(crate) offset: u64,
    pub(crate) blocks: Vec<Bytes>,
    pub(crate) content: Arc<Content>,
    /// Its blocks' fingerprints are wanted even when it is good.
    pub(crate) suspect: bool,
    pub(crate) reply: mpsc::Sender<Hashed>,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Hashed {
    pub(crate) piece: PieceIndex,
    pub(crate) outcome: Outcome,
    /// Of each block: when the piece is bad, or was a suspect.
    pub(crate) fingerprints: Vec<Fingerprint>,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    /// Right, and written.
    Verified,
    /// Wrong.
    Corrupt,
    /// Right, but it could not be written.
    Unwritten(std::io::Error),
    /// The worker failed: our own fault.
    Bug,
}

/// Worker threads and their queue.
#[derive(Debug)]
pub(crate) struct HashPool {
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Queue {
    jobs: Mutex<Jobs>,
    wake: Condvar,
    /// Bytes submitted and not reported yet.
    backlog: AtomicU64,
    most: u64,
    less: Notify,
}

#[derive(Debug, Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    closed: bool,
}

impl HashPool {
    /// One worker a core.
    pub(crate) fn start() -> std::io::Result<Self> {
        let workers = std::thread::available_parallelism().map_or(2, usize::from);
        let queue = Arc::new(Queue {
            jobs: Mutex::default(),
            wake: Condvar::new(),
            backlog: AtomicU64::new(0),
            most: LEAST_BACKLOG.max(BACKLOG * workers as u64),
            less: Notify::new(),
        });
        let pool = Self {
            queue: Arc::clone(&queue),
            threads: Mutex::default(),
        };
        for n in 0..workers {
            let queue = Arc::clone(&queue);
            let thread = std::thread::Builder::new()
                .name(format!("hash-{n}"))
                .spawn(move || queue.work())?;
            locked(&pool.threads).push(thread);
        }
        Ok(pool)
    }

    pub(crate) fn submit(&self, job: Job) {
        let mut jobs = locked(&self.queue.jobs);
        if !jobs.closed {
            self.queue.backlog.fetch_add(job.bytes(), Ordering::Relaxed);
            jobs.waiting.push_back(job);
            self.queue.wake.notify_one();
        }
    }

    /// Waits while the workers have enough to do. Costs one load when they do not.
    pub(crate) async fn room(&self) {
        let queue = &self.queue;
        while queue.is_full() {
            let less = queue.less.notified();
            // It may have become less before we listened.
            if queue.is_full() {
                less.await;
            }
        }
    }

    /// Ends the workers after the pieces they hold. Blocking.
    pub(crate) fn close(&self) {
        {
            let mut jobs = locked(&self.queue.jobs);
            jobs.closed = true;
            jobs.waiting.clear();
        }
        self.queue.wake.notify_all();
        self.queue.backlog.store(0, Ordering::Relaxed);
        self.queue.less.notify_waiters();
        for thread in std::mem::take(&mut *locked(&self.threads)) {
            // A worker catches the panics of its jobs; there is nothing left to report.
            let _ = thread.join();
        }
    }
}

impl Drop for HashPool {
    fn drop(&mut self) {
        // Without joining: the last handle may be dropped on a runtime thread.
        locked(&self.queue.jobs).closed = true;
        self.queue.wake.notify_all();
    }
}

impl Job {
    fn bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.len() as u64).sum()
    }
}

impl Queue {
    fn is_full(&self) -> bool {
        self.backlog.load(Ordering::Relaxed) > self.most
    }

    /// So many bytes are done with.
    fn relieve(&self, bytes: u64) {
        let before = self
            .backlog
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |backlog| {
                Some(backlog.saturating_sub(bytes))
            });
        if before.is_ok_and(|before| before > self.most) && !self.is_full() {
            self.less.notify_waiters();
        }
    }

    fn work(&self) {
        let mut batch = Vec::with_capacity(at_once() as usize);
        while self.next(&mut batch) {
            let mut held: u64 = batch.iter().map(Job::bytes).sum();
            let relieve = |bytes| {
                held -= bytes;
                self.relieve(bytes);
            };
            let asked: Vec<_> = batch
                .iter()
                .map(|job| (job.piece, job.reply.clone()))
                .collect();
            let jobs = std::mem::take(&mut batch);
            let done = catch_unwind(AssertUnwindSafe(|| settle(jobs, relieve)));
            // What a bug left over.
            self.relieve(held);
            if done.is_err() {
                batch.clear();
                for (piece, reply) in asked {
                    let _ = reply.blocking_send(Hashed {
                        piece,
                        outcome: Outcome::Bug,
                        fingerprints: Vec::new(),
                    });
                }
            }
        }
    }

    /// The next pieces, as many as fill a batch: with AVX-512, half a batch on each of two workers
    /// takes as long and twice the processor time.
    fn next(&self, batch: &mut Vec<Job>) -> bool {
        let mut jobs = locked(&self.jobs);
        while jobs.waiting.is_empty() {
            if jobs.closed {
                return false;
            }
            jobs = self.wake.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
        let share = jobs.waiting.len().min(at_once() as usize);
        batch.extend(jobs.waiting.drain(..share));
        true
    }
}

/// Hashes, writes and reports each.
fn settle(batch: Vec<Job>, mut done: impl FnMut(u64)) {
    let messages: Vec<&[Bytes]> = batch.iter().map(|job| &job.blocks[..]).collect();
    let hashes = piece_hashes(&messages);
    for (job, hash) in batch.into_iter().zip(hashes) {
        let good = hash == job.expected;
        let fingerprints = if good && !job.suspect {
            Vec::new()
        } else {
            job.blocks
                .iter()
                .map(|block| piece_hash(std::slice::from_ref(block)))
                .collect()
        };
        let outcome = if good { write(&job) } else { Outcome::Corrupt };
        // Before the report: the memory is free again when the machine hears of it.
        let bytes = job.bytes();
        drop(job.blocks);
        done(bytes);
        let _ = job.reply.blocking_send(Hashed {
            piece: job.piece,
            outcome,
            fingerprints,
        });
    }
}

fn write(job: &Job) -> Outcome {
    let mut slices: Vec<_> = job.blocks.iter().map(|block| IoSlice::new(block)).collect();
    match job.content.write_at(job.offset, &mut slices) {
        Ok(()) => {
            job.content.record(job.piece);
            Outcome::Verified
        }
        Err(error) => Outcome::Unwritten(error),
    }
}
