//! A flash crowd by its numbers: so many hosts pull the same layers at once.
//!
//! Chance (who is slow, who dies, when each comes) is drawn from the seed alone.

use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::{Behaviour, HostId, HostSpec, Network, Simulation, time_for};
use crate::geometry::{Geometry, GeometryError};
use crate::hashing::piece_len_for;
use crate::swarm::{Now, Settings};

/// So many events between two calls of the onlooker.
const GLANCE: u64 = 1 << 16;
/// A host that comes back does so after this long.
const AWAY: Duration = Duration::from_secs(2);

/// What is to be simulated.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Crowd {
    /// Hosts that pull.
    pub hosts: u32,
    /// Hosts that have everything, known to every tracker.
    pub origins: u32,
    /// The length of each layer.
    pub layers: Vec<u64>,
    /// Instead of the real piece length.
    pub piece_len: Option<u64>,
    /// Bytes a second of every link, both ways.
    pub rate: u64,
    /// Of the origins' links, if other.
    pub origin_rate: Option<u64>,
    /// The share of hosts whose links are slow.
    pub slow: f64,
    /// Bytes a second of slow links.
    pub slow_rate: u64,
    /// The share of hosts that die in mid-pull; half of them come back with what they had, for
    /// each of the others a new host comes.
    pub churn: f64,
    /// Connections that break each second.
    pub cuts: u32,
    /// Hosts that claim everything and send wrong bytes, besides the others.
    pub liars: u32,
    /// Hosts that claim everything and answer nothing, besides the others.
    pub stallers: u32,
    /// All hosts come within so long.
    pub spread: Duration,
    /// A runtime reads every layer as it comes, and wants so many bytes ahead.
    pub reader: Option<u64>,
    /// What the machines are told. Its block length is the simulated one.
    pub settings: Settings,
    /// Between them.
    pub network: Network,
    /// For every choice.
    pub seed: u64,
    /// When it is given up.
    pub limit: Duration,
}

impl Default for Crowd {
    fn default() -> Self {
        let network = Network {
            coalesce: Duration::from_millis(1),
            ..Network::default()
        };
        Self {
            hosts: 100,
            origins: 1,
            layers: vec![500_000_000; 2],
            piece_len: None,
            rate: 300_000_000,
            origin_rate: None,
            slow: 0.0,
            slow_rate: 30_000_000,
            churn: 0.0,
            cuts: 0,
            liars: 0,
            stallers: 0,
            spread: Duration::from_secs(1),
            reader: None,
            settings: Settings::default(),
            network,
            seed: 1,
            limit: Duration::from_secs(600),
        }
    }
}

/// Numbers that make no crowd.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CrowdError {
    /// A layer without bytes, or with too many.
    #[error("a layer of {length} bytes in pieces of {piece_len}: {source}")]
    Layer {
        /// Its length.
        length: u64,
        /// Its pieces'.
        piece_len: u64,
        /// Why not.
        source: GeometryError,
    },
    /// Nobody pulls anything.
    #[error("there must be at least one host and one layer")]
    Empty,
    /// More than addresses.
    #[error("at most {most} hosts can be told apart")]
    TooMany {
        /// How many.
        most: u32,
    },
}

/// How far it is.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Progress {
    /// The simulated time.
    pub now: Now,
    /// Pieces verified by all hosts.
    pub pieces: u64,
    /// Pieces there are, for all hosts.
    pub of: u64,
    /// Events so far.
    pub events: u64,
}

/// What came of it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// How long each host took that finished, from when it came, shortest first.
    pub took: Vec<Duration>,
    /// When each of them was done, earliest first.
    pub done: Vec<Now>,
    /// Hosts that did not finish.
    pub unfinished: usize,
    /// Hosts that died and did not come back.
    pub died: usize,
    /// What the origins sent together.
    pub origin_bytes: u64,
    /// What all hosts received.
    pub downloaded: u64,
    /// One copy of all layers.
    pub copy: u64,
    /// Pieces with a wrong hash.
    pub corrupt: u64,
    /// The simulated time at the end.
    pub now: Now,
    /// How many events it took.
    pub events: u64,
    /// See [`Simulation::trace`].
    pub trace: u64,
}

