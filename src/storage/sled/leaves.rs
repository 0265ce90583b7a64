//! Splits sled's leaves before anything large lies in them.
//!
//! What sled writes for a put is the pair alone, a *link*; but a leaf that has 17 pairs is split, and both halves are written
//! anew with all they hold. Records come in ascending order, so each 9 of them cost a split of 17: what is put is written
//! three times. The splits can't be avoided, but they can come first. Ahead of the newest record go *dividers*, keys
//! without a value, so many that each leaf is split, and done with, while it holds nothing else. By what a record took of
//! the indexes so far they are spaced so that about [`RECORDS`] of the next ones come to lie in each leaf.
//!
//! Few, because of deletion: sled writes a page of ten links or more anew at the next one. A leaf is one page and so many
//! links as it gets records; their deletions stay below ten too, and the leaf goes without having been written again. Its
//! dividers go later, when no record is left in it.
//!
//! A divider's key is a record's with a number of a slot that no value has. A release that does not know them takes them
//! for slots of a value that never became whole, and sweeps them out.
//!
//! # Invariants
//!
//! 1. Nobody above [`super::SledEngine`] sees a divider.
//! 2. Nothing depends on where dividers are, or whether: if they are at the wrong places sled writes more, and that is all. So
//!    nothing is kept of them but in memory, and a crash may leave some in a stretch that is empty otherwise.
//!
//! May not know: what records hold.

use crate::ids::Index;
use crate::storage::key::{Family, Key};
use std::collections::VecDeque;

/// Records with fewer bytes are not worth it.
const LARGE: usize = 1024;

/// What a split leaves in the lower leaf, of 17 pairs.
const LEAF: u64 = 9;

/// Records for each leaf.
const RECORDS: u64 = 4;

/// Numbers of slots that no value has, ascending: a divider has one of them, so there is room for two at each index.
const CHUNKS: [u16; 2] = [i16::MAX as u16, u16::MAX];

/// Deletions after which a record's leaf has no records: a divider goes so much later than the record before it.
const LAG: usize = 2 * RECORDS as usize;

/// Where the dividers of a database are. Places are counted by halves of indexes.
#[derive(Debug, Default)]
pub struct Leaves {
    /// The newest record's first entry; 0: not known.
    newest: u64,
    /// The last divider's place.
    until: u64,
    /// The newest records that were deleted.
    gone: VecDeque<(Family, Index)>,
}

/// A record's family and first entry, if this is the key of its first slot.
fn record(key: &[u8]) -> Option<(Family, Index)> {
    match Key::decode(key)? {
        Key::Log { first, chunk: 0 } => Some((Family::Log, first)),
        Key::Record { first, chunk: 0 } => Some((Family::Record, first)),
        _ => None,
    }
}

/// Whether this is a divider.
pub fn is_divider(key: &[u8]) -> bool {
    matches!(Key::decode(key), Some(Key::Log { chunk, .. } | Key::Record { chunk, .. }) if CHUNKS.contains(&chunk))
}

impl Leaves {
    /// The dividers to be put before a value of so many bytes is put under `key`.
    pub fn ahead(&mut self, key: &[u8], bytes: usize) -> impl Iterator<Item = Key> + use<> {
        let places = record(key).and_then(|(family, first)| Some((family, self.places(first.0, bytes)?)));
        places.into_iter().flat_map(|(family, (from, spacing, count))| {
            let places = (0..count).map(move |n| from + n * spacing);
            places.map(move |place| family.key(Index(place / 2), CHUNKS[(place % 2) as usize]))
        })
    }

    /// Where the first one goes, how far they are apart, and how many they are.
    fn places(&mut self, first: u64, bytes: usize) -> Option<(u64, u64, u64)> {
        let step = first.checked_sub(self.newest).filter(|step| *step > 0)?;
        let known = std::mem::replace(&mut self.newest, first) > 0;
        if !known || bytes < LARGE {
            return None;
        }
        let spacing = (2 * RECORDS * step / LEAF).max(1);
        // The last leaf may be unsplit yet: it is twice as far ahead as any leaf is wide.
        if self.until >= first * 2 + 2 * LEAF * spacing {
            return None;
        }
        let from = (first * 2).max(self.until + spacing);
        let count = (first * 2 + 4 * LEAF * spacing - from) / spacing;
        self.until = from + (count - 1) * spacing;
        Some((from, spacing, count))
    }

    /// `key` was deleted. Behind which key dividers may go now, up to the next record.
    pub fn behind(&mut self, key: &[u8]) -> Option<Key> {
        let (family, first) = record(key)?;
        if first.0 >= self.newest {
            self.newest = 0;
        }
        self.gone.push_back((family, first));
        if self.gone.len() <= LAG {
            return None;
        }
        self.gone.pop_front().map(|(family, first)| family.key(first, 1))
    }
}
