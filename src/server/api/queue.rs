//! What locks and elections have in common: a queue of keys under a name, the oldest of which is served.
//!
//! Who queues makes a key `NAME/LEASE` (the lease's id in lower-case hexadecimal) that lives as long as its lease, and waits
//! until no key under `NAME/` is older. It waits for one key, the newest of the older ones: when that goes it looks again, so
//! a key that goes wakes one caller and not all of them. Whoever names the same lease again finds its place taken by itself,
//! and goes on from there.
//!
//! What is waited for is read from this member's own view: a key that is gone is gone, for one that comes again is younger. But
//! that the caller's own key is still there must be known *now*, so that is asked last, and linearizably.
//!
//! # Who leaves
//!
//! The queueing is done in a task of its own ([`enter`]): a caller who leaves, while its key is being made or while it waits,
//! leaves no key behind. Once the answer is made the key stays, whether it was heard or not: a second call by the same lease
//! may have been told by then that the key is its own.
//!
//! # Errors
//!
//! etcd's recipes run behind a client of its own, so that whatever a caller did wrong becomes `Unknown`, with its text. What
//! passes stays `Unavailable` here (there it is `Unknown` as well), because clients try again on that.
//!
//! Absent: renewing the lease, which is its owner's business.

use super::lease::draw_id;
use super::{Front, astray, status};
use crate::ids::Revision;
use crate::machine::{Response as Applied, check};
use crate::node::Refused;
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb::KeyValue;
use crate::proto::quorate::{GrantLease, command::Op};
use bytes::Bytes;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request as Operation;
use pb::response_op::Response as Outcome;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};
use tonic::{Code, Status};

/// What a lease lasts that the member grants to a caller without one, in seconds.
const LEASE_TTL_SECONDS: i64 = 60;

/// What somebody wants to queue for, and as whom.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The name of the lock or election.
    pub name: Bytes,
    /// The caller's lease; 0: a new one.
    pub lease: i64,
    /// The value of the key.
    pub value: Bytes,
    /// Whether a key that is there already gets the value too.
    pub proclaims: bool,
    /// What is said if the key is lost before it is served.
    pub lost: &'static str,
}

/// A place in the queue.
#[derive(Clone, Debug)]
pub struct Place {
    /// The key.
    pub key: Bytes,
    /// The revision that made it.
    pub revision: i64,
    /// Its lease.
    pub lease: i64,
    /// As of when the place was taken.
    pub taken: Option<pb::ResponseHeader>,
    /// As of when it was served; `None` if nobody was before it.
    pub served: Option<pb::ResponseHeader>,
}

/// An operation of a txn.
pub fn op(request: Operation) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

