//! The table against a naive model, and the rules that no model shows well.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use std::net::SocketAddr;

use proptest::prelude::*;
use torrents::PeerId;
use torrents::announce::ReplyPeer;

use super::swarm::ORIGINS_PER_REPLY;
use super::*;
use crate::peers::Stored;

const HASH: InfoHash = InfoHash([7; 20]);
const WHOLE: Occupancy = Occupancy {
    swarms: 0,
    peers: 0,
};

fn policy(mode: Mode) -> Policy {
    Policy {
        mode,
        ..Policy::from(&Config::default())
    }
}

fn open() -> Shard {
    Shard::new(Arc::new(policy(Mode::Open)), 1)
}

fn at(seconds: u64) -> Moment {
    Moment::after_start(Duration::from_secs(seconds))
}

fn request(id: u8, port: u16, left: u64) -> AnnounceRequest {
    AnnounceRequest {
        info_hash: HASH,
        peer_id: PeerId([id; 20]),
        port,
        uploaded: 0,
        downloaded: 0,
        left: Some(left),
        event: AnnounceEvent::None,
        numwant: Some(1_000),
        compact: true,
        no_peer_id: false,
        key: None,
        ip: None,
        tracker_id: None,
    }
}

fn asker(ip: &str, port: u16) -> Asker {
    Asker {
        at: SocketAddr::new(ip.parse().unwrap(), port),
        local: false,
        exempt: false,
        trusted: false,
    }
}

/// Asks in both forms, which must say the same number; returns the one with ids.
fn tell(shard: &mut Shard, now: Moment, request: &AnnounceRequest, asker: Asker) -> Vec<ReplyPeer> {
    let mut told = Told::default();
    let request = AnnounceRequest {
        compact: false,
        ..request.clone()
    };
    let mut ask = |request| {
        let mut reply = AnnounceReply::default();
        shard
            .announce(now, request, asker, WHOLE, &mut reply, &mut told)
            .unwrap();
        (
            told.compact.v4.len() + told.compact.v6.len(),
            told.named.clone(),
        )
    };
    let (none, named) = ask(&request);
    assert_eq!(none, 0);
    if request.event != AnnounceEvent::Stopped {
        let (compact, none) = ask(&AnnounceRequest {
            compact: true,
            ..request.clone()
        });
        assert_eq!((compact, none.len()), (named.len(), 0));
    }
    named
}

/// One peer as the model knows it.
#[derive(Debug, Clone)]
struct Naive {
    id: u8,
    at: SocketAddr,
    key: u64,
    seed: bool,
    paused: bool,
    counted: bool,
    expires: u64,
}

/// The rules of the table over a plain list.
#[derive(Debug, Default)]
struct Model {
    peers: Vec<Naive>,
    completed: u32,
}

impl Model {
    fn announce(&mut self, now: u64, r: &AnnounceRequest, at: SocketAddr) {
        let id = r.peer_id.0[0];
        let key = r.key.unwrap_or(0);
        let same_family = |p: &Naive| p.at.is_ipv4() == at.is_ipv4();
        let known = self.peers.iter().position(|p| same_family(p) && p.id == id);
        if let Some(known) = known {
            let old = &self.peers[known];
            if old.key != 0 && old.key != key && old.at.ip() != at.ip() {
                return;
            }
        }
        let old = known.map(|known| self.peers.remove(known));
        if r.event == AnnounceEvent::Stopped {
            return;
        }
        self.peers.retain(|p| p.at != at);
        let seed = r.left == Some(0);
        let completed = r.event == AnnounceEvent::Completed && seed;
        let completed = completed && !self.twin(id, key, at).is_some_and(|twin| twin.counted);
        let counted = old.as_ref().map_or(seed && !completed, |old| old.counted);
        self.completed += u32::from(completed && !counted);
        let key = match old {
            Some(old) if key == 0 => old.key,
            _ => key,
        };
        let mut counted = counted || completed;
        if let Some(twin) = self.twin(id, key, at) {
            counted |= twin.counted;
            twin.counted = counted;
        }
        self.peers.push(Naive {
            id,
            at,
            key,
            seed,
            paused: r.event == AnnounceEvent::Paused,
            counted,
            expires: now + if seed { 1_800 } else { 660 },
        });
    }

