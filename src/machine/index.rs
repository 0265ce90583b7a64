//! The key index: where every version of every key lies, in memory.
//!
//! An ordered map from key to history ([`super::versions`]). Keys are copies: a slice of a request would pin its frame for ever.
//!
//! Compaction is a walk over all keys that takes from each history what nobody may read any more ([`Index::compact`]); what
//! goes is told by [`History::unseen`], for this walk and for who must not depend on how far it has come (`hash.rs`).
//!
//! May not know: values, the disk, the current revision.

use super::versions::{History, Version};
use std::collections::BTreeMap;
use std::ops::Bound;

/// The keys that a request speaks of, as etcd spells them: a single key, `[key, range_end)`, or everything from a key on
/// (`range_end` is one zero byte).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRange<'a> {
    /// One key.
    One(&'a [u8]),
    /// This key and all above.
    From(&'a [u8]),
    /// From the first up to but not including the second; empty if they are in the wrong order.
    Between(&'a [u8], &'a [u8]),
}

type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

impl<'a> KeyRange<'a> {
    /// From a request's fields.
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> KeyRange<'a> {
        match range_end {
            [] => KeyRange::One(key),
            [0] => KeyRange::From(key),
            end => KeyRange::Between(key, end),
        }
    }

    /// As bounds of the part above `after`; `None` if nothing is left.
    fn bounds(self, after: Option<&'a [u8]>) -> Option<Bounds<'a>> {
        let (low, high) = match self {
            KeyRange::One(key) => (key, Bound::Included(key)),
            KeyRange::From(key) => (key, Bound::Unbounded),
            KeyRange::Between(key, end) => (key, Bound::Excluded(end)),
        };
        let low = after.map_or(Bound::Included(low), Bound::Excluded);
        // What `BTreeMap::range` would panic at, and nothing that it would find something in.
        let empty = match (low, high) {
            (Bound::Included(low), Bound::Included(high)) => low > high,
            (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => low >= high,
            _ => false,
        };
        (!empty).then_some((low, high))
    }
}

/// See the module's essay.
#[derive(Debug, Default)]
pub struct Index {
    keys: BTreeMap<Box<[u8]>, History>,
    live_keys: u64,
    live_bytes: u64,
    held_bytes: u64,
}

impl Index {
    /// The version of `key` that a reader at `revision` sees.
    pub fn get(&self, key: &[u8], revision: i64) -> Option<Version> {
        self.keys.get(key)?.at(revision)
    }

    /// How many keys have a history.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// The histories of the keys in `range` above `after`, ascending.
    pub fn histories<'a>(
        &'a self,
        range: KeyRange<'a>,
        after: Option<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a [u8], &'a History)> {
        let bounds = range.bounds(after);
        bounds.into_iter().flat_map(|bounds| self.keys.range::<[u8], _>(bounds)).map(|(key, history)| (&**key, history))
    }

    /// Appends a version (or a deletion: `number` is 0) to the history of `key`.
    ///
    /// # Panics
    /// If it is older than the newest one: the order of the log is lost.
    pub fn push(&mut self, key: &[u8], version: Version) {
        let size = version.size(key);
        self.held_bytes += size;
        if version.is_live() {
            self.live_keys += 1;
            self.live_bytes += size;
        }
        match self.keys.get_mut(key) {
            None => {
                self.keys.insert(key.into(), History::new(version));
            }
            Some(history) => {
                if let Some(newest) = history.versions().last() {
                    assert!(newest.modified <= version.modified, "{version:?} does not follow {newest:?}");
                    self.live_keys -= u64::from(newest.is_live());
                    self.live_bytes -= if newest.is_live() { newest.size(key) } else { 0 };
                }
                history.push(version);
            }
        }
    }

    /// Takes out what nobody who reads at `mark` or later can see, of the `most` keys above `after`, and tells `dropped` of
    /// each version and deletion that goes. Returns where to go on; `None`: those were the last keys.
    pub fn compact(
        &mut self,
        mark: i64,
        after: Option<&[u8]>,
        most: usize,
        dropped: &mut dyn FnMut(&[u8], &Version),
    ) -> Option<Box<[u8]>> {
        let mut empty = Vec::new();
        let mut last = None;
        let mut visited = 0;
        let above = after.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, history) in self.keys.range_mut::<[u8], _>((above, Bound::Unbounded)).take(most) {
            let (versions, unseen) = (history.versions(), history.unseen(mark));
            for version in &versions[..unseen] {
                self.held_bytes -= version.size(key);
                dropped(key, version);
            }
            if unseen == versions.len() {
                empty.push(key.clone());
            } else if unseen > 0 {
                history.drop_oldest(unseen);
            }
            visited += 1;
            last = Some(key);
        }
        let next = last.filter(|_| visited == most).cloned();
        for key in empty {
            self.keys.remove(&key);
        }
        next
    }

    /// Whether the version of `key` that revision `modified` wrote into `record` is here: as its put number `ordinal`, or
    /// with `None` as a deletion.
    pub fn holds(&self, key: &[u8], modified: i64, record: u64, ordinal: Option<u32>) -> bool {
        let is_it = |version: &Version| match ordinal {
            Some(ordinal) => version.is_live() && (version.record, version.ordinal) == (record, ordinal),
            None => !version.is_live() && version.record == record,
        };
        self.keys.get(key).is_some_and(|history| {
            let versions = history.versions();
            let from = versions.partition_point(|version| version.modified < modified);
            versions[from..].iter().take_while(|version| version.modified == modified).any(is_it)
        })
    }

    /// Keys that are there now.
    pub fn live_keys(&self) -> u64 {
        self.live_keys
    }

    /// Bytes of the keys and values that are there now, and [`VERSION_BYTES`](super::versions::VERSION_BYTES) for each.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Bytes of all versions and deletions that are kept, counted in the same way.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_one_version_is_small() {
        // A node of the tree has 11 places and is at least half full: 80 bytes at worst, and the key's own.
        assert_eq!(size_of::<(Box<[u8]>, History)>(), 40);
    }

    #[test]
    fn the_rest_of_a_range_after_a_key() {
        let mut index = Index::default();
        for key in ["a", "b", "c"] {
            index.push(key.as_bytes(), Version { modified: 2, created: 2, number: 1, ..Version::ABSENT });
        }
        let rest = |range, after: &'static str| {
            let keys = index.histories(range, Some(after.as_bytes()));
            keys.map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect::<String>()
        };
        assert_eq!(rest(KeyRange::From(b"a"), "a"), "bc");
        assert_eq!(rest(KeyRange::Between(b"a", b"c"), "a"), "b");
        for (range, after) in [
            (KeyRange::One(b"a"), "a"),
            (KeyRange::Between(b"a", b"b"), "b"),
            (KeyRange::Between(b"a", b"b"), "c"),
            (KeyRange::From(b"a"), "c"),
        ] {
            assert_eq!(rest(range, after), "");
        }
    }

    #[test]
    #[should_panic(expected = "does not follow")]
    fn a_version_older_than_the_newest_is_refused() {
        let mut index = Index::default();
        index.push(b"a", Version { modified: 3, number: 1, ..Version::ABSENT });
        index.push(b"a", Version { modified: 2, number: 2, ..Version::ABSENT });
    }
}
