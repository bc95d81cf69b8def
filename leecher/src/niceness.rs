//! Threads that give way to everything else in the process and on the host.
//!
//! Whatever moves many bytes (sockets of peers, hashing, the disk) gives way to whatever answers
//! requests, so that a reader has its first bytes at once on a busy host, and to the work that
//! the content is wanted for.

use rustix::process::{getpid, getpriority_process, setpriority_process};

/// Added to the niceness of the process. At 10, payload has a tenth of a core that somebody else
/// takes all of; at 19 a seventieth, by which a pull on a busy host takes five times as long.
const NICER: i32 = 10;
/// The kernel knows no nicer thread.
const NICEST: i32 = 19;

/// For the thread that calls, and those that it starts; once or more often is the same.
pub(crate) fn give_way() {
    // The process's own niceness is that of its first thread, which never gives way.
    let given = getpriority_process(Some(getpid()))
        .and_then(|own| setpriority_process(None, (own + NICER).min(NICEST)));
    if let Err(error) = given {
        tracing::debug!(%error, "payload does not give way to other work");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_threads_that_give_way_are_no_nicer() {
        let own = getpriority_process(Some(getpid())).unwrap();
        let started = std::thread::spawn(|| {
            give_way();
            std::thread::spawn(|| {
                give_way();
                getpriority_process(None).unwrap()
            })
            .join()
            .unwrap()
        });
        assert_eq!(started.join().unwrap(), (own + NICER).min(NICEST));
        assert_eq!(getpriority_process(Some(getpid())).unwrap(), own);
    }
}
