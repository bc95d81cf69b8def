//! A thread that writes dirty data back while a download goes on.
//!
//! Without it the final flush would have to push a whole layer to the disk at once and the
//! commit would take as long as the disk needs. It owns nothing but its queue: jobs hold
//! content weakly, so a content that goes away is not kept open. It gives way to other threads:
//! writing back costs CPU too.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::SystemTime;

use super::Dirty;
use crate::niceness::give_way;

/// Jobs that may wait. A full queue only means a later write asks again.
const QUEUE: usize = 1024;

enum Job {
    Flush(Weak<Dirty>),
    Touch(PathBuf, SystemTime),
}

/// The thread and its queue; dropping the last handle ends and joins it.
#[derive(Debug)]
pub(crate) struct Flusher {
    queue: Option<SyncSender<Job>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Flusher {
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let (queue, jobs) = mpsc::sync_channel::<Job>(QUEUE);
        let thread = std::thread::Builder::new()
            .name("content-flush".into())
            .spawn(move || {
                give_way();
                for job in jobs {
                    job.run();
                }
            })?;
        Ok(Arc::new(Self {
            queue: Some(queue),
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Queues a write-back. Never blocks.
    pub(super) fn flush(&self, content: &Arc<Dirty>) {
        if !self.submit(Job::Flush(Arc::downgrade(content))) {
            content.not_queued();
        }
    }

    /// Queues setting a file's modification time; lost when the queue is full. Never blocks.
    pub(crate) fn touch(&self, path: PathBuf, at: SystemTime) {
        self.submit(Job::Touch(path, at));
    }

    fn submit(&self, job: Job) -> bool {
        match self.queue.as_ref().map(|queue| queue.try_send(job)) {
            Some(Ok(())) => true,
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => false,
        }
    }
}

impl Job {
    fn run(self) {
        match self {
            Self::Flush(content) => {
                if let Some(content) = content.upgrade() {
                    content.flush_in_background();
                }
            }
            Self::Touch(path, at) => {
                // The file may be gone by now, and nothing but a rough order depends on it.
                drop(std::fs::File::open(path).and_then(|file| file.set_modified(at)));
            }
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.queue = None;
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // It only panics when a job does, and that was reported then.
            drop(thread.join());
        }
    }
}
