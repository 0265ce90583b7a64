//! Locks and elections: standing in line under a name.
//!
//! Whoever wants the lock (or to lead) puts a key `name/lease` that hangs on its lease; the order of creation is the
//! line, and the first in it holds. These are etcd's keys, so etcdctl, etcd's Go library and its lock service stand in the
//! same line.
//!
//! This is the recipe on the client's side (KV, Lease and Watch) and not the Lock and Election services, for one reason:
//! there the asked member does the waiting, and when it dies, or the connection does, the place in the line is given up. Here
//! the place is the key: it outlives every member that is asked, and lasts as long as the lease. Standing in line twice is
//! as good as once (the key is only created if it is not there), so it is tried like a read.
//!
//! Whoever is done revokes the lease, and not only the key: a try that was given up and comes late can't stand in line
//! with a lease that is no more.
//!
//! Who waits watches one key, that of the one before him: a lock that is freed wakes one waiter, not all.

use super::resume::End;
use super::retry::Kind;
use super::watch::{Told, Watch};
use super::{Client, Error};
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb;
use bytes::Bytes;
use mvccpb::event::EventType;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request;
use std::collections::VecDeque;
use tonic::Status;

/// A place in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The key that stands for it.
    pub key: Bytes,
    /// The revision that created it. It grows from holder to holder: what is protected can refuse an older one.
    pub revision: i64,
    /// What all keys of the line begin with.
    line: Bytes,
}

impl Client {
    /// Stands in line under `name`, for as long as `lease` lives; `value` is for others to read.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`.
    pub async fn stand_in_line(&self, name: &[u8], lease: i64, value: Bytes) -> Result<Place, Error> {
        let line = line(name);
        let key: Bytes = [&line[..], format!("{lease:x}").as_bytes()].concat().into();
        let txn = pb::TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![op(Request::RequestPut(pb::PutRequest {
                key: key.clone(),
                value: value.clone(),
                lease,
                ..Default::default()
            }))],
            failure: vec![op(Request::RequestRange(pb::RangeRequest { key: key.clone(), ..Default::default() }))],
        };
        let answer = call!(self, Kind::Read, kv_client::KvClient.txn, txn)?;
        let revision = match answer.responses.first().and_then(|op| op.response.as_ref()) {
            Some(pb::response_op::Response::ResponseRange(found)) => {
                found.kvs.first().map_or(0, |kv| kv.create_revision)
            }
            _ => answer.header.map_or(0, |header| header.revision),
        };
        Ok(Place { key, revision, line })
    }

    /// Waits until `place` is the first of its line; returns the header of the answer that said so.
    ///
    /// # Errors
    /// `Rejected` if the place was lost meanwhile: its lease ran out.
    pub async fn wait_for_turn(&self, place: &Place) -> Result<pb::ResponseHeader, Error> {
        loop {
            let before = self.range(before(place)).await?;
            let header = before.header.unwrap_or_default();
            let Some(kv) = before.kvs.first() else { return self.own(place).await };
            self.wait_for_end(&kv.key, header.revision.saturating_add(1)).await?;
        }
    }

    /// Leaves the line, if `place` is still one's own.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn leave_line(&self, place: &Place) -> Result<(), Error> {
        let delete = pb::DeleteRangeRequest { key: place.key.clone(), ..Default::default() };
        let txn = pb::TxnRequest {
            compare: vec![created_at(&place.key, place.revision)],
            success: vec![op(Request::RequestDeleteRange(delete))],
            failure: Vec::new(),
        };
        // A second time it compares unequal and does nothing.
        call!(self, Kind::Read, kv_client::KvClient.txn, txn).map(|_| ())
    }

    /// The first of the line under `name`, and the header of the answer.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`.
    pub async fn first_in_line(&self, name: &[u8]) -> Result<(pb::ResponseHeader, Option<mvccpb::KeyValue>), Error> {
        let line = line(name);
        let request = pb::RangeRequest {
            range_end: range_end(&line),
            key: line,
            limit: 1,
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Create.into(),
            ..Default::default()
        };
        let answer = self.range(request).await?;
        Ok((answer.header.unwrap_or_default(), answer.kvs.into_iter().next()))
    }

    /// Who is first in the line under `name`, and every change. Nothing is sent before [`Observe::next`].
    pub fn observe(&self, name: &[u8]) -> Observe {
        Observe { client: self.clone(), name: Bytes::copy_from_slice(name), watch: None, seen: VecDeque::new() }
    }

    /// That `place` still stands.
    async fn own(&self, place: &Place) -> Result<pb::ResponseHeader, Error> {
        let answer = self.range(pb::RangeRequest { key: place.key.clone(), ..Default::default() }).await?;
        match answer.kvs.first() {
            Some(kv) if kv.create_revision == place.revision => Ok(answer.header.unwrap_or_default()),
            _ => Err(Error::Rejected(Status::unknown(
                "the place in the line was lost: its lease ran out or was revoked",
            ))),
        }
    }

    /// Waits until a key that was there before revision `from` is deleted.
    async fn wait_for_end(&self, key: &Bytes, from: i64) -> Result<(), Error> {
        let key = key.clone();
        let request = pb::WatchCreateRequest { key, start_revision: from, ..Default::default() };
        self.wait_for(request, EventType::Delete).await
    }

    /// Waits until somebody stands in the line that was empty before revision `from`.
    async fn wait_for_somebody(&self, name: &[u8], from: i64) -> Result<(), Error> {
        let key = line(name);
        let range_end = range_end(&key);
        let request = pb::WatchCreateRequest { key, range_end, start_revision: from, ..Default::default() };
        self.wait_for(request, EventType::Put).await
    }

    async fn wait_for(&self, request: pb::WatchCreateRequest, what: EventType) -> Result<(), Error> {
        let mut watch = self.watch(request);
        loop {
            match watch.next().await? {
                Told::Open | Told::Lost(_) => {}
                Told::News(news) => {
                    if news.events.iter().any(|event| event.r#type() == what) {
                        return Ok(());
                    }
                }
                // What happened meanwhile is compacted: whoever waits looks again.
                Told::End(_, End::Compacted(_)) => return Ok(()),
                Told::End(_, End::Canceled(why)) => return Err(Error::Rejected(Status::unknown(why))),
            }
        }
    }
}

