//! Reads at a pinned revision: ranges, with every option of etcd's, and single keys.
//!
//! A [`Reader`] stands at the revision that is *now* for it: the last published one for a view, the one being made for a
//! command that reads its own changes. It first collects what it sees under the lock, then reads values without it, and looks
//! at the mark again at the end: a compaction may have overtaken it. What it holds it has paid for before, out of a [`Share`]
//! (`budget.rs`).
//!
//! May not know: who asks. Left out: nothing of Range.

use super::budget::Share;
use super::counts::add;
use super::index::KeyRange;
use super::state::{Found, Shared, Values};
use super::versions::Version;
use super::{Error, header};
use crate::ids::Revision;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::mvccpb::KeyValue;
use bytes::Bytes;
use std::cmp::Ordering;
use std::ops::ControlFlow;

/// Reads the state as of revision `now`.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// Where to read.
    pub shared: &'a Shared,
    /// The newest revision that is visible.
    pub now: i64,
}

/// A key that a range found.
#[derive(Debug)]
pub struct Hit {
    /// The key.
    pub key: Bytes,
    /// What was found.
    pub found: Found,
}

/// What a pair takes beside its key and value, while it is collected and when it is part of the answer.
const PAIR_BYTES: usize = size_of::<Hit>() + size_of::<KeyValue>();

/// What a brief range reads at most: pairs, and bytes of their values.
const BRIEF_PAIRS: usize = 256;
const BRIEF_BYTES: u64 = 256 << 10;

/// Keys that a brief range counts at most.
const BRIEF_KEYS: usize = 32 << 10;

/// What a pair takes, in bytes.
pub fn cost(key: &[u8], version: &Version, with_value: bool) -> u64 {
    let value = if with_value { u64::from(version.value_len) } else { 0 };
    (PAIR_BYTES + key.len()) as u64 + value
}

