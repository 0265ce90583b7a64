//! The judges judged: each other, by brute force, and on histories of stores whose faults are known.
//!
//! `QUORATE_SEEDS` is the number of random histories of each kind, `QUORATE_SEED` runs one.

mod agree;
mod generate;
mod kinds;

use super::history::{Call, Compare, Operation, Outcome, Pair, Relation, Reply, Target};
use super::*;

/// A history told line by line: each operation has a client of its own.
fn operation(invoked: u64, returned: u64, call: Call, outcome: Outcome) -> Operation {
    Operation { client: invoked, invoked, returned, call, outcome }
}

fn put(key: &str, value: &str) -> Call {
    Call::Put { key: key.into(), value: value.into() }
}

fn get(key: &str) -> Call {
    Call::Get { key: key.into(), end: None, revision: 0, serializable: false }
}

fn serializable(key: &str) -> Call {
    Call::Get { key: key.into(), end: None, revision: 0, serializable: true }
}

fn get_all() -> Call {
    Call::Get { key: "a".into(), end: Some("z".into()), revision: 0, serializable: false }
}

fn delete(key: &str) -> Call {
    Call::Delete { key: key.into(), end: None }
}

fn done(revision: i64, reply: Reply) -> Outcome {
    Outcome::Done { revision, reply }
}

fn unknown() -> Outcome {
    Outcome::Unknown("no answer".into())
}

fn refused() -> Outcome {
    Outcome::Refused("no leader".into())
}

/// A pair: key, value, revision of the change and of the creation, version.
fn pair(key: &str, value: &str, mod_revision: i64, create_revision: i64, version: i64) -> Pair {
    Pair { key: key.into(), value: value.into(), mod_revision, create_revision, version }
}

fn got(pairs: &[Pair]) -> Reply {
    Reply::Got(pairs.to_vec())
}

fn compare(key: &str, target: Target) -> Compare {
    Compare { key: key.into(), target, relation: Relation::Equal }
}

fn txn(compare: Vec<Compare>, then: Vec<Call>, otherwise: Vec<Call>) -> Call {
    Call::Txn { compare, then, otherwise }
}