impl Report {
    /// The time within which so many of a thousand hosts finished, of those that did.
    pub fn per_mille(&self, of: usize) -> Option<Duration> {
        let rank = (self.took.len() * of).div_ceil(1000).max(1);
        self.took.get(rank - 1).copied()
    }

    /// Copies of all layers that the origins sent.
    #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn origin_copies(&self) -> f64 {
        self.origin_bytes as f64 / self.copy as f64
    }
}

impl Crowd {
    /// Layers of these lengths in pieces.
    fn geometries(&self) -> Result<Vec<Geometry>, CrowdError> {
        let geometry = |&length: &u64| {
            let piece_len = self.piece_len.unwrap_or(piece_len_for(length).into());
            Geometry::new(length, piece_len).map_err(|source| CrowdError::Layer {
                length,
                piece_len,
                source,
            })
        };
        self.layers.iter().map(geometry).collect()
    }

    /// All hosts, each with its fate.
    pub fn build(&self) -> Result<Simulation, CrowdError> {
        const MOST: u32 = 1 << 23;
        if self.hosts == 0 || self.layers.is_empty() {
            return Err(CrowdError::Empty);
        }
        let others = [self.origins, self.liars, self.stallers];
        let total = others.iter().map(|&n| u64::from(n)).sum::<u64>() + u64::from(self.hosts);
        if total > u64::from(MOST) {
            return Err(CrowdError::TooMany { most: MOST });
        }
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(self.seed);
        let seed = rng.random();
        let network = self.network.clone();
        let mut sim = Simulation::with_layers(self.geometries()?, network, seed);
        self.join_complete(&mut sim);
        self.join_hosts(&mut sim, &mut rng);
        Ok(sim)
    }

    fn spec(&self, rate: u64) -> HostSpec {
        let mut spec = HostSpec::new(rate);
        spec.settings = self.settings.clone();
        spec
    }

    fn join_complete(&self, sim: &mut Simulation) {
        let rate = self.origin_rate.unwrap_or(self.rate);
        let kinds = [
            (self.origins, rate, Behaviour::Honest),
            (self.liars, self.rate, Behaviour::Liar { one_in: 1 }),
            (self.stallers, self.rate, Behaviour::Staller),
        ];
        for (number, rate, behaviour) in kinds {
            for _ in 0..number {
                let mut spec = self.spec(rate);
                spec.complete = true;
                spec.origin = behaviour == Behaviour::Honest;
                spec.behaviour = behaviour;
                sim.join(spec, Now::ZERO);
            }
        }
    }

    fn join_hosts(&self, sim: &mut Simulation, rng: &mut Xoshiro256PlusPlus) {
        let mut slow = self.share(self.slow, rng);
        let mut dying = self.share(self.churn, rng);
        let within = |rng: &mut Xoshiro256PlusPlus, range: Duration| {
            let nanos = u64::try_from(range.as_nanos()).unwrap_or(u64::MAX);
            Duration::from_nanos(rng.random_range(0..=nanos))
        };
        let mut returns = true;
        for _ in 0..self.hosts {
            let rate = if slow.pop() == Some(true) {
                self.slow_rate
            } else {
                self.rate
            };
            let mut spec = self.spec(rate);
            spec.reader = self.reader;
            let comes = within(rng, self.spread);
            let host = sim.join(spec.clone(), comes);
            if dying.pop() == Some(true) {
                let ideal = time_for(self.layers.iter().sum(), rate);
                let dies = comes + within(rng, ideal);
                sim.leave(host, dies);
                if returns {
                    sim.come_back(host, dies + AWAY);
                } else {
                    sim.join(spec, dies + AWAY);
                }
                returns = !returns;
            }
        }
        for second in 0..self.limit.as_secs() {
            for n in 0..self.cuts {
                let part = Duration::from_secs(1) / self.cuts * n;
                sim.cut_one(Duration::from_secs(second) + part);
            }
        }
    }

