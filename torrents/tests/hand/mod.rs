//! A machine driven by hand, one event after the other; its invariants are checked after each.

#![allow(dead_code, reason = "each test uses what it needs")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use torrents::swarm::{Action, Event, PeerKey, PeerKind, Swarm};
use torrents::wire::Message;
use torrents::{Block, PeerId};

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

/// The one that serves whatever it is asked for.
const HONEST: PeerKey = PeerKey(1_000_000);

/// An honest peer that has everything and sends a few blocks at a time.
#[derive(Default)]
pub(crate) struct Honest {
    owes: VecDeque<Block>,
    pub(crate) gone: bool,
}

impl Honest {
    pub(crate) fn meet(swarm: &mut Swarm, millis: u64) -> (Self, Vec<Action>) {
        let (peer, id) = (HONEST, 99);
        let mut actions = connect_at(swarm, millis, peer.0, id, true, true);
        for message in [Message::HaveAll, Message::Unchoke] {
            actions.extend(tell(swarm, millis, Event::Message { peer, message }));
        }
        (Self::default(), actions)
    }

    /// Hears what is meant for it.
    pub(crate) fn hear(&mut self, action: &Action) {
        match action {
            Action::Request { peer, blocks } if *peer == HONEST => self.owes.extend(blocks),
            Action::Cancel { peer, blocks } if *peer == HONEST => {
                self.owes.retain(|owed| !blocks.contains(owed));
            }
            Action::Disconnect { peer, .. } => self.gone |= *peer == HONEST,
            _ => {}
        }
    }

    pub(crate) fn serve(&mut self, swarm: &mut Swarm, millis: u64) -> Vec<Action> {
        let few = self.owes.len().min(4);
        let blocks: Vec<Block> = self.owes.drain(..few).collect();
        let peer = HONEST;
        tell(
            swarm,
            millis,
            Event::Received {
                peer,
                blocks: &blocks,
            },
        )
    }
}
