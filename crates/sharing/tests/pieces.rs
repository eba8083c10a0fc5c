//! Sets of pieces on the wire, and how pieces are cut into groups.

use proptest::prelude::*;
use sharing::pieces::{MAX_PIECES, MAX_SET_BYTES};
use sharing::{Layout, PieceSet};

fn set(count: u32, pieces: &[u32]) -> PieceSet {
    let mut set = PieceSet::none(count);
    for &piece in pieces {
        set.insert(piece % count.max(1));
    }
    set
}

#[test]
fn what_says_little_is_short() {
    for count in [0, 1, 63, 64, 65, 1260, MAX_PIECES] {
        for set in [PieceSet::none(count), PieceSet::all(count)] {
            let bytes = set.to_bytes();
            assert!(bytes.len() <= 8, "{count}: {} bytes", bytes.len());
            assert_eq!(PieceSet::from_bytes(&bytes), Ok(set));
        }
    }
    let mut worst = PieceSet::none(MAX_PIECES);
    (0..MAX_PIECES).step_by(2).for_each(|piece| {
        worst.insert(piece);
    });
    assert_eq!(worst.to_bytes().len(), MAX_SET_BYTES);
    assert_eq!(PieceSet::from_bytes(&worst.to_bytes()), Ok(worst));
}

#[test]
fn other_spellings_are_refused() {
    // A bitmap of 8 pieces where runs are shorter; a bit beyond the end; a count beyond all images; bytes left over; nothing.
    for bytes in [
        &[0, 8, 0xff, 0][..],
        &[0, 3, 0b1101],
        &[1, 0x81, 0x80, 0x04],
        &[1, 8, 0, 8, 0],
        &[1, 8, 0, 9],
        &[1, 0x80, 0x80, 0x80, 1],
        &[2, 8],
        &[],
    ] {
        assert!(PieceSet::from_bytes(bytes).is_err(), "{bytes:?}");
    }
    assert!(PieceSet::from_bytes(&vec![0; MAX_SET_BYTES + 1]).is_err());
}

proptest! {
    #[test]
    fn a_set_survives_its_spelling(count in 0..3000_u32, pieces in prop::collection::vec(any::<u32>(), 0..300), runs in prop::collection::vec((any::<u32>(), 0..200_u32), 0..6)) {
        let mut set = set(count, &pieces);
        for (start, length) in runs {
            let start = start % count.max(1);
            set.insert_range(start..(start + length).min(count));
        }
        let bytes = set.to_bytes();
        prop_assert!(bytes.len() <= MAX_SET_BYTES);
        prop_assert_eq!(PieceSet::from_bytes(&bytes), Ok(set.clone()));
        prop_assert_eq!(set.iter().count() as u32, set.len());
        prop_assert_eq!(set.runs().map(|run| run.end - run.start).sum::<u32>(), set.len());
    }

    #[test]
    fn bytes_are_a_set_in_one_spelling_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(set) = PieceSet::from_bytes(&bytes) {
            prop_assert_eq!(set.to_bytes(), bytes);
            prop_assert!(set.count() <= MAX_PIECES && set.len() <= set.count());
        }
    }

    #[test]
    fn sets_compare_piece_by_piece(count in 1..500_u32, a in prop::collection::vec(any::<u32>(), 0..200), b in prop::collection::vec(any::<u32>(), 0..200)) {
        let (a, b) = (set(count, &a), set(count, &b));
        let expected: Vec<u32> = (0..count).filter(|&piece| a.contains(piece) && b.contains(piece)).collect();
        prop_assert_eq!(a.meets(&b), !expected.is_empty());
        prop_assert_eq!(a.both(&b).collect::<Vec<_>>(), expected);
        let expected: Vec<u32> = (0..count).filter(|&piece| a.contains(piece) && !b.contains(piece)).collect();
        prop_assert_eq!(a.without(&b).collect::<Vec<_>>(), expected);
        let mut sum = a.clone();
        sum.add(&b);
        prop_assert!((0..count).all(|piece| sum.contains(piece) == (a.contains(piece) || b.contains(piece))));
        prop_assert_eq!(sum.iter().count() as u32, sum.len());
    }

    #[test]
    fn groups_are_neighbours_of_bounded_size(lengths in prop::collection::vec((1..300_000_u32, prop::bool::weighted(0.1)), 0..200), most in 1..2_000_000_u64) {
        let mut offset = 0;
        let pieces: Vec<(u64, u32)> = lengths.iter().map(|&(length, gap)| {
            let at = offset + if gap { 7 } else { 0 };
            offset = at + u64::from(length);
            (at, length)
        }).collect();
        let layout = Layout::new(pieces.clone(), most);
        prop_assert_eq!(layout.count() as usize, pieces.len());
        let mut at = 0;
        for group in 0..layout.group_count() {
            let range = layout.group(group);
            prop_assert_eq!(range.start, at);
            at = range.end;
            prop_assert!(range.len() <= 1 || layout.bytes(range.clone()) <= most);
            for pair in pieces[range.start as usize..range.end as usize].windows(2) {
                prop_assert_eq!(pair[0].0 + u64::from(pair[0].1), pair[1].0);
            }
            prop_assert!(range.clone().all(|piece| layout.group_of(piece) == group));
        }
        prop_assert_eq!(at, layout.count());
    }
}
