//! Leases, confirmation and retention, with time by hand.

use proptest::prelude::*;

use super::*;

const LEASE: u64 = 300;
const RETENTION: u64 = 3_600;

fn at(seconds: u64) -> Moment {
    Moment::after_start(Duration::from_secs(seconds))
}

fn fresh() -> Registrations {
    Registrations::new(Bounds {
        lease: Duration::from_secs(LEASE),
        retention: Duration::from_secs(RETENTION),
        entries: 1_000,
        origins: 8,
    })
}

fn hash(n: u8) -> InfoHash {
    InfoHash([n; 20])
}

fn entry(n: u8, label: &str) -> Registration {
    Registration {
        info_hash: hash(n),
        label: label.to_owned(),
        length: 10,
        names: Vec::new(),
    }
}

fn batch(origin: u8, add: &[u8], remove: &[u8]) -> RegisterRequest {
    RegisterRequest {
        origin: PeerId([origin; 20]),
        peers: vec![SocketAddr::from(([10, 0, 0, origin], 15001))],
        add: add
            .iter()
            .map(|n| entry(*n, &format!("sha256:{n}")))
            .collect(),
        remove: remove.iter().map(|n| hash(*n)).collect(),
    }
}

fn register(all: &mut Registrations, now: u64, request: &RegisterRequest) -> (u64, bool) {
    let outcome = all.register(at(now), request, &mut Vec::new()).unwrap();
    all.check_invariant();
    outcome
}

fn tick(all: &mut Registrations, now: u64) -> (bool, Vec<Effect>) {
    let mut effects = Vec::new();
    let changed = all.tick(at(now), &mut effects);
    all.check_invariant();
    (changed, effects)
}

/// What the table does with orphans whose swarms are empty.
fn drop_due(all: &mut Registrations, now: u64) -> Vec<InfoHash> {
    let due = all.due_orphans(at(now), 100);
    for info_hash in &due {
        all.drop_orphan(info_hash);
    }
    all.check_invariant();
    due
}

#[test]
fn an_origin_sleeps_when_its_lease_ends_and_wakes_by_any_request() {
    let mut all = fresh();
    assert_eq!(register(&mut all, 0, &batch(1, &[1, 2], &[])), (2, true));
    assert_eq!(register(&mut all, 200, &batch(1, &[], &[])), (2, false));
    assert_eq!(tick(&mut all, 499), (false, vec![]));
    assert_eq!((all.awake(), all.table()[0].is_some()), (1, true));
    assert_eq!(tick(&mut all, 500), (true, vec![]));
    assert_eq!((all.awake(), all.table()[0].is_some()), (0, false));
    assert!(all.lookup("sha256:1").is_some());
    assert_eq!(register(&mut all, 900, &batch(1, &[], &[])), (2, true));
    assert_eq!(all.awake(), 1);
}

#[test]
fn a_changed_address_reaches_the_table() {
    let mut all = fresh();
    register(&mut all, 0, &batch(1, &[1], &[]));
    let mut moved = batch(1, &[], &[]);
    moved.peers = vec!["10.9.9.9:1".parse().unwrap()];
    assert_eq!(register(&mut all, 1, &moved), (1, true));
    let table = all.table();
    assert_eq!(table[0].as_ref().unwrap().addrs.as_slice(), moved.peers);
}

/// A batch of an origin that took the place of another.
fn in_the_place_of(other: u8, request: RegisterRequest) -> RegisterRequest {
    RegisterRequest {
        peers: batch(other, &[], &[]).peers,
        ..request
    }
}