    /// The same peer in the other family.
    fn twin(&mut self, id: u8, key: u64, at: SocketAddr) -> Option<&mut Naive> {
        let mut others = self.peers.iter_mut();
        others.find(|p| p.id == id && p.key == key && p.at.is_ipv4() != at.is_ipv4())
    }

    /// Seeds and leechers, each peer once: one that completed in a family did so in both.
    fn count(&self) -> (usize, usize) {
        let mut peers = HashMap::new();
        for peer in &self.peers {
            *peers.entry((peer.id, peer.key)).or_insert(false) |= peer.seed;
        }
        let seeds = peers.values().filter(|seed| **seed).count();
        (seeds, peers.len() - seeds)
    }

    /// Who must be told about, and who may be: an expired peer until it is swept away.
    fn told(
        &self,
        now: u64,
        r: &AnnounceRequest,
        at: SocketAddr,
    ) -> (HashSet<SocketAddr>, HashSet<SocketAddr>) {
        let leecher = r.left != Some(0) && r.event != AnnounceEvent::Paused;
        let stopped = r.event == AnnounceEvent::Stopped;
        let others = self
            .peers
            .iter()
            .filter(|p| !stopped && p.id != r.peer_id.0[0] && p.at != at)
            .filter(|p| leecher || !(p.seed || p.paused));
        let must = others.clone().filter(|p| p.expires > now);
        (must.map(|p| p.at).collect(), others.map(|p| p.at).collect())
    }
}

#[derive(Debug, Clone)]
enum Step {
    Announce {
        id: u8,
        ip: u8,
        port: u16,
        key: u64,
        left: u64,
        event: AnnounceEvent,
        wanted: u32,
    },
    Pass {
        seconds: u64,
    },
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    let event = prop_oneof![
        4 => Just(AnnounceEvent::None),
        2 => Just(AnnounceEvent::Started),
        2 => Just(AnnounceEvent::Completed),
        1 => Just(AnnounceEvent::Stopped),
        1 => Just(AnnounceEvent::Paused),
    ];
    let wanted = prop_oneof![Just(0), Just(1), Just(3), Just(200)];
    let announce = (
        0..12_u8,
        0..8_u8,
        1..3_u16,
        0..3_u64,
        0..2_u64,
        event,
        wanted,
    );
    prop_oneof![
        12 => announce.prop_map(|(id, ip, port, key, left, event, wanted)| Step::Announce {
            id, ip, port, key, left, event, wanted
        }),
        2 => (0..900_u64).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::Expire),
    ]
}

/// Four IPv4 and four IPv6 addresses.
fn address(ip: u8, port: u16) -> SocketAddr {
    let text = if ip < 4 {
        format!("10.0.0.{ip}")
    } else {
        format!("2001:db8::{ip}")
    };
    SocketAddr::new(text.parse().unwrap(), port)
}

