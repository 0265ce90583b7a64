//! Transactions: compares, then one branch, as one change.
//!
//! Three steps, in etcd's order. [`decide`] evaluates the compares, those of nested txns on the path taken included, on
//! the state before the txn: an operation never changes a decision. [`check`] looks at every operation on the path before
//! the first one runs: first the puts (kept values, leases), then the ranges (revisions), so that a txn fails as a whole
//! or not at all. [`run`] carries the operations out in order; later ones see earlier ones.
//!
//! The path is the list of decisions in the order in which a walk meets the txns, the outer one first.
//!
//! Who checks the shape of a txn (limits, duplicate keys) is `check.rs`, before it is proposed: once in the log, a txn of any
//! shape has one meaning.

use super::budget::Share;
use super::counts::add;
use super::index::KeyRange;
use super::range::Reader;
use super::state::{Found, Values};
use super::versions::Version;
use super::{Error, header};
use crate::ids::Revision;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use std::cmp::Ordering;
use std::ops::ControlFlow;

/// Which branches are taken, the outer txn's first.
pub type Path = Vec<bool>;

/// Evaluates all compares on the way.
///
/// # Errors
/// The disk.
pub fn decide(reader: Reader<'_>, txn: &pb::TxnRequest, path: &mut Path) -> Result<(), Error> {
    let mut holds = true;
    for compare in &txn.compare {
        if !reader.holds(compare)? {
            holds = false;
            break;
        }
    }
    path.push(holds);
    for op in branch(txn, holds) {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            decide(reader, nested, path)?;
        }
    }
    Ok(())
}

/// Checks all operations on the path, on the state before the txn.
///
/// # Errors
/// What a caller can do wrong.
pub fn check(reader: Reader<'_>, txn: &pb::TxnRequest, path: &[bool]) -> Result<(), Error> {
    each(txn, &mut path.iter(), &mut |request| match request {
        None => Err(Error::KeyNotFound),
        Some(Request::RequestPut(put)) => {
            reader.check_ignores(put)?;
            reader.check_lease(put)
        }
        Some(_) => Ok(()),
    })?;
    each(txn, &mut path.iter(), &mut |request| match request {
        Some(Request::RequestRange(range)) => reader.check_revision(range.revision),
        _ => Ok(()),
    })
}

/// Visits the operations on the path, but for nested txns, whose operations it visits instead.
fn each(
    txn: &pb::TxnRequest,
    path: &mut std::slice::Iter<'_, bool>,
    visit: &mut dyn FnMut(Option<&Request>) -> Result<(), Error>,
) -> Result<(), Error> {
    for op in branch(txn, next(path)) {
        match &op.request {
            Some(Request::RequestTxn(nested)) => each(nested, path, visit)?,
            other => visit(other.as_ref())?,
        }
    }
    Ok(())
}

/// Carries out the operations on the path: `carry_out` does everything but txns. The header is left empty, as nested ones
/// stay.
///
/// # Errors
/// What `carry_out` says.
pub fn run(
    txn: &pb::TxnRequest,
    path: &mut std::slice::Iter<'_, bool>,
    carry_out: &mut dyn FnMut(&Request) -> Result<Response, Error>,
) -> Result<pb::TxnResponse, Error> {
    let succeeded = next(path);
    let mut responses = Vec::with_capacity(branch(txn, succeeded).len());
    for op in branch(txn, succeeded) {
        let response = match &op.request {
            Some(Request::RequestTxn(nested)) => Response::ResponseTxn(run(nested, path, carry_out)?),
            Some(other) => carry_out(other)?,
            None => return Err(Error::KeyNotFound),
        };
        responses.push(pb::ResponseOp { response: Some(response) });
    }
    Ok(pb::TxnResponse { header: Some(pb::ResponseHeader::default()), succeeded, responses })
}

/// What the ranges of the larger branch of a txn that also writes would take now, in bytes.
pub fn size_of_ranges(reader: Reader<'_>, txn: &pb::TxnRequest) -> u64 {
    let size = |branch: &[pb::RequestOp]| {
        let sizes = branch.iter().map(|op| match &op.request {
            Some(Request::RequestRange(range)) if !range.count_only => {
                reader.size(&range.key, &range.range_end, range.limit, !range.keys_only)
            }
            Some(Request::RequestDeleteRange(delete)) => reader.size_of_deleted(delete),
            Some(Request::RequestTxn(nested)) => size_of_ranges(reader, nested),
            _ => 0,
        });
        sizes.sum::<u64>()
    };
    size(&txn.success).max(size(&txn.failure))
}

