//! One machine against one hand-driven peer: what it is told and what it answers, in order.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod hand;

use std::net::SocketAddr;
use std::time::Duration;

use hand::{US, connect_at, listens, tell};
use torrents::swarm::{Action, Event, PeerKey, PeerKind, Reason, Settings, Swarm};
use torrents::wire::Message;
use torrents::{Bitfield, Block, Geometry, PeerId};

fn geometry() -> Geometry {
    Geometry::new(40_000, 32_768).unwrap()
}

fn block(piece: u32, begin: u32, len: u32) -> Block {
    geometry().block(piece, begin, len).unwrap()
}

/// A machine with two pieces: 16 KiB + 16 KiB, and a short one of 7,232 bytes.
fn machine(complete: bool) -> Swarm {
    let have = if complete {
        Bitfield::full(2)
    } else {
        Bitfield::empty(2)
    };
    Swarm::new(geometry(), have, US, Settings::default(), 1)
}

fn connect(swarm: &mut Swarm, key: u64, id: u8, fast: bool, inbound: bool) -> Vec<Action> {
    connect_at(swarm, 0, key, id, fast, inbound)
}

fn says(swarm: &mut Swarm, millis: u64, message: Message) -> Vec<Action> {
    let peer = PeerKey(1);
    tell(swarm, millis, Event::Message { peer, message })
}

fn send(message: Message) -> Action {
    let peer = PeerKey(1);
    Action::Send { peer, message }
}

#[test]
fn a_leech_from_hello_to_complete() {
    let mut swarm = machine(false);
    assert_eq!(connect(&mut swarm, 1, 1, false, false), []);
    assert_eq!(
        says(&mut swarm, 1, Message::Bitfield(Bitfield::full(2))),
        [send(Message::Interested)]
    );
    let asked = says(&mut swarm, 2, Message::Unchoke);
    let [Action::Request { blocks, .. }] = &asked[..] else {
        panic!("{asked:?}");
    };
    let mut blocks = blocks.clone();
    blocks.sort_unstable();
    let all = [
        block(0, 0, 16_384),
        block(0, 16_384, 16_384),
        block(1, 0, 7_232),
    ];
    assert_eq!(blocks, all);

    let peer = PeerKey(1);
    let first = geometry().piece(0).unwrap();
    let got = tell(
        &mut swarm,
        3,
        Event::Received {
            peer,
            blocks: &all[..2],
        },
    );
    assert_eq!(got, [Action::Verify { piece: first }]);
    let good = tell(&mut swarm, 4, Event::Verified { piece: first });
    assert_eq!(good, [send(Message::Have(first))]);
    tell(
        &mut swarm,
        5,
        Event::Received {
            peer,
            blocks: &all[2..],
        },
    );
    let last = geometry().piece(1).unwrap();
    let done = tell(&mut swarm, 6, Event::Verified { piece: last });
    let expected = [
        send(Message::NotInterested),
        send(Message::Have(last)),
        Action::Complete,
        Action::Disconnect {
            peer,
            reason: Reason::BothSeeds,
        },
    ];
    assert_eq!(done, expected);
}

#[test]
fn what_we_have_is_said_first_and_once_as_the_peer_understands_it() {
    let have_all = connect(&mut machine(true), 1, 1, true, true);
    assert_eq!(have_all[0], send(Message::HaveAll));
    let bitfield = connect(&mut machine(true), 1, 1, false, true);
    assert_eq!(bitfield[0], send(Message::Bitfield(Bitfield::full(2))));
    let none = connect(&mut machine(false), 1, 1, true, true);
    assert_eq!(none, [send(Message::HaveNone)]);
    let fast_only = |action: &Action| {
        matches!(action, Action::Send { message, .. } if matches!(
            message,
            Message::HaveAll | Message::HaveNone | Message::Reject(_) | Message::Suggest(_)
                | Message::AllowedFast(_)
        ))
    };
    assert!(!bitfield.iter().any(fast_only));
}