/// The first of a line, one after the other, and the values each of them sets.
#[derive(Debug)]
pub struct Observe {
    client: Client,
    name: Bytes,
    /// Of the first one's key.
    watch: Option<Watch>,
    seen: VecDeque<(pb::ResponseHeader, mvccpb::KeyValue)>,
}

impl Observe {
    /// The next first, or the next value of the one who is; waits for it.
    ///
    /// # Errors
    /// See [`Error`]; never `Uncertain`.
    pub async fn next(&mut self) -> Result<(pb::ResponseHeader, mvccpb::KeyValue), Error> {
        loop {
            if let Some(seen) = self.seen.pop_front() {
                return Ok(seen);
            }
            let Some(watch) = &mut self.watch else {
                let (header, first) = self.client.first_in_line(&self.name).await?;
                let from = header.revision.saturating_add(1);
                match first {
                    Some(kv) => {
                        let key = kv.key.clone();
                        let request = pb::WatchCreateRequest { key, start_revision: from, ..Default::default() };
                        self.watch = Some(self.client.watch(request));
                        return Ok((header, kv));
                    }
                    None => self.client.wait_for_somebody(&self.name, from).await?,
                }
                continue;
            };
            match watch.next().await? {
                Told::Open | Told::Lost(_) => {}
                Told::News(news) => {
                    for event in news.events {
                        if event.r#type() == EventType::Delete {
                            self.watch = None;
                            break;
                        }
                        let header = news.header.unwrap_or_default();
                        self.seen.extend(event.kv.map(|kv| (header, kv)));
                    }
                }
                Told::End(_, End::Compacted(_)) => self.watch = None,
                Told::End(_, End::Canceled(why)) => return Err(Error::Rejected(Status::unknown(why))),
            }
        }
    }
}

/// The newest place before this one.
fn before(place: &Place) -> pb::RangeRequest {
    pb::RangeRequest {
        key: place.line.clone(),
        range_end: range_end(&place.line),
        limit: 1,
        sort_order: SortOrder::Descend.into(),
        sort_target: SortTarget::Create.into(),
        max_create_revision: place.revision.saturating_sub(1),
        ..Default::default()
    }
}

/// What all keys of a line begin with.
fn line(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// Behind all keys of a line, whose name ends in `/`: `0` comes after it.
fn range_end(line: &Bytes) -> Bytes {
    [&line[..line.len() - 1], b"0"].concat().into()
}

fn created_at(key: &Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        range_end: Bytes::new(),
    }
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}
