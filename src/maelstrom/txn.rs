//! `txn-list-append` and `txn-rw-register`: transactions over lists and registers, strictly serializable.
//!
//! The machine knows etcd's transactions: compares, then puts. A transaction that computes what it writes from what it reads
//! is done optimistically: read the view, compute, and submit the writes guarded by the revision of every key that was
//! looked at. If the guards hold when the entry is applied, then what was computed is what a computation at that very place
//! of the log would have given, whatever the view was; if not, nothing happened, and it is computed anew. Each entry that fails
//! was overtaken by one that did not, so somebody always gets on.
//!
//! A transaction that only reads takes one linearizable read and no entry: all its keys come from one revision.
//!
//! # Invariants
//!
//! 1. Every key whose former value the transaction saw or needed is guarded; a register that is written blindly is not.
//! 2. A transaction is submitted again only after its entry was applied and changed nothing.

use super::Workload;
use super::protocol::{Body, Code, Error, body, decode, encode, list};
use super::replicated::{Granted, Step, get, unexpected};
use crate::machine::{Response, View};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::quorate::command::Op;
use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeMap;

/// So often a transaction is tried: a client that waits a second has long given up on one that needs more.
const TRIES_MAX: u32 = 32;

/// A transaction, and how far it is.
#[derive(Debug)]
pub struct Txn {
    operations: Vec<Operation>,
    /// What it answers if the entry on its way is applied with its guards holding.
    completed: Vec<Value>,
    tries: u32,
}

/// One of its operations.
#[derive(Clone, Debug, PartialEq)]
struct Operation {
    function: Function,
    key: Value,
    argument: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Read,
    Append,
    Write,
}

/// What a transaction does to a state.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    completed: Vec<Value>,
    /// The revision of the last change of each key looked at; 0: absent.
    guards: BTreeMap<Bytes, i64>,
    writes: BTreeMap<Bytes, Value>,
}

impl Txn {
    /// Reads a request of the workload.
    ///
    /// # Errors
    /// There is no such request, or it makes no sense.
    pub fn of(kind: &str, request: &Body, workload: Workload) -> Result<Txn, Error> {
        if kind != "txn" {
            return Err(Error::not_supported(kind, workload.name()));
        }
        let operations: Result<_, _> = list(request, "txn")?.iter().map(|op| read_operation(op, workload)).collect();
        Ok(Txn { operations: operations?, completed: Vec::new(), tries: 0 })
    }

    /// What it needs next.
    ///
    /// # Errors
    /// What the client hears instead of an answer.
    pub fn step(&mut self, view: &View, granted: Granted) -> Result<Step, Error> {
        let only_reads = self.operations.iter().all(|op| op.function == Function::Read);
        match granted {
            Granted::Begin if only_reads => Ok(Step::Read),
            Granted::Begin => self.attempt(view),
            Granted::Readable => {
                self.completed = evaluate(&self.operations, &|key| look_up(view, key))?.completed;
                Ok(self.done())
            }
            Granted::Applied(Response::Txn(response)) if response.succeeded => Ok(self.done()),
            Granted::Applied(Response::Txn(_)) => self.attempt(view),
            granted @ Granted::Applied(_) => Err(unexpected(&granted)),
        }
    }

    fn attempt(&mut self, view: &View) -> Result<Step, Error> {
        if self.tries == TRIES_MAX {
            return Err(Error::new(Code::TxnConflict, format!("others came first {TRIES_MAX} times")));
        }
        self.tries += 1;
        let Outcome { completed, guards, writes } = evaluate(&self.operations, &|key| look_up(view, key))?;
        self.completed = completed;
        let put = |(key, value): (Bytes, Value)| {
            let put = pb::PutRequest { key, value: encode(&value), ..Default::default() };
            pb::RequestOp { request: Some(Request::RequestPut(put)) }
        };
        Ok(Step::Propose(Op::Txn(pb::TxnRequest {
            compare: guards.into_iter().map(|(key, revision)| unchanged(key, revision)).collect(),
            success: writes.into_iter().map(put).collect(),
            failure: Vec::new(),
        })))
    }

    fn done(&mut self) -> Step {
        Step::Done(body("txn_ok", [("txn", std::mem::take(&mut self.completed).into())]))
    }
}

fn read_operation(operation: &Value, workload: Workload) -> Result<Operation, Error> {
    let malformed = || Error::malformed(format!("{operation} is no operation of {}", workload.name()));
    let Some([function, key, argument]) = operation.as_array().map(Vec::as_slice) else { return Err(malformed()) };
    let function = match (function.as_str(), workload) {
        (Some("r"), _) => Function::Read,
        (Some("append"), Workload::TxnListAppend) => Function::Append,
        (Some("w"), Workload::TxnRwRegister) => Function::Write,
        _ => return Err(malformed()),
    };
    Ok(Operation { function, key: key.clone(), argument: argument.clone() })
}