impl Reader<'_> {
    /// Answers a range request.
    ///
    /// # Errors
    /// The revision is compacted, perhaps while it was read, or in the future; the answer is too large for `share`; the disk.
    pub fn range(&self, request: &pb::RangeRequest, share: &mut Share) -> Result<pb::RangeResponse, Error> {
        add(&self.shared.counts.ranges, 1);
        let at = self.readable(request.revision)?;
        self.unless_compacted(at, self.range_at(at, request, share))
    }

    /// What was read at `at`, unless a compaction may have taken some of it away meanwhile: then it may lack keys and values,
    /// or what looks like a fault is none.
    ///
    /// # Errors
    /// It was compacted; or the read's own.
    pub fn unless_compacted<T>(&self, at: i64, outcome: Result<T, Error>) -> Result<T, Error> {
        let compacted = self.shared.read().compacted;
        if at < compacted { Err(Error::Compacted { compacted: Revision(compacted) }) } else { outcome }
    }

    fn range_at(&self, at: i64, request: &pb::RangeRequest, share: &mut Share) -> Result<pb::RangeResponse, Error> {
        let mut response = pb::RangeResponse { header: header(self.now), ..Default::default() };
        if request.range_end.is_empty() && !request.count_only && !is_filtered(request) {
            response.kvs.extend(self.get(&request.key, at, request.keys_only)?);
            response.count = response.kvs.len() as i64;
            return Ok(response);
        }
        let keys = KeyRange::new(&request.key, &request.range_end);
        if request.count_only {
            response.count = self.shared.count(keys, None, at);
            return Ok(response);
        }
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let sorting = sorting(request);
        let enough = match sorting {
            None => limit,
            // etcd's way: a target without an order sorts what the limit and one more let through, in key order.
            Some((_, SortOrder::None)) if !is_filtered(request) => limit.saturating_add(1),
            Some(_) => usize::MAX,
        };
        // Sorting needs all there is, but only by value it needs values.
        let with_values = !request.keys_only && (sorting.is_none() || is_by_value(sorting));
        let before = share.held();
        let (mut hits, mut found, mut size, mut paid): (Vec<Hit>, _, _, _) = (Vec::new(), 0, before, Ok(()));
        // Where nobody asks who comes after the limit, those are counted.
        let rest_is_counted = sorting.is_none() && !is_filtered(request);
        self.shared.walk_until(keys, at, |state, key, version| {
            response.count += 1;
            let passes = passes(request, version);
            if passes && found < enough {
                found += 1;
                size += cost(key, version, with_values);
                if paid.is_ok() {
                    paid = share.take(size - share.held());
                }
                match paid {
                    Ok(()) => hits.push(Hit { key: Bytes::copy_from_slice(key), found: Found::new(state, version) }),
                    // The walk goes on, to tell how large the answer would be.
                    Err(_) => hits = Vec::new(),
                }
            } else {
                response.more |= passes;
            }
            if rest_is_counted && found == enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        paid.map_err(|error| error.of_size(size))?;
        if rest_is_counted && found == enough {
            let rest = self.shared.count(keys, hits.last().map(|hit| &*hit.key), at);
            response.count += rest;
            response.more = rest > 0;
        }
        if let Some((target, order)) = sorting {
            self.sort(&mut hits, target, order)?;
            response.more |= hits.len() > limit;
            hits.truncate(limit);
            let left = |hit: &Hit| cost(&hit.key, &hit.found.version, !request.keys_only);
            let left = before + hits.iter().map(left).sum::<u64>();
            share.keep(left);
            share.take(left - share.held())?;
        }
        response.kvs = self.load(hits, request.keys_only)?;
        Ok(response)
    }

    /// Whether a range is sure to take no longer than a few reads of single keys do. How long the values of an old revision are
    /// is not looked up, so a range of one is not.
    pub fn is_brief(&self, request: &pb::RangeRequest) -> bool {
        if request.revision > 0 {
            return false;
        }
        let plain = sorting(request).is_none() && !is_filtered(request);
        let limit = usize::try_from(request.limit).ok().filter(|limit| plain && *limit > 0).unwrap_or(usize::MAX);
        let state = self.shared.read();
        let mut bytes = 0;
        for (pairs, (_, history)) in
            state.index.histories(KeyRange::new(&request.key, &request.range_end), None).enumerate()
        {
            if pairs == limit || request.count_only {
                return state.index.keys() <= BRIEF_KEYS;
            }
            bytes += history.versions().last().map_or(0, |newest| u64::from(newest.value_len));
            if pairs == BRIEF_PAIRS || bytes > BRIEF_BYTES {
                return false;
            }
        }
        true
    }

    /// What the pairs of a range take now, the first `limit` of them (0: all), in bytes. One key is free.
    pub fn size(&self, key: &[u8], range_end: &[u8], limit: i64, with_values: bool) -> u64 {
        if range_end.is_empty() {
            return 0;
        }
        let mut left = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let mut size = 0;
        self.shared.walk(KeyRange::new(key, range_end), self.now, |_, key, version| {
            if left > 0 {
                left -= 1;
                size += cost(key, version, with_values);
            }
        });
        size
    }

    /// What a deletion would tell of what it deletes, in bytes.
    pub fn size_of_deleted(&self, delete: &pb::DeleteRangeRequest) -> u64 {
        if delete.prev_kv { self.size(&delete.key, &delete.range_end, 0, true) } else { 0 }
    }

    /// One key at revision `at`, without its value if `key_only`.
    ///
    /// # Errors
    /// The disk.
    pub fn get(&self, key: &Bytes, at: i64, key_only: bool) -> Result<Option<KeyValue>, Error> {
        let Some(found) = self.find(key, at) else { return Ok(None) };
        let version = found.version;
        let value = if key_only { Bytes::new() } else { Values::new(self.shared).load(key, found)? };
        Ok(Some(key_value(key.clone(), &version, value)))
    }

    /// The numbers of one key at revision `at`.
    pub fn version(&self, key: &[u8], at: i64) -> Option<Version> {
        self.shared.read().index.get(key, at)
    }

    fn find(&self, key: &[u8], at: i64) -> Option<Found> {
        let state = self.shared.read();
        state.index.get(key, at).map(|version| Found::new(&state, &version))
    }

    /// All pairs in `keys`, now.
    ///
    /// # Errors
    /// The disk.
    pub fn pairs(&self, keys: KeyRange<'_>) -> Result<Vec<KeyValue>, Error> {
        let mut hits = Vec::new();
        self.shared.walk(keys, self.now, |state, key, version| {
            hits.push(Hit { key: Bytes::copy_from_slice(key), found: Found::new(state, version) });
        });
        self.load(hits, false)
    }

    /// The revision that a request reads at: its own, or now if it names none.
    ///
    /// # Errors
    /// It is compacted or in the future.
    pub fn readable(&self, revision: i64) -> Result<i64, Error> {
        if revision <= 0 {
            return Ok(self.now);
        }
        if revision > self.now {
            return Err(Error::FutureRevision);
        }
        let compacted = self.shared.read().compacted;
        if revision < compacted {
            return Err(Error::Compacted { compacted: Revision(compacted) });
        }
        Ok(revision)
    }

    /// The pairs that were found, with their values.
    ///
    /// # Errors
    /// The disk.
    pub fn load(&self, hits: Vec<Hit>, keys_only: bool) -> Result<Vec<KeyValue>, Error> {
        let mut values = Values::new(self.shared);
        let pair = |Hit { key, found }| {
            let version = found.version;
            let value = if keys_only { Bytes::new() } else { values.load(&key, found)? };
            Ok(key_value(key, &version, value))
        };
        hits.into_iter().map(pair).collect()
    }

    /// Sorts by `target`; ties stay in key order (etcd leaves them unspecified).
    fn sort(&self, hits: &mut [Hit], target: SortTarget, order: SortOrder) -> Result<(), Error> {
        if target == SortTarget::Value {
            let mut values = Values::new(self.shared);
            for hit in hits.iter_mut() {
                hit.found.value = Some(values.load(&hit.key, hit.found.clone())?);
            }
        }
        let compare = |a: &Hit, b: &Hit| -> Ordering {
            let (left, right) = (&a.found.version, &b.found.version);
            match target {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => left.number.cmp(&right.number),
                SortTarget::Create => left.created.cmp(&right.created),
                SortTarget::Mod => left.modified.cmp(&right.modified),
                SortTarget::Value => a.found.value.cmp(&b.found.value),
            }
        };
        match order {
            SortOrder::Descend => hits.sort_by(|a, b| compare(b, a)),
            SortOrder::Ascend | SortOrder::None => hits.sort_by(compare),
        }
        Ok(())
    }
}

/// How the answer must be sorted; `None` if it comes in the right order. A target without an order means ascending. Numbers
/// that etcd's enums don't have ask for nothing.
fn sorting(request: &pb::RangeRequest) -> Option<(SortTarget, SortOrder)> {
    let target = SortTarget::try_from(request.sort_target).unwrap_or_default();
    match (target, SortOrder::try_from(request.sort_order).ok()?) {
        (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => None,
        sorting => Some(sorting),
    }
}

fn is_by_value(sorting: Option<(SortTarget, SortOrder)>) -> bool {
    matches!(sorting, Some((SortTarget::Value, _)))
}

fn is_filtered(request: &pb::RangeRequest) -> bool {
    (request.min_mod_revision | request.max_mod_revision | request.min_create_revision | request.max_create_revision)
        != 0
}

fn passes(request: &pb::RangeRequest, version: &Version) -> bool {
    let within = |revision, min, max| (min == 0 || revision >= min) && (max == 0 || revision <= max);
    within(version.modified, request.min_mod_revision, request.max_mod_revision)
        && within(version.created, request.min_create_revision, request.max_create_revision)
}

fn key_value(key: Bytes, version: &Version, value: Bytes) -> KeyValue {
    KeyValue {
        key,
        value,
        create_revision: version.created,
        mod_revision: version.modified,
        version: version.number,
        lease: version.lease,
    }
}
