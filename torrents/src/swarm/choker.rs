//! Who is served now.
//!
//! In a trusted swarm choking is not barter but order: a few peers at a time get whole pieces
//! fast and can pass them on, instead of all getting crumbs. Slots are counted by peers that
//! *use* them; turns end by bytes served, not by the clock; who waited longest goes first, and a
//! lead of some pieces waits as long as they took; when places are free, peers are unchoked
//! before they ask.
//!
//! Whoever has little serves few: a crowd that starts together grows by doubling, and what many
//! get at once is with each of them later than what few get one after the other. Whoever has
//! much serves many, so that no line runs empty.
//!
//! Pure: views in, changes out. Invariant: a decision unchokes nobody beyond the [`Room`].

use super::{Now, Slot};

/// Unchoked peers for each slot: idle ones cost nothing but may come back all at once.
const SPARE: usize = 4;
/// The slots are all open from two fifths of the pieces on; at first only half of them are.
const FULL_FROM: (usize, usize) = (2, 5);

/// How many may be unchoked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Active ones.
    slots: usize,
    /// Active and idle ones.
    open: usize,
}

impl Room {
    /// The room of one who has so many of all pieces.
    pub(super) fn new(slots: usize, have: u32, total: u32) -> Self {
        // In units of the part from which on all are open.
        let total = (total as usize).max(1);
        let (part, of) = FULL_FROM;
        let have = ((have as usize).saturating_mul(of) / part).min(total);
        let first = slots.div_ceil(2);
        let grown = |full: usize| first + (full - first) * have / total;
        Self {
            slots: grown(slots),
            open: grown(slots * SPARE),
        }
    }
}

/// What the choker sees of a peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) slot: Slot,
    pub(super) interested: bool,
    pub(super) choked: bool,
    /// It has requests with us, or had until a moment ago.
    pub(super) active: bool,
    /// We have a piece that it lacks.
    pub(super) useful: bool,
    /// It has had its turn.
    pub(super) sated: bool,
    /// Pieces it has.
    pub(super) pieces: u32,
    /// When its last turn began or ended, or when it came.
    pub(super) turned: Now,
}

/// Choke or unchoke a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Choke(Slot),
    Unchoke(Slot),
}

