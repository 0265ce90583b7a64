//! `kafka`: logs of messages with offsets, and how far each was processed.
//!
//! A message is a key of its own, and its offset is the revision of the put: a revision belongs to one entry of the Raft log
//! and only grows, so offsets are unique, increase strictly, and are in the order in which they were acknowledged. They are
//! sparse, which the workload allows. A poll is a range over the keys of one log by revision, from one view: what it shows
//! has no holes.
//!
//! ```text
//!   m <key> 00 <id>     a message: the value; its revision is the offset
//!   c <key>             how far it was processed: an offset, in digits of equal number
//! ```
//!
//! Committed offsets never fall: each is put under the condition that the stored one is not greater, by the machine, so a
//! request is one entry of the log and needs no second try. Digits of equal number compare as bytes like the numbers.

use super::alone::Ids;
use super::protocol::{Body, Error, body, decode, encode, field, list, names, object};
use super::replicated::{Granted, Step, failed, get, unexpected};
use crate::machine::{Response, View};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::quorate::command::Op;
use bytes::Bytes;
use serde_json::{Map, Value};

/// So many messages of a log are shown at once: an answer stays short however long the log is, and the client asks on.
const POLL_MESSAGES_MAX: i64 = 256;

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Append a message to a log.
    Send {
        /// Under which key it is stored.
        at: Bytes,
        /// The message.
        message: Bytes,
    },
    /// Show the messages of some logs, each from an offset on.
    Poll(Vec<(String, i64)>),
    /// Some logs were processed up to these offsets.
    Commit(Vec<(String, i64)>),
    /// How far were these logs processed?
    ListCommitted(Vec<String>),
}

impl Operation {
    /// Reads a request of the workload `kafka`. `ids` names the message that it may append.
    ///
    /// # Errors
    /// There is no such request, or it makes no sense.
    pub fn of(kind: &str, request: &Body, ids: &mut Ids) -> Result<Operation, Error> {
        match kind {
            "send" => {
                let key = field(request, "key")?.as_str().ok_or_else(|| Error::malformed("a key is text"))?;
                let mut at = messages(key);
                at.extend(ids.next().into_bytes());
                Ok(Operation::Send { at: at.into(), message: encode(field(request, "msg")?) })
            }
            "poll" => Ok(Operation::Poll(offsets(request)?)),
            "commit_offsets" => Ok(Operation::Commit(offsets(request)?)),
            "list_committed_offsets" => Ok(Operation::ListCommitted(names(list(request, "keys")?)?)),
            _ => Err(Error::not_supported(kind, "kafka")),
        }
    }

    /// What it needs next.
    ///
    /// # Errors
    /// What the client hears instead of an answer.
    pub fn step(&mut self, view: &View, granted: Granted) -> Result<Step, Error> {
        match (&*self, granted) {
            (Operation::Send { at, message }, Granted::Begin) => {
                let put = pb::PutRequest { key: at.clone(), value: message.clone(), ..Default::default() };
                Ok(Step::Propose(Op::Put(put)))
            }
            (Operation::Send { .. }, Granted::Applied(Response::Put(response))) => {
                let offset = response.header.map_or(0, |header| header.revision);
                Ok(Step::Done(body("send_ok", [("offset", offset.into())])))
            }
            (Operation::Commit(offsets), Granted::Begin) => Ok(Step::Propose(Op::Txn(raise(offsets)))),
            (Operation::Commit(_), Granted::Applied(_)) => Ok(Step::Done(body("commit_offsets_ok", []))),
            (Operation::Poll(_) | Operation::ListCommitted(_), Granted::Begin) => Ok(Step::Read),
            (Operation::Poll(offsets), Granted::Readable) => {
                let mut found = Map::new();
                for (key, from) in offsets {
                    found.insert(key.clone(), poll(view, key, *from)?.into());
                }
                Ok(Step::Done(body("poll_ok", [("msgs", found.into())])))
            }
            (Operation::ListCommitted(keys), Granted::Readable) => {
                let mut found = Map::new();
                for key in keys {
                    if let Some(stored) = get(view, committed(key))? {
                        let text = String::from_utf8_lossy(&stored.value).into_owned();
                        let offset: i64 = text.parse().map_err(|_| Error::malformed(format!("{text:?} is stored")))?;
                        found.insert(key.clone(), offset.into());
                    }
                }
                Ok(Step::Done(body("list_committed_offsets_ok", [("offsets", found.into())])))
            }
            (_, granted) => Err(unexpected(&granted)),
        }
    }
}

fn offsets(request: &Body) -> Result<Vec<(String, i64)>, Error> {
    let offset = |(key, offset): (&String, &Value)| {
        let number = offset.as_i64().map(|number| number.max(0));
        Ok((key.clone(), number.ok_or_else(|| Error::malformed(format!("{offset} is no offset")))?))
    };
    object(request, "offsets")?.iter().map(offset).collect()
}

/// What the keys of a log's messages begin with. The text of a JSON string has no zero byte, so no log's begin another's.
fn messages(key: &str) -> Vec<u8> {
    [b"m", &*encode(&key.into()), &[0]].concat()
}

fn committed(key: &str) -> Vec<u8> {
    [b"c", &*encode(&key.into())].concat()
}

fn poll(view: &View, key: &str, from: i64) -> Result<Vec<Value>, Error> {
    let first = messages(key);
    let mut end = first.clone();
    end.pop();
    end.push(1);
    let range = pb::RangeRequest {
        key: first.into(),
        range_end: end.into(),
        min_mod_revision: from,
        limit: POLL_MESSAGES_MAX,
        sort_target: SortTarget::Mod.into(),
        sort_order: SortOrder::Ascend.into(),
        ..Default::default()
    };
    let found = view.range(&range).map_err(|error| failed(&error))?;
    found.kvs.into_iter().map(|kv| Ok(vec![kv.mod_revision.into(), decode(&kv.value)?].into())).collect()
}

/// Each offset is put unless a greater one is stored.
fn raise(offsets: &[(String, i64)]) -> pb::TxnRequest {
    let raise_one = |(key, offset): &(String, i64)| {
        let key = Bytes::from(committed(key));
        let digits = Bytes::from(format!("{offset:019}"));
        let greater = pb::Compare {
            result: CompareResult::Greater.into(),
            target: CompareTarget::Value.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::Value(digits.clone())),
            ..Default::default()
        };
        let put = pb::PutRequest { key, value: digits, ..Default::default() };
        let txn = pb::TxnRequest {
            compare: vec![greater],
            success: Vec::new(),
            failure: vec![pb::RequestOp { request: Some(Request::RequestPut(put)) }],
        };
        pb::RequestOp { request: Some(Request::RequestTxn(txn)) }
    };
    pb::TxnRequest { compare: Vec::new(), success: offsets.iter().map(raise_one).collect(), failure: Vec::new() }
}
