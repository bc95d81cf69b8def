//! Gives memory back once nothing is downloaded any more.
//!
//! An agent shares its host with those it serves: what fifty layers needed for a moment must not
//! stay with a process that has nothing to do. What is freed goes to the allocator, and glibc's
//! keeps it for the next time unless it is asked.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::error::RecvError;

use crate::engine::Core;

/// Quiet for so long, the next download is not expected at once.
const QUIET: Duration = Duration::from_secs(5);

/// Runs as long as the engine.
pub(crate) async fn keep_lean(core: Arc<Core>) {
    let mut downloads = core.downloads();
    let watched = async {
        loop {
            downloads.wait_for(|&count| count > 0).await?;
            downloads.wait_for(|&count| count == 0).await?;
            let next = downloads.wait_for(|&count| count > 0);
            if tokio::time::timeout(QUIET, next).await.is_ok() {
                continue;
            }
            core.release_memory();
            // It walks the whole heap. A panic there is told by its own hook.
            let _ = tokio::task::spawn_blocking(give_back).await;
        }
    };
    // It ends with the engine: the sender lives in the core that is held here.
    let _: Option<Result<(), RecvError>> = core.stop.run_until_cancelled(watched).await;
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
