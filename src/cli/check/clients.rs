//! Clients that write down what they see.
//!
//! Each asks one thing after the other through the client library, as any program does, and notes the call, both times and
//! the outcome. Few hot keys are fought over, many cold ones are there to be lost; every value is written once. What a
//! client saw of a key last it compares with in its transactions, so that some of them succeed.
//!
//! An error means what `client/retry.rs` says: refused and rejected are "surely not done", uncertain is "unknown". After an
//! unknown outcome the client goes on under a new number.

use crate::check::history::{Call, Compare, Operation, Outcome, Pair, Relation, Reply, Target};
use crate::client::{Client, Error, Options};
use crate::clock;
use crate::proto::{etcdserverpb as pb, mvccpb};
use crate::rng::{Rng, Seed};
use crate::time::Duration;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use pb::response_op::Response;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Keys that everyone writes.
const HOT: u64 = 5;
/// Keys that are written now and then.
const COLD: u64 = 1000;
/// The longest pause between two operations of a client.
const PAUSE_MAX: Duration = Duration::from_millis(10);
/// Of a call, with all its tries.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of one try.
const TRY: Duration = Duration::from_millis(500);
/// A final read may wait for a member that is still catching up.
const FINAL_PATIENCE: Duration = Duration::from_secs(20);
/// The reply that stands for one that can't be read; no call fits it.
const UNREADABLE: Reply = Reply::Deleted(-1);

/// What all clients share.
pub struct Recorder {
    /// All keys begin so.
    prefix: String,
    began: Instant,
    stop: AtomicBool,
    values: AtomicU64,
    numbers: AtomicU64,
    history: Mutex<Vec<Operation>>,
}

impl Recorder {
    /// One that has seen nothing; all keys will begin with `prefix`.
    pub fn new(prefix: String) -> Recorder {
        Recorder {
            prefix,
            began: clock::instant(),
            stop: AtomicBool::new(false),
            values: AtomicU64::new(1),
            numbers: AtomicU64::new(1),
            history: Mutex::new(Vec::new()),
        }
    }

