//! Missing pieces, ordered by how many peers have them.
//!
//! One array holds the listed pieces, rarest class first; within a class the order is random
//! over the *whole* class, so that a thousand leechers of one seed ask it for a thousand
//! different pieces. A HAVE costs two swaps, a pick looks from the front.
//!
//! ```text
//! order  [ p7 p2 p9 | p1 p4 | p0 p3 p8 p5 ]
//!          class 0    class 1  class 2
//! ends   [         3       5            9 ]
//! ```
//!
//! Invariants: `order[place[p]] == p` for every listed `p`; class `a` is
//! `order[ends[a-1]..ends[a]]` and holds exactly the listed pieces with availability `a`.

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use crate::geometry::PieceIndex;

const UNLISTED: u32 = u32::MAX;

/// The order of rarity.
#[derive(Debug)]
pub(super) struct Rarity {
    available: Vec<u16>,
    order: Vec<u32>,
    place: Vec<u32>,
    ends: Vec<u32>,
}

impl Rarity {
    /// With the given pieces of `total` listed and no peer known.
    pub(super) fn new(
        total: u32,
        listed: impl Iterator<Item = PieceIndex>,
        rng: &mut Xoshiro256PlusPlus,
    ) -> Self {
        use rand::seq::SliceRandom;
        let mut order: Vec<u32> = listed.map(PieceIndex::get).collect();
        order.shuffle(rng);
        let mut place = vec![UNLISTED; total as usize];
        for (at, &piece) in (0..).zip(&order) {
            place[piece as usize] = at;
        }
        let ends = vec![u32::try_from(order.len()).unwrap_or(u32::MAX)];
        Self {
            available: vec![0; total as usize],
            order,
            place,
            ends,
        }
    }

    /// How many peers have the piece, seeds not counted.
    pub(super) fn available(&self, piece: PieceIndex) -> u16 {
        self.available[piece.at()]
    }

    /// Rarest first.
    pub(super) fn order(&self) -> &[u32] {
        &self.order
    }

    /// How many peers have the rarest listed piece.
    pub(super) fn least(&self) -> u16 {
        let rarest = self.order.first();
        rarest.map_or(u16::MAX, |&piece| self.available[piece as usize])
    }

    /// One more peer has the piece.
    pub(super) fn gain(&mut self, piece: PieceIndex, rng: &mut Xoshiro256PlusPlus) {
        let class = usize::from(self.available[piece.at()]);
        self.available[piece.at()] = self.available[piece.at()].saturating_add(1);
        if usize::from(self.available[piece.at()]) == class {
            return;
        }
        self.reach(class + 1);
        if self.place[piece.at()] == UNLISTED {
            return;
        }
        let last = self.ends[class] - 1;
        self.swap(self.place[piece.at()], last);
        self.ends[class] = last;
        self.scatter(last, class + 1, rng);
    }

    /// One peer fewer has the piece.
    pub(super) fn lose(&mut self, piece: PieceIndex, rng: &mut Xoshiro256PlusPlus) {
        let class = usize::from(self.available[piece.at()]);
        debug_assert!(class > 0, "a piece that nobody had is lost");
        let Some(below) = class.checked_sub(1) else {
            return;
        };
        self.available[piece.at()] -= 1;
        if self.place[piece.at()] == UNLISTED {
            return;
        }
        let first = self.ends[below];
        self.swap(self.place[piece.at()], first);
        self.ends[below] = first + 1;
        self.scatter(first, below, rng);
    }

    /// The piece is missing (again).
    pub(super) fn list(&mut self, piece: PieceIndex, rng: &mut Xoshiro256PlusPlus) {
        debug_assert_eq!(self.place[piece.at()], UNLISTED, "listed twice");
        let class = usize::from(self.available[piece.at()]);
        self.reach(class);
        let mut hole = u32::try_from(self.order.len()).unwrap_or(u32::MAX);
        self.order.push(piece.get());
        // Each class above gives its first place to the one below and takes one at its end.
        for above in (class + 1..self.ends.len()).rev() {
            let first = self.ends[above - 1];
            if first != hole {
                self.put(self.order[first as usize], hole);
                hole = first;
            }
            self.ends[above] += 1;
        }
        self.put(piece.get(), hole);
        self.ends[class] += 1;
        self.scatter(hole, class, rng);
    }

