//! Content against a plain vector of bytes: any layout, any order of writes, reads, flushes and
//! restarts.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use leecher::{Content, LocalStore};
use proptest::prelude::*;
use support::{ForeignFile, multi, noise, numbers, single};
use torrents::Info;

#[derive(Debug, Clone)]
enum Step {
    /// Writes that piece as the torrent has it.
    Piece(prop::sample::Index),
    /// Writes anything anywhere, in slices of these lengths.
    Scribble(prop::sample::Index, Vec<usize>, u64),
    Read(prop::sample::Index, prop::sample::Index),
    Sync,
    /// Ends, cleanly or not, and opens again.
    Restart {
        clean: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        8 => index().prop_map(Step::Piece),
        4 => (index(), prop::collection::vec(0..5_000usize, 0..6), any::<u64>())
            .prop_map(|(at, lengths, seed)| Step::Scribble(at, lengths, seed)),
        6 => (index(), index()).prop_map(|(from, to)| Step::Read(from, to)),
        1 => Just(Step::Sync),
        2 => any::<bool>().prop_map(|clean| Step::Restart { clean }),
    ]
}

/// Lengths of files, and which are pads.
fn layout() -> impl Strategy<Value = Vec<(usize, bool)>> {
    let length = prop_oneof![2 => Just(0usize), 4 => 1..300usize, 4 => 1..40_000usize];
    let files = prop::collection::vec((length, prop::bool::weighted(0.2)), 1..8);
    files.prop_filter("an empty torrent is none", |files| {
        files.iter().any(|(length, pad)| *length > 0 && !pad)
    })
}

/// What the content should hold.
struct Model {
    info: Info,
    /// As the torrent says.
    wanted: Vec<u8>,
    /// As written so far.
    held: Vec<u8>,
    /// Bytes that cannot be written: pads.
    fixed: Vec<bool>,
    /// Pieces recorded since opening, or found right then.
    have: Vec<u32>,
}

impl Model {
    fn new(files: &[(usize, bool)], piece_len: usize) -> Self {
        let names: Vec<_> = (0..files.len())
            .map(|n| format!("d{}/f{n}", n % 3))
            .collect();
        let mut fixed = Vec::new();
        for (length, pad) in files {
            fixed.resize(fixed.len() + length, *pad);
        }
        let mut wanted = noise(fixed.len(), 7);
        // Some zeros, as images have.
        let half = wanted.len() / 2;
        wanted[half..half + half / 2].fill(0);
        wanted
            .iter_mut()
            .zip(&fixed)
            .filter(|(_, pad)| **pad)
            .for_each(|(byte, _)| *byte = 0);
        let list = names.iter().zip(files);
        let list: Vec<ForeignFile<'_>> = list
            .map(|(name, (length, pad))| (name.as_str(), *length, *pad))
            .collect();
        let info = match files {
            [_] => single("only", &wanted, u32::try_from(piece_len).unwrap()),
            _ => multi("many", &list, &wanted, piece_len),
        };
        Self {
            info,
            held: vec![0; wanted.len()],
            wanted,
            fixed,
            have: Vec::new(),
        }
    }

    fn piece(&self, index: usize) -> std::ops::Range<usize> {
        let len = self.info.geometry().piece_len() as usize;
        index * len..((index + 1) * len).min(self.wanted.len())
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        for (offset, byte) in (at..).zip(bytes) {
            if !self.fixed[offset] {
                self.held[offset] = *byte;
            }
        }
    }

    fn right(&self) -> Vec<u32> {
        (0..self.info.geometry().pieces())
            .filter(|n| self.held[self.piece(*n as usize)] == self.wanted[self.piece(*n as usize)])
            .collect()
    }

