//! Open files: every connection and every layer in use is one. The usual soft limit of 1,024 is
//! for programs that call `select`, which this one never does.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Allows this process as many as the system lets it have.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