/// Runs a txn that only reads.
///
/// # Errors
/// What a caller can do wrong; the ranges are too large for `share`; the disk.
///
/// # Panics
/// If it does not only read: `check::is_read_only` is asked first.
pub fn read_only(reader: Reader<'_>, txn: &pb::TxnRequest, share: &mut Share) -> Result<pb::TxnResponse, Error> {
    assert!(super::check::is_read_only(txn), "a txn that writes came to a view");
    let mut path = Path::new();
    decide(reader, txn, &mut path)?;
    check(reader, txn, &path)?;
    let mut response = run(txn, &mut path.iter(), &mut |request| match request {
        Request::RequestRange(range) => reader.range(range, share).map(Response::ResponseRange),
        other => unreachable!("a txn that only reads asks for {other:?}"),
    })?;
    reader.count_txn(&response);
    response.header = header(reader.now);
    Ok(response)
}

fn branch(txn: &pb::TxnRequest, succeeded: bool) -> &[pb::RequestOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

fn next(path: &mut std::slice::Iter<'_, bool>) -> bool {
    *path.next().expect("the path has a decision for every txn on it")
}

impl Reader<'_> {
    /// Counts a txn that did more than one thing.
    pub fn count_txn(&self, response: &pb::TxnResponse) {
        add(&self.shared.counts.txns, usize::from(response.responses.len() > 1));
    }

    /// Whether a range inside a txn may ask for this revision. Unlike a range of its own, one that asks for a negative
    /// revision below the compacted one (-1 at first) is told that it is compacted: etcd does so.
    fn check_revision(&self, revision: i64) -> Result<(), Error> {
        if revision >= 0 {
            return self.readable(revision).map(|_| ());
        }
        let compacted = self.shared.read().compacted;
        if revision < compacted { Err(Error::Compacted { compacted: Revision(compacted) }) } else { Ok(()) }
    }

    /// Whether every key that the compare speaks of satisfies it. No key at all is like one with zeroes everywhere and no
    /// value: a compare of values fails.
    fn holds(&self, compare: &pb::Compare) -> Result<bool, Error> {
        add(&self.shared.counts.ranges, 1);
        let of_value = compare.target() == CompareTarget::Value;
        let keys = KeyRange::new(&compare.key, &compare.range_end);
        let given = match &compare.target_union {
            Some(TargetUnion::Value(given)) => &given[..],
            _ => &[],
        };
        let (mut any, mut all, mut after) = (false, true, None);
        let mut loader = Values::new(self.shared);
        loop {
            // Values of one slice at a time: a compare may speak of every key there is.
            let mut values = Vec::new();
            let slice = self.shared.walk_slice(keys, after.as_deref(), self.now, |state, key, version| {
                any = true;
                if of_value {
                    values.push((Box::<[u8]>::from(key), Found::new(state, version)));
                } else {
                    all &= fits(compare, ordering(compare, version));
                }
                ControlFlow::Continue(())
            });
            for (key, found) in values {
                all &= fits(compare, loader.load(&key, found)?[..].cmp(given));
            }
            match slice {
                ControlFlow::Continue(Some(last)) if all => after = Some(last),
                _ => break,
            }
        }
        if any { Ok(all) } else { Ok(!of_value && fits(compare, ordering(compare, &Version::ABSENT))) }
    }
}

/// How a number of the version stands to the one given; a missing or mismatched one counts as 0. Targets that are
/// none of etcd's compare equal.
fn ordering(compare: &pb::Compare, version: &Version) -> Ordering {
    let (found, given) = match (CompareTarget::try_from(compare.target), &compare.target_union) {
        (Ok(CompareTarget::Version), Some(TargetUnion::Version(given))) => (version.number, *given),
        (Ok(CompareTarget::Version), _) => (version.number, 0),
        (Ok(CompareTarget::Create), Some(TargetUnion::CreateRevision(given))) => (version.created, *given),
        (Ok(CompareTarget::Create), _) => (version.created, 0),
        (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(given))) => (version.modified, *given),
        (Ok(CompareTarget::Mod), _) => (version.modified, 0),
        (Ok(CompareTarget::Lease), Some(TargetUnion::Lease(given))) => (version.lease, *given),
        (Ok(CompareTarget::Lease), _) => (version.lease, 0),
        (Ok(CompareTarget::Value) | Err(_), _) => (0, 0),
    };
    found.cmp(&given)
}

/// Whether the compare asks for this ordering. Numbers that are none of etcd's results ask for anything.
fn fits(compare: &pb::Compare, ordering: Ordering) -> bool {
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