#[test]
fn a_request_while_choked_is_rejected_or_ignored() {
    for fast in [true, false] {
        let mut swarm = machine(false);
        connect(&mut swarm, 1, 1, fast, true);
        let asked = block(0, 0, 16_384);
        let answer = says(&mut swarm, 1, Message::Request(asked));
        let rejected = [send(Message::Reject(asked))];
        assert_eq!(answer, if fast { &rejected[..] } else { &[] });
    }
}

#[test]
fn a_choke_without_bep_6_drops_what_is_owed_and_with_it_waits_for_rejects() {
    for fast in [true, false] {
        let mut swarm = machine(false);
        connect(&mut swarm, 1, 1, fast, false);
        says(&mut swarm, 1, Message::Bitfield(Bitfield::full(2)));
        says(&mut swarm, 2, Message::Unchoke);
        assert_eq!(says(&mut swarm, 3, Message::Choke), []);
        let owed = swarm.peers().next().unwrap().requests.0;
        assert_eq!(owed, if fast { 3 } else { 0 });
        says(&mut swarm, 4, Message::Reject(block(1, 0, 7_232)));
        // The same again once it may be asked: nothing is lost, nothing asked twice.
        says(&mut swarm, 5, Message::Unchoke);
        assert_eq!(swarm.peers().next().unwrap().requests.0, 3);
    }
}

#[test]
fn requests_are_served_in_batches_and_a_cancel_takes_one_back() {
    let mut swarm = machine(true);
    connect(&mut swarm, 1, 1, true, true);
    says(&mut swarm, 1, Message::Interested);
    let (peer, blocks) = (PeerKey(1), [block(0, 0, 16_384), block(0, 16_384, 16_384)]);
    let served = tell(
        &mut swarm,
        2,
        Event::Requested {
            peer,
            blocks: &blocks,
        },
    );
    let batch = Action::Upload {
        peer,
        blocks: blocks.to_vec(),
    };
    assert_eq!(served, [batch]);
    // It is with the driver: too late to be cancelled, and the piece itself is the answer.
    assert_eq!(says(&mut swarm, 3, Message::Cancel(blocks[0])), []);
}

#[test]
fn on_simultaneous_open_what_the_greater_id_dialled_stays() {
    for (them, keeps_new) in [(9, true), (1, false)] {
        let mut swarm = machine(false);
        connect(&mut swarm, 1, them, true, false);
        let second = connect(&mut swarm, 2, them, true, true);
        let gone = PeerKey(if keeps_new { 1 } else { 2 });
        let reason = Reason::Duplicate;
        assert_eq!(second[0], Action::Disconnect { peer: gone, reason });
        assert_eq!(swarm.peers().count(), 1);
    }
}

#[test]
fn a_connection_that_seems_cut_gives_way_to_its_owner() {
    for (millis, gone) in [(59_900, 2), (60_000, 1)] {
        let mut swarm = machine(true);
        connect(&mut swarm, 1, 9, true, true);
        let second = connect_at(&mut swarm, millis, 2, 9, true, true);
        let (peer, reason) = (PeerKey(gone), Reason::Duplicate);
        assert_eq!(second[0], Action::Disconnect { peer, reason });
    }
}

/// The two sides see the second connection at different times.
#[test]
fn of_two_connections_both_sides_keep_the_same_whenever_they_came() {
    for second in [1, 100, 5_000, 50_000] {
        let mut kept = Vec::new();
        for (us, them) in [(1, 2), (2, 1)] {
            let us = PeerId([us; 20]);
            let mut swarm = Swarm::new(geometry(), Bitfield::empty(2), us, Settings::default(), 1);
            // The smaller id dials first, the greater one later.
            connect_at(&mut swarm, 0, 1, them, true, them == 1);
            let late = second + u64::from(them) * 20;
            connect_at(&mut swarm, late, 2, them, true, them == 2);
            kept.extend(swarm.peers().map(|peer| peer.peer));
        }
        assert_eq!(kept, [PeerKey(2); 2], "{second}");
    }
}

