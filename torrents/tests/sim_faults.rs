//! Swarms of real machines when things go wrong, under simulated time.
//!
//! Whenever a complete copy can be reached, every download completes, in bounded time, with
//! bounded bytes of the origin, and no piece with a wrong hash is taken. When none can be
//! reached, the machine tells so and does not spin.
//!
//! Every run prints its seed; `SWARM_SEED=<n>` replays one.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "helpers of a test"
)]

use std::time::Duration;

use torrents::Geometry;
use torrents::sim::{Behaviour, HostId, HostSpec, Network, Simulation};

const MB: u64 = 1_000_000;
/// Of every honest link, in bytes a second.
const RATE: u64 = 50 * MB;
const LENGTH: u64 = 16 << 20;
const HOSTS: u64 = 12;

/// Runs the check with a handful of seeds.
fn each_seed(check: impl Fn(u64)) {
    let given = std::env::var("SWARM_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seeds = given.map_or(1..=4, |seed: u64| seed..=seed);
    for seed in seeds {
        println!("SWARM_SEED={seed}");
        check(seed);
    }
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn geometry() -> Geometry {
    Geometry::new(LENGTH, 256 << 10).unwrap()
}

fn empty(seed: u64) -> Simulation {
    let mut network = Network::default();
    network.check_every = 31;
    Simulation::new(geometry(), network, seed)
}

fn origin() -> HostSpec {
    let mut spec = HostSpec::new(RATE);
    spec.complete = true;
    spec.origin = true;
    spec
}

/// A host that claims to have everything and does not behave.
fn wicked(behaviour: Behaviour) -> HostSpec {
    let mut spec = HostSpec::new(RATE);
    spec.complete = true;
    spec.behaviour = behaviour;
    spec
}

fn pullers(sim: &mut Simulation) -> Vec<HostId> {
    (0..HOSTS)
        .map(|n| sim.join(HostSpec::new(RATE), millis(n * 5)))
        .collect()
}

fn crowd(seed: u64) -> (Simulation, HostId, Vec<HostId>) {
    let mut sim = empty(seed);
    let origin = sim.join(origin(), Duration::ZERO);
    let hosts = pullers(&mut sim);
    (sim, origin, hosts)
}

fn report(sim: &Simulation) {
    for host in sim.hosts() {
        let out = sim.outcome(host);
        println!(
            "{host:?} done {:?} up {} down {} web {} corrupt {} lost {} pleas {} {:?} {:?}",
            out.completed,
            out.uploaded,
            out.downloaded,
            out.web,
            out.corrupt,
            out.lost,
            out.pleas,
            sim.swarm(host).have(),
            out.partings
        );
    }
}

/// All complete within that time.
fn completes(sim: &mut Simulation, limit: Duration) {
    if !sim.run(limit) {
        report(sim);
        panic!("not all complete by {:?}", sim.now());
    }
}

/// How many copies a host sent.
fn copies(sim: &Simulation, host: HostId) -> f64 {
    sim.outcome(host).uploaded as f64 / LENGTH as f64
}

fn events(sim: &Simulation) -> u64 {
    sim.hosts().map(|host| sim.outcome(host).events).sum()
}

#[test]
fn peers_that_die_hold_nobody_up() {
    each_seed(|seed| {
        let (mut sim, origin, hosts) = crowd(seed);
        for (n, &host) in (0u64..).zip(hosts.iter().take(6)) {
            let at = millis(150 + n * 40);
            if n % 2 == 0 {
                sim.leave(host, at);
            } else {
                sim.vanish(host, at);
            }
        }
        completes(&mut sim, seconds(10));
        assert!(copies(&sim, origin) < 6.0, "{}", copies(&sim, origin));
    });
}

#[test]
fn a_host_that_comes_back_goes_on_with_what_it_had() {
    each_seed(|seed| {
        let (mut sim, _, hosts) = crowd(seed);
        for (n, &host) in (0u64..).zip(hosts.iter().take(4)) {
            sim.vanish(host, millis(300 + n * 20));
            sim.come_back(host, millis(1_500));
        }
        completes(&mut sim, seconds(15));
        let wasted = |&host: &HostId| sim.outcome(host).downloaded as f64 / LENGTH as f64;
        let most = hosts.iter().map(wasted).fold(0.0, f64::max);
        assert!(most < 1.6, "{most} copies came to one host");
    });
}

#[test]
fn peers_that_stall_are_left() {
    each_seed(|seed| {
        let (mut sim, origin, _) = crowd(seed);
        for _ in 0..3 {
            sim.join(wicked(Behaviour::Staller), Duration::ZERO);
        }
        completes(&mut sim, seconds(12));
        assert!(copies(&sim, origin) < 6.0, "{}", copies(&sim, origin));
    });
}

/// Memory for two pieces: what a seed suggests is kept until there is room, and those who promise
/// and give nothing do not hold all of it.
#[test]
fn with_little_memory_nobody_waits_long() {
    each_seed(|seed| {
        for (stallers, limit) in [(0, millis(900)), (6, seconds(10))] {
            let mut sim = empty(seed);
            sim.join(origin(), Duration::ZERO);
            for _ in 0..stallers {
                sim.join(wicked(Behaviour::Staller), Duration::ZERO);
            }
            for n in 0..HOSTS {
                let mut spec = HostSpec::new(RATE);
                spec.settings.budget = 2 * u64::from(geometry().piece_len());
                sim.join(spec, millis(n * 5));
            }
            completes(&mut sim, limit);
        }
    });
}

#[test]
fn peers_that_boast_are_asked_in_vain_but_not_for_long() {
    each_seed(|seed| {
        let (mut sim, origin, _) = crowd(seed);
        for _ in 0..3 {
            sim.join(wicked(Behaviour::Boaster), Duration::ZERO);
        }
        completes(&mut sim, seconds(10));
        assert!(copies(&sim, origin) < 6.0, "{}", copies(&sim, origin));
        let spent = events(&sim) / HOSTS;
        assert!(spent < 30_000, "{spent} events a host");
    });
}

/// Every place is taken by somebody who has no more than the others; only dialling further than
/// usual finds the one copy there is. The origin itself never dials.
#[test]
fn an_origin_that_comes_back_is_found_by_a_crowd_whose_places_are_taken() {
    each_seed(|seed| {
        for places in [4, 8] {
            let mut sim = empty(seed);
            let mut spec = origin();
            spec.uplink = 2 * MB;
            let origin = sim.join(spec, Duration::ZERO);
            for n in 0..HOSTS {
                let mut spec = HostSpec::new(RATE);
                spec.settings.max_peers = places;
                sim.join(spec, millis(n * 5));
            }
            sim.vanish(origin, seconds(2));
            sim.come_back(origin, seconds(20));
            assert!(!sim.run(seconds(20)), "complete without the origin");
            completes(&mut sim, seconds(90));
        }
    });
}

/// They have everything, and give nothing: by never unchoking, never answering or never having
/// what they said. There are more of them than places.
#[test]
fn places_full_of_the_useless_do_not_keep_the_useful_out() {
    each_seed(|seed| {
        for kind in 0..3 {
            let mut sim = empty(seed);
            for _ in 0..20 {
                let mut spec = match kind {
                    0 => wicked(Behaviour::Honest),
                    1 => wicked(Behaviour::Staller),
                    _ => wicked(Behaviour::Boaster),
                };
                spec.settings.upload_slots = if kind == 0 { 0 } else { 16 };
                sim.join(spec, Duration::ZERO);
            }
            for n in 0..3 {
                let mut spec = HostSpec::new(RATE);
                spec.settings.max_peers = 8;
                sim.join(spec, millis(n * 5));
            }
            // Nobody knows of it before all places are taken.
            sim.join(origin(), seconds(5));
            completes(&mut sim, seconds(90));
        }
    });
}

#[test]
fn rubbish_is_never_taken_and_its_senders_are_banned() {
    each_seed(|seed| {
        let (mut sim, origin, hosts) = crowd(seed);
        for one_in in [1, 1, 4] {
            sim.join(wicked(Behaviour::Liar { one_in }), Duration::ZERO);
        }
        completes(&mut sim, seconds(10));
        // Every piece of every host was verified exactly once: none of the wrong ones.
        let pieces = HOSTS * u64::from(geometry().pieces());
        assert_eq!(sim.progress(), pieces);
        let wrong: u32 = hosts.iter().map(|&host| sim.outcome(host).corrupt).sum();
        let bans = |&host: &HostId| sim.outcome(host).partings.get("corrupt").copied();
        let bans: u32 = hosts.iter().filter_map(bans).sum();
        assert!(wrong > 0 && bans > 0, "{wrong} wrong pieces, {bans} bans");
        assert!(wrong < 200, "{wrong} wrong pieces");
        assert!(copies(&sim, origin) < 8.0, "{}", copies(&sim, origin));
    });
}

#[test]
fn peers_that_send_slowly_hold_nobody_up() {
    each_seed(|seed| {
        let (mut sim, origin, _) = crowd(seed);
        for _ in 0..6 {
            let mut spec = HostSpec::new(RATE);
            spec.uplink = RATE / 50;
            spec.complete = true;
            sim.join(spec, Duration::ZERO);
        }
        completes(&mut sim, seconds(6));
        assert!(copies(&sim, origin) < 6.0, "{}", copies(&sim, origin));
    });
}

#[test]
fn floods_of_requests_drown_nobody() {
    each_seed(|seed| {
        let (mut sim, origin, hosts) = crowd(seed);
        for _ in 0..2 {
            let mut spec = HostSpec::new(RATE);
            spec.behaviour = Behaviour::Flooder { requests: 300 };
            sim.join(spec, Duration::ZERO);
        }
        completes(&mut sim, seconds(15));
        for host in hosts.into_iter().chain([origin]) {
            assert!(copies(&sim, host) < 16.0, "{}", copies(&sim, host));
        }
    });
}

#[test]
fn without_trackers_those_who_know_each_other_go_on() {
    each_seed(|seed| {
        // They go away in mid-pull.
        let (mut sim, ..) = crowd(seed);
        sim.trackers_down(millis(150), seconds(3_600));
        completes(&mut sim, seconds(10));

        // They were never there, and each is told of two others.
        let mut sim = empty(seed);
        sim.trackers_down(Duration::ZERO, seconds(3_600));
        let origin = sim.join(origin(), Duration::ZERO);
        let hosts = pullers(&mut sim);
        for (n, &host) in hosts.iter().enumerate() {
            let before = hosts[..n].last().copied().unwrap_or(origin);
            let known = if n % 4 == 0 {
                [origin, before]
            } else {
                [before, hosts[n / 2]]
            };
            sim.name_peers(host, &known, millis(100));
        }
        completes(&mut sim, seconds(20));
    });
}

#[test]
fn late_comers_find_the_swarm_when_the_trackers_are_back() {
    each_seed(|seed| {
        let (mut sim, ..) = crowd(seed);
        sim.trackers_down(millis(100), seconds(4));
        let late = sim.join(HostSpec::new(RATE), seconds(1));
        completes(&mut sim, seconds(30));
        let took = sim.outcome(late).completed.unwrap();
        assert!(took > seconds(4) && took < seconds(20), "{took:?}");
    });
}

/// Whether the hosts have every piece among them.
fn have_a_copy(sim: &Simulation, hosts: &[HostId]) -> bool {
    let held = |piece| {
        hosts
            .iter()
            .any(|&host| sim.swarm(host).have().contains(piece))
    };
    geometry().all_pieces().all(held)
}

#[test]
fn the_origin_may_go_once_its_first_copy_is_out() {
    each_seed(|seed| {
        let (mut sim, origin, hosts) = crowd(seed);
        while !have_a_copy(&sim, &hosts) && sim.step(seconds(10)) {}
        let now = sim.now();
        let lacking = hosts.iter().filter(|&&host| !sim.swarm(host).is_complete());
        assert!(
            lacking.count() > hosts.len() / 2,
            "they all have it already"
        );
        sim.vanish(origin, now);
        completes(&mut sim, now + seconds(12));
    });
}

#[test]
fn a_partition_holds_only_as_long_as_it_lasts() {
    each_seed(|seed| {
        let (mut sim, origin, hosts) = crowd(seed);
        let island = hosts[..6].to_vec();
        sim.partition(island.clone(), millis(150), seconds(5));
        sim.run(seconds(4));
        // Those with the origin need nobody else.
        let rest = &hosts[6..];
        assert!(rest.iter().all(|&host| sim.swarm(host).is_complete()));
        assert!(island.iter().any(|&host| !sim.swarm(host).is_complete()));
        completes(&mut sim, seconds(15));
        assert!(copies(&sim, origin) < 8.0, "{}", copies(&sim, origin));
    });
}

#[test]
fn an_island_with_a_copy_needs_no_mainland() {
    each_seed(|seed| {
        let (mut sim, _, hosts) = crowd(seed);
        let second = sim.join(origin(), Duration::ZERO);
        let mut island = hosts[..6].to_vec();
        island.push(second);
        sim.partition(island, millis(200), seconds(600));
        completes(&mut sim, seconds(12));
    });
}

#[test]
fn a_clock_that_jumps_loses_nothing() {
    each_seed(|seed| {
        let (mut sim, origin, hosts) = crowd(seed);
        for (n, &host) in (0u64..).zip(&hosts) {
            if n % 2 == 0 {
                sim.jump_clock(host, seconds(3_600), millis(150 + n * 20));
            }
        }
        sim.jump_clock(origin, seconds(3_600), millis(200));
        completes(&mut sim, seconds(12));
        assert!(copies(&sim, origin) < 8.0, "{}", copies(&sim, origin));
    });
}

#[test]
fn pieces_that_cannot_be_written_are_fetched_again() {
    each_seed(|seed| {
        let mut sim = empty(seed);
        let origin = sim.join(origin(), Duration::ZERO);
        let bad: Vec<HostId> = (0..4)
            .map(|_| {
                let mut spec = HostSpec::new(RATE);
                spec.failing_writes = 8;
                sim.join(spec, Duration::ZERO)
            })
            .collect();
        pullers(&mut sim);
        completes(&mut sim, seconds(15));
        for host in bad {
            assert_eq!(sim.outcome(host).lost, 8);
            // No more than the lost ones come twice, and what the endgame doubles.
            let came = sim.outcome(host).downloaded as f64 / LENGTH as f64;
            assert!(came < 1.5, "{came} copies came");
        }
        assert!(copies(&sim, origin) < 6.0, "{}", copies(&sim, origin));
    });
}

#[test]
fn a_piece_that_cannot_be_read_any_more_is_fetched_again() {
    each_seed(|seed| {
        let (mut sim, _, hosts) = crowd(seed);
        completes(&mut sim, seconds(10));
        for piece in [3, 17, 40] {
            sim.lose_piece(hosts[2], 0, piece);
        }
        assert!(!sim.is_done());
        let now = sim.now();
        completes(&mut sim, now + seconds(30));
        assert!(sim.swarm(hosts[2]).is_complete());
    });
}

#[test]
fn the_web_seed_alone_is_enough() {
    each_seed(|seed| {
        let mut sim = empty(seed);
        let mut spec = HostSpec::new(RATE);
        spec.web_seed = Some(RATE);
        let host = sim.join(spec, Duration::ZERO);
        completes(&mut sim, seconds(10));
        let web = sim.outcome(host).web;
        assert!((LENGTH..LENGTH + LENGTH / 10).contains(&web), "{web}");
    });
}

#[test]
fn a_slow_web_seed_is_asked_once_for_what_it_gives() {
    each_seed(|seed| {
        let mut sim = empty(seed);
        let mut spec = HostSpec::new(RATE);
        spec.web_seed = Some(200_000);
        let host = sim.join(spec, Duration::ZERO);
        completes(&mut sim, seconds(100));
        assert!(sim.outcome(host).web <= LENGTH + LENGTH / 8);
    });
}

#[test]
fn without_a_whole_copy_the_machine_says_so_and_waits_quietly() {
    each_seed(|seed| {
        let (mut sim, origin, hosts) = crowd(seed);
        let few = |sim: &Simulation| {
            let held = |host: &HostId| sim.swarm(*host).have().count();
            hosts.iter().map(held).max().unwrap_or(0) < 20
        };
        while few(&sim) && sim.step(seconds(10)) {}
        let now = sim.now();
        assert!(!have_a_copy(&sim, &hosts), "too late to part");
        sim.leave(origin, now);
        // They share what there is.
        assert!(!sim.run(now + seconds(20)));
        let before: Vec<u64> = hosts.iter().map(|&host| sim.outcome(host).events).collect();
        for &host in &hosts {
            let there = sim.swarm(host).distributed_copies();
            assert!(there < 1.0, "{there} copies are claimed");
        }
        assert!(!sim.run(now + seconds(50)));
        for (&host, before) in hosts.iter().zip(before) {
            let quiet = (sim.outcome(host).events - before) / 30;
            assert!(quiet < 60, "{quiet} events a second");
        }
        // And finish when it is back.
        sim.come_back(origin, now + seconds(50));
        completes(&mut sim, now + seconds(90));
    });
}

#[test]
fn alone_a_machine_asks_for_peers_but_not_without_end() {
    each_seed(|seed| {
        let mut sim = empty(seed);
        let host = sim.join(HostSpec::new(RATE), Duration::ZERO);
        assert!(!sim.run(seconds(60)));
        let outcome = sim.outcome(host);
        assert!((1..=61).contains(&outcome.pleas), "{} pleas", outcome.pleas);
        assert!(outcome.events < 60 * 30, "{} events", outcome.events);
        assert!(sim.swarm(host).distributed_copies() < 1.0);
    });
}
