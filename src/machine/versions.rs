//! The versions of one key.
//!
//! A version holds what compares, sorts and filters need, and where its value lies; the value itself stays in its record. A
//! history is in the order of application; a deletion stands in it as a tombstone, so a generation of a key is what lies
//! between two tombstones.
//!
//! Almost every key of a large store has one version, and most of these were put once: then half of the numbers follow from
//! the others, so the rest lies in the map itself. A history is therefore no slice, and its versions are handed out by value.
//!
//! Invariants: within a history revisions never decrease (they may be equal: a txn can put a key and delete it by a range
//! that is open to the end; the later one counts).
//!
//! May not know: keys, values, the disk, the current revision.

use std::num::NonZeroU64;
use std::ops::Deref;

/// Counted for each version beside its key and value: what it takes in its record (its numbers, checksum and place in the
/// table), rounded up.
pub const VERSION_BYTES: u64 = 64;

/// One version of a key, or its deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The revision that wrote it.
    pub modified: i64,
    /// The revision in which the key came to be.
    pub created: i64,
    /// Puts since then, this one included; 0 is a deletion.
    pub number: i64,
    /// Its lease, or 0.
    pub lease: i64,
    /// The record that holds it: the first entry of its run.
    pub record: u64,
    /// Which of the record's puts it is.
    pub ordinal: u32,
    /// Length of its value in bytes.
    pub value_len: u32,
}

impl Version {
    /// What compares see of a key that is not there.
    pub const ABSENT: Version =
        Version { modified: 0, created: 0, number: 0, lease: 0, record: 0, ordinal: 0, value_len: 0 };

    /// Whether the key is there; else this is its deletion.
    pub fn is_live(&self) -> bool {
        self.number > 0
    }

    /// What it is counted as, under `key`, in bytes.
    pub fn size(&self, key: &[u8]) -> u64 {
        key.len() as u64 + u64::from(self.value_len) + VERSION_BYTES
    }
}

/// The versions of one key, oldest first.
#[derive(Clone, Debug)]
pub enum History {
    /// The put that made the key, without a lease, and nothing else: in place.
    First {
        /// The revision that wrote it, in which the key came to be.
        modified: i64,
        /// The record that holds it.
        record: NonZeroU64,
        /// Which of the record's puts it is.
        ordinal: u32,
        /// Length of its value in bytes.
        value_len: u32,
    },
    /// Anything else.
    More {
        /// Who reads at this revision or later sees the newest version; [`NEVER`] if that is a deletion.
        live_from: i64,
        /// The versions.
        held: Box<More>,
    },
}

/// No key's revision.
const NEVER: i64 = i64::MAX;

// There is one for every key.
const _: () = assert!(size_of::<History>() == 24);

/// What does not fit in place.
#[derive(Clone, Debug)]
pub enum More {
    /// One version.
    One(Version),
    /// Two or more.
    Many(Vec<Version>),
}

impl More {
    fn versions(&self) -> &[Version] {
        match self {
            More::One(version) => std::slice::from_ref(version),
            More::Many(versions) => versions,
        }
    }

    fn newest(&self) -> Option<&Version> {
        self.versions().last()
    }
}

/// Versions of one key, oldest first: a slice, or the one that is told in fewer numbers.
#[derive(Clone, Copy, Debug)]
pub enum Versions<'a> {
    /// Put together from its numbers.
    First([Version; 1]),
    /// As they are held.
    Held(&'a [Version]),
}

impl Deref for Versions<'_> {
    type Target = [Version];

    fn deref(&self) -> &[Version] {
        match self {
            Versions::First(version) => version,
            Versions::Held(versions) => versions,
        }
    }
}

impl History {
    /// Of a key's first version (or of a deletion, if that is all that is left of it).
    pub fn new(version: Version) -> History {
        let Version { modified, created, number, lease, record, ordinal, value_len } = version;
        match NonZeroU64::new(record) {
            Some(record) if (created, number, lease) == (modified, 1, 0) => {
                History::First { modified, record, ordinal, value_len }
            }
            _ => History::more(More::One(version)),
        }
    }

    fn more(held: More) -> History {
        let live_from = held.newest().filter(|newest| newest.is_live()).map_or(NEVER, |newest| newest.modified);
        History::More { live_from, held: Box::new(held) }
    }