#[test]
fn an_origin_that_starts_anew_takes_its_address_along() {
    let mut all = fresh();
    register(&mut all, 0, &batch(1, &[1], &[]));
    let before = all.changes();
    let again = in_the_place_of(1, batch(2, &[1], &[]));
    assert_eq!(register(&mut all, 10, &again), (1, true));
    assert!(all.changes() > before);
    assert_eq!(all.awake(), 1, "not handed out twice");
    assert!(all.table()[0].is_none());
    assert_eq!(register(&mut all, 35, &again), (1, false));
    // One that has another address too keeps that.
    let mut two = batch(3, &[], &[]);
    two.peers.push("10.9.9.9:1".parse().unwrap());
    register(&mut all, 40, &two);
    register(&mut all, 41, &in_the_place_of(3, batch(4, &[], &[])));
    let left = all.table()[2].clone().unwrap();
    assert_eq!(left.addrs.as_slice(), &two.peers[1..]);
    // Should the first live after all, it takes it back.
    assert_eq!(register(&mut all, 50, &batch(1, &[], &[])), (1, true));
    assert_eq!(
        (all.table()[0].is_some(), all.table()[1].is_some()),
        (true, false)
    );
}

#[test]
fn a_lease_heard_of_late_ends_where_it_would_have() {
    let mut all = fresh();
    let then = at(0).minus(Duration::from_secs(LEASE + 1));
    all.register(then, &batch(1, &[1], &[]), &mut Vec::new())
        .unwrap();
    assert!(tick(&mut all, 0).0);
    assert_eq!(all.awake(), 0);
    assert!(all.lookup("sha256:1").is_some());
    // And late news do not shorten what was heard since.
    register(&mut all, 100, &batch(1, &[], &[]));
    register(&mut all, 10, &batch(1, &[], &[]));
    assert!(!tick(&mut all, 100 + LEASE - 1).0);
    assert!(tick(&mut all, 100 + LEASE).0);
}

#[test]
fn what_is_heard_of_late_undoes_nothing_that_was_heard_since() {
    let mut all = fresh();
    // The origin moved, and lives on.
    register(&mut all, 100, &in_the_place_of(5, batch(1, &[1], &[])));
    let moved = all.table()[0].clone().unwrap();
    assert_eq!(register(&mut all, 90, &batch(1, &[2], &[])), (2, false));
    assert_eq!(all.table()[0], Some(moved.clone()));
    // An earlier life of it is asleep, however late it is heard of.
    let earlier = in_the_place_of(5, batch(2, &[3], &[]));
    assert_eq!(register(&mut all, 90, &earlier), (1, false));
    assert_eq!(all.table()[..], [Some(moved), None]);
    // What is heard next counts again.
    assert_eq!(register(&mut all, 110, &earlier), (1, true));
    assert!(all.table()[0].is_none() && all.table()[1].is_some());
}

#[test]
fn an_origin_without_an_address_holds_and_is_not_handed_out() {
    let mut all = fresh();
    let mut silent = batch(1, &[1], &[]);
    silent.peers.clear();
    assert_eq!(register(&mut all, 0, &silent), (1, false));
    assert!(all.table()[0].is_none());
}

#[test]
fn who_was_asleep_before_the_restart_sleeps_on() {
    let mut all = fresh();
    let peers = batch(1, &[], &[]).peers;
    let id = PeerId([1; 20]);
    let slot = all.restore_origin(at(0), id, &peers, false).unwrap();
    let restored = all.restore_entry(at(0), &entry(1, "sha256:1"), &[slot], &mut Vec::new());
    restored.unwrap();
    all.check_invariant();
    assert!(all.table()[0].is_none());
    assert_eq!(all.origins().next().unwrap().addrs, peers);
    assert_eq!(tick(&mut all, 1), (false, vec![]));
    let before = all.changes();
    assert_eq!(register(&mut all, 2, &batch(1, &[1], &[])), (1, true));
    assert!(all.table()[0].is_some());
    assert!(all.changes() > before, "worth saving");
    let before = all.changes();
    tick(&mut all, 2 + LEASE);
    assert!(all.changes() > before, "and so is falling asleep");
}

