//! Which runs of the blocks table are free.
//!
//! Invariant: free runs never touch (neighbours are one run), so a block fits
//! whenever its length is free in one piece. Every step takes O(log n).

use std::collections::{BTreeMap, BTreeSet};

use datapath::abi::BlockRef;

/// Gives out runs of a table, each from the smallest free run that holds it.
#[derive(Debug)]
pub(super) struct Ranges {
    /// Length of each free run, by its base.
    by_base: BTreeMap<u32, u32>,
    /// (length, base) of the same runs.
    by_length: BTreeSet<(u32, u32)>,
    used: u32,
}

impl Ranges {
    /// A table of `capacity` entries, all free.
    pub fn new(capacity: u32) -> Self {
        let mut ranges = Self { by_base: BTreeMap::new(), by_length: BTreeSet::new(), used: 0 };
        ranges.insert(0, capacity);
        ranges
    }

    /// A free run of a length above 0; `None`: there is none in one piece.
    pub fn allocate(&mut self, length: u32) -> Option<BlockRef> {
        let (found, base) = *self.by_length.range((length, 0)..).next()?;
        self.remove(base, found);
        self.insert(base + length, found - length);
        self.used += length;
        Some(BlockRef { base, len: length })
    }

    /// Takes a run that is in use already; false: it isn't free, or not in the table.
    pub fn claim(&mut self, run: BlockRef) -> bool {
        let Some(end) = run.base.checked_add(run.len) else { return false };
        let Some((&base, &length)) = self.by_base.range(..=run.base).next_back() else { return false };
        if run.len == 0 || end > base + length {
            return false;
        }
        self.remove(base, length);
        self.insert(base, run.base - base);
        self.insert(end, base + length - end);
        self.used += run.len;
        true
    }

    /// A run that was given out is free again; nobody may still read it.
    pub fn release(&mut self, run: BlockRef) {
        let (mut base, mut end) = (run.base, run.base + run.len);
        if let Some((&before, &length)) = self.by_base.range(..base).next_back()
            && before + length == base
        {
            self.remove(before, length);
            base = before;
        }
        if let Some(&length) = self.by_base.get(&end) {
            self.remove(end, length);
            end += length;
        }
        self.insert(base, end - base);
        self.used -= run.len;
    }

    /// How many entries are given out.
    pub fn used(&self) -> u32 {
        self.used
    }

    fn insert(&mut self, base: u32, length: u32) {
        if length > 0 {
            self.by_base.insert(base, length);
            self.by_length.insert((length, base));
        }
    }

    fn remove(&mut self, base: u32, length: u32) {
        self.by_base.remove(&base);
        self.by_length.remove(&(length, base));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAPACITY: u32 = 64;

    #[test]
    fn a_run_in_use_is_claimed_once() {
        let mut ranges = Ranges::new(10);
        let table = [((2, 3), true), ((4, 1), false), ((0, 2), true), ((5, 5), true), ((9, 2), false), ((0, 0), false)];
        for ((base, len), free) in table {
            assert_eq!(ranges.claim(BlockRef { base, len }), free, "{base}+{len}");
        }
        assert!(!ranges.claim(BlockRef { base: u32::MAX, len: 2 }));
        assert_eq!(ranges.used(), 10);
    }

    proptest! {
        /// Against a table of plain flags.
        #[test]
        fn runs_never_overlap_and_fit_whenever_they_can(steps in prop::collection::vec((any::<prop::sample::Index>(), 1u32..12), 1..200)) {
            let mut ranges = Ranges::new(CAPACITY);
            let mut flags = [false; CAPACITY as usize];
            let mut given: Vec<BlockRef> = vec![];
            for (pick, length) in steps {
                if length > 6 && !given.is_empty() {
                    let run = given.swap_remove(pick.index(given.len()));
                    flags[run.base as usize..(run.base + run.len) as usize].fill(false);
                    ranges.release(run);
                    continue;
                }
                let fits = flags.windows(length as usize).any(|run| run.iter().all(|used| !used));
                let run = ranges.allocate(length);
                prop_assert_eq!(run.is_some(), fits);
                if let Some(run) = run {
                    prop_assert_eq!(run.len, length);
                    let entries = &mut flags[run.base as usize..(run.base + run.len) as usize];
                    prop_assert!(entries.iter().all(|used| !used));
                    entries.fill(true);
                    given.push(run);
                }
                prop_assert_eq!(ranges.used() as usize, flags.iter().filter(|used| **used).count());
            }
        }
    }
}
