//! What clients ask for, and the same in the store's words and back.
//!
//! Few keys, so that operations meet; values that are written once in a run, so that who sees one knows who wrote it. One
//! operation in some is a transaction over two keys or a read of all of them, which tie the keys' histories together.
//! Leases are in `owners.rs`, watches in `watchers.rs`.

use super::plan::History;
use crate::check::history::{Call, Compare, Pair, Relation, Reply, Target};
use crate::machine::{self, View, check};
use crate::proto::etcdserverpb as pb;
use crate::proto::quorate as own;
use crate::rng::Rng;
use bytes::Bytes;
use prost::Message as _;

/// The keys of a run.
const KEYS: u64 = 5;

/// Above all keys that a run uses.
const ALL_KEYS: (&str, &str) = ("k", "l");

/// Draws operations.
#[derive(Debug)]
pub struct Workload {
    written: u64,
    history: History,
    /// The newest revision that an answer has shown.
    revision: i64,
    /// The highest revision that a compaction was asked for at.
    mark: i64,
    /// What is rare is common.
    fierce: bool,
}

impl Workload {
    /// Nothing was asked yet.
    pub fn new(history: History, fierce: bool) -> Workload {
        Workload { written: 0, history, revision: 1, mark: 1, fierce }
    }

    /// An answer has shown this revision.
    pub fn shown(&mut self, revision: i64) {
        self.revision = self.revision.max(revision);
    }

    /// Mostly between the mark and now, the mark itself among it; else somewhat below or above, or anything.
    fn old(&self, rng: &mut Rng) -> i64 {
        let between = (self.revision - self.mark).max(0).cast_unsigned() + 1;
        let some = match rng.below(8) {
            0 => self.mark - 1,
            1 => self.mark,
            2 => self.mark - 2 + rng.below(5).cast_signed(),
            3 => self.revision - 1 + rng.below(4).cast_signed(),
            4 => rng.below(self.revision.cast_unsigned() + 1).cast_signed(),
            _ => self.mark + rng.below(between).cast_signed(),
        };
        some.max(1)
    }

    /// What has to do with history; `None`: nothing this time.
    fn past(&mut self, rng: &mut Rng) -> Option<Call> {
        let History { compact, old, .. } = self.history;
        if compact > 0 && rng.below(1000) < compact {
            let revision = self.old(rng);
            if revision <= self.revision {
                self.mark = self.mark.max(revision);
            }
            return Some(Call::Compact { revision });
        }
        let reads = old > 0 && rng.below(1000) < old;
        reads.then(|| match Workload::get(rng) {
            Call::Get { key, end, serializable, .. } => Call::Get { key, end, revision: self.old(rng), serializable },
            other => other,
        })
    }

    fn key(rng: &mut Rng) -> String {
        // The smaller of two: the first keys are hot.
        format!("k{}", rng.below(KEYS).min(rng.below(KEYS)))
    }

    fn put(&mut self, rng: &mut Rng) -> Call {
        self.written += 1;
        // Now and then a value that takes more than one slot of a record.
        let few = if self.fierce { 40 } else { 400 };
        let padding = if rng.below(few) == 0 { 100_000 } else { 0 };
        Call::Put { key: Workload::key(rng), value: format!("{}{}", self.written, ".".repeat(padding)) }
    }

    fn get(rng: &mut Rng) -> Call {
        let serializable = rng.below(4) == 0;
        if rng.below(8) == 0 {
            return everything(serializable);
        }
        Call::Get { key: Workload::key(rng), end: None, revision: 0, serializable }
    }

    fn compare(&mut self, rng: &mut Rng) -> Compare {
        let relation = [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater][rng.below(4) as usize];
        let target = match rng.below(4) {
            0 => Target::Version(rng.below(4) as i64),
            1 => Target::CreateRevision(0),
            2 => Target::ModRevision(rng.below(self.written + 2) as i64),
            _ => Target::Value(rng.below(self.written + 1).to_string()),
        };
        Compare { key: Workload::key(rng), target, relation }
    }

    fn branch(&mut self, rng: &mut Rng) -> Vec<Call> {
        let Call::Put { key, value } = self.put(rng) else { return Vec::new() };
        // A key is written once in a transaction at most.
        let other = Workload::key(rng);
        match rng.below(4) {
            0 => vec![Call::Put { key, value }],
            1 => vec![Workload::get(rng), Call::Put { key, value }],
            2 if other != key => vec![Call::Put { key, value }, Call::Delete { key: other, end: None }],
            2 => vec![Call::Delete { key, end: None }],
            _ => vec![Call::Put { key: key.clone(), value }, read(key)],
        }
    }

    /// The next operation of some client.
    pub fn next(&mut self, rng: &mut Rng) -> Call {
        if let Some(call) = self.past(rng) {
            return call;
        }
        match rng.below(100) {
            0..45 => self.put(rng),
            45..80 => Workload::get(rng),
            80..86 => Call::Delete { key: Workload::key(rng), end: None },
            86..88 => {
                let (key, end) = (Workload::key(rng), Some(ALL_KEYS.1.to_string()));
                Call::Delete { key, end }
            }
            _ => {
                let compare = (0..rng.below(3)).map(|_| self.compare(rng)).collect();
                Call::Txn { compare, then: self.branch(rng), otherwise: self.branch(rng) }
            }
        }
    }
}

/// A linearizable read of one key.
fn read(key: String) -> Call {
    Call::Get { key, end: None, revision: 0, serializable: false }
}

/// A read of all keys.
pub fn everything(serializable: bool) -> Call {
    let (key, end) = (ALL_KEYS.0.to_string(), Some(ALL_KEYS.1.to_string()));
    Call::Get { key, end, revision: 0, serializable }
}