#[test]
fn what_is_withdrawn_and_registered_in_turn_does_not_pile_up() {
    let mut all = fresh();
    for now in 0..1_000 {
        register(&mut all, now, &batch(1, &[1, 2], &[1, 2]));
    }
    assert!(all.orphans.is_empty());
    register(&mut all, 1_000, &batch(1, &[], &[1]));
    assert_eq!(all.orphans.len(), 1);
}

#[test]
fn swarms_under_one_label_are_bounded_and_the_latest_is_found() {
    let mut all = fresh();
    for n in 0..100 {
        let mut request = batch(1, &[], &[]);
        request.add.push(entry(n, "sha256:x"));
        register(&mut all, 0, &request);
    }
    assert_eq!(all.lookup("sha256:x").unwrap().info_hash, hash(99));
    let all_of_them: Vec<u8> = (0..100).collect();
    register(&mut all, 0, &batch(1, &[], &all_of_them));
    drop_due(&mut all, RETENTION);
    assert_eq!((all.len(), all.labels.len()), (0, 0));
}

#[test]
fn an_origin_long_asleep_is_forgotten_and_what_it_held_orphaned() {
    let mut all = fresh();
    register(&mut all, 0, &batch(1, &[1, 2], &[]));
    register(&mut all, 0, &batch(2, &[2], &[]));
    for now in (0..LEASE + RETENTION).step_by(100) {
        register(&mut all, now, &batch(2, &[], &[]));
        tick(&mut all, now);
    }
    let (changed, effects) = tick(&mut all, LEASE + RETENTION);
    assert!(changed);
    assert_eq!(effects.len(), 2);
    assert!(effects.contains(&Effect::Withdraw(hash(1), 0)));
    // Known still, until nobody was in the swarm for the retention.
    assert!(all.lookup("sha256:1").is_some());
    let due = LEASE + 2 * RETENTION;
    assert_eq!(drop_due(&mut all, due - 1), []);
    assert_eq!(drop_due(&mut all, due), [hash(1)]);
    assert!(all.lookup("sha256:1").is_none());
    assert!(all.lookup("sha256:2").is_some());
    // Its slot is free for another.
    let mut effects = Vec::new();
    all.register(at(due), &batch(3, &[3], &[]), &mut effects)
        .unwrap();
    assert_eq!(effects, [Effect::Register(hash(3), Some(0))]);
}

#[test]
fn an_orphan_is_kept_while_its_swarm_lives_and_adopted_again() {
    let mut all = fresh();
    register(&mut all, 0, &batch(1, &[1], &[]));
    assert_eq!(register(&mut all, 10, &batch(1, &[], &[1])).0, 0);
    assert_eq!(all.due_orphans(at(10 + RETENTION), 100), [hash(1)]);
    all.keep_orphan(at(10 + RETENTION), hash(1));
    assert_eq!(drop_due(&mut all, 9 + 2 * RETENTION), []);
    register(&mut all, 2 * RETENTION, &batch(2, &[1], &[]));
    assert_eq!(drop_due(&mut all, 99 * RETENTION), []);
    // Withdrawn again, the clock starts again.
    register(&mut all, 100 * RETENTION, &batch(2, &[], &[1]));
    assert_eq!(drop_due(&mut all, 101 * RETENTION - 1), []);
    assert_eq!(drop_due(&mut all, 101 * RETENTION), [hash(1)]);
}

#[test]
fn a_batch_takes_out_before_it_puts_in() {
    let mut all = fresh();
    register(&mut all, 0, &batch(1, &[1], &[]));
    assert_eq!(register(&mut all, 1, &batch(1, &[1], &[1])).0, 1);
    assert_eq!(drop_due(&mut all, 9 * RETENTION), []);
}

