//! What a watcher wants to hear of, and who wants to hear of a key.
//!
//! Watchers that want the same hear the same: they share one [`Interest`], and what is made for one of them is made for all.
//! The [`Index`] finds the interests in a key. Single keys, which most watchers watch, are found by one look into a map; ranges
//! stand in blocks, ordered by where they begin, and a block that reaches no further than the key is passed over whole. Both
//! are the same whatever the order of insertion was, so what is told does not depend on it.

use crate::machine::Event;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Where a range ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// With its first key: it is one key.
    Key,
    /// Before this key.
    Before(Bytes),
    /// Nowhere.
    Never,
}

impl End {
    /// Whether a range that begins at or before `key` reaches it.
    fn is_beyond(&self, key: &[u8]) -> bool {
        match self {
            End::Key => false,
            End::Before(end) => key < end,
            End::Never => true,
        }
    }
}

/// What a watcher wants to hear of, and how it wants to be told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interest {
    /// The first key.
    pub key: Bytes,
    /// Where the range ends.
    pub end: End,
    /// Whether it hears of puts.
    pub puts: bool,
    /// Whether it hears of deletions.
    pub deletes: bool,
    /// Whether it is told what was there before.
    pub prev_kv: bool,
    /// Whether one revision may be told in several answers.
    pub fragment: bool,
}

impl Interest {
    /// Whether an event of a key in the range is of the kind that is wanted.
    pub fn wants(&self, event: &Event) -> bool {
        if event.deleted { self.deletes } else { self.puts }
    }

    /// The end of the range as a request names it.
    pub fn range_end(&self) -> Bytes {
        match &self.end {
            End::Key => Bytes::new(),
            End::Before(end) => end.clone(),
            End::Never => Bytes::from_static(&[0]),
        }
    }
}

/// Ranges in a block, at most; a full one is split in two.
const BLOCK: usize = 128;

/// Who is interested in which key. Interests are known by a number.
#[derive(Debug, Default)]
pub struct Index {
    keys: BTreeMap<Bytes, Vec<u64>>,
    /// Ordered by (first key, number), over all blocks; none is empty.
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Block {
    ranges: Vec<(Bytes, End, u64)>,
    /// The farthest end in it.
    reach: End,
}

impl Block {
    fn of(ranges: Vec<(Bytes, End, u64)>) -> Block {
        // `End` is ordered by how far it reaches.
        let reach = ranges.iter().map(|(_, end, _)| end).max().cloned().unwrap_or(End::Key);
        Block { ranges, reach }
    }
}

impl Index {
    /// Whether nobody is interested in anything.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.blocks.is_empty()
    }

    /// Adds an interest, which is not in it.
    pub fn insert(&mut self, interest: &Interest, number: u64) {
        if interest.end == End::Key {
            self.keys.entry(interest.key.clone()).or_default().push(number);
            return;
        }
        let range = (interest.key.clone(), interest.end.clone(), number);
        let Some(at) = self.block(&interest.key, number) else {
            self.blocks.insert(0, Block::of(vec![range]));
            return;
        };
        let block = &mut self.blocks[at];
        let place = block.ranges.partition_point(|(key, _, other)| (key, other) < (&interest.key, &number));
        block.reach = std::cmp::max(block.reach.clone(), interest.end.clone());
        block.ranges.insert(place, range);
        if block.ranges.len() > BLOCK {
            let upper = block.ranges.split_off(BLOCK / 2);
            let lower = std::mem::take(&mut block.ranges);
            self.blocks[at] = Block::of(lower);
            self.blocks.insert(at + 1, Block::of(upper));
        }
    }

    /// Takes an interest out, which is in it.
    pub fn remove(&mut self, interest: &Interest, number: u64) {
        if interest.end == End::Key {
            if let Some(numbers) = self.keys.get_mut(&interest.key) {
                numbers.retain(|other| *other != number);
                if numbers.is_empty() {
                    self.keys.remove(&interest.key);
                }
            }
            return;
        }
        let Some(at) = self.block(&interest.key, number) else { return };
        let mut ranges = std::mem::take(&mut self.blocks[at].ranges);
        ranges.retain(|(_, _, other)| *other != number);
        if ranges.is_empty() {
            self.blocks.remove(at);
        } else {
            self.blocks[at] = Block::of(ranges);
        }
    }

    /// Names the interests in `key`.
    pub fn each(&self, key: &[u8], found: &mut impl FnMut(u64)) {
        self.keys.get(key).into_iter().flatten().for_each(|number| found(*number));
        for block in &self.blocks {
            if block.ranges.first().is_none_or(|(first, _, _)| first.as_ref() > key) {
                break;
            }
            if block.reach.is_beyond(key) {
                let begun = block.ranges.iter().take_while(|(first, _, _)| first.as_ref() <= key);
                begun.filter(|(_, end, _)| end.is_beyond(key)).for_each(|(_, _, number)| found(*number));
            }
        }
    }

    /// The block where a range belongs; the first one if it comes before all of them.
    fn block(&self, key: &Bytes, number: u64) -> Option<usize> {
        let begins_before =
            |block: &Block| block.ranges.first().is_some_and(|(first, _, other)| (first, other) <= (key, &number));
        let after = self.blocks.partition_point(begins_before);
        if self.blocks.is_empty() { None } else { Some(after.saturating_sub(1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn interest(key: &[u8], end: End) -> Interest {
        let key = Bytes::copy_from_slice(key);
        Interest { key, end, puts: true, deletes: true, prev_kv: false, fragment: false }
    }

    fn covers(interest: &Interest, key: &[u8]) -> bool {
        match &interest.end {
            End::Key => interest.key == key,
            End::Before(end) => interest.key.as_ref() <= key && key < end.as_ref(),
            End::Never => interest.key.as_ref() <= key,
        }
    }

    proptest! {
        #[test]
        fn the_index_finds_whom_a_walk_through_all_of_them_finds(
            ranges in prop::collection::vec((0u8..60, 0u8..64, any::<bool>()), 1..700),
            probe in prop::collection::vec(0u8..64, 8),
        ) {
            let mut index = Index::default();
            let mut kept = Vec::new();
            for (number, (first, end, _)) in ranges.iter().enumerate() {
                let end = match end {
                    0..20 => End::Key,
                    20 => End::Never,
                    end => End::Before(Bytes::copy_from_slice(&[*end])),
                };
                let interest = interest(&[*first], end);
                index.insert(&interest, number as u64);
                kept.push((number as u64, interest));
            }
            kept.retain(|(number, interest)| {
                let goes = ranges[*number as usize].2;
                if goes {
                    index.remove(interest, *number);
                }
                !goes
            });
            for key in probe {
                let mut found = Vec::new();
                index.each(&[key], &mut |number| found.push(number));
                found.sort_unstable();
                let expected: Vec<u64> =
                    kept.iter().filter(|(_, interest)| covers(interest, &[key])).map(|(number, _)| *number).collect();
                prop_assert_eq!(found, expected);
            }
            prop_assert_eq!(index.is_empty(), kept.is_empty());
        }
    }
}
