//! What time brings: rotten requests, silent peers, keep-alives, stalls.

use super::session::Peer;
use super::{Action, Now, Reason, Slot, Swarm};
use crate::geometry::PieceIndex;
use crate::wire::Message;

/// Between sweeps while something is going on, and while nothing is.
const BUSY: Now = Now::from_millis(100);
const IDLE: Now = Now::from_secs(5);
/// A line is kept alive after so long a silence; clients give up at 120 s.
const KEEP_ALIVE: Now = Now::from_secs(50);
/// A piece that nobody has delivered for so long may be given up when the budget is spent: the
/// first when nobody owes us anything, so that nothing else can free the budget.
const STUCK: Now = Now::from_secs(1);
const ABANDONED: Now = Now::from_secs(10);
/// Between two calls for more peers, when hardly any are known and when those known give nothing.
const PLEA: Now = Now::from_secs(1);
const HUNGRY_PLEA: Now = Now::from_secs(10);

/// What the machine remembers of time.
#[derive(Debug, Default)]
pub(super) struct Clock {
    pub(super) now: Now,
    /// There was an event: the driver's clock need not begin with the swarm.
    pub(super) started: bool,
    /// When the driver is to wake us.
    pub(super) wake: Option<Now>,
    next_sweep: Option<Now>,
    pleaded: Option<Now>,
}

impl Swarm {
    pub(super) fn sweep(&mut self, now: Now) {
        if self.clock.next_sweep.is_some_and(|due| due > now) {
            return;
        }
        self.clock.next_sweep = None;
        let again = self.picker.is_some();
        self.candidates.expire(again, now, &mut self.rng);
        self.warm_up(now);
        self.best_pace = 0;
        // A complete torrent downloads no more, but goes by what its line could.
        if self.picker.is_some() {
            self.line.age();
        }
        self.queueing = self.measure_queueing(now);
        for slot in (0..self.peers.end()).map(Slot) {
            self.visit(slot, now);
        }
        self.watch_stall(now);
        self.rotate(now);
        self.free_budget(now);
        self.plead(now);
        self.uploads.stale = true;
        self.stirred = true;
    }

    /// How long the answers to all our requests take at the rate at which all come.
    fn measure_queueing(&self, now: Now) -> Now {
        let sum =
            |of: fn(&Peer, Now) -> u64| self.peers.iter().map(|(_, peer)| of(peer, now)).sum();
        let owed: u64 = sum(|peer, _| peer.asked.bytes());
        let rate: u64 = sum(|peer, now| peer.down.per_second(now));
        let micros = u128::from(owed) * 1_000_000 / u128::from(rate.max(1));
        if rate == 0 {
            return Now::ZERO;
        }
        Now::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn visit(&mut self, slot: Slot, now: Now) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        peer.dry = None;
        self.best_pace = self.best_pace.max(peer.pace.unwrap_or(0));
        if let Some(oldest) = peer.asked.oldest() {
            let waited = now.saturating_sub(oldest.max(peer.delivered));
            if waited > peer.patience(self.queueing, &self.settings) {
                peer.snub(self.progress <= oldest);
                self.take_back(slot);
                self.abandon(slot);
            }
        }
        let Some(peer) = self.peers.get(slot).filter(|peer| !peer.is_web()) else {
            return;
        };
        if now.saturating_sub(peer.heard) >= self.settings.idle_timeout {
            self.drop_peer(slot, Reason::Silent, now);
        } else if now.saturating_sub(peer.spoke) >= KEEP_ALIVE {
            self.send(slot, Message::KeepAlive);
        }
    }

    /// Turns to the web seed when the swarm gives too little to live on, and back when it does.
    fn watch_stall(&mut self, now: Now) {
        if self.settings.eager_web_seed {
            return;
        }
        let silent = self.hunger.lasts(now);
        let barren = || {
            let mut wire = self.peers.iter().filter(|(_, peer)| !peer.is_web());
            !wire.any(|(_, peer)| peer.wanted > 0)
        };
        self.web = silent > self.settings.stall || (silent > self.settings.stall / 2 && barren());
    }

    /// When half-done pieces that nobody delivers hold the whole budget, one makes place; and so
    /// does what cannot be finished as it is.
    fn free_budget(&mut self, now: Now) {
        let stuck = self.peers.iter().all(|(_, peer)| peer.asked.is_empty());
        // Suspects take no part in what others left half done.
        let alone = |peer: &Peer| peer.suspect && !peer.chokes_us && peer.wanted > 0;
        let lone = self.peers.iter().any(|(_, peer)| alone(peer));
        let Some(picker) = &mut self.picker else {
            return;
        };
        let mut dropped = Vec::new();
        picker.give_up_crowded(|from, block| dropped.push((from, block)));
        let refused = picker.was_refused();
        if refused || (stuck && lone) {
            let patience = if refused && stuck { STUCK } else { ABANDONED };
            let before = now.saturating_sub(patience);
            picker.give_up_one(before, |from, block| dropped.push((from, block)));
        }
        self.discard(dropped);
    }

    fn plead(&mut self, now: Now) {
        let pace = match self.lacks_peers() {
            true => PLEA,
            false if self.is_starving(now) => HUNGRY_PLEA,
            false => return,
        };
        if self.clock.pleaded.is_none_or(|last| now >= last + pace) {
            self.clock.pleaded = Some(now);
            self.actions.push_back(Action::NeedPeers);
        }
    }

    fn warm_up(&mut self, now: Now) {
        let Some(picker) = &mut self.picker else {
            return;
        };
        self.cooling.retain(|&(until, piece): &(Now, PieceIndex)| {
            if until <= now {
                picker.unshelve(piece);
            }
            until > now
        });
    }

    /// Works out when to wake next. A seed that knows nobody sleeps for ever.
    pub(super) fn reschedule(&mut self, now: Now) {
        let busy = self.picker.is_some() || self.uploads.waiting;
        let period = if busy { BUSY } else { IDLE };
        self.clock.next_sweep = match self.clock.next_sweep {
            Some(due) => Some(due.min(now + period)),
            None if busy || !self.peers.is_empty() || self.candidates.dialling() > 0 => {
                Some(now + period)
            }
            None => None,
        };
        let others = [self.dial_at(now), self.rechoke_at()];
        let earliest = others.into_iter().flatten().min();
        self.clock.wake = match (self.clock.next_sweep, earliest) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}
