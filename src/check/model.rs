//! What one operation does to a store that keeps its word: etcd's keys, versions and revisions, written down once more.
//!
//! Deliberately the plainest store that can be right: every version of every key in a list, nothing compacted, no index.
//! [`Model::apply`] does one operation and [`Model::undo`] takes the latest one back, so a search can walk through orders
//! without copying the store; [`Model::fingerprint`] tells it where it has been before.
//!
//! Rules (etcd's):
//! - an empty store is at revision 1; an operation that changes something adds exactly 1, whatever it changes;
//! - a put counts the key's version up, from 1 where the key was absent, and then creates it;
//! - a transaction's compares, nested ones included, look at the store before it; its operations see each other;
//! - an old revision can be read, a future one can't; that one is compacted is not this module's affair
//!   ([`super::compaction`]).
//!
//! Left out: leases; limits and filters of ranges; the check for one key written twice in a transaction, which a store
//! refuses before it does anything.

use super::history::{Call, Compare, Pair, Relation, Reply, Target};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;

/// The revision of a store to which nothing was written.
pub const EMPTY: i64 = 1;

/// What of the past a fingerprint covers: two states with the same one answer every later question alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Values, versions and existence. All revisions are 0, for what is judged is a part of a store.
    Values,
    /// The newest version of each key, with revisions. Nobody asks for older ones.
    Newest,
    /// Every version there ever was.
    Past,
}

/// A store.
#[derive(Clone, Debug)]
pub struct Model {
    scope: Scope,
    revision: i64,
    /// By key, oldest first; absence is a version too.
    keys: BTreeMap<String, Vec<Version>>,
    fingerprint: u128,
}

/// What a key was from a revision on.
#[derive(Clone, Debug)]
struct Version {
    revision: i64,
    pair: Option<Pair>,
}

/// What an operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The store's revision after it.
    pub revision: i64,
    /// The answer.
    pub reply: Reply,
    /// Keys that got a new version, in order.
    changed: Vec<String>,
}

impl Applied {
    /// Whether anything changed.
    pub fn changes(&self) -> bool {
        !self.changed.is_empty()
    }
}

impl Model {
    /// An empty store.
    pub fn new(scope: Scope) -> Model {
        let revision = if scope == Scope::Values { 0 } else { EMPTY };
        Model { scope, revision, keys: BTreeMap::new(), fingerprint: 0 }
    }

    /// Does one operation; `None`, and nothing is done, if it reads the future.
    pub fn apply(&mut self, call: &Call) -> Option<Applied> {
        if self.reads_the_future(call) {
            return None;
        }
        let mut decisions = Vec::new();
        self.decide(call, &mut decisions);
        let mut changed = Vec::new();
        let reply = self.run(call, &mut decisions.into_iter(), &mut changed);
        if !changed.is_empty() {
            self.revision = self.next_revision();
        }
        Some(Applied { revision: self.revision, reply, changed })
    }

    /// Takes back the operation that was done last and not yet taken back.
    pub fn undo(&mut self, applied: &Applied) {
        for key in applied.changed.iter().rev() {
            self.toggle(key);
            self.keys.get_mut(key).and_then(Vec::pop);
        }
        if !applied.changed.is_empty() && self.scope != Scope::Values {
            self.revision -= 1;
        }
    }

    /// Equal for equal states. States that differ share one by an accident of 2⁻¹²⁸.
    pub fn fingerprint(&self) -> u128 {
        self.fingerprint ^ digest(&("revision", self.revision))
    }

    /// The revision now.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// A key as it is now.
    pub fn newest(&self, key: &str) -> Option<&Pair> {
        self.keys.get(key)?.last()?.pair.as_ref()
    }

    fn next_revision(&self) -> i64 {
        if self.scope == Scope::Values { 0 } else { self.revision + 1 }
    }

    fn reads_the_future(&self, call: &Call) -> bool {
        match call {
            Call::Get { revision, .. } | Call::Compact { revision } => *revision > self.revision,
            Call::Put { .. } | Call::Delete { .. } => false,
            Call::Txn { then, otherwise, .. } => then.iter().chain(otherwise).any(|call| self.reads_the_future(call)),
        }
    }

