//! Who left lately. Pure.
//!
//! Another tracker may tell late of a peer that has stopped since. The lists of peers no longer know
//! that it was ever there, and would take it in again. Bounded: those who left first are forgotten
//! first, and may then come back for what is left of their time.

use std::collections::{HashMap, VecDeque};

use torrents::announce::AnnounceRequest;
use torrents::{InfoHash, PeerId};

use crate::moment::Moment;

/// Kept by each shard.
const CAPACITY: usize = 1 << 10;

type Key = (InfoHash, PeerId);

/// Invariant: `order` holds the keys of `left`, each once, by when they first came in.
#[derive(Debug, Default)]
pub(super) struct Departed {
    left: HashMap<Key, Moment>,
    order: VecDeque<Key>,
}

impl Departed {
    /// It said that it stops.
    pub(super) fn note(&mut self, now: Moment, request: &AnnounceRequest) {
        let key = (request.info_hash, request.peer_id);
        if let Some(when) = self.left.get_mut(&key) {
            *when = now.max(*when);
            return;
        }
        if self.order.len() >= CAPACITY
            && let Some(first) = self.order.pop_front()
        {
            self.left.remove(&first);
        }
        self.left.insert(key, now);
        self.order.push_back(key);
    }

    /// Whether it stopped after it announced this `then`.
    pub(super) fn since(&self, then: Moment, request: &AnnounceRequest) -> bool {
        let when = self.left.get(&(request.info_hash, request.peer_id));
        when.is_some_and(|when| *when > then)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn those_who_left_first_are_forgotten_first() {
        let mut departed = Departed::default();
        let at = |seconds: usize| Moment::after_start(Duration::from_secs(seconds as u64));
        let request = |n: usize| {
            let mut id = [0; 20];
            id[..8].copy_from_slice(&n.to_be_bytes());
            AnnounceRequest {
                info_hash: InfoHash([7; 20]),
                peer_id: PeerId(id),
                port: 1,
                uploaded: 0,
                downloaded: 0,
                left: None,
                event: torrents::announce::AnnounceEvent::Stopped,
                numwant: None,
                compact: true,
                no_peer_id: true,
                key: None,
                ip: None,
                tracker_id: None,
            }
        };
        for n in 0..=CAPACITY {
            departed.note(at(n + 1), &request(n));
            departed.note(at(n), &request(n));
        }
        assert!(!departed.since(at(0), &request(0)));
        assert!(departed.since(at(1), &request(1)));
        assert!(!departed.since(at(2), &request(1)), "it came back");
        assert_eq!(departed.order.len(), CAPACITY);
        assert_eq!(departed.left.len(), CAPACITY);
    }
}