    fn apply(&mut self, content: &Content, step: &Step) {
        match step {
            Step::Piece(index) => {
                let index = index.index(self.info.geometry().pieces() as usize);
                let range = self.piece(index);
                let bytes = self.wanted[range.clone()].to_vec();
                content
                    .write_at(range.start as u64, &mut [IoSlice::new(&bytes)])
                    .unwrap();
                self.write(range.start, &bytes);
                let piece = self
                    .info
                    .geometry()
                    .piece(u32::try_from(index).unwrap())
                    .unwrap();
                content.record(piece);
                if !self.have.contains(&piece.get()) {
                    self.have.push(piece.get());
                }
            }
            Step::Scribble(at, lengths, seed) => {
                let at = at.index(self.wanted.len());
                let total = lengths.iter().sum::<usize>().min(self.wanted.len() - at);
                // An engine never writes over what is verified.
                if self.have.iter().any(|n| {
                    let piece = self.piece(*n as usize);
                    piece.start < at + total && at < piece.end
                }) {
                    return;
                }
                let bytes = noise(total, *seed);
                let mut rest = &bytes[..];
                let mut slices = Vec::new();
                for length in lengths {
                    let (slice, tail) = rest.split_at((*length).min(rest.len()));
                    slices.push(IoSlice::new(slice));
                    rest = tail;
                }
                content.write_at(at as u64, &mut slices).unwrap();
                self.write(at, &bytes);
            }
            Step::Read(from, to) => {
                let (from, to) = (from.index(self.wanted.len()), to.index(self.wanted.len()));
                let (from, to) = (from.min(to), from.max(to) + 1);
                let mut buf = vec![0xaa; to - from];
                content.read_at(from as u64, &mut buf).unwrap();
                assert_eq!(buf, self.held[from..to]);
                buf.fill(0xaa);
                let read = content.read_cached(from as u64, &mut buf).unwrap();
                assert_eq!(buf[..read], self.held[from..from + read]);
            }
            Step::Sync => content.sync().unwrap(),
            Step::Restart { .. } => {}
        }
    }
}

fn output(dir: &Path, info: &Info) -> Content {
    let mut last = 0;
    let content = Content::output(dir, info, true, |done| {
        assert!(done > last);
        last = done;
    });
    assert!(last == 0 || last == info.geometry().length());
    content.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn an_output_is_its_bytes(
        files in layout(),
        piece_len in prop::sample::select(vec![1_000usize, 16 << 10, 64 << 10]),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::new(&files, piece_len);
        let mut content = output(dir.path(), &model.info);
        for step in &steps {
            // What is complete at the start stays as it is.
            let full = model.have.len() == model.info.geometry().pieces() as usize;
            if full && matches!(step, Step::Piece(_) | Step::Scribble(..)) {
                continue;
            }
            model.apply(&content, step);
            if let Step::Restart { .. } = step {
                drop(content);
                content = output(dir.path(), &model.info);
                model.have = model.right();
                prop_assert_eq!(numbers(content.have().iter()), model.have.clone());
            }
        }
        let mut all = vec![0; model.held.len()];
        content.read_at(0, &mut all).unwrap();
        prop_assert_eq!(all, model.held);
    }

    #[test]
    fn a_store_never_claims_what_is_not_there_nor_forgets_what_is(
        length in 1..200_000usize,
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::new(&[(length, false)], 16 << 10);
        let mut store = LocalStore::open(dir.path()).unwrap();
        let mut content: Arc<Content> = store.begin("x", &model.info).unwrap();
        for step in &steps {
            model.apply(&content, step);
            if let Step::Restart { clean } = step {
                if *clean {
                    store.sync().unwrap();
                }
                drop((content, store));
                store = LocalStore::open(dir.path()).unwrap();
                content = store.begin("x", &model.info).unwrap();
                let have = numbers(content.have().iter());
                let right = model.right();
                prop_assert!(have.iter().all(|n| right.contains(n)));
                prop_assert!(model.have.iter().all(|n| have.contains(n)));
                model.have = have;
            }
        }
        for index in 0..model.info.geometry().pieces() {
            let range = model.piece(index as usize);
            let mut slices = [IoSlice::new(&model.wanted[range.clone()])];
            content.write_at(range.start as u64, &mut slices).unwrap();
            content.record(model.info.geometry().piece(index).unwrap());
        }
        let stored = store.commit("x").unwrap();
        prop_assert!(std::fs::read(stored.path).unwrap() == model.wanted);
    }
}
