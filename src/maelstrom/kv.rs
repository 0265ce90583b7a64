//! `lin-kv`: registers that can be read, written, and compared and set.
//!
//! A key and a value are any JSON, stored as [`encode`] makes them. A cas is one etcd transaction: the compare, the put if it holds, and
//! else a read, by which "absent" (20) is told from "another value" (22). So each request is at most one entry of the log,
//! and never tried twice.

use super::protocol::{Body, Code, Error, body, decode, encode, field};
use super::replicated::{Granted, Step, get, unexpected};
use crate::machine::{Response, View};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op;
use crate::proto::quorate::command::Op;
use bytes::Bytes;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read the key.
    Read {
        /// Which.
        key: Bytes,
    },
    /// Set the key.
    Write {
        /// Which.
        key: Bytes,
        /// To what.
        value: Bytes,
    },
    /// Set the key if it is as expected.
    Cas {
        /// Which.
        key: Bytes,
        /// What it must be.
        from: Bytes,
        /// What it becomes.
        to: Bytes,
    },
}

impl Operation {
    /// Reads a request of the workload `lin-kv`.
    ///
    /// # Errors
    /// There is no such request, or it lacks something.
    pub fn of(kind: &str, request: &Body) -> Result<Operation, Error> {
        let get = |name| field(request, name).map(encode);
        match kind {
            "read" => Ok(Operation::Read { key: get("key")? }),
            "write" => Ok(Operation::Write { key: get("key")?, value: get("value")? }),
            "cas" => Ok(Operation::Cas { key: get("key")?, from: get("from")?, to: get("to")? }),
            _ => Err(Error::not_supported(kind, "lin-kv")),
        }
    }

    /// What it needs next.
    ///
    /// # Errors
    /// What the client hears instead of an answer.
    pub fn step(&mut self, view: &View, granted: Granted) -> Result<Step, Error> {
        match (&*self, granted) {
            (Operation::Read { .. }, Granted::Begin) => Ok(Step::Read),
            (Operation::Read { key }, Granted::Readable) => {
                let found = get(view, key.clone())?.ok_or_else(|| absent(key))?;
                Ok(Step::Done(body("read_ok", [("value", decode(&found.value)?)])))
            }
            (Operation::Write { key, value }, Granted::Begin) => Ok(Step::Propose(Op::Put(put(key, value)))),
            (Operation::Write { .. }, Granted::Applied(_)) => Ok(Step::Done(body("write_ok", []))),
            (Operation::Cas { key, from, to }, Granted::Begin) => Ok(Step::Propose(Op::Txn(cas(key, from, to)))),
            (Operation::Cas { key, from, .. }, Granted::Applied(Response::Txn(response))) => {
                if response.succeeded {
                    return Ok(Step::Done(body("cas_ok", [])));
                }
                let found = response.responses.into_iter().find_map(|op| match op.response {
                    Some(response_op::Response::ResponseRange(range)) => range.kvs.into_iter().next(),
                    _ => None,
                });
                let found = found.ok_or_else(|| absent(key))?;
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let why = format!("expected {}, found {}", text(from), text(&found.value));
                Err(Error::new(Code::PreconditionFailed, why))
            }
            (_, granted) => Err(unexpected(&granted)),
        }
    }
}

fn absent(key: &Bytes) -> Error {
    Error::new(Code::KeyDoesNotExist, format!("there is no key {}", String::from_utf8_lossy(key)))
}

fn put(key: &Bytes, value: &Bytes) -> pb::PutRequest {
    pb::PutRequest { key: key.clone(), value: value.clone(), ..Default::default() }
}

fn cas(key: &Bytes, from: &Bytes, to: &Bytes) -> pb::TxnRequest {
    let equal = pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Value.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::Value(from.clone())),
        ..Default::default()
    };
    let look = pb::RangeRequest { key: key.clone(), ..Default::default() };
    let op = |request| vec![pb::RequestOp { request: Some(request) }];
    pb::TxnRequest {
        compare: vec![equal],
        success: op(Request::RequestPut(put(key, to))),
        failure: op(Request::RequestRange(look)),
    }
}