/// Decides who is choked and unchoked now. `lead` is what having one piece more counts for: if
/// only the time counted, the best connected would be done while others starve; if pieces went
/// before time, everybody would run to the same few newcomers, whose lines are full then while
/// others wait.
pub(super) fn decide(room: Room, lead: Now, views: &[View], changes: &mut Vec<Change>) {
    let mut waiting: Vec<&View> = views
        .iter()
        .filter(|view| view.choked && view.interested && view.useful)
        .collect();
    let held_back = |view: &View| view.turned.saturating_add(lead.saturating_mul(view.pieces));
    waiting.sort_by_cached_key(|view| (held_back(view), view.slot));
    let mut waiting = waiting.into_iter();

    let open = || views.iter().filter(|view| !view.choked);
    let mut busy = open().filter(|view| view.active).count();
    let mut total = open().count();

    // Free places first; idle unchoked peers make room when there are too many of them.
    let mut idle: Vec<&View> = open().filter(|view| !view.active).collect();
    idle.sort_unstable_by_key(|view| (view.interested, view.turned, view.slot));
    let mut idle = idle.into_iter();
    while busy < room.slots && waiting.len() > 0 {
        if total >= room.open {
            let Some(out) = idle.next() else {
                break;
            };
            changes.push(Change::Choke(out.slot));
            total -= 1;
        }
        if let Some(next) = waiting.next() {
            changes.push(Change::Unchoke(next.slot));
            busy += 1;
            total += 1;
        }
    }

    // Those who had their turn make place for those who wait.
    let mut sated: Vec<&View> = open().filter(|view| view.active && view.sated).collect();
    sated.sort_unstable_by_key(|view| (view.turned, view.slot));
    for out in sated {
        if waiting.len() == 0 {
            break;
        }
        changes.push(Change::Choke(out.slot));
        busy -= 1;
        if busy < room.slots
            && let Some(next) = waiting.next()
        {
            changes.push(Change::Unchoke(next.slot));
            busy += 1;
        }
    }

    // A peer that may ask at once saves a round trip.
    let mut early: Vec<&View> = views
        .iter()
        .filter(|view| view.choked && !view.interested && view.useful)
        .collect();
    early.sort_unstable_by_key(|view| (view.pieces > 0, view.turned, view.slot));
    let spare = room.slots.saturating_sub(total.max(busy));
    for next in early.into_iter().take(spare) {
        changes.push(Change::Unchoke(next.slot));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_view() -> impl Strategy<Value = View> {
        (any::<[bool; 5]>(), 0..3u32, 0..5u64).prop_map(|(flags, pieces, turned)| View {
            interested: flags[0],
            choked: flags[1],
            active: flags[2] && !flags[1],
            useful: flags[3],
            sated: flags[4],
            pieces,
            turned: Now::from_secs(turned),
            ..view(0)
        })
    }

    proptest! {
        #[test]
        fn decisions_keep_the_bounds(
            (slots, have, lead) in (1..9usize, 0..=100u32, 0..2_000u64),
            mut views in prop::collection::vec(any_view(), 0..40),
        ) {
            for (slot, view) in (0..).zip(&mut views) {
                view.slot = Slot(slot);
            }
            let before: Vec<bool> = views.iter().map(|view| !view.choked).collect();
            let mut open = before.clone();
            let room = Room::new(slots, have, 100);
            let mut changes = Vec::new();
            decide(room, Now::from_millis(lead), &views, &mut changes);
            for change in changes {
                let (slot, to) = match change {
                    Change::Choke(slot) => (slot, false),
                    Change::Unchoke(slot) => (slot, true),
                };
                let view = &views[slot.0 as usize];
                // A change changes something, and nobody is turned twice.
                prop_assert_ne!(open[slot.0 as usize], to);
                prop_assert_eq!(before[slot.0 as usize], open[slot.0 as usize]);
                prop_assert!(!to || view.useful);
                open[slot.0 as usize] = to;
            }
            let all = || views.iter().zip(&open).zip(&before);
            let fresh = all().filter(|((_, open), before)| **open && !**before).count();
            let busy = all().filter(|((view, open), _)| **open && view.active).count();
            prop_assert!(fresh == 0 || fresh + busy <= room.slots);
            // Nobody waits while a place is free and room for one more.
            let waits = all().any(|((view, open), _)| !open && view.choked
                && view.interested && view.useful);
            let total = open.iter().filter(|&&open| open).count();
            prop_assert!(!waits || fresh + busy >= room.slots || total >= room.open);
        }

        #[test]
        fn room_grows_from_half_to_all_slots(slots in 1..100usize, total in 1..3_000u32) {
            let first = Room::new(slots, 0, total);
            prop_assert_eq!((first.slots, first.open), (slots.div_ceil(2), slots.div_ceil(2)));
            let mut before = first;
            for have in 0..=total {
                let room = Room::new(slots, have, total);
                prop_assert!(room.slots >= before.slots && room.open >= before.open);
                prop_assert!(room.open >= room.slots);
                before = room;
            }
            prop_assert_eq!((before.slots, before.open), (slots, slots * SPARE));
        }
    }

    fn view(slot: u32) -> View {
        View {
            slot: Slot(slot),
            interested: true,
            choked: true,
            active: false,
            useful: true,
            sated: false,
            pieces: slot,
            turned: Now::ZERO,
        }
    }

    fn full(slots: usize) -> Room {
        Room::new(slots, 1, 1)
    }

    fn decided(room: Room, views: &[View]) -> Vec<Change> {
        let mut changes = Vec::new();
        decide(room, Now::from_secs(1), views, &mut changes);
        changes
    }

    #[test]
    fn newcomers_get_the_free_places() {
        let views = [view(9), view(3), view(5)];
        let changes = decided(full(2), &views);
        assert_eq!(
            changes,
            [Change::Unchoke(Slot(3)), Change::Unchoke(Slot(5))]
        );
    }

    #[test]
    fn a_lead_is_made_up_for_by_waiting() {
        let waits = |slot, pieces, since| View {
            slot: Slot(slot),
            pieces,
            turned: Now::from_secs(since),
            ..view(0)
        };
        let order = |views: &[View]| decided(full(1), views)[0];
        // Four pieces ahead and five seconds longer there, then three seconds.
        let (ahead, behind) = (waits(1, 6, 0), waits(2, 2, 5));
        assert_eq!(order(&[ahead, behind]), Change::Unchoke(Slot(1)));
        let behind = waits(2, 2, 3);
        assert_eq!(order(&[ahead, behind]), Change::Unchoke(Slot(2)));
    }

    #[test]
    fn a_turn_ends_only_when_somebody_waits() {
        let served = View {
            choked: false,
            active: true,
            sated: true,
            ..view(1)
        };
        assert_eq!(decided(full(1), &[served]), []);
        let changes = decided(full(1), &[served, view(2)]);
        assert_eq!(changes, [Change::Choke(Slot(1)), Change::Unchoke(Slot(2))]);
    }

    #[test]
    fn spare_places_go_to_those_who_did_not_ask_yet() {
        let shy = View {
            interested: false,
            ..view(1)
        };
        let useless = View {
            useful: false,
            ..view(2)
        };
        assert_eq!(
            decided(full(2), &[shy, useless]),
            [Change::Unchoke(Slot(1))]
        );
    }

    #[test]
    fn an_idle_peer_does_not_hold_a_slot() {
        let idle = View {
            choked: false,
            ..view(1)
        };
        assert_eq!(
            decided(full(1), &[idle, view(2)]),
            [Change::Unchoke(Slot(2))]
        );
    }
}
