//! A machine driven by hand, one event after the other; its invariants are checked after each.

use std::net::SocketAddr;
use std::time::Duration;

use torrents::PeerId;
use torrents::swarm::{Action, Event, PeerKey, PeerKind, Swarm};

/// The machine's own id; those of its peers are repeated bytes too.
pub(crate) const US: PeerId = PeerId([5; 20]);

/// Where the peer of that id listens.
pub(crate) fn listens(id: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, id], 6_881))
}

/// Tells the machine, and takes what it wants done.
pub(crate) fn tell(swarm: &mut Swarm, millis: u64, event: Event<'_>) -> Vec<Action> {
    swarm.handle(Duration::from_millis(millis), event);
    swarm.check_invariants();
    std::iter::from_fn(|| swarm.poll_action()).collect()
}

/// A connection between the machine and the peer of that id.
pub(crate) fn connect_at(
    swarm: &mut Swarm,
    millis: u64,
    key: u64,
    id: u8,
    fast: bool,
    inbound: bool,
) -> Vec<Action> {
    let kind = PeerKind::Wire {
        fast,
        extended: false,
        inbound,
    };
    let event = Event::Connected {
        peer: PeerKey(key),
        addr: Some(listens(id)),
        id: Some(PeerId([id; 20])),
        kind,
    };
    tell(swarm, millis, event)
}
