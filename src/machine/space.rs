//! Who owns the space: keys, versions and bytes by prefix.
//!
//! A prefix is a key's beginning up to and including its delimiter number `depth`; a delimiter that the key begins with is
//! not counted, so that at depth 2 `/registry/events/default/x` belongs to `/registry/events/`, as `registry/events/x`
//! belongs to `registry/events/`. A key with fewer delimiters belongs to what ends with its last one.
//!
//! Bytes are those of the index (`Index::live_bytes`, `Index::held_bytes`): they do not depend on how the engine lays them
//! out, and what a compaction frees is gone from them at once.
//!
//! May not know: who asks. Left out: what the log takes.

use super::index::KeyRange;
use super::state::Shared;
use super::versions::History;
use std::collections::BTreeMap;

/// What a set of keys takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Keys that are there.
    pub keys: u64,
    /// Versions and deletions that are kept.
    pub versions: u64,
    /// Bytes of the keys that are there, with their newest values.
    pub live_bytes: u64,
    /// Bytes of everything that is kept.
    pub held_bytes: u64,
}

impl Holding {
    fn count(&mut self, key: &[u8], history: &History) {
        let versions = history.versions();
        if let Some(newest) = versions.last().filter(|newest| newest.is_live()) {
            self.keys += 1;
            self.live_bytes += newest.size(key);
        }
        self.versions += versions.len() as u64;
        self.held_bytes += versions.iter().map(|version| version.size(key)).sum::<u64>();
    }
}

impl std::ops::Add for Holding {
    type Output = Holding;

    fn add(self, other: Holding) -> Holding {
        Holding {
            keys: self.keys + other.keys,
            versions: self.versions + other.versions,
            live_bytes: self.live_bytes + other.live_bytes,
            held_bytes: self.held_bytes + other.held_bytes,
        }
    }
}

/// What the keys that begin with `within` take, by prefix.
pub fn shares(shared: &Shared, within: &[u8], delimiter: u8, depth: usize) -> BTreeMap<Box<[u8]>, Holding> {
    let mut shares: BTreeMap<Box<[u8]>, Holding> = BTreeMap::new();
    let end = end_of_prefix(within);
    shared.histories(KeyRange::new(within, &end), |key, history| {
        let prefix = prefix(key, delimiter, depth);
        if let Some(share) = shares.get_mut(prefix) {
            share.count(key, history);
        } else {
            shares.entry(prefix.into()).or_default().count(key, history);
        }
    });
    shares
}

/// The end of the range of keys that begin with `prefix`, as etcd spells it.
fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    match prefix.iter().rposition(|byte| *byte < 0xff) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end
        }
        None => vec![0],
    }
}

fn prefix(key: &[u8], delimiter: u8, depth: usize) -> &[u8] {
    let mut end = 0;
    let inner = key.iter().enumerate().skip(1).filter(|(_, byte)| **byte == delimiter);
    for (at, _) in inner.take(depth) {
        end = at + 1;
    }
    if end == 0 && key.first() == Some(&delimiter) {
        end = 1;
    }
    &key[..if depth == 0 { 0 } else { end }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_its_beginning() {
        let of = |key: &'static str, depth| std::str::from_utf8(prefix(key.as_bytes(), b'/', depth)).unwrap();
        assert_eq!(of("/registry/events/default/x", 2), "/registry/events/");
        assert_eq!(of("registry/events/default/x", 2), "registry/events/");
        assert_eq!(of("/registry/events/default/x", 1), "/registry/");
        assert_eq!(of("/registry", 2), "/");
        assert_eq!(of("a/b", 2), "a/");
        assert_eq!(of("plain", 2), "");
        assert_eq!(of("/a/b", 0), "");
    }

    #[test]
    fn a_prefix_ends_where_the_next_one_begins() {
        assert_eq!(end_of_prefix(b"a/"), b"a0");
        assert_eq!(end_of_prefix(b"a\xff"), b"b");
        assert_eq!(end_of_prefix(b"\xff"), b"\0");
        assert_eq!(end_of_prefix(b""), b"\0");
    }
}