/// Anybody may say another's id, and either may come first.
#[test]
fn who_says_anothers_id_from_elsewhere_takes_nothing_from_it() {
    let comes = |swarm: &mut Swarm, millis, key, host, inbound| {
        let event = Event::Connected {
            peer: PeerKey(key),
            addr: Some(SocketAddr::from(([10, 0, 0, host], 7_000))),
            id: Some(PeerId([9; 20])),
            kind: PeerKind::Wire {
                fast: true,
                extended: true,
                inbound,
            },
        };
        let told = tell(swarm, millis, event);
        told.iter()
            .any(|action| matches!(action, Action::Disconnect { .. }))
    };
    // The seed comes or is dialled, and then somebody with its id: both stay.
    for (us, inbound) in [(1, true), (1, false), (200, true), (200, false)] {
        let us = PeerId([us; 20]);
        let have = Bitfield::empty(2);
        let mut swarm = Swarm::new(geometry(), have, us, Settings::default(), 1);
        assert!(!comes(&mut swarm, 0, 1, 9, inbound));
        assert!(!comes(&mut swarm, 50_000, 2, 66, true));
        let stay: Vec<_> = swarm.peers().map(|peer| peer.peer).collect();
        assert_eq!(stay, [PeerKey(1), PeerKey(2)], "{us:?} {inbound}");
    }
    // Who came from elsewhere before hides no twin of the same host.
    let mut swarm = machine(false);
    for (key, host) in [(1, 66), (2, 9)] {
        assert!(!comes(&mut swarm, 0, key, host, true));
    }
    assert!(comes(&mut swarm, 1, 3, 9, true), "one host has two places");
    // The other was first: the seed comes in nevertheless, and is dialled if nothing else comes.
    for (at, inbound) in [(1_000, true), (20_000, false)] {
        let mut swarm = machine(false);
        tell(&mut swarm, 0, Event::Timeout);
        assert!(!comes(&mut swarm, 1, 1, 66, true));
        assert!(!comes(&mut swarm, at, 2, 9, inbound), "{at} {inbound}");
    }
}

fn says_it_listens(swarm: &mut Swarm, millis: u64, key: u64, addr: SocketAddr) {
    let event = Event::Extended {
        peer: PeerKey(key),
        reqq: None,
        upload_only: false,
        listen: Some(addr),
    };
    assert_eq!(tell(swarm, millis, event), []);
}

#[test]
fn an_address_is_dialled_again_once_the_peer_behind_it_is_gone() {
    // Both dialled at once, and it does not say where it listens.
    let mut swarm = machine(false);
    let addrs = [listens(9)];
    let dial = tell(&mut swarm, 0, Event::Candidates { addrs: &addrs });
    assert_eq!(dial, [Action::Dial { addr: addrs[0] }]);
    connect_at(&mut swarm, 10, 1, 9, true, false);
    connect_at(&mut swarm, 20, 2, 9, true, true);
    tell(&mut swarm, 100, Event::Disconnected { peer: PeerKey(2) });
    assert_eq!(dials(&mut swarm, 200, 3_000), [(1_100, addrs[0])]);

    // It listens elsewhere than it says.
    let mut swarm = machine(true);
    let elsewhere = SocketAddr::from(([10, 9, 9, 9], 7_000));
    connect(&mut swarm, 1, 9, true, true);
    says_it_listens(&mut swarm, 1, 1, listens(9));
    let addrs = [elsewhere];
    tell(&mut swarm, 2, Event::Candidates { addrs: &addrs });
    assert_eq!(dials(&mut swarm, 100, 9_000), [(5_100, elsewhere)]);
    let twice = Event::Connected {
        peer: PeerKey(2),
        addr: Some(elsewhere),
        id: Some(PeerId([9; 20])),
        kind: PeerKind::Wire {
            fast: true,
            extended: true,
            inbound: false,
        },
    };
    let (peer, reason) = (PeerKey(2), Reason::Duplicate);
    let refused = tell(&mut swarm, 9_000, twice);
    assert_eq!(refused, [Action::Disconnect { peer, reason }]);
    // While it is here it is not dialled, however often either is named.
    for millis in [9_001, 15_000] {
        let both = [elsewhere, listens(9)];
        tell(&mut swarm, millis, Event::Candidates { addrs: &both });
        assert_eq!(dials(&mut swarm, millis, millis + 5_900), []);
    }
    tell(&mut swarm, 21_000, Event::Disconnected { peer: PeerKey(1) });
    tell(&mut swarm, 21_001, Event::Candidates { addrs: &addrs });
    assert_eq!(dials(&mut swarm, 21_100, 30_000), [(26_100, elsewhere)]);
}

