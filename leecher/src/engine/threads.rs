//! Threads of an engine's own, for processes that answer others beside it.
//!
//! They give way to the process's other threads. Nothing here may be waited for with a thread.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::niceness::give_way;

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

impl Drop for Threads {
    /// The last clone of an engine may go anywhere, also on one of these threads.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