#[test]
fn what_the_cache_said_must_be_confirmed_within_a_lease() {
    let mut all = fresh();
    let mut effects = Vec::new();
    let peers = ["10.0.0.1:15001".parse().unwrap()];
    let slot = all
        .restore_origin(at(0), PeerId([1; 20]), &peers, true)
        .unwrap();
    for n in [1, 2] {
        all.restore_entry(
            at(0),
            &entry(n, &format!("sha256:{n}")),
            &[slot],
            &mut effects,
        )
        .unwrap();
    }
    all.restore_entry(at(0), &entry(3, "sha256:3"), &[], &mut effects)
        .unwrap();
    all.check_invariant();
    assert_eq!(all.awake(), 1);
    assert_eq!(register(&mut all, 100, &batch(1, &[1], &[])).0, 2);
    let (_, effects) = tick(&mut all, LEASE);
    assert_eq!(effects, [Effect::Withdraw(hash(2), slot)]);
    assert_eq!(register(&mut all, LEASE, &batch(1, &[], &[])).0, 1);
    assert_eq!(tick(&mut all, LEASE + 50).1, []);
    assert!(all.lookup("sha256:2").is_some(), "agents may have it");
    assert_eq!(drop_due(&mut all, RETENTION), [hash(3)]);
    assert_eq!(drop_due(&mut all, LEASE + RETENTION), [hash(2)]);
}

#[test]
fn a_label_finds_the_swarm_that_has_an_origin() {
    let mut all = fresh();
    for (origin, n) in [(1, 1), (2, 2)] {
        let mut request = batch(origin, &[], &[]);
        request.add.push(entry(n, "sha256:x"));
        register(&mut all, u64::from(origin) * 100, &request);
    }
    assert_eq!(all.lookup("sha256:x").unwrap().info_hash, hash(2));
    // The second falls asleep first when only the first renews.
    register(&mut all, 400, &batch(1, &[], &[]));
    tick(&mut all, 500);
    assert_eq!(all.lookup("sha256:x").unwrap().info_hash, hash(1));
    tick(&mut all, 700);
    assert_eq!(all.lookup("sha256:x").unwrap().info_hash, hash(2));
    // A swarm that changes its label is no longer found under the old one.
    let mut request = batch(2, &[], &[]);
    request.add.push(entry(2, "sha256:y"));
    register(&mut all, 800, &request);
    assert_eq!(all.lookup("sha256:x").unwrap().info_hash, hash(1));
    assert_eq!(all.lookup("sha256:y").unwrap().info_hash, hash(2));
}

#[test]
fn a_batch_that_does_not_fit_changes_nothing() {
    let mut all = fresh();
    all.bounds.entries = 2;
    all.bounds.origins = 1;
    register(&mut all, 0, &batch(1, &[1], &[]));
    let mut effects = Vec::new();
    let refused = all.register(at(0), &batch(1, &[1, 2, 3], &[1]), &mut effects);
    assert_eq!(refused, Err(Rejected::Entries));
    let refused = all.register(at(0), &batch(2, &[1], &[]), &mut effects);
    assert_eq!(refused, Err(Rejected::Origins));
    assert_eq!(effects, []);
    assert_eq!(register(&mut all, 0, &batch(1, &[], &[])).0, 1);
}

proptest! {
    #[test]
    fn counts_and_labels_stay_true(
        steps in prop::collection::vec(
            (0..4_u8, prop::collection::vec(0..8_u8, 0..4), prop::collection::vec(0..8_u8, 0..4), 0..400_u64),
            1..60,
        ),
    ) {
        let mut all = fresh();
        let mut now = 0;
        for (origin, add, remove, pass) in steps {
            // Two of them claim each address.
            let request = in_the_place_of(origin / 2, batch(origin, &add, &remove));
            register(&mut all, now, &request);
            now += pass * 10;
            tick(&mut all, now);
            drop_due(&mut all, now);
        }
        // Left alone, everything goes.
        for _ in 0..4 {
            now += RETENTION + LEASE;
            tick(&mut all, now);
            drop_due(&mut all, now);
        }
        prop_assert_eq!(all.len(), 0);
        prop_assert!(all.orphans.is_empty());
        prop_assert!(all.labels.is_empty());
        prop_assert!(all.by_id.is_empty());
    }
}