#[test]
fn one_peer_that_says_it_listens_everywhere_does_not_fill_the_list() {
    let mut swarm = machine(false);
    connect(&mut swarm, 1, 9, true, true);
    for port in 1..=3_000 {
        says_it_listens(&mut swarm, 1, 1, SocketAddr::from(([10, 0, 0, 9], port)));
    }
    let addrs = [listens(7)];
    let dial = tell(&mut swarm, 2, Event::Candidates { addrs: &addrs });
    assert_eq!(dial, [Action::Dial { addr: addrs[0] }]);
}

#[test]
fn a_seed_gives_up_dials_that_are_never_answered() {
    let mut swarm = machine(true);
    let addrs: Vec<SocketAddr> = (10..19).map(listens).collect();
    tell(&mut swarm, 0, Event::Candidates { addrs: &addrs });
    // Woken only when it asks to be.
    let mut dialled = 0;
    while let Some(wake) = swarm.poll_timeout() {
        assert!(wake < Duration::from_secs(120), "it never rests");
        swarm.handle(wake, Event::Timeout);
        let actions = std::iter::from_fn(|| swarm.poll_action());
        dialled += actions
            .filter(|action| matches!(action, Action::Dial { .. }))
            .count();
    }
    assert_eq!(dialled, addrs.len());
}

/// Few keep their places open, many take turns at them.
#[test]
fn who_asks_for_nothing_gives_its_place_to_a_newcomer() {
    for (places, late) in [(4, 61_000), (100, 120_000)] {
        let mut settings = Settings::default();
        settings.max_peers = usize::from(places);
        let mut swarm = Swarm::new(geometry(), Bitfield::full(2), US, settings, 1);
        for id in 10..10 + places {
            connect(&mut swarm, id.into(), id, true, true);
            let (peer, message) = (PeerKey(id.into()), Message::Interested);
            tell(&mut swarm, 0, Event::Message { peer, message });
        }
        let mut comes = |id: u8, from, to| {
            for millis in (from..to).step_by(100) {
                tell(&mut swarm, millis, Event::Timeout);
            }
            let actions = connect_at(&mut swarm, to, id.into(), id, true, true);
            let (peer, reason) = (PeerKey(id.into()), Reason::Full);
            !actions.contains(&Action::Disconnect { peer, reason })
        };
        assert!(!comes(200, 0, 50_000), "{places}");
        assert!(comes(201, 50_000, late), "{places}");
    }
}

/// Where the machine dials between two moments.
fn dials(swarm: &mut Swarm, from: u64, to: u64) -> Vec<(u64, SocketAddr)> {
    let mut dials = Vec::new();
    for millis in (from..to).step_by(100) {
        let actions = tell(swarm, millis, Event::Timeout);
        dials.extend(actions.into_iter().filter_map(|action| match action {
            Action::Dial { addr } => Some((millis, addr)),
            _ => None,
        }));
    }
    dials
}

