//! Whole swarms of real machines under simulated time.
//!
//! Every run prints its seed; `SWARM_SEED=<n>` replays one.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of a test"
)]

use std::time::Duration;

use torrents::Geometry;
use torrents::sim::{Behaviour, HostId, HostSpec, Network, Simulation};

const MB: u64 = 1_000_000;

fn seed() -> u64 {
    let seed = std::env::var("SWARM_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(1);
    println!("SWARM_SEED={seed}");
    seed
}

fn network() -> Network {
    let mut network = Network::default();
    network.check_every = 61;
    network
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn report(sim: &Simulation) {
    for host in sim.hosts() {
        let out = sim.outcome(host);
        println!(
            "{host:?} joined {:?} done {:?} up {} down {} web {} corrupt {} have {:?} {:?}",
            out.joined,
            out.completed,
            out.uploaded,
            out.downloaded,
            out.web,
            out.corrupt,
            sim.swarm(host).have(),
            out.partings
        );
    }
}

fn run(sim: &mut Simulation, limit: Duration) {
    if !sim.run(limit) {
        report(sim);
        panic!("not all complete by {:?}", sim.now());
    }
}

#[test]
fn a_flash_crowd_completes_near_the_speed_of_one_link() {
    let geometry = Geometry::new(64 << 20, 256 << 10).unwrap();
    let mut sim = Simulation::new(geometry, network(), seed());
    let mut origin = HostSpec::new(100 * MB);
    origin.complete = true;
    let origin = sim.join(origin, Duration::ZERO);
    let leechers: Vec<HostId> = (0..16)
        .map(|_| sim.join(HostSpec::new(100 * MB), Duration::ZERO))
        .collect();
    run(&mut sim, seconds(30));
    report(&sim);
    let ideal = 0.67;
    for host in leechers {
        let took = sim.outcome(host).completed.unwrap().as_secs_f64();
        assert!(took < ideal * 2.0, "{took} s");
    }
    let copies = sim.outcome(origin).uploaded as f64 / geometry.length() as f64;
    assert!(copies < 4.0, "the origin sent {copies} copies");
}

/// One seed, fifty leechers, among them liars, stallers and slow hosts; connections break,
/// hosts die and come.
fn hostile(seed: u64) -> (Simulation, HostId, Vec<HostId>) {
    let geometry = Geometry::new(24 << 20, 256 << 10).unwrap();
    let mut sim = Simulation::new(geometry, network(), seed);
    let mut origin = HostSpec::new(50 * MB);
    origin.complete = true;
    let origin = sim.join(origin, Duration::ZERO);
    let mut liars = Vec::new();
    for n in 0..50u64 {
        let mut spec = HostSpec::new(50 * MB);
        match n {
            0..3 => spec.behaviour = Behaviour::Liar { one_in: 1 },
            3..5 => spec.behaviour = Behaviour::Liar { one_in: 4 },
            5..8 => spec.behaviour = Behaviour::Staller,
            8..12 => {
                spec.uplink = MB;
                spec.downlink = 5 * MB;
            }
            _ => {}
        }
        // Liars lie about what they have as well: they have everything.
        spec.complete = n < 8;
        let host = sim.join(spec, Duration::from_millis(n * 20));
        if n < 5 {
            liars.push(host);
        }
        if n % 10 == 9 {
            sim.leave(host, Duration::from_millis(600 + n * 20));
        }
    }
    for n in 0..60 {
        sim.cut_one(Duration::from_millis(300 + n * 50));
    }
    (sim, origin, liars)
}

#[test]
fn a_swarm_with_churn_loss_and_liars_completes() {
    let (mut sim, origin, liars) = hostile(seed());
    run(&mut sim, seconds(120));
    report(&sim);
    let copies = sim.outcome(origin).uploaded as f64 / f64::from(24 << 20);
    assert!(copies < 8.0, "the origin sent {copies} copies");
    // Whoever stayed long enough to meet the liars that lie always has banned each it took a
    // whole piece from; none has banned more than there are liars.
    let bans = |host: HostId| {
        sim.outcome(host)
            .partings
            .get("corrupt")
            .copied()
            .unwrap_or(0)
    };
    let done = sim
        .hosts()
        .filter(|&host| sim.outcome(host).completed.is_some());
    let (mut found, mut hosts) = (0, 0);
    for host in done {
        assert!(
            bans(host) as usize <= liars.len(),
            "{host:?} banned the honest"
        );
        found += bans(host);
        hosts += 1;
    }
    assert!(found >= 2 * hosts, "{found} bans by {hosts} hosts");
}

#[test]
fn without_bep_6_a_swarm_completes_as_well() {
    let geometry = Geometry::new(32 << 20, 256 << 10).unwrap();
    let mut network = network();
    network.fast = false;
    let mut sim = Simulation::new(geometry, network, seed());
    let mut origin = HostSpec::new(100 * MB);
    origin.complete = true;
    sim.join(origin, Duration::ZERO);
    for _ in 0..20 {
        sim.join(HostSpec::new(100 * MB), Duration::ZERO);
    }
    run(&mut sim, seconds(30));
}

#[test]
fn the_web_seed_steps_in_when_the_swarm_stalls_and_only_then() {
    let geometry = Geometry::new(16 << 20, 256 << 10).unwrap();
    let mut sim = Simulation::new(geometry, network(), seed());
    let mut staller = HostSpec::new(100 * MB);
    staller.complete = true;
    staller.behaviour = Behaviour::Staller;
    sim.join(staller, Duration::ZERO);
    let mut spec = HostSpec::new(100 * MB);
    spec.web_seed = Some(50 * MB);
    let host = sim.join(spec.clone(), Duration::ZERO);
    run(&mut sim, seconds(60));
    assert!(sim.outcome(host).web >= geometry.length());

    let mut sim = Simulation::new(geometry, network(), seed());
    let mut origin = HostSpec::new(100 * MB);
    origin.complete = true;
    sim.join(origin, Duration::ZERO);
    let host = sim.join(spec, Duration::ZERO);
    run(&mut sim, seconds(60));
    assert_eq!(sim.outcome(host).web, 0);
}

#[test]
fn readers_do_not_collapse_the_swarm_into_one_piece() {
    let geometry = Geometry::new(64 << 20, 256 << 10).unwrap();
    let mut sim = Simulation::new(geometry, network(), seed());
    let mut origin = HostSpec::new(100 * MB);
    origin.complete = true;
    let origin = sim.join(origin, Duration::ZERO);
    let mut spec = HostSpec::new(100 * MB);
    spec.reader = Some(8 << 20);
    let hosts: Vec<HostId> = (0..16)
        .map(|_| sim.join(spec.clone(), Duration::ZERO))
        .collect();
    run(&mut sim, seconds(30));
    for host in hosts {
        let took = sim.outcome(host).completed.unwrap().as_secs_f64();
        assert!(took < 0.67 * 1.3, "{took} s");
    }
    let copies = sim.outcome(origin).uploaded as f64 / geometry.length() as f64;
    assert!(copies < 1.5, "the origin sent {copies} copies");
}

#[test]
fn the_same_seed_makes_the_same_trace() {
    let seed = seed();
    let traces = [(); 2].map(|()| {
        let (mut sim, ..) = hostile(seed);
        run(&mut sim, seconds(120));
        (sim.trace(), sim.events(), sim.now())
    });
    assert_eq!(traces[0], traces[1]);
    let (mut other, ..) = hostile(seed + 1);
    run(&mut other, seconds(120));
    assert_ne!(other.trace(), traces[0].0);
}