/// Holds if `key` was made at `revision` (0: is not there).
pub fn made_at(key: &Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

/// The key of a lease under a name.
fn key(name: &Bytes, lease: i64) -> Bytes {
    // As Go writes it: with its sign.
    let sign = if lease < 0 { "-" } else { "" };
    Bytes::from([&name[..], format!("/{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat())
}

/// What the caller did wrong, in etcd's code for it.
pub fn wrong(status: Status) -> Status {
    if status.code() == Code::Unavailable { status } else { Status::unknown(status.message()) }
}

/// The keys under a name: from here up to there.
pub fn under(name: &Bytes) -> (Bytes, Bytes) {
    // What follows the slash, as the end of a prefix.
    (Bytes::from([&name[..], b"/"].concat()), Bytes::from([&name[..], b"0"].concat()))
}

/// The oldest key under a name.
pub fn oldest(name: &Bytes) -> pb::RangeRequest {
    let (key, range_end) = under(name);
    let (sort_target, sort_order) = (SortTarget::Create.into(), SortOrder::Ascend.into());
    pb::RangeRequest { key, range_end, sort_target, sort_order, limit: 1, ..Default::default() }
}

impl Front {
    /// A txn on behalf of a caller.
    pub(super) async fn run(&self, txn: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        check::txn(&txn, self.max_txn_ops).map_err(|error| wrong(self.fail(&error)))?;
        let grows = check::grows(&txn);
        match self.propose(Op::Txn(txn), grows).await.map_err(wrong)? {
            (Applied::Txn(mut response), term) => {
                response.header = self.complete(response.header, term);
                Ok(response)
            }
            (other, _) => Err(astray(&other)),
        }
    }

    /// The lease that was named, or a new one.
    pub(super) async fn lease_or_new(&self, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let id = draw_id();
        let grant = GrantLease { id, ttl: LEASE_TTL_SECONDS };
        match self.propose(Op::GrantLease(grant), true).await.map_err(wrong)? {
            (Applied::LeaseGrant(_), _) => Ok(id),
            (other, _) => Err(astray(&other)),
        }
    }

    /// What a range finds on this member.
    fn find(&self, request: &pb::RangeRequest) -> Result<(Option<KeyValue>, Revision), Status> {
        let mut response = self.view.range(request).map_err(|error| self.fail(&error))?;
        Ok((response.kvs.pop(), Revision(response.header.map_or(0, |header| header.revision))))
    }
}

/// Queues, and comes back when it is the caller's turn. Who still waits when `closed` turns true, because the member stops,
/// is sent away.
///
/// # Errors
/// The caller's mistake; its key is lost; the member can't.
pub async fn enter(front: Arc<Front>, closed: watch::Receiver<bool>, wish: Wish) -> Result<Place, Status> {
    let (mut answer, entered) = oneshot::channel();
    tokio::spawn(async move {
        let place = match take(&front, &wish).await {
            Ok(place) => place,
            Err(status) => return drop(answer.send(Err(status))),
        };
        let outcome = tokio::select! {
            outcome = wait(&front, &wish, place.clone()) => outcome,
            () = answer.closed() => return leave(&front, &place).await,
            () = stopped(closed) => Err(status::of_refused(Refused::Stopping)),
        };
        if outcome.is_err() {
            leave(&front, &place).await;
        }
        let _ = answer.send(outcome);
    });
    entered.await.map_err(|_| status::of_refused(Refused::Stopping))?
}

/// Comes back when the member stops.
pub async fn stopped(mut closed: watch::Receiver<bool>) {
    let _ = closed.wait_for(|closed| *closed).await;
}

/// Makes the key, or finds it.
async fn take(front: &Front, wish: &Wish) -> Result<Place, Status> {
    let lease = front.lease_or_new(wish.lease).await?;
    let key = key(&wish.name, lease);
    let put = pb::PutRequest { key: key.clone(), value: wish.value.clone(), lease, ..Default::default() };
    let get = pb::RangeRequest { key: key.clone(), ..Default::default() };
    let owner = || op(Operation::RequestRange(oldest(&wish.name)));
    let txn = pb::TxnRequest {
        compare: vec![made_at(&key, 0)],
        success: vec![op(Operation::RequestPut(put.clone())), owner()],
        failure: vec![op(Operation::RequestRange(get)), owner()],
    };
    let response = front.run(txn).await?;
    let mut found = response.responses.into_iter().map(|op| match op.response {
        Some(Outcome::ResponseRange(range)) => range.kvs.into_iter().next(),
        _ => None,
    });
    let (own, owner) = (found.next().flatten(), found.next().flatten());
    let now = response.header.map_or(0, |header| header.revision);
    let revision = own.as_ref().map_or(now, |own| own.create_revision);
    if wish.proclaims && own.is_some_and(|own| own.value != wish.value) {
        let compare = vec![made_at(&key, revision)];
        let success = vec![op(Operation::RequestPut(put))];
        if !front.run(pb::TxnRequest { compare, success, failure: Vec::new() }).await?.succeeded {
            return Err(Status::unknown(wish.lost));
        }
    }
    // The owner was read in the same txn: nobody is before the caller, and its key is there.
    let first = owner.is_none_or(|owner| owner.create_revision == revision);
    let served = first.then_some(response.header).flatten();
    Ok(Place { key, revision, lease, taken: response.header, served })
}

/// Waits until nobody is before the place.
async fn wait(front: &Front, wish: &Wish, mut place: Place) -> Result<Place, Status> {
    if place.served.is_some() {
        return Ok(place);
    }
    let (key, range_end) = under(&wish.name);
    let (sort_target, sort_order) = (SortTarget::Create.into(), SortOrder::Descend.into());
    let max_create_revision = place.revision - 1;
    let older = pb::RangeRequest {
        key,
        range_end,
        sort_target,
        sort_order,
        max_create_revision,
        limit: 1,
        ..Default::default()
    };
    while let (Some(before), now) = front.find(&older)? {
        front.watching.changed(before.key, Bytes::new(), now).await;
    }
    let term = front.readable().await?;
    let (own, now) = front.find(&pb::RangeRequest { key: place.key.clone(), ..Default::default() })?;
    if own.is_none_or(|own| own.create_revision != place.revision) {
        return Err(Status::unknown(wish.lost));
    }
    place.served = front.header(now, term);
    Ok(place)
}

/// Takes the key away, if it is still the same. If that fails, its lease will.
async fn leave(front: &Front, place: &Place) {
    let delete = pb::DeleteRangeRequest { key: place.key.clone(), ..Default::default() };
    let compare = vec![made_at(&place.key, place.revision)];
    let success = vec![op(Operation::RequestDeleteRange(delete))];
    if let Err(status) = front.run(pb::TxnRequest { compare, success, failure: Vec::new() }).await {
        tracing::debug!(key = ?place.key, %status, "the key of a caller who left stays until its lease ends");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_under_a_name_are_those_behind_its_slash() {
        let (from, to) = under(&Bytes::from_static(b"a"));
        for (key, inside) in [("a/", true), ("a/1f", true), ("a//", true), ("a", false), ("a0", false), ("ab/1", false)]
        {
            assert_eq!((&from[..]..&to[..]).contains(&key.as_bytes()), inside, "{key}");
        }
    }

    #[test]
    fn a_key_ends_with_its_lease_in_hexadecimal() {
        let name = Bytes::from_static(b"n");
        for (lease, expected) in [(0xab1, "n/ab1"), (-5, "n/-5"), (i64::MIN, "n/-8000000000000000")] {
            assert_eq!(key(&name, lease), expected);
        }
    }

    #[test]
    fn what_passes_stays_unavailable() {
        let codes = |status| (wrong(status).code(), "text");
        assert_eq!(codes(Status::not_found("text")), (Code::Unknown, "text"));
        assert_eq!(codes(Status::unavailable("text")), (Code::Unavailable, "text"));
    }
}
