//! How many connections the process can hold: each is a descriptor, and so is everything else.
//!
//! Past the limit every accept fails, also for those who only want to know whether the tracker is
//! well; a bound on connections below it turns one away and serves the rest.

use rustix::process::{Resource, getrlimit};

use crate::config::Limits;

/// Left to listeners, files, Redis, and whatever else shares the process: a quarter, and at least
/// so many.
const OTHERS: u64 = 64;

/// Lowers the bound on connections to what the system lets this process open.
pub(crate) fn fit(limits: &mut Limits) {
    let descriptors = getrlimit(Resource::Nofile).current;
    let room = descriptors.map_or(usize::MAX, room);
    if room < limits.connections {
        tracing::warn!(
            connections = room,
            wanted = limits.connections,
            "fewer connections than configured: the system lets this process open {} files\nhint: raise it (ulimit -n, LimitNOFILE=)",
            descriptors.unwrap_or_default()
        );
        limits.connections = room;
    }
}

fn room(descriptors: u64) -> usize {
    let others = OTHERS.max(descriptors / 4);
    let room = descriptors.saturating_sub(others).max(1);
    usize::try_from(room).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_have_room_too() {
        let rooms = [0, 64, 100, 256, 1_024, 1 << 20].map(room);
        assert_eq!(rooms, [1, 1, 36, 192, 768, 3 << 18]);
    }

    #[test]
    fn the_bound_fits_the_process_and_is_never_raised() {
        let mut limits = Limits {
            connections: usize::MAX,
            ..Limits::default()
        };
        fit(&mut limits);
        let descriptors = getrlimit(Resource::Nofile).current;
        let most = descriptors.map_or(usize::MAX, |n| usize::try_from(n).unwrap());
        assert!(limits.connections <= most);
        limits.connections = 1;
        fit(&mut limits);
        assert_eq!(limits.connections, 1);
    }
}