fn expire_all(shard: &mut Shard, now: Moment) {
    // In small steps, so that a round is interrupted everywhere.
    while !shard.expire(now, 2).1 {}
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_table_does_what_a_plain_list_would(steps in prop::collection::vec(step(), 1..120)) {
        let mut shard = open();
        let mut model = Model::default();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Announce { id, ip, port, key, left, event, wanted } => {
                    let key = (key > 0).then_some(key);
                    let numwant = Some(wanted);
                    let r = AnnounceRequest { event, key, numwant, ..request(id, port, left) };
                    let at_addr = address(ip, port);
                    model.announce(now, &r, at_addr);
                    let asker = Asker { at: at_addr, ..asker("10.0.0.1", 1) };
                    let told = tell(&mut shard, at(now), &r, asker);
                    let addrs: HashSet<_> = told.iter().map(|peer| peer.addr).collect();
                    prop_assert_eq!(addrs.len(), told.len(), "told twice of a peer");
                    let (must, may) = model.told(now, &r, at_addr);
                    prop_assert!(addrs.is_subset(&may));
                    if wanted == 200 {
                        prop_assert!(addrs.is_superset(&must));
                    } else {
                        prop_assert!(told.len() <= wanted as usize);
                    }
                }
                Step::Pass { seconds } => now += seconds,
                Step::Expire => {
                    expire_all(&mut shard, at(now));
                    expire_all(&mut shard, at(now));
                    model.peers.retain(|peer| peer.expires > now);
                    let entry = shard.scrape(&HASH);
                    let counted = (entry.complete as usize, entry.incomplete as usize);
                    prop_assert_eq!(counted, model.count());
                    if model.peers.is_empty() {
                        // An open tracker forgets an empty swarm with its count.
                        model.completed = 0;
                        prop_assert_eq!(shard.swarms(), 0);
                    }
                    prop_assert_eq!(entry.downloaded, model.completed);
                }
            }
            shard.check_invariant();
        }
    }
}

#[test]
fn every_peer_is_told_about_equally_often() {
    let mut shard = open();
    for n in 0..100 {
        tell(
            &mut shard,
            at(0),
            &request(n, 1, 5),
            asker(&format!("10.0.0.{n}"), 1),
        );
    }
    let mut told = HashMap::<SocketAddr, u32>::new();
    let rounds = 2_000;
    for _ in 0..rounds {
        let r = AnnounceRequest {
            numwant: Some(20),
            ..request(50, 1, 5)
        };
        let peers = tell(&mut shard, at(0), &r, asker("10.0.0.50", 1));
        assert_eq!(peers.len(), 20);
        for peer in peers {
            *told.entry(peer.addr).or_default() += 1;
        }
    }
    assert_eq!(told.len(), 99);
    // 404 expected each, standard deviation 18: ten of them are beyond chance.
    for (addr, times) in told {
        assert!((220..590).contains(&times), "{addr} {times}");
    }
}

#[test]
fn leechers_are_told_of_seeds_and_leechers_alike() {
    let mut shard = open();
    for n in 0..200 {
        let left = u64::from(n % 2);
        tell(
            &mut shard,
            at(0),
            &request(n, 1, left),
            asker(&format!("10.0.0.{n}"), 1),
        );
    }
    let r = AnnounceRequest {
        numwant: Some(50),
        ..request(201, 1, 5)
    };
    let told = tell(&mut shard, at(0), &r, asker("10.0.1.1", 1));
    let seeds = told
        .iter()
        .filter(|peer| peer.id.unwrap().0[0] % 2 == 0)
        .count();
    assert_eq!((told.len(), seeds), (50, 25));
    let r = AnnounceRequest {
        numwant: Some(150),
        ..request(201, 1, 5)
    };
    let told = tell(&mut shard, at(0), &r, asker("10.0.1.1", 1));
    assert_eq!(told.len(), 150);
}

#[test]
fn the_other_family_fills_what_the_own_leaves() {
    let mut shard = open();
    for n in 0..10 {
        tell(
            &mut shard,
            at(0),
            &request(n, 1, 5),
            asker(&format!("10.0.0.{n}"), 1),
        );
        tell(
            &mut shard,
            at(0),
            &request(100 + n, 1, 5),
            asker(&format!("2001:db8::{n}"), 1),
        );
    }
    let r = AnnounceRequest {
        numwant: Some(12),
        ..request(50, 1, 5)
    };
    let told = tell(&mut shard, at(0), &r, asker("10.0.1.1", 1));
    assert_eq!(told.iter().filter(|peer| peer.addr.is_ipv4()).count(), 10);
    assert_eq!(told.len(), 12);
}

