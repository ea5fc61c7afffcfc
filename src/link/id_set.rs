// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Sets of link ids that find the next free one as quickly when nearly all are taken.

use super::id::LinkId;

/// How many ids a word has.
const BITS: u16 = u64::BITS as u16;
const WORDS: usize = (u16::MAX / BITS) as usize + 1;

/// A set of link ids, a bit for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkIds(Box<[u64; WORDS]>);

impl Default for LinkIds {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl LinkIds {
    /// Adds an id.
    pub fn insert(&mut self, id: LinkId) {
        self.word(id, |word, bit| *word |= bit);
    }

    /// Removes an id.
    pub fn remove(&mut self, id: LinkId) {
        self.word(id, |word, bit| *word &= !bit);
    }

    /// Whether it has an id.
    pub fn contains(&self, id: LinkId) -> bool {
        let (word, bit) = place(id);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// How many ids it has.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first id from `first` on that it does not have; after the last id comes the first.
    pub fn free_from(&self, first: LinkId) -> Option<LinkId> {
        let (start, _) = place(first);
        let below = |bits: u16| (1u64 << bits) - 1;
        let before = below(first.number() % BITS);
        // The first word twice: the ids from `first` on, and at last those before it.
        (0..=WORDS).find_map(|step| {
            let at = (start + step) % WORDS;
            let mut taken = *self.0.get(at)?;
            match step {
                0 => taken |= before,
                WORDS => taken |= !before,
                _ => {}
            }
            // Those that no link has.
            taken |= u64::from(at == 0) | u64::from(at == WORDS - 1) << (BITS - 1);
            if taken == u64::MAX {
                return None;
            }
            LinkId::new(at as u16 * BITS + taken.trailing_ones() as u16).ok()
        })
    }

    fn word(&mut self, id: LinkId, change: impl FnOnce(&mut u64, u64)) {
        let (word, bit) = place(id);
        if let Some(word) = self.0.get_mut(word) {
            change(word, bit);
        }
    }
}

impl FromIterator<LinkId> for LinkIds {
    fn from_iter<T: IntoIterator<Item = LinkId>>(ids: T) -> Self {
        let mut set = Self::default();
        ids.into_iter().for_each(|id| set.insert(id));
        set
    }
}

/// The number of an id's word, and its bit there.
fn place(id: LinkId) -> (usize, u64) {
    (usize::from(id.number() / BITS), 1 << (id.number() % BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(number: u16) -> LinkId {
        LinkId::new(number).unwrap()
    }

    #[test]
    fn the_last_free_one_is_found_from_everywhere() {
        let mut set: LinkIds = (1..u16::MAX).map(id).collect();
        assert_eq!((set.len(), set.free_from(id(1))), (65_534, None));
        for free in [1, 63, 64, 65, 1000, 65_471, 65_472, 65_534] {
            set.remove(id(free));
            for first in [1, free, free.saturating_sub(1).max(1), (free + 1).min(65_534), 65_534] {
                assert_eq!(set.free_from(id(first)), Some(id(free)), "from {first}");
            }
            set.insert(id(free));
            assert_eq!(set.len(), 65_534);
        }
    }

    proptest! {
        #[test]
        fn it_is_the_next_one(taken in prop::collection::btree_set(1..300u16, 0..299), first in 1..300u16) {
            let set: LinkIds = taken.iter().copied().map(id).collect();
            let expected = (first..).find(|number| !taken.contains(number)).map(id);
            prop_assert_eq!(set.free_from(id(first)), expected);
        }
    }
}