    /// Which branch each transaction takes, outer ones first.
    fn decide(&self, call: &Call, decisions: &mut Vec<bool>) {
        let Call::Txn { compare, then, otherwise } = call else { return };
        let holds = compare.iter().all(|compare| holds(compare, self.newest(&compare.key)));
        decisions.push(holds);
        for call in if holds { then } else { otherwise } {
            self.decide(call, decisions);
        }
    }

    fn run(&mut self, call: &Call, decisions: &mut std::vec::IntoIter<bool>, changed: &mut Vec<String>) -> Reply {
        match call {
            Call::Put { key, value } => {
                let (mod_revision, before) = (self.next_revision(), self.newest(key));
                let create_revision = before.map_or(mod_revision, |pair| pair.create_revision);
                let version = before.map_or(1, |pair| pair.version + 1);
                let pair = Pair { key: key.clone(), value: value.clone(), mod_revision, create_revision, version };
                self.push(key, Some(pair), changed);
                Reply::Put
            }
            Call::Get { key, end, revision, .. } => Reply::Got(self.read(key, end.as_deref(), *revision)),
            Call::Delete { key, end } => {
                let found = self.read(key, end.as_deref(), 0);
                found.iter().for_each(|pair| self.push(&pair.key, None, changed));
                Reply::Deleted(found.len() as i64)
            }
            // Everything stays readable here: what is forgotten too soon is seen by its refusal (`super::compaction`).
            Call::Compact { .. } => Reply::Compacted,
            Call::Txn { then, otherwise, .. } => {
                let holds = decisions.next().unwrap_or(true);
                let branch = if holds { then } else { otherwise };
                Reply::Txn(holds, branch.iter().map(|call| self.run(call, decisions, changed)).collect())
            }
        }
    }

    /// The pairs of a range as of `revision`; 0: now.
    fn read(&self, key: &str, end: Option<&str>, revision: i64) -> Vec<Pair> {
        let at = |versions: &Vec<Version>| {
            let seen = match revision {
                0 => versions.len(),
                revision => versions.partition_point(|version| version.revision <= revision),
            };
            versions[..seen].last().and_then(|version| version.pair.clone())
        };
        match end {
            None => self.keys.get(key).and_then(at).into_iter().collect(),
            Some(end) if end <= key => Vec::new(),
            Some(end) => {
                let range = self.keys.range::<str, _>((Bound::Included(key), Bound::Excluded(end)));
                range.filter_map(|(_, versions)| at(versions)).collect()
            }
        }
    }

    fn push(&mut self, key: &str, pair: Option<Pair>, changed: &mut Vec<String>) {
        let version = Version { revision: self.next_revision(), pair };
        match self.keys.get_mut(key) {
            Some(versions) => versions.push(version),
            None => _ = self.keys.insert(key.to_owned(), vec![version]),
        }
        self.toggle(key);
        changed.push(key.to_owned());
    }

    /// Counts a key's newest version into the fingerprint, or out of it, in place of the one below. The past keeps both.
    fn toggle(&mut self, key: &str) {
        let versions = self.keys.get(key).map_or(&[][..], Vec::as_slice);
        for version in versions.iter().rev().take(if self.scope == Scope::Past { 1 } else { 2 }) {
            self.fingerprint ^= match (self.scope, &version.pair) {
                (Scope::Past, pair) => digest(&(key, version.revision, pair)),
                (Scope::Newest | Scope::Values, Some(pair)) => digest(pair),
                (Scope::Newest | Scope::Values, None) => 0,
            };
        }
    }
}

/// 128 bits of anything.
pub(super) fn digest(what: &impl Hash) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        (salt, what).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

/// Whether a compare holds of a key. No compare of its value holds of one that is absent.
pub fn holds(compare: &Compare, pair: Option<&Pair>) -> bool {
    use std::cmp::Ordering;
    let number = |of: fn(&Pair) -> i64, target: &i64| pair.map_or(0, of).cmp(target);
    let found: Ordering = match &compare.target {
        Target::Value(target) => match pair {
            Some(pair) => pair.value.as_str().cmp(target),
            None => return false,
        },
        Target::ModRevision(target) => number(|pair| pair.mod_revision, target),
        Target::CreateRevision(target) => number(|pair| pair.create_revision, target),
        Target::Version(target) => number(|pair| pair.version, target),
    };
    match compare.relation {
        Relation::Equal => found.is_eq(),
        Relation::NotEqual => found.is_ne(),
        Relation::Less => found.is_lt(),
        Relation::Greater => found.is_gt(),
    }
}
