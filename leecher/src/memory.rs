//! Gives memory back once nothing is downloaded any more, and again when idle torrents closed.
//!
//! An agent shares its host with those it serves: what fifty layers needed for a moment must not
//! stay with a process that has nothing to do. What is freed goes to the allocator, and glibc's
//! keeps it for the next time unless it is asked.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::Core;

/// Memory is given back once nothing was freed for so long and nothing is being downloaded.
const QUIET: Duration = Duration::from_secs(5);

/// Runs as long as the engine.
pub(crate) async fn keep_lean(core: Arc<Core>) {
    let watched = async {
        loop {
            core.freed.notified().await;
            let more = || tokio::time::timeout(QUIET, core.freed.notified());
            while more().await.is_ok() {}
            // The end of a download that goes on is heard of too.
            if core.release_memory() {
                // It walks the whole heap. A panic there is told by its own hook.
                let _ = tokio::task::spawn_blocking(give_back).await;
            }
        }
    };
    let _: Option<Infallible> = core.stop.run_until_cancelled(watched).await;
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "the call has no safe form")]
fn give_back() {
    // SAFETY: it takes a number and touches only what is free; glibc locks each arena itself.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators do as they see fit.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}