#[test]
fn a_seed_dials_those_who_stay_away_and_leaves_alone_those_who_come() {
    let mut swarm = machine(true);
    let addrs = [1, 2, 3].map(listens);
    let tell_of = |swarm: &mut Swarm, millis| {
        assert_eq!(tell(swarm, millis, Event::Candidates { addrs: &addrs }), []);
    };
    tell_of(&mut swarm, 0);
    // The first comes and does not say where it listens, the second comes and does.
    connect_at(&mut swarm, 1_000, 1, 1, true, true);
    connect_at(&mut swarm, 1_000, 2, 2, true, true);
    says_it_listens(&mut swarm, 1_100, 2, addrs[1]);
    assert_eq!(dials(&mut swarm, 2_000, 9_000), [(5_000, addrs[2])]);

    // Who cannot be reached is not tried again until somebody names it again.
    let failed = Event::DialFailed {
        addr: addrs[2],
        forever: false,
    };
    assert_eq!(tell(&mut swarm, 9_000, failed), []);
    assert_eq!(dials(&mut swarm, 9_000, 99_000), []);
    tell_of(&mut swarm, 100_000);
    assert_eq!(dials(&mut swarm, 100_000, 109_000), [(105_000, addrs[2])]);
}

#[test]
fn ourselves_and_the_banned_are_refused() {
    let mut swarm = machine(false);
    let reason = Reason::Banned;
    let us = connect(&mut swarm, 1, 5, true, false);
    assert_eq!(
        us,
        [Action::Disconnect {
            peer: PeerKey(1),
            reason
        }]
    );
    connect(&mut swarm, 2, 7, true, false);
    tell(&mut swarm, 1, Event::Disconnected { peer: PeerKey(2) });
    // The proof comes after it has gone.
    tell(&mut swarm, 2, Event::Liar { peer: PeerKey(2) });
    let addrs = [([10, 0, 0, 7], 6881).into()];
    assert_eq!(tell(&mut swarm, 3, Event::Candidates { addrs: &addrs }), []);
    swarm.handle(Duration::from_secs(9), Event::Timeout);
    let dials = std::iter::from_fn(|| swarm.poll_action());
    assert!(
        !dials
            .into_iter()
            .any(|action| matches!(action, Action::Dial { .. }))
    );
}

#[test]
fn a_piece_from_one_peer_that_is_wrong_bans_it() {
    let mut swarm = machine(false);
    connect(&mut swarm, 1, 1, true, false);
    says(&mut swarm, 1, Message::HaveAll);
    says(&mut swarm, 2, Message::Unchoke);
    let (peer, piece) = (PeerKey(1), geometry().piece(1).unwrap());
    let blocks = [block(1, 0, 7_232)];
    tell(
        &mut swarm,
        3,
        Event::Received {
            peer,
            blocks: &blocks,
        },
    );
    let wrong = tell(&mut swarm, 4, Event::Corrupt { piece });
    let reason = Reason::Corrupt;
    assert_eq!(wrong, [Action::Disconnect { peer, reason }]);
}

#[test]
fn a_ban_ends_because_a_bad_copy_may_be_repaired() {
    let mut swarm = machine(false);
    let addrs = [([10, 0, 0, 7], 6881).into()];
    let dial = Action::Dial { addr: addrs[0] };
    assert_eq!(
        tell(&mut swarm, 0, Event::Candidates { addrs: &addrs })[..],
        *std::slice::from_ref(&dial)
    );
    connect_at(&mut swarm, 1, 1, 7, true, false);
    tell(&mut swarm, 2, Event::Liar { peer: PeerKey(1) });
    assert_eq!(tell(&mut swarm, 3, Event::Candidates { addrs: &addrs }), []);
    let is_dial = |action: &Action| matches!(action, Action::Dial { .. });
    for second in 1..10 {
        let told = tell(&mut swarm, second * 1_000, Event::Timeout);
        assert!(!told.iter().any(is_dial), "dialled after {second} s");
    }
    assert!(tell(&mut swarm, 10_100, Event::Timeout).contains(&dial));
    let again = connect_at(&mut swarm, 10_200, 2, 7, true, false);
    assert!(
        !again
            .iter()
            .any(|action| matches!(action, Action::Disconnect { .. }))
    );
}

