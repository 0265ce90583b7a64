//! A hash of what can be read, equal on all members at equal revisions.
//!
//! It covers what those may see who read or follow the store between the mark and a revision: of each key, in the order of
//! keys, the versions and deletions that [`History::unseen`](super::versions::History::unseen) leaves, with all their numbers and their
//! values. So it does not depend on how far a member's compaction has come, nor on how its records are laid out, and two
//! members that were compacted at the same revision agree on it.
//!
//! The values are read from wherever they lie, a slice of keys at a time, without the lock. If the mark moves meanwhile, it
//! begins again.
//!
//! Not etcd's algorithm: the numbers of an etcd can't be compared with ours.

use super::Error;
use super::index::KeyRange;
use super::range::Reader;
use super::record::Digest;
use super::state::{Found, Shared, Values};
use super::versions::Version;
use crate::checksum::{crc, crc_append};
use crate::ids::Revision;

/// Versions whose values are read before the index is looked at again.
const SLICE: usize = 256;

/// See the module's essay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    /// The hash.
    pub hash: u32,
    /// Of everything up to here.
    pub revision: Revision,
    /// And from here on: the oldest readable revision, -1 if nothing was compacted.
    pub compacted: Revision,
}

/// The hash at `revision`; 0 is now.
///
/// # Errors
/// The revision is compacted or in the future; the disk.
pub fn hash(shared: &Shared, revision: i64) -> Result<KvHash, Error> {
    loop {
        let at = Reader { shared, now: shared.revision() }.readable(revision)?;
        let compacted = shared.read().compacted;
        let hash = hash_between(shared, compacted, at);
        if shared.read().compacted == compacted {
            return Ok(KvHash { hash: hash?, revision: Revision(at), compacted: Revision(compacted) });
        }
    }
}

fn hash_between(shared: &Shared, compacted: i64, at: i64) -> Result<u32, Error> {
    let mut digest = Digest::START;
    let mut values = Values::new(shared);
    let mut after: Option<Box<[u8]>> = None;
    loop {
        let mut slice: Vec<(Box<[u8]>, Found)> = Vec::new();
        let state = shared.read();
        let mut last = None;
        for (key, history) in state.index.histories(KeyRange::From(b""), after.as_deref()) {
            let versions = history.versions();
            let seen = versions[history.unseen(compacted)..].iter().take_while(|version| version.modified <= at);
            slice.extend(seen.map(|version| (Box::from(key), Found::new(&state, version))));
            last = Some(Box::from(key));
            if slice.len() >= SLICE {
                break;
            }
        }
        drop(state);
        for (key, found) in slice {
            let version = found.version;
            let value = if version.is_live() { values.load(&key, found)? } else { bytes::Bytes::new() };
            digest.absorb(crc(&key), sum(&version, &value));
        }
        if last.is_none() {
            return Ok((digest.0 >> 32) as u32 ^ digest.0 as u32);
        }
        after = last;
    }
}

fn sum(version: &Version, value: &[u8]) -> u32 {
    let numbers = [version.modified, version.created, version.number, version.lease];
    let sum = numbers.iter().fold(0, |sum, number| crc_append(sum, &number.to_le_bytes()));
    crc_append(sum, value)
}
