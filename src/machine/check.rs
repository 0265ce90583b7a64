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

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use prost::Message as _;

    const MAX: usize = 128;

    fn b(s: &str) -> Bytes {
        Bytes::copy_from_slice(s.as_bytes())
    }

    fn op(request: Request) -> pb::RequestOp {
        pb::RequestOp { request: Some(request) }
    }

    fn p(key: &str) -> pb::RequestOp {
        op(Request::RequestPut(pb::PutRequest { key: b(key), ..Default::default() }))
    }

    fn d(key: &str, end: &str) -> pb::RequestOp {
        let request = pb::DeleteRangeRequest { key: b(key), range_end: b(end), ..Default::default() };
        op(Request::RequestDeleteRange(request))
    }

    fn r(key: &str, serializable: bool) -> pb::RequestOp {
        op(Request::RequestRange(pb::RangeRequest { key: b(key), serializable, ..Default::default() }))
    }

    fn t(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
        op(Request::RequestTxn(branches(success, failure)))
    }

    fn branches(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::TxnRequest {
        pb::TxnRequest { success, failure, ..Default::default() }
    }

    fn all(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
        branches(success, vec![])
    }

    #[test]
    fn an_empty_key_is_refused_everywhere() {
        assert_eq!(range(&pb::RangeRequest { range_end: b("z"), ..Default::default() }), Err(Error::EmptyKey));
        assert_eq!(put(&pb::PutRequest::default()), Err(Error::EmptyKey));
        assert_eq!(delete_range(&pb::DeleteRangeRequest::default()), Err(Error::EmptyKey));
        for op in [p(""), d("", "\0"), r("", false), t(vec![], vec![p("")])] {
            assert_eq!(txn(&branches(vec![], vec![op]), MAX), Err(Error::EmptyKey));
        }
        let compare = pb::TxnRequest { compare: vec![pb::Compare::default()], ..all(vec![p("a"), p("a")]) };
        assert_eq!(txn(&compare, MAX), Err(Error::EmptyKey), "before the duplicate");
    }

    #[test]
    fn what_is_ignored_may_not_be_given() {
        let value = pb::PutRequest { key: b("a"), value: b("1"), ignore_value: true, ..Default::default() };
        assert_eq!(put(&value), Err(Error::ValueProvided));
        let lease = pb::PutRequest { key: b("a"), lease: 1, ignore_lease: true, ..Default::default() };
        assert_eq!(put(&lease), Err(Error::LeaseProvided));
        let touch = pb::PutRequest { key: b("a"), ignore_value: true, ignore_lease: true, ..Default::default() };
        assert_eq!(put(&touch), Ok(()));
        assert_eq!(txn(&branches(vec![], vec![op(Request::RequestPut(value))]), MAX), Err(Error::ValueProvided));
    }

    #[test]
    fn an_op_that_asks_for_nothing_is_key_not_found() {
        assert_eq!(txn(&all(vec![pb::RequestOp { request: None }]), MAX), Err(Error::KeyNotFound));
    }

    #[test]
    fn the_largest_of_compares_and_branches_is_limited() {
        let many = |n: usize| (0..n).map(|i| r(&i.to_string(), false)).collect::<Vec<_>>();
        assert_eq!(txn(&branches(many(128), many(128)), MAX), Ok(()));
        let too_many = Err(Error::TooManyOps { found: 129, limit: 128 });
        assert_eq!(txn(&branches(many(129), vec![]), MAX), too_many);
        assert_eq!(txn(&branches(vec![], many(129)), MAX), too_many);
        let compare = vec![pb::Compare { key: b("a"), ..Default::default() }; 129];
        assert_eq!(txn(&pb::TxnRequest { compare, ..Default::default() }, MAX), too_many);
    }

    #[test]
    fn a_nested_txn_may_use_what_its_parent_leaves() {
        let many = |n: usize| (0..n).map(|i| r(&i.to_string(), false)).collect::<Vec<_>>();
        assert_eq!(txn(&all(vec![t(many(127), vec![])]), MAX), Ok(()));
        assert_eq!(txn(&all(vec![t(many(128), vec![])]), MAX), Err(Error::TooManyOps { found: 128, limit: 127 }));
        let mut siblings = many(62);
        siblings.extend([t(many(64), vec![]), t(vec![], many(64))]);
        assert_eq!(txn(&all(siblings), MAX), Ok(()), "siblings take nothing from each other");
        let failure = pb::TxnRequest { failure: many(100), ..all(vec![t(many(29), vec![])]) };
        assert_eq!(txn(&failure, MAX), Err(Error::TooManyOps { found: 29, limit: 28 }));
    }

    #[test]
    fn the_deepest_txn_that_passes_can_be_read_from_the_log() {
        let nested = |depth| (0..depth).fold(all(vec![p("a")]), |inner, _| all(vec![op(Request::RequestTxn(inner))]));
        assert_eq!(txn(&nested(MAX_NESTING), MAX), Ok(()));
        assert!(matches!(txn(&nested(MAX_NESTING + 1), MAX), Err(Error::TooManyOps { .. })));
        use crate::proto::quorate::{Command, command};
        let command = Command { op: Some(command::Op::Txn(nested(MAX_NESTING))) };
        assert_eq!(Command::decode(Bytes::from(command.encode_to_vec())), Ok(command));
    }

    #[test]
    fn a_key_is_written_once_per_branch() {
        let refused = [
            vec![p("a"), p("a")],
            vec![p("a"), r("x", false), d("a", "")],
            vec![d("a", ""), p("a")],
            vec![p("b"), d("a", "c")],
            vec![d("a", "c"), d("c", "e"), p("d")],
            vec![d("b", "d"), d("a", "e"), d("c", "f"), p("ee")],
            vec![d("a", "z"), d("b", "c"), p("d")],
            vec![d("a", "z"), d("b", "c"), p("a")],
            vec![d("b", "c"), d("a", "z"), p("b")],
            vec![d("a", "c"), d("b", "d"), p("a")],
            vec![d("k", "a"), d("b", "m"), p("l")],
            vec![p("a"), t(vec![p("a")], vec![])],
            vec![t(vec![], vec![p("a")]), p("a")],
            vec![t(vec![p("a")], vec![]), d("a", "")],
            vec![t(vec![p("a")], vec![]), t(vec![], vec![p("a")])],
            vec![t(vec![d("a", "")], vec![]), t(vec![p("a")], vec![])],
            vec![t(vec![d("a", "c")], vec![]), p("b")],
            vec![t(vec![t(vec![p("a")], vec![])], vec![]), p("a")],
        ];
        for ops in refused {
            assert_eq!(txn(&all(ops.clone()), MAX), Err(Error::DuplicateKey), "{ops:?}");
            let untaken = branches(vec![], ops);
            assert_eq!(txn(&untaken, MAX), Err(Error::DuplicateKey), "the branch that is not taken counts too");
        }
        let let_through = [
            vec![p("a"), p("b"), d("c", "e"), d("d", "f"), d("c", ""), d("c", "")],
            vec![d("a", "b"), p("b")],
            vec![d("k", "a"), p("k")],
            vec![t(vec![p("a")], vec![p("a")]), p("b")],
            vec![t(vec![d("a", "")], vec![p("a")])],
            // etcd's oddities
            vec![p("k"), d("a", "\0")],
            vec![t(vec![p("a")], vec![]), t(vec![d("a", "")], vec![])],
        ];
        for ops in let_through {
            assert_eq!(txn(&all(ops.clone()), MAX), Ok(()), "{ops:?}");
        }
        assert_eq!(txn(&branches(vec![p("a")], vec![p("a")]), MAX), Ok(()), "one of them runs");
    }

    #[test]
    fn predicates_look_into_both_branches_and_nested_txns() {
        let read = || t(vec![r("a", true)], vec![]);
        assert!(is_read_only(&branches(vec![read()], vec![r("a", false)])));
        assert!(!is_read_only(&branches(vec![], vec![t(vec![], vec![d("a", "")])])));
        assert!(grows(&branches(vec![], vec![t(vec![], vec![p("a")])])));
        assert!(!grows(&branches(vec![d("a", "")], vec![read()])));
        assert!(is_serializable(&all(vec![])) && is_serializable(&all(vec![read(), r("a", true)])));
        assert!(!is_serializable(&branches(vec![r("a", true)], vec![r("a", false)])));
        assert!(!is_serializable(&all(vec![p("a")])));
    }
}