/// Somebody who wants something comes from a host; tells who had to go, or could not stay.
fn come(swarm: &mut Swarm, millis: u64, key: u64, host: u8) -> Option<(PeerKey, Reason)> {
    let mut id = [host; 20];
    id[..8].copy_from_slice(&key.to_be_bytes());
    let port = 1_024 + u16::try_from(key).unwrap();
    let event = Event::Connected {
        peer: PeerKey(key),
        addr: Some(SocketAddr::from(([10, 0, 0, host], port))),
        id: Some(PeerId(id)),
        kind: PeerKind::Wire {
            fast: true,
            extended: false,
            inbound: true,
        },
    };
    let told = tell(swarm, millis, event);
    let gone = told.into_iter().find_map(|action| match action {
        Action::Disconnect { peer, reason } => Some((peer, reason)),
        _ => None,
    });
    let (peer, message) = (PeerKey(key), Message::Interested);
    tell(swarm, millis, Event::Message { peer, message });
    gone
}

/// Each of the first hundred asks for a block and gets it, if it is served.
fn each_asks_for_a_block(swarm: &mut Swarm, at: u64) {
    for key in 0..100 {
        let message = Message::Request(block(0, 0, 16_384));
        let peer = PeerKey(key);
        for action in tell(swarm, at, Event::Message { peer, message }) {
            if let Action::Upload { peer, blocks } = action {
                let (blocks, bytes) = (blocks.len().try_into().unwrap(), 16_384);
                let event = Event::Uploaded {
                    peer,
                    blocks,
                    bytes,
                };
                tell(swarm, at, event);
            }
        }
    }
}

/// All places are one address's, and all of them ask for a little now and then.
#[test]
fn one_address_does_not_keep_the_others_out() {
    let mut swarm = machine(true);
    for key in 0..100 {
        assert_eq!(come(&mut swarm, key, key, 1), None);
    }
    for at in (10_000..60_000).step_by(10_000) {
        each_asks_for_a_block(&mut swarm, at);
    }
    // One more of them finds no place, the others do, as many as there are of it.
    assert_eq!(
        come(&mut swarm, 60_000, 100, 1),
        Some((PeerKey(100), Reason::Full))
    );
    for (n, key) in (101..151).enumerate() {
        let gone = come(&mut swarm, 60_001 + n as u64, key, 2);
        assert!(
            matches!(gone, Some((PeerKey(0..100), Reason::Useless))),
            "{n}: {gone:?}"
        );
    }
    assert_eq!(
        come(&mut swarm, 60_100, 151, 2),
        Some((PeerKey(151), Reason::Full))
    );
    // A block now and then is not what a place is for.
    for at in (70_000..250_000).step_by(20_000) {
        each_asks_for_a_block(&mut swarm, at);
    }
    let gone = come(&mut swarm, 250_000, 152, 1);
    assert!(
        matches!(gone, Some((PeerKey(..152), Reason::Useless))),
        "{gone:?}"
    );
}

#[test]
fn a_piece_that_cannot_be_read_is_refused_and_the_others_are_served() {
    let mut swarm = machine(true);
    connect(&mut swarm, 1, 1, true, true);
    says(&mut swarm, 1, Message::Interested);
    let (bad, good) = (block(0, 0, 16_384), block(1, 0, 7_232));
    let piece = bad.piece;
    tell(&mut swarm, 2, Event::Unreadable { piece });
    let refused = says(&mut swarm, 3, Message::Request(bad));
    let reject = Action::Send {
        peer: PeerKey(1),
        message: Message::Reject(bad),
    };
    assert_eq!(refused, [reject]);
    let served = says(&mut swarm, 4, Message::Request(good));
    assert!(matches!(&served[..], [Action::Upload { .. }]), "{served:?}");
}