#[test]
fn one_address_cannot_fill_a_swarm() {
    let mut shard = open();
    for n in 0..2_000_u16 {
        let mut r = request(0, n + 1, 5);
        r.peer_id.0[..2].copy_from_slice(&n.to_be_bytes());
        tell(&mut shard, at(n.into()), &r, asker("192.0.2.1", n + 1));
        shard.check_invariant();
    }
    assert_eq!(shard.scrape(&HASH).incomplete, 256);
    // Those that spoke last stay.
    let r = AnnounceRequest {
        numwant: Some(200),
        ..request(9, 1, 5)
    };
    let told = tell(&mut shard, at(2_000), &r, asker("192.0.2.9", 1));
    assert!(told.iter().all(|peer| peer.addr.port() > 2_000 - 256));
    // An exempt network may.
    for n in 0..2_000_u16 {
        let mut r = request(1, n + 1, 5);
        r.peer_id.0[..2].copy_from_slice(&n.to_be_bytes());
        let asker = Asker {
            exempt: true,
            ..asker("10.0.0.1", n + 1)
        };
        tell(&mut shard, at(2_000), &r, asker);
    }
    shard.check_invariant();
    assert!(shard.scrape(&HASH).incomplete >= 2_000);
}

#[test]
fn one_ipv6_network_cannot_fill_a_swarm_but_a_fleet_in_one_may() {
    let mut shard = open();
    let many = |shard: &mut Shard, exempt: bool, network: &str| {
        for n in 0..1_000_u16 {
            let mut r = request(u8::from(exempt), 6881, 5);
            r.peer_id.0[..2].copy_from_slice(&n.to_be_bytes());
            let asker = Asker {
                exempt,
                ..asker(&format!("{network}::{n:x}"), 6881)
            };
            tell(shard, at(n.into()), &r, asker);
        }
        shard.check_invariant();
    };
    many(&mut shard, false, "2001:db8:0:aaaa");
    assert_eq!(shard.scrape(&HASH).incomplete, 256);
    many(&mut shard, true, "2001:db8:0:bbbb");
    assert_eq!(shard.scrape(&HASH).incomplete, 1_256);
    // Beside it, one of the crowd that comes back from its own address is renewed there.
    let mut r = request(0, 6881, 5);
    r.peer_id.0[..2].copy_from_slice(&999_u16.to_be_bytes());
    tell(
        &mut shard,
        at(1_000),
        &r,
        asker("2001:db8:0:aaaa::3e7", 6881),
    );
    assert_eq!(shard.scrape(&HASH).incomplete, 1_256);
}

#[test]
fn a_peer_in_both_families_counts_once() {
    let mut shard = open();
    let (v4, v6) = ("10.0.0.1", "2001:db8::1");
    let mut say = |ip: &str, key, left, event| {
        let r = AnnounceRequest {
            key,
            event,
            ..request(1, 6881, left)
        };
        let (mut reply, mut told) = (AnnounceReply::default(), Told::default());
        let asker = asker(ip, 6881);
        let said = shard.announce(at(0), &r, asker, WHOLE, &mut reply, &mut told);
        said.unwrap();
        shard.check_invariant();
        let entry = shard.scrape(&HASH);
        (entry.complete, entry.incomplete, entry.downloaded)
    };
    use AnnounceEvent::{Completed, None, Started, Stopped};
    let key = Some(7);
    assert_eq!(say(v4, key, 5, Started), (0, 1, 0));
    assert_eq!(say(v6, key, 5, Started), (0, 1, 0));
    assert_eq!(say(v4, key, 0, Completed), (1, 0, 1));
    assert_eq!(say(v6, key, 0, Completed), (1, 0, 1));
    assert_eq!(say(v4, key, 0, None), (1, 0, 1));
    // Another key is another peer, whatever its id says.
    assert_eq!(say(v6, Some(8), 5, None), (1, 1, 1));
    assert_eq!(say(v6, key, 0, None), (1, 0, 1));
    assert_eq!(say(v4, key, 0, Stopped), (1, 0, 1));
    // Heard over IPv6 alone so far, it completed all the same.
    assert_eq!(say(v4, key, 0, Completed), (1, 0, 1));
    assert_eq!(say(v6, key, 0, Stopped), (1, 0, 1));
}