/// A key as it is: absent, it is null at revision 0.
#[derive(Clone, Debug, Default)]
struct Found {
    value: Value,
    /// Of its last change.
    revision: i64,
}

fn look_up(view: &View, key: &Bytes) -> Result<Found, Error> {
    let Some(found) = get(view, key.clone())? else { return Ok(Found::default()) };
    Ok(Found { value: decode(&found.value)?, revision: found.mod_revision })
}

fn unchanged(key: Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key,
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Default::default()
    }
}

/// Runs the operations, in order, on the state that `look_up` shows. They see their own writes.
fn evaluate(operations: &[Operation], look_up: &dyn Fn(&Bytes) -> Result<Found, Error>) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    for Operation { function, key, argument } in operations {
        let at = encode(key);
        let mut current = || match outcome.writes.get(&at) {
            Some(written) => Ok(written.clone()),
            None => {
                let Found { value, revision } = look_up(&at)?;
                outcome.guards.insert(at.clone(), revision);
                Ok(value)
            }
        };
        let (name, shown) = match function {
            Function::Read => ("r", current()?),
            Function::Append => {
                let mut elements = match current()? {
                    Value::Null => Vec::new(),
                    Value::Array(elements) => elements,
                    other => return Err(Error::new(Code::Abort, format!("{key} is no list but {other}"))),
                };
                elements.push(argument.clone());
                outcome.writes.insert(at, elements.into());
                ("append", argument.clone())
            }
            Function::Write => {
                outcome.writes.insert(at, argument.clone());
                ("w", argument.clone())
            }
        };
        outcome.completed.push(vec![name.into(), key.clone(), shown].into());
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(workload: Workload, txn: Value, state: &[(Value, Value, i64)]) -> Outcome {
        let found = |value: &Value, revision| Found { value: value.clone(), revision };
        let state: BTreeMap<Bytes, Found> = state.iter().map(|(k, v, r)| (encode(k), found(v, *r))).collect();
        let txn = Txn::of("txn", &body("txn", [("txn", txn)]), workload).unwrap();
        evaluate(&txn.operations, &|key| Ok(state.get(key).cloned().unwrap_or_default())).unwrap()
    }

    #[test]
    fn lists_are_read_with_own_appends_and_every_key_looked_at_is_guarded() {
        let txn = json!([["r", 1, null], ["append", 1, 9], ["r", 1, null], ["append", 2, 5], ["r", 3, null]]);
        let outcome = run(Workload::TxnListAppend, txn, &[(json!(1), json!([7]), 4)]);
        let completed = json!([["r", 1, [7]], ["append", 1, 9], ["r", 1, [7, 9]], ["append", 2, 5], ["r", 3, null]]);
        assert_eq!(Value::from(outcome.completed), completed);
        let guards = [(json!(1), 4), (json!(2), 0), (json!(3), 0)];
        assert_eq!(outcome.guards, guards.iter().map(|(k, r)| (encode(k), *r)).collect());
        let writes = [(json!(1), json!([7, 9])), (json!(2), json!([5]))];
        assert_eq!(outcome.writes, writes.iter().map(|(k, v)| (encode(k), v.clone())).collect());
    }

    #[test]
    fn a_register_that_is_written_before_it_is_read_needs_no_guard() {
        let txn = json!([["w", "a", 1], ["r", "a", null], ["r", "b", null], ["w", "b", 2], ["r", "b", null]]);
        let outcome = run(Workload::TxnRwRegister, txn, &[(json!("b"), json!(8), 3)]);
        let completed = json!([["w", "a", 1], ["r", "a", 1], ["r", "b", 8], ["w", "b", 2], ["r", "b", 2]]);
        assert_eq!(Value::from(outcome.completed), completed);
        assert_eq!(outcome.guards, BTreeMap::from([(encode(&json!("b")), 3)]));
    }

    #[test]
    fn what_is_no_transaction_is_malformed() {
        for txn in [json!(1), json!([1]), json!([["r", 1]]), json!([["w", 1, 2]]), json!([["cas", 1, 2]])] {
            let read = Txn::of("txn", &body("txn", [("txn", txn.clone())]), Workload::TxnListAppend);
            assert_eq!(read.map(|_| ()).unwrap_err().code, Code::MalformedRequest, "{txn}");
        }
    }
}