    /// The piece is being fetched: it is not to be picked.
    pub(super) fn unlist(&mut self, piece: PieceIndex) {
        let mut hole = self.place[piece.at()];
        debug_assert_ne!(hole, UNLISTED, "unlisted twice");
        let class = usize::from(self.available[piece.at()]);
        // Each class gives its last place to the one above.
        for above in class..self.ends.len() {
            self.ends[above] -= 1;
            let last = self.ends[above];
            if last != hole {
                self.put(self.order[last as usize], hole);
                hole = last;
            }
        }
        self.order.pop();
        self.place[piece.at()] = UNLISTED;
    }

    /// Makes sure that the class exists.
    fn reach(&mut self, class: usize) {
        let end = u32::try_from(self.order.len()).unwrap_or(u32::MAX);
        if self.ends.len() <= class {
            self.ends.resize(class + 1, end);
        }
    }

    /// Swaps the piece at `at` with a random one of its class.
    fn scatter(&mut self, at: u32, class: usize, rng: &mut Xoshiro256PlusPlus) {
        let start = class.checked_sub(1).map_or(0, |below| self.ends[below]);
        let other = rng.random_range(start..self.ends[class]);
        self.swap(at, other);
    }

    fn swap(&mut self, one: u32, other: u32) {
        let (a, b) = (self.order[one as usize], self.order[other as usize]);
        self.put(a, other);
        self.put(b, one);
    }

    fn put(&mut self, piece: u32, at: u32) {
        self.order[at as usize] = piece;
        self.place[piece as usize] = at;
    }

    /// Panics when an invariant does not hold.
    pub(super) fn check_invariants(&self) {
        let listed = self.place.iter().filter(|&&at| at != UNLISTED).count();
        assert_eq!(listed, self.order.len());
        assert_eq!(
            self.ends.last().map(|&end| end as usize),
            Some(self.order.len())
        );
        let mut start = 0;
        for (class, &end) in self.ends.iter().enumerate() {
            for at in start..end {
                let piece = self.order[at as usize] as usize;
                assert_eq!(self.place[piece], at);
                assert_eq!(usize::from(self.available[piece]), class);
            }
            start = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    const TOTAL: u32 = 12;

    #[derive(Debug, Clone)]
    enum Step {
        Gain(u32),
        Lose(u32),
        List(u32),
        Unlist(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        (0..4, 0..TOTAL).prop_map(|(kind, piece)| match kind {
            0 => Step::Gain(piece),
            1 => Step::Lose(piece),
            2 => Step::List(piece),
            _ => Step::Unlist(piece),
        })
    }

    proptest! {
        #[test]
        fn classes_agree_with_a_naive_count(steps in prop::collection::vec(step(), 0..300)) {
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
            let all = (0..TOTAL).map(PieceIndex);
            let mut rarity = Rarity::new(TOTAL, all, &mut rng);
            let mut counts = [0u16; TOTAL as usize];
            let mut listed = [true; TOTAL as usize];
            for step in steps {
                match step {
                    Step::Gain(p) => {
                        counts[p as usize] += 1;
                        rarity.gain(PieceIndex(p), &mut rng);
                    }
                    Step::Lose(p) if counts[p as usize] > 0 => {
                        counts[p as usize] -= 1;
                        rarity.lose(PieceIndex(p), &mut rng);
                    }
                    Step::List(p) if !listed[p as usize] => {
                        listed[p as usize] = true;
                        rarity.list(PieceIndex(p), &mut rng);
                    }
                    Step::Unlist(p) if listed[p as usize] => {
                        listed[p as usize] = false;
                        rarity.unlist(PieceIndex(p));
                    }
                    _ => {}
                }
                rarity.check_invariants();
                let ranks: Vec<u16> =
                    rarity.order().iter().map(|&p| counts[p as usize]).collect();
                prop_assert!(ranks.is_sorted());
                prop_assert_eq!(ranks.len(), listed.iter().filter(|&&l| l).count());
            }
        }
    }

    #[test]
    fn the_first_pick_is_random_over_the_whole_class() {
        let mut firsts = std::collections::BTreeMap::new();
        for seed in 0..4_000 {
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
            let mut rarity = Rarity::new(64, (0..64).map(PieceIndex), &mut rng);
            // Everything moves up one class, in order, as when a bitfield comes.
            for piece in 0..64 {
                rarity.gain(PieceIndex(piece), &mut rng);
            }
            *firsts.entry(rarity.order()[0]).or_insert(0u32) += 1;
        }
        assert_eq!(firsts.len(), 64);
        // 62.5 expected each; five standard deviations is under 40.
        assert!(
            firsts.values().all(|&n| (22..104).contains(&n)),
            "{firsts:?}"
        );
    }
}