#[test]
fn a_full_table_still_answers() {
    let limits = Limits {
        peers_per_swarm: 2,
        swarms: 1,
        ..Limits::default()
    };
    let mut shard = Shard::new(
        Arc::new(Policy {
            limits,
            ..policy(Mode::Open)
        }),
        1,
    );
    for n in 0..4 {
        let told = tell(
            &mut shard,
            at(0),
            &request(n, 1, 5),
            asker(&format!("10.0.0.{n}"), 1),
        );
        assert_eq!(told.len(), usize::from(n).min(2));
    }
    assert_eq!(shard.scrape(&HASH).incomplete, 2);
    let (mut reply, mut told) = (AnnounceReply::default(), Told::default());
    let other = AnnounceRequest {
        info_hash: InfoHash([8; 20]),
        ..request(1, 1, 1)
    };
    let whole = Occupancy {
        swarms: 1,
        peers: 2,
    };
    let refused = shard.announce(
        at(0),
        &other,
        asker("10.0.0.1", 1),
        whole,
        &mut reply,
        &mut told,
    );
    assert_eq!(refused, Err(Refusal::Full));
    // At the limit of the whole tracker nobody joins, and who is in renews.
    let mut shard = open();
    tell(&mut shard, at(0), &request(1, 1, 5), asker("10.0.0.1", 1));
    let whole = Occupancy {
        swarms: 1,
        peers: usize::MAX,
    };
    for (id, stored) in [(1, Stored::Renewed), (2, Stored::Full)] {
        let asker = asker(&format!("10.0.0.{id}"), 1);
        let outcome = shard.announce(
            at(0),
            &request(id, 1, 5),
            asker,
            whole,
            &mut reply,
            &mut told,
        );
        assert_eq!(outcome, Ok(Announced::Stored(stored)));
    }
}

#[test]
fn what_another_heard_long_ago_expires_as_it_would_have() {
    let mut shard = open();
    // Told at the start, of ten minutes and of a quarter of an hour before it.
    for (id, age, left) in [(1, 600, 5), (2, 900, 5), (3, 900, 0), (4, 1_800, 0)] {
        let then = at(0).minus(Duration::from_secs(age));
        let r = request(id, 1, left);
        shard.hear(then, at(0), &r, asker(&format!("10.0.0.{id}"), 1), WHOLE);
    }
    assert_eq!(held(&shard), (1, 1));
    expire_all(&mut shard, at(59));
    assert_eq!(held(&shard), (1, 1));
    for (now, left) in [(61, (0, 1)), (899, (0, 1)), (901, (0, 0))] {
        expire_all(&mut shard, at(now));
        expire_all(&mut shard, at(now));
        assert_eq!(held(&shard), left, "{now}");
    }
}

/// Who is in the swarm: incomplete, complete.
fn held(shard: &Shard) -> (u32, u32) {
    let entry = shard.scrape(&HASH);
    (entry.incomplete, entry.complete)
}

#[test]
fn what_another_tells_late_undoes_nothing_that_was_heard_since() {
    let mut shard = Shard::new(
        Arc::new(Policy {
            shared: true,
            ..policy(Mode::Open)
        }),
        1,
    );
    let stop = |request: AnnounceRequest| AnnounceRequest {
        event: AnnounceEvent::Stopped,
        ..request
    };
    let at_home = asker("10.0.0.1", 1);
    tell(&mut shard, at(100), &request(1, 1, 0), at_home);
    // It was half done, and an earlier life of it was at the same place, and stopped.
    for late in [
        request(1, 1, 5),
        request(2, 1, 5),
        stop(request(1, 1, 5)),
        stop(request(2, 1, 5)),
    ] {
        shard.hear(at(90), at(101), &late, at_home, WHOLE);
        assert_eq!(held(&shard), (0, 1), "{late:?}");
    }
    // Who stopped, here or elsewhere, does not come back by what was heard before.
    tell(&mut shard, at(110), &stop(request(1, 1, 0)), at_home);
    shard.hear(at(105), at(111), &request(1, 1, 0), at_home, WHOLE);
    let other = asker("10.0.0.3", 1);
    shard.hear(at(108), at(111), &stop(request(3, 1, 5)), other, WHOLE);
    shard.hear(at(107), at(111), &request(3, 1, 5), other, WHOLE);
    assert_eq!(held(&shard), (0, 0));
    // But by what was heard after.
    shard.hear(at(109), at(112), &request(3, 1, 5), other, WHOLE);
    tell(&mut shard, at(112), &request(1, 1, 0), at_home);
    assert_eq!(held(&shard), (1, 1));
}