    /// All of them.
    pub fn versions(&self) -> Versions<'_> {
        match self {
            History::First { modified, record, ordinal, value_len } => Versions::First([Version {
                modified: *modified,
                created: *modified,
                number: 1,
                lease: 0,
                record: record.get(),
                ordinal: *ordinal,
                value_len: *value_len,
            }]),
            History::More { held, .. } => Versions::Held(held.versions()),
        }
    }

    /// The version that a reader at `revision` sees; `None` if the key is not there then.
    pub fn at(&self, revision: i64) -> Option<Version> {
        let versions = self.versions();
        let newest = versions.last().filter(|newest| newest.modified <= revision);
        let seen =
            newest.or_else(|| versions[..versions.partition_point(|version| version.modified <= revision)].last());
        seen.filter(|version| version.is_live()).copied()
    }

    /// Whether a reader at `revision` sees the key. For whoever reads what is there now it is told without a look at the
    /// versions.
    pub fn is_seen(&self, revision: i64) -> bool {
        match self {
            History::First { modified, .. } => *modified <= revision,
            History::More { live_from, .. } if *live_from <= revision => true,
            History::More { .. } => self.at(revision).is_some(),
        }
    }

    /// How many of the oldest versions nobody may see who reads at `mark` or later, or follows the key from `mark` on. Those that
    /// are kept are every version of `mark` and later, deletions included, and before them the one that the key had at `mark`,
    /// if it was there.
    pub fn unseen(&self, mark: i64) -> usize {
        let versions = self.versions();
        let before = versions.partition_point(|version| version.modified < mark);
        let replaced_at_mark = versions.get(before).is_some_and(|next| next.modified == mark);
        let seen_at_mark = before > 0 && !replaced_at_mark && versions[before - 1].is_live();
        before - usize::from(seen_at_mark)
    }

    /// Appends a version.
    pub fn push(&mut self, version: Version) {
        match self {
            History::More { live_from, held } => {
                match &mut **held {
                    More::One(first) => **held = More::Many(vec![*first, version]),
                    More::Many(versions) => versions.push(version),
                }
                *live_from = if version.is_live() { version.modified } else { NEVER };
            }
            History::First { .. } => {
                let versions = [&*self.versions(), &[version]].concat();
                *self = History::more(More::Many(versions));
            }
        }
    }

    /// Takes out the `count` oldest versions; at least one stays.
    pub fn drop_oldest(&mut self, count: usize) {
        let History::More { held, .. } = self else { return };
        let More::Many(versions) = &mut **held else { return };
        versions.drain(..count);
        match versions[..] {
            [only] => *self = History::new(only),
            _ => versions.shrink_to(versions.len() * 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However versions are held, what was put in comes out.
        #[test]
        fn a_history_is_what_was_appended(
            numbers in prop::collection::vec((0..3i64, 0..2i64, 0..3i64, 0..2i64, 0..2u64), 1..6),
            dropped in 0..5usize,
        ) {
            let mut modified = 0;
            let versions: Vec<Version> = numbers.into_iter().map(|(later, age, number, lease, record)| {
                modified += later;
                Version { modified, created: modified - age, number, lease, record, ordinal: 7, value_len: 9 }
            }).collect();
            let mut history = History::new(versions[0]);
            versions[1..].iter().for_each(|version| history.push(*version));
            prop_assert_eq!(&*history.versions(), &*versions);
            let dropped = dropped.min(versions.len() - 1);
            history.drop_oldest(dropped);
            prop_assert_eq!(&*history.versions(), &versions[dropped..]);
            for revision in 0..12 {
                let seen = versions[dropped..].iter().rev().find(|version| version.modified <= revision);
                prop_assert_eq!(history.at(revision), seen.filter(|version| version.is_live()).copied());
                prop_assert_eq!(history.is_seen(revision), history.at(revision).is_some());
            }
        }
    }

    #[test]
    fn a_key_that_was_put_once_needs_no_more_than_its_place() {
        let once = Version { modified: 5, created: 5, number: 1, lease: 0, record: 3, ordinal: 2, value_len: 1 };
        assert!(matches!(History::new(once), History::First { .. }));
        let mut twice = History::new(Version { modified: 4, created: 4, number: 0, ..once });
        twice.push(once);
        twice.drop_oldest(1);
        assert!(matches!(twice, History::First { .. }), "{twice:?}");
    }
}
