//! Who sent wrong bytes: fingerprints of the blocks of bad pieces, compared with a good copy.
//!
//! A bad piece with one source is proof at once, and the machine acts on it. With several, each
//! block's fingerprint is kept beside its source until a good copy of the piece comes: whoever's
//! block differs lied.

use std::collections::BTreeMap;

use torrents::PieceIndex;
use torrents::swarm::PeerKey;

use crate::hashing::Fingerprint;

/// Bad pieces remembered.
const MAX_PIECES: usize = 64;
/// Bad copies remembered of one piece.
const MAX_COPIES: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Blame {
    bad: BTreeMap<PieceIndex, Vec<Copy>>,
}

#[derive(Debug)]
struct Copy {
    from: Vec<PeerKey>,
    fingerprints: Vec<Fingerprint>,
}

impl Blame {
    /// Whether a good copy of the piece would tell something.
    pub(crate) fn suspects(&self, piece: PieceIndex) -> bool {
        self.bad.contains_key(&piece)
    }

    /// A piece was bad.
    pub(crate) fn corrupt(
        &mut self,
        piece: PieceIndex,
        from: Vec<PeerKey>,
        fingerprints: Vec<Fingerprint>,
    ) {
        let alone = from.iter().all(|peer| from.first() == Some(peer));
        if alone || (self.bad.len() >= MAX_PIECES && !self.bad.contains_key(&piece)) {
            return;
        }
        let copies = self.bad.entry(piece).or_default();
        if copies.len() < MAX_COPIES {
            copies.push(Copy { from, fingerprints });
        }
    }

    /// A good copy came: those whose blocks differed, each once.
    pub(crate) fn verified(&mut self, piece: PieceIndex, good: &[Fingerprint]) -> Vec<PeerKey> {
        let mut liars: Vec<_> = self
            .bad
            .remove(&piece)
            .into_iter()
            .flatten()
            .flat_map(|copy| copy.from.into_iter().zip(copy.fingerprints))
            .zip(good.iter().cycle())
            .filter(|((_, said), right)| said != *right)
            .map(|((peer, _), _)| peer)
            .collect();
        liars.sort_unstable();
        liars.dedup();
        liars
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use torrents::Geometry;

    #[test]
    fn only_those_whose_blocks_differed_lied() {
        let piece = Geometry::new(16_384, 16_384).unwrap().piece(0).unwrap();
        let (honest, liar, other) = (PeerKey(1), PeerKey(2), PeerKey(3));
        let mut blame = Blame::default();
        blame.corrupt(piece, vec![liar; 2], vec![[0; 20]; 2]);
        assert!(!blame.suspects(piece), "the machine judges that one");
        blame.corrupt(piece, vec![honest, liar], vec![[1; 20], [9; 20]]);
        blame.corrupt(piece, vec![liar, other], vec![[8; 20], [2; 20]]);
        assert!(blame.suspects(piece));
        assert_eq!(blame.verified(piece, &[[1; 20], [2; 20]]), [liar]);
        assert!(!blame.suspects(piece));
    }
}
