//! A set of small numbers that finds its next member after a given one in a few steps, however full or empty it is.
//!
//! Each level has one bit for 64 of the level below: three levels for a quarter of a million numbers.

#[derive(Debug, Clone)]
pub(super) struct Bitmap {
    levels: Vec<Vec<u64>>,
}

impl Bitmap {
    /// The empty set of numbers below `size`.
    pub(super) fn new(size: u32) -> Self {
        let mut levels = Vec::new();
        let mut words = (size as usize).div_ceil(64).max(1);
        loop {
            levels.push(vec![0; words]);
            if words == 1 {
                return Self { levels };
            }
            words = words.div_ceil(64);
        }
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        let at = number as usize;
        self.levels[0].get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// Puts a number in or takes it out.
    pub(super) fn set(&mut self, number: u32, member: bool) {
        let mut at = number as usize;
        for level in &mut self.levels {
            let word = &mut level[at / 64];
            let bit = 1 << (at % 64);
            let before = *word;
            *word = if member { before | bit } else { before & !bit };
            // The level above knows only whether a word is empty.
            if (before == 0) == (*word == 0) {
                return;
            }
            at /= 64;
        }
    }

    fn next(&self, from: u32) -> Option<u32> {
        let mut at = from as usize;
        for (level, words) in self.levels.iter().enumerate() {
            let word = at / 64;
            let rest = words.get(word)? & (!0 << (at % 64));
            if rest != 0 {
                let mut found = word * 64 + rest.trailing_zeros() as usize;
                for below in self.levels[..level].iter().rev() {
                    found = found * 64 + below[found].trailing_zeros() as usize;
                }
                return Some(found as u32);
            }
            at = word + 1;
        }
        None
    }

    /// The first member from `from` on, and from the beginning after the end.
    pub(super) fn next_around(&self, from: u32) -> Option<u32> {
        self.next(from).or_else(|| self.next(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(size in 1u32..10_000, steps in prop::collection::vec((any::<u32>(), any::<bool>(), any::<u32>()), 0..200)) {
            let (mut bitmap, mut set) = (Bitmap::new(size), BTreeSet::new());
            for (number, member, from) in steps {
                let (number, from) = (number % size, from % size);
                bitmap.set(number, member);
                if member { set.insert(number); } else { set.remove(&number); }
                prop_assert_eq!(bitmap.contains(number), member);
                let want = set.range(from..).next().or_else(|| set.iter().next()).copied();
                prop_assert_eq!(bitmap.next_around(from), want);
            }
        }
    }
}
