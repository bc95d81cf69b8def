//! Threads of an engine's own, for processes that answer others beside it.
//!
//! Whatever moves many bytes (sockets of peers, hashing, the disk) gives way to whatever answers
//! (registry, APIs), so that a pull begins at once on a busy host, and to the work that images
//! are pulled for. Nothing here may be waited for with a thread.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// Added to the niceness of the process.
const NICER: i32 = 10;

/// A runtime whose threads, and those they start, are nicer than the process.
#[derive(Debug)]
pub(super) struct Threads(Option<Runtime>);

impl Threads {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .thread_name("payload")
            .enable_all()
            .on_thread_start(give_way)
            .build()?;
        Ok(Self(Some(runtime)))
    }

    pub(super) fn handle(&self) -> Handle {
        let runtime = self.0.as_ref().expect("taken by drop alone");
        runtime.handle().clone()
    }
}

fn give_way() {
    if let Err(error) = rustix::process::nice(NICER) {
        tracing::debug!(%error, "payload does not give way to other work");
    }
}

impl Drop for Threads {
    /// The last clone of an engine may go anywhere, also on one of these threads.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
