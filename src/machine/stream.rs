//! A range piece by piece, for answers that nobody wants to hold as a whole.
//!
//! A [`RangeStream`] stands at one revision, chosen when it was opened, and remembers the last key that it told. Each
//! [`RangeStream::step`] collects one piece as any range does (numbers under the lock, values without it) and forgets it
//! once it is handed out; so a stream holds one piece, whatever the range is.
//!
//! The form is etcd's (3.7): pieces in key order, the first of at most ten keys; then twice as many each time, as long as
//! they fit into the size of a piece, and half as many where they don't. Only the last one has a header, `more` and the count
//! of all keys in the range, also of those beyond the limit.
//!
//! A compaction beyond the stream's revision ends it with an error: what was collected before may be told, nothing is left
//! out in silence.
//!
//! Left out: sorting and filters by revision, which etcd refuses as well.

use super::index::KeyRange;
use super::range::{Hit, cost};
use super::state::Found;
use super::{Error, View, header};
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb::KeyValue;
use bytes::Bytes;
use std::ops::ControlFlow;

/// Keys of the first piece.
const FIRST_KEYS: usize = 10;

/// A range that is being read.
#[derive(Debug)]
pub struct RangeStream {
    view: View,
    request: pb::RangeRequest,
    piece_bytes: u64,
    /// The revision that is read at, and the one that the header tells.
    at: i64,
    now: i64,
    /// The last key that was visited.
    after: Option<Box<[u8]>>,
    /// Keys of the next piece.
    keys: usize,
    /// Keys that may still be told.
    left: usize,
    count: i64,
    /// What waits until all keys are counted.
    rest: Option<Vec<KeyValue>>,
}

/// What a step of a stream came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A piece, not the last one.
    Piece(pb::RangeResponse),
    /// Keys beyond the limit were counted, and there are more.
    Counted,
    /// The last piece.
    Last(pb::RangeResponse),
}

impl RangeStream {
    /// Nothing read yet.
    ///
    /// # Errors
    /// Compacted or future revision.
    pub(super) fn open(view: View, request: pb::RangeRequest, piece_bytes: u64) -> Result<RangeStream, Error> {
        let reader = view.reader();
        let (at, now) = (reader.readable(request.revision)?, reader.now);
        let left = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let rest = request.count_only.then(Vec::new);
        let left = if request.count_only { 0 } else { left };
        Ok(RangeStream { view, request, piece_bytes, at, now, after: None, keys: FIRST_KEYS, left, count: 0, rest })
    }

    /// Reads on, by one piece. Not to be called after the last one.
    ///
    /// # Errors
    /// The revision was compacted away meanwhile; the disk.
    pub fn step(&mut self) -> Result<Step, Error> {
        let step = if self.rest.is_some() { Ok(self.count()) } else { self.collect() };
        // Looked at last: what was read before a compaction is whole, what failed because of one has this reason.
        let compacted = self.view.compacted();
        if self.at < compacted.0 { Err(Error::Compacted { compacted }) } else { step }
    }

    fn collect(&mut self) -> Result<Step, Error> {
        let shared = &self.view.0;
        let range = KeyRange::new(&self.request.key, &self.request.range_end);
        let most = self.keys.min(self.left);
        let (mut hits, mut size, mut too_large) = (Vec::new(), 0, false);
        let mut after = self.after.take();
        let ended = loop {
            let slice = shared.walk_slice(range, after.as_deref(), self.at, |state, key, version| {
                let cost = cost(key, version, !self.request.keys_only);
                too_large = size + cost > self.piece_bytes && !hits.is_empty();
                if hits.len() == most || too_large {
                    return ControlFlow::Break(());
                }
                size += cost;
                hits.push(Hit { key: Bytes::copy_from_slice(key), found: Found::new(state, version) });
                ControlFlow::Continue(())
            });
            match slice {
                // There is a key beyond the piece.
                ControlFlow::Break(()) => break false,
                ControlFlow::Continue(None) => break true,
                ControlFlow::Continue(last) => after = last,
            }
        };
        self.count += hits.len() as i64;
        self.left -= hits.len();
        let full = too_large || size > self.piece_bytes;
        self.keys = if full { (hits.len() / 2).max(1) } else { self.keys.saturating_mul(2) };
        self.after = hits.last().map(|hit| Box::from(&*hit.key));
        let kvs = self.view.reader().load(hits, self.request.keys_only)?;
        if ended {
            return Ok(Step::Last(self.last(kvs, false)));
        }
        if self.left > 0 {
            return Ok(Step::Piece(pb::RangeResponse { kvs, ..Default::default() }));
        }
        self.rest = Some(kvs);
        Ok(Step::Counted)
    }

    /// Counts one slice of what lies beyond the limit.
    fn count(&mut self) -> Step {
        let range = KeyRange::new(&self.request.key, &self.request.range_end);
        let mut count = 0;
        let slice = self.view.0.walk_slice(range, self.after.as_deref(), self.at, |_, _, _| {
            count += 1;
            ControlFlow::Continue(())
        });
        self.count += count;
        match slice {
            ControlFlow::Continue(after @ Some(_)) => {
                self.after = after;
                Step::Counted
            }
            _ => {
                let kvs = self.rest.take().unwrap_or_default();
                Step::Last(self.last(kvs, !self.request.count_only))
            }
        }
    }

    fn last(&self, kvs: Vec<KeyValue>, more: bool) -> pb::RangeResponse {
        pb::RangeResponse { header: header(self.now), kvs, more, count: self.count }
    }
}