/// Who asks again and again, and takes nothing, keeps neither a slot nor, for long, a place.
#[test]
fn asking_without_taking_is_no_use_of_a_slot() {
    let mut swarm = machine(true);
    let slots = Settings::default().upload_slots as u64;
    let all = Settings::default().max_peers as u64;
    for key in 0..all {
        assert_eq!(come(&mut swarm, key, key, 1), None);
    }
    let last = PeerKey(all - 1);
    let is_turn = |action: &Action| matches!(action, Action::Send { peer, message: Message::Unchoke } if *peer == last);
    let ask = |swarm: &mut Swarm, at| {
        let mut told = Vec::new();
        for key in 0..all - 1 {
            let (peer, message) = (PeerKey(key), Message::Request(block(0, 0, 16_384)));
            told.extend(tell(swarm, at, Event::Message { peer, message }));
        }
        told.extend(tell(swarm, at, Event::Timeout));
        told.iter().any(is_turn)
    };
    let mut steps = (200..80_000).step_by(4_000);
    let served = steps.any(|at| ask(&mut swarm, at));
    assert!(all > slots && served, "the last never had a turn");
    for at in (80_000..200_000).step_by(4_000) {
        ask(&mut swarm, at);
    }
    let gone = come(&mut swarm, 200_000, all, 1);
    assert!(
        matches!(gone, Some((_, Reason::Useless))),
        "nobody made place: {gone:?}"
    );
}

#[test]
fn endless_bitfields_and_a_flood_of_unasked_blocks_end_the_connection() {
    let mut swarm = machine(false);
    connect(&mut swarm, 1, 1, false, false);
    let (peer, reason) = (PeerKey(1), Reason::Protocol);
    let end = (0..10_000).find(|&tick| {
        let told = says(&mut swarm, tick, Message::Bitfield(Bitfield::full(2)));
        told.contains(&Action::Disconnect { peer, reason })
    });
    // One client sends its bitfield again instead of many HAVEs: a few are taken.
    assert!(end.is_some_and(|tick| tick > 1), "{end:?}");

    let mut swarm = machine(false);
    connect(&mut swarm, 1, 1, false, false);
    let blocks = [block(0, 0, 16_384); 65];
    let flood = tell(
        &mut swarm,
        1,
        Event::Received {
            peer,
            blocks: &blocks,
        },
    );
    assert!(flood.contains(&Action::Disconnect { peer, reason }));
    let freed = |action: &Action| match action {
        Action::Discard { blocks, .. } => blocks.len(),
        _ => 0,
    };
    assert_eq!(flood.iter().map(freed).sum::<usize>(), 65);
}

#[test]
fn a_seed_without_peers_sleeps_for_ever() {
    let mut swarm = machine(true);
    tell(&mut swarm, 0, Event::Timeout);
    assert_eq!(swarm.poll_timeout(), None);
}

/// Some clients serve what waits for them every half second, and no sooner for a peer that asks
/// for little.
#[test]
fn a_seed_that_serves_in_turns_is_asked_for_more_until_its_turns_are_full() {
    let geometry = Geometry::new(256 << 20, 1 << 20).unwrap();
    let have = Bitfield::empty(256);
    let mut swarm = Swarm::new(geometry, have, US, Settings::default(), 1);
    connect(&mut swarm, 1, 1, true, false);
    says(&mut swarm, 1, Message::HaveAll);
    let mut actions = says(&mut swarm, 2, Message::Unchoke);
    let (mut turns, mut millis) = (Vec::new(), 2);
    while turns.len() < 24 {
        millis += 500;
        let mut due = Vec::new();
        for action in std::mem::take(&mut actions) {
            match action {
                Action::Request { blocks, .. } => due.extend(blocks),
                Action::Verify { piece } => {
                    actions.extend(tell(&mut swarm, millis, Event::Verified { piece }));
                }
                _ => {}
            }
        }
        turns.push(due.len());
        // It comes in a stretch, a few blocks at a time.
        for blocks in due.chunks(8) {
            millis += 1;
            let peer = PeerKey(1);
            actions.extend(tell(&mut swarm, millis, Event::Received { peer, blocks }));
        }
    }
    let most = turns.iter().max().unwrap();
    assert!(*most >= 200, "{turns:?}");
}
