//! What is wrong with a request whatever the state is.
//!
//! Pure functions of a request, asked at the edge before anything is proposed or read. The machine does not ask them again:
//! what is in the log has a meaning whatever its shape, so a check can change without a replay changing its outcome.
//!
//! The rules and their order are etcd's, its oddities included: a txn with an operation that asks for nothing says "key not
//! found"; a delete up to the end of all keys (`range_end` of one zero byte) is no duplicate of a put; a nested txn that
//! deletes what an earlier sibling put is let through, in the other order it is not. Each was seen on etcd 3.5.30.

use super::Error;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::request_op::Request;
use std::collections::{BTreeMap, BTreeSet};

/// How deep txns may be nested. The limit on operations bounds the depth too, but not below what a protobuf decoder takes:
/// it stops at 100 levels, a txn takes two, and a command in the log must never be one that can't be read.
pub const MAX_NESTING: usize = 40;

/// A range.
///
/// # Errors
/// The key is empty.
pub fn range(request: &pb::RangeRequest) -> Result<(), Error> {
    key(&request.key)
}

/// A put.
///
/// # Errors
/// The key is empty, or a value or lease is given that is to be ignored.
pub fn put(request: &pb::PutRequest) -> Result<(), Error> {
    key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// A delete.
///
/// # Errors
/// The key is empty.
pub fn delete_range(request: &pb::DeleteRangeRequest) -> Result<(), Error> {
    key(&request.key)
}

/// A txn with at most `max_ops` compares and at most that many operations in either branch; a nested txn may have as many
/// as its parent leaves.
///
/// # Errors
/// Too many operations, an operation that is wrong itself, or the same key written twice.
pub fn txn(request: &pb::TxnRequest, max_ops: usize) -> Result<(), Error> {
    shape(request, max_ops, 0)?;
    for branch in [&request.success, &request.failure] {
        if writes_more_than_once(branch) {
            Writes::default().collect(branch)?;
        }
    }
    Ok(())
}

/// Whether a txn may grow the store: it has a put somewhere, taken or not.
pub fn grows(txn: &pb::TxnRequest) -> bool {
    operations(txn).any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(nested)) => grows(nested),
        _ => false,
    })
}

/// Whether a txn has nothing but ranges, in either branch and in nested txns.
pub fn is_read_only(txn: &pb::TxnRequest) -> bool {
    operations(txn).all(|op| match &op.request {
        Some(Request::RequestRange(_)) => true,
        Some(Request::RequestTxn(nested)) => is_read_only(nested),
        _ => false,
    })
}

/// Whether a txn has nothing but serializable ranges: it is answered from the local state. An empty one is.
pub fn is_serializable(txn: &pb::TxnRequest) -> bool {
    operations(txn).all(|op| match &op.request {
        Some(Request::RequestRange(range)) => range.serializable,
        Some(Request::RequestTxn(nested)) => is_serializable(nested),
        _ => false,
    })
}

fn operations(txn: &pb::TxnRequest) -> impl Iterator<Item = &pb::RequestOp> {
    txn.success.iter().chain(&txn.failure)
}

fn key(key: &[u8]) -> Result<(), Error> {
    if key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

fn shape(txn: &pb::TxnRequest, max_ops: usize, depth: usize) -> Result<(), Error> {
    if depth > MAX_NESTING {
        return Err(Error::TooManyOps { found: depth, limit: MAX_NESTING });
    }
    let found = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    if found > max_ops {
        return Err(Error::TooManyOps { found, limit: max_ops });
    }
    txn.compare.iter().try_for_each(|compare| key(&compare.key))?;
    operations(txn).try_for_each(|op| match &op.request {
        None => Err(Error::KeyNotFound),
        Some(Request::RequestRange(request)) => range(request),
        Some(Request::RequestPut(request)) => put(request),
        Some(Request::RequestDeleteRange(request)) => delete_range(request),
        Some(Request::RequestTxn(request)) => shape(request, max_ops - found, depth + 1),
    })
}

/// The common case needs no sets: at most one operation that writes, and no nested txn.
fn writes_more_than_once(branch: &[pb::RequestOp]) -> bool {
    let mut writes = 0;
    for op in branch {
        match &op.request {
            Some(Request::RequestTxn(_)) => return true,
            Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => writes += 1,
            Some(Request::RequestRange(_)) | None => {}
        }
    }
    writes > 1
}

/// What a branch puts and deletes.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deleted_keys: BTreeSet<&'a [u8]>,
    /// Disjoint intervals: from the first up to but not including the second.
    deleted_ranges: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> Writes<'a> {
    /// Adds the writes of a branch, whose deletes come first, then nested txns in order, then puts.
    fn collect(mut self, branch: &'a [pb::RequestOp]) -> Result<Writes<'a>, Error> {
        for op in branch {
            if let Some(Request::RequestDeleteRange(delete)) = &op.request {
                match &*delete.range_end {
                    [] => _ = self.deleted_keys.insert(&delete.key),
                    end => self.delete_range(&delete.key, end),
                }
            }
        }
        for op in branch {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                let then = Writes::default().collect(&nested.success)?;
                let other = Writes::default().collect(&nested.failure)?;
                then.puts.iter().try_for_each(|key| self.put(key))?;
                // Only one of the branches runs: a key that both put is put once.
                other.puts.difference(&then.puts).try_for_each(|key| self.put(key))?;
                for branch in [then, other] {
                    self.deleted_keys.extend(branch.deleted_keys);
                    branch.deleted_ranges.into_iter().for_each(|(low, high)| self.delete_range(low, high));
                }
            }
        }
        for op in branch {
            if let Some(Request::RequestPut(put)) = &op.request {
                self.put(&put.key)?;
            }
        }
        Ok(self)
    }

    fn put(&mut self, key: &'a [u8]) -> Result<(), Error> {
        let in_range = || self.deleted_ranges.range(..=key).next_back().is_some_and(|(_, high)| key < *high);
        if self.deleted_keys.contains(key) || in_range() || !self.puts.insert(key) {
            return Err(Error::DuplicateKey);
        }
        Ok(())
    }

    /// Adds an interval, merged with those that it meets.
    fn delete_range(&mut self, mut low: &'a [u8], mut high: &'a [u8]) {
        if low >= high {
            return;
        }
        while let Some((&start, &end)) = self.deleted_ranges.range(..=high).next_back().filter(|(_, end)| **end >= low)
        {
            self.deleted_ranges.remove(start);
            low = low.min(start);
            high = high.max(end);
        }
        self.deleted_ranges.insert(low, high);
    }
}
