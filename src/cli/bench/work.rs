//! What one caller does, again and again.
//!
//! Each kind of work is one call, or one question on a stream, so that a latency is that of the server and not of a program
//! around it. A swap that finds another value than it expected has done its work too: it learned the value, for the next try.

use super::keys::Keys;
use super::record::Kind;
use crate::proto::etcdserverpb as pb;
use crate::rng::Rng;
use bytes::Bytes;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::request_op::Request;
use pb::response_op::Response;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// What leases of the load are granted for, in seconds: longer than any load lasts, and over soon afterwards.
const TTL_S: i64 = 300;

/// What a load consists of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "work", rename_all = "snake_case")]
pub enum Work {
    /// Gets and puts of single keys.
    Mixed {
        /// The share of gets, 0 to 1.
        read_ratio: f64,
        /// A member answers gets from its own state.
        serializable: bool,
    },
    /// Linearizable reads of neighbouring keys.
    Range {
        /// So many.
        keys: i64,
    },
    /// Compare-and-swap of single keys. Callers that share a key contend.
    Swap,
    /// Grants of leases.
    Grant,
    /// Keepalives, each caller's of its own lease on its own stream.
    KeepAlive,
}

impl Work {
    /// Whether the keys must be there before.
    pub fn wants_keys(self) -> bool {
        match self {
            Work::Mixed { read_ratio, .. } => read_ratio > 0.0,
            Work::Range { .. } => true,
            Work::Swap | Work::Grant | Work::KeepAlive => false,
        }
    }
}

/// A stream of keepalives.
struct Pulse {
    lease: i64,
    questions: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    answers: Streaming<pb::LeaseKeepAliveResponse>,
}

/// One caller's end of its connection, and what it remembers.
pub struct Caller {
    work: Work,
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    pulse: Option<Pulse>,
    /// The revision at which this caller's key was last seen.
    seen: i64,
    number: u64,
}

impl Caller {
    /// Caller `number` on `channel`.
    pub fn new(work: Work, channel: Channel, number: u64) -> Caller {
        let kv = KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        Caller { work, kv, lease: LeaseClient::new(channel), pulse: None, seen: 0, number }
    }

    /// Does one piece of it: on key number `key`, with `dice` for the rest.
    pub async fn operate(
        &mut self,
        keys: &Keys,
        key: u64,
        value: &Bytes,
        dice: &mut Rng,
    ) -> (Kind, Result<(), Status>) {
        match self.work {
            Work::Mixed { read_ratio, serializable } => {
                let key = keys.key(key);
                // 53 bits make a fair float in [0, 1).
                let draw = (dice.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
                if draw < read_ratio {
                    let request = pb::RangeRequest { key, serializable, ..Default::default() };
                    (Kind::Get, self.kv.range(request).await.map(drop))
                } else {
                    let request = pb::PutRequest { key, value: value.clone(), ..Default::default() };
                    (Kind::Put, self.kv.put(request).await.map(drop))
                }
            }
            Work::Range { keys: limit } => {
                // Not so near the end that fewer are left.
                let first = key % keys.count().saturating_sub(limit.unsigned_abs()).max(1);
                let (key, range_end) = (keys.key(first), Bytes::from_static(b"\0"));
                let request = pb::RangeRequest { key, range_end, limit, ..Default::default() };
                (Kind::Range, self.kv.range(request).await.map(drop))
            }
            Work::Swap => (Kind::Swap, self.swap(keys.key(self.number), value).await),
            Work::Grant => {
                let request = pb::LeaseGrantRequest { ttl: TTL_S, id: 0 };
                (Kind::Grant, self.lease.lease_grant(request).await.map(drop))
            }
            Work::KeepAlive => (Kind::KeepAlive, self.keep_alive().await),
        }
    }

    async fn swap(&mut self, key: Bytes, value: &Bytes) -> Result<(), Status> {
        let compare = pb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.clone(),
            range_end: Bytes::new(),
            target_union: Some(TargetUnion::ModRevision(self.seen)),
        };
        let op = |request| vec![pb::RequestOp { request: Some(request) }];
        let put = pb::PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
        let get = pb::RangeRequest { key, keys_only: true, ..Default::default() };
        let (success, failure) = (op(Request::RequestPut(put)), op(Request::RequestRange(get)));
        let answer = self.kv.txn(pb::TxnRequest { compare: vec![compare], success, failure }).await?.into_inner();
        self.seen = match answer.responses.first().and_then(|op| op.response.as_ref()) {
            Some(Response::ResponseRange(range)) => range.kvs.first().map_or(0, |kv| kv.mod_revision),
            _ => answer.header.map_or(0, |header| header.revision),
        };
        Ok(())
    }

    async fn keep_alive(&mut self) -> Result<(), Status> {
        let mut pulse = match self.pulse.take() {
            Some(pulse) => pulse,
            None => self.begin_pulse().await?,
        };
        let gone = || Status::unavailable("the stream of keepalives has ended");
        let question = pb::LeaseKeepAliveRequest { id: pulse.lease };
        pulse.questions.send(question).await.map_err(|_| gone())?;
        let answer = pulse.answers.message().await?.ok_or_else(gone)?;
        if answer.ttl <= 0 {
            return Err(Status::not_found("the lease is gone"));
        }
        self.pulse = Some(pulse);
        Ok(())
    }

    async fn begin_pulse(&mut self) -> Result<Pulse, Status> {
        let granted = self.lease.lease_grant(pb::LeaseGrantRequest { ttl: TTL_S, id: 0 }).await?;
        let lease = granted.into_inner().id;
        let (questions, receiver) = mpsc::channel(1);
        // The first answer opens the stream, so the first question must be there before.
        questions.try_send(pb::LeaseKeepAliveRequest { id: lease }).map_err(|e| Status::internal(e.to_string()))?;
        let mut answers = self.lease.lease_keep_alive(ReceiverStream::new(receiver)).await?.into_inner();
        answers.message().await?;
        Ok(Pulse { lease, questions, answers })
    }
}
