//! The picker against a naive account of who owes and who delivered what.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::super::partial::Receipt;
use super::*;

const PIECES: u32 = 6;
const PEERS: u32 = 3;
const BLOCK: u32 = 16;

#[derive(Debug, Clone)]
enum Step {
    Gain(u32, u32),
    Pick(u32, usize, bool),
    Receive(u32, usize),
    Release(u32, usize),
    Judge(usize, bool),
    Window(u32, u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..PEERS, 0..PIECES).prop_map(|(peer, piece)| Step::Gain(peer, piece)),
        4 => (0..PEERS, 1..9usize, any::<bool>()).prop_map(|(p, n, s)| Step::Pick(p, n, s)),
        6 => (0..PEERS, 0..8usize).prop_map(|(peer, n)| Step::Receive(peer, n)),
        1 => (0..PEERS, 0..8usize).prop_map(|(peer, n)| Step::Release(peer, n)),
        2 => (0..4usize, any::<bool>()).prop_map(|(n, good)| Step::Judge(n, good)),
        1 => (0..PIECES, 0..PIECES).prop_map(|(from, to)| Step::Window(from, to)),
    ]
}

/// Who owes what, who gave what: nothing clever.
struct Model {
    picker: Picker,
    has: Vec<Pieces>,
    owes: Vec<Vec<Block>>,
    got: BTreeMap<Block, PeerKey>,
    verifying: Vec<PieceIndex>,
    have: BTreeSet<PieceIndex>,
    parole: BTreeSet<PieceIndex>,
}

impl Model {
    fn new() -> Self {
        let geometry = Geometry::new(u64::from(PIECES) * 64 - 20, 64).unwrap();
        let none = Bitfield::empty(PIECES);
        Self {
            picker: Picker::new(geometry, &none, BLOCK, 3 * 64, 5),
            has: vec![Pieces::None; PEERS as usize],
            owes: vec![Vec::new(); PEERS as usize],
            got: BTreeMap::new(),
            verifying: Vec::new(),
            have: BTreeSet::new(),
            parole: BTreeSet::new(),
        }
    }

    fn pick(&mut self, peer: u32, most: usize, slow: bool) {
        let at = peer as usize;
        let mut suggestions = VecDeque::new();
        let mut out = Vec::new();
        let mut ask = Ask {
            slot: Slot(peer),
            pieces: &self.has[at],
            suggestions: &mut suggestions,
            guided: false,
            guide: false,
            blocks: most,
            slow,
            suspect: false,
            only: None,
            now: Now::ZERO,
        };
        self.picker.pick(&mut ask, &mut out);
        assert!(out.len() <= most);
        for block in out {
            assert!(self.has[at].contains(block.piece), "it lacks {block:?}");
            assert!(!self.have.contains(&block.piece), "we have {block:?}");
            assert!(!self.got.contains_key(&block), "{block:?} is in");
            assert!(
                self.owes.iter().flatten().all(|&owed| owed != block),
                "{block:?} is owed"
            );
            if self.parole.contains(&block.piece) {
                let others = |(n, owes): (usize, &Vec<Block>)| {
                    n != at && owes.iter().any(|owed| owed.piece == block.piece)
                };
                assert!(
                    !self.owes.iter().enumerate().any(others),
                    "parole is shared"
                );
            }
            self.owes[at].push(block);
        }
    }

    fn receive(&mut self, peer: u32, n: usize) {
        let Some(&block) = self.owes[peer as usize].get(n) else {
            return;
        };
        self.owes[peer as usize].remove(n);
        let from = PeerKey(peer.into());
        let receipt = self
            .picker
            .receive(block, Slot(peer), from, true, Now::ZERO);
        assert!(self.got.insert(block, from).is_none());
        let all = self
            .picker
            .geometry
            .blocks(block.piece, BLOCK)
            .collect::<Vec<_>>();
        let complete = all.iter().all(|block| self.got.contains_key(block));
        let rivals = false;
        assert_eq!(receipt, Receipt::Useful { rivals, complete });
        if complete {
            self.verifying.push(block.piece);
        }
    }

    fn judge(&mut self, n: usize, good: bool) {
        if n >= self.verifying.len() {
            return;
        }
        let piece = self.verifying.remove(n);
        let blocks: Vec<Block> = self
            .got
            .keys()
            .copied()
            .filter(|b| b.piece == piece)
            .collect();
        let from: BTreeSet<PeerKey> = blocks.iter().map(|block| self.got[block]).collect();
        let told = if good {
            self.have.insert(piece);
            self.parole.remove(&piece);
            self.picker.verified(piece).unwrap()
        } else {
            let told = self.picker.corrupt(piece);
            self.got.retain(|block, _| block.piece != piece);
            if from.len() > 1 {
                self.parole.insert(piece);
            }
            told
        };
        assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), from);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Gain(peer, piece) => {
                let (pieces, piece) = (&mut self.has[peer as usize], PieceIndex(piece));
                if pieces.insert(piece, PIECES) {
                    self.picker.peer_gained(pieces, piece);
                }
            }
            Step::Pick(peer, most, slow) => self.pick(peer, most, slow),
            Step::Receive(peer, n) => self.receive(peer, n),
            Step::Release(peer, n) => {
                if n < self.owes[peer as usize].len() {
                    let block = self.owes[peer as usize].remove(n);
                    self.picker.release(block);
                }
            }
            Step::Judge(n, good) => self.judge(n, good),
            Step::Window(from, to) => self.picker.set_window(0, from..to, Now::ZERO),
        }
        self.picker.check_invariants();
        assert!(self.picker.open <= 1 || self.picker.open_bytes <= 3 * 64);
    }
}

proptest! {
    #[test]
    fn blocks_are_given_out_once_and_to_those_who_have_them(
        steps in prop::collection::vec(step(), 0..250)
    ) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
        }
    }
}

#[test]
fn whoever_has_everything_is_asked_for_everything_in_the_end() {
    let mut model = Model::new();
    for piece in 0..PIECES {
        model.step(Step::Gain(0, piece));
    }
    for _ in 0..100 {
        model.step(Step::Pick(0, 5, false));
        model.step(Step::Receive(0, 0));
        model.step(Step::Judge(0, true));
    }
    assert_eq!(model.have.len(), PIECES as usize);
}
