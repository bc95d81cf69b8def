//! The bitfield against a plain set.

use std::collections::BTreeSet;

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;
use torrents::{Bitfield, Geometry, PieceIndex};

proptest! {
    #[test]
    fn it_is_a_set_of_pieces(
        len in 1u32..300,
        changes in vec((any::<u32>(), any::<bool>()), 0..100),
    ) {
        let geometry = Geometry::new(len.into(), 1).expect("a piece a byte");
        let mut field = Bitfield::empty(len);
        let mut model = BTreeSet::new();
        for (piece, set) in changes {
            let piece = geometry.piece(piece % len).expect("in range");
            if set {
                prop_assert_eq!(field.insert(piece), model.insert(piece));
            } else {
                prop_assert_eq!(field.remove(piece), model.remove(&piece));
            }
        }
        prop_assert!(field.iter().eq(model.iter().copied()));
        prop_assert!(geometry.all_pieces().all(|p| field.contains(p) == model.contains(&p)));
        prop_assert_eq!(field.count() as usize, model.len());
        prop_assert_eq!(field.is_empty(), model.is_empty());
        prop_assert_eq!(field.is_full(), model.len() == len as usize);
        prop_assert_eq!(Bitfield::empty(len).lacks_any_of(&field), !field.is_empty());
        prop_assert_eq!(field.lacks_any_of(&Bitfield::full(len)), !field.is_full());
        prop_assert!(!Bitfield::full(len).lacks_any_of(&field));
        let mut wire = BytesMut::from(&b"before"[..]);
        field.put_wire(&mut wire);
        prop_assert_eq!(&wire[6..], &field.to_wire()[..]);
        prop_assert_eq!(Bitfield::from_wire(&wire[6..], len), Ok(field));
    }

    #[test]
    fn full_has_every_piece_and_no_spare_bit(len in 1u32..300) {
        let geometry = Geometry::new(len.into(), 1).expect("a piece a byte");
        let mut filled = Bitfield::empty(len);
        let all: Vec<PieceIndex> = geometry.all_pieces().collect();
        for &piece in &all {
            filled.insert(piece);
        }
        let full = Bitfield::full(len);
        prop_assert_eq!(&full, &filled);
        prop_assert!(full.iter().eq(all));
        let spare = len.next_multiple_of(8) - len;
        let last = full.to_wire().last().copied().expect("not empty");
        prop_assert_eq!(last.trailing_zeros(), spare);
    }
}
