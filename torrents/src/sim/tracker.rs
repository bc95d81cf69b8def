//! The trackers: who is told of whom.
//!
//! As ours do it: origins first, then seeds and leechers in equal parts, each at random among
//! those who announced before. A layer's trackers are ordered by its hash, the same order on
//! every host, which announces to the first two. The dead stay listed: no tracker knows of them
//! in the time a flash crowd takes.

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

use super::HostId;

/// Trackers a host announces each layer to.
const WIDTH: usize = 2;
/// Origins in one reply at most.
const ORIGINS: usize = 8;

/// One layer's list at one tracker.
#[derive(Debug, Default)]
struct List {
    origins: Vec<HostId>,
    seeds: Vec<HostId>,
    leechers: Vec<HostId>,
    /// Where each host is: in `leechers`, or in `seeds`.
    place: Vec<Option<(bool, usize)>>,
}

/// All trackers.
#[derive(Debug)]
pub(super) struct Trackers {
    pub(super) up: bool,
    /// By layer and the trackers that it is announced to.
    lists: Vec<Vec<List>>,
}

impl Trackers {
    pub(super) fn new(layers: usize, trackers: usize) -> Self {
        let width = trackers.clamp(1, WIDTH);
        let lists = || (0..width).map(|_| List::default()).collect();
        Self {
            up: true,
            lists: (0..layers).map(|_| lists()).collect(),
        }
    }

    /// An origin seeds the layer.
    pub(super) fn register(&mut self, layer: usize, host: HostId) {
        for list in &mut self.lists[layer] {
            list.origins.push(host);
        }
    }

    /// The host announces the layer to each of its trackers and is told of up to so many others
    /// by each.
    pub(super) fn announce(
        &mut self,
        layer: usize,
        host: HostId,
        complete: bool,
        numwant: usize,
        rng: &mut Xoshiro256PlusPlus,
    ) -> Vec<HostId> {
        let mut told = Vec::new();
        for list in &mut self.lists[layer] {
            if !complete {
                list.select(host, numwant, rng, &mut told);
            }
            list.store(host, complete);
        }
        told
    }
}

impl List {
    fn store(&mut self, host: HostId, complete: bool) {
        let at = host.0 as usize;
        if self.place.len() <= at {
            self.place.resize(at + 1, None);
        }
        match self.place[at] {
            Some((was, _)) if was == complete => return,
            Some((_, place)) => {
                let part = if complete {
                    &mut self.leechers
                } else {
                    &mut self.seeds
                };
                part.swap_remove(place);
                if let Some(moved) = part.get(place) {
                    self.place[moved.0 as usize] = Some((!complete, place));
                }
            }
            None => {}
        }
        let part = if complete {
            &mut self.seeds
        } else {
            &mut self.leechers
        };
        self.place[at] = Some((complete, part.len()));
        part.push(host);
    }

    fn select(
        &self,
        us: HostId,
        numwant: usize,
        rng: &mut Xoshiro256PlusPlus,
        told: &mut Vec<HostId>,
    ) {
        let most = ORIGINS.min(numwant);
        let turn = if self.origins.len() > most {
            rng.random_range(0..self.origins.len())
        } else {
            0
        };
        let (tail, head) = self.origins.split_at(turn);
        let first = told.len();
        told.extend(
            head.iter()
                .chain(tail)
                .take(most)
                .filter(|&&host| host != us),
        );
        let room = numwant - (told.len() - first);
        let half = (room / 2).max(room.saturating_sub(self.leechers.len()));
        let seeds = self.seeds.len().min(half);
        let first = told.len();
        for (part, wanted) in [(&self.seeds, seeds), (&self.leechers, room - seeds)] {
            let wanted = wanted.min(part.len());
            let chosen = rand::seq::index::sample(rng, part.len(), wanted);
            told.extend(
                chosen
                    .into_iter()
                    .map(|at| part[at])
                    .filter(|&host| host != us),
            );
        }
        told[first..].shuffle(rng);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_reply_names_origins_first_and_only_those_who_came_before() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut trackers = Trackers::new(1, 1);
        trackers.register(0, HostId(0));
        for host in 1..100 {
            let told = trackers.announce(0, HostId(host), false, 20, &mut rng);
            assert_eq!(told[0], HostId(0));
            assert_eq!(told.len(), 20.min(host as usize));
            assert!(told.iter().all(|other| other.0 < host));
        }
    }

    #[test]
    fn who_completes_is_told_as_a_seed() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut trackers = Trackers::new(1, 5);
        for host in 0..50 {
            trackers.announce(0, HostId(host), false, 0, &mut rng);
        }
        for host in (0..50).step_by(3) {
            trackers.announce(0, HostId(host), true, 0, &mut rng);
        }
        let list = &trackers.lists[0][0];
        assert_eq!((list.seeds.len(), list.leechers.len()), (17, 33));
        for (at, place) in list.place.iter().enumerate() {
            let (seed, index) = place.unwrap();
            let part = if seed { &list.seeds } else { &list.leechers };
            assert_eq!((seed, part[index].0 as usize), (at % 3 == 0, at));
        }
    }
}