    /// Which of the hosts are among so large a share of them.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a number of hosts, rounded"
    )]
    fn share(&self, share: f64, rng: &mut Xoshiro256PlusPlus) -> Vec<bool> {
        let chosen = (f64::from(self.hosts) * share.clamp(0.0, 1.0)).round() as u32;
        let mut all: Vec<bool> = (0..self.hosts).map(|host| host < chosen).collect();
        all.shuffle(rng);
        all
    }

    /// Runs it. The onlooker is told how far it is now and then and ends it by `false`.
    pub fn run(&self, mut onlooker: impl FnMut(Progress) -> bool) -> Result<Report, CrowdError> {
        let mut sim = self.build()?;
        let pieces: u64 = self
            .geometries()?
            .iter()
            .map(|g| u64::from(g.pieces()))
            .sum();
        while !sim.is_done() && sim.step(self.limit) {
            if sim.events().is_multiple_of(GLANCE) {
                let progress = Progress {
                    now: sim.now(),
                    pieces: sim.progress(),
                    of: pieces * u64::from(self.hosts),
                    events: sim.events(),
                };
                if !onlooker(progress) {
                    break;
                }
            }
        }
        Ok(self.report(&sim))
    }

    fn report(&self, sim: &Simulation) -> Report {
        let all = || sim.hosts().map(|id| (id, sim.outcome(id)));
        let pullers = || all().filter(|(id, _)| self.pulls(*id));
        let mut took = Vec::new();
        let mut done = Vec::new();
        let (mut died, mut unfinished) = (0, 0);
        for (id, outcome) in pullers() {
            match outcome.completed {
                Some(at) => {
                    took.push(at - outcome.joined);
                    done.push(at);
                }
                None if sim.is_gone(id) => died += 1,
                None => unfinished += 1,
            }
        }
        took.sort_unstable();
        done.sort_unstable();
        Report {
            took,
            done,
            unfinished,
            died,
            origin_bytes: all()
                .filter(|(id, _)| id.0 < self.origins)
                .map(|(_, outcome)| outcome.uploaded)
                .sum(),
            downloaded: pullers().map(|(_, outcome)| outcome.downloaded).sum(),
            copy: self.layers.iter().sum(),
            corrupt: pullers()
                .map(|(_, outcome)| u64::from(outcome.corrupt))
                .sum(),
            now: sim.now(),
            events: sim.events(),
            trace: sim.trace(),
        }
    }

    /// Neither an origin nor a liar nor a staller.
    fn pulls(&self, host: HostId) -> bool {
        host.0 >= self.origins + self.liars + self.stallers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Crowd {
        let settings = Settings {
            block_len: 256 << 10,
            ..Settings::default()
        };
        Crowd {
            hosts: 40,
            origins: 2,
            layers: vec![20_000_000, 10_000_000],
            settings,
            rate: 100_000_000,
            spread: Duration::from_millis(50),
            limit: Duration::from_secs(60),
            ..Crowd::default()
        }
    }

    #[test]
    fn a_crowd_of_two_layers_shares_one_link_and_repeats() {
        let crowd = small();
        let first = crowd.run(|_| true).unwrap();
        assert_eq!((first.took.len(), first.unfinished), (40, 0));
        // 30 MB at 100 MB/s: nobody is faster than its link.
        let ideal = Duration::from_millis(300);
        assert!(first.per_mille(1).unwrap() >= ideal, "{first:?}");
        assert!(first.per_mille(500).unwrap() < ideal * 3, "{first:?}");
        assert!(first.took.is_sorted() && first.done.is_sorted());
        let again = crowd.run(|_| true).unwrap();
        assert_eq!((first.trace, first.events), (again.trace, again.events));
        let other = Crowd { seed: 2, ..crowd };
        assert_ne!(other.run(|_| true).unwrap().trace, first.trace);
    }

    #[test]
    fn slow_hosts_churn_liars_and_stallers_do_not_keep_the_others() {
        let mut crowd = small();
        crowd.slow = 0.1;
        crowd.slow_rate = 10_000_000;
        crowd.churn = 0.2;
        crowd.liars = 2;
        crowd.stallers = 2;
        crowd.cuts = 20;
        crowd.reader = Some(1 << 20);
        let report = crowd.run(|_| true).unwrap();
        // Eight die; for four of them others come.
        assert_eq!(report.unfinished, 0);
        assert_eq!(report.died + report.took.len(), 44, "{report:?}");
    }

    #[test]
    fn numbers_without_sense_are_refused() {
        let mut crowd = small();
        crowd.hosts = 0;
        assert!(matches!(crowd.build(), Err(CrowdError::Empty)));
        let mut crowd = small();
        crowd.layers = vec![0];
        assert!(matches!(crowd.build(), Err(CrowdError::Layer { .. })));
    }
}