#[test]
fn what_another_heard_is_news_when_it_is_told() {
    let mut shard = open();
    shard.hear(
        at(90),
        at(101),
        &request(1, 1, 5),
        asker("10.0.0.1", 1),
        WHOLE,
    );
    let swarm = shard.swarm(&HASH).unwrap();
    assert_eq!(swarm.changed(), at(101));
    let (_, peer) = swarm.v4().next().unwrap();
    assert_eq!(peer.seen, at(90));
}

#[test]
fn a_stopped_stranger_makes_no_swarm() {
    let mut shard = open();
    let r = AnnounceRequest {
        event: AnnounceEvent::Stopped,
        ..request(1, 1, 5)
    };
    assert_eq!(tell(&mut shard, at(0), &r, asker("10.0.0.1", 1)), []);
    assert_eq!(shard.swarms(), 0);
}

#[test]
fn many_origins_take_turns_and_leave_room() {
    let mut shard = Shard::new(Arc::new(policy(Mode::Registered)), 1);
    let origin = |n: u8| {
        Some(OriginSeed {
            id: PeerId([n; 20]),
            addrs: [SocketAddr::new([10, 1, 0, n].into(), 1)]
                .into_iter()
                .collect(),
        })
    };
    let table: Vec<_> = (0..10)
        .map(|n| if n == 3 { None } else { origin(n) })
        .collect();
    shard.set_origins(table.into());
    for slot in 0..10 {
        shard.register(at(0), HASH, Some(slot));
        shard.register(at(0), HASH, Some(slot));
    }
    tell(&mut shard, at(0), &request(99, 1, 5), asker("10.0.0.1", 1));
    let mut seen = HashSet::new();
    for _ in 0..200 {
        let told = tell(&mut shard, at(0), &request(98, 1, 5), asker("10.0.0.2", 1));
        assert_eq!(told.len(), ORIGINS_PER_REPLY + 1);
        assert_eq!(told.last().unwrap().id, Some(PeerId([99; 20])));
        seen.extend(told[..ORIGINS_PER_REPLY].iter().map(|peer| peer.addr));
    }
    assert_eq!(seen.len(), 9, "all that are awake, in turn");
    assert_eq!(shard.scrape(&HASH).complete, 9);
    // An origin that announces is answered, and not counted twice.
    let told = tell(&mut shard, at(0), &request(1, 1, 0), asker("10.1.0.1", 1));
    assert_eq!(told.len(), 2);
    assert_eq!(shard.scrape(&HASH).complete, 9);
}

#[test]
fn rate_and_stall_follow_what_is_left() {
    let mut shard = open();
    let peer = |shard: &Shard| *shard.swarm(&HASH).unwrap().v4().next().unwrap().1;
    tell(
        &mut shard,
        at(0),
        &request(1, 1, 1_000_000),
        asker("10.0.0.1", 1),
    );
    tell(
        &mut shard,
        at(10),
        &request(1, 1, 500_000),
        asker("10.0.0.1", 1),
    );
    assert_eq!((peer(&shard).rate, peer(&shard).advanced), (50_000, at(10)));
    tell(
        &mut shard,
        at(20),
        &request(1, 1, 500_000),
        asker("10.0.0.1", 1),
    );
    assert_eq!((peer(&shard).rate, peer(&shard).advanced), (0, at(10)));
    assert_eq!(peer(&shard).joined, at(0));
}
