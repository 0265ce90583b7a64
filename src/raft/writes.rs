//! What has changed and is not durable yet: dirty, with the disk, done.
//!
//! A change makes the state *dirty*; [`Writes::take`] hands the dirty part to the disk as a numbered write; the disk reports
//! that number back to [`Writes::done`]. Two questions are answered from that alone, for the whole core: which write a message
//! must wait for ([`Writes::of_term`], [`Writes::of_state`]), and how far the log is durable ([`Writes::persisted`]).
//!
//! A write that is on its way remembers the last of its entries that no later truncation has taken back. So when it is done,
//! an entry that was overwritten meanwhile is not counted, not even if the same index came back under the same term (T34).
//!
//! # Invariants
//!
//! Numbers are handed out without gaps and grow; `persisted` is at most the log's end, and names only entries that the disk
//! has and nothing on its way removes.

use super::log::{Log, Slice};
use super::{HardState, Ready};
use crate::ids::{Index, Term, WriteSeq};
use crate::time::Time;
use std::collections::VecDeque;

/// See the module's essay.
#[derive(Clone, Debug)]
pub(super) struct Writes {
    pub hard_dirty: bool,
    pub truncate_from: Option<Index>,
    /// Entries up to this one may go. No message waits for that.
    pub compact_to: Option<Index>,
    /// The first entry that no write has taken.
    pub unstable: Index,
    pub next: WriteSeq,
    pub durable: WriteSeq,
    pub durable_term: Term,
    /// The write that makes the present term durable.
    pub of_term: WriteSeq,
    pub on_its_way: VecDeque<Writing>,
    pub persisted: Index,
}

#[derive(Clone, Debug)]
pub(super) struct Writing {
    pub seq: WriteSeq,
    pub term: Term,
    /// What may be counted as persisted when it is done.
    pub last: Index,
    pub since: Time,
}

impl Writes {
    /// Everything up to `last` and the hard state's `term` are durable.
    pub(super) fn new(last: Index, term: Term) -> Writes {
        Writes {
            hard_dirty: false,
            truncate_from: None,
            compact_to: None,
            unstable: last.next(),
            next: WriteSeq(1),
            durable: WriteSeq(0),
            durable_term: term,
            of_term: WriteSeq(0),
            on_its_way: VecDeque::new(),
            persisted: last,
        }
    }

    /// The vote changed.
    pub(super) fn vote_changed(&mut self) {
        self.hard_dirty = true;
    }

    /// The term changed (and perhaps the vote).
    pub(super) fn term_changed(&mut self) {
        self.hard_dirty = true;
        self.of_term = self.next;
    }

    /// The log was cut: `from` and everything after it is gone from it.
    pub(super) fn truncated(&mut self, from: Index) {
        if from < self.unstable {
            self.truncate_from = Some(self.truncate_from.map_or(from, |t| t.min(from)));
            self.unstable = from;
        }
        self.persisted = self.persisted.min(from.prev());
        for write in &mut self.on_its_way {
            write.last = write.last.min(from.prev());
        }
    }

    /// The log was compacted: what is durable up to `to` is not needed any more.
    pub(super) fn compacted(&mut self, to: Index) {
        assert!(to <= self.persisted, "a compaction at {to}, but only {} is durable", self.persisted);
        self.compact_to = Some(to);
    }

    /// The dirty part, as the next write; `None` if nothing is dirty.
    pub(super) fn take(&mut self, now: Time, hard: HardState, log: &Log) -> Option<Ready> {
        let last = log.last().index;
        if !self.is_dirty(last) && self.compact_to.is_none() {
            return None;
        }
        let entries = match log.slice(self.unstable, usize::MAX) {
            Slice::Entries(entries) => entries,
            Slice::Past => Vec::new(),
            Slice::OnDisk => unreachable!("an entry left the memory before it was written: {}", self.unstable),
        };
        let seq = self.next;
        self.next = seq.next();
        self.unstable = last.next();
        self.on_its_way.push_back(Writing { seq, term: hard.term, last, since: now });
        let hard_state = std::mem::take(&mut self.hard_dirty).then_some(hard);
        let (compact_to, truncate_from) = (self.compact_to.take(), self.truncate_from.take());
        Some(Ready { seq, hard_state, compact_to, truncate_from, entries })
    }

    /// All writes up to `seq` are durable. Says whether that is news: reports may pass each other.
    ///
    /// # Panics
    /// If the write was never handed out.
    pub(super) fn done(&mut self, seq: WriteSeq) -> bool {
        assert!(seq < self.next, "write {seq} was never asked for (next is {})", self.next);
        if seq <= self.durable {
            return false;
        }
        while let Some(write) = self.on_its_way.front().filter(|write| write.seq <= seq) {
            self.persisted = self.persisted.max(write.last);
            self.durable_term = write.term;
            self.on_its_way.pop_front();
        }
        self.durable = seq;
        true
    }

    /// Where the log on the disk must end now; `None` while something is on its way to change that.
    pub(super) fn end_on_disk(&self) -> Option<Index> {
        (self.on_its_way.is_empty() && self.truncate_from.is_none()).then(|| self.unstable.prev())
    }

    /// The write that makes the present term durable.
    pub(super) fn of_term(&self) -> WriteSeq {
        self.of_term
    }

    /// The write that makes all of the present state durable; `last` is the log's end.
    pub(super) fn of_state(&self, last: Index) -> WriteSeq {
        if self.is_dirty(last) { self.next } else { WriteSeq(self.next.0 - 1) }
    }

    /// The newest durable write.
    pub(super) fn durable(&self) -> WriteSeq {
        self.durable
    }

    /// The newest durable term.
    pub(super) fn durable_term(&self) -> Term {
        self.durable_term
    }

    /// How far the log is durable.
    pub(super) fn persisted(&self) -> Index {
        self.persisted
    }

    /// The truncation that the next write will ask for.
    pub(super) fn pending_truncation(&self) -> Option<Index> {
        self.truncate_from
    }

    /// Since when the oldest unfinished write is with the disk.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.on_its_way.front().map(|write| write.since)
    }

    fn is_dirty(&self, last: Index) -> bool {
        self.hard_dirty || self.truncate_from.is_some() || self.unstable <= last
    }
}