    /// Since the recording began, in nanoseconds.
    pub fn now(&self) -> u64 {
        u64::try_from(clock::instant().saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Tells all clients to stop after what they are doing.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Everything that was seen, in the order of invocation.
    pub fn take(&self) -> Vec<Operation> {
        let mut history = std::mem::take(&mut *self.history.lock().unwrap_or_else(PoisonError::into_inner));
        history.sort_by_key(|operation| operation.invoked);
        history
    }

    /// One client, until it is told to stop.
    pub async fn client(&self, client: Client, seed: Seed) {
        let mut state = State { rng: Rng::new(seed), number: self.number(), seen: BTreeMap::new() };
        while !self.stop.load(Ordering::Relaxed) {
            let call = self.call(&mut state);
            let outcome = self.record(&client, state.number, call).await;
            match &outcome {
                Outcome::Done { reply, .. } => state.note(reply),
                Outcome::Unknown(_) => state.number = self.number(),
                Outcome::Refused(_) | Outcome::Compacted => {}
            }
            tokio::time::sleep(state.rng.duration(Duration::ZERO, PAUSE_MAX)).await;
        }
    }

    /// Reads everything from one member, first what the cluster has, then what the member has itself.
    ///
    /// # Errors
    /// Why it could not be read.
    pub async fn read_all(&self, endpoint: &str) -> Result<(), String> {
        let options = Options { dial_timeout: TRY, command_timeout: FINAL_PATIENCE, try_timeout: FINAL_PATIENCE / 2 };
        let client = Client::new(&[endpoint.to_owned()], options).map_err(|e| e.to_string())?;
        let number = self.number();
        for serializable in [false, true] {
            let (key, end) = self.everything();
            let call = Call::Get { key, end: Some(end), revision: 0, serializable };
            if let Outcome::Refused(why) | Outcome::Unknown(why) = self.record(&client, number, call).await {
                return Err(why);
            }
        }
        Ok(())
    }

    fn everything(&self) -> (String, String) {
        (format!("{}a", self.prefix), format!("{}z", self.prefix))
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    async fn record(&self, client: &Client, number: u64, call: Call) -> Outcome {
        let invoked = self.now();
        let answer = ask(client, &call).await;
        let returned = self.now();
        let outcome = match answer {
            Ok((revision, reply)) => Outcome::Done { revision, reply },
            Err(error @ (Error::Refused(_) | Error::Rejected(_))) => Outcome::Refused(error.cause()),
            Err(error @ Error::Uncertain(_)) => Outcome::Unknown(error.cause()),
        };
        let operation = Operation { client: number, invoked, returned, call, outcome: outcome.clone() };
        self.history.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
        outcome
    }

    fn hot(&self, rng: &mut Rng) -> String {
        format!("{}hot/{}", self.prefix, rng.below(HOT))
    }

    fn key(&self, rng: &mut Rng) -> String {
        if rng.below(3) > 0 { self.hot(rng) } else { format!("{}cold/{:03}", self.prefix, rng.below(COLD)) }
    }

    fn put(&self, key: String) -> Call {
        Call::Put { key, value: format!("v{}", self.values.fetch_add(1, Ordering::Relaxed)) }
    }

    /// What to do next.
    fn call(&self, state: &mut State) -> Call {
        let rng = &mut state.rng;
        match rng.below(20) {
            0..=7 => self.put(self.key(rng)),
            8..=12 => Call::Get { key: self.key(rng), end: None, revision: 0, serializable: false },
            13 => Call::Get { key: self.key(rng), end: None, revision: 0, serializable: true },
            14 => {
                let (key, end) = (format!("{}hot/", self.prefix), format!("{}hot0", self.prefix));
                Call::Get { key, end: Some(end), revision: 0, serializable: rng.below(2) == 0 }
            }
            15 => Call::Delete { key: self.key(rng), end: None },
            16 | 17 => {
                let (one, other) = (self.hot(rng), self.key(rng));
                let second = (one != other).then(|| self.put(other));
                let then = [self.put(one)].into_iter().chain(second).collect();
                Call::Txn { compare: Vec::new(), then, otherwise: Vec::new() }
            }
            _ => {
                let key = self.hot(rng);
                let target = match (rng.below(3), state.seen.get(&key)) {
                    (_, None) => Target::Version(0),
                    (0, Some(pair)) => Target::Value(pair.value.clone()),
                    (1, Some(pair)) => Target::ModRevision(pair.mod_revision),
                    (_, Some(pair)) => Target::Version(pair.version),
                };
                let compare = vec![Compare { key: key.clone(), target, relation: Relation::Equal }];
                let look = Call::Get { key: key.clone(), end: None, revision: 0, serializable: false };
                Call::Txn { compare, then: vec![self.put(key)], otherwise: vec![look] }
            }
        }
    }
}

/// One client's own.
struct State {
    rng: Rng,
    number: u64,
    /// What it saw of keys.
    seen: BTreeMap<String, Pair>,
}

impl State {
    fn note(&mut self, reply: &Reply) {
        match reply {
            Reply::Got(pairs) => {
                self.seen.extend(pairs.iter().map(|pair| (pair.key.clone(), pair.clone())));
            }
            Reply::Txn(_, replies) => replies.iter().for_each(|reply| self.note(reply)),
            Reply::Put | Reply::Deleted(_) | Reply::Compacted => {}
        }
    }
}

/// The clients of a recording: each begins at another endpoint.
///
/// # Errors
/// If an endpoint can't be read.
pub fn clients(endpoints: &[String], count: usize) -> Result<Vec<Client>, Error> {
    let options = Options { dial_timeout: TRY, command_timeout: PATIENCE, try_timeout: TRY };
    let mut endpoints = endpoints.to_vec();
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(Client::new(&endpoints, options)?);
        endpoints.rotate_left(1);
    }
    Ok(clients)
}

/// Asks the store; the revision and the reply.
async fn ask(client: &Client, call: &Call) -> Result<(i64, Reply), Error> {
    let revision = |header: &Option<pb::ResponseHeader>| header.as_ref().map_or(0, |header| header.revision);
    match request(call) {
        Request::RequestRange(request) => {
            let response = client.range(request).await?;
            Ok((revision(&response.header), Reply::Got(pairs(response.kvs))))
        }
        Request::RequestPut(request) => {
            let response = client.put(request).await?;
            Ok((revision(&response.header), Reply::Put))
        }
        Request::RequestDeleteRange(request) => {
            let response = client.delete_range(request).await?;
            Ok((revision(&response.header), Reply::Deleted(response.deleted)))
        }
        Request::RequestTxn(request) => {
            let response = client.txn(request).await?;
            Ok((revision(&response.header), txn_reply(response)))
        }
    }
}

fn request(call: &Call) -> Request {
    let end = |end: &Option<String>| end.clone().unwrap_or_default().into();
    match call {
        Call::Put { key, value } => {
            let (key, value) = (key.clone().into(), value.clone().into());
            Request::RequestPut(pb::PutRequest { key, value, ..Default::default() })
        }
        Call::Get { key, end: last, revision, serializable } => Request::RequestRange(pb::RangeRequest {
            key: key.clone().into(),
            range_end: end(last),
            revision: *revision,
            serializable: *serializable,
            ..Default::default()
        }),
        Call::Delete { key, end: last } => {
            let (key, range_end) = (key.clone().into(), end(last));
            Request::RequestDeleteRange(pb::DeleteRangeRequest { key, range_end, ..Default::default() })
        }
        Call::Compact { .. } => unreachable!("these clients compact nothing"),
        Call::Txn { compare, then, otherwise } => {
            let branch = |calls: &[Call]| {
                calls.iter().map(|call| pb::RequestOp { request: Some(request(call)) }).collect::<Vec<_>>()
            };
            Request::RequestTxn(pb::TxnRequest {
                compare: compare.iter().map(condition).collect(),
                success: branch(then),
                failure: branch(otherwise),
            })
        }
    }
}

fn condition(compare: &Compare) -> pb::Compare {
    let (target, union) = match &compare.target {
        Target::Value(value) => (CompareTarget::Value, TargetUnion::Value(value.clone().into())),
        Target::ModRevision(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(*revision)),
        Target::CreateRevision(revision) => (CompareTarget::Create, TargetUnion::CreateRevision(*revision)),
        Target::Version(version) => (CompareTarget::Version, TargetUnion::Version(*version)),
    };
    let result = match compare.relation {
        Relation::Equal => CompareResult::Equal,
        Relation::NotEqual => CompareResult::NotEqual,
        Relation::Less => CompareResult::Less,
        Relation::Greater => CompareResult::Greater,
    };
    pb::Compare {
        key: compare.key.clone().into(),
        target: target.into(),
        result: result.into(),
        target_union: Some(union),
        ..Default::default()
    }
}

fn pairs(found: Vec<mvccpb::KeyValue>) -> Vec<Pair> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pair = |kv: mvccpb::KeyValue| Pair {
        key: text(&kv.key),
        value: text(&kv.value),
        mod_revision: kv.mod_revision,
        create_revision: kv.create_revision,
        version: kv.version,
    };
    found.into_iter().map(pair).collect()
}

fn txn_reply(response: pb::TxnResponse) -> Reply {
    let replies = response.responses.into_iter().map(|op| match op.response {
        Some(Response::ResponseRange(range)) => Reply::Got(pairs(range.kvs)),
        Some(Response::ResponsePut(_)) => Reply::Put,
        Some(Response::ResponseDeleteRange(delete)) => Reply::Deleted(delete.deleted),
        Some(Response::ResponseTxn(txn)) => txn_reply(txn),
        None => UNREADABLE,
    });
    Reply::Txn(response.succeeded, replies.collect())
}