// ---- in the store's words

fn range_request(key: &str, end: Option<&str>, revision: i64, serializable: bool) -> pb::RangeRequest {
    let range_end = end.unwrap_or_default().to_string().into();
    pb::RangeRequest { key: key.to_string().into(), range_end, revision, serializable, ..Default::default() }
}

fn delete_request(key: &str, end: Option<&str>) -> pb::DeleteRangeRequest {
    let range_end = end.unwrap_or_default().to_string().into();
    pb::DeleteRangeRequest { key: key.to_string().into(), range_end, ..Default::default() }
}

fn put_request(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_string().into(), value: value.to_string().into(), ..Default::default() }
}

fn op_of(call: &Call) -> pb::RequestOp {
    use pb::request_op::Request;
    let request = match call {
        Call::Put { key, value } => Request::RequestPut(put_request(key, value)),
        Call::Get { key, end, revision, serializable } => {
            Request::RequestRange(range_request(key, end.as_deref(), *revision, *serializable))
        }
        Call::Delete { key, end } => Request::RequestDeleteRange(delete_request(key, end.as_deref())),
        Call::Txn { .. } => Request::RequestTxn(txn_request(call)),
        Call::Compact { .. } => unreachable!("no transaction compacts"),
    };
    pb::RequestOp { request: Some(request) }
}

fn compare_of(compare: &Compare) -> pb::Compare {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    let result = match compare.relation {
        Relation::Equal => CompareResult::Equal,
        Relation::NotEqual => CompareResult::NotEqual,
        Relation::Less => CompareResult::Less,
        Relation::Greater => CompareResult::Greater,
    };
    let (target, union) = match &compare.target {
        Target::Value(value) => (CompareTarget::Value, TargetUnion::Value(value.clone().into())),
        Target::ModRevision(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(*revision)),
        Target::CreateRevision(revision) => (CompareTarget::Create, TargetUnion::CreateRevision(*revision)),
        Target::Version(version) => (CompareTarget::Version, TargetUnion::Version(*version)),
    };
    pb::Compare {
        result: result.into(),
        target: target.into(),
        key: compare.key.clone().into(),
        target_union: Some(union),
        range_end: Bytes::new(),
    }
}

fn txn_request(call: &Call) -> pb::TxnRequest {
    let Call::Txn { compare, then, otherwise } = call else { return pb::TxnRequest::default() };
    pb::TxnRequest {
        compare: compare.iter().map(compare_of).collect(),
        success: then.iter().map(op_of).collect(),
        failure: otherwise.iter().map(op_of).collect(),
    }
}

/// The command that carries a write, and whether it may grow the store; `None` for a read.
pub fn command(call: &Call) -> Option<(Bytes, bool)> {
    let (op, grows) = match call {
        Call::Get { .. } => return None,
        Call::Put { key, value } => (own::command::Op::Put(put_request(key, value)), true),
        Call::Compact { revision } => (own::command::Op::Compact(own::Compact { revision: *revision }), false),
        Call::Delete { key, end } => (own::command::Op::DeleteRange(delete_request(key, end.as_deref())), false),
        Call::Txn { .. } => {
            let txn = txn_request(call);
            let grows = check::grows(&txn);
            (own::command::Op::Txn(txn), grows)
        }
    };
    Some((own::Command { op: Some(op) }.encode_to_vec().into(), grows))
}

/// Reads from a member's view.
///
/// # Errors
/// What the machine says.
pub fn look(view: &View, call: &Call) -> Result<(i64, Reply), machine::Error> {
    let Call::Get { key, end, revision, serializable } = call else { return Ok((0, Reply::Put)) };
    let found = view.range(&range_request(key, end.as_deref(), *revision, *serializable))?;
    Ok((found.header.as_ref().map_or(0, |header| header.revision), got(found)))
}

// ---- and back

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn got(found: pb::RangeResponse) -> Reply {
    let pair = |kv: crate::proto::mvccpb::KeyValue| Pair {
        key: text(&kv.key),
        value: text(&kv.value),
        mod_revision: kv.mod_revision,
        create_revision: kv.create_revision,
        version: kv.version,
    };
    Reply::Got(found.kvs.into_iter().map(pair).collect())
}

fn reply_of(op: pb::ResponseOp) -> Reply {
    use pb::response_op::Response;
    match op.response {
        Some(Response::ResponseRange(found)) => got(found),
        Some(Response::ResponseDeleteRange(deleted)) => Reply::Deleted(deleted.deleted),
        Some(Response::ResponseTxn(txn)) => txn_reply(txn),
        Some(Response::ResponsePut(_)) | None => Reply::Put,
    }
}

fn txn_reply(txn: pb::TxnResponse) -> Reply {
    Reply::Txn(txn.succeeded, txn.responses.into_iter().map(reply_of).collect())
}

/// The machine's answer, with its revision.
pub fn answer(response: machine::Response) -> (i64, Reply) {
    let (header, reply) = match response {
        machine::Response::Put(put) => (put.header, Reply::Put),
        machine::Response::DeleteRange(deleted) => (deleted.header, Reply::Deleted(deleted.deleted)),
        machine::Response::Txn(txn) => (txn.header, txn_reply(txn)),
        machine::Response::Compact(compacted) => (compacted.header, Reply::Compacted),
        // The bare core's answer to everything.
        machine::Response::Done => (None, Reply::Put),
        other => unreachable!("the clients asked for nothing that is answered {other:?}"),
    };
    (header.map_or(0, |header| header.revision), reply)
}
